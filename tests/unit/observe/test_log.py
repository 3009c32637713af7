"""What the log must never show."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from proxy.observe import log
from proxy.settings.model import Log


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("headgate").setLevel(logging.NOTSET)


def test_keys_that_name_secrets_are_hidden() -> None:
    event = log.hide_secrets(None, "info", {"event": "x", "password": "p", "token": "t"})
    assert event == {"event": "x", "password": "***", "token": "***"}


def test_a_traceback_shows_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    log.configure_logging(Log(format="json"))

    def fail() -> None:
        credential = "hunter" + "2"
        raise ValueError(len(credential))

    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("failed")
    line = json.loads(out.getvalue().splitlines()[0])
    assert line["exception"][0]["exc_type"] == "ValueError"
    assert "hunter2" not in out.getvalue()


def test_the_standard_librarys_lines_are_in_the_same_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    log.configure_logging(Log(format="json"))
    logging.getLogger("headgate.plugins").info("replaced %s", "1.0.0", extra={"plugin": "p"})
    logging.getLogger("headgate.plugins").debug("not at this level")
    logging.getLogger("asyncpg").info("not of the proxy's own")
    logging.getLogger("asyncio").warning("slow")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["logger"]) for line in lines] == [
        ("replaced 1.0.0", "info", "headgate.plugins"), ("slow", "warning", "asyncio"),
    ]  # fmt: skip
    assert lines[0]["plugin"] == "p"


@pytest.mark.parametrize("error", [BrokenPipeError, OSError, ValueError])
def test_who_logs_does_not_notice_that_the_stream_is_gone(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

    monkeypatch.setattr("sys.stderr", Gone())
    log.configure_logging(Log(format="json"))
    structlog.get_logger().warning("nobody reads this")
    logging.getLogger("asyncio").error("nor this")
