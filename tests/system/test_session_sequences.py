"""
Protocol rule 20, of sequences: currval and lastval give a client's own values, or PostgreSQL's 55000.

Each proxy here has two connections to the primary. `stained` leaves another client's values on both.
"""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from proxy.protocol import frontend
from tests.support.sessions import Connection, few_connections, one
from tests.support.system import RunningProxy
from tests.support.wire import RawClient, field

SEQUENCES = ("seq_one", "seq_two")


@pytest.fixture(scope="module")
def gate(workspace: Workspace, primary: EmbeddedPostgres) -> Iterator[RunningProxy]:
    primary.execute(
        "CREATE SEQUENCE seq_one; CREATE SEQUENCE seq_two START 1000;"
        "CREATE TABLE seq_serial (id serial, x int); CREATE TABLE seq_plain (x int);"
        "CREATE FUNCTION seq_next() RETURNS bigint LANGUAGE sql AS 'SELECT nextval(''seq_one'')'"
    )
    users = {"console_users": ["postgres"]}
    factory = few_connections(workspace, primary, None, "session-sequences", admin=users)
    yield factory()
    factory.close()


@pytest.fixture
def stained(gate: RunningProxy) -> None:
    """Both server connections know sequences of clients that have left."""
    clients = [gate.connect(autocommit=False) for _ in range(2)]
    for client in clients:
        client.execute("SELECT nextval('seq_one'), nextval('seq_two')")
        client.execute("INSERT INTO seq_serial (x) VALUES (1)")
    for client in clients:
        client.rollback()
        client.close()


@pytest.fixture
def client(gate: RunningProxy, stained: None) -> Iterator[Connection]:
    with gate.connect() as connection:
        yield connection


def pinned(gate: RunningProxy, client: Connection) -> list[str]:
    """SHOW PINS, once the proxy has looked at what the client's last statement left behind."""
    client.execute("SELECT 1")
    with gate.connect(dbname="headgate") as console:
        return [str(row) for row in console.execute("SHOW PINS").fetchall()]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT currval('seq_one')",
        "SELECT lastval()",
        "SELECT lastval() FROM seq_plain RIGHT JOIN (SELECT 1) AS a ON true",
        "SELECT currval(pg_get_serial_sequence('seq_serial', 'id'))",
        "SELECT currval('seq_' || 'one')",
        "EXPLAIN ANALYZE SELECT lastval()",
        "DECLARE c CURSOR WITH HOLD FOR SELECT lastval()",
        "BEGIN; SELECT lastval()",
        "INSERT INTO seq_plain VALUES (1); SELECT lastval()",
        "SELECT ('seq_one'::regclass).currval",
    ],
)
def test_rule_20_no_value_of_another_client(client: Connection, sql: str) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        client.execute(sql)


@pytest.mark.parametrize(
    ("read", "values"), [("SELECT currval('seq_one')", None), ("SELECT currval(%s)", ["seq_one"])]
)
def test_rule_20_none_of_anothers_in_a_transaction_that_has_its_own(
    client: Connection, read: str, values: list[str] | None
) -> None:
    with client.transaction():
        client.execute("SELECT nextval('seq_two')")
        client.execute("SAVEPOINT s")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            client.execute(read, values)
        client.execute("ROLLBACK TO s")


def test_rule_20_none_by_a_statement_that_was_prepared(client: Connection) -> None:
    client.execute("BEGIN; PREPARE seq_p AS SELECT lastval()")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        client.execute("EXECUTE seq_p")


def test_rule_20_none_by_a_function_call(gate: RunningProxy, stained: None) -> None:
    with RawClient(gate.port) as raw:
        raw.login()
        raw.send(frontend.FunctionCall(2559, [], [], 0).encode())
        assert [field(body, b"C") for tag, body in raw.until_ready() if tag == b"E"] == ["55000"]


def test_rule_20_none_behind_a_flush(gate: RunningProxy, stained: None) -> None:
    """As drivers prepare: Parse and Flush, then Bind in the same group."""
    insert = frontend.Parse(b"", b"INSERT INTO seq_plain VALUES (1)", []).encode()
    read = frontend.Parse(b"", b"SELECT lastval()", []).encode()
    run = frontend.Bind(b"", b"", [], [], []).encode() + frontend.Execute(b"", 0).encode()
    for before in (b"", insert + run + frontend.FLUSH):
        with RawClient(gate.port) as raw:
            raw.login()
            raw.send(before + read + frontend.FLUSH)
            raw.send(run + frontend.SYNC)
            codes = [field(body, b"C") for tag, body in raw.until_ready() if tag == b"E"]
            assert codes == ["55000"]


@pytest.mark.parametrize(
    ("write", "read"),
    [
        ("SELECT nextval('seq_one')", "SELECT currval('seq_one')"),
        ("SELECT nextval('seq_one')", "SELECT currval('public.seq_one'::regclass)"),
        ("SELECT nextval('seq_one')", "SELECT lastval()"),
        ("SELECT seq_next()", "SELECT currval('seq_one')"),
        ("INSERT INTO seq_serial (x) VALUES (1) RETURNING id", "SELECT lastval()"),
        (
            "INSERT INTO seq_serial (x) VALUES (1) RETURNING id",
            "SELECT currval(pg_get_serial_sequence('seq_serial', 'id'))",
        ),
        (
            "INSERT INTO seq_serial (x) VALUES (1) RETURNING id",
            "SELECT currval('seq_serial_id_seq')",
        ),
    ],
)
@pytest.mark.parametrize("prepare", [False, True])
def test_own_value_in_a_transaction_without_a_pin(
    gate: RunningProxy, client: Connection, write: str, read: str, prepare: bool
) -> None:
    with client.transaction():
        value = one(client, write)
        assert client.execute(read, prepare=prepare).fetchone() == (value,)
        assert client.execute(read, prepare=prepare).fetchone() == (value,)
    assert not pinned(gate, client)


def test_own_value_by_a_parameter(gate: RunningProxy, client: Connection) -> None:
    with client.transaction():
        value = one(client, "SELECT nextval('seq_one')")
        assert one(client, "SELECT currval(%s::text::regclass)", "seq_one") == value
    assert not pinned(gate, client)


def test_own_value_in_one_text(gate: RunningProxy, client: Connection) -> None:
    cursor: psycopg.Cursor[Any] = client.execute("SELECT nextval('seq_one'); SELECT lastval()")
    value = cursor.fetchone()
    assert cursor.nextset()
    assert cursor.fetchone() == value
    assert not pinned(gate, client)


@pytest.mark.parametrize("read", ["SELECT currval('seq_one')", "SELECT lastval()"])
def test_own_value_outside_a_transaction(gate: RunningProxy, client: Connection, read: str) -> None:
    value = one(client, "SELECT nextval('seq_one')")
    assert not pinned(gate, client)
    with gate.connect() as other:
        other.execute("INSERT INTO seq_serial (x) VALUES (1)")
    assert one(client, read) == value
    assert one(client, read) == value


def test_who_reads_keeps_its_connection_until_it_discards(
    gate: RunningProxy, client: Connection
) -> None:
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        client.execute("SELECT lastval()")
    assert len(pinned(gate, client)) == 1
    assert "sequence" in pinned(gate, client)[0]
    for _ in range(20):
        value = one(client, "INSERT INTO seq_serial (x) VALUES (1) RETURNING id")
        with gate.connect() as other:
            other.execute("INSERT INTO seq_serial (x) VALUES (1)")
        assert one(client, "SELECT lastval()") == value
    client.execute("DISCARD SEQUENCES")
    assert not pinned(gate, client)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        client.execute("SELECT lastval()")
    client.execute("DISCARD ALL")
    assert not pinned(gate, client)


def test_who_only_calls_nextval_is_not_pinned(gate: RunningProxy, client: Connection) -> None:
    pids: set[int] = set()
    for _ in range(20):
        client.execute("SELECT nextval('seq_one')")
        assert not pinned(gate, client)
        with gate.connect(autocommit=False) as holder:
            pids.add(one(holder, "SELECT pg_backend_pid()"))
            client.execute("SELECT nextval('seq_one')")
            holder.rollback()
