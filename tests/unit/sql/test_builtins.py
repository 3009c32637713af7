"""The generated lists, against a real server's catalogue."""

import psycopg

from proxy.demo.cluster import EmbeddedPostgres
from proxy.sql.builtins import PLAIN_READ, STATELESS

LEAVE_STATE = """
set_config setseed pg_advisory_lock pg_advisory_lock_shared pg_try_advisory_lock
pg_try_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all query_to_xml pg_backup_start
ts_stat ts_rewrite pg_replication_origin_session_setup dblink pg_create_logical_replication_slot
pg_create_physical_replication_slot
"""

ARE_NO_READS = """
nextval setval currval lastval random pg_notify txid_current pg_current_xact_id lo_get lo_unlink
pg_advisory_xact_lock pg_sleep pg_is_in_recovery pg_terminate_backend pg_switch_wal pg_read_file
pg_export_snapshot table_to_xml
"""


def test_lists_do_not_overlap() -> None:
    assert PLAIN_READ.isdisjoint(STATELESS)


def test_no_overload_of_a_plain_read_is_volatile(primary: EmbeddedPostgres) -> None:
    with psycopg.connect(primary.dsn()) as connection:
        rows = connection.execute(
            "SELECT DISTINCT proname FROM pg_proc WHERE provolatile = 'v'"
            " AND pronamespace = 'pg_catalog'::regnamespace"
        ).fetchall()
    assert PLAIN_READ.isdisjoint(name for (name,) in rows)


def test_what_must_not_be_taken_for_harmless() -> None:
    both = PLAIN_READ | STATELESS
    for name in LEAVE_STATE.split():
        assert name not in both, name
    for name in ARE_NO_READS.split():
        assert name not in PLAIN_READ, name
        assert name in STATELESS, name
