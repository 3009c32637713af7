"""Changes leave a line, whatever comes of them; looking leaves none."""

import pytest
import structlog

from proxy.admin.problems import AdminProblem
from proxy.admin.side import AdminSide


async def test_a_change_that_fails_is_noted(side: AdminSide) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(AdminProblem):
        await side.desk.change("admin", "", "nix", {"do": "plugin_reload", "name": "nix"})
    assert [(line["event"], line["log_level"]) for line in logs] == [("audit", "warning")]
    assert "nix" in logs[0]["result"]


async def test_a_defect_is_noted_too(side: AdminSide) -> None:
    with structlog.testing.capture_logs() as logs, pytest.raises(KeyError):
        await side.desk.change("admin", "", "", {"do": "kill", "nodatabase": 1})
    assert logs[-1]["result"] == "internal error"


async def test_looking_is_not_noted(side: AdminSide) -> None:
    with structlog.testing.capture_logs() as logs:
        await side.desk.pools()
        await side.desk.nodes()
        await side.desk.rows("clients")
    assert logs == []
