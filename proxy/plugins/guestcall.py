"""
A call into a guest in as few steps as can be: the hot path's way in, once for each statement.

`CtypesCall` says what it does. By ctypes that is a dozen steps through the interpreter: 1.2 us for a
plugin that says nothing, four fifths of what it costs. Where there is a compiler when the package is
built, `_guestcall.c` does the very same in one step, 0.2 us, and is what `GuestCall` is then.

Knows addresses, and nothing of whom they belong to: `plugins.ffi` finds them.
"""

import ctypes
from bisect import bisect_left
from collections.abc import Callable
from ctypes import byref, c_int64, c_size_t, c_uint64, c_void_p
from functools import partial
from time import perf_counter_ns
from typing import Any, Final, Protocol, final

from proxy.observe.counters import LATENCY_BUCKETS_US
from proxy.sql.json_text import json_of_text

_PYBUF_WRITE: Final = 0x200

# No types of arguments on purpose: every argument is a ready ctypes object, and converting it again
# on each call would cost more than the call. It keeps the interpreter's lock.
_Function: Final = ctypes.PYFUNCTYPE(c_void_p)

_make_view: Final = ctypes.pythonapi.PyMemoryView_FromMemory
_make_view.restype = ctypes.py_object
_make_view.argtypes = [c_void_p, ctypes.c_ssize_t, ctypes.c_int]


def view_of(address: int, size: int) -> memoryview:
    """A view on memory of the library's; whoever has it must not outlive that."""
    return _make_view(address, size, _PYBUF_WRITE) if size else memoryview(bytearray())


Look = Callable[[], object]
Maker = Callable[
    [int, int, int, int, int, int, int, int, int, int, int, int, object, Look], "HotCall"
]

BOUNDS_NS: Final = tuple(bound_us * 1000 for bound_us in LATENCY_BUCKETS_US)
EXACT_CALLS: Final = 64
FUEL_SAMPLE: Final = 8
"""
Beyond the first calls, one in so many has its fuel read, and stands for all. PERF: 0.25 us each where
nothing is compiled.
"""
LOOK_NS: Final = 5_000_000


class HotCall(Protocol):
    """One exported function of an instance, (i32, i32) -> i64, ready to be called."""

    def give(self, payload: bytes, /) -> int | None:
        """
        Set the fuel, write the input into the guest's buffer, call with its place. The result, or
        None where the guest did not come back: then ask `take_error`, and look at the trap.

        TypeError where it is not bytes, ValueError where it is longer than the buffer, RuntimeError
        after `close`.
        """

    def say(self, opening: bytes, text: bytes, /, *pieces: bytes | int) -> int | None:
        """
        As `give`, with an input that is put together where the guest reads it: `opening`, `text` as a
        JSON string (nothing at all where it is empty), and the pieces: bytes as they are, numbers
        from 0 in decimal.

        What it does is counted here (`take_counts`), and before a call, every LOOK_NS at most,
        `look` is called. False where the input may not fit into the buffer, or the text is not ASCII:
        nothing was called.
        TypeError and ValueError where a piece is none, OverflowError for one beyond 63 bits.
        """

    def take_counts(self) -> tuple[int, int, int, tuple[int, ...]]:
        """
        Of calls by `say` since the last time: how many, the fuel of those that came back (beyond the
        first EXACT_CALLS, every FUEL_SAMPLEth stands for all), their time in nanoseconds, and how many
        of them took up to each of BOUNDS_NS, and longer.
        """

    def elapsed_ns(self) -> int:
        """How long the last call by `say` took."""

    def run(self, first: int, second: int, /) -> int | None:
        """Call with these arguments, on the fuel that is left; the same otherwise."""

    def read(self, place: int, size: int, /) -> bytes | None:
        """Copy what the guest has written; None where that is not within the memory known here."""

    def refuel(self) -> None:
        """Set the fuel, for calls by `run`."""

    def fuel_used(self) -> int:
        """Of the fuel that was set last, what is used by now."""

    def take_error(self) -> int | None:
        """Address of the last call's wasmtime_error_t, whose owner is now the caller; or None."""

    def close(self) -> None:
        """The store is about to go: no more calls."""


@final
class CtypesCall:
    """A HotCall by ctypes."""

    __slots__ = (
        "_address", "_buckets", "_buffer", "_call", "_elapsed_ns", "_error", "_fuel", "_fuel_counted",
        "_get_fuel", "_is_closed", "_last_ns", "_look", "_looked_ns", "_memory", "_owner", "_said",
        "_set_fuel", "_slots", "_trap",
    )  # fmt: skip

    def __init__(
        self,
        set_fuel: int,
        get_fuel: int,
        call: int,
        context: int,
        function: int,
        trap: int,
        fuel: int,
        buffer: int,
        capacity: int,
        address: int,
        memory: int,
        memory_bytes: int,
        owner: object,
        look: Look,
        /,
    ) -> None:
        """
        set_fuel  address of wasmtime_context_set_fuel
        get_fuel  address of wasmtime_context_get_fuel
        call      address of wasmtime_func_call_unchecked
        context   of the store
        function  address of a wasmtime_func_t
        trap      address of a pointer; not null after a call: a trap that somebody must free
        fuel      of each call by `give`
        buffer    address of the guest's input buffer, of `capacity` bytes; 0 if it has none
        address   where that is to the guest
        memory    address of the guest's memory, of `memory_bytes` bytes at least; it does not move
        owner     of function and trap, kept alive for as long as this is
        look      called now and then before a call by `say`

        ValueError where an address is null.
        """
        if not (set_fuel and get_fuel and call and context and function and trap) or capacity < 0:
            raise ValueError("a guest's call needs addresses that are not null")
        if capacity and not buffer:
            raise ValueError("a guest's buffer needs an address")
        if memory_bytes < 0 or (memory_bytes and not memory):
            raise ValueError("a guest's memory needs an address")
        self._owner = owner
        self._look = look
        self._looked_ns = 0
        self._said = 0
        self._fuel_counted = 0
        self._elapsed_ns = 0
        self._last_ns = 0
        self._buckets = [0] * (len(BOUNDS_NS) + 1)
        self._is_closed = False
        self._address = address
        self._buffer = view_of(buffer, capacity)
        self._memory = view_of(memory, memory_bytes)
        self._error: int | None = None
        # Two slots of 16 bytes, of which a number takes the first half.
        self._slots = (c_int64 * 4)()
        self._trap = c_void_p.from_address(trap)
        self._fuel = fuel
        self._get_fuel: Any = partial(_Function(get_fuel), c_void_p(context))
        self._set_fuel: Any = partial(_Function(set_fuel), c_void_p(context), c_uint64(fuel))
        self._call: Any = partial(
            _Function(call),
            c_void_p(context),
            c_void_p(function),
            self._slots,
            c_size_t(2),
            c_void_p(trap),
        )

    def give(self, payload: bytes, /) -> int | None:
        """See HotCall."""
        if not isinstance(payload, bytes):
            raise TypeError("the input of a guest is bytes")
        length = len(payload)
        if length > len(self._buffer):
            raise ValueError("the input is longer than the guest's buffer")
        self._ask_whether_closed()
        self._error = self._set_fuel()
        if self._error:
            return None
        self._buffer[:length] = payload
        return self.run(self._address, length)

    def say(self, opening: bytes, text: bytes, /, *pieces: bytes | int) -> int | None:
        """See HotCall."""
        if not isinstance(opening, bytes) or not isinstance(text, bytes):
            raise TypeError("say takes bytes, a text in bytes, and pieces")
        self._ask_whether_closed()
        whole = [opening]
        if text:
            if not text.isascii():
                return False
            whole.append(json_of_text(text.decode()))
        whole.extend(_written(piece) for piece in pieces)
        payload = b"".join(whole)
        if len(payload) > len(self._buffer):
            return False
        started_ns = perf_counter_ns()
        if started_ns - self._looked_ns > LOOK_NS:
            self._looked_ns = started_ns
            self._look()
            started_ns = perf_counter_ns()
        packed = self.give(payload)
        self._count(perf_counter_ns() - started_ns, packed is not None)
        return packed

    def _count(self, elapsed_ns: int, came_back: bool) -> None:
        self._buckets[bisect_left(BOUNDS_NS, elapsed_ns)] += 1
        self._elapsed_ns += elapsed_ns
        self._last_ns = elapsed_ns
        said = self._said
        self._said += 1
        if came_back and said < EXACT_CALLS:
            self._fuel_counted += self.fuel_used()
        elif came_back and said % FUEL_SAMPLE == 0:
            self._fuel_counted += self.fuel_used() * FUEL_SAMPLE

    def take_counts(self) -> tuple[int, int, int, tuple[int, ...]]:
        """See HotCall."""
        counts = (
            sum(self._buckets),
            self._fuel_counted,
            self._elapsed_ns,
            tuple(self._buckets),
        )
        self._fuel_counted = 0
        self._elapsed_ns = 0
        self._buckets = [0] * (len(BOUNDS_NS) + 1)
        return counts

    def elapsed_ns(self) -> int:
        """See HotCall."""
        return self._last_ns

    def run(self, first: int, second: int, /) -> int | None:
        """See HotCall."""
        self._ask_whether_closed()
        slots = self._slots
        slots[0] = first
        slots[2] = second
        self._error = error = self._call()
        if error or self._trap.value:
            return None
        return int(slots[0])

    def read(self, place: int, size: int, /) -> bytes | None:
        """See HotCall."""
        self._ask_whether_closed()
        if place < 0 or size < 0 or place + size > len(self._memory):
            return None
        return bytes(self._memory[place : place + size])

    def refuel(self) -> None:
        """See HotCall."""
        self._ask_whether_closed()
        self._set_fuel()

    def fuel_used(self) -> int:
        """See HotCall."""
        self._ask_whether_closed()
        left = c_uint64(self._fuel)
        self._get_fuel(byref(left))
        return max(0, self._fuel - left.value)

    def take_error(self) -> int | None:
        """See HotCall."""
        error, self._error = self._error, None
        return error

    def close(self) -> None:
        """See HotCall."""
        self._is_closed = True

    def _ask_whether_closed(self) -> None:
        if self._is_closed:
            raise RuntimeError("the instance is closed")


def _written(piece: bytes | int) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if not isinstance(piece, int):
        raise TypeError("a piece is bytes or a whole number")
    if piece < 0:
        raise ValueError("a number in a guest's input is not negative")
    if piece >= 1 << 63:
        raise OverflowError("a number in a guest's input has 63 bits at most")
    return b"%d" % piece


def _best() -> "Maker":
    try:
        from proxy.plugins import _guestcall
    except ImportError:
        return CtypesCall
    return _guestcall.GuestCall


GuestCall: Final = _best()
"""Makes a HotCall; the arguments are CtypesCall's."""
