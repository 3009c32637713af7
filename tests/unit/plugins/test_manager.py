"""Discovery, replacement, disabling, draining: what each does to the chains."""

import asyncio
import gc
import os

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import BLOCKED, POST_QUERY, PRE_QUERY, ROUTE
from proxy.plugins.lifecycle import State
from proxy.settings.model import Settings
from proxy.settings.plugin_model import PluginLimits, PluginOverride, Plugins
from tests.support.wat import (
    ALL_GRANTS,
    FakePipeline,
    body_wat,
    make_manager,
    manifest,
    put,
    until,
    wasm_of,
)

ALLOW, BLOCK = body_wat("(i64.const 0)"), body_wat("(i64.const 1)")
INPUT = b"{}"


@pytest.fixture
def pipeline():
    return FakePipeline()


@pytest.fixture
async def manager(tmp_path, pipeline):
    found = make_manager(tmp_path, pipeline, drain_poll=0.01, drain_timeout=0.05)
    yield found
    await found.stop()


def names(pipeline, hook=PRE_QUERY):
    return [s.plugin for s in pipeline.chains.points[hook]]


async def test_a_directory_is_loaded_in_order_of_priority_and_name(tmp_path, manager, pipeline):
    put(tmp_path, "x", ALLOW, manifest("zeta"))
    put(tmp_path, "y", ALLOW, manifest("alpha"))
    put(tmp_path, "z", ALLOW, manifest("first", more="priority = 1"))
    await manager.start()
    assert names(pipeline) == ["first", "alpha", "zeta"]
    assert [p["name"] for p in manager.list()] == ["alpha", "first", "zeta"]
    assert manager.has_hook(PRE_QUERY)
    assert not manager.has_hook(ROUTE)
    assert pipeline.chains.points[POST_QUERY] == ()


async def test_without_a_directory_nothing_happens(pipeline):
    from proxy.plugins.manager import PluginManager

    manager = PluginManager(Settings(), pipeline)
    assert not manager.is_on
    await manager.start()
    assert pipeline.installs == 0
    assert await manager.reload() == []
    await manager.stop()


async def test_a_replacement_is_one_assignment_and_the_old_one_drains(tmp_path, manager, pipeline):
    put(tmp_path, "p", ALLOW, manifest("p", "1.0.0"))
    await manager.start()
    old_chains = pipeline.chains
    old_chains.enter()
    old = old_chains.points[PRE_QUERY][0]
    put(tmp_path, "p", BLOCK, manifest("p", "1.1.0"))
    events = await manager.reload()
    assert [(e.kind, e.old_version, e.new_version) for e in events] == [
        ("replaced", "1.0.0", "1.1.0")
    ]
    assert pipeline.installs == 2
    new = pipeline.chains.points[PRE_QUERY][0]
    assert (old.generation, new.generation) == (1, 2)
    assert new.stats is old.stats
    assert manager.get("p")["draining"] == 1
    # A statement that started with the old one goes on with it.
    assert old.call(INPUT) is None
    assert new.call(INPUT) == BLOCKED
    assert old.owner.life.state.name == "DRAINING"
    old_chains.leave()
    assert old.owner.life.state is State.REMOVED
    with pytest.raises(PluginFailed):
        old.call(INPUT)
    assert new.call(INPUT) == BLOCKED


async def test_a_drain_that_takes_too_long_is_told_and_goes_on(tmp_path, manager, pipeline):
    put(tmp_path, "p", ALLOW, manifest("p", "1.0.0"))
    await manager.start()
    chains = pipeline.chains
    chains.enter()
    old = chains.points[PRE_QUERY][0].owner
    put(tmp_path, "p", BLOCK, manifest("p", "1.1.0"))
    await manager.reload()
    await until(lambda: bool(manager.get("p")["drain_timeouts"]))
    event = manager.events.last[-1]
    assert event.kind == "drain_timeout"
    assert "1 in flight" in event.message
    assert manager._counters.by_cause["plugin_drain_timeout"] == 1
    chains.leave()
    await asyncio.wait_for(old.drained.wait(), 5)
    assert old.life.state is State.REMOVED


async def test_unchanged_plugins_keep_their_generation(tmp_path, manager, pipeline):
    put(tmp_path, "a", ALLOW, manifest("a"))
    put(tmp_path, "b", ALLOW, manifest("b"))
    await manager.start()
    before = dict(zip(names(pipeline), pipeline.chains.points[PRE_QUERY], strict=True))
    put(tmp_path, "b", BLOCK, manifest("b"))
    await manager.reload()
    after = dict(zip(names(pipeline), pipeline.chains.points[PRE_QUERY], strict=True))
    assert after["a"] is before["a"]
    assert after["b"] is not before["b"]
    assert await manager.reload() == []


async def test_a_named_reload_always_makes_a_generation(tmp_path, manager):
    put(tmp_path, "a", ALLOW, manifest("a"))
    await manager.start()
    assert [e.kind for e in await manager.reload("a")] == ["replaced"]
    assert manager.get("a")["generation"] == 2
    with pytest.raises(LookupError, match="no plugin 'b'"):
        await manager.reload("b")


async def test_removed_files_unload(tmp_path, manager, pipeline):
    path = put(tmp_path, "a", ALLOW, manifest("a"))
    await manager.start()
    path.unlink()
    assert [e.kind for e in await manager.reload()] == ["unloaded"]
    assert names(pipeline) == []
    assert manager.list() == []


async def test_unload_disable_enable(tmp_path, manager, pipeline):
    put(tmp_path, "a", ALLOW, manifest("a"))
    await manager.start()
    await manager.unload("a")
    assert manager.get("a")["status"] == "unloaded"
    assert await manager.reload() == []
    assert [e.kind for e in await manager.reload("a")] == ["loaded"]
    await manager.disable("a")
    assert manager.get("a")["status"] == "disabled"
    assert names(pipeline) == []
    put(tmp_path, "a", BLOCK, manifest("a", "2.0.0"))
    await manager.reload()
    assert names(pipeline) == []
    event = await manager.enable("a")
    assert (event.kind, event.new_version) == ("loaded", "2.0.0")
    assert names(pipeline) == ["a"]


async def test_two_files_of_one_name(tmp_path, manager):
    put(tmp_path, "a", ALLOW, manifest("same"))
    put(tmp_path, "b", ALLOW, manifest("same"))
    await manager.start()
    failed = manager.events.last[-1]
    assert failed.kind == "load_failed"
    assert "has the same name" in failed.message
    assert len(manager._pipeline.chains.points[PRE_QUERY]) == 1


async def test_a_file_may_become_another_plugin(tmp_path, manager, pipeline):
    put(tmp_path, "a", ALLOW, manifest("one"))
    await manager.start()
    put(tmp_path, "a", ALLOW, manifest("two"))
    await manager.reload()
    assert names(pipeline) == ["two"]
    assert [p["name"] for p in manager.list()] == ["two"]


async def test_the_number_of_plugins_is_limited(tmp_path, pipeline):
    manager = make_manager(tmp_path, pipeline, limits=PluginLimits(plugins=2))
    for name in "abc":
        put(tmp_path, name, ALLOW, manifest(name))
    await manager.start()
    assert names(pipeline) == ["a", "b"]
    assert "the limit is 2" in manager.get("c")["error"]
    await manager.stop()


async def test_a_plugin_that_the_configuration_names_must_load(tmp_path, pipeline):
    put(tmp_path, "guard", body_wat("(i64.const 0)", hook="route"), manifest("guard"))
    manager = make_manager(tmp_path, pipeline, settings={"guard": PluginOverride()})
    with pytest.raises(PluginFailed, match="no export pre_query"):
        await manager.start()
    await manager.stop()


async def test_the_operators_word_on_a_plugin(tmp_path, pipeline):
    put(tmp_path, "a", ALLOW, manifest("a", permissions='"query.block", "log"'))
    put(tmp_path, "off", ALLOW, manifest("off"))
    manager = make_manager(
        tmp_path,
        pipeline,
        settings={
            "a": PluginOverride(priority=3, on_error="open", grants=("log",)),
            "off": PluginOverride(enabled=False),
        },
    )
    await manager.start()
    assert names(pipeline) == ["a"]
    hook = pipeline.chains.points[PRE_QUERY][0]
    assert hook.priority == 3
    assert not hook.fails_closed
    assert hook.permissions == {"log"}
    assert manager.get("a")["permissions_not_granted"] == ["query.block"]
    assert manager.get("off")["status"] == "disabled"
    await manager.stop()


async def test_other_settings_load_everything_anew(tmp_path, manager, pipeline):
    put(tmp_path, "a", ALLOW, manifest("a"))
    await manager.start()
    assert pipeline.chains.points[PRE_QUERY][0].permissions == {"query.block"}
    less = Settings(plugins=Plugins(dir=tmp_path, watch=False, grants=("log",)))
    assert [e.kind for e in await manager.apply(less)] == ["replaced"]
    assert pipeline.chains.points[PRE_QUERY][0].permissions == frozenset()
    assert await manager.apply(less) == []
    off = Settings(
        plugins=Plugins(dir=tmp_path, watch=False, settings={"a": PluginOverride(enabled=False)})
    )
    await manager.apply(off)
    assert names(pipeline) == []
    on = Settings(plugins=Plugins(dir=tmp_path, watch=False, settings={"a": PluginOverride()}))
    await manager.apply(on)
    assert names(pipeline) == ["a"]
    await manager.apply(Settings())
    assert names(pipeline) == []
    assert manager.list() == []


async def test_config_reaches_plugin_init_under_the_operators(tmp_path, pipeline):
    wat = """(module
      (import "headgate" "config_get" (func $get (param i32 i32 i32 i32) (result i32)))
      (import "headgate" "log" (func $log (param i32 i32 i32)))
      (memory (export "memory") 4)
      (func (export "headgate_abi_1"))
      (func (export "input_buffer") (param i32) (result i32) (i32.const 65536))
      (func (export "plugin_init") (param $p i32) (param $n i32) (result i64)
        (call $log (i32.const 2) (local.get $p) (local.get $n)) (i64.const 0))
      (func (export "pre_query") (param i32 i32) (result i64) (local $n i32)
        (local.set $n (call $get (i32.const 0) (i32.const 4) (i32.const 16) (i32.const 64)))
        (call $log (i32.const 3) (i32.const 16) (local.get $n)) (i64.const 0))
      (data (i32.const 0) "mode"))"""
    text = manifest("c", permissions='"log", "config"', more='[config]\nmode = "soft"\nother = [1]')
    put(tmp_path, "c", wat, text)
    override = PluginOverride(config={"mode": "hard"})
    manager = make_manager(tmp_path, pipeline, settings={"c": override})
    await manager.start()
    pipeline.chains.points[PRE_QUERY][0].call(INPUT)
    lines = [(line.level, line.text) for line in manager.logs("c").last(9)]
    assert lines == [("info", '{"mode": "hard", "other": [1]}'), ("warn", "hard")]
    await manager.stop()


async def test_an_unreadable_directory_is_an_event(tmp_path, pipeline):
    manager = make_manager(tmp_path / "missing", pipeline)
    await manager.start()
    assert manager.events.last[-1].cause == "directory"
    await manager.stop()


async def test_the_views_that_metrics_read(tmp_path, manager, pipeline):
    put(tmp_path, "a", ALLOW, manifest("a"))
    await manager.start()
    pipeline.chains.points[PRE_QUERY][0].call(INPUT)
    view = manager.stats()[0]
    assert (view.plugin, view.version, view.status, view.state) == (
        "a",
        "1.0.0",
        "active",
        "Active",
    )
    assert view.memory_bytes == 131_072
    hook = view.hooks[0]
    assert (hook.hook, hook.stats.calls, hook.breaker) == ("pre_query", 1, "closed")
    assert sum(hook.stats.latency.buckets) == 1


async def test_a_trap_recycles_and_init_runs_again(tmp_path, pipeline):
    wat = body_wat(
        "(global.set $n (i32.add (global.get $n) (i32.const 1)))"
        "(if (i32.eq (global.get $n) (i32.const 2)) (then unreachable)) (i64.const 0)",
        extra='(import "headgate" "metric_add" (func $add (param i32 i32 i64)))'
        "(global $n (mut i32) (i32.const 0))"
        '(func (export "plugin_init") (param i32 i32) (result i64)'
        " (call $add (i32.const 32) (i32.const 5) (i64.const 1)) (i64.const 0))"
        '(data (i32.const 32) "inits")',
    )
    put(tmp_path, "a", wat, manifest("a", permissions='"metrics"'))
    manager = make_manager(tmp_path, pipeline)
    await manager.start()
    hook = pipeline.chains.points[PRE_QUERY][0]
    for _ in range(2):
        assert hook.call(INPUT) is None
        with pytest.raises(PluginFailed):
            hook.call(INPUT)
        await until(lambda: not hook.owner._is_making_spare)
    assert manager.services.metrics.of("a") == {"inits": (True, 3.0)}
    await manager.stop()


@pytest.mark.timeout(120)
async def test_many_replacements_leave_nothing_behind(tmp_path, manager, pipeline):
    put(tmp_path, "p", ALLOW, manifest("p"))
    put(tmp_path, "old", wasm_of("legacy_counter"), '{"name":"old","hooks":["pre_query"]}', ".json")
    await manager.start()
    judged: dict[int, int] = {}
    stopping = False

    async def traffic():
        while not stopping:
            chains = pipeline.chains
            chains.enter()
            found = [s for s in chains.points[PRE_QUERY] if s.plugin == "p"]
            assert len(found) == 1
            first = found[0].call(INPUT)
            # Long enough for the threads that build the next one to have the interpreter.
            await asyncio.sleep(0.0005)
            # One generation from the first hook to the last, whatever happened meanwhile.
            assert found[0].call(INPUT) == first
            assert (found[0].generation % 2 == 0) == (first == BLOCKED)
            judged[found[0].generation] = judged.get(found[0].generation, 0) + 1
            chains.leave()

    clients = [asyncio.create_task(traffic()) for _ in range(4)]
    descriptors = 0
    for round_number in range(120):
        body = "(i64.const 1)" if round_number % 2 == 0 else "(i64.const 0)"
        put(tmp_path, "p", body_wat(body), manifest("p", f"1.0.{round_number + 1}"))
        assert [e.kind for e in await manager.reload("p")] == ["replaced"]
        if round_number == 20:
            descriptors = len(os.listdir("/proc/self/fd"))
    stopping = True
    await asyncio.gather(*clients)
    assert manager.get("p")["generation"] == 121
    assert len(judged) > 60
    await until(lambda: not manager.get("p")["draining"])
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    assert len(manager._members) == 1
    assert manager.get("p")["drain_timeouts"] == 0


async def test_grants_of_the_test_helper_are_real_permissions():
    from proxy.plugins.permissions import KNOWN

    assert set(ALL_GRANTS) <= KNOWN


def move(directory, old, new):
    for suffix in (".toml", ".wasm"):
        (directory / f"{old}{suffix}").rename(directory / f"{new}{suffix}")


async def test_a_file_of_another_name_is_a_replacement(tmp_path, manager, pipeline):
    put(tmp_path, "guard-1.0", BLOCK, manifest("guard"))
    await manager.start()
    installed = pipeline.installs
    move(tmp_path, "guard-1.0", "guard-1.1")
    assert [event.kind for event in await manager.reload()] == ["replaced"]
    # One exchange: there was no moment without the policy.
    assert pipeline.installs == installed + 1
    assert names(pipeline) == ["guard"]
    assert manager.get("guard")["generation"] == 2
    assert [event.kind for event in await manager.reload()] == []


async def test_whoever_waited_for_a_name_takes_it_over(tmp_path, manager, pipeline):
    put(tmp_path, "guard-1.0", BLOCK, manifest("guard"))
    await manager.start()
    put(tmp_path, "guard-1.1", BLOCK, manifest("guard", "1.1.0"))
    assert [event.cause for event in await manager.reload()] == ["name"]
    installed = pipeline.installs
    for path in tmp_path.glob("guard-1.0.*"):
        path.unlink()
    assert [event.kind for event in await manager.reload()] == ["replaced"]
    assert pipeline.installs == installed + 1
    assert manager.get("guard")["version"] == "1.1.0"
    assert [plugin["name"] for plugin in manager.list()] == ["guard"]


async def test_a_broken_file_of_another_name_leaves_the_old_one(tmp_path, manager, pipeline):
    put(tmp_path, "guard-1.0", BLOCK, manifest("guard"))
    await manager.start()
    for path in tmp_path.glob("guard-1.0.*"):
        path.unlink()
    put(tmp_path, "guard-1.1", "(module)", manifest("guard", "1.1.0"))
    assert [event.kind for event in await manager.reload()] == ["load_failed"]
    assert names(pipeline) == ["guard"]
    shown = manager.get("guard")
    assert (shown["status"], shown["version"], shown["error_cause"]) == (
        "active",
        "1.0.0",
        "module",
    )
    assert pipeline.chains.points[PRE_QUERY][0].call(INPUT) == BLOCKED
    put(tmp_path, "guard-1.1", ALLOW, manifest("guard", "1.1.0"))
    assert [event.kind for event in await manager.reload()] == ["replaced"]
    assert manager.get("guard")["load_failures"] == 1


async def test_a_file_that_becomes_another_plugin_replaces_the_one_it_was(
    tmp_path, manager, pipeline
):
    put(tmp_path, "p", BLOCK, manifest("old"))
    await manager.start()
    put(tmp_path, "p", "(module)", manifest("new"))
    assert [event.kind for event in await manager.reload()] == ["load_failed"]
    # Nothing is taken out for something that does not load.
    assert names(pipeline) == ["old"]
    assert "no export memory" in manager.get("old")["error"]
    installed = pipeline.installs
    put(tmp_path, "p", ALLOW, manifest("new"))
    assert [event.kind for event in await manager.reload()] == ["loaded"]
    assert pipeline.installs == installed + 1
    assert names(pipeline) == ["new"]
    assert [plugin["name"] for plugin in manager.list()] == ["new"]
    assert manager.events.counts["unloaded"] == 1
    await until(lambda: not manager._tasks)


async def test_one_over_the_limit_comes_when_there_is_room(tmp_path, pipeline):
    manager = make_manager(tmp_path, pipeline, limits=PluginLimits(plugins=1))
    put(tmp_path, "a", ALLOW, manifest("a"))
    put(tmp_path, "b", ALLOW, manifest("b"))
    await manager.start()
    assert names(pipeline) == ["a"]
    assert manager.get("b")["error_cause"] == "limit"
    for path in tmp_path.glob("a.*"):
        path.unlink()
    await manager.reload()
    assert names(pipeline) == ["b"]
    await manager.stop()
