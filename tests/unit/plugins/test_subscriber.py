"""What a call counts, and how the breaker lets it try again."""

import asyncio
from time import perf_counter_ns

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import AUTHORIZE, NOT_SAID, ON_CONNECT, POST_QUERY, PRE_QUERY, ROUTE
from proxy.plugins import subscriber as subscribers
from proxy.plugins.pulse import PULSE, REST_NS
from proxy.session.context import ClientContext
from proxy.sql.classify import PgClassifier
from tests.support.wat import FakePipeline, Waiting, body_wat, make_manager, manifest, put, until

# Traps while the first input byte is "T".
MOODY = body_wat(
    "(if (i32.eq (i32.load8_u (local.get 0)) (i32.const 84)) (then unreachable)) (i64.const 0)"
)


@pytest.fixture
async def load(tmp_path):
    pipeline = FakePipeline()
    manager = make_manager(tmp_path, pipeline)

    async def load_one(wat, text, hook=PRE_QUERY):
        put(tmp_path, "p", wat, text)
        event = (await manager.reload())[0]
        assert event.kind != "load_failed", event.message
        return pipeline.chains.points[hook][0]

    yield load_one
    await manager.stop()


async def test_calls_are_counted_and_timed(load):
    hook = await load(MOODY, manifest("p"))
    for _ in range(3):
        hook.call(b"{}")
    with pytest.raises(PluginFailed):
        hook.call(b"T")
    stats = hook.stats
    assert stats.calls == 4
    assert stats.latency.count == sum(stats.latency.buckets) == 4
    assert stats.latency.sum_us > 0
    assert stats.fuel > 0
    assert stats.errors == {"trap": 1}


async def test_a_call_does_not_inherit_the_last_ones_time(load):
    hook = await load(MOODY, manifest("p"))
    hook.call(b"{}")
    deadline = hook.owner.resident().sandbox.deadline
    deadline.left = 0
    hook.call(b"{}")
    assert deadline.left > 0


async def test_the_way_into_an_instance_is_made_once(load):
    hook = await load(MOODY, manifest("p"))
    assert hook.call(b"{}") is None
    first = hook._entry.call
    hook.forget_instance()
    assert hook.call(b"{}") is None
    assert hook._entry.call is first


def say(hook, opening=b"{", text=b"", number=1):
    return hook.say(opening, text, b"", b"", number, b"", b"", b"}")


async def test_what_is_said_is_counted_like_a_call(load):
    hook = await load(MOODY, manifest("p"))
    # Whose instance is not there yet is called.
    assert say(hook) is NOT_SAID
    assert hook.stats.calls == 0
    hook.call(b"{}")
    for _ in range(2):
        assert say(hook) is None
    deadline = hook.owner.resident().sandbox.deadline
    deadline.left = 0
    with pytest.raises(PluginFailed, match="unreachable"):
        say(hook, b"T")
    stats = hook.stats
    assert stats.calls == stats.latency.count == 4
    assert stats.errors == {"trap": 1}
    assert deadline.left > 0
    # The instance that trapped is gone, and the next one has to be found.
    assert say(hook) is NOT_SAID
    assert hook.call(b"{}") is None
    assert say(hook) is None


async def test_an_answer_to_what_was_said_is_read(load):
    hook = await load(body_wat("$answer", b"ok"), manifest("p"))
    assert hook.call(b"{}") == b"ok"
    assert say(hook) == b"ok"


async def test_what_cannot_be_said_has_to_be_called(load):
    hook = await load(MOODY, manifest("p"))
    hook.call(b"{}")
    assert say(hook, text="ä".encode()) is NOT_SAID
    assert say(hook, b"x" * (1 << 17)) is NOT_SAID
    assert hook.stats.calls == 1
    assert say(hook, text=b"a") is None


async def test_nothing_is_said_while_the_breaker_is_open(load):
    hook = await load(MOODY, manifest("p"))
    hook.call(b"{}")
    for _ in range(5):
        with pytest.raises(PluginFailed, match="unreachable"):
            hook.call(b"T")
    assert say(hook) is NOT_SAID
    with pytest.raises(PluginFailed, match="too many failures"):
        hook.call(b"{}")


async def test_nothing_is_said_without_a_buffer(load):
    wat = """(module (memory (export "memory") 4)
      (func (export "headgate_abi_1"))
      (func (export "alloc") (param i32) (result i32) (i32.const 131072))
      (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0)))"""
    hook = await load(wat, manifest("p"))
    assert hook.call(b"{}") is None
    assert say(hook) is NOT_SAID
    assert hook.stats.calls == 1


async def test_a_long_configuration_lets_no_statement_in_beyond_the_limit(load):
    """The buffer is then longer than inputs may be."""
    hook = await load(MOODY, manifest("p"))
    hook.call(b"{}")
    assert say(hook) is None
    hook.input_limit_bytes = hook._entry.capacity - 1
    hook.forget_instance()
    hook.call(b"{}")
    assert say(hook) is NOT_SAID


ABI_0 = """(module (memory (export "memory") 4)
  (func (export "alloc") (param i32) (result i32) (i32.const 4096))
  (func (export "dealloc") (param i32 i32))
  (func (export "pre_query") (param i32 i32) (result i64)
    (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 84)) (then unreachable)) (i64.const 0)))"""


@pytest.mark.parametrize("wat", [MOODY, ABI_0], ids=["abi-1", "abi-0"])
async def test_no_call_leaves_the_clock_ticking(load, wat):
    hook = await load(wat, manifest("p"))
    await until(lambda: not PULSE.is_needed(perf_counter_ns()))
    assert hook.call(b"{}") is None
    await until(lambda: not PULSE.is_needed(perf_counter_ns()))
    with pytest.raises(PluginFailed):
        hook.call(b"T")
    assert hook.stats.errors == {"trap": 1}
    # A spare instance may be made on a thread, which counts on ticks for its time.
    await until(lambda: not PULSE.is_needed(perf_counter_ns()))


async def test_what_was_said_in_vain_has_taken_its_time(load):
    """The instance is gone, and the statement's budget is told of it all the same."""
    hook = await load(body_wat("(loop $l (br $l)) (i64.const 0)"), manifest("p"))
    with pytest.raises(PluginFailed):
        hook.call(b"{}")
    hook._enter()
    hook.last_us = 0
    with pytest.raises(PluginFailed):
        say(hook)
    assert hook._entry is None
    assert hook.last_us > 100
    # Of a long call the part that the process was on the processor.
    assert 0 < hook.said_us() <= hook.last_us


async def test_after_a_call_on_a_thread_the_clock_rests(load):
    hook = await load(MOODY, manifest("p"))
    # As if no call in the loop had been made for long.
    PULSE.put_off(perf_counter_ns() - 10 * REST_NS)
    waiting = Waiting()
    hook.call_slow(b"{}", waiting)
    assert await waiting.future == (None, "")
    await asyncio.sleep(0)
    assert PULSE.is_resting


async def test_what_an_instance_has_counted_is_there_when_it_is_gone(load):
    hook = await load(MOODY, manifest("p"))
    hook.call(b"{}")
    for _ in range(10):
        assert say(hook) is None
    stats = hook.stats
    assert len(stats.meters) == 1
    hook.forget_instance()
    hook.forget_instance()
    assert stats.meters == []
    assert stats.calls == stats.latency.count == sum(stats.latency.buckets) == 11
    assert stats.fuel > 0
    hook.call(b"{}")
    say(hook)
    assert len(stats.meters) == 1
    assert stats.calls == 13
    assert hook.said_us() >= 0


async def test_half_open_lets_one_call_try(load, monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(subscribers, "perf_counter", lambda: now)
    hook = await load(MOODY, manifest("p"))
    for _ in range(5):
        with pytest.raises(PluginFailed, match="unreachable"):
            hook.call(b"T")
    with pytest.raises(PluginFailed, match="too many failures"):
        hook.call(b"{}")
    now += 1.1
    with pytest.raises(PluginFailed, match="unreachable"):
        hook.call(b"T")
    now += 1.1
    with pytest.raises(PluginFailed, match="too many failures"):
        hook.call(b"{}")
    now += 1.0
    assert hook.call(b"{}") is None
    assert hook.breaker.state == "closed"
    # The answer of that trial turns out to be rubbish.
    hook.answer_failed("bad_answer")
    with pytest.raises(PluginFailed, match="too many failures"):
        hook.call(b"{}")


async def test_after_a_trial_that_went_well_one_failure_is_one_of_five(load, monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(subscribers, "perf_counter", lambda: now)
    hook = await load(MOODY, manifest("p"))
    for _ in range(5):
        assert hook.call(b"{}") is None
        hook.answer_failed("bad_answer")
    now += 1.1
    assert hook.call(b"{}") is None
    for _ in range(4):
        assert hook.call(b"{}") is None
        hook.answer_failed("bad_answer")
        assert hook.breaker.state == "closed"
    assert hook.call(b"{}") is None
    hook.answer_failed("bad_answer")
    assert hook.breaker.state == "open"


async def test_a_trial_call_that_needs_a_fresh_instance_is_still_the_trial(load, monkeypatch):
    now = 1_000.0
    monkeypatch.setattr(subscribers, "perf_counter", lambda: now)
    # An allocator with room for five inputs that never frees.
    wat = """(module (memory (export "memory") 1)
      (global $at (mut i32) (i32.const 0))
      (func (export "headgate_abi_1"))
      (func (export "alloc") (param i32) (result i32)
        (global.set $at (i32.add (global.get $at) (i32.const 1)))
        (select (i32.const 64) (i32.const 0) (i32.le_u (global.get $at) (i32.const 5))))
      (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0)))"""
    hook = await load(wat, manifest("p"))
    for _ in range(5):
        assert hook.call(b"{}") is None
        hook.answer_failed("bad_answer")
    assert hook.breaker.state == "open"
    now += 1.1
    assert hook.call(b"{}") is None
    assert hook.breaker.state == "closed"


async def test_an_input_over_the_buffer_goes_through_alloc_and_dealloc(load):
    wat = """(module (memory (export "memory") 4)
      (global $live (mut i32) (i32.const 0))
      (func (export "headgate_abi_1"))
      (func (export "alloc") (param i32) (result i32)
        (global.set $live (i32.add (global.get $live) (i32.const 1))) (i32.const 131072))
      (func (export "dealloc") (param i32 i32)
        (global.set $live (i32.sub (global.get $live) (i32.const 1))))
      (func (export "pre_query") (param i32 i32) (result i64)
        (i32.store8 (i32.const 16) (i32.add (i32.const 48) (global.get $live)))
        (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const 1))))"""
    hook = await load(wat, manifest("p"))
    # The input is live during the call; afterwards input and answer have been handed back.
    assert hook.call(b"{}") == b"1"
    assert hook.call(b"{}") == b"0"


async def test_an_observer_without_a_result(load):
    wat = body_wat("(i64.const 0)").replace(
        '(func (export "pre_query") (param i32 i32) (result i64) (i64.const 0))',
        '(func (export "post_query") (param i32 i32))',
    )
    hook = await load(wat, manifest("p", hooks='"post_query"', permissions=""), POST_QUERY)
    assert hook.call(b"[{},{}]") is None
    assert not hook.fails_closed


@pytest.mark.parametrize(
    ("hook", "name", "permissions", "more", "closed"),
    [
        (PRE_QUERY, "pre_query", '"query.block"', "", True),
        (PRE_QUERY, "pre_query", '"query.rewrite"', "", False),
        (PRE_QUERY, "pre_query", '"query.block"', 'on_error = "open"', False),
        (PRE_QUERY, "pre_query", '"query.rewrite"', 'on_error = "closed"', True),
        (AUTHORIZE, "authorize", "", "", True),
        (ON_CONNECT, "on_connect", "", "", False),
        (ON_CONNECT, "on_connect", '"conn.deny"', "", True),
        (ROUTE, "route", '"route.decide"', "", False),
    ],
)
async def test_failure_rules(load, hook, name, permissions, more, closed):
    wat = body_wat("(i64.const 0)", hook=name)
    found = await load(wat, manifest("p", "1.0.0", f'"{name}"', permissions, more), hook)
    assert found.fails_closed is closed


async def test_the_filter(load):
    hook = await load(
        body_wat("(i64.const 0)"),
        manifest("p", more='[match]\nkinds = ["insert"]\npure = 1').replace("\npure = 1", ""),
    )
    classifier = PgClassifier()
    client = ClientContext("c", "", False, 0.0)
    insert, select = (
        classifier.exact(text).statements[0] for text in (b"INSERT INTO t VALUES (1)", b"SELECT 1")
    )
    assert hook.matches(insert, client)
    assert not hook.matches(select, client)


def test_time_off_the_processor_is_not_the_calls() -> None:
    clock = subscribers.BusyClock()
    clock.look(0)
    # Nothing was computed meanwhile, whatever the wall says.
    assert clock.at_most_us(60_000_000) < 60_000_000
    assert clock.at_most_us(0) == 0
