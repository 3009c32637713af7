"""The hot path's call: by ctypes and, where it was compiled, in C; both do the same."""

import ctypes
import gc
import time
import weakref
from bisect import bisect_left
from contextlib import contextmanager

import msgspec
import pytest
import wasmtime
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.counters import LATENCY_BUCKETS_US
from proxy.plugins import ffi
from proxy.plugins.ffi import FAST, GuestStopped, Imports, Sandbox
from proxy.plugins.guestcall import BOUNDS_NS, EXACT_CALLS, CtypesCall, GuestCall
from proxy.plugins.runtime import runtime

WAT = """(module
  (import "h" "f" (func $f (param i32 i32) (result i64)))
  (memory (export "memory") 1 4)
  (func (export "place") (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))
            (i64.extend_i32_u (local.get 1))))
  (func (export "first") (param i32 i32) (result i64) (i64.load8_u (local.get 0)))
  (func (export "negative") (param i32 i32) (result i64) (i64.const -5))
  (func (export "host") (param i32 i32) (result i64) (call $f (local.get 0) (local.get 1)))
  (func (export "trap") (param i32 i32) (result i64) unreachable)
  (func (export "loop") (param i32 i32) (result i64) (loop $l (br $l)) (i64.const 0)))"""

FUEL = 1_000_000
TICKS = 1000
ADDRESS = 1024
CAPACITY = 64

KINDS = [CtypesCall] if GuestCall is CtypesCall else [CtypesCall, GuestCall]


@pytest.fixture(scope="module")
def module():
    engine = runtime()
    engine.ticker.start()
    return wasmtime.Module(engine.engine, bytes(wasmtime.wat2wasm(WAT)))


@pytest.fixture(params=KINDS, ids=[kind.__name__ for kind in KINDS])
def kind(request, monkeypatch):
    monkeypatch.setattr(ffi, "GuestCall", request.param)
    return request.param


@pytest.fixture
def sandbox(kind, module):
    with sandbox_of(module) as box:
        yield box


@contextmanager
def fresh(kind, name, capacity):
    """A sandbox and a call of one kind, for a test that goes over many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ffi, "GuestCall", kind)
        engine = runtime()
        with sandbox_of(wasmtime.Module(engine.engine, bytes(wasmtime.wat2wasm(WAT)))) as box:
            yield box, hot(box, name, capacity=capacity)


@contextmanager
def sandbox_of(module):
    imports = Imports(runtime().engine, module)

    def body(slots):
        # An i32 is the lower half of its slot; what the upper one holds is nothing.
        slots[0] = (slots[0] & 0xFFFFFFFF) + (slots[2] & 0xFFFFFFFF) + 100
        return 0

    imports.define("h", "f", module.imports[0].type, body)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, TICKS)
    assert box.bind_memory()
    yield box
    box.close()
    imports.close()


def look():
    pass


def hot(box, name, fuel=FUEL, capacity=CAPACITY, look=look):
    function = box.bind(name, 2)
    assert function is not None
    return box.hot_call(function, fuel, ADDRESS if capacity else 0, capacity, look)


def test_it_is_of_the_kind_that_is_tested(kind, sandbox):
    assert type(hot(sandbox, "place")) is kind


@pytest.mark.parametrize("payload", [b"", b"x", b"\0" * 10, b"y" * CAPACITY])
def test_the_guest_is_told_where_its_input_is(sandbox, payload):
    call = hot(sandbox, "place")
    assert call.give(payload) == (ADDRESS << 32) | len(payload)
    assert bytes(sandbox.memory[ADDRESS : ADDRESS + len(payload)]) == payload
    assert call.take_error() is None


def test_the_guest_reads_the_input_of_this_call(sandbox):
    call = hot(sandbox, "first")
    assert [call.give(bytes([n, 1])) for n in (7, 0, 255)] == [7, 0, 255]


def test_nothing_is_written_outside_of_the_buffer(sandbox):
    call = hot(sandbox, "place")
    sandbox.memory[ADDRESS + CAPACITY] = 0xAA
    with pytest.raises(ValueError, match="longer than the guest's buffer"):
        call.give(b"x" * (CAPACITY + 1))
    assert sandbox.memory[ADDRESS] == 0
    call.give(b"x" * CAPACITY)
    assert sandbox.memory[ADDRESS + CAPACITY] == 0xAA


@pytest.mark.parametrize("payload", ["text", bytearray(b"x"), memoryview(b"x"), None])
def test_an_input_is_bytes(sandbox, payload):
    with pytest.raises(TypeError, match="bytes"):
        hot(sandbox, "place").give(payload)


def test_arguments_and_results_are_whole_numbers_of_both_signs(sandbox):
    assert hot(sandbox, "negative").run(0, 0) == -5
    assert hot(sandbox, "place").run(1, 2) == (1 << 32) | 2
    assert hot(sandbox, "place").run(-1, 2) == -(1 << 32) | 2


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, 3), ("1", 2), (1, None), (1, 2.5)])
def test_run_takes_two_numbers(sandbox, arguments):
    with pytest.raises(TypeError):
        hot(sandbox, "place").run(*arguments)


# -- say


def said(box, call, *pieces):
    """What the guest finds in its buffer; None: it was not called."""
    packed = call.say(*pieces)
    if packed is False:
        return None
    assert packed >> 32 == ADDRESS
    return bytes(box.memory[ADDRESS : ADDRESS + (packed & 0xFFFFFFFF)])


def test_pieces_are_put_together_where_the_guest_reads_them(sandbox):
    call = hot(sandbox, "place")
    assert said(sandbox, call, b"{", b"", b"head", b",", 70, b"", b"}") == b"{head,70}"
    assert said(sandbox, call, b'{"query":', b"select 1", b"}") == b'{"query":"select 1"}'
    assert said(sandbox, call, b"", b"x") == b'"x"'
    assert said(sandbox, call, b"", b"") == b""


@pytest.mark.parametrize("number", [0, 7, 10, 999, 1 << 40, (1 << 63) - 1, True])
def test_numbers_are_decimal(sandbox, number):
    assert said(sandbox, hot(sandbox, "place"), b"", b"", number) == b"%d" % number


def test_every_character_of_ascii_is_json(sandbox):
    call = hot(sandbox, "place")
    for code in range(128):
        for text in (chr(code), "1234567" + chr(code), "12345678" + chr(code) + "9"):
            assert said(sandbox, call, b"", text.encode()) == msgspec.json.encode(text), code


@given(st.text(st.characters(max_codepoint=127), max_size=80), st.integers(0, 9))
def test_a_text_is_the_json_that_others_make_of_it(text, number):
    made = {}
    for kind in KINDS:
        with fresh(kind, "place", capacity=512) as (box, call):
            made[kind] = said(box, call, b"[", text.encode(), b",", number, b"]")
    whole = b"[" + (msgspec.json.encode(text) if text else b"") + b",%d]" % number
    assert set(made.values()) == {whole}


@pytest.mark.parametrize(
    "text", [b"\xc3\xa4", b"select '1234567\xff", b"\x80", b"12345678\xe2\x82\xac"]
)
def test_a_text_beyond_ascii_is_not_said(sandbox, text):
    call = hot(sandbox, "trap")
    assert call.say(b"", text, b"") is False
    assert call.take_error() is None


@pytest.mark.parametrize(
    "pieces",
    [
        (b"x" * 65, b""),
        (b"x" * 64, b"", 1),
        (b"x" * 62, b"", 100),
        (b"x" * 63, b"t"),
        (b"", b"t" * 63),
        (b"", b"t" * 64),
        (b"x", b"t" * 62),
        (b"", b"", b"x" * 32, b"y" * 33),
        (b"", b"\n" * 32),
        (b"", b"\x01" * 11),
    ],
)
def test_what_does_not_fit_is_not_said_and_not_written_beyond(sandbox, pieces):
    call = hot(sandbox, "trap")
    sandbox.memory[ADDRESS + CAPACITY] = 0xAA
    assert call.say(*pieces) is False
    assert sandbox.memory[ADDRESS + CAPACITY] == 0xAA


@pytest.mark.parametrize(
    "pieces", [(b"x" * 64, b""), (b"x" * 63, b"", 1), (b"", b"t" * 62), (b"x", b"t" * 60, 7)]
)
def test_what_just_fits_is_said(sandbox, pieces):
    assert len(said(sandbox, hot(sandbox, "place"), *pieces)) == CAPACITY


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ((), TypeError),
        ((b"",), TypeError),
        (("", b""), TypeError),
        ((b"", ""), TypeError),
        ((b"", b"", "x"), TypeError),
        ((b"", b"", 1.5), TypeError),
        ((b"", b"", None), TypeError),
        ((b"", b"", -1), ValueError),
        ((b"", b"", 1 << 63), OverflowError),
        ((b"", b"", -1 << 80), (ValueError, OverflowError)),
    ],
)
def test_what_is_no_piece_is_refused(sandbox, pieces, problem):
    call = hot(sandbox, "trap")
    with pytest.raises(problem):
        call.say(*pieces)
    assert call.take_error() is None


def test_who_is_said_something_has_its_whole_fuel_and_may_stop(sandbox):
    call = hot(sandbox, "place", fuel=50)
    for _ in range(100):
        assert call.say(b"abc", b"") is not None
    assert 0 < call.fuel_used() < 20
    call = hot(sandbox, "trap")
    assert call.say(b"x", b"") is None
    assert sandbox.stopped(call.take_error()).cause == "trap"
    call = hot(sandbox, "loop")
    assert call.say(b"x", b"") is None
    assert sandbox.stopped(call.take_error()).cause == "fuel"


def test_what_is_said_is_counted(sandbox):
    """All of it with its time; the fuel exactly of the first, then by sample."""
    call = hot(sandbox, "place", fuel=50)
    assert call.take_counts() == (0, 0, 0, (0,) * 17)
    assert call.say(b"abc", b"") is not None
    each = call.fuel_used()
    assert each > 0
    calls, fuel, elapsed_ns, buckets = call.take_counts()
    assert (calls, fuel, sum(buckets)) == (1, each, 1)
    assert elapsed_ns == call.elapsed_ns() > 0
    assert call.take_counts() == (0, 0, 0, (0,) * 17)
    more = 3 * EXACT_CALLS - 1
    for _ in range(more):
        call.say(b"abc", b"")
    calls, fuel, _, buckets = call.take_counts()
    assert (calls, fuel, sum(buckets)) == (more, each * more, more)
    # Neither what was not said nor what was given counts.
    call.say(b"x" * 65, b"")
    call.give(b"x")
    assert call.take_counts()[0] == 0
    call.close()
    assert call.take_counts()[0] == 0


def test_a_call_that_was_stopped_is_counted_without_its_fuel(sandbox):
    call = hot(sandbox, "loop")
    assert call.say(b"x", b"") is None
    sandbox.stopped(call.take_error())
    calls, fuel, elapsed_ns, buckets = call.take_counts()
    assert (calls, fuel) == (1, 0)
    # A million steps take a tenth of a millisecond at least.
    assert elapsed_ns > 100_000
    assert sum(buckets[:6]) == 0


def test_counts_go_by_the_bounds_of_the_histogram(kind):
    assert tuple(1000 * bound for bound in LATENCY_BUCKETS_US) == BOUNDS_NS
    engine = runtime()
    wait = """(module (import "h" "f" (func $f (param i32 i32) (result i64)))
      (memory (export "memory") 1)
      (func (export "wait") (param i32 i32) (result i64) (call $f (local.get 0) (local.get 1))))"""
    module = wasmtime.Module(engine.engine, bytes(wasmtime.wat2wasm(wait)))
    imports = Imports(engine.engine, module)
    waits_s: list[float] = []

    def body(slots):
        time.sleep(waits_s.pop())
        return 0

    imported = module.imports[0].type
    assert isinstance(imported, wasmtime.FuncType)
    imports.define("h", "f", imported, body)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, 100 * TICKS)
    box.bind_memory()
    call = hot(box, "wait")
    for wait_s in (0.0, 0.003, 0.12):
        waits_s.append(wait_s)
        assert call.say(b"x", b"") is not None
        elapsed_ns = call.elapsed_ns()
        assert elapsed_ns >= wait_s * 1e9
        buckets = call.take_counts()[3]
        assert buckets.index(1) == bisect_left(BOUNDS_NS, elapsed_ns)
        assert sum(buckets) == 1
    box.close()
    imports.close()


def test_somebody_looks_up_before_calls_now_and_then(sandbox):
    looked = []
    call = hot(sandbox, "place", look=lambda: looked.append(1))
    for _ in range(10):
        call.say(b"x", b"")
    assert 1 <= len(looked) < 10
    before = len(looked)
    time.sleep(0.02)
    call.say(b"x", b"")
    assert len(looked) == before + 1


def test_who_looks_up_and_fails_is_heard(sandbox):
    def fail():
        raise OSError("no")

    call = hot(sandbox, "trap", look=fail)
    with pytest.raises(OSError, match="no"):
        call.say(b"x", b"")
    assert call.take_counts()[0] == 0


def test_nothing_is_said_without_a_buffer_or_after_the_end(sandbox):
    call = hot(sandbox, "place", capacity=0)
    assert call.say(b"x", b"") is False
    assert call.say(b"", b"") == 0
    call.close()
    with pytest.raises(RuntimeError):
        call.say(b"", b"")


def test_a_function_without_a_buffer_takes_no_input(sandbox):
    call = hot(sandbox, "place", capacity=0)
    assert call.run(3, 4) == (3 << 32) | 4
    with pytest.raises(ValueError, match="longer"):
        call.give(b"x")


def test_each_call_has_its_whole_fuel(sandbox):
    call = hot(sandbox, "place", fuel=50)
    for _ in range(100):
        assert call.give(b"abc") is not None
    assert 0 < call.fuel_used() < 20
    assert call.fuel_used() == 50 - sandbox.fuel_left()
    # `run` has what is left of it.
    before = call.fuel_used()
    call.run(1, 2)
    assert call.fuel_used() > before
    call.refuel()
    assert call.fuel_used() == 0


def test_a_trap_is_left_for_who_asks(sandbox):
    call = hot(sandbox, "trap")
    assert call.give(b"x") is None
    stopped = sandbox.stopped(call.take_error())
    assert (stopped.cause, sandbox.trap.value) == ("trap", None)


def test_an_endless_loop_ends_by_fuel(sandbox):
    call = hot(sandbox, "loop")
    assert call.give(b"x") is None
    assert sandbox.stopped(call.take_error()).cause == "fuel"
    assert call.fuel_used() == FUEL


def test_an_endless_loop_ends_by_the_clock_and_its_error_is_handed_over(sandbox):
    call = hot(sandbox, "loop", fuel=1 << 40)
    sandbox.refuel(1 << 40, 1)
    assert call.give(b"x") is None
    error = call.take_error()
    assert isinstance(error, int)
    assert call.take_error() is None
    assert sandbox.stopped(error).cause == "timeout"


def test_host_functions_work_on_the_way(sandbox):
    sandbox._imports.active = sandbox
    assert hot(sandbox, "host").run(1, 2) == 103


def test_a_host_function_that_fails_is_a_trap(kind, module):
    imports = Imports(runtime().engine, module)

    def body(slots):
        raise ZeroDivisionError

    imports.define("h", "f", module.imports[0].type, body)
    box = Sandbox(FAST, imports, 1 << 20, 1000, FUEL, TICKS)
    box.bind_memory()
    call = hot(box, "host")
    assert call.give(b"") is None
    assert box.stopped(call.take_error()).cause == "host"
    box.close()
    imports.close()


def test_after_the_sandbox_nothing_is_called(sandbox):
    call = hot(sandbox, "place")
    sandbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        call.give(b"x")
    with pytest.raises(RuntimeError, match="closed"):
        call.run(1, 2)
    with pytest.raises(RuntimeError, match="closed"):
        call.fuel_used()
    with pytest.raises(RuntimeError, match="closed"):
        call.refuel()
    with pytest.raises(RuntimeError, match="closed"):
        call.read(0, 1)
    function = ffi.GuestFunction(
        sandbox, FAST, ctypes.c_void_p(), wasmtime._ffi.wasmtime_func_t(), 2
    )
    with pytest.raises(GuestStopped, match="closed"):
        sandbox.hot_call(function, FUEL, 0, 0, look)


def test_a_buffer_outside_of_memory_is_not_accepted(sandbox):
    function = sandbox.bind("place", 2)
    with pytest.raises(ValueError, match="no buffer"):
        sandbox.hot_call(function, FUEL, 65_530, 7, look)


def test_its_owner_lives_as_long_as_it_and_not_longer(kind):
    class Owner:
        pass

    owner = Owner()
    call = kind(1, 1, 1, 1, 1, ctypes.addressof(ctypes.c_void_p()), 1, 0, 0, 0, 0, 0, owner, look)
    # A cycle through it is found.
    owner.call = call  # type: ignore[attr-defined]
    gone = weakref.ref(owner)
    del owner
    gc.collect()
    assert gone() is not None
    del call
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("position", range(6))
def test_null_is_not_an_address(kind, position):
    addresses = [1] * 6
    addresses[position] = 0
    with pytest.raises(ValueError, match="not null"):
        kind(*addresses, 1, 0, 0, 0, 0, 0, None, look)


@pytest.mark.parametrize(("place", "size"), [(0, 1), (1, -1)])
def test_a_buffer_and_a_memory_have_an_address_and_a_size(kind, place, size):
    with pytest.raises(ValueError, match="address"):
        kind(1, 1, 1, 1, 1, 1, 1, place, size, 0, 0, 0, None, look)
    with pytest.raises(ValueError, match="address"):
        kind(1, 1, 1, 1, 1, 1, 1, 0, 0, 0, place, size, None, look)


def test_what_the_guest_has_written_is_copied(sandbox):
    call = hot(sandbox, "place")
    sandbox.memory[2000:2003] = b"abc"
    copied = call.read(2000, 3)
    sandbox.memory[2000] = 0
    assert copied == b"abc"
    assert call.read(0, 0) == call.read(65_536, 0) == b""
    assert call.read(0, 65_536) == bytes(sandbox.memory)


@pytest.mark.parametrize(
    ("place", "size"),
    [(65_536, 1), (65_535, 2), (0, 65_537), (-1, 1), (1, -1), (2**62, 2**62), (2**63 - 1, 1)],
)
def test_nothing_is_read_from_outside_of_memory(sandbox, place, size):
    assert hot(sandbox, "place").read(place, size) is None


@pytest.mark.parametrize("arguments", [(), (1,), (1, 2, 3), ("1", 2), (1, None)])
def test_read_takes_two_numbers(sandbox, arguments):
    with pytest.raises(TypeError):
        hot(sandbox, "place").read(*arguments)
