"""`headgate demo`: the scripted tour holds, and Ctrl-C leaves nothing behind."""

import itertools
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.support.ports import take_port
from tests.support.system import REPOSITORY, wait_until


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "proxy", "demo", *arguments]


def _environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(temporary)}


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR of the demo's own, to see what stays; short, because of the Unix sockets in it."""
    with tempfile.TemporaryDirectory(prefix="hg-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.timeout(120)
def test_scripted_tour_holds(temporary: Path) -> None:
    done = subprocess.run(
        _command("--check", "--port", str(take_port()), "--admin-port", str(take_port())),
        env=_environment(temporary),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    assert done.stdout.count("\nok ") == 9
    assert list(temporary.iterdir()) == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_demo_leaves_nothing_behind(
    temporary: Path, signal_number: signal.Signals
) -> None:
    port = take_port()
    with subprocess.Popen(
        _command("--port", str(port), "--admin-port", str(take_port())),
        env=_environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as demo:
        assert demo.stdout is not None
        text = _read_until(demo.stdout.fileno(), b"Ctrl-C stops everything")
        dsn = f"host=127.0.0.1 port={port} dbname=shop user=demo connect_timeout=5"
        with psycopg.connect(dsn, autocommit=True) as connection:
            read = "SELECT current_setting('in_hot_standby') FROM orders LIMIT 1"
            assert connection.execute(read).fetchone() == ("on",), text
            _follow_readme(connection)
        demo.send_signal(signal_number)
        assert demo.wait(timeout=30) == 0
    wait_until(lambda: not list(temporary.iterdir()), 10, "the demo's directory is gone")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


@pytest.mark.timeout(90)
def test_demo_ends_with_its_terminal_when_no_signal_says_so(temporary: Path) -> None:
    """As under `ssh -t host make demo`, where make alone is told that the terminal is closed."""
    terminal, inner = os.openpty()
    with subprocess.Popen(
        _command("--port", str(take_port()), "--admin-port", str(take_port())),
        env=_environment(temporary),
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
    ) as demo:
        os.close(inner)
        _read_until(terminal, b"Ctrl-C stops everything")
        os.close(terminal)
        demo.wait(timeout=30)
    wait_until(lambda: not list(temporary.iterdir()), 10, "the demo's directory is gone")


def _follow_readme(connection: psycopg.Connection[Any]) -> None:
    """Type what the README says; a line behind that begins with ERROR is the answer."""
    lines = (REPOSITORY / "README.md").read_text().splitlines()
    typed = 0
    for line, answer in itertools.pairwise(lines):
        if not line.startswith("shop=> "):
            continue
        typed += 1
        sql = line.removeprefix("shop=> ").partition("--")[0]
        if not answer.startswith("ERROR:"):
            connection.execute(sql)
            continue
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(sql)
        assert caught.value.sqlstate == "42000"
        assert caught.value.diag.message_primary == answer.removeprefix("ERROR:").strip()
    assert typed == 2


def _read_until(descriptor: int, marker: bytes) -> str:
    seen = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while marker not in seen:
            assert selector.select(40), seen.decode()
            chunk = os.read(descriptor, 4096)
            assert chunk, seen.decode()
            seen += chunk
    return seen.decode()
