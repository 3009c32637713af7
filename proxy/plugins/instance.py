"""
One instance of a plugin's module: made, initialised, given its input, asked for its answer.

The calling conventions of ABI 0 and ABI 1 are here and in `subscriber`, which has the fast way
through the same steps. An instance belongs to one thread at a time.
"""

import json
from dataclasses import dataclass, field
from typing import Any, Final, final

import wasmtime

from proxy.hooks.points import BLOCKED
from proxy.plugins import ffi
from proxy.plugins.ffi import U32, GuestFunction, GuestStopped, Imports, Sandbox
from proxy.plugins.guestcall import HotCall, Look
from proxy.plugins.host import table
from proxy.plugins.host.guest import Guest
from proxy.plugins.host.plain import config_json
from proxy.plugins.host.services import Services
from proxy.plugins.limits import INIT_TIMEOUT_MS, TABLE_ELEMENTS, Limits
from proxy.plugins.module import Shape
from proxy.plugins.pulse import PULSE
from proxy.plugins.runtime import Runtime

CAUSE_BAD_ANSWER: Final = "bad_answer"
CAUSE_INPUT: Final = "input"

# Among the numbers of hooks.
_ALLOC: Final = -1
_DEALLOC: Final = -2


def _look_at_nothing() -> None:
    """For functions that are never called by `say`."""


@final
class InitRefused(Exception):
    """plugin_init answered block: the load is refused, with the plugin's reason."""


def read_init_answer(answer: bytes) -> None:
    """Take an answer of plugin_init: InitRefused for block, GuestStopped for what is none."""
    if answer == BLOCKED:
        raise InitRefused("plugin_init refused without a reason")
    try:
        verdict = json.loads(answer.decode("utf-8"))
        action = verdict["action"]
    except (ValueError, TypeError, KeyError):
        raise GuestStopped(CAUSE_BAD_ANSWER, "plugin_init answered no JSON action") from None
    if action == "block":
        reason = verdict.get("value") or verdict.get("reason") or "without a reason"
        raise InitRefused(f"plugin_init refused: {str(reason)[:500]}")
    if action != "continue":
        raise GuestStopped(
            CAUSE_BAD_ANSWER, "plugin_init answered an unknown action; expected continue or block"
        )


@dataclass(slots=True)
class Blueprint:
    """All that instances of one generation of a plugin are made from."""

    plugin: str
    runtime: Runtime
    module: wasmtime.Module
    shape: Shape
    limits: Limits
    permissions: frozenset[str]
    services: Services
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def is_component(self) -> bool:
        """Whether the second loader made it (`component`)."""
        return False

    def link(self, is_fast: bool) -> "Linked":
        """Link the host functions, for instances of one thread."""
        imports = Imports(self.runtime.engine, self.module)
        guest = Guest(self.plugin, self.permissions, self.config, self.services, imports, is_fast)
        table.link(imports, guest, self.shape.imports)
        imports.prepare()
        return Linked(imports, guest, is_fast)

    def instance(self, linked: "Linked") -> "Instance":
        """Make an instance and initialise it. Raises GuestStopped, InitRefused."""
        return Instance(self, linked)


@final
class Linked:
    """Host functions of a blueprint, linked for one thread."""

    __slots__ = ("binding", "guest", "imports")

    def __init__(self, imports: Imports, guest: Guest, is_fast: bool) -> None:
        self.imports = imports
        self.guest = guest
        self.binding = ffi.FAST if is_fast else ffi.SLOW

    def close(self) -> None:
        """Free it; its instances must be closed before."""
        self.imports.close()


@final
class Instance:
    """
    A sandbox with the exports of a plugin found in it.

    buffer     view of the guest's input buffer, empty if it has none
    address    where that buffer is
    dealloc    takes back what alloc gave, None if there is no such export
    """

    __slots__ = (
        "_alloc", "_blueprint", "_hooks", "_hot_calls", "address", "buffer", "dealloc", "is_closed", "linked",
        "sandbox", "served",
    )  # fmt: skip

    def __init__(self, blueprint: Blueprint, linked: Linked) -> None:
        """Instantiate, and initialise at ABI 1. Raises GuestStopped, InitRefused."""
        limits = blueprint.limits
        shape = blueprint.shape
        self._blueprint = blueprint
        self.linked = linked
        self._hooks: dict[int, GuestFunction] = {}
        self._hot_calls: dict[int, HotCall] = {}
        self.buffer = memoryview(b"")
        self.address = 0
        self.served = 0
        self.is_closed = False
        self.sandbox = Sandbox(
            linked.binding,
            linked.imports,
            limits.memory_bytes,
            TABLE_ELEMENTS,
            limits.init_fuel,
            blueprint.runtime.ticks(INIT_TIMEOUT_MS),
        )
        try:
            self.sandbox.bind_memory()
            self._alloc = self.sandbox.bind("alloc", 1) if shape.has_alloc else None
            self.dealloc = self.sandbox.bind("dealloc", 2) if shape.has_dealloc else None
            if shape.has_initialize:
                self._exported("_initialize", 0)()
            config = b""
            if shape.has_init:
                config = config_json(blueprint.config)
            if shape.has_input_buffer:
                # Asked once, so before plugin_init: its input goes there too.
                needed = len(config) if self._alloc is None else 0
                self._find_buffer(max(limits.input_bytes, needed))
            if shape.has_init:
                self._init(blueprint, config)
        except BaseException:
            self.close()
            raise
        finally:
            PULSE.over()

    def _exported(self, name: str, arguments: int) -> GuestFunction:
        function = self.sandbox.bind(name, arguments)
        if function is None:
            raise GuestStopped(ffi.CAUSE_HOST, f"export {name} has gone")
        return function

    def _init(self, blueprint: Blueprint, config: bytes) -> None:
        address = self.place(config)
        packed = self._exported("plugin_init", 2)(address, len(config))
        answer = self.answer(packed, blueprint.limits.output_bytes)
        self.release_input(address, len(config))
        if answer is not None:
            read_init_answer(answer)

    def _find_buffer(self, capacity: int) -> None:
        address = self._exported("input_buffer", 1)(capacity) & U32
        if address == 0:
            if self._alloc is None:
                raise GuestStopped(
                    CAUSE_BAD_ANSWER, f"input_buffer has no {capacity} bytes and there is no alloc"
                )
            return
        if not self.sandbox.holds(address, capacity):
            raise GuestStopped(
                CAUSE_BAD_ANSWER,
                f"input_buffer({capacity}) answered {address}, which reaches outside memory",
            )
        self.address = address
        self.buffer = self.sandbox.memory[address : address + capacity]

    def activate(self) -> None:
        """Its host functions belong to it from now on."""
        self.linked.imports.active = self.sandbox

    def rebind(self, is_fast: bool) -> None:
        """Go on in another thread, with or without the interpreter's lock during calls."""
        binding = ffi.FAST if is_fast else ffi.SLOW
        self.linked.binding = binding
        self.linked.guest.is_fast = is_fast
        self.sandbox.use(binding)
        self._hooks.clear()
        shape = self._blueprint.shape
        self._alloc = self.sandbox.bind("alloc", 1) if shape.has_alloc else None
        self.dealloc = self.sandbox.bind("dealloc", 2) if shape.has_dealloc else None

    def hook(self, number: int) -> GuestFunction:
        """The export of a hook, ready to be called."""
        function = self._hooks.get(number)
        if function is None:
            function = self._exported(self._blueprint.shape.exports[number], 2)
            self._hooks[number] = function
        return function

    def hot_call(self, number: int, fuel: int, look: Look) -> HotCall:
        """The export of a hook for the hot path; its fuel and `look` are always the same."""
        call = self._hot_calls.get(number)
        if call is None:
            call = self.sandbox.hot_call(
                self.hook(number), fuel, self.address, len(self.buffer), look
            )
            self._hot_calls[number] = call
        return call

    def hot_alloc(self) -> HotCall | None:
        """`alloc` for the hot path, if there is one; its second argument is nothing."""
        return self._hot(_ALLOC, self._alloc)

    def hot_dealloc(self) -> HotCall | None:
        """`dealloc` for the hot path, if there is one."""
        return self._hot(_DEALLOC, self.dealloc)

    def _hot(self, number: int, function: GuestFunction | None) -> HotCall | None:
        call = self._hot_calls.get(number)
        if call is None and function is not None:
            call = self.sandbox.hot_call(function, 0, 0, 0, _look_at_nothing)
            self._hot_calls[number] = call
        return call

    def place(self, payload: bytes) -> int:
        """Write an input into the guest's memory; its address. Runs `alloc` where needed."""
        length = len(payload)
        if length <= len(self.buffer):
            self.buffer[:length] = payload
            return self.address
        if self._alloc is None:
            raise GuestStopped(
                CAUSE_INPUT, f"input of {length} bytes; the input buffer has {len(self.buffer)}"
            )
        address = self._alloc(length) & U32
        self.put(address, payload)
        return address

    def put(self, address: int, payload: bytes) -> None:
        """Write an input to where `alloc` has said. Raises GuestStopped where it cannot be."""
        length = len(payload)
        if address == 0 or not self.sandbox.holds(address, length):
            cause = CAUSE_BAD_ANSWER
            if self.sandbox.memory_bytes + ffi.PAGE_BYTES > self.sandbox.memory_limit_bytes:
                cause = ffi.CAUSE_MEMORY
            raise GuestStopped(
                cause, f"alloc({length}) answered {address}, which reaches outside memory"
            )
        self.sandbox.memory[address : address + length] = payload

    def release_input(self, address: int, length: int) -> None:
        """Hand back an input's memory, unless it is in the input buffer."""
        if self.dealloc is None or self._blueprint.shape.abi == 0:
            return  # an ABI 0 instance goes as a whole, right after its one call
        if address != self.address or not self.buffer:
            self.dealloc(address, length)

    def answer(self, packed: int, limit_bytes: int) -> bytes | None:
        """
        What a hook's i64 means: None (default), BLOCKED, or the answer's bytes, copied and handed
        back. Raises GuestStopped with the cause bad_answer.
        """
        if packed == 0:
            return None
        address, length = (packed >> 32) & U32, packed & U32
        is_legacy = self._blueprint.shape.abi == 0
        if address == 0 and (length == 1 or not is_legacy):
            if length == 1:
                return BLOCKED
            raise GuestStopped(CAUSE_BAD_ANSWER, f"immediate verdict {length} is not known")
        if length == 0 and is_legacy:
            return None
        if length > limit_bytes:
            raise GuestStopped(
                CAUSE_BAD_ANSWER, f"answer of {length} bytes; the limit is {limit_bytes}"
            )
        if not self.sandbox.holds(address, length):
            raise GuestStopped(
                CAUSE_BAD_ANSWER, f"answer at {address}, {length} bytes, reaches outside memory"
            )
        data = bytes(self.sandbox.memory[address : address + length])
        if self.dealloc is not None and not is_legacy:
            self.dealloc(address, length)
        return data

    def run(self, number: int, payload: bytes) -> bytes | None:
        """Call a hook the plain way, under its own limits. Raises GuestStopped."""
        blueprint = self._blueprint
        limits = blueprint.limits
        self.served += 1
        self.linked.imports.active = self.sandbox
        ticks = blueprint.runtime.ticks(limits.timeout_ms_of(number))
        self.linked.guest.begin_call(ticks)
        try:
            self.sandbox.refuel(limits.fuel_of(number), ticks)
            address = self.place(payload)
            packed = self.hook(number)(address, len(payload))
            answer = None
            if number not in blueprint.shape.observers:
                answer = self.answer(packed, limits.output_bytes)
            self.release_input(address, len(payload))
        finally:
            PULSE.over()
        return answer

    def fuel_left(self) -> int:
        """Fuel that the last call did not use."""
        return self.sandbox.fuel_left()

    def memory_bytes(self) -> int:
        """Linear memory now."""
        self.sandbox.grow_view()
        return self.sandbox.memory_bytes

    def close(self) -> None:
        """Free it (idempotent)."""
        self.is_closed = True
        if self.buffer:
            self.buffer.release()
            self.buffer = memoryview(b"")
        self._hooks.clear()
        self._hot_calls.clear()
        self.sandbox.close()
