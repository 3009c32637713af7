"""
Many connects, disconnects and kills: descriptors, memory, tasks and pools are level afterwards.

Short in the suite; `make soak` runs it for HEADGATE_SOAK_SECONDS.
"""

import contextlib
import gc
import os
import random
import signal
import socket
import subprocess
import sys
import time

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from proxy.protocol import frontend
from tests.support.leaks import OBJECTS, run_sessions
from tests.support.sessions import few_connections
from tests.support.system import RunningProxy, wait_until
from tests.support.wire import RawClient

LONG_SECONDS = float(os.environ.get("HEADGATE_SOAK_SECONDS", "300"))
SIZE = 4
MAX_GROWTH_BYTES = 24 * 2**20


class Level:
    """What must not grow, as it is now."""

    def __init__(self, gate: RunningProxy) -> None:
        metrics = gate.metrics()
        self.descriptors = gate.descriptor_count()
        self.resident = gate.resident_bytes()
        self.clients = metrics.value("headgate_client_connections")
        self.active = metrics.value("headgate_pool_clients_active")
        self.tasks = metrics.value("headgate_tasks")
        self.waiting = metrics.value("headgate_pool_clients_waiting")

    def __repr__(self) -> str:
        return str(vars(self))


def connect_and_leave(gate: RunningProxy, dice: random.Random) -> None:
    """One short life, with one of many ends."""
    client = RawClient(gate.port)
    kind = dice.randrange(6)
    if kind == 0:
        client.close()  # before a word
        return
    client.login()
    if kind == 1:
        client.query("SELECT 1")
        client.send(b"X\0\0\0\4")
    elif kind == 2:
        # In the middle of a large result, by a reset.
        client.send(
            frontend.encode_query(b"SELECT repeat('x', 1000) FROM generate_series(1, 30000)")
        )
        client.receive()
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif kind == 3:
        client.query("BEGIN; CREATE TEMP TABLE soak (x int)")
    elif kind == 4:
        client.query("SET work_mem = '1MB'; LISTEN soak")
    client.close()


def kill_a_backend(primary: EmbeddedPostgres) -> None:
    """By pg_terminate_backend: `kill -9` of one restarts the whole server."""
    with contextlib.suppress(psycopg.Error):
        primary.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend' ORDER BY random() LIMIT 1"
        )


CHILD = """
import psycopg, sys
connection = psycopg.connect(sys.argv[1])
cursor = connection.cursor("big")
cursor.itersize = 10
cursor.execute("SELECT repeat('x', 1000) FROM generate_series(1, 1000000)")
sys.stdout.write("x"); sys.stdout.flush()
for row in connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 300000)"):
    pass
"""


def kill_a_client(gate: RunningProxy) -> None:
    """`kill -9` of a client process in a large result."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, gate.dsn()], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read(1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def soak(gate: RunningProxy, primary: EmbeddedPostgres, seconds: float) -> int:
    """Do all of it for some time; how many lives there were."""
    dice = random.Random(1)
    deadline_s = time.monotonic() + seconds
    lives = 0
    while time.monotonic() < deadline_s:
        for _ in range(30):
            with contextlib.suppress(OSError):
                connect_and_leave(gate, dice)
            lives += 1
        kill_a_backend(primary)
        if dice.random() < 0.1:
            kill_a_client(gate)
    return lives


def settle(gate: RunningProxy) -> Level:
    """Wait until everybody is gone, and take the level."""
    wait_until(lambda: gate.metrics().value("headgate_client_connections") == 0, 20, "clients gone")
    wait_until(
        lambda: gate.metrics().value("headgate_pool_clients_active") == 0, 20, "connections free"
    )
    gc.collect()
    return Level(gate)


def assert_level(gate: RunningProxy, before: Level, after: Level) -> None:
    shown = f"before {before}, after {after}"
    assert after.descriptors <= before.descriptors + SIZE, shown
    assert after.resident <= before.resident + MAX_GROWTH_BYTES, shown
    assert after.waiting == 0, shown
    assert after.tasks <= before.tasks + SIZE, shown
    # The pool is of full use: every connection can be had at once.
    with contextlib.ExitStack() as stack:
        for _ in range(SIZE):
            client = stack.enter_context(gate.connect(autocommit=False))
            assert client.execute("SELECT 1").fetchone() == (1,)
    log = gate.log_text()
    assert "Traceback" not in log
    assert '"level": "error"' not in log


def run_soak(workspace: Workspace, primary: EmbeddedPostgres, seconds: float) -> None:
    primary.execute(OBJECTS)
    factory = few_connections(workspace, primary, None, f"soak-{int(seconds)}", SIZE)
    try:
        gate = factory(log={"level": "info", "format": "json"})
        # Caches fill, arenas grow: the level is taken once that is done.
        soak(gate, primary, min(seconds / 3, 30))
        before = settle(gate)
        lives = soak(gate, primary, seconds)
        count, problems = run_sessions(gate.port, 1, seconds / 2)
        assert problems == []
        assert lives + count > seconds * 5
        assert_level(gate, before, settle(gate))
    finally:
        factory.close()


@pytest.mark.timeout(120)
def test_level_after_many_short_lives(workspace: Workspace, primary: EmbeddedPostgres) -> None:
    run_soak(workspace, primary, 6)


@pytest.mark.timeout(120)
def test_the_others_notice_nothing_when_the_standby_is_killed(
    workspace: Workspace, own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby]
) -> None:
    primary, standby = own_cluster
    factory = few_connections(workspace, primary, standby, "soak-standby", SIZE)
    try:
        gate = factory()
        with gate.connect() as reader, gate.connect() as writer:
            writer.execute("CREATE TABLE kept (x int)")
            assert reader.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
            before = Level(gate)
            for _ in range(2):
                standby.kill()
                for number in range(50):
                    writer.execute("INSERT INTO kept VALUES (%s)", (number,))
                    assert reader.execute("SELECT 1").fetchone() == (1,)
                standby.start()
                wait_until(
                    lambda: reader.execute("SELECT pg_is_in_recovery()").fetchone() == (True,),
                    30,
                    "reads on the standby again",
                )
            assert writer.execute("SELECT count(*) FROM kept").fetchone() == (100,)
            assert gate.descriptor_count() <= before.descriptors + SIZE
    finally:
        factory.close()


@pytest.mark.timeout(120)
def test_a_killed_backend_costs_nobody_more_than_its_connection(
    workspace: Workspace, own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby]
) -> None:
    """`kill -9`: the server ends all its sessions and recovers; the proxy serves again by itself."""
    primary, standby = own_cluster
    factory = few_connections(workspace, primary, standby, "soak-kill", SIZE)
    try:
        gate = factory(pool={"size": SIZE, "connect_timeout": "20s", "wait_timeout": "20s"})
        with gate.connect() as client:
            client.execute("CREATE TABLE survived (x int); INSERT INTO survived VALUES (1)")
            client.execute("BEGIN")
            row = client.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            os.kill(row[0], signal.SIGKILL)
            with pytest.raises(psycopg.OperationalError):
                client.execute("SELECT 1")
        with gate.connect() as client:
            wait_until(lambda: _works(client), 30, "service after the server's recovery")
    finally:
        factory.close()


def _works(client: "psycopg.Connection[tuple[object, ...]]") -> bool:
    try:
        return client.execute("UPDATE survived SET x = 1").rowcount == 1
    except psycopg.Error:
        return False


@pytest.mark.soak
def test_soak_for_long(workspace: Workspace, primary: EmbeddedPostgres) -> None:
    run_soak(workspace, primary, LONG_SECONDS)
