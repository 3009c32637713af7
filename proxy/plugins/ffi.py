"""
The fast way into WebAssembly: the only file that knows wasmtime's C interface.

wasmtime's Python API makes a call in about 20 us; the same call through a pre-bound C function and
a memoryview costs a fifth of one. `Sandbox` is one store with one instance and its memory:
whoever owns it may call it from one thread at a time, and nobody keeps anything of it after
`close`. `Imports` are the host functions linked into it.

Two bindings of the same library: FAST keeps the interpreter's lock during a call, which is right
for calls of microseconds; SLOW releases it, which is right on worker threads. Under FAST no Python
thread can run while a guest does, so fuel and a timer of the C library (`ticker`) stop it.

Knows nothing of plugins, hooks and envelopes.
"""

import ctypes
from collections.abc import Callable
from ctypes import byref, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from functools import partial
from time import thread_time_ns
from typing import Any, Final, final

import wasmtime
from wasmtime import _ffi as capi

from proxy.plugins.allowance import Allowance
from proxy.plugins.guestcall import GuestCall, HotCall, Look, view_of
from proxy.plugins.pulse import PULSE

U32: Final = 0xFFFFFFFF

# wasmtime_trap_code_t
_STACK_OVERFLOW: Final = 0
_INTERRUPT: Final = 10
_OUT_OF_FUEL: Final = 11

_EXTERN_FUNC: Final = 0
_EXTERN_MEMORY: Final = 3

CAUSE_TRAP: Final = "trap"
CAUSE_FUEL: Final = "fuel"
CAUSE_TIMEOUT: Final = "timeout"
CAUSE_MEMORY: Final = "memory"
CAUSE_HOST: Final = "host"

PAGE_BYTES: Final = 65_536


@final
class GuestStopped(Exception):
    """A guest did not come to its end: `cause` is trap, fuel, timeout, memory or host."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.message = message


def _check_trap_codes() -> None:
    """Fail at import if the library numbers its traps otherwise than this file assumes."""
    codes = capi.wasmtime_trap_code_enum
    expected = (
        (codes.WASMTIME_TRAP_CODE_STACK_OVERFLOW, _STACK_OVERFLOW),
        (codes.WASMTIME_TRAP_CODE_INTERRUPT, _INTERRUPT),
        (codes.WASMTIME_TRAP_CODE_OUT_OF_FUEL, _OUT_OF_FUEL),
    )
    for member, number in expected:
        if member.value != number:
            raise ImportError(f"this version of wasmtime numbers {member.name} differently")


_check_trap_codes()

CALLBACK: Final = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, ctypes.POINTER(c_int64), c_size_t)
"""Type of a host function: (data, caller, slots, slot count) -> trap or 0. A slot is 16 bytes."""

_ON_DEADLINE: Final = ctypes.CFUNCTYPE(
    c_size_t, c_void_p, c_void_p, ctypes.POINTER(c_uint64), ctypes.POINTER(c_uint8)
)
_UPDATE_CONTINUE: Final = 0


@final
class Binding:
    """The functions of the library that calls need, through one ctypes loader."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.call = self._function(library, "wasmtime_func_call_unchecked", c_void_p)
        self.set_fuel = self._function(library, "wasmtime_context_set_fuel", c_void_p)
        self.get_fuel = self._function(library, "wasmtime_context_get_fuel", c_void_p)
        self.set_deadline = self._function(library, "wasmtime_context_set_epoch_deadline", None)
        self.store_new = self._function(library, "wasmtime_store_new", c_void_p)
        self.store_delete = self._function(library, "wasmtime_store_delete", None)
        self.store_context = self._function(library, "wasmtime_store_context", c_void_p)
        self.store_on_deadline = self._function(
            library, "wasmtime_store_epoch_deadline_callback", None
        )
        self.store_limiter = self._function(library, "wasmtime_store_limiter", None)
        self.instantiate = self._function(library, "wasmtime_instance_pre_instantiate", c_void_p)
        self.export_get = self._function(library, "wasmtime_instance_export_get", ctypes.c_bool)
        self.memory_data = self._function(library, "wasmtime_memory_data", c_void_p)
        self.memory_size = self._function(library, "wasmtime_memory_data_size", c_size_t)

    @staticmethod
    def _function(library: ctypes.CDLL, name: str, result: Any) -> Any:
        # No argtypes on purpose: every argument is a ready ctypes object, and converting it again
        # on each call would cost more than the call.
        function = library[name]
        function.restype = result
        return function


FAST: Final = Binding(ctypes.PyDLL(str(capi.filename)))
SLOW: Final = Binding(ctypes.CDLL(str(capi.filename)))

_lib: Final = ctypes.PyDLL(str(capi.filename))
_trap_new: Final = _lib.wasmtime_trap_new
_trap_new.restype = c_size_t
_trap_new.argtypes = [ctypes.c_char_p, c_size_t]
_trap_code: Final = _lib.wasmtime_trap_code
_trap_code.restype = ctypes.c_bool
_trap_code.argtypes = [c_void_p, ctypes.POINTER(c_uint8)]
_trap_message: Final = _lib.wasm_trap_message
_trap_message.restype = None
_trap_message.argtypes = [c_void_p, c_void_p]
_trap_delete: Final = _lib.wasm_trap_delete
_trap_delete.restype = None
_trap_delete.argtypes = [c_void_p]
_error_message: Final = _lib.wasmtime_error_message
_error_message.restype = None
_error_message.argtypes = [c_void_p, c_void_p]
_error_new: Final = _lib.wasmtime_error_new
_error_new.restype = c_size_t
_error_new.argtypes = [ctypes.c_char_p]
_error_delete: Final = _lib.wasmtime_error_delete
_error_delete.restype = None
_error_delete.argtypes = [c_void_p]
_bytes_delete: Final = _lib.wasm_byte_vec_delete
_bytes_delete.restype = None
_bytes_delete.argtypes = [c_void_p]
_linker_define: Final = _lib.wasmtime_linker_define_func_unchecked
_linker_define.restype = c_void_p
_call_address: Final = ctypes.cast(FAST.call, c_void_p).value or 0
_get_fuel_address: Final = ctypes.cast(FAST.get_fuel, c_void_p).value or 0
_set_fuel_address: Final = ctypes.cast(FAST.set_fuel, c_void_p).value or 0


def epoch_incrementer() -> int:
    """Address of the C function that increments an engine's epoch, given the engine's."""
    return ctypes.cast(_lib.wasmtime_engine_increment_epoch, c_void_p).value or 0


def engine_address(engine: wasmtime.Engine) -> int:
    """Address of the engine itself."""
    return ctypes.cast(engine.ptr(), c_void_p).value or 0


def _take_text(vector: Any) -> str:
    text = ctypes.string_at(vector.data, vector.size).decode("utf-8", "replace")
    _bytes_delete(byref(vector))
    return text.rstrip("\0")


def take_error(pointer: int) -> str:
    """Read the message of a wasmtime_error_t and free it."""
    vector = capi.wasm_byte_vec_t()
    _error_message(pointer, byref(vector))
    message = _take_text(vector)
    _error_delete(pointer)
    return message


def take_trap(pointer: int) -> tuple[int, str]:
    """Read code (-1 for a trap that a host function made) and message of a trap, and free it."""
    code = c_uint8()
    has_code = _trap_code(pointer, byref(code))
    vector = capi.wasm_byte_vec_t()
    _trap_message(pointer, byref(vector))
    message = _take_text(vector)
    _trap_delete(pointer)
    return (code.value if has_code else -1), message


def new_trap(message: str) -> int:
    """Make a trap, for a host function to return."""
    text = message.encode("utf-8", "replace")
    return int(_trap_new(text, len(text)))


def first_line(message: str) -> str:
    """What a trap message says, without its backtrace."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if "Caused by:" in lines[:-1]:
        return lines[-1].partition(": ")[2] if lines[-1][0].isdigit() else lines[-1]
    return lines[0] if lines else "trap"


@final
class Deadline:
    """What the library calls at a tick while a guest runs; `allowance` decides."""

    __slots__ = ("allowance", "callback")

    def __init__(self) -> None:
        self.allowance = Allowance()
        self.callback = _ON_DEADLINE(self._on_deadline)

    def _on_deadline(self, _context: Any, _data: Any, delta: Any, kind: Any) -> int:
        if self.allowance.is_used_up(thread_time_ns()):
            return int(_error_new(b"time limit exceeded"))
        delta[0] = 1
        kind[0] = _UPDATE_CONTINUE
        return 0


@final
class Imports:
    """
    Host functions linked to a module, ready to be instantiated any number of times.

    active is the sandbox that runs now; a host function finds its caller's memory there. So one
    Imports serves one thread at a time. host_error is the exception out of the last host function
    that failed, host_trap the reason of one that stopped its guest on purpose (`stop`).

    """

    def __init__(self, engine: wasmtime.Engine, module: wasmtime.Module) -> None:
        self.engine = engine
        self.module = module
        self.active: Sandbox | None = None
        self.host_error: BaseException | None = None
        self.host_trap = ""
        self.deadline = Deadline()
        self._linker = wasmtime.Linker(engine)
        self._callbacks: list[Any] = []
        self._pre: wasmtime.InstancePre | None = None

    def define(
        self, module: str, name: str, functype: wasmtime.FuncType, body: Callable[..., Any]
    ) -> None:
        """
        Link one function. `body(slots) -> trap or 0` reads argument n at slots[2 * n] and leaves
        its result at slots[0]; an exception out of it becomes a trap with the cause "host".
        """
        imports = self

        def callback(_data: Any, _caller: Any, slots: Any, _count: int) -> int:
            try:
                return int(body(slots))
            except BaseException as error:
                imports.host_error = error
                return new_trap(f"host function {name} failed")

        thunk = CALLBACK(callback)
        self._callbacks.append(thunk)
        module_text, name_text = module.encode(), name.encode()
        error = _linker_define(
            self._linker.ptr(),
            module_text, c_size_t(len(module_text)),
            name_text, c_size_t(len(name_text)),
            functype.ptr(), thunk, None, None,
        )  # fmt: skip
        if error:
            raise GuestStopped(CAUSE_HOST, f"cannot link {module}.{name}: {take_error(error)}")

    def stop(self, reason: str) -> int:
        """For a host function to return: stop the guest, which counts as the guest's own trap."""
        self.host_trap = reason
        return new_trap(reason)

    def prepare(self) -> wasmtime.InstancePre:
        """Resolve all imports of the module, once."""
        if self._pre is None:
            try:
                self._pre = self._linker.instantiate_pre(self.module)
            except wasmtime.WasmtimeError as error:
                raise GuestStopped(CAUSE_HOST, str(error)) from error
        return self._pre

    def close(self) -> None:
        """Free what is linked. No sandbox made of it may be used any more."""
        if self._pre is not None:
            self._pre.close()
            self._pre = None
        self._linker.close()
        self._callbacks.clear()
        self.active = None


@final
class Sandbox:
    """
    One store, one instance, one memory. Not for two threads at a time.

    memory is a view of the whole linear memory as it was when last looked at; the guest may have
    grown it since (it never shrinks and never moves), so look again with `grow_view` before
    refusing an address.
    """

    __slots__ = (
        "_base", "_binding", "_context", "_engine", "_fuel", "_hot_calls", "_imports", "_instance",
        "_memory", "_store", "deadline", "memory", "memory_bytes", "memory_limit_bytes", "trap",
    )  # fmt: skip

    def __init__(
        self,
        binding: Binding,
        imports: Imports,
        memory_limit_bytes: int,
        table_limit: int,
        fuel: int,
        deadline_ticks: int,
    ) -> None:
        """Instantiate; the module's start function runs under `fuel` and `deadline_ticks`."""
        self._binding = binding
        self._engine = imports.engine  # kept alive as long as the store
        self._imports = imports
        self.deadline = imports.deadline.allowance
        self._fuel = c_uint64()
        self.trap = c_void_p()
        self.memory = memoryview(b"")
        self._base = 0
        self._hot_calls: list[HotCall] = []
        self.memory_bytes = 0
        self.memory_limit_bytes = memory_limit_bytes
        self._memory: Any = None
        pre = imports.prepare()
        self._store: c_void_p | None = c_void_p(binding.store_new(imports.engine.ptr(), None, None))
        self._context = c_void_p(binding.store_context(self._store))
        binding.store_on_deadline(self._store, imports.deadline.callback, None, None)
        # Four tables and one memory are what compilers make; four instances leave room for none.
        binding.store_limiter(
            self._store,
            c_int64(memory_limit_bytes), c_int64(table_limit),
            c_int64(4), c_int64(4), c_int64(1),
        )  # fmt: skip
        self.refuel(fuel, deadline_ticks)
        self._instance = capi.wasmtime_instance_t()
        imports.active = self
        error = binding.instantiate(
            pre.ptr(), self._context, byref(self._instance), byref(self.trap)
        )
        if error or self.trap.value:
            stopped = self.stopped(error)
            self.close()
            raise stopped

    @property
    def is_closed(self) -> bool:
        """Whether it has been freed."""
        return self._store is None

    def use(self, binding: Binding) -> None:
        """Make later calls through another binding. Functions bound before keep the old one."""
        self._binding = binding

    def refuel(self, fuel: int, deadline_ticks: int) -> None:
        """Set the limits of the next call; who makes it says `PULSE.over` behind it."""
        self.deadline.begin()
        PULSE.need(deadline_ticks)
        self._binding.set_fuel(self._context, c_uint64(fuel))
        self._binding.set_deadline(self._context, c_uint64(deadline_ticks))

    def extend(self, deadline_ticks: int) -> None:
        """Give the running call a new deadline, from now on."""
        self.deadline.begin()
        PULSE.need(deadline_ticks)
        self._binding.set_deadline(self._context, c_uint64(deadline_ticks))

    def count_ticks(self) -> None:
        """
        For the hot path, which sets `deadline.left` before each call: from now on the store's deadline
        is the next tick.
        """
        self._binding.set_deadline(self._context, c_uint64(1))

    def fuel_left(self) -> int:
        """Fuel that the last call did not use."""
        if self._store is None:
            return 0
        self._binding.get_fuel(self._context, byref(self._fuel))
        return self._fuel.value

    def _export(self, name: str, kind: int) -> Any:
        item = capi.wasmtime_extern_t()
        text = name.encode()
        if self._store is None:
            return None
        found = self._binding.export_get(
            self._context, byref(self._instance), text, c_size_t(len(text)), byref(item)
        )
        return item if found and int(item.kind) == kind else None

    def bind_memory(self, name: str = "memory") -> bool:
        """Find the exported memory and look at it. False: there is none."""
        item = self._export(name, _EXTERN_MEMORY)
        if item is None:
            return False
        self._memory = capi.wasmtime_memory_t()
        ctypes.pointer(self._memory)[0] = item.of.memory
        self.grow_view()
        return True

    def grow_view(self) -> bool:
        """Look at the memory again. True: it is larger than it was."""
        if self._memory is None:
            return False
        size = self._binding.memory_size(self._context, byref(self._memory))
        if size == self.memory_bytes:
            return False
        # SAFETY: the base never changes (memory_may_move is off) and the view dies in `close`.
        self._base = int(self._binding.memory_data(self._context, byref(self._memory)) or 0)
        self.memory = view_of(self._base, size)
        self.memory_bytes = size
        return True

    def bind(self, name: str, slot_count: int) -> "GuestFunction | None":
        """An exported function, ready to be called. The caller has checked its signature."""
        item = self._export(name, _EXTERN_FUNC)
        if item is None:
            return None
        function = capi.wasmtime_func_t()
        ctypes.pointer(function)[0] = item.of.func
        return GuestFunction(self, self._binding, self._context, function, slot_count)

    def hot_call(
        self, function: "GuestFunction", fuel: int, address: int, capacity: int, look: Look
    ) -> HotCall:
        """
        A function of two arguments for the hot path, under the interpreter's lock. `give` writes into
        the guest's buffer of `capacity` bytes at `address`; `look` as in HotCall.say. RuntimeError
        from it after `close`.
        """
        if self._store is None:
            raise GuestStopped(CAUSE_HOST, "the instance is closed")
        if capacity and not self.holds(address, capacity):
            raise ValueError(f"no buffer of {capacity} bytes at {address}")
        made = GuestCall(
            _set_fuel_address,
            _get_fuel_address,
            _call_address,
            self._context.value or 0,
            ctypes.addressof(function.function),
            ctypes.addressof(self.trap),
            fuel,
            self._base + address if capacity else 0,
            capacity,
            address,
            self._base,
            self.memory_bytes,
            (function.function, self.trap),
            look,
        )
        self._hot_calls.append(made)
        return made

    def holds(self, address: int, length: int) -> bool:
        """Whether the bytes from `address` on are inside the memory, looking again if need be."""
        end = address + length
        if end <= self.memory_bytes:
            return True
        self.grow_view()
        return end <= self.memory_bytes

    def stopped(self, error: int | None) -> GuestStopped:
        """Decode and free what the last call left: an error, or the trap in `trap`."""
        code, message = -1, "the call failed without a reason"
        if error:
            # Traps that host functions make come back as errors.
            message = take_error(error)
        pointer, self.trap.value = self.trap.value, None
        if pointer:
            code, message = take_trap(pointer)
        message = first_line(message)
        imports = self._imports
        if imports.deadline.allowance.take():
            return GuestStopped(CAUSE_TIMEOUT, message)
        if imports.host_trap:
            reason, imports.host_trap = imports.host_trap, ""
            return GuestStopped(CAUSE_TRAP, reason)
        if imports.host_error is not None:
            imports.host_error = None
            return GuestStopped(CAUSE_HOST, message)
        if code == -1:
            is_memory = "memory" in message and "limit" in message
            return GuestStopped(CAUSE_MEMORY if is_memory else CAUSE_TRAP, message)
        if code == _OUT_OF_FUEL:
            return GuestStopped(CAUSE_FUEL, "all fuel consumed")
        if code == _INTERRUPT:
            return GuestStopped(CAUSE_TIMEOUT, "time limit exceeded")
        if code == _STACK_OVERFLOW:
            return GuestStopped(CAUSE_TRAP, "call stack exhausted")
        self.grow_view()
        if self.memory_bytes + PAGE_BYTES > self.memory_limit_bytes:
            # Allocators answer a refused memory.grow with a trap of their own kind.
            return GuestStopped(CAUSE_MEMORY, f"memory limit reached; {message}")
        return GuestStopped(CAUSE_TRAP, message)

    def close(self) -> None:
        """Free the store with all in it (idempotent). Views and functions of it are dead after."""
        if self._store is None:
            return
        for call in self._hot_calls:
            call.close()
        self._hot_calls.clear()
        self.memory.release()
        self.memory = memoryview(b"")
        self.memory_bytes = 0
        self._memory = None
        self._binding.store_delete(self._store)
        self._store = None
        if self._imports.active is self:
            self._imports.active = None


@final
class GuestFunction:
    """
    One exported function, for calls that need not be fast; `Sandbox.hot_call` is for those that must.
    """

    __slots__ = ("_invoke", "_sandbox", "_slots", "function")

    def __init__(
        self, sandbox: Sandbox, binding: Binding, context: c_void_p, function: Any, slot_count: int
    ) -> None:
        self._sandbox = sandbox
        self.function = function
        self._slots = (c_int64 * (2 * max(slot_count, 1)))()
        self._invoke = partial(
            binding.call,
            context,
            byref(function),
            self._slots,
            c_size_t(max(slot_count, 1)),
            byref(sandbox.trap),
        )

    def __call__(self, *arguments: int) -> int:
        """Call under the fuel and deadline set before; raises GuestStopped."""
        if self._sandbox.is_closed:
            raise GuestStopped(CAUSE_HOST, "the instance is closed")
        slots = self._slots
        for number, value in enumerate(arguments):
            slots[2 * number] = value
        error = self._invoke()
        if error or self._sandbox.trap.value:
            raise self._sandbox.stopped(error)
        return int(slots[0])
