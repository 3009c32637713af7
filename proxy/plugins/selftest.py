"""
The proof, at start, that both ways of stopping a runaway guest work on this machine.

A small module loops forever; it must be stopped by fuel, and then by the clock. If either fails the
proxy does not start with plugins on.
"""

from typing import Final

import wasmtime

from proxy.errors import PluginFailed
from proxy.plugins.ffi import (
    CAUSE_FUEL,
    CAUSE_TIMEOUT,
    FAST,
    GuestStopped,
    Imports,
    Sandbox,
)
from proxy.plugins.pulse import PULSE
from proxy.plugins.runtime import Runtime

_LOOP: Final = """(module
  (memory (export "memory") 1)
  (func (export "loop") (param i32 i32) (result i64)
    (loop $again (br $again)) (i64.const 0)))"""

_FUEL: Final = 1_000_000
# Enough for a fifth of a second and more, and yet an end, should the clock not tick.
_BACKSTOP_FUEL: Final = 1_000_000_000
_TICKS: Final = 1
_NEVER_TICKS: Final = 500


def self_test(runtime: Runtime) -> None:
    """Stop an endless loop by fuel and by time; raises PluginFailed where that does not work."""
    runtime.ticker.start()
    module = wasmtime.Module(runtime.engine, bytes(wasmtime.wat2wasm(_LOOP)))
    imports = Imports(runtime.engine, module)
    try:
        _expect(imports, CAUSE_FUEL, _FUEL, _NEVER_TICKS)
        _expect(imports, CAUSE_TIMEOUT, _BACKSTOP_FUEL, _TICKS)
    finally:
        PULSE.over()
        imports.close()
        module.close()


def _expect(imports: Imports, cause: str, fuel: int, ticks: int) -> None:
    sandbox = Sandbox(FAST, imports, 1 << 20, 10, fuel, ticks)
    try:
        loop = sandbox.bind("loop", 2)
        if loop is None:
            raise PluginFailed("self-test", "selftest", "the test module has no loop")
        sandbox.refuel(fuel, ticks)
        loop(0, 0)
    except GuestStopped as stopped:
        if stopped.cause == cause:
            return
        raise PluginFailed(
            "self-test",
            "selftest",
            f"an endless loop was to be stopped by {cause}, and was by {stopped.cause}: "
            f"{stopped.message}; plugins cannot be run safely here",
        ) from None
    finally:
        sandbox.close()
    raise PluginFailed("self-test", "selftest", f"{cause} did not stop an endless loop")
