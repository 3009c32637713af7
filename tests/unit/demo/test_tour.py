"""The demo's command where it cannot start: one clear line, exit code 1, nothing left."""

import signal
import socket
from collections.abc import Iterator

import pytest

from proxy.demo import tour


@pytest.fixture(autouse=True)
def _keep_signal_handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def test_taken_port_is_one_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert tour.demo(port, port, check=True) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"headgate demo: port {port} of 127.0.0.1 cannot be used")
    assert captured.out == ""


def test_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tour, "_has_driver", lambda: False)
    assert tour.demo(1, 2) == 1
    assert "pip install 'headgate[demo]'" in capsys.readouterr().err
