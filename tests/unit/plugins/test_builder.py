"""Building a generation: whatever step refuses, nothing is left behind."""

import asyncio

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import PRE_QUERY
from proxy.observe.counters import HookStats
from proxy.plugins.builder import Builder
from proxy.plugins.host.services import Services
from proxy.plugins.lifecycle import State
from proxy.plugins.runtime import runtime
from proxy.settings.plugin_model import PluginOverride, Plugins
from tests.support.wat import ALL_GRANTS, body_wat, manifest, put, wasm_of


@pytest.fixture
def builder():
    runtime().ticker.start()
    found = Builder(Plugins(grants=ALL_GRANTS), runtime(), Services())
    yield found
    found.close()


async def test_a_generation_comes_out_initialized(tmp_path, builder):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"), manifest("p"))
    stats: dict[int, HookStats] = {}
    generation = await builder.build(await asyncio.to_thread(builder.read, path), 7, stats)
    assert generation.life.state.name == "INITIALIZED"
    assert generation.number == 7
    assert list(stats) == [PRE_QUERY]
    assert builder.services.logs.of("p").line_bytes == 2048
    generation.remove()
    assert generation.life.state is State.REMOVED


@pytest.mark.parametrize("name", ["init_traps", "init_refuses", "start_loops"])
async def test_a_failure_leaves_nothing(tmp_path, builder, name):
    path = put(tmp_path, "p", wasm_of(name), manifest("p"))
    source = await asyncio.to_thread(builder.read, path)
    for _ in range(2):
        with pytest.raises(PluginFailed):
            await builder.build(source, 1, {})


async def test_other_settings_count_for_the_next_one(tmp_path, builder):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"), manifest("p"))
    source = await asyncio.to_thread(builder.read, path)
    builder.update(Plugins(settings={"p": PluginOverride(config={"x": 1}, priority=4)}))
    generation = await builder.build(source, 1, {})
    assert generation.permissions == frozenset()
    assert generation.priority == 4
    assert generation.blueprint.config == {"x": 1}
    generation.remove()
