"""Ready means that a client would be served."""

from proxy.admin.health import readiness
from proxy.routing.node import ROLE_PRIMARY, ROLE_STANDBY
from proxy.server.worker import Worker


def up(worker: Worker, name: str, role: int) -> None:
    nodes = worker.pools.nodes
    nodes.observed(nodes.by_name[name], 1.0, role, 0, 1)


async def test_not_before_the_start(worker: Worker) -> None:
    up(worker, "pg1", ROLE_PRIMARY)
    is_ready, body = readiness(worker)
    assert not is_ready
    assert "starting" in body["reasons"][0]


async def test_not_without_a_node(worker: Worker) -> None:
    worker.is_ready = True
    nodes = worker.pools.nodes
    nodes.failed(nodes.by_name["pg1"], 1.0, "connection refused")
    is_ready, body = readiness(worker)
    assert not is_ready
    assert body["reasons"] == ["no node is usable"]
    assert "node pg1 is down: connection refused" in body["degraded"]


async def test_ready_with_all(worker: Worker) -> None:
    worker.is_ready = True
    up(worker, "pg1", ROLE_PRIMARY)
    up(worker, "pg2", ROLE_STANDBY)
    assert readiness(worker) == (True, {"status": "ready", "reasons": [], "degraded": []})


async def test_without_a_primary_reads_are_served(worker: Worker) -> None:
    worker.is_ready = True
    up(worker, "pg2", ROLE_STANDBY)
    is_ready, body = readiness(worker)
    assert is_ready
    assert body["status"] == "degraded"
    assert "no primary: only reads are served" in body["degraded"]


async def test_not_while_draining(worker: Worker) -> None:
    up(worker, "pg1", ROLE_PRIMARY)
    worker.is_draining = True
    is_ready, body = readiness(worker)
    assert not is_ready
    assert "draining" in body["reasons"][0]
