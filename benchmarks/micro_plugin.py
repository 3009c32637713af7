"""
What one plugin call costs: `python -m benchmarks.micro_plugin`.

A resident pre_query plugin through `Subscriber.call`, with fuel, deadline, statistics and timing as
in the proxy; 500 bytes in. Best of several rounds, since the machine is shared. Prints, asserts
nothing.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import wasmtime

from proxy.hooks.points import EMPTY_CHAINS, PRE_QUERY, HookChains
from proxy.plugins.manager import PluginManager
from proxy.settings.model import Settings
from proxy.settings.plugin_model import Plugins

ROUNDS = 7
CALLS = 40_000
PAYLOAD = b"x" * 500

MANIFEST = """
name = "{name}"
version = "1.0.0"
hooks = ["pre_query"]
permissions = ["log", "clock"]
"""

MODULE = """(module {imports}
  (memory (export "memory") 4)
  {marker}
  (func (export "alloc") (param i32) (result i32) i32.const 65536)
  (func (export "dealloc") (param i32 i32))
  (func (export "pre_query") (param i32 i32) (result i64) {body})
  (data (i32.const 16) "{{\\22action\\22:\\22continue\\22}}"))
"""
MARKER = '(func (export "headgate_abi_1"))'
BUFFER = MARKER + '(func (export "input_buffer") (param i32) (result i32) i32.const 1024)'
CLOCK = '(import "headgate" "now_us" (func $now (result i64)))'

CASES = {
    "immediate-0": ("", BUFFER, "i64.const 0"),
    "json-continue": ("", BUFFER, f"i64.const {(16 << 32) | 21}"),
    "alloc-dealloc": ("", MARKER, "i64.const 0"),
    "host-call": (CLOCK, BUFFER, "(drop (call $now)) i64.const 0"),
    "abi-0": ("", "", "i64.const 0"),
}


class _Pipeline:
    def __init__(self) -> None:
        self.chains = EMPTY_CHAINS

    def install(self, chains: HookChains) -> HookChains:
        """Exchange the chains."""
        old, self.chains = self.chains, chains
        return old


def write_plugins(directory: Path) -> None:
    """Build the modules of all cases."""
    for name, (imports, marker, body) in CASES.items():
        wat = MODULE.format(imports=imports, marker=marker, body=body)
        (directory / f"{name}.wasm").write_bytes(bytes(wasmtime.wat2wasm(wat)))
        (directory / f"{name}.toml").write_text(MANIFEST.format(name=name))


async def measure() -> dict[str, float]:
    """Microseconds a call, by case."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        write_plugins(Path(directory))
        pipeline = _Pipeline()
        plugins = Plugins(dir=Path(directory), watch=False)
        manager = PluginManager(Settings(plugins=plugins), pipeline)
        await manager.start()
        for subscriber in pipeline.chains.points[PRE_QUERY]:
            best = float("inf")
            for _ in range(ROUNDS):
                started = perf_counter()
                for _ in range(CALLS):
                    subscriber.call(PAYLOAD)
                best = min(best, (perf_counter() - started) / CALLS)
            found[subscriber.plugin] = best * 1e6
        await manager.stop()
    return found


def main() -> None:
    """Print the table."""
    for name, cost_us in asyncio.run(measure()).items():
        sys.stdout.write(f"{name:16} {cost_us:8.2f} us\n")


if __name__ == "__main__":
    main()
