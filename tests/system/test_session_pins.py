"""
Protocol rules 10 and 18 to 20: pins, notifications, prepared statements, and a hostile search_path.

Each proxy here has two connections to the primary, so that a session can be sent to the other one.
"""

from collections.abc import Iterator
from functools import partial

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from proxy.protocol import frontend
from tests.support.sessions import Connection, elsewhere, few_connections, one, setting
from tests.support.system import RunningProxy, wait_until
from tests.support.wire import RawClient, field


@pytest.fixture(scope="module")
def gate(workspace: Workspace, primary: EmbeddedPostgres) -> Iterator[RunningProxy]:
    factory = few_connections(workspace, primary, None, "session-pins")
    yield factory()
    factory.close()


@pytest.fixture(scope="module")
def objects(primary: EmbeddedPostgres) -> None:
    """Roles, schemas and functions for the tests of this file."""
    primary.execute(
        "CREATE ROLE pins_reader;"
        "CREATE SCHEMA pins_a; CREATE SCHEMA pins_b;"
        "GRANT USAGE ON SCHEMA pins_a, pins_b TO PUBLIC;"
        "CREATE TABLE pins_a.t (x int); CREATE TABLE pins_b.t (x text);"
        "GRANT SELECT ON pins_a.t, pins_b.t TO PUBLIC;"
        "INSERT INTO pins_a.t VALUES (1); INSERT INTO pins_b.t VALUES ('b');"
    )


@pytest.fixture
def client(gate: RunningProxy, objects: None) -> Iterator[Connection]:
    with gate.connect() as connection:
        yield connection


def others(gate: RunningProxy) -> list[Connection]:
    """Two clients, one on each server connection for as long as they are in a transaction."""
    found = [gate.connect(autocommit=False) for _ in range(2)]
    assert len({one(each, "SELECT pg_backend_pid()") for each in found}) == 2
    return found


# -- rule 13


def test_rule_13_a_pinned_session_keeps_its_connection(
    gate: RunningProxy, client: Connection, primary: EmbeddedPostgres
) -> None:
    """Another client that waits for one must not get it while a statement is prepared anew."""
    primary.execute("CREATE TABLE pins_changing (a int); INSERT INTO pins_changing VALUES (1)")
    client.execute("CREATE TEMP TABLE pin_t (a int)")
    assert client.execute("SELECT * FROM pins_changing", prepare=True).fetchall() == [(1,)]
    primary.execute("ALTER TABLE pins_changing ADD COLUMN b int DEFAULT 2")
    with gate.connect(autocommit=False) as holder, RawClient(gate.port) as waiting:
        waiting.login()
        holder.execute("SELECT 1")
        waiting.send(frontend.encode_query(b"SELECT count(*) FROM pin_t"))
        wait_until(lambda: gate.metrics().value("headgate_pool_clients_waiting") == 1)
        found = client.execute("SELECT * FROM pins_changing", prepare=True).fetchall()
        assert found == [(1, 2)]
        assert one(client, "SELECT count(*) FROM pin_t") == 0
        holder.rollback()
        # Another connection, on which there is no such table.
        assert [field(body, b"C") for tag, body in waiting.until_ready() if tag == b"E"] == [
            "42P01"
        ]


# -- rule 18


def test_rule_18_only_differences_are_told(gate: RunningProxy, objects: None) -> None:
    """Raw: the ParameterStatus messages that a client gets besides its greeting."""
    with RawClient(gate.port) as first, RawClient(gate.port) as second:
        first.login()
        second.login()
        assert statuses(first.query("SET application_name = 'one'")) == [
            (b"application_name", b"one")
        ]
        assert statuses(first.query("SELECT 1")) == []
        second.query("BEGIN")
        assert statuses(second.query("SELECT 1")) == []
        assert statuses(first.query("SELECT 1")) == []
        assert statuses(second.query("COMMIT")) == []
        assert statuses(first.query("RESET application_name")) != []


def test_rule_18_a_difference_is_told_once(
    gate: RunningProxy, primary: EmbeddedPostgres, objects: None
) -> None:
    """A server whose configuration has changed tells who is there, and not who comes next."""
    with RawClient(gate.port) as first, RawClient(gate.port) as second:
        first.login()
        second.login()
        primary.execute("ALTER SYSTEM SET IntervalStyle = 'iso_8601'")
        try:
            primary.execute("SELECT pg_reload_conf()")
            expected = [(b"IntervalStyle", b"iso_8601")]
            wait_until(lambda: statuses(first.query("SELECT 1")) == expected)
            assert statuses(second.query("SELECT 1")) == expected
            assert statuses(second.query("SELECT 1")) == []
        finally:
            primary.execute("ALTER SYSTEM RESET IntervalStyle")
            primary.execute("SELECT pg_reload_conf()")
        # All connections of the pool have to have heard of it, for the tests behind this.
        for other in others(gate):
            wait_until(partial(is_reset, other, "IntervalStyle"))
            other.close()


def is_reset(connection: Connection, name: str) -> bool:
    """Whether the server process that serves a transaction has its own value of a setting."""
    return bool(
        one(connection, f"SELECT setting = boot_val FROM pg_settings WHERE name = '{name}'")
    )


def statuses(messages: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [tuple(body.split(b"\0")[:2]) for tag, body in messages if tag == b"S"]  # type: ignore[misc]


# -- rule 19


def backends_of(gate: RunningProxy, connection: Connection, times: int = 4) -> set[int]:
    return {one(connection, "SELECT pg_backend_pid()") for _ in range(times)}


def assert_pinned(gate: RunningProxy, connection: Connection) -> None:
    pid = one(connection, "SELECT pg_backend_pid()")
    with gate.connect(autocommit=False) as other:
        assert one(other, "SELECT pg_backend_pid()") != pid
    assert backends_of(gate, connection) == {pid}


def assert_shared(gate: RunningProxy, connection: Connection) -> None:
    with elsewhere(gate, connection) as pid:
        assert one(connection, "SELECT pg_backend_pid()") != pid


PINS = [
    ("CREATE TEMP TABLE pin_t (x int)", "DROP TABLE pin_t"),
    ("CREATE TABLE pg_temp.pin_t (x int)", "DISCARD TEMP"),
    ("SELECT 1 AS x INTO TEMP pin_t", "DROP TABLE pin_t"),
    ("CREATE TEMP VIEW pin_v AS SELECT 1", "DROP VIEW pin_v"),
    ("CREATE FUNCTION pg_temp.pin_f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "DISCARD ALL"),
    ("CREATE TYPE pg_temp.pin_e AS ENUM ('a')", "DROP TYPE pg_temp.pin_e"),
    ("BEGIN; DECLARE pin_c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "CLOSE pin_c"),
    ("SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)"),
    ("SELECT pg_try_advisory_lock_shared(7, 8)", "SELECT pg_advisory_unlock_all()"),
    ("LISTEN pin_l", "UNLISTEN pin_l"),
    ("LISTEN pin_l", "UNLISTEN *"),
    ("LISTEN pin_l", "DISCARD ALL"),
    ("PREPARE pin_p AS SELECT 1", "DEALLOCATE pin_p"),
    ("PREPARE pin_p AS SELECT 1", "DEALLOCATE ALL"),
    ("BEGIN; CREATE TEMP TABLE pin_t (x int); COMMIT", "BEGIN; DROP TABLE pin_t; COMMIT"),
]


@pytest.mark.parametrize(("cause", "end"), PINS)
def test_rule_19_pins_and_unpins_with_the_cause(
    gate: RunningProxy, client: Connection, cause: str, end: str
) -> None:
    client.execute(cause)
    assert_pinned(gate, client)
    client.execute(end)
    assert_shared(gate, client)


@pytest.mark.parametrize(
    ("cause", "end", "reason"),
    [
        ("CREATE TEMP TABLE pin_t (x int)", "DROP TABLE pin_t", "temporary table"),
        ("DECLARE pin_c CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL", "cursor WITH HOLD"),
        ("SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)", "advisory lock"),
        ("LISTEN pin_l", "UNLISTEN *", "LISTEN"),
        ("PREPARE pin_p AS SELECT 1", "DEALLOCATE pin_p", "PREPARE"),
        ("SET SESSION AUTHORIZATION pins_reader", "RESET SESSION AUTHORIZATION",
         "SESSION AUTHORIZATION"),
        ("LOAD 'plpgsql'", "", "LOAD"),
    ],
)  # fmt: skip
def test_rule_19_a_pin_is_shown_with_its_reason(
    gate: RunningProxy, client: Connection, cause: str, end: str, reason: str
) -> None:
    def shown() -> list[str]:
        rows = gate.api("GET", "/api/clients")[1]["clients"]
        return [reason for row in rows for reason in row["pins"]]

    client.execute(cause)
    wait_until(lambda: shown() == [reason])
    client.execute(end or "SELECT 1")
    wait_until(lambda: shown() == ([] if end else [reason]))


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN; CREATE TEMP TABLE pin_t (x int) ON COMMIT DROP; COMMIT",
        "BEGIN; CREATE TEMP TABLE pin_t (x int); ROLLBACK",
        "BEGIN; LISTEN pin_l; ROLLBACK",
        "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT",
        "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)",
        "BEGIN; DECLARE pin_c CURSOR FOR SELECT 1; COMMIT",
    ],
)
def test_rule_19_what_left_nothing_pins_nothing(
    gate: RunningProxy, client: Connection, sql: str
) -> None:
    client.execute(sql)
    assert_shared(gate, client)


def test_rule_19_session_authorization_pins(gate: RunningProxy, client: Connection) -> None:
    client.execute("SET SESSION AUTHORIZATION pins_reader")
    assert_pinned(gate, client)
    assert one(client, "SELECT session_user") == "pins_reader"
    client.execute("RESET SESSION AUTHORIZATION")
    assert_shared(gate, client)


def test_rule_19_load_pins_to_the_end_and_its_server_process_goes_with_it(
    gate: RunningProxy, primary: EmbeddedPostgres, objects: None
) -> None:
    with gate.connect() as client:
        with pytest.raises(psycopg.Error):
            client.execute("LOAD 'no_such_library'")
        assert_shared(gate, client)
        client.execute("LOAD 'plpgsql'")
        assert_pinned(gate, client)
        client.execute("DISCARD ALL")
        assert_pinned(gate, client)
        pid = one(client, "SELECT pg_backend_pid()")
    with psycopg.connect(primary.dsn(), autocommit=True) as direct:
        wait_until(
            lambda: not one(direct, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid)
        )


def test_rule_19_a_pinned_clients_place_is_free_when_it_leaves(
    gate: RunningProxy, objects: None
) -> None:
    for _ in range(6):
        with gate.connect() as client:
            client.execute("CREATE TEMP TABLE pin_t (x int); LISTEN pin_l")
            client.execute("SELECT pg_advisory_lock(77)")
    for other in others(gate):
        assert one(other, "SELECT pg_try_advisory_lock(77)") in (True, False)
        assert one(other, "SELECT to_regclass('pin_t')") is None
        assert one(other, "SELECT count(*) FROM pg_listening_channels()") == 0
        other.close()


def test_rule_19_notifications_reach_the_listener_and_nobody_else(
    gate: RunningProxy, client: Connection
) -> None:
    client.execute("LISTEN news")
    with gate.connect(autocommit=False) as speaker, gate.connect() as other:
        speaker.execute("NOTIFY news, 'one'")
        speaker.execute("SELECT pg_notify('news', 'two')")
        assert list(client.notifies(timeout=0.2)) == []
        speaker.commit()
        got = [each.payload for each in client.notifies(timeout=5, stop_after=2)]
        assert got == ["one", "two"]
        speaker.execute("NOTIFY news, 'never'")
        speaker.rollback()
        assert one(other, "SELECT 1") == 1
        assert list(other.notifies(timeout=0.1)) == []
    client.execute("UNLISTEN *")
    with gate.connect() as speaker:
        speaker.execute("NOTIFY news, 'late'")
    assert list(client.notifies(timeout=0.2)) == []


def test_rule_19_a_notification_names_the_client_that_has_notified(
    gate: RunningProxy, client: Connection, primary: EmbeddedPostgres
) -> None:
    """By the process id that it was given at its login, as drivers compare it."""
    client.execute("LISTEN who")
    at_server = f"host=127.0.0.1 port={primary.port} user=postgres dbname=postgres"
    with (
        gate.connect() as first,
        gate.connect() as second,
        psycopg.connect(at_server, autocommit=True) as direct,
    ):
        for speaker in (first, client, second, direct, first):
            speaker.execute("NOTIFY who")
            got = [each.pid for each in client.notifies(timeout=5, stop_after=1)]
            assert got == [speaker.info.backend_pid]
    client.execute("UNLISTEN *")


def test_rule_19_listen_is_transactional(gate: RunningProxy, client: Connection) -> None:
    client.execute("BEGIN; LISTEN kept; COMMIT")
    client.execute("BEGIN; LISTEN dropped; ROLLBACK")
    with gate.connect() as speaker:
        speaker.execute("NOTIFY dropped")
        speaker.execute("NOTIFY kept")
    assert [each.channel for each in client.notifies(timeout=5, stop_after=1)] == ["kept"]


# -- rule 10


def test_rule_10_prepared_statements_depend_on_search_path(
    gate: RunningProxy, objects: None
) -> None:
    with gate.connect() as first, gate.connect() as second:
        first.execute("SET search_path = pins_a")
        second.execute("SET search_path = pins_b")
        for _ in range(4):
            assert first.execute("SELECT x FROM t", prepare=True).fetchall() == [(1,)]
            assert second.execute("SELECT x FROM t", prepare=True).fetchall() == [("b",)]
        with elsewhere(gate, first):
            assert first.execute("SELECT x FROM t", prepare=True).fetchall() == [(1,)]
            assert second.execute("SELECT x FROM t", prepare=True).fetchall() == [("b",)]


def test_rule_10_a_path_for_one_transaction_spoils_no_shared_statement(
    gate: RunningProxy, objects: None
) -> None:
    with gate.connect() as first, gate.connect() as second:
        for connection in (first, second):
            connection.execute("SET search_path = pins_a")
        for _ in range(3):
            with first.transaction():
                first.execute("SET LOCAL search_path = pins_b")
                assert first.execute("SELECT x FROM t AS q", prepare=True).fetchall() == [("b",)]
            assert second.execute("SELECT x FROM t AS q", prepare=True).fetchall() == [(1,)]
            with second.transaction():
                assert second.execute("SELECT x FROM t AS q", prepare=True).fetchall() == [(1,)]


def test_rule_10_prepared_statements_and_roles(gate: RunningProxy, objects: None) -> None:
    with gate.connect() as first, gate.connect() as second:
        first.execute("SET ROLE pins_reader")
        for _ in range(4):
            assert first.execute("SELECT current_user", prepare=True).fetchall() == [
                ("pins_reader",)
            ]
            assert second.execute("SELECT current_user", prepare=True).fetchall() == [("postgres",)]


# -- a hostile search_path


def test_rule_20_a_hostile_search_path_does_not_fool_the_look(
    gate: RunningProxy, primary: EmbeddedPostgres, objects: None
) -> None:
    primary.execute(
        "CREATE SCHEMA evil;"
        "CREATE FUNCTION evil.never(name, name) RETURNS bool LANGUAGE sql AS 'SELECT false';"
        "CREATE FUNCTION evil.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';"
        "CREATE FUNCTION evil.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';"
        "CREATE FUNCTION evil.never(int, int) RETURNS bool LANGUAGE sql AS 'SELECT false';"
        "CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = name, RIGHTARG = name);"
        "CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = text, RIGHTARG = text);"
        "CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = oid, RIGHTARG = oid);"
        "CREATE OPERATOR evil.= (FUNCTION = evil.never, LEFTARG = int, RIGHTARG = int);"
        "CREATE OPERATOR evil.<> (FUNCTION = evil.never, LEFTARG = text, RIGHTARG = text);"
        "CREATE OPERATOR evil.~ (FUNCTION = evil.never, LEFTARG = text, RIGHTARG = text);"
        "CREATE VIEW evil.pg_settings AS SELECT ''::text AS name, ''::text AS setting,"
        " ''::text AS source WHERE false;"
        "CREATE VIEW evil.pg_locks AS SELECT 1 AS pid WHERE false;"
        "CREATE VIEW evil.pg_class AS SELECT 1 AS oid WHERE false;"
        "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS 'SELECT ''''';"
        "CREATE FUNCTION evil.set_config(text, text, bool) RETURNS text LANGUAGE sql"
        " AS 'SELECT $2';"
        "CREATE FUNCTION evil.pg_backend_pid() RETURNS int LANGUAGE sql AS 'SELECT 0'"
    )
    with gate.connect() as client:
        client.execute("SET search_path = evil, pg_catalog")
        client.execute("SET work_mem = '9MB'")
        client.execute("SELECT pg_catalog.pg_advisory_lock(99)")
        pid = one(client, "SELECT pg_catalog.pg_backend_pid()")
        with gate.connect(autocommit=False) as other:
            assert one(other, "SELECT pg_backend_pid()") != pid, "the lock must pin"
        client.execute("SELECT pg_catalog.pg_advisory_unlock(99)")
        with gate.connect(autocommit=False) as other, gate.connect(autocommit=False) as more:
            for each in (other, more):
                assert setting(each, "work_mem") == "4MB"
                assert setting(each, "search_path") == '"$user", public'
        assert one(client, "SELECT pg_catalog.current_setting('work_mem')") == "9MB"
