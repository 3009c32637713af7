"""One line for each change; those that failed are warnings."""

import structlog

from proxy.admin.audit import Audit


def test_lines_and_the_last_ones() -> None:
    audit = Audit()
    with structlog.testing.capture_logs() as logs:
        audit.note("admin", "127.0.0.1", "reload", "", "ok")
        audit.note("token", "127.0.0.1:1", "pause", "app", "no such database")
    assert [line["log_level"] for line in logs] == ["info", "warning"]
    assert {line["event"] for line in logs} == {"audit"}
    assert [entry["action"] for entry in audit.last] == ["reload", "pause"]
