"""Requests reach all workers, and what comes back from others is not trusted blindly."""

import json

import structlog

from proxy.admin.fleet import Fleet, Peers
from proxy.admin.side import AdminSide
from proxy.observe.families import Families
from proxy.server.worker import Worker


class Others(Peers):
    """Other workers, played by fleets in this process."""

    def __init__(self, *fleets: Fleet, raw: list[bytes] | None = None) -> None:
        self.fleets = fleets
        self.raw = raw or []

    async def ask_all(self, request: bytes) -> list[bytes]:
        return [await fleet.handle(request) for fleet in self.fleets] + self.raw


def value(families: Families, name: str) -> float:
    return next(f.samples[0].value for f in families if f.name == name)


async def test_metrics_of_all_workers(worker: Worker, side: AdminSide) -> None:
    other = Worker(worker.settings, worker.config_path, 1, 2)
    worker.counters.queries = 3
    other.counters.queries = 4
    side.fleet.peers = Others(Fleet(other))
    families = await side.fleet.metrics()
    assert value(families, "headgate_queries") == 7
    ready = next(f for f in families if f.name == "headgate_ready")
    assert [sample.labels["worker"] for sample in ready.samples] == ["0", "1"]
    assert (await side.desk.status())["queries"] == 7


async def test_a_change_reaches_all(worker: Worker, side: AdminSide) -> None:
    other = Worker(worker.settings, worker.config_path, 1, 2)
    side.fleet.peers = Others(Fleet(other))
    await side.desk.change("admin", "", "app", {"do": "pause", "database": "app"})
    assert other.pools.broker.registry.is_paused("app")
    assert worker.pools.broker.registry.is_paused("app")


async def test_rubbish_from_others_is_left_out(side: AdminSide) -> None:
    side.fleet.peers = Others(raw=[b"rubbish", b"[1]", b'{"rows": []}'])
    with structlog.testing.capture_logs():
        answers = await side.fleet.ask({"do": "nodes"})
    assert len(answers) == 2


async def test_a_bad_request_of_another_worker_is_an_answer(side: AdminSide) -> None:
    with structlog.testing.capture_logs():
        assert "error" in json.loads(await side.fleet.handle(b"rubbish"))
    answer = json.loads(await side.fleet.handle(b'{"do": "nix"}'))
    assert answer["status"] == 400
