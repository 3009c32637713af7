"""
Protocol rules 15 to 17: a client's settings follow it over server connections, and nobody else.

Each proxy here has two connections to the primary, so that a session can be sent to the other one.
"""

from collections.abc import Iterator

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.sessions import Connection, elsewhere, few_connections, one, setting
from tests.support.system import RunningProxy


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
    # Connections on which the last client has left another encoding.
    for other in others(gate):
        other.execute(f"SET client_encoding = '{encoding}'")
        other.commit()
        other.close()
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
