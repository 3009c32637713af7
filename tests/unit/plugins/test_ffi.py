"""The fast call path, against wasmtime's public API, and every way in which a guest stops."""

import ctypes

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.plugins import ffi
from proxy.plugins.allowance import GRACE_NS
from proxy.plugins.ffi import (
    FAST,
    SLOW,
    GuestStopped,
    Imports,
    Sandbox,
    first_line,
)
from proxy.plugins.runtime import runtime

WAT = """(module
  (import "h" "f" (func $f (param i32 i64) (result i32)))
  (memory (export "memory") 1 100)
  (global $g (mut i32) (i32.const 0))
  (func (export "mix") (param i32 i32) (result i64)
    (i64.add (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
             (i64.extend_i32_u (local.get 1))))
  (func (export "sum") (param $p i32) (param $n i32) (result i64) (local $s i64)
    (block $out (loop $in
      (br_if $out (i32.eqz (local.get $n)))
      (local.set $s (i64.add (local.get $s) (i64.load8_u (local.get $p))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br $in)))
    (local.get $s))
  (func (export "host") (param i32 i64) (result i32) (call $f (local.get 0) (local.get 1)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "trap") unreachable)
  (func (export "outside") (drop (i32.load (i32.const 0x7fffffff))))
  (func $deep (export "deep") (call $deep))
  (func (export "loop") (loop $l (br $l))))"""

FUEL = 1_000_000
TICKS = 1000


@pytest.fixture(scope="module")
def module():
    engine = runtime()
    engine.ticker.start()
    return wasmtime.Module(engine.engine, bytes(wasmtime.wat2wasm(WAT)))


def make_imports(module, body=None):
    imports = Imports(runtime().engine, module)
    imports.define("h", "f", module.imports[0].type, body or (lambda slots: 0))
    return imports


def bound(box, name, arguments):
    """A function that the module does have."""
    function = box.bind(name, arguments)
    assert function is not None
    return function


@pytest.fixture(params=[FAST, SLOW], ids=["fast", "slow"])
def sandbox(request, module):
    imports = make_imports(module)
    box = Sandbox(request.param, imports, 1 << 20, 1000, FUEL, TICKS)
    assert box.bind_memory()
    yield box
    box.close()
    imports.close()


@pytest.fixture(scope="module")
def public(module):
    store = wasmtime.Store(runtime().engine)
    store.set_fuel(1 << 40)
    store.set_epoch_deadline(1 << 40)
    linker = wasmtime.Linker(runtime().engine)
    linker.define_func("h", "f", module.imports[0].type, lambda a, b: 0)
    return store, linker.instantiate(store, module).exports(store)


@given(a=st.integers(0, 2**31 - 1), b=st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_results_are_those_of_the_public_api(module, public, a, b):
    store, exports = public
    imports = make_imports(module)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, TICKS)
    assert bound(box, "mix", 2)(a, b) == exports["mix"](store, a, b)
    box.close()
    imports.close()


@given(data=st.binary(min_size=1, max_size=2000))
@settings(max_examples=40, deadline=None)
def test_memory_is_the_one_that_the_guest_sees(module, public, data):
    store, exports = public
    imports = make_imports(module)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, TICKS)
    box.bind_memory()
    box.memory[100 : 100 + len(data)] = data
    exports["memory"].write(store, data, 100)
    assert bound(box, "sum", 2)(100, len(data)) == sum(data)
    assert bytes(box.memory[100 : 100 + len(data)]) == exports["memory"].read(
        store, 100, 100 + len(data)
    )
    box.close()
    imports.close()


def test_grown_memory_is_seen_after_looking_again(sandbox):
    assert sandbox.memory_bytes == 65_536
    assert sandbox.holds(65_535, 1)
    assert not sandbox.holds(65_536, 1)
    assert bound(sandbox, "grow", 1)(2) == 1
    assert sandbox.holds(65_536, 131_072)
    assert not sandbox.holds(65_536, 131_073)
    assert not sandbox.holds(0xFFFFFFFF, 0xFFFFFFFF)
    sandbox.memory[196_600:196_608] = b"12345678"


def test_memory_does_not_grow_past_its_limit(sandbox):
    grow = bound(sandbox, "grow", 1)
    assert grow(14) == 1
    assert grow(2) & 0xFFFFFFFF == 0xFFFFFFFF
    assert sandbox.grow_view()
    assert sandbox.memory_bytes == 15 * 65_536


@pytest.mark.parametrize(
    ("name", "cause", "text"),
    [
        ("trap", "trap", "unreachable"),
        ("outside", "trap", "out of bounds"),
        ("deep", "trap", "stack"),
        ("loop", "fuel", "fuel"),
    ],
)
def test_causes(sandbox, name, cause, text):
    with pytest.raises(GuestStopped) as caught:
        bound(sandbox, name, 0)()
    assert caught.value.cause == cause
    assert text in caught.value.message
    # The trap was taken and freed: the next call does not see it.
    sandbox.refuel(FUEL, TICKS)
    assert bound(sandbox, "mix", 2)(1, 2) == (1 << 32) | 2


def test_the_clock_stops_a_loop_with_fuel_to_spare(sandbox):
    sandbox.refuel(1_000_000_000, 1)
    with pytest.raises(GuestStopped) as caught:
        bound(sandbox, "loop", 0)()
    assert caught.value.cause == "timeout"


def test_a_call_that_runs_on_is_told_from_two_that_each_met_a_tick(sandbox, monkeypatch):
    now = 1 << 40
    monkeypatch.setattr(ffi, "thread_time_ns", lambda: now)
    mix = bound(sandbox, "mix", 2)
    for _ in range(3):
        # The time is up before the guest has done anything, each time a tick later.
        sandbox.refuel(FUEL, 0)
        assert mix(1, 2) == (1 << 32) | 2
        now += GRACE_NS
    sandbox.refuel(FUEL, 0)
    mix(1, 2)
    now += GRACE_NS
    sandbox.extend(0)
    mix(1, 2)
    # The same call, as no new one has begun.
    now += GRACE_NS
    FAST.set_deadline(sandbox._context, ctypes.c_uint64(0))
    with pytest.raises(GuestStopped, match="time limit exceeded"):
        mix(1, 2)


def test_ticks_that_come_all_at_once_stop_nobody(sandbox, monkeypatch):
    now = 1 << 40
    monkeypatch.setattr(ffi, "thread_time_ns", lambda: now)
    mix = bound(sandbox, "mix", 2)
    sandbox.refuel(FUEL, 0)
    for _ in range(4):
        # The machine was busy elsewhere: many ticks have passed, but no time of the processor.
        FAST.set_deadline(sandbox._context, ctypes.c_uint64(0))
        assert mix(1, 2) == (1 << 32) | 2
        now += 1000


def test_a_trap_at_the_memory_limit_is_called_memory(sandbox):
    bound(sandbox, "grow", 1)(15)
    with pytest.raises(GuestStopped) as caught:
        bound(sandbox, "trap", 0)()
    assert caught.value.cause == "memory"


def test_fuel_is_counted(sandbox):
    sandbox.refuel(1000, TICKS)
    bound(sandbox, "mix", 2)(1, 2)
    assert 0 < 1000 - sandbox.fuel_left() < 20


def test_ticks_can_be_counted_without_a_deadline_for_each_call(sandbox, monkeypatch):
    now = 1 << 40
    monkeypatch.setattr(ffi, "thread_time_ns", lambda: now)
    mix = bound(sandbox, "mix", 2)

    def meet_a_tick() -> None:
        FAST.set_deadline(sandbox._context, ctypes.c_uint64(0))
        mix(1, 2)

    sandbox.refuel(FUEL, TICKS)
    sandbox.count_ticks()
    for _ in range(2):
        # A call of three ticks, none of which it has from the call before.
        sandbox.deadline.left = 3
        for _ in range(3):
            now += GRACE_NS
            meet_a_tick()
    now += GRACE_NS
    with pytest.raises(GuestStopped, match="time limit exceeded"):
        meet_a_tick()


def test_host_functions_get_arguments_and_give_results(module):
    seen = []

    def body(slots):
        seen.append((slots[0] & 0xFFFFFFFF, slots[2]))
        slots[0] = 42
        return 0

    imports = make_imports(module, body)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, TICKS)
    assert bound(box, "host", 2)(0xFFFFFFFF, -7) == 42
    assert seen == [(0xFFFFFFFF, -7)]
    assert imports.active is box
    box.close()
    assert imports.active is None


def test_an_exception_in_the_host_is_a_failure_of_the_host(module):
    def body(_slots):
        raise KeyError("defect")

    imports = make_imports(module, body)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, TICKS)
    with pytest.raises(GuestStopped) as caught:
        bound(box, "host", 2)(1, 2)
    assert caught.value.cause == "host"
    assert "defect" not in caught.value.message
    with pytest.raises(GuestStopped, match="unreachable"):
        bound(box, "trap", 0)()


def test_a_host_function_may_stop_its_guest(module):
    imports = make_imports(module)
    stopper = Imports(runtime().engine, module)
    stopper.define("h", "f", module.imports[0].type, lambda slots: stopper.stop("abort: enough"))
    box = Sandbox(FAST, stopper, 1 << 20, 1000, FUEL, TICKS)
    with pytest.raises(GuestStopped) as caught:
        bound(box, "host", 2)(1, 2)
    assert (caught.value.cause, caught.value.message) == ("trap", "abort: enough")
    imports.close()


def test_a_module_over_its_memory_limit_is_not_made(module):
    with pytest.raises(GuestStopped) as caught:
        Sandbox(FAST, make_imports(module), 1024, 1000, FUEL, TICKS)
    assert caught.value.cause == "memory"


def test_an_import_that_is_not_linked_is_told(module):
    with pytest.raises(GuestStopped, match="h::f"):
        Imports(runtime().engine, module).prepare()


def test_what_is_not_exported_is_not_bound(sandbox):
    assert sandbox.bind("nothing", 0) is None
    assert sandbox.bind("memory", 0) is None
    assert not sandbox.bind_memory("mix")


def test_closing_twice_is_fine(sandbox):
    mix = bound(sandbox, "mix", 2)
    sandbox.close()
    sandbox.close()
    assert sandbox.is_closed
    assert sandbox.memory_bytes == 0
    assert sandbox.fuel_left() == 0
    assert not sandbox.holds(0, 1)
    assert sandbox.bind("mix", 2) is None
    with pytest.raises(GuestStopped, match="closed"):
        mix(1, 2)


def test_messages_are_cut_to_their_point():
    text = "error while executing\n  0: 0x1 - f\n\nCaused by:\n    0: memory access\n    1: wasm trap: x"
    assert first_line(text) == "wasm trap: x"
    assert first_line("plain") == "plain"
    assert first_line("") == "trap"
