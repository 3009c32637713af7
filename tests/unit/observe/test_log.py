"""What the log must never show."""

import io
import json

import pytest
import structlog

from proxy.observe import log
from proxy.settings.model import Log


@pytest.fixture(autouse=True)
def _as_before() -> object:
    yield
    structlog.reset_defaults()


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
