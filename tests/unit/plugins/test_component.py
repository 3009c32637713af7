"""The second loader: components with one function string to string."""

from time import perf_counter_ns

import pytest
import wasmtime

from proxy.errors import PluginFailed
from proxy.hooks.points import CUSTOM_HOOK, PRE_QUERY
from proxy.plugins.pulse import PULSE
from proxy.settings.plugin_model import PluginLimits
from tests.support.wat import FakePipeline, Waiting, make_manager, manifest, put, until, wasm_of

BLOCK = b'{"action":"block","value":"no"}'


@pytest.fixture
async def loaded(tmp_path):
    pipeline = FakePipeline()
    put(
        tmp_path, "comp", wasm_of("component"),
        # Little fuel and much time: on a loaded machine too, fuel is what ends a loop.
        manifest(
            "comp",
            hooks='"pre_query", "custom_hook"',
            more="[limits]\nfuel = 1_000_000\ntimeout_ms = 10_000",
        ),
    )  # fmt: skip
    limits = PluginLimits(timeout_ms=10_000, auth_timeout_ms=10_000)
    manager = make_manager(tmp_path, pipeline, limits=limits)
    await manager.start()
    yield manager, pipeline.chains
    await manager.stop()


async def test_a_component_answers_like_a_module(loaded):
    manager, chains = loaded
    shown = manager.get("comp")
    assert shown["kind"] == "component"
    assert shown["abi"] == 1
    hook = chains.points[PRE_QUERY][0]
    assert hook.call(b"{}") == BLOCK
    assert hook.call(b"E") is None
    assert hook.stats.calls == 2
    assert hook.stats.fuel > 0


async def test_a_component_is_stopped_and_recycled_like_a_module(loaded):
    _, chains = loaded
    hook = chains.points[PRE_QUERY][0]
    for payload, cause in ((b"Loop", "fuel"), (b"Trap", "trap")):
        with pytest.raises(PluginFailed) as caught:
            hook.call(payload)
        assert caught.value.cause == cause
        assert hook.call(b"{}") == BLOCK
    # A spare instance may be made on a thread, which counts on ticks for its time.
    await until(lambda: not PULSE.is_needed(perf_counter_ns()))
    assert hook.stats.errors == {"fuel": 1, "trap": 1}


async def test_a_component_runs_on_worker_threads(loaded):
    _, chains = loaded
    hook = chains.points[CUSTOM_HOOK][0]
    assert hook.is_slow
    for payload, expected in (
        (b"{}", (BLOCK, "")),
        (b"Loop", (None, "fuel")),
        (b"{}", (BLOCK, "")),
    ):
        waiting = Waiting()
        hook.call_slow(payload, waiting)
        assert await waiting.future == expected
    await until(lambda: not PULSE.is_needed(perf_counter_ns()))


async def test_components_within_components(tmp_path):
    pipeline = FakePipeline()
    manager = make_manager(tmp_path, pipeline)
    put(tmp_path, "two", wasm_of("component_of_two"), manifest("two"))
    event = (await manager.reload())[0]
    assert event.kind == "loaded", event.message
    assert pipeline.chains.points[PRE_QUERY][0].call(b'{"a":1}') == b'{"a":1}'
    await manager.stop()


async def test_a_compiler_that_dies_is_a_load_that_is_refused(tmp_path, monkeypatch):
    pipeline = FakePipeline()
    manager = make_manager(tmp_path, pipeline)
    put(tmp_path, "good", wasm_of("component"), manifest("good"))
    await manager.start()
    put(tmp_path, "evil", wasm_of("component"), manifest("evil"))
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\necho 'panicked at translate.rs' >&2\nkill -ABRT $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(dying))
    await manager.reload()
    error = manager.get("evil")["error"]
    assert "the compiler ended with status -6: panicked at translate.rs" in error
    assert pipeline.chains.points[PRE_QUERY][0].call(b"{}") == BLOCK
    await manager.stop()


async def test_what_is_no_plugin_component_is_refused(tmp_path):
    pipeline = FakePipeline()
    manager = make_manager(tmp_path, pipeline)
    put(tmp_path, "empty", "(component)", manifest("empty"))
    put(
        tmp_path, "import", '(component (import "evil:host/disk" (instance)) )', manifest("import")
    )  # fmt: skip
    await manager.start()
    assert "no export call" in manager.get("empty")["error"]
    assert manager.get("import")["status"] == "failed"
    await manager.stop()


async def test_another_signature_is_refused(tmp_path):
    wat = """(component
      (core module $m (func (export "call") (param i32)))
      (core instance $i (instantiate $m))
      (func (export "call") (param "n" u32) (canon lift (core func $i "call"))))"""
    manager = make_manager(tmp_path, FakePipeline())
    put(tmp_path, "other", bytes(wasmtime.wat2wasm(wat)), manifest("other"))
    await manager.start()
    assert "expected (String, String) -> String" in manager.get("other")["error"]
    await manager.stop()
