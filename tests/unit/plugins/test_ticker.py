"""The clock of the C library: it ticks, stops, and survives a fork by being made again."""

import os
import time

import wasmtime

from proxy.plugins.ffi import epoch_incrementer
from proxy.plugins.runtime import runtime
from proxy.plugins.ticker import Ticker


def timeout_loop(engine):
    """Whether a loop is stopped by the clock, with fuel as the backstop."""
    module = wasmtime.Module(
        engine, wasmtime.wat2wasm('(module (func (export "f") (loop $l (br $l))))')
    )
    store = wasmtime.Store(engine)
    store.set_fuel(500_000_000)
    store.set_epoch_deadline(1)
    function = wasmtime.Instance(store, module, []).exports(store)["f"]
    try:
        function(store)
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        return "interrupt" in str(error)
    return False


def test_it_ticks_until_stopped():
    engine = runtime().engine
    ticker = Ticker(engine, 2)
    assert epoch_incrementer()
    ticker.start()
    ticker.start()
    assert timeout_loop(engine)
    ticker.stop()
    ticker.stop()


def test_a_deadline_in_ticks_leaves_the_time_with_its_tick_of_grace():
    ticker = Ticker(runtime().engine, 5)
    assert [ticker.ticks(ms) for ms in (1, 5, 10, 12, 100)] == [1, 1, 2, 3, 20]


def test_a_child_starts_its_own():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _child() else 1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.02)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def _child():
    here = runtime()
    here.ticker.start()
    return here.process_id == os.getpid() and timeout_loop(here.engine)
