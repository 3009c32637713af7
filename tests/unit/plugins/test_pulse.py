"""The clock behind time limits waits, rests, and ticks when somebody counts on it."""

import threading
import time
from time import perf_counter_ns

import pytest
import wasmtime

from proxy.plugins.pulse import MARGIN_NS, REST_NS, Pulse
from proxy.plugins.runtime import runtime
from proxy.plugins.ticker import Ticker
from tests.support.wat import exported


class FakeTicker(Ticker):
    def __init__(self) -> None:
        super().__init__(runtime().engine, 10)
        self.did: list[str] = []

    def begin_again(self) -> None:
        self.did.append("begin")

    def rest(self) -> None:
        self.did.append("rest")


@pytest.fixture
def ticker() -> FakeTicker:
    return FakeTicker()


@pytest.fixture
def pulse(ticker: FakeTicker) -> Pulse:
    pulse = Pulse()
    pulse.follow(ticker)
    return pulse


def test_short_calls_put_the_tick_off(pulse: Pulse, ticker: FakeTicker) -> None:
    now = perf_counter_ns()
    pulse.put_off(now)
    pulse.put_off(now + 1)
    assert ticker.did == ["begin", "begin"]


def test_not_while_somebody_counts_on_ticks(pulse: Pulse, ticker: FakeTicker) -> None:
    pulse.need(5)
    now = perf_counter_ns()
    pulse.put_off(now)
    pulse.look(now + REST_NS)
    assert ticker.did == []
    pulse.put_off(now + 5 * 10 * 2_000_000 + MARGIN_NS)
    assert ticker.did == ["begin"]


def test_until_its_call_is_over(pulse: Pulse, ticker: FakeTicker) -> None:
    pulse.need(5)
    pulse.over()
    pulse.over()
    pulse.put_off(perf_counter_ns())
    assert ticker.did == ["begin"]


def test_the_longest_need_counts(pulse: Pulse) -> None:
    now = perf_counter_ns()
    pulse.need(500)
    late = now + 500 * 10 * 2_000_000 + MARGIN_NS - 1_000_000
    pulse.need(5)
    assert pulse.is_needed(late)
    pulse.over()
    assert not pulse.is_needed(now)
    pulse.need(1 << 40)
    assert pulse.is_needed(late)
    assert not pulse.is_needed(perf_counter_ns() + 1_500 * 10**9)


def test_each_thread_has_its_own_call(pulse: Pulse) -> None:
    go_on, is_there = threading.Event(), threading.Event()

    def call() -> None:
        pulse.need(500)
        is_there.set()
        go_on.wait(10)
        pulse.over()

    thread = threading.Thread(target=call)
    thread.start()
    assert is_there.wait(10)
    pulse.need(5)
    pulse.over()
    now = perf_counter_ns()
    assert pulse.is_needed(now)
    go_on.set()
    thread.join()
    assert not pulse.is_needed(now)


def test_it_rests_when_no_call_was_made_for_a_while(pulse: Pulse, ticker: FakeTicker) -> None:
    now = perf_counter_ns()
    pulse.put_off(now)
    pulse.look(now + REST_NS - 1)
    assert not pulse.is_resting
    pulse.look(now + REST_NS)
    pulse.look(now + REST_NS)
    assert ticker.did == ["begin", "rest"]
    pulse.put_off(now + 2 * REST_NS)
    assert ticker.did == ["begin", "rest", "begin"]
    pulse.look(now + 3 * REST_NS)
    pulse.need(1)
    assert ticker.did == ["begin", "rest", "begin", "rest", "begin"]
    assert not pulse.is_resting


def test_a_need_that_comes_while_it_goes_to_rest(pulse: Pulse, ticker: FakeTicker) -> None:
    def rest() -> None:
        ticker.did.append("rest")
        # A thread's call that looked before `is_resting` was set.
        pulse._needed_until_ns[1] = 1 << 62

    ticker.rest = rest  # type: ignore[method-assign]
    pulse.look(perf_counter_ns() + REST_NS)
    assert ticker.did == ["rest", "begin"]
    assert not pulse.is_resting


def test_nobody_ticks() -> None:
    pulse = Pulse()
    pulse.need(1)
    pulse.put_off(1)
    pulse.look(1 << 62)
    assert not pulse.is_resting


def loops_until_stopped(engine: wasmtime.Engine) -> str:
    """Who stops a loop: the clock, or the fuel that is its backstop."""
    module = wasmtime.Module(engine, '(module (func (export "f") (loop $l (br $l))))')
    store = wasmtime.Store(engine)
    store.set_fuel(300_000_000)
    store.set_epoch_deadline(1)
    with pytest.raises((wasmtime.Trap, wasmtime.WasmtimeError)) as raised:
        exported(store, module, "f")(store)
    return "clock" if "interrupt" in str(raised.value) else "fuel"


def test_a_real_ticker_rests_waits_and_begins_again() -> None:
    engine = wasmtime.Engine(_config())
    ticker = Ticker(engine, 2)
    ticker.begin_again()
    ticker.rest()
    assert loops_until_stopped(engine) == "fuel"
    ticker.start()
    try:
        assert loops_until_stopped(engine) == "clock"
        ticker.rest()
        # A tick may have been under way.
        time.sleep(0.05)
        assert loops_until_stopped(engine) == "fuel"
        ticker.begin_again()
        assert loops_until_stopped(engine) == "clock"
    finally:
        ticker.stop()
    ticker.begin_again()
    ticker.rest()


def _config() -> wasmtime.Config:
    config = wasmtime.Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    return config
