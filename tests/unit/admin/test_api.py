"""The API about the proxy and its pools."""

from pathlib import Path

import pytest
import structlog

from proxy.server.worker import Worker
from proxy.settings.kinds import Secret
from proxy.settings.model import Admin, Auth, Database, Node, PluginOverride, Plugins, Settings
from tests.unit.admin.conftest import Call


def pool(worker: Worker) -> object:
    broker = worker.pools.broker
    destination = broker.directory.find("app", "alice")
    assert destination is not None
    return broker.registry.pool_for(destination, worker.pools.nodes.by_name["pg1"], 0.0)


async def test_status_has_each_worker(worker: Worker, call: Call) -> None:
    worker.counters.queries = 4
    worker.counters.count("retried_after_loss")
    status = (await call("GET", "/api/status")).json
    assert status["queries"] == 4
    assert status["events"] == {"retried_after_loss": 1}
    assert [one["worker"] for one in status["workers"]] == [0]
    assert status["readiness"]["status"] == "not ready"
    assert status["query_latency"] == {"count": 0, "mean_us": None, "p50_us": None, "p99_us": None}


async def test_pools_and_their_pause(worker: Worker, call: Call) -> None:
    pool(worker)
    assert (await call("POST", "/api/pools/pause?database=app")).json == {"ok": True, "in_use": 0}
    rows = (await call("GET", "/api/pools")).json["pools"]
    assert [(row["database"], row["user"], row["node"], row["is_paused"]) for row in rows] == [
        ("app", "alice", "pg1", True)
    ]
    await call("POST", "/api/pools/resume?database=app")
    assert (await call("GET", "/api/pools")).json["pools"][0]["is_paused"] is False
    assert (await call("POST", "/api/pools/reconnect")).status == 200
    assert (await call("POST", "/api/pools/kill?database=app")).status == 200


async def test_kill_needs_a_name(call: Call) -> None:
    reply = await call("POST", "/api/pools/kill")
    assert reply.status == 400
    assert "database" in reply.json["error"]["why"]


async def test_nodes_clients_servers_events(worker: Worker, call: Call) -> None:
    nodes = (await call("GET", "/api/nodes")).json["nodes"]
    assert [(node["name"], node["port"], node["is_up"]) for node in nodes] == [
        ("pg1", 5432, False), ("pg2", 5433, False),
    ]  # fmt: skip
    assert (await call("GET", "/api/clients")).json == {"clients": [], "total": 0}
    assert (await call("GET", "/api/servers?limit=5")).json == {"servers": [], "total": 0}
    assert (await call("GET", "/api/events")).json == {"plugins": [], "changes": []}
    assert (await call("GET", "/api/refused")).json == {"refused": [], "total": 0}


async def test_config_has_no_secret(tmp_path: Path, worker: Worker, call: Call) -> None:
    worker.settings = Settings(
        auth=Auth(query_password=Secret("s3cret-a")),
        admin=Admin(token=Secret("s3cret-b")),
        node=(Node(name="pg1"),),
        database=(Database(name="x", user="u", password=Secret("s3cret-c")),),
        plugins=Plugins(
            dir=tmp_path,
            settings={"p": PluginOverride(config={"key": "s3cret-d", "l": ["s3cret-e"], "n": 3})},
        ),
    )
    reply = await call("GET", "/api/config", authorization="Bearer s3cret-b")
    assert reply.status == 200
    assert b"s3cret" not in reply.body
    config = reply.json
    assert config["database"][0]["password"] == "***"
    assert config["plugins"]["settings"]["p"]["config"] == {"key": "***", "l": ["***"], "n": 3}
    assert config["plugins"]["dir"] == str(tmp_path)
    assert config["pool"]["size"] == 20


async def test_a_change_is_audited(worker: Worker, call: Call) -> None:
    with structlog.testing.capture_logs() as logs:
        await call("POST", "/api/pools/pause?database=app")
        await call("GET", "/api/pools")
    lines = [line for line in logs if line["event"] == "audit"]
    assert lines == [
        {
            "event": "audit", "log_level": "info", "who": "local", "from": "127.0.0.1:4711",
            "action": "pause", "target": "app", "result": "ok",
        }
    ]  # fmt: skip
    assert (await call("GET", "/api/events")).json["changes"][0]["action"] == "pause"


async def test_a_reload_that_is_refused(worker: Worker, call: Call) -> None:
    worker.config_path.write_text("[listen]\nprot = 1\n")
    reply = await call("POST", "/api/reload")
    assert reply.status == 422
    assert "prot" in reply.json["error"]["why"]
    assert worker.counters.by_cause["reload_refused"] == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("DELETE", "/api/pools", 405), ("GET", "/api/clients?limit=x", 400)],
)
async def test_errors_are_json(call: Call, method: str, path: str, status: int) -> None:
    reply = await call(method, path)
    assert reply.status == status
    assert set(reply.json["error"]) == {"what", "why", "hint"}


async def test_the_api_describes_itself(call: Call) -> None:
    schema = (await call("GET", "/schema")).json
    assert {"/api/plugins/{name}/call", "/metrics", "/api/pools/pause"} <= set(schema["paths"])
    token = schema["components"]["securitySchemes"]["token"]
    assert (token["type"], token["scheme"]) == ("http", "bearer")
    assert {"token": []} in schema["security"]


async def test_health(worker: Worker, call: Call) -> None:
    assert (await call("GET", "/health/live")).json == {"status": "alive"}
    reply = await call("GET", "/health/ready")
    assert reply.status == 503
    worker.is_ready = True
    nodes = worker.pools.nodes
    nodes.observed(nodes.by_name["pg1"], 1.0, 1, 0, 1)
    assert (await call("GET", "/health/ready")).status == 200


async def test_metrics(worker: Worker, call: Call, probe: str) -> None:
    reply = await call("GET", "/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert b"headgate_queries_total 0.0" in reply.body
    assert b'headgate_plugin_depth{plugin="probe"} 3.0' in reply.body
    assert b'headgate_hook_duration_seconds_count{hook="metrics",plugin="probe"} 1.0' in reply.body
