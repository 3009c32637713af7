"""Time-outs and limits: each with the SQLSTATE that PostgreSQL would give, to that client only."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from proxy.protocol import frontend
from tests.support.sessions import few_connections, one
from tests.support.system import RunningProxy, wait_until
from tests.support.wire import RawClient, field, message, rows, sqlstates, startup_packet


@pytest.fixture
def start(workspace: Workspace, primary: EmbeddedPostgres, request: pytest.FixtureRequest):
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    factory = few_connections(workspace, primary, None, name)

    def make(**sections: Any) -> RunningProxy:
        return factory(**sections)

    yield make
    factory.close()


@contextmanager
def holding(gate: RunningProxy, count: int) -> Iterator[None]:
    """Take so many server connections."""
    with ExitStack() as stack:
        for _ in range(count):
            holder = stack.enter_context(gate.connect(autocommit=False))
            holder.execute("SELECT 1")
        yield


def test_query_timeout_cancels_57014(start) -> None:
    gate = start(pool={"query_timeout": "300ms"})
    with gate.connect() as client:
        with pytest.raises(psycopg.errors.QueryCanceled):
            client.execute("SELECT pg_sleep(20)")
        assert one(client, "SELECT 1") == 1
        with (
            pytest.raises(psycopg.errors.QueryCanceled),
            client.cursor() as cursor,
            cursor.copy(
                "COPY (SELECT pg_sleep(0.1) FROM generate_series(1, 200)) TO STDOUT"
            ) as copy,
        ):
            for _ in copy:
                pass
        assert one(client, "SELECT 1") == 1


def test_idle_transaction_timeout_ends_the_session_25p03(start) -> None:
    gate = start(pool={"idle_transaction_timeout": "300ms", "size": 1})
    with RawClient(gate.port) as client, gate.connect() as other:
        client.login()
        client.query("BEGIN")
        assert sqlstates(client.until_closed()) == ["25P03"]
        # Its connection is free again, and nothing is left of its transaction.
        assert one(other, "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'") == 0


def test_idle_transaction_timeout_counts_a_pipeline_that_never_ends(start) -> None:
    """Parse, Flush and no more: a server connection is held, as by an idle transaction."""
    gate = start(pool={"idle_transaction_timeout": "300ms", "size": 1})
    with RawClient(gate.port) as client, gate.connect() as other:
        client.login()
        client.send(frontend.Parse(b"", b"SELECT 1", []).encode() + frontend.FLUSH)
        assert sqlstates(client.until_closed()) == ["25P03"]
        assert one(other, "SELECT 1") == 1


def test_client_idle_timeout_57p05(start) -> None:
    gate = start(pool={"client_idle_timeout": "300ms"})
    with RawClient(gate.port) as client:
        client.login()
        client.query("SELECT 1")
        assert sqlstates(client.until_closed()) == ["57P05"]


def test_wait_timeout_53300_and_the_client_goes_on(start) -> None:
    gate = start(pool={"wait_timeout": "300ms", "size": 2, "query_wait_notify": "0"})
    with gate.connect() as client:
        assert one(client, "SELECT 1") == 1
        with (
            holding(gate, 2),
            pytest.raises(psycopg.errors.TooManyConnections, match="timed out waiting"),
        ):
            client.execute("SELECT 1")
        assert one(client, "SELECT 1") == 1


def test_query_wait_notify_tells_once(start) -> None:
    gate = start(pool={"wait_timeout": "5s", "size": 1, "query_wait_notify": "200ms"})
    notices: list[str] = []
    with gate.connect() as client, gate.connect(autocommit=False) as holder:
        client.add_notice_handler(lambda diagnostic: notices.append(diagnostic.severity or ""))
        holder.execute("SELECT 1")
        with RawClient(gate.port) as waiting:
            waiting.login()
            waiting.send(frontend.encode_query(b"SELECT 2"))
            told = waiting.receive()
            assert told is not None
            assert told[0] == b"N"
            assert field(told[1], b"M") == "waiting for a server connection"
            holder.rollback()
            rest = waiting.until_ready()
            assert [tag for tag, _ in rest] == [b"T", b"D", b"C", b"Z"]
    assert notices == []


def test_rule_34_a_client_that_waits_can_cancel_57014(start) -> None:
    gate = start(pool={"size": 1})
    with RawClient(gate.port) as waiting, holding(gate, 1):
        waiting.login()
        waiting.send(frontend.encode_query(b"SELECT 2"))
        wait_until(lambda: gate.metrics().value("headgate_pool_clients_waiting") == 1)
        with RawClient(gate.port) as canceller:
            process_id, secret = waiting.key
            body = (80877102).to_bytes(4, "big") + process_id.to_bytes(4, "big") + secret
            canceller.send((len(body) + 4).to_bytes(4, "big") + body)
            assert canceller.until_closed() == []
        assert sqlstates(waiting.until_ready()) == ["57014"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x00",
        b"\x00\x00\x00\x08\x04\xd2\x16",
        startup_packet({"user": "postgres"})[:-1],
        message(b"p", b"x")[:3],
    ],
)
def test_login_timeout_ends_slow_starters(start, sent: bytes) -> None:
    gate = start(auth={"login_timeout": "400ms"})
    with RawClient(gate.port) as client:
        client.send(sent)
        client.until_closed()
    with gate.connect() as client:
        assert one(client, "SELECT 1") == 1


def test_slow_loris_clients_keep_nobody_out(start) -> None:
    """A byte now and then, from many: the login time counts from the first moment."""
    gate = start(auth={"login_timeout": "1s"}, pool={"max_client_connections": 20})
    packet = startup_packet({"user": "postgres", "database": "postgres"})
    with ExitStack() as stack:
        slow = [stack.enter_context(RawClient(gate.port)) for _ in range(60)]
        for position in range(3):
            for client in slow:
                client.send(packet[position : position + 1])
        with gate.connect() as client:
            assert one(client, "SELECT 1") == 1
        for client in slow:
            client.until_closed()
    wait_until(lambda: gate.metrics().value("headgate_client_connections") == 0)


@pytest.mark.parametrize(
    "limit", ["max_client_connections", "max_user_client_connections", "max_db_client_connections"]
)
def test_too_many_clients_53300(start, limit: str) -> None:
    gate = start(pool={limit: 2})
    with gate.connect(), gate.connect() as second:
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            gate.connect()
        with RawClient(gate.port) as third:
            assert sqlstates(third.login()) == ["53300"]
        second.close()
        wait_until(lambda: _connects(gate))


def test_too_many_clients_of_one_database_leave_the_others_alone(
    start, primary: EmbeddedPostgres
) -> None:
    gate = start(
        pool={"max_user_client_connections": 0},
        database=[{"name": "postgres", "max_client_connections": 1}, {"name": "*"}],
    )
    with gate.connect(), gate.connect(dbname="template1") as other:
        assert one(other, "SELECT 1") == 1
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            gate.connect()


def _connects(gate: RunningProxy) -> bool:
    try:
        with gate.connect():
            return True
    except psycopg.OperationalError:
        return False


def test_the_reserve_is_used_after_its_time_and_not_before(start) -> None:
    gate = start(
        pool={"size": 1, "reserve_size": 1, "reserve_timeout": "300ms", "wait_timeout": "5s"}
    )
    with holding(gate, 1), gate.connect() as client:
        assert one(client, "SELECT 1") == 1
        with holding(gate, 1):
            pass


def test_waiting_clients_are_served_in_their_order(start) -> None:
    gate = start(pool={"size": 1})
    with ExitStack() as stack:
        holder = stack.enter_context(gate.connect(autocommit=False))
        holder.execute("CREATE TEMP TABLE turns (x int)")
        holder.rollback()
        holder.execute("SELECT 1")
        clients = [stack.enter_context(RawClient(gate.port)) for _ in range(8)]
        for client in clients:
            client.login()
        for number, client in enumerate(clients):
            client.send(frontend.encode_query(b"SELECT clock_timestamp(), %d" % number))
            # The proxy has it, and asks the next one only then.
            wait_until(lambda: _waiting(gate) == number + 1, what="a place in the queue")  # noqa: B023
        holder.rollback()
        moments = []
        for client in clients:
            moments.append(rows(client.until_ready())[0][0])
        assert moments == sorted(moments)  # type: ignore[type-var]


def _waiting(gate: RunningProxy) -> float:
    return gate.metrics().value("headgate_pool_clients_waiting")
