#!/bin/bash
# Copies the primary on the first start, then runs as its streaming standby.
set -euo pipefail

export PGPASSWORD="$REPLICATION_PASSWORD"
install -d -m 0700 -o postgres -g postgres "$PGDATA"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    gosu postgres pg_basebackup --pgdata="$PGDATA" --write-recovery-conf --slot=standby \
        --wal-method=stream --checkpoint=fast \
        --dbname="host=primary user=replication application_name=standby"
fi
exec gosu postgres postgres -c hot_standby=on -c hot_standby_feedback=on
