"""Session mode: a client has one server connection from its login to its end, and its process id."""

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.sessions import Connection, few_connections, one
from tests.support.system import ProxyFactory, RunningProxy, wait_until

POOL = {"mode": "session", "size": 4, "connect_timeout": "3s", "wait_timeout": "2s"}


@pytest.fixture
def start(workspace: Workspace, primary: EmbeddedPostgres, request: pytest.FixtureRequest):
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)
    factory = few_connections(workspace, primary, None, name)
    yield factory
    factory.close()


def fall_asleep(client: Connection, errors: list[str | None]) -> None:
    try:
        client.execute("SELECT pg_sleep(20)")
    except psycopg.Error as error:
        errors.append(error.sqlstate)


def assert_cancels(client: Connection, observer: Connection) -> None:
    errors: list[str | None] = []
    thread = threading.Thread(target=fall_asleep, args=(client, errors))
    thread.start()
    asleep = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
    wait_until(lambda: one(observer, asleep, client.info.backend_pid) == 1)
    client.cancel_safe()
    thread.join(timeout=15)
    assert errors == ["57014"]


def test_the_process_id_is_the_servers(start: ProxyFactory) -> None:
    gate = start(pool=POOL)
    with gate.connect() as first, gate.connect() as second:
        pids = [first.info.backend_pid, second.info.backend_pid]
        for _ in range(3):
            assert [one(each, "SELECT pg_backend_pid()") for each in (first, second)] == pids
        first.execute("SELECT pg_advisory_lock(1)")
        second.execute("SET lock_timeout = '10s'")
        errors: list[Any] = []
        waiting = threading.Thread(
            target=lambda: errors.append(second.execute("SELECT pg_advisory_lock(1)"))
        )
        waiting.start()
        wait_until(lambda: one(first, "SELECT pg_blocking_pids(%s)", pids[1]) == [pids[0]])
        first.execute("SELECT pg_advisory_unlock(1)")
        waiting.join(timeout=15)
        assert len(errors) == 1


def test_the_process_can_be_ended_by_its_id(start: ProxyFactory) -> None:
    gate = start(pool=POOL)
    with gate.connect() as first, gate.connect() as second:
        assert one(first, "SELECT pg_terminate_backend(%s, 5000)", second.info.backend_pid)
        with pytest.raises(psycopg.errors.AdminShutdown):
            second.execute("SELECT 1")
        assert one(first, "SELECT 1") == 1


def test_who_comes_when_all_are_taken_waits_and_is_refused(start: ProxyFactory) -> None:
    gate = start(pool={**POOL, "size": 1})
    with gate.connect(), pytest.raises(psycopg.OperationalError, match="timed out waiting"):
        gate.connect()
    with gate.connect() as client:
        assert one(client, "SELECT 1") == 1


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="hg-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_cancel_request_finds_its_client(
    start: ProxyFactory, scratch: Path, primary: EmbeddedPostgres, workers: int
) -> None:
    """Whichever worker the kernel hands it to: no bit of the process id can tell."""
    gate: RunningProxy = start(
        workers=workers, pool={**POOL, "size": 20}, environment={"TMPDIR": str(scratch)}
    )
    with psycopg.connect(primary.dsn(), autocommit=True) as observer:
        for _ in range(8):
            with gate.connect() as client:
                assert_cancels(client, observer)
    metrics = gate.metrics()
    assert metrics.value("headgate_cancel_requests_total") == 8
    assert not metrics.has("headgate_events_total", cause="cancel_wrong_key")
