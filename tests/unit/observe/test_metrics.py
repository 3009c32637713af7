"""One worker's families, all of which can be written."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.observe.exposition import expose
from proxy.observe.metrics import pool_families, snapshot
from proxy.pool.assignment import Pool
from proxy.pool.upkeep import PoolReport
from proxy.server.worker import Worker
from proxy.settings.model import Node, Settings


@pytest.fixture
async def worker(tmp_path: Path) -> Worker:
    return Worker(Settings(node=(Node(name="pg1"),)), tmp_path / "headgate.toml", 3, 4)


def values(text: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def test_counters_are_read_at_the_scrape(worker: Worker) -> None:
    counters = worker.counters
    counters.clients_active = 2
    counters.queries = 7
    counters.blocked = 1
    counters.bytes_from_clients = 100
    counters.read_routed = 5
    counters.refused("42000")
    counters.count("protocol_violation")
    counters.query_us.observe_query(1500)
    found = values(expose(snapshot(worker))[0])
    assert found["headgate_client_connections"] == 2
    assert found["headgate_queries_total"] == 7
    assert found["headgate_blocked_total"] == 1
    assert found["headgate_client_bytes_total{direction=in}"] == 100
    assert found["headgate_routed_total{target=standby}"] == 5
    assert found["headgate_errors_total{sqlstate=42000}"] == 1
    assert found["headgate_events_total{cause=protocol_violation}"] == 1
    assert found["headgate_query_duration_seconds_count"] == 1
    assert found["headgate_node_up{node=pg1,role=unknown}"] == 0
    assert found["headgate_process_open_fds{worker=3}"] > 0


async def test_all_names_begin_with_headgate(worker: Worker) -> None:
    assert all(family.name.startswith("headgate_") for family in snapshot(worker))
    names = [family.name for family in snapshot(worker)]
    assert len(names) == len(set(names))


async def test_pools_with_waits(worker: Worker) -> None:
    node = worker.pools.nodes.by_name["pg1"]
    broker = worker.pools.broker
    destination = broker.directory.find("app", "alice")
    assert destination is not None
    pool = broker.registry.pool_for(destination, node, 1.0)
    assert isinstance(pool, Pool)
    pool.counters.waits = 4
    pool.counters.wait_us = 2_500_000
    families = {family.name: family for family in pool_families([PoolReport(pool, 1.0)])}
    sample = families["headgate_pool_wait_seconds"].samples[0]
    assert sample.labels == {"database": "app", "user": "alice", "node": "pg1"}
    assert sample.value == 2.5
    assert families["headgate_pool_waits"].samples[0].value == 4
    states = {s.labels["state"] for s in families["headgate_pool_server_connections"].samples}
    assert states == {"active", "idle", "opening", "held"}
