"""Worker threads, spares and the end of a generation, where `test_manager` does not look."""

import asyncio

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import CUSTOM_HOOK, PRE_QUERY
from proxy.plugins import generation as generations
from proxy.plugins.lifecycle import NotActive, State
from proxy.plugins.subscriber import PluginHook
from tests.support.wat import (
    FakePipeline,
    Waiting,
    body_wat,
    make_manager,
    manifest,
    put,
    until,
)

ECHO = body_wat(
    "(i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))"
    " (i64.extend_i32_u (local.get 1)))",
    hook="custom_hook",
)


@pytest.fixture
async def loaded(tmp_path):
    pipeline = FakePipeline()
    put(tmp_path, "p", ECHO, manifest("p", hooks='"custom_hook"'))
    manager = make_manager(tmp_path, pipeline, drain_poll=0.01)
    await manager.start()
    yield manager, pipeline
    await manager.stop()


def hook_of(pipeline, number=CUSTOM_HOOK):
    return pipeline.chains.points[number][0]


async def call(hook, payload):
    waiting = Waiting()
    hook.call_slow(payload, waiting)
    return await waiting.future


async def test_many_calls_at_once_each_get_their_own_answer(loaded):
    _, pipeline = loaded
    hook = hook_of(pipeline)
    payloads = [b'{"n":%d}' % number for number in range(100)]
    answers = await asyncio.gather(*(call(hook, payload) for payload in payloads))
    assert answers == [(payload, "") for payload in payloads]
    assert hook.stats.calls == 100
    assert hook.owner.in_flight == 0
    assert 1 <= len(hook.owner._idle) <= 8


async def test_too_many_waiting_calls_fail(loaded, monkeypatch):
    monkeypatch.setattr(generations, "MAX_WAITING_CALLS", 0)
    _, pipeline = loaded
    assert await call(hook_of(pipeline), b"{}") == (None, "overload")
    assert hook_of(pipeline).stats.errors == {"overload": 1}


async def test_an_open_breaker_answers_waiting_calls_too(loaded):
    _, pipeline = loaded
    hook = hook_of(pipeline)
    for _ in range(5):
        hook.answer_failed("bad_answer")
    assert await call(hook, b"{}") == (None, "breaker")


async def test_a_generation_drains_after_its_last_waiting_call(loaded, tmp_path):
    manager, pipeline = loaded
    old = hook_of(pipeline).owner
    waiting = Waiting()
    hook_of(pipeline).call_slow(b"{}", waiting)
    await manager.unload("p")
    assert await waiting.future == (b"{}", "")
    await until(lambda: old.life.state is State.REMOVED)
    assert old._idle == []
    with pytest.raises(NotActive):
        old.begin_drain()


async def test_a_removed_generation_answers_no_call(loaded, tmp_path):
    manager, pipeline = loaded
    put(tmp_path, "q", body_wat("(i64.const 0)"), manifest("q"))
    await manager.reload()
    hook = hook_of(pipeline, PRE_QUERY)
    await manager.unload("q")
    await until(lambda: hook.owner.life.state is State.REMOVED)
    with pytest.raises(PluginFailed, match="was removed"):
        hook.call(b"{}")


async def test_failures_are_told_a_few_times_only(tmp_path, caplog):
    pipeline = FakePipeline()
    put(tmp_path, "p", body_wat("unreachable"), manifest("p"))
    manager = make_manager(tmp_path, pipeline)
    await manager.start()
    hook = pipeline.chains.points[PRE_QUERY][0]
    assert isinstance(hook, PluginHook)
    for _ in range(12):
        hook.breaker.state = "closed"
        hook.breaker._failures.clear()
        with pytest.raises(PluginFailed):
            hook.call(b"{}")
    assert caplog.text.count("pre_query failed") == 5
    await manager.stop()
