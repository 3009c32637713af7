"""
The second loader: WIT components, as componentize-py and componentize-qjs make them.

A component exports one function `call: func(hook: string, input: string) -> string`; the envelopes
are those of modules, an empty answer is the default. If the plugin has a `[config]`, `call` is asked
first with the hook `plugin_init`.

Of WASI there is what language runtimes need to start (`component_wasi`); everything else traps when
it is called. So a component has no files, no sockets, no environment, and nothing that waits.
"""

import ctypes
from ctypes import byref, c_int64, c_uint8, c_uint64, c_void_p
from typing import Any, Final, final

import wasmtime
from wasmtime import _ffi as capi
from wasmtime.component import Component, Linker

from proxy.errors import PluginFailed
from proxy.hooks.points import HOOK_NAMES
from proxy.plugins import ffi
from proxy.plugins.component_wasi import define_wasi
from proxy.plugins.ffi import CAUSE_FUEL, CAUSE_HOST, CAUSE_MEMORY, CAUSE_TIMEOUT, GuestStopped
from proxy.plugins.host.guest import Guest
from proxy.plugins.host.plain import config_json
from proxy.plugins.host.services import Services
from proxy.plugins.instance import CAUSE_BAD_ANSWER, read_init_answer
from proxy.plugins.limits import INIT_TIMEOUT_MS, TABLE_ELEMENTS, Limits
from proxy.plugins.manifest import Manifest
from proxy.plugins.module import OBSERVERS, Shape
from proxy.plugins.pulse import PULSE
from proxy.plugins.runtime import Runtime

_CALL: Final = "call"
_KIND_STRING: Final = 12
_CORE_INSTANCES: Final = 200
_CORE_TABLES: Final = 8
_CORE_MEMORIES: Final = 4
"""
Components are made of many core instances that share a memory and a table or two (Python: 1 and 1,
JavaScript: up to 3 memories). The memory limit holds for each.
"""

_MESSAGES: Final = (
    ("all fuel consumed", CAUSE_FUEL),
    ("time limit exceeded", CAUSE_TIMEOUT),
    ("interrupt", CAUSE_TIMEOUT),
    ("exceeds memory limits", CAUSE_MEMORY),
)

_lib: Final = ctypes.PyDLL(str(capi.filename))
_value_delete: Final = _lib.wasmtime_component_val_delete
_value_delete.restype = None
_value_delete.argtypes = [c_void_p]
_slow: Final = ctypes.CDLL(str(capi.filename))
_CALLS: Final = {True: _lib.wasmtime_component_func_call, False: _slow.wasmtime_component_func_call}
for _function in _CALLS.values():
    _function.restype = c_void_p


class ComponentBlueprint:
    """All that instances of one generation of a component are made from."""

    is_component = True

    def __init__(
        self,
        plugin: str,
        runtime: Runtime,
        module: Component,
        shape: Shape,
        limits: Limits,
        permissions: frozenset[str],
        services: Services,
        config: dict[str, Any],
    ) -> None:
        self.plugin = plugin
        self.runtime = runtime
        self.module = module
        self.shape = shape
        self.limits = limits
        self.permissions = permissions
        self.services = services
        self.config = config

    def link(self, is_fast: bool) -> "ComponentLinked":
        """Link what a component may import, for instances of one thread."""
        return ComponentLinked(self, is_fast)

    def instance(self, linked: "ComponentLinked") -> "ComponentInstance":
        """Make an instance and initialise it. Raises GuestStopped, InitRefused."""
        return ComponentInstance(self, linked)


def component_blueprint(
    plugin: str,
    runtime: Runtime,
    component: Component,
    manifest: Manifest,
    limits: Limits,
    permissions: frozenset[str],
    services: Services,
    config: dict[str, Any],
) -> ComponentBlueprint:
    """Check a component against its manifest; raises PluginFailed."""
    exports = component.type.exports(runtime.engine)
    if _CALL not in exports:
        raise PluginFailed(
            plugin,
            "module",
            "no export call; expected call: func(hook: string, input: string) -> string",
        )
    if manifest.abi == 0:
        raise PluginFailed(plugin, "module", "the manifest says abi = 0; components are ABI 1")
    unknown = [
        name for name in component.type.imports(runtime.engine) if not name.startswith("wasi:")
    ]
    if unknown:
        raise PluginFailed(
            plugin, "module", f"import {unknown[0]} is not known; components are given WASI only"
        )
    shape = Shape(
        abi=1,
        exports=dict.fromkeys(manifest.hooks, _CALL),
        observers=frozenset(manifest.hooks) & OBSERVERS,
        has_init=True,
    )
    return ComponentBlueprint(
        plugin, runtime, component, shape, limits, permissions, services, config
    )


@final
class ComponentLinked:
    """The imports of a component, linked for one thread."""

    def __init__(self, blueprint: ComponentBlueprint, is_fast: bool) -> None:
        self.is_fast = is_fast
        self.deadline = ffi.Deadline()
        self.linker = Linker(blueprint.runtime.engine)
        self.linker.allow_shadowing = True
        # Who reads memory through a guest is a core module; a component's strings come copied.
        imports: Any = None
        self.guest = Guest(
            blueprint.plugin, blueprint.permissions, blueprint.config, blueprint.services,
            imports, is_fast,
        )  # fmt: skip
        try:
            self.linker.define_unknown_imports_as_traps(blueprint.module)
            names = blueprint.module.type.imports(blueprint.runtime.engine)
            define_wasi(self.linker, list(names), self.guest)
        except wasmtime.WasmtimeError as error:
            raise GuestStopped(CAUSE_HOST, str(error)[:500]) from error

    def close(self) -> None:
        """Free it; its instances must be closed before."""
        self.linker.close()


def _text_value(value: Any, data: bytes) -> Any:
    """Put a string into an argument; it lives as long as what is returned."""
    held = ctypes.create_string_buffer(data, len(data)) if data else (c_uint8 * 1)()
    value.kind = _KIND_STRING
    value.of.string.size = len(data)
    value.of.string.data = ctypes.cast(held, ctypes.POINTER(c_uint8))
    return held


@final
class ComponentInstance:
    """One instance of a component in a store of its own."""

    def __init__(self, blueprint: ComponentBlueprint, linked: ComponentLinked) -> None:
        self.linked = linked
        self.is_closed = False
        self.served = 0
        self._blueprint = blueprint
        self._store: wasmtime.Store | None = wasmtime.Store(blueprint.runtime.engine)
        limits = blueprint.limits
        store = self._store
        context = ctypes.cast(store._context(), c_void_p).value  # noqa: SLF001 - raw calls need it
        self._context = c_void_p(context)
        ffi.FAST.store_limiter(
            store.ptr(),
            c_int64(limits.memory_bytes), c_int64(TABLE_ELEMENTS),
            c_int64(_CORE_INSTANCES), c_int64(_CORE_TABLES), c_int64(_CORE_MEMORIES),
        )  # fmt: skip
        ffi.FAST.store_on_deadline(store.ptr(), linked.deadline.callback, None, None)
        self._arguments = (capi.wasmtime_component_val_t * 2)()
        self._result = capi.wasmtime_component_val_t()
        self._fuel = c_uint64()
        try:
            self._refuel(limits.init_fuel, blueprint.runtime.ticks(INIT_TIMEOUT_MS))
            instance = linked.linker.instantiate(store, blueprint.module)
            function = instance.get_func(store, _CALL)
            if function is None:
                raise GuestStopped(CAUSE_HOST, "export call has gone")
            self._check_type(function, store)
            self._function = function
            if blueprint.config:
                self._init(blueprint)
        except wasmtime.WasmtimeError as error:
            stopped = self._stopped(str(error))
            self.close()
            raise stopped from None
        except BaseException:
            self.close()
            raise
        finally:
            PULSE.over()

    def _check_type(self, function: Any, store: wasmtime.Store) -> None:
        functype = function.type(store)
        params = [type(kind).__name__ for _, kind in functype.params]
        result = type(functype.result).__name__
        if params != ["String", "String"] or result != "String":
            raise GuestStopped(
                CAUSE_HOST,
                f"export call is ({', '.join(params)}) -> {result}; expected (String, String) -> String",
            )

    def _init(self, blueprint: ComponentBlueprint) -> None:
        config = config_json(blueprint.config)
        answer = self._call("plugin_init", config, blueprint.limits.output_bytes)
        if answer is not None:
            read_init_answer(answer)

    def _refuel(self, fuel: int, ticks: int) -> None:
        self.linked.deadline.allowance.begin()
        PULSE.need(ticks)
        ffi.FAST.set_fuel(self._context, c_uint64(fuel))
        ffi.FAST.set_deadline(self._context, c_uint64(ticks))

    def fuel_left(self) -> int:
        """Fuel that the last call did not use."""
        ffi.FAST.get_fuel(self._context, byref(self._fuel))
        return self._fuel.value

    def activate(self) -> None:
        """Nothing to do: what a component imports knows no memory."""

    def rebind(self, is_fast: bool) -> None:
        """Go on in another thread, with or without the interpreter's lock during calls."""
        self.linked.is_fast = is_fast
        self.linked.guest.is_fast = is_fast

    def memory_bytes(self) -> int:
        """Unknown: a component does not show its memories."""
        return 0

    def run(self, number: int, payload: bytes) -> bytes | None:
        """Call a hook under its own limits. Raises GuestStopped."""
        blueprint = self._blueprint
        limits = blueprint.limits
        ticks = blueprint.runtime.ticks(limits.timeout_ms_of(number))
        try:
            self._refuel(limits.fuel_of(number), ticks)
            answer = self._call(HOOK_NAMES[number], payload, limits.output_bytes)
        finally:
            PULSE.over()
        return None if number in blueprint.shape.observers else answer

    def _call(self, hook: str, payload: bytes, limit_bytes: int) -> bytes | None:
        held = (
            _text_value(self._arguments[0], hook.encode()),
            _text_value(self._arguments[1], payload),
        )
        error = _CALLS[self.linked.is_fast](
            byref(self._function._func), self._context,  # noqa: SLF001 - raw calls need it
            self._arguments, ctypes.c_size_t(2), byref(self._result), ctypes.c_size_t(1),
        )  # fmt: skip
        del held
        if error:
            raise self._stopped(ffi.take_error(error))
        string = self._result.of.string
        length = string.size
        try:
            if length > limit_bytes:
                raise GuestStopped(
                    CAUSE_BAD_ANSWER, f"answer of {length} bytes; the limit is {limit_bytes}"
                )
            return ctypes.string_at(string.data, length) if length else None
        finally:
            _value_delete(byref(self._result))

    def _stopped(self, message: str) -> GuestStopped:
        if self.linked.deadline.allowance.take():
            return GuestStopped(CAUSE_TIMEOUT, "time limit exceeded")
        for text, cause in _MESSAGES:
            if text in message:
                return GuestStopped(cause, ffi.first_line(message))
        return GuestStopped(ffi.CAUSE_TRAP, ffi.first_line(message))

    def close(self) -> None:
        """Free the store with all in it (idempotent)."""
        self.is_closed = True
        store, self._store = self._store, None
        if store is not None:
            store.close()
