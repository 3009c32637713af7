"""Session state that decides where a statement may run."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.sessions import few_connections, one
from tests.support.system import RunningProxy
from tests.system.differential import FLUSH, SYNC, Frame, Peer, parse, query, run

HERE = "SELECT pg_is_in_recovery()"


@pytest.fixture(scope="module")
def gate(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[RunningProxy]:
    factory = few_connections(workspace, primary, standby, "session-routing")
    yield factory()
    factory.close()


def tags_of(frames: list[Frame]) -> bytes:
    """Types of all but notices: a server warns of each backslash."""
    return b"".join(frame.tag for frame in frames if frame.tag != b"N")


def at_standby(gate: RunningProxy) -> float:
    """How often the standby was given anything so far."""
    return gate.metrics().value("headgate_routed_total", target="standby")


@pytest.fixture(scope="module")
def objects(primary: EmbeddedPostgres, standby: EmbeddedStandby) -> None:
    primary.execute(
        "CREATE TABLE home (x int); INSERT INTO home VALUES (1); CREATE SEQUENCE home_numbers;"
        "CREATE UNLOGGED TABLE home_unlogged AS SELECT 4 AS x;"
        "CREATE FUNCTION home_function() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';"
        "CREATE FUNCTION home_apart(int, int) RETURNS bool LANGUAGE sql AS 'SELECT $1 > $2';"
        "CREATE OPERATOR public.~~~ (FUNCTION = home_apart, LEFTARG = int, RIGHTARG = int);"
        "CREATE PROCEDURE home_call() LANGUAGE sql AS 'SELECT 1'"
    )
    standby.wait_until_caught_up()


@pytest.mark.parametrize(
    ("cause", "end"),
    [
        ("SET default_transaction_isolation = 'serializable'", "RESET ALL"),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SET default_transaction_isolation = 'read committed'",
        ),
        ("CREATE TEMP TABLE near (x int)", "DROP TABLE near"),
        ("LISTEN near", "UNLISTEN near"),
        ("SELECT pg_advisory_lock(5)", "SELECT pg_advisory_unlock(5)"),
    ],
)
def test_rule_38_what_a_standby_cannot_do_stays_on_the_primary(
    gate: RunningProxy, cause: str, end: str
) -> None:
    with gate.connect() as client:
        assert one(client, HERE) is True
        client.execute(cause)
        before = at_standby(gate)
        for _ in range(3):
            assert one(client, HERE) is False
        assert at_standby(gate) == before
        client.execute(end)
        assert one(client, HERE) is True


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param(HERE + " /*" + 70_000 * "." + "*/", id="longer than what is parsed"),
        pytest.param(2_000 * "/*" + 2_000 * "*/" + HERE, id="scanned in quadratic time"),
    ],
)
def test_rule_36_what_would_stall_the_parser_is_not_parsed_and_no_read(
    gate: RunningProxy, sql: str
) -> None:
    with gate.connect() as client:
        assert one(client, HERE) is True
        for _ in range(2):
            assert one(client, sql) is False
        assert client.execute(sql, prepare=True).fetchone() == (False,)
        assert one(client, HERE) is True


NO_READS = [
    *(
        f"SELECT x FROM home FOR {lock}"
        for lock in ("UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE")
    ),
    "SELECT * FROM (SELECT x FROM home FOR UPDATE) AS q",
    "WITH w AS (INSERT INTO home VALUES (2) RETURNING x) SELECT x FROM w",
    "WITH w AS (DELETE FROM home WHERE x = 2) SELECT 1",
    "SELECT 1 AS x INTO home_too",
    "CREATE TABLE home_too AS SELECT 1 AS x",
    "EXPLAIN ANALYZE DELETE FROM home",
    "EXPLAIN (ANALYZE true) UPDATE home SET x = 3",
    "CALL home_call()",
    "DO 'BEGIN END'",
    "SELECT nextval('home_numbers')",
    "SELECT setval('home_numbers', 5)",
    "SELECT set_config('home.name', 'x', true)",
    "SELECT pg_notify('home', 'x')",
    "NOTIFY home",
    "SELECT pg_advisory_xact_lock(7)",
    "SELECT pg_try_advisory_xact_lock_shared(7, 8)",
    "SELECT lo_create(0)",
    "SELECT txid_current()",
    "SELECT pg_current_xact_id()",
    "SELECT random()",
    "SELECT home_function()",
    "SELECT 1 WHERE EXISTS (SELECT home_function())",
    "SELECT x FROM home ORDER BY home_function()",
    "SELECT 1 OPERATOR(public.~~~) 2",
]


@pytest.mark.parametrize("sql", NO_READS, ids=lambda sql: sql[:60])
def test_rule_38_what_is_no_read_is_never_tried_on_a_standby(
    gate: RunningProxy, objects: None, sql: str
) -> None:
    """A standby would refuse most of it, and then the primary runs it: so what is sent is counted."""
    with gate.connect() as client:
        for sent in (sql, f"/* once more */ {sql}"):
            before = at_standby(gate)
            with contextlib.suppress(psycopg.errors.DuplicateTable):
                client.execute(sent)
            assert at_standby(gate) == before
        # The same by the extended protocol.
        with contextlib.suppress(psycopg.errors.DuplicateTable):
            client.execute(sql, prepare=True)
        assert at_standby(gate) == before
        assert one(client, HERE) is True


def test_rule_38_lock_and_fetch_stay_where_their_transaction_is(
    gate: RunningProxy, objects: None
) -> None:
    with gate.connect() as client:
        for begin in ("LOCK TABLE home", "DECLARE c CURSOR FOR SELECT x FROM home_unlogged"):
            before = at_standby(gate)
            client.execute("BEGIN")
            client.execute(begin)
            if begin.startswith("DECLARE"):
                assert client.execute("FETCH c").fetchone() == (4,)
            assert one(client, HERE) is False
            client.execute("COMMIT")
            assert at_standby(gate) == before


def test_rule_38_an_unlogged_table_is_read_on_the_primary(
    gate: RunningProxy, objects: None
) -> None:
    """Its text tells nobody: the standby refuses, and the read goes to the primary unseen."""
    with gate.connect() as client:
        assert one(client, "SELECT x FROM home_unlogged") == 4
        assert client.execute("SELECT x FROM home_unlogged", prepare=True).fetchone() == (4,)


@pytest.mark.parametrize("extended", [False, True])
def test_rule_37_a_write_that_only_the_server_sees_goes_to_the_primary(
    gate: RunningProxy, objects: None, extended: bool
) -> None:
    """One string to the parser here; where a backslash escapes, a write behind a shorter one."""
    with gate.connect() as client, Peer(gate.port, database="postgres") as peer:
        peer.ask(query("SET standard_conforming_strings = off"))
        count = one(client, "SELECT count(*), random() FROM home")
        before = at_standby(gate)
        if extended:
            frames = peer.ask(run("SELECT '\\'', lo_create(0) --'") + SYNC)
            assert tags_of(frames) == b"12TDCZ"
        else:
            frames = peer.ask(query("SELECT '\\''; INSERT INTO home VALUES (7); --'"))
            assert tags_of(frames) == b"TDCCZ"
            assert one(client, "SELECT count(*), random() FROM home") == count + 1
        assert at_standby(gate) == before


def test_rule_38_serializable_from_the_startup_packet(gate: RunningProxy) -> None:
    with gate.connect(options="-c default_transaction_isolation=serializable") as client:
        before = at_standby(gate)
        assert one(client, HERE) is False
        assert at_standby(gate) == before
        assert one(client, "SHOW transaction_isolation") == "serializable"


def test_rule_38_serializable_by_the_role(gate: RunningProxy, primary: EmbeddedPostgres) -> None:
    """Nothing tells the proxy: the standby refuses, and the read goes to the primary unseen."""
    primary.execute(
        "CREATE ROLE strict LOGIN; ALTER ROLE strict SET default_transaction_isolation = 'serializable'"
    )
    with gate.connect(user="strict") as client:
        for _ in range(3):
            assert one(client, HERE) is False
            assert client.execute(HERE, prepare=True).fetchone() == (False,)


def test_rule_15_settings_follow_to_the_standby(gate: RunningProxy) -> None:
    with gate.connect() as client:
        client.execute("SET work_mem = '9MB'; SET tenant.name = 'alice'")
        assert one(client, HERE) is True
        assert one(client, "SELECT current_setting('work_mem') WHERE pg_is_in_recovery()") == "9MB"
        assert one(client, "SELECT current_setting('tenant.name') WHERE pg_is_in_recovery()") == (
            "alice"
        )
    with gate.connect() as client:
        for _ in range(3):
            assert one(client, "SELECT current_setting('work_mem')") == "4MB"
            assert not one(client, "SELECT current_setting('tenant.name', true)")


def test_rule_38_a_pipeline_that_writes_after_all_moves_to_the_primary(gate: RunningProxy) -> None:
    with gate.connect() as client, Peer(gate.port, database="postgres") as peer:
        client.execute("CREATE TABLE moved (x int)")
        write = run("INSERT INTO moved VALUES (1)")
        # All at once: when the first write is there, the standby has not answered yet.
        frames = peer.ask(parse("a", "SELECT 1") + FLUSH + write + FLUSH + write + SYNC)
        assert b"".join(frame.tag for frame in frames) == b"1" + 2 * b"12nC" + b"Z"
        frames = peer.ask(parse("b", HERE) + FLUSH + write + FLUSH + run("SELECT 1/0") + SYNC)
        assert b"".join(frame.tag for frame in frames) == b"112nC1EZ"
        # The second pipeline has failed, and so all of it.
        assert len(client.execute("SELECT x FROM moved FOR UPDATE").fetchall()) == 2
        client.execute("DROP TABLE moved")
