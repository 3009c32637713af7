"""Session state that decides where a statement may run."""

from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.sessions import few_connections, one
from tests.support.system import RunningProxy
from tests.system.differential import FLUSH, SYNC, Peer, parse, run

HERE = "SELECT pg_is_in_recovery()"


@pytest.fixture(scope="module")
def gate(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[RunningProxy]:
    factory = few_connections(workspace, primary, standby, "session-routing")
    yield factory()
    factory.close()


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
        for _ in range(3):
            assert one(client, HERE) is False
        client.execute(end)
        assert one(client, HERE) is True


def test_rule_38_serializable_from_the_startup_packet(gate: RunningProxy) -> None:
    with gate.connect(options="-c default_transaction_isolation=serializable") as client:
        assert one(client, HERE) is False
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
