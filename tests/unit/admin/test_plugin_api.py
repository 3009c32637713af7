"""The plugins' part of the API, on a real plugin."""

import base64
import json
from pathlib import Path

import pytest
import structlog

from proxy.admin import plugin_api
from proxy.admin.problems import AdminProblem
from proxy.admin.side import AdminSide
from proxy.plugins.host.kv import KvBounds, LocalKv
from proxy.server.worker import Worker
from tests.unit.admin.conftest import Call


async def test_list_and_one(call: Call, probe: str) -> None:
    plugins = (await call("GET", "/api/plugins")).json["plugins"]
    assert [(p["name"], p["state"], p["generation"]) for p in plugins] == [("probe", "Active", 1)]
    assert set(plugins[0]["hook_stats"]) == {"metrics", "custom_hook"}
    one = (await call("GET", "/api/plugins/probe")).json
    assert one["version"] == "1.0.0"
    assert one["hook_stats"]["custom_hook"]["latency"]["count"] == 0


async def test_one_that_is_not_there(call: Call, probe: str) -> None:
    for method, path in (
        ("GET", "/api/plugins/nix"),
        ("GET", "/api/plugins/nix/logs"),
        ("POST", "/api/plugins/nix/reload"),
        ("POST", "/api/plugins/nix/enable"),
        ("POST", "/api/plugins/nix/call"),
        ("GET", "/api/plugins/nix/kv"),
        ("PUT", "/api/plugins/nix/kv/a"),
    ):
        reply = await call(method, path, b'{"value":"x"}' if method == "PUT" else None)
        assert reply.status == 404, path
        assert "nix" in reply.json["error"]["why"]


async def test_call_and_logs(call: Call, probe: str) -> None:
    reply = await call("POST", "/api/plugins/probe/call", b'{"ping":1}')
    assert (reply.status, reply.json) == (200, {"pong": True})
    logs = (await call("GET", "/api/plugins/probe/logs")).json
    assert [line["text"] for line in logs["lines"]] == ["called"]
    assert logs["written"] == 1


async def test_call_with_what_is_no_json(call: Call, probe: str) -> None:
    reply = await call("POST", "/api/plugins/probe/call", b"{not json")
    assert reply.status == 400


async def test_both_ways_to_write_reload(call: Call, probe: str) -> None:
    first = (await call("POST", "/api/plugins/probe/reload")).json["event"]
    second = (await call("POST", "/api/plugins/reload/probe")).json["event"]
    assert (first["kind"], first["generation"]) == ("replaced", 2)
    assert (second["kind"], second["generation"]) == ("replaced", 3)


async def test_a_reload_that_fails_leaves_the_old_one(
    call: Call, probe: str, tmp_path: Path
) -> None:
    (tmp_path / "probe.wasm").write_bytes(b"\0asm rubbish")
    with structlog.testing.capture_logs() as logs:
        reply = await call("POST", "/api/plugins/probe/reload")
    assert reply.status == 422
    assert reply.json["error"]["what"] == "the plugin was not loaded"
    assert "probe" in reply.json["error"]["why"]
    audit = [line for line in logs if line["event"] == "audit"]
    assert audit[0]["log_level"] == "warning"
    assert audit[0]["result"] != "ok"
    assert (await call("POST", "/api/plugins/probe/call")).json == {"pong": True}
    assert (await call("POST", "/api/plugins/reload")).status == 200


async def test_disable_and_enable(call: Call, probe: str) -> None:
    await call("POST", "/api/plugins/probe/disable")
    one = (await call("GET", "/api/plugins/probe")).json
    assert (one["status"], one["enabled"]) == ("disabled", False)
    refused = await call("POST", "/api/plugins/probe/call")
    assert refused.status == 409
    await call("POST", "/api/plugins/probe/enable")
    assert (await call("POST", "/api/plugins/probe/call")).status == 200
    await call("POST", "/api/plugins/probe/unload")
    assert (await call("GET", "/api/plugins/probe")).json["status"] == "unloaded"


async def test_keys(call: Call, probe: str, worker: Worker) -> None:
    where = "/api/plugins/probe/kv"
    assert (await call("PUT", f"{where}/a%2Fb//c", b'{"value":"one"}')).json == {"ok": True}
    raw = {"content_type": "application/octet-stream"}
    assert (await call("PUT", f"{where}/%FF", b"\x00\xff", **raw)).status == 200
    assert worker.plugins.services.kv.get("probe", b"\xff") == b"\x00\xff"
    found = (await call("GET", f"{where}/a%2Fb//c")).json
    assert found == {"key": "a/b//c", "value": "one", "value_base64": "b25l"}
    strange = "base64:" + base64.b64encode(b"\xff").decode()
    assert (await call("GET", where)).json["keys"] == ["a/b//c", strange]
    assert (await call("GET", f"{where}?prefix=a/")).json["keys"] == ["a/b//c"]
    assert (await call("GET", f"{where}/{strange}")).json["value"] is None
    assert (await call("DELETE", f"{where}/a%2Fb//c")).status == 200
    assert (await call("DELETE", f"{where}/a%2Fb//c")).status == 404
    assert (await call("GET", f"{where}/a%2Fb//c")).status == 404


async def test_values_that_the_store_does_not_take(call: Call, probe: str, worker: Worker) -> None:
    worker.plugins.services.kv = LocalKv(KvBounds(value_bytes=3))
    where = "/api/plugins/probe/kv/k"
    assert (await call("PUT", where, b'{"value":"four"}')).status == 413
    for body in (b"[]", b"{}", b'{"value":1}', b'{"value":"a","ttl_ms":-1}', b"{", b'{"v":"a"}'):
        assert (await call("PUT", where, body)).status == 400


async def test_a_value_with_an_end(call: Call, probe: str, worker: Worker) -> None:
    await call("PUT", "/api/plugins/probe/kv/k", b'{"value":"v","ttl_ms":60000}')
    assert worker.plugins.services.kv.get("probe", b"k") == b"v"


async def test_following_logs(
    side: AdminSide, probe: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_api, "LOOK_S", 0.001)
    log = worker.plugins.logs(probe)
    log.write(2, "before")
    followers = plugin_api.Followers(side.desk)
    answers = await side.desk.ask("plugin_logs", name=probe)
    lines = followers.follow(probe, answers, is_sse=False)
    assert await anext(lines) == b""
    assert json.loads(await anext(lines))["text"] == "before"
    log.write(3, "during")
    line = json.loads(await anext(lines))
    assert (line["text"], line["level"], line["number"]) == ("during", "warn", 2)
    worker.is_draining = True
    assert [rest async for rest in lines] == []


async def test_following_as_events(side: AdminSide, probe: str, worker: Worker) -> None:
    worker.plugins.logs(probe).write(2, "before")
    answers = await side.desk.ask("plugin_logs", name=probe)
    lines = plugin_api.Followers(side.desk).follow(probe, answers, is_sse=True)
    assert await anext(lines) == b": following\n\n"
    event = await anext(lines)
    assert event.startswith(b"data: {")
    assert event.endswith(b"}\n\n")
    await lines.aclose()  # type: ignore[attr-defined]


async def test_few_may_follow(side: AdminSide, probe: str) -> None:
    followers = plugin_api.Followers(side.desk)
    answers = await side.desk.ask("plugin_logs", name=probe)
    running = [followers.follow(probe, answers, is_sse=True) for _ in range(16)]
    for lines in running:
        await anext(lines)
    with pytest.raises(AdminProblem, match="16 others"):
        followers.follow(probe, answers, is_sse=True)
    for lines in running:
        await lines.aclose()  # type: ignore[attr-defined]
    await anext(followers.follow(probe, answers, is_sse=True))
