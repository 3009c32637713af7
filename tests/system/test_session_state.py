"""
Protocol rules 15 to 19: a client's settings follow it over server connections, and nobody else.

Each proxy here has two connections to the primary, so that a session can be sent to the other one.
"""

from collections.abc import Iterator

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.sessions import Connection, elsewhere, few_connections, one, setting
from tests.support.system import RunningProxy, wait_until


@pytest.fixture(scope="module")
def gate(workspace: Workspace, primary: EmbeddedPostgres) -> Iterator[RunningProxy]:
    factory = few_connections(workspace, primary, None, "session-state")
    yield factory()
    factory.close()


@pytest.fixture(scope="module")
def objects(primary: EmbeddedPostgres) -> None:
    """Roles, schemas and functions for the tests of this file."""
    primary.execute(
        "CREATE ROLE state_reader; CREATE ROLE state_owner LOGIN;"
        "GRANT state_reader TO state_owner;"
        "ALTER ROLE state_owner SET work_mem = '7MB';"
        "CREATE SCHEMA path_a; CREATE SCHEMA path_b;"
        "GRANT USAGE ON SCHEMA path_a, path_b TO PUBLIC;"
        "CREATE TABLE path_a.t (x int); CREATE TABLE path_b.t (x text);"
        "GRANT SELECT ON path_a.t, path_b.t TO PUBLIC;"
        "INSERT INTO path_a.t VALUES (1); INSERT INTO path_b.t VALUES ('b');"
        "CREATE FUNCTION set_tenant(text) RETURNS text LANGUAGE sql"
        " AS $$SELECT set_config('tenant.name', $1, false)$$;"
        "CREATE FUNCTION set_any(text, text) RETURNS text LANGUAGE sql"
        " AS $$SELECT set_config($1, $2, false)$$"
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


def assert_unseen(gate: RunningProxy, name: str, value: str | None) -> None:
    """No other client finds a setting at any value but the given one."""
    for other in others(gate):
        assert setting(other, name) in (value, value or "")
        other.close()


# -- rule 15


@pytest.mark.parametrize(
    "sql",
    [
        "SET work_mem = '9MB'",
        "SET SESSION work_mem TO 9216",
        "SELECT set_config('work_mem', '9MB', false)",
        "SELECT set_config('work_' || 'mem', '9MB', false)",
        "DO $$BEGIN SET work_mem = '9MB'; END$$",
        "UPDATE pg_settings SET setting = '9216' WHERE name = 'work_mem'",
        "SELECT set_any('work_mem', '9MB')",
        "BEGIN; SET work_mem = '9MB'; COMMIT",
        "BEGIN; SAVEPOINT s; SET work_mem = '9MB'; RELEASE s; COMMIT",
        "BEGIN; SET work_mem = '9MB'; SAVEPOINT s; SET work_mem = '1MB'; ROLLBACK TO s; COMMIT",
        "SET LOCAL work_mem = '1MB'; SET work_mem = '9MB'",
    ],
)
def test_rule_15_what_is_set_follows_the_client(
    gate: RunningProxy, client: Connection, sql: str
) -> None:
    client.execute(sql)
    with elsewhere(gate, client):
        assert setting(client, "work_mem") == "9MB"
    assert setting(client, "work_mem") == "9MB"
    assert_unseen(gate, "work_mem", "4MB")


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN; SET LOCAL work_mem = '9MB'; COMMIT",
        "SELECT set_config('work_mem', '9MB', true)",
        "BEGIN; SET work_mem = '9MB'; ROLLBACK",
        "BEGIN; SAVEPOINT s; SET work_mem = '9MB'; ROLLBACK TO s; COMMIT",
        "BEGIN; SET work_mem = '9MB'; SET LOCAL work_mem = '8MB'; ROLLBACK",
        "SET work_mem = '9MB'; RESET work_mem",
        "SET work_mem = '9MB'; SET work_mem TO DEFAULT",
        "SET work_mem = '9MB'; RESET ALL",
    ],
)
def test_rule_15_what_is_undone_is_gone_everywhere(
    gate: RunningProxy, client: Connection, sql: str
) -> None:
    client.execute(sql)
    with elsewhere(gate, client):
        assert setting(client, "work_mem") == "4MB"
    assert setting(client, "work_mem") == "4MB"


def test_rule_15_a_failed_text_sets_nothing(gate: RunningProxy, client: Connection) -> None:
    client.execute("SET work_mem = '9MB'")
    with pytest.raises(psycopg.errors.DivisionByZero):
        client.execute("SET work_mem = '8MB'; SELECT 1/0")
    with pytest.raises(psycopg.errors.DivisionByZero):
        client.execute("RESET work_mem; SELECT 1/0")
    with elsewhere(gate, client):
        assert setting(client, "work_mem") == "9MB"


@pytest.mark.parametrize(
    "sql",
    [
        "SET tenant.name = 'alice'",
        "SET SESSION \"Tenant\".name TO 'alice'",
        "SELECT set_config('tenant.name', 'alice', false)",
        "DO $$BEGIN PERFORM set_config('tenant.name', 'alice', false); END$$",
        "SELECT set_tenant('alice')",
        "BEGIN; SET tenant.name = 'alice'; COMMIT",
    ],
)
def test_rule_15_custom_settings_follow_the_client(
    gate: RunningProxy, client: Connection, sql: str
) -> None:
    """No catalogue shows them: their names are known from texts and functions only."""
    client.execute(sql)
    with elsewhere(gate, client):
        assert setting(client, "tenant.name") == "alice"
    assert_unseen(gate, "tenant.name", None)
    client.execute("RESET tenant.name")
    assert setting(client, "tenant.name") == ""
    with elsewhere(gate, client):
        assert setting(client, "tenant.name") == ""


def test_rule_15_custom_settings_of_unknown_names_never_reach_another(
    gate: RunningProxy, client: Connection
) -> None:
    for number in range(5):
        client.execute("SELECT set_any(%s, 'secret')", ("hidden.name" + str(number),))
        client.execute(f"DO $$BEGIN EXECUTE 'SET hidden.' || 'more{number} = 1'; END$$")
    for other in others(gate):
        for number in range(5):
            assert not setting(other, f"hidden.name{number}")
            assert not setting(other, f"hidden.more{number}")
        other.close()


def test_rule_15_what_a_function_has_set_is_not_forgotten_at_the_next_look(
    gate: RunningProxy, client: Connection
) -> None:
    client.execute("SELECT set_tenant('alice')")
    with elsewhere(gate, client):
        client.execute("SET work_mem = '9MB'")
        assert setting(client, "tenant.name") == "alice"
    client.execute("SET work_mem = '8MB'")
    assert setting(client, "tenant.name") == "alice"
    assert_unseen(gate, "tenant.name", None)


def test_rule_15_the_extended_protocol_and_parameters(
    gate: RunningProxy, client: Connection
) -> None:
    client.execute("SELECT set_config(%s, %s, false)", ("work_mem", "9MB"))
    client.execute("SELECT set_config('tenant.name', %s, false)", ("bob",))
    with elsewhere(gate, client):
        assert setting(client, "work_mem") == "9MB"
        assert setting(client, "tenant.name") == "bob"


def test_rule_15_a_setting_that_cancels_the_look_is_learned_all_the_same(
    gate: RunningProxy, client: Connection
) -> None:
    client.execute("SET work_mem = '9MB'; SET statement_timeout = 1")
    with elsewhere(gate, client):
        client.execute("SET statement_timeout = 0")
        assert setting(client, "work_mem") == "9MB"


def test_rule_15_the_defaults_of_a_role_are_its_sessions(gate: RunningProxy, objects: None) -> None:
    with gate.connect(user="state_owner") as owner:
        assert setting(owner, "work_mem") == "7MB"
        owner.execute("SET work_mem = '9MB'")
        with elsewhere_of(gate, owner, "state_owner"):
            assert setting(owner, "work_mem") == "9MB"
        owner.execute("RESET work_mem")
        assert setting(owner, "work_mem") == "7MB"


def elsewhere_of(gate: RunningProxy, connection: Connection, user: str):
    class Named:
        """The proxy, as this user."""

        def connect(self, **more):
            return gate.connect(user=user, **more)

    return elsewhere(Named(), connection)  # type: ignore[arg-type]


def test_rule_15_roles(gate: RunningProxy, objects: None) -> None:
    with gate.connect(user="state_owner") as owner:
        owner.execute("SET ROLE state_reader")
        with elsewhere_of(gate, owner, "state_owner"):
            assert one(owner, "SELECT current_user") == "state_reader"
        with gate.connect(user="state_owner") as other:
            assert one(other, "SELECT current_user") == "state_owner"
            assert one(other, "SELECT session_user") == "state_owner"
        owner.execute("RESET ROLE")
        with elsewhere_of(gate, owner, "state_owner"):
            assert one(owner, "SELECT current_user") == "state_owner"


def test_rule_15_session_authorization_pins(gate: RunningProxy, client: Connection) -> None:
    client.execute("SET SESSION AUTHORIZATION state_reader")
    assert_pinned(gate, client)
    assert one(client, "SELECT session_user") == "state_reader"
    client.execute("RESET SESSION AUTHORIZATION")
    assert_shared(gate, client)


# -- rule 16


def test_rule_16_reset_returns_to_the_startup_values(gate: RunningProxy, objects: None) -> None:
    with gate.connect(
        application_name="mine", options="-c work_mem=5MB -c statement_timeout=60s"
    ) as client:
        assert setting(client, "work_mem") == "5MB"
        client.execute("SET work_mem = '9MB'; SET application_name = 'other'")
        client.execute("RESET work_mem")
        client.execute("RESET application_name")
        assert setting(client, "work_mem") == "5MB"
        assert setting(client, "application_name") == "mine"
        assert client.info.parameter_status("application_name") == "mine"
        for sql in ("RESET ALL", "DISCARD ALL", "SET work_mem TO DEFAULT"):
            client.execute("SET work_mem = '9MB'")
            client.execute(sql)
            assert setting(client, "work_mem") == "5MB", sql
            assert setting(client, "statement_timeout") == "1min", sql
            with elsewhere(gate, client):
                assert setting(client, "work_mem") == "5MB", sql


def test_rule_16_reset_inside_a_transaction(gate: RunningProxy, objects: None) -> None:
    with gate.connect(options="-c work_mem=5MB") as client:
        client.execute("BEGIN")
        client.execute("SET work_mem = '9MB'")
        client.execute("SAVEPOINT s")
        client.execute("RESET work_mem")
        assert setting(client, "work_mem") == "5MB"
        client.execute("ROLLBACK TO s")
        assert setting(client, "work_mem") == "9MB"
        client.execute("RESET ALL")
        assert setting(client, "work_mem") == "5MB"
        client.execute("ROLLBACK")
        assert setting(client, "work_mem") == "5MB"
        client.execute("BEGIN; SET work_mem = '9MB'; COMMIT")
        client.execute("BEGIN")
        client.execute("RESET work_mem; SET work_mem = '8MB'")
        assert setting(client, "work_mem") == "8MB"
        client.execute("ROLLBACK")
        assert setting(client, "work_mem") == "9MB"


def test_rule_16_reset_while_pinned(gate: RunningProxy, objects: None) -> None:
    with gate.connect(options="-c work_mem=5MB") as client:
        client.execute("CREATE TEMP TABLE pinned (x int)")
        client.execute("SET work_mem = '9MB'")
        client.execute("RESET work_mem")
        assert setting(client, "work_mem") == "5MB"


def test_rule_16_session_pooling_too(
    workspace: Workspace, primary: EmbeddedPostgres, objects: None
) -> None:
    factory = few_connections(workspace, primary, None, "session-mode")
    try:
        gate = factory(pool={"mode": "session", "size": 1})
        with gate.connect(options="-c work_mem=5MB") as client:
            client.execute("SET work_mem = '9MB'")
            client.execute("SET tenant.name = 'alice'")
            with pytest.raises(psycopg.errors.DivisionByZero):
                client.execute("RESET work_mem; SELECT 1/0")
            assert setting(client, "work_mem") == "9MB"
            client.execute("RESET work_mem")
            assert setting(client, "work_mem") == "5MB"
            client.execute("DISCARD ALL")
            assert setting(client, "work_mem") == "5MB"
        with gate.connect() as client:
            assert setting(client, "work_mem") == "4MB"
            assert not setting(client, "tenant.name")
    finally:
        factory.close()


# -- rule 17


@pytest.mark.parametrize(
    "value",
    [
        "it's",
        'say "hi"',
        "back\\slash",
        "\\' OR 1=1; --",
        "'); SELECT pg_sleep(5); --",
        "Grüße, 世界",
        "$$dollar$$",
        "tab\tand\nline",
        " ",
    ],
)
def test_rule_17_replayed_values_are_quoted(
    gate: RunningProxy, client: Connection, value: str
) -> None:
    client.execute("SELECT set_config('tenant.name', %s, false)", (value,))
    client.execute("SELECT set_config('search_path', %s, false)", ('"' + "$user" + '", public',))
    with elsewhere(gate, client):
        assert setting(client, "tenant.name") == value
        client.execute("SET standard_conforming_strings = off")
    with elsewhere(gate, client):
        assert setting(client, "tenant.name") == value
    client.execute("RESET standard_conforming_strings")


@pytest.mark.parametrize("encoding", ["LATIN1", "SJIS", "EUC_JP", "WIN1252"])
def test_rule_17_values_are_the_same_in_every_client_encoding(
    gate: RunningProxy, client: Connection, encoding: str
) -> None:
    client.execute("SELECT set_config('tenant.name', %s, false)", ("表\\'é",))
    client.execute(f"SET client_encoding = '{encoding}'")
    with elsewhere(gate, client):
        client.execute("SET client_encoding = 'UTF8'")
        assert setting(client, "tenant.name") == "表\\'é"


def test_rule_17_startup_values_are_quoted(gate: RunningProxy, objects: None) -> None:
    nasty = "x'; DROP TABLE path_a.t; --\\"
    with gate.connect(application_name=nasty) as client:
        assert setting(client, "application_name") == nasty
        with elsewhere(gate, client):
            assert setting(client, "application_name") == nasty


def test_rule_17_a_setting_that_the_server_refuses_is_the_clients_own_error(
    gate: RunningProxy, objects: None
) -> None:
    with pytest.raises(psycopg.OperationalError, match="unrecognized configuration parameter"):
        gate.connect(options="-c no_such_setting=1")
    with pytest.raises(psycopg.OperationalError, match="invalid value"):
        gate.connect(options="-c work_mem=many")
    with gate.connect() as client:
        assert one(client, "SELECT 1") == 1


# -- rule 18


def test_rule_18_only_differences_are_told(gate: RunningProxy, objects: None) -> None:
    """Raw: the ParameterStatus messages that a client gets besides its greeting."""
    from tests.support.wire import RawClient

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
        first.execute("SET search_path = path_a")
        second.execute("SET search_path = path_b")
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
            connection.execute("SET search_path = path_a")
        for _ in range(3):
            with first.transaction():
                first.execute("SET LOCAL search_path = path_b")
                assert first.execute("SELECT x FROM t AS q", prepare=True).fetchall() == [("b",)]
            assert second.execute("SELECT x FROM t AS q", prepare=True).fetchall() == [(1,)]
            with second.transaction():
                assert second.execute("SELECT x FROM t AS q", prepare=True).fetchall() == [(1,)]


def test_rule_10_prepared_statements_and_roles(gate: RunningProxy, objects: None) -> None:
    with gate.connect() as first, gate.connect() as second:
        first.execute("SET ROLE state_reader")
        for _ in range(4):
            assert first.execute("SELECT current_user", prepare=True).fetchall() == [
                ("state_reader",)
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
