"""
Compiles in a process of its own: components, and modules so large that it takes long.

The translator of components has assertions that end the process where a file is not as it expects,
and a file in the plugin directory must not be able to end the proxy. A child that dies, or takes too
long, is a load that is refused; one that still works when the proxy ends is ended with it. Small core
modules are compiled in place: their validator answers with errors.
"""

import os
import subprocess
import sys
import threading
from typing import Final

import wasmtime
from wasmtime.component import Component

from proxy.errors import PluginFailed
from proxy.plugins.runtime import Runtime

MODULE: Final = "module"
COMPONENT: Final = "component"
COMPILE_TIMEOUT_S: Final = 300.0
"""Of a busy machine: a component of Python has 18 MB, some seconds of one processor's time."""
_NICENESS: Final = 10
"""Whoever is served now comes first."""
_REFUSED: Final = 3
_MAX_MESSAGE: Final = 500


class Apart:
    """The children that compile for one manager. For threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._is_closed = False

    def compile(self, plugin: str, wasm: bytes, kind: str) -> bytes:
        """Compiled code, for `deserialize`. Raises PluginFailed."""
        child = self._start(plugin, kind)
        try:
            code, message = child.communicate(wasm, COMPILE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise PluginFailed(
                plugin, "compile", f"took longer than {COMPILE_TIMEOUT_S:g} s to compile"
            ) from None
        finally:
            self._end(child)
        if child.returncode == 0:
            return code
        text = message.decode("utf-8", "replace").strip()
        if child.returncode == _REFUSED:
            raise PluginFailed(plugin, "compile", f"not a valid {kind}: {text[:_MAX_MESSAGE]}")
        # A panic says where, and what, before its backtrace.
        reason = " ".join(text.split("stack backtrace", 1)[0].split())[:_MAX_MESSAGE]
        raise PluginFailed(
            plugin, "compile", f"the compiler ended with status {child.returncode}: {reason}"
        )

    def close(self) -> None:
        """End the children, and start no more."""
        with self._lock:
            self._is_closed = True
            for child in self._children:
                child.kill()

    def _start(self, plugin: str, kind: str) -> "subprocess.Popen[bytes]":
        path = os.pathsep.join(entry for entry in sys.path if entry)
        with self._lock:
            if self._is_closed:
                raise PluginFailed(plugin, "compile", "the proxy is ending")
            try:
                child = subprocess.Popen(
                    [sys.executable, "-m", "proxy.plugins.apart", kind],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path},
                )
            except OSError as error:
                raise PluginFailed(
                    plugin, "compile", f"no process to compile in: {error}"
                ) from error
            self._children.add(child)
        return child

    def _end(self, child: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._children.discard(child)
        if child.poll() is None:
            child.kill()
            child.communicate()


def main(kind: str) -> int:
    """Compile what comes in; the code goes out, or the error."""
    os.nice(_NICENESS)
    wasm = sys.stdin.buffer.read()
    compiler = Component if kind == COMPONENT else wasmtime.Module
    try:
        code = bytes(compiler(Runtime(is_parallel=True).engine, wasm).serialize())
    except wasmtime.WasmtimeError as error:
        sys.stderr.write(str(error))
        return _REFUSED
    sys.stdout.buffer.write(code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
