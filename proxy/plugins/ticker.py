"""
The clock behind time limits: increments an engine's epoch from a timer of the C library.

A Python thread could not do it: a guest on the fast path holds the interpreter's lock.
"""

import ctypes
import os
from collections.abc import Callable
from ctypes import byref, c_char, c_int32, c_void_p
from functools import partial
from typing import Any, ClassVar, Final

import wasmtime

from proxy.plugins.ffi import engine_address, epoch_incrementer

_CLOCK_MONOTONIC: Final = 1
_SIGEV_THREAD: Final = 2


class _SignalEvent(ctypes.Structure):
    """struct sigevent of glibc and musl on 64-bit Linux, as used with SIGEV_THREAD."""

    _fields_: ClassVar[Any] = (
        ("value", c_void_p),
        ("signo", c_int32),
        ("notify", c_int32),
        ("function", c_void_p),
        ("attributes", c_void_p),
        ("padding", c_char * 32),
    )


class _TimeSpec(ctypes.Structure):
    _fields_: ClassVar[Any] = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_: ClassVar[Any] = (("interval", _TimeSpec), ("value", _TimeSpec))


class Ticker:
    """
    Increments an engine's epoch every `period_ms`, from a timer of the C library.

    Needs no interpreter lock, so it works while a guest holds it. A timer does not survive a fork:
    `start` in the child again. `stop` before the engine goes away.
    """

    def __init__(self, engine: wasmtime.Engine, period_ms: int) -> None:
        self.period_ms = period_ms
        self._engine = engine
        self._timer: c_void_p | None = None
        self._process_id = 0
        self._set_time: Callable[[], int] | None = None

    def start(self) -> None:
        """Start ticking in this process (idempotent)."""
        if self._timer is not None and self._process_id == os.getpid():
            return
        libc = ctypes.CDLL(None, use_errno=True)
        event = _SignalEvent(
            engine_address(self._engine), 0, _SIGEV_THREAD, epoch_incrementer(), None
        )
        timer = c_void_p()
        if libc.timer_create(_CLOCK_MONOTONIC, byref(event), byref(timer)) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"timer_create: {os.strerror(error)}")
        period = _TimeSpec(self.period_ms // 1000, self.period_ms % 1000 * 1_000_000)
        spec = _TimerSpec(period, period)
        if libc.timer_settime(timer, 0, byref(spec), None) != 0:
            error = ctypes.get_errno()
            libc.timer_delete(timer)
            raise OSError(error, f"timer_settime: {os.strerror(error)}")
        self._timer = timer
        self._process_id = os.getpid()
        # PERF: with all its arguments made; it is called hundreds of times a second.
        self._set_time = partial(libc.timer_settime, timer, 0, byref(spec), None)

    def begin_again(self) -> None:
        """Tick a period from now, and go on; nothing where it was not started in this process."""
        if self._set_time is not None and self._process_id == os.getpid():
            self._set_time()

    def rest(self) -> None:
        """Do not tick until `begin_again`."""
        if self._timer is not None and self._process_id == os.getpid():
            spec = _TimerSpec()
            ctypes.CDLL(None).timer_settime(self._timer, 0, byref(spec), None)

    def stop(self) -> None:
        """Stop ticking (idempotent)."""
        timer, self._timer = self._timer, None
        self._set_time = None
        if timer is not None and self._process_id == os.getpid():
            ctypes.CDLL(None).timer_delete(timer)

    def ticks(self, timeout_ms: float) -> int:
        """Deadline in ticks that, with the tick of grace, leaves a call at least `timeout_ms`."""
        return max(1, int(-(-timeout_ms // self.period_ms)))
