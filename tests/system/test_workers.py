"""
Several worker processes behind one port: whichever one a client, a cancel request or an operator
reaches, the proxy is one; and a worker that dies takes only its own clients with it.
"""

import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.server.cancel import worker_of
from tests.support.system import REPOSITORY, ProxyFactory, RunningProxy, wait_until
from tests.support.wat import body_wat, manifest, put

Client = psycopg.Connection[tuple[Any, ...]]
WORKERS = 2


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory whose path is short enough for sockets in it."""
    with tempfile.TemporaryDirectory(prefix="hg-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def running(proxy: ProxyFactory, scratch: Path) -> RunningProxy:
    return proxy(workers=WORKERS, environment={"TMPDIR": str(scratch)})


@pytest.fixture
def opened() -> Iterator[list[Client]]:
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


def worker_pids(proxy: RunningProxy) -> dict[int, int]:
    """Each worker's process, from the operating system."""
    found: dict[int, int] = {}
    children = Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text().split()
    for pid in children:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"proxy.server.child" in words:
            found[int(words[words.index(b"--worker") + 1])] = int(pid)
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill_worker(proxy: RunningProxy, worker: int) -> None:
    """End a worker, and wait until nothing of it is left: all its threads, and so its sockets."""
    process = Path(f"/proc/{worker_pids(proxy)[worker]}")
    os.kill(int(process.name), signal.SIGKILL)
    wait_until(partial(is_gone, process), what="the end of the worker")


def is_gone(process: Path) -> bool:
    return not process.exists()


def client_of_each(proxy: RunningProxy, opened: list[Client], **more: Any) -> dict[int, Client]:
    """Connect until every worker has one of our clients."""
    found: dict[int, Client] = {}
    for _ in range(60):
        client = proxy.connect(**more)
        opened.append(client)
        found.setdefault(worker_of(client.info.backend_pid), client)
        if len(found) == WORKERS:
            return found
    raise AssertionError(f"60 clients, all with {found.keys()}")


# -- one proxy


def test_one_line_says_that_all_are_ready(running: RunningProxy) -> None:
    assert running.greeting.startswith("headgate is ready: PostgreSQL on 127.0.0.1 port ")
    assert worker_pids(running).keys() == {0, 1}
    assert {int(running.metrics().value("headgate_ready", worker=str(w))) for w in (0, 1)} == {1}


def test_rule_34_a_cancel_request_finds_its_worker(
    running: RunningProxy, opened: list[Client]
) -> None:
    clients = client_of_each(running, opened)
    # The kernel chooses the worker that each request reaches.
    for _ in range(5):
        for client in clients.values():
            errors: list[str | None] = []
            thread = threading.Thread(target=sleep_in, args=(client, errors))
            thread.start()
            wait_until(lambda: running.metrics().value("headgate_pool_clients_active") == 1)
            client.cancel_safe()
            thread.join(timeout=15)
            assert errors == ["57014"]
    metrics = running.metrics()
    assert metrics.value("headgate_cancel_requests_total") == 10
    assert not metrics.has("headgate_events_total", cause="cancel_wrong_key")


def sleep_in(client: Client, errors: list[str | None]) -> None:
    try:
        client.execute("SELECT pg_sleep(20)")
    except psycopg.Error as error:
        errors.append(error.sqlstate)


def test_metrics_are_those_of_all(running: RunningProxy, opened: list[Client]) -> None:
    for client in client_of_each(running, opened).values():
        client.execute("SELECT 1")
    for _ in range(8):
        metrics = running.metrics()
        assert metrics.value("headgate_client_connections") == len(opened)
        assert metrics.value("headgate_queries_total") == WORKERS
        assert metrics.value("headgate_client_connections_limit") == 10_000


def test_the_api_and_the_console_show_all_clients(
    running: RunningProxy, opened: list[Client]
) -> None:
    names = {f"client of {w}" for w in range(WORKERS)}
    for worker, client in client_of_each(running, opened).items():
        client.execute(f"SET application_name = 'client of {worker}'")
    for _ in range(6):
        status, body = running.api("GET", "/api/clients")
        assert status == 200
        assert len(body["clients"]) == len(opened)
        with running.connect(dbname="headgate", user="admin") as console:
            rows = psycopg.ClientCursor(console).execute("SHOW CLIENTS").fetchall()
        shown = {str(value) for row in rows for value in row}
        assert names <= shown


def test_pause_and_resume_concern_all_workers(running: RunningProxy, opened: list[Client]) -> None:
    clients = client_of_each(running, opened)
    for client in clients.values():
        client.execute("SELECT 1")
    status, body = running.api("POST", "/api/pools/pause", {})
    assert status < 300, body
    errors: list[str | None] = []
    threads = [threading.Thread(target=run_in, args=(c, errors)) for c in clients.values()]
    for thread in threads:
        thread.start()
    wait_until(lambda: running.metrics().value("headgate_pool_clients_waiting") == WORKERS)
    status, body = running.api("POST", "/api/pools/resume", {})
    assert status < 300, body
    for thread in threads:
        thread.join(timeout=15)
    assert errors == [None, None]


def run_in(client: Client, errors: list[str | None]) -> None:
    try:
        client.execute("SELECT 1")
        errors.append(None)
    except psycopg.Error as error:
        errors.append(error.sqlstate)


def test_plugins_share_their_keys(proxy: ProxyFactory) -> None:
    running = proxy(workers=WORKERS, plugins={"watch": False}, start=False)
    put(
        running.plugin_dir,
        "keeper",
        body_wat("i64.const 0"),
        manifest("keeper", permissions='"kv.read", "kv.write"'),
    )
    running.start()
    status, body = running.api("PUT", "/api/plugins/keeper/kv/colour", {"value": "red"})
    assert status < 300, body
    for _ in range(8):
        status, body = running.api("GET", "/api/plugins/keeper/kv/colour")
        assert status == 200
        assert body["value"] == "red"


def test_a_plugin_is_switched_off_in_all_workers(proxy: ProxyFactory, opened: list[Client]) -> None:
    running = proxy(workers=WORKERS, examples=("no-drop",))
    clients = client_of_each(running, opened)
    for client in clients.values():
        with pytest.raises(psycopg.errors.DatabaseError) as raised:
            client.execute("DROP TABLE is_not_there")
        assert raised.value.sqlstate == "42000"
    status, body = running.api("POST", "/api/plugins/no-drop/disable", {})
    assert status < 300, body
    for client in clients.values():
        with pytest.raises(psycopg.errors.UndefinedTable):
            client.execute("DROP TABLE is_not_there")


def test_limits_count_the_clients_of_all(proxy: ProxyFactory, opened: list[Client]) -> None:
    running = proxy(
        workers=WORKERS, pool={"max_client_connections": 6, "max_user_client_connections": 5}
    )
    for _ in range(5):
        opened.append(running.connect())
    for _ in range(6):
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            running.connect()
    opened.pop().close()
    wait_until(lambda: running.metrics().value("headgate_client_connections") == 4)
    opened.append(running.connect())


def test_an_unknown_user_gets_the_same_salt_from_all(proxy: ProxyFactory, tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    users.write_text('"somebody" "secret"\n')
    running = proxy(workers=WORKERS, auth={"method": "scram-sha-256", "users_file": str(users)})
    salts = {scram_salt(running, "nobody") for _ in range(12)}
    assert len(salts) == 1
    assert scram_salt(running, "nobody else") not in salts


def scram_salt(proxy: RunningProxy, user: str) -> bytes:
    """Begin a SCRAM login as a user; the salt that the proxy says."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
        body = b"\x00\x03\x00\x00user\x00" + user.encode() + b"\x00\x00"
        client.sendall((4 + len(body)).to_bytes(4, "big") + body)
        stream = client.makefile("rb")
        read_answer(stream)
        first = b"n,,n=,r=" + base64.b64encode(b"a nonce of the client")
        body = b"SCRAM-SHA-256\x00" + len(first).to_bytes(4, "big") + first
        client.sendall(b"p" + (4 + len(body)).to_bytes(4, "big") + body)
        attributes = read_answer(stream)[4:].split(b",")
        return next(value for value in attributes if value.startswith(b"s="))


def read_answer(stream: Any) -> bytes:
    tag, length = stream.read(1), int.from_bytes(stream.read(4), "big")
    body: bytes = stream.read(length - 4)
    assert tag == b"R", body
    return body


def test_the_unix_socket_is_everybodys(proxy: ProxyFactory, scratch: Path) -> None:
    running = proxy(workers=WORKERS, listen={"unix_socket_dir": str(scratch)})
    path = scratch / f".s.PGSQL.{running.port}"
    assert path.is_socket()
    for number in range(6):
        with psycopg.connect(running.dsn(host=str(scratch))) as client:
            assert client.execute("SELECT %s::int", [number]).fetchone() == (number,)
    for pid in worker_pids(running).values():
        os.kill(pid, signal.SIGKILL)
        # The one that is left, or the new one, serves.
        with psycopg.connect(running.dsn(host=str(scratch))) as client:
            client.execute("SELECT 1")
    running.stop()
    assert not path.exists()


# -- death


def test_a_worker_that_dies_is_replaced(running: RunningProxy, opened: list[Client]) -> None:
    clients = client_of_each(running, opened, autocommit=False)
    for client in clients.values():
        client.execute("CREATE TEMPORARY TABLE mine (n int) ON COMMIT DROP")
    before = worker_pids(running)
    os.kill(before[0], signal.SIGKILL)
    # Nobody is turned away in the meantime: whoever the kernel gives to the dead one waits.
    for _ in range(20):
        with running.connect() as client:
            client.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError):
        clients[0].execute("SELECT 1")
    clients[1].execute("INSERT INTO mine VALUES (1)")
    clients[1].commit()
    wait_until(lambda: running.metrics().value("headgate_ready") == WORKERS)
    after = worker_pids(running)
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert client_of_each(running, opened).keys() == {0, 1}
    assert running.metrics().value("headgate_events_total", cause="worker_replaced") == 1
    assert "SIGKILL" in running.log_text()


def test_limits_forget_the_clients_of_a_dead_worker(
    proxy: ProxyFactory, opened: list[Client]
) -> None:
    running = proxy(workers=WORKERS, pool={"max_client_connections": 60})
    client_of_each(running, opened)
    kill_worker(running, 0)
    wait_until(lambda: running.metrics().value("headgate_ready") == WORKERS)
    left = [c for c in opened if worker_of(c.info.backend_pid) == 1]
    for _ in range(60 - len(left)):
        opened.append(running.connect())
    with pytest.raises(psycopg.OperationalError, match="too many clients"):
        running.connect()


def test_a_new_worker_has_the_settings_of_the_others(
    running: RunningProxy, opened: list[Client]
) -> None:
    good = running.config
    # Not reloaded: nobody has these yet.
    running.write_config(pool={"max_client_connections": 1}, node=[])
    kill_worker(running, 1)
    wait_until(lambda: running.metrics().value("headgate_ready") == WORKERS)
    assert len(client_of_each(running, opened)) == WORKERS
    running.config = good
    running.write_config()


def test_a_new_worker_keeps_what_operators_ordered(
    proxy: ProxyFactory, opened: list[Client]
) -> None:
    running = proxy(workers=WORKERS, examples=("no-drop",))
    assert running.api("POST", "/api/plugins/no-drop/disable", {})[0] < 300
    for worker in range(WORKERS):
        kill_worker(running, worker)
        wait_until(lambda: running.metrics().value("headgate_ready") == WORKERS)
    for client in client_of_each(running, opened).values():
        with pytest.raises(psycopg.errors.UndefinedTable):
            client.execute("DROP TABLE is_not_there")


def test_nothing_is_left_when_the_parent_is_killed(
    proxy: ProxyFactory, opened: list[Client], scratch: Path
) -> None:
    running = proxy(
        workers=WORKERS,
        environment={"TMPDIR": str(scratch)},
        listen={"unix_socket_dir": str(scratch)},
    )
    clients = client_of_each(running, opened)
    pids = worker_pids(running).values()
    assert list(scratch.glob("headgate-*"))
    running.kill()
    for client in clients.values():
        with pytest.raises(psycopg.errors.AdminShutdown):
            client.execute("SELECT 1")
    wait_until(lambda: not any(is_alive(pid) for pid in pids), what="the workers' end")
    assert not list(scratch.glob("headgate-*"))
    assert not (scratch / f".s.PGSQL.{running.port}").exists()


def test_nothing_is_left_after_a_stop(running: RunningProxy, scratch: Path) -> None:
    pids = worker_pids(running).values()
    private = list(scratch.glob("headgate-*"))
    assert len(private) == 1
    assert private[0].stat().st_mode & 0o777 == 0o700
    running.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert not private[0].exists()


def test_signals_to_a_worker_are_not_its_business(
    running: RunningProxy, opened: list[Client]
) -> None:
    # As a service manager does that signals all processes of a service.
    clients = client_of_each(running, opened)
    for pid in worker_pids(running).values():
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    for client in clients.values():
        assert client.execute("SELECT 1").fetchone() == (1,)


# -- what cannot start


def serve_to_its_end(config: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(config), "--workers", "2"],
        check=False,
        capture_output=True,
        text=True,
        timeout=25,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def test_a_port_that_is_taken_is_a_problem_of_the_configuration(running: RunningProxy) -> None:
    # SO_REUSEPORT alone would let the two share the port.
    done = serve_to_its_end(running.config_path)
    assert done.returncode == 2
    assert f"127.0.0.1:{running.port}" in done.stderr
    assert done.stdout == ""
    running.connect().close()


def test_what_a_worker_cannot_start_with_ends_all(proxy: ProxyFactory) -> None:
    plugins = {"settings": {"broken": {"enabled": True}}}
    running = proxy(workers=WORKERS, plugins=plugins, start=False)
    put(running.plugin_dir, "broken", b"\0asm this is none", manifest("broken"))
    running.write_config()
    done = serve_to_its_end(running.config_path)
    assert done.returncode == 2, done.stderr
    assert "broken" in done.stderr
    assert done.stdout == ""
