"""
The WebAssembly engine of this process, and compiling for it.

One engine, made on first use and never freed: the timer that ticks for it may fire at any moment.
What guests may use of WebAssembly is decided here.
"""

import ctypes
import hashlib
import importlib.metadata
import os
from typing import Final

import wasmtime

from proxy.errors import PluginFailed
from proxy.plugins.allowance import TICK_MS
from proxy.plugins.pulse import PULSE
from proxy.plugins.ticker import Ticker

# Features that plugins do not need are off: each is code of the compiler that hostile modules reach.
_OFF: Final = (
    "wasm_threads",
    "shared_memory",
    "wasm_memory64",
    "wasm_gc",
    "wasm_function_references",
    "wasm_exceptions",
    "wasm_stack_switching",
    # Compiling on a thread pool hangs in a process forked after the pool was made.
    "parallel_compilation",
    # The cached base of a memory must stay true.
    "memory_may_move",
)
_ON: Final = (
    "consume_fuel",
    "epoch_interruption",
    "wasm_component_model",
    # The adapters between a component's modules need it; how many memories there may be is a limit
    # of the store.
    "wasm_multi_memory",
)
_MEMORY_RESERVATION_BYTES: Final = 4 << 30
_WASM_STACK_BYTES: Final = 512 * 1024


class Runtime:
    """An engine with its ticker. `is_parallel` is for a process that does nothing but compile."""

    def __init__(self, is_parallel: bool = False) -> None:
        config = wasmtime.Config()
        for name in _OFF:
            setattr(config, name, False)
        for name in _ON:
            setattr(config, name, True)
        config.parallel_compilation = is_parallel
        config.memory_reservation = _MEMORY_RESERVATION_BYTES
        config.max_wasm_stack = _WASM_STACK_BYTES
        config.cranelift_opt_level = "speed"
        self.engine = wasmtime.Engine(config)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.engine))
        self.ticker = Ticker(self.engine, TICK_MS)
        self.process_id = os.getpid()

    def compile(self, plugin: str, wasm: bytes) -> wasmtime.Module:
        """Compile a module. Takes long: call it in a thread. Raises PluginFailed."""
        try:
            return wasmtime.Module(self.engine, wasm)
        except wasmtime.WasmtimeError as error:
            raise PluginFailed(plugin, "compile", f"not a valid module: {_short(error)}") from error

    def ticks(self, timeout_ms: float) -> int:
        """A time limit in ticks of the epoch."""
        return self.ticker.ticks(timeout_ms)


_runtime: Runtime | None = None


def runtime() -> Runtime:
    """The engine of this process; a forked child gets its own."""
    global _runtime
    if _runtime is None or _runtime.process_id != os.getpid():
        _runtime = Runtime()
        PULSE.follow(_runtime.ticker)
    return _runtime


def engine_fingerprint() -> str:
    """What compiled code depends on beside the module: library version, settings, processor."""
    version = importlib.metadata.version("wasmtime")
    machine = os.uname().machine
    text = f"{version}|{machine}|{_OFF}|{_ON}|{_MEMORY_RESERVATION_BYTES}|{_WASM_STACK_BYTES}"
    return hashlib.sha256(text.encode()).hexdigest()


def _short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(line for line in lines if line != "Caused by:")[:500]
