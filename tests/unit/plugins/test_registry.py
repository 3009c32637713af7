"""What the API shows of a plugin, in each of its states."""

import json

from proxy.plugins.registry import Record, details, state_of, summary
from tests.support.wat import FakePipeline, body_wat, make_manager, manifest, put


async def test_details_are_json_and_complete(tmp_path):
    manager = make_manager(tmp_path, FakePipeline())
    put(tmp_path, "p", body_wat("(i64.const 0)"), manifest("p", "1.2.3"))
    await manager.start()
    shown = json.loads(json.dumps(manager.get("p")))
    assert shown["version"] == "1.2.3"
    assert shown["state"] == "Active"
    assert shown["hooks"] == ["pre_query"]
    assert shown["permissions"] == ["query.block"]
    assert shown["limits"]["fuel"] == 5_000_000
    assert shown["fails_closed"] == {"pre_query": True}
    assert shown["hook_stats"]["pre_query"]["calls"] == 0
    await manager.stop()


def test_a_plugin_that_never_loaded(tmp_path):
    record = Record("p", tmp_path / "p.wasm", error="p.wasm: broken", error_cause="file")
    assert state_of(record) is None
    shown = summary(record)
    assert (shown["status"], shown["error"], shown["version"]) == ("failed", "p.wasm: broken", None)
    assert details(record)["hook_stats"] == {}
    record.is_disabled = True
    assert summary(record)["status"] == "disabled"
