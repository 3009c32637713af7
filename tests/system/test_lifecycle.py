"""
The life of a running proxy: drain, end, reload; as one process and as several.

Everything by signals to the process that an operator knows, with clients that are in the middle of
something.
"""

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.certificates import Certificates
from tests.support.system import ProxyFactory, RunningProxy, merged, wait_until

Client = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def workers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


@pytest.fixture
def opened() -> Iterator[list[Client]]:
    clients: list[Client] = []
    yield clients
    for client in clients:
        client.close()


def send(proxy: RunningProxy, number: signal.Signals) -> None:
    assert proxy.process is not None
    proxy.process.send_signal(number)


def exit_code(proxy: RunningProxy) -> int:
    assert proxy.process is not None
    return proxy.process.wait(timeout=20)


def is_refused(proxy: RunningProxy) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", proxy.port)) != 0


def fails_with(client: Client, sqlstate: str, said: Sequence[str | None] = ()) -> None:
    """The next statement meets this; or it was said before."""
    with pytest.raises(psycopg.Error) as raised:
        client.execute("SELECT 1")
    assert sqlstate in (raised.value.sqlstate, *said)


def notices_of(client: Client) -> list[str | None]:
    """SQLSTATEs of notices from now on; to libpq, a FATAL error that comes together with the end of
    a statement is one."""
    said: list[str | None] = []

    def hear(notice: psycopg.errors.Diagnostic) -> None:
        said.append(notice.sqlstate)

    client.add_notice_handler(hear)
    return said


def event_count(proxy: RunningProxy, cause: str) -> float:
    return proxy.metrics().value("headgate_events_total", cause=cause)


def reload_and_wait(proxy: RunningProxy, **sections: Any) -> None:
    """Change the file, send SIGHUP, and wait until all worker processes go by it."""
    before = event_count(proxy, "reloaded")
    proxy.reload(**sections)
    expected = before + max(1, proxy.workers)
    wait_until(lambda: event_count(proxy, "reloaded") == expected, 20, "the reload")


def has_refused(proxy: RunningProxy, reloads: int) -> bool:
    return event_count(proxy, "reload_refused") == reloads


# -- drain


def test_drain_lets_transactions_finish(
    proxy: ProxyFactory, workers: int, opened: list[Client]
) -> None:
    running = proxy(workers=workers)
    # More than one of each, so that with several workers most have some.
    idle = [running.connect() for _ in range(4)]
    busy = [running.connect(autocommit=False) for _ in range(4)]
    opened += idle + busy
    for client in idle:
        client.execute("SELECT 1")
    for number, client in enumerate(busy):
        client.execute("CREATE TEMPORARY TABLE drained (n int) ON COMMIT DROP")
        client.execute("INSERT INTO drained VALUES (%s)", [number])
    send(running, signal.SIGTERM)
    wait_until(lambda: is_refused(running), what="new clients are refused")
    for client in idle:
        fails_with(client, "57P01")
    for number, client in enumerate(busy):
        # Each statement of the transaction is still served, the last one too.
        assert client.execute("SELECT n FROM drained").fetchone() == (number,)
        said = notices_of(client)
        client.commit()
        fails_with(client, "57P01", said)
    assert exit_code(running) == 0


def test_a_second_signal_ends_at_once(
    proxy: ProxyFactory, workers: int, opened: list[Client]
) -> None:
    running = proxy(workers=workers, server={"drain_timeout": "10m"})
    client = running.connect(autocommit=False)
    opened.append(client)
    client.execute("SELECT 1")
    send(running, signal.SIGTERM)
    wait_until(lambda: is_refused(running), what="new clients are refused")
    assert running.process is not None
    assert running.process.poll() is None
    send(running, signal.SIGTERM)
    assert exit_code(running) == 0
    fails_with(client, "57P01")


def test_drain_has_an_end(proxy: ProxyFactory, workers: int, opened: list[Client]) -> None:
    running = proxy(workers=workers, server={"drain_timeout": "300ms"})
    client = running.connect(autocommit=False)
    opened.append(client)
    client.execute("SELECT 1")
    send(running, signal.SIGINT)
    assert exit_code(running) == 0
    fails_with(client, "57P01")


def test_drain_leaves_no_server_connection(
    proxy: ProxyFactory, workers: int, primary: EmbeddedPostgres
) -> None:
    running = proxy(workers=workers)
    with (
        running.connect(application_name="leaves-nothing", autocommit=False) as client,
        psycopg.connect(
            host="127.0.0.1", port=primary.port, user="postgres", dbname="postgres", autocommit=True
        ) as direct,
    ):
        client.execute("CREATE TEMPORARY TABLE left_behind ()")
        assert left_behind(direct) == 1
        client.rollback()
        client.close()
        running.stop()
        wait_until(lambda: left_behind(direct) == 0)


def left_behind(direct: Client) -> int:
    row = direct.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'leaves-nothing'"
    ).fetchone()
    assert row is not None
    return int(row[0])


# -- reload


def test_reload_changes_limits_and_keeps_clients(
    proxy: ProxyFactory, workers: int, opened: list[Client]
) -> None:
    running = proxy(workers=workers)
    for _ in range(3):
        opened.append(running.connect())
    reload_and_wait(running, pool={"max_client_connections": 2})
    for client in opened:
        assert client.execute("SELECT 'still here'").fetchone() == ("still here",)
    with pytest.raises(psycopg.OperationalError, match="too many clients"):
        running.connect()
    opened.pop().close()
    opened.pop().close()
    wait_until(lambda: running.metrics().value("headgate_client_connections") == 1)
    opened.append(running.connect())


def test_reload_changes_users(proxy: ProxyFactory, workers: int, tmp_path: Path) -> None:
    users = tmp_path / "users.txt"
    users.write_text('"postgres" "first"\n')
    running = proxy(
        workers=workers,
        auth={"method": "scram-sha-256", "users_file": str(users)},
        monitor={"user": "postgres"},
    )
    with running.connect(password="first") as client:
        users.write_text('"postgres" "second"\n')
        reload_and_wait(running)
        for _ in range(4):
            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                running.connect(password="first")
            running.connect(password="second").close()
        client.execute("SELECT 1")


def test_reload_changes_nodes(
    proxy: ProxyFactory, workers: int, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    running = proxy(workers=workers, routing={"reads": "standby"})
    with running.connect() as client:
        only = [{"name": "one", "host": "127.0.0.1", "port": primary.port}]
        reload_and_wait(running, node=only)
        names = {"pg1": 0, "pg2": 0, "one": 1}
        for _ in range(4):
            metrics = running.metrics()
            for name, is_there in names.items():
                assert metrics.has("headgate_node_up", node=name) == bool(is_there)
        assert client.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)
        both = [*only, {"name": "two", "host": "127.0.0.1", "port": standby.port}]
        reload_and_wait(running, node=both)
        wait_until(lambda: running.metrics().value("headgate_node_up", node="two"))
        wait_until(lambda: client.execute("SELECT pg_is_in_recovery()").fetchone() == (True,))


def certificate_of(proxy: RunningProxy) -> bytes:
    """The certificate that the proxy shows to a client now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as raw:
        raw.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")
        assert raw.recv(1) == b"S"
        with context.wrap_socket(raw) as tls:
            shown = tls.getpeercert(binary_form=True)
            assert shown is not None
            return shown


def test_reload_changes_the_certificate(
    proxy: ProxyFactory, workers: int, certificates: Certificates
) -> None:
    first, second = certificates.issue("first.test"), certificates.issue("second.test")
    tls = {"mode": "allow", "cert": str(first[0]), "key": str(first[1])}
    running = proxy(workers=workers, listen={"tls": tls})
    with running.connect(sslmode="require") as client:
        old = certificate_of(running)
        tls = {"mode": "allow", "cert": str(second[0]), "key": str(second[1])}
        reload_and_wait(running, listen={"tls": tls})
        shown = {certificate_of(running) for _ in range(6)}
        assert len(shown) == 1
        assert old not in shown
        assert client.execute("SELECT 'encrypted'").fetchone() == ("encrypted",)


def test_a_bad_file_keeps_everything(
    proxy: ProxyFactory, workers: int, certificates: Certificates, tmp_path: Path
) -> None:
    cert, key = certificates.server
    tls = {"mode": "allow", "cert": str(cert), "key": str(key)}
    running = proxy(workers=workers, listen={"tls": tls}, pool={"max_client_connections": 50})
    with running.connect() as client:
        before = certificate_of(running)
        rubbish = tmp_path / "rubbish.pem"
        rubbish.write_text("not a certificate")
        bad_files: list[dict[str, Any]] = [
            {"pool": {"size": "many"}},
            {"pool": {"size": 5}, "listen": {"tls": {"cert": str(rubbish)}}},
            {"auth": {"users_file": str(tmp_path / "missing.txt")}},
        ]
        good = running.config
        for number, sections in enumerate(bad_files, start=1):
            running.reload(**merged({"pool": {"max_client_connections": 1}}, sections))
            wait_until(partial(has_refused, running, number), 20, "the refusal")
            running.config = good
        assert client.execute("SELECT 1").fetchone() == (1,)
        assert certificate_of(running) == before
        running.connect().close()
        assert event_count(running, "reloaded") == 0
        assert running.metrics().value("headgate_client_connections_limit") == 50
        assert running.log_text().count("reload refused") >= len(bad_files)
    running.write_config()


def test_a_reload_from_the_api_names_the_problem(proxy: ProxyFactory, workers: int) -> None:
    running = proxy(workers=workers)
    good = running.config
    running.write_config(pool={"size": "many"})
    status, body = running.api("POST", "/api/reload", {})
    assert status == 422
    assert "pool.size" in body["error"]["why"]
    running.config = good
    running.write_config(pool={"max_client_connections": 77})
    status, body = running.api("POST", "/api/reload", {})
    assert status < 300, body
    for _ in range(4):
        assert running.metrics().value("headgate_client_connections_limit") == 77


def test_reload_changes_the_log_level(proxy: ProxyFactory, workers: int) -> None:
    running = proxy(workers=workers, log={"level": "warning"})
    reload_and_wait(running, log={"level": "debug"})
    running.connect().close()
    running.log_contains("client left")


def test_nobody_notices_that_the_log_has_no_reader(proxy: ProxyFactory) -> None:
    running = proxy(start=False, workers=2)
    running.write_config()
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve", "--config", str(running.config_path)],
        env=running.environment,
        stdout=subprocess.PIPE,
        stderr=writer,
    ) as process:
        os.close(writer)
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        os.close(reader)
        for _ in range(3):
            with running.connect(connect_timeout=10) as client:
                assert client.execute("SELECT 1").fetchone() == (1,)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_second_proxy_leaves_the_first_ones_unix_socket_alone(
    proxy: ProxyFactory, workers: int, workspace: Workspace
) -> None:
    directory = workspace.path / f"sockets-{workers}"
    directory.mkdir()
    first = proxy(listen={"unix_socket_dir": str(directory)})
    second = proxy(
        start=False, listen={"unix_socket_dir": str(directory), "host": [], "port": first.port}
    )
    second.write_config()
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(second.config_path),
         "--workers", str(workers)],
        env=second.environment, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 2
    assert "another server listens" in done.stderr
    with first.connect(host=str(directory)) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
