"""
Write proxy/sql/builtins.py from the catalogue of a running PostgreSQL.

    python tools/generate_builtins.py "host=/tmp dbname=postgres user=postgres"

Run it against the newest server version that is supported. Two lists come out:

PLAIN_READ   every overload is immutable or stable, it does not do what a read must not do, and
             it reads no table that the statement's text does not name
STATELESS    volatile, or kept out of PLAIN_READ here, but leaving nothing behind in the session:
             chosen by hand below, and checked against the catalogue

A function in neither list is treated as one of the user's: it may do anything.
"""

import re
import sys
from pathlib import Path

import psycopg

TARGET = Path(__file__).parent.parent / "proxy" / "sql" / "builtins.py"

# Declared stable or immutable, yet not plain reads.
NOT_PLAIN_READS = re.compile(
    r"""
    txid_current | pg_current_xact_id        # they assign a transaction id
    | \w+_to_xml (?:schema|_and_xmlschema)?  # they read tables which the text does not name
    | \w+_validator                          # called by CREATE FUNCTION, never by a client
    | pg_event_trigger_\w+
    """,
    re.VERBOSE,
)
TABLE_TO_XML = re.compile(r"(?:table|schema|database)_to_xml(?:schema|_and_xmlschema)?")

# Volatile and without a trace in the session after the transaction. Not here, on purpose:
# set_config, setseed, session advisory locks, pg_backup_start, replication origins of the session,
# slots (they can be temporary), and what runs SQL given as text (query_to_xml, ts_stat, ts_rewrite).
STATELESS_PATTERNS = re.compile(
    r"""
    array_sample | array_shuffle | clock_timestamp | current_query | timeofday
    | currval | lastval | nextval | setval | pg_sequence_last_value | pg_get_sequence_data
    | gen_random_uuid | uuidv4 | uuidv7 | random | random_normal
    | lo_\w+ | loread | lowrite              # large object descriptors end with the transaction
    | pg_(?:try_)?advisory_xact_lock(?:_shared)?
    | pg_blocking_pids | pg_safe_snapshot_blocking_pids | pg_isolation_test_session_is_blocked
    | pg_cancel_backend | pg_terminate_backend | pg_reload_conf | pg_rotate_logfile | pg_promote
    | pg_control_\w+ | pg_current_\w+ | pg_last_\w+ | pg_lock_status | pg_log_\w+
    | pg_get_(?:wal|shmem|wait|backend|multixact|aios|loaded)\w*
    | pg_is_in_recovery | pg_is_wal_replay_paused | pg_wal_\w+ | pg_available_wal_summaries
    | pg_switch_wal | pg_create_restore_point | pg_export_snapshot | pg_logical_emit_message
    | pg_\w+_size | pg_ls_\w+ | pg_read_file | pg_read_binary_file | pg_stat_\w+
    | pg_show_all_file_settings | pg_hba_file_rules | pg_ident_file_mappings
    | pg_notify | pg_notification_queue_usage | pg_partition_ancestors | pg_partition_tree
    | pg_prepared_xact | pg_xact_\w+ | txid_current | txid_status
    | pg_sleep(?:_for|_until)? | pg_jit_available
    | pg_collation_actual_version | pg_database_collation_actual_version | amvalidate
    | brin_\w+ | gin_clean_pending_list
    """,
    re.VERBOSE,
)

QUERY = """
SELECT n.nspname, p.proname, bool_and(p.provolatile <> 'v')
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('pg_catalog', 'information_schema')
  AND p.prokind IN ('f', 'a', 'w')
  AND p.prorettype::regtype::text NOT IN ('trigger', 'event_trigger', 'internal',
      'language_handler', 'index_am_handler', 'table_am_handler', 'tsm_handler', 'fdw_handler')
  AND NOT 'internal'::regtype = ANY (p.proargtypes)
GROUP BY 1, 2 ORDER BY 1, 2
"""

VOLATILE_UNDER_SYNTAX = """
SELECT 'operator ' || oprname FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode
  WHERE p.provolatile = 'v'
UNION ALL SELECT 'cast to ' || casttarget::regtype FROM pg_cast c JOIN pg_proc p ON p.oid = castfunc
  WHERE p.provolatile = 'v'
UNION ALL SELECT 'type ' || typname FROM pg_type t
  JOIN pg_proc p ON p.oid IN (t.typinput, t.typoutput, t.typmodin) WHERE p.provolatile = 'v'
UNION ALL SELECT 'attribute notation ' || p.proname FROM pg_proc p
  WHERE p.provolatile = 'v' AND p.proname !~ '^pg_' AND p.pronargs - p.pronargdefaults <= 1
    AND (p.proargtypes[0] IN ('record'::regtype, '"any"'::regtype, 'anyelement'::regtype,
         'anynonarray'::regtype, 'anycompatible'::regtype, 'anycompatiblenonarray'::regtype)
      OR p.proargtypes[0] IN (SELECT oid FROM pg_type WHERE typtype = 'c'))
"""

HEADER = '''"""
Names of PostgreSQL's own functions, by what calling one can do. Generated, do not edit.

Made by tools/generate_builtins.py from the catalogue of PostgreSQL {version}. Plain names are
those of pg_catalog; others carry their schema.
"""

from typing import Final
'''

FOOTER = """
# Every overload is immutable or stable, without effects: a plain read.
PLAIN_READ: Final = frozenset(_PLAIN_READ.split())

# Not a plain read, but nothing of it stays in the session after the transaction.
STATELESS: Final = frozenset(_STATELESS.split())
"""


def lines_of(names: list[str]) -> str:
    """Names in lines of at most 100 characters."""
    lines: list[str] = []
    line = ""
    for name in sorted(names):
        if len(line) + 1 + len(name) > 99:
            lines.append(line)
            line = name
        else:
            line = f"{line} {name}" if line else name
    return "\n".join([*lines, line])


def main() -> None:
    """Read the catalogue, write the module."""
    with psycopg.connect(sys.argv[1]) as connection:
        rows = connection.execute(QUERY).fetchall()
        surprises = [row[0] for row in connection.execute(VOLATILE_UNDER_SYNTAX)]
        version = connection.info.server_version // 10000
    if surprises:
        # The classifier relies on it that none of these hides a volatile function.
        raise SystemExit(f"volatile functions that are called by other means: {surprises}")
    plain: list[str] = []
    stateless: list[str] = []
    for schema, name, never_volatile in rows:
        written = name if schema == "pg_catalog" else f"{schema}.{name}"
        if never_volatile and not NOT_PLAIN_READS.fullmatch(name):
            plain.append(written)
        elif STATELESS_PATTERNS.fullmatch(name) or TABLE_TO_XML.fullmatch(name):
            stateless.append(written)
    TARGET.write_text(
        HEADER.format(version=version)
        + f'\n_PLAIN_READ = """\n{lines_of(plain)}\n"""\n'
        + f'\n_STATELESS = """\n{lines_of(stateless)}\n"""\n'
        + FOOTER,
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
