#!/bin/bash
# Runs once, on the primary's first start: the application's, the monitor's and the standby's roles.
set -euo pipefail

# :'name' is quoted by psql, so that a password may hold any character.
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
    -v app="$APP_PASSWORD" -v monitor="$MONITOR_PASSWORD" -v replication="$REPLICATION_PASSWORD" <<'SQL'
CREATE ROLE app LOGIN PASSWORD :'app';
CREATE DATABASE app OWNER app;
CREATE ROLE headgate_monitor LOGIN PASSWORD :'monitor' IN ROLE pg_monitor;
CREATE ROLE replication LOGIN REPLICATION PASSWORD :'replication';
SELECT pg_create_physical_replication_slot('standby');
SQL

# The image's own lines let every database in by password, but not replication.
echo "host replication replication all scram-sha-256" >>"$PGDATA/pg_hba.conf"
