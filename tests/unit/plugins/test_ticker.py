"""The clock of the C library: it ticks, stops, and survives a fork by being made again."""

import subprocess
import sys

import wasmtime

from proxy.plugins.ffi import epoch_incrementer
from proxy.plugins.runtime import runtime
from proxy.plugins.ticker import Ticker
from tests.support.wat import exported


def timeout_loop(engine):
    """Whether a loop is stopped by the clock, with fuel as the backstop."""
    module = wasmtime.Module(engine, '(module (func (export "f") (loop $l (br $l))))')
    store = wasmtime.Store(engine)
    store.set_fuel(500_000_000)
    store.set_epoch_deadline(1)
    function = exported(store, module, "f")
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
    # Forked from a process of its own: the tests' may have threads, of which a child has copies
    # of the locks and not the threads that would release them.
    done = subprocess.run(
        [sys.executable, "-c", _FORK], timeout=25, check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "parent True\nchild True\n"), done.stderr


_FORK = """
import os
from proxy.plugins.runtime import runtime
from tests.unit.plugins.test_ticker import timeout_loop

def tick(name):
    here = runtime()
    here.ticker.start()
    stopped = here.process_id == os.getpid() and timeout_loop(here.engine)
    print(name, stopped, flush=True)

tick("parent")
child = os.fork()
if child == 0:
    try:
        tick("child")
    finally:
        os._exit(0)
os.waitpid(child, 0)
"""
