"""
The cache of compiled modules: on disk, authenticated, and only where nobody else can write.

Loading compiled code runs it natively, outside every sandbox, so three things must hold: the
directory is private, the file's name is the hash of the module and of the engine's settings, and
its content carries an HMAC by a key that is in the same private directory. Anything else is not
loaded but compiled anew.
"""

import hashlib
import hmac
import logging
import os
import secrets
import tempfile
from pathlib import Path
from typing import Final

import wasmtime
from wasmtime.component import Component

from proxy.errors import PluginFailed
from proxy.plugins.apart import COMPONENT, MODULE, Apart
from proxy.plugins.private_dir import open_private_dir
from proxy.plugins.runtime import Runtime, engine_fingerprint

logger = logging.getLogger("headgate.plugins")

_KEY_FILE: Final = "cache.key"
_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 32
_CONTEXT: Final = b"headgate-compiled:v1\0"
_MAX_FILE_BYTES: Final = 512 * 1024 * 1024
_KEPT_FILES: Final = 64

IN_PLACE_BYTES: Final = 1024 * 1024
"""Larger modules may take a minute, which must not hold up the end of the proxy."""


class CompiledCache:
    """Compiles modules, or takes them from the directory. For threads: all of it takes long."""

    def __init__(self, runtime: Runtime, directory: Path | None) -> None:
        self._runtime = runtime
        self._directory = directory
        self._apart = Apart()
        self.hits = 0
        self.misses = 0

    def close(self) -> None:
        """Compile nothing any more: what is being compiled is refused."""
        self._apart.close()

    def module(self, plugin: str, wasm: bytes, wasm_sha256: str) -> wasmtime.Module:
        """A compiled core module. Raises PluginFailed if it is not valid."""
        code = self._find(wasm_sha256, "module")
        if code is not None:
            return wasmtime.Module.deserialize(self._runtime.engine, code)
        if len(wasm) > IN_PLACE_BYTES:
            code = self._apart.compile(plugin, wasm, MODULE)
            self._keep(wasm_sha256, "module", code)
            return wasmtime.Module.deserialize(self._runtime.engine, code)
        module = self._runtime.compile(plugin, wasm)
        if self._directory is not None:
            self._keep(wasm_sha256, "module", bytes(module.serialize()))
        return module

    def component(self, plugin: str, wasm: bytes, wasm_sha256: str) -> Component:
        """A compiled component. Raises PluginFailed if it is not valid."""
        code = self._find(wasm_sha256, "component")
        if code is not None:
            return Component.deserialize(self._runtime.engine, code)
        code = self._apart.compile(plugin, wasm, COMPONENT)
        self._keep(wasm_sha256, "component", code)
        return Component.deserialize(self._runtime.engine, code)

    def _path(self, directory: Path, wasm_sha256: str, kind: str) -> Path:
        name = hashlib.sha256(f"{kind}|{wasm_sha256}|{engine_fingerprint()}".encode()).hexdigest()
        return directory / f"{name}.compiled"

    def _tag(self, directory: Path, path: Path, code: bytes) -> bytes:
        return hmac.digest(
            self._key(directory), _CONTEXT + path.name.encode() + b"\0" + code, "sha256"
        )

    def _find(self, wasm_sha256: str, kind: str) -> bytes | None:
        directory = self._directory
        if directory is None:
            return None
        try:
            open_private_dir(directory)
            path = self._path(directory, wasm_sha256, kind)
            if not path.is_file() or path.is_symlink():
                self.misses += 1
                return None
            with path.open("rb") as file:
                content = file.read(_MAX_FILE_BYTES)
            tag, code = content[:_TAG_BYTES], content[_TAG_BYTES:]
            if not hmac.compare_digest(tag, self._tag(directory, path, code)):
                logger.warning("compiled module %s fails authentication; compiling anew", path.name)
                path.unlink(missing_ok=True)
                self.misses += 1
                return None
        except (OSError, PluginFailed) as error:
            logger.warning("compiled-module cache not used: %s", error)
            self.misses += 1
            return None
        self.hits += 1
        return code

    def _keep(self, wasm_sha256: str, kind: str, code: bytes) -> None:
        directory = self._directory
        if directory is None:
            return
        try:
            open_private_dir(directory)
            path = self._path(directory, wasm_sha256, kind)
            handle, temporary = tempfile.mkstemp(dir=directory, prefix=".compiled-")
            with os.fdopen(handle, "wb") as file:
                file.write(self._tag(directory, path, code))
                file.write(code)
            os.replace(temporary, path)
            self._prune(directory)
        except (OSError, PluginFailed) as error:
            logger.warning("compiled-module cache not written: %s", error)

    def _prune(self, directory: Path) -> None:
        files = sorted(directory.glob("*.compiled"), key=lambda p: p.stat().st_mtime, reverse=True)
        for path in files[_KEPT_FILES:]:
            path.unlink(missing_ok=True)

    def _key(self, directory: Path) -> bytes:
        path = directory / _KEY_FILE
        for _ in range(2):
            try:
                key = path.read_bytes()
                if len(key) == _KEY_BYTES and not path.stat().st_mode & 0o077:
                    return key
                path.unlink(missing_ok=True)
            except FileNotFoundError:
                pass
            handle, temporary = tempfile.mkstemp(dir=directory, prefix=".key-")
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
            try:
                os.link(temporary, path)  # only one of several starting processes wins
            except FileExistsError:
                pass
            finally:
                Path(temporary).unlink(missing_ok=True)
        return path.read_bytes()
