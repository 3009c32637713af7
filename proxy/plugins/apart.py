"""
Compiles components in a process of its own.

The translator of components has assertions that end the process where a file is not as it expects,
and a file in the plugin directory must not be able to end the proxy. A child that dies, or takes too
long, is a load that is refused. Core modules are compiled in place: their validator answers with errors.
"""

import os
import subprocess
import sys
from typing import Final

import wasmtime
from wasmtime.component import Component

from proxy.errors import PluginFailed
from proxy.plugins.runtime import Runtime

COMPILE_TIMEOUT_S: Final = 300.0
"""Of a busy machine: a component of Python has 18 MB, some seconds of one processor's time."""
_NICENESS: Final = 10
"""Whoever is served now comes first."""
_REFUSED: Final = 3
_MAX_MESSAGE: Final = 500


def compile_component(plugin: str, wasm: bytes) -> bytes:
    """A component's compiled code, for `Component.deserialize`. Raises PluginFailed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "proxy.plugins.apart"],
            input=wasm,
            capture_output=True,
            env=environment,
            timeout=COMPILE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PluginFailed(
            plugin,
            "compile",
            f"the component took longer than {COMPILE_TIMEOUT_S:.0f} s to compile",
        ) from None
    except OSError as error:
        raise PluginFailed(plugin, "compile", f"no process to compile in: {error}") from error
    if done.returncode == 0:
        return done.stdout
    message = done.stderr.decode("utf-8", "replace").strip()
    if done.returncode == _REFUSED:
        raise PluginFailed(plugin, "compile", f"not a valid component: {message[:_MAX_MESSAGE]}")
    # A panic says where, and what, in its first two lines; a backtrace follows.
    reason = " ".join(message.split("stack backtrace", 1)[0].split())[:_MAX_MESSAGE]
    raise PluginFailed(
        plugin, "compile", f"the compiler ended with status {done.returncode}: {reason}"
    )


def main() -> int:
    """Compile what comes in; the code goes out, or the error."""
    os.nice(_NICENESS)
    wasm = sys.stdin.buffer.read()
    try:
        engine = Runtime(is_parallel=True).engine
        code = bytes(Component(engine, wasm).serialize())
    except wasmtime.WasmtimeError as error:
        sys.stderr.write(str(error))
        return _REFUSED
    sys.stdout.buffer.write(code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
