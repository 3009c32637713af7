"""
A plugin's files, read as one consistent whole: module, manifest, signature.

What is read is checked for size and form here, for trust in `signature`, and for meaning in
`manifest` and `module`.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.errors import PluginFailed
from proxy.plugins.limits import MAX_MODULE_BYTES
from proxy.plugins.manifest import MAX_MANIFEST_BYTES, Manifest, find_manifest, parse_manifest

_MAGIC: Final = b"\0asm"
_CORE_VERSION: Final = b"\x01\0\0\0"
_COMPONENT_VERSION: Final = b"\x0d\0\x01\0"
_MAX_SIGNATURE_BYTES: Final = 64 * 1024
_ATTEMPTS: Final = 3


@dataclass(slots=True)
class Source:
    """One version of a plugin's files. `signature` is None where there is no `.sig`."""

    path: Path
    wasm: bytes
    wasm_sha256: str
    manifest: Manifest
    manifest_bytes: bytes
    manifest_sha256: str
    signature: bytes | None
    is_component: bool

    @property
    def fingerprint(self) -> str:
        """Changes when any of the files does."""
        signature = hashlib.sha256(self.signature or b"").hexdigest()
        return f"{self.wasm_sha256}:{self.manifest_sha256}:{signature}"


def module_paths(directory: Path) -> list[Path]:
    """The modules in a plugin directory, sorted. Hidden files are other programs' halves."""
    try:
        entries = [Path(entry.path) for entry in os.scandir(directory) if entry.is_file()]
    except OSError as error:
        raise PluginFailed(
            directory.name, "directory", f"cannot read {directory}: {error.strerror}"
        ) from error
    return sorted(p for p in entries if p.suffix == ".wasm" and not p.name.startswith("."))


def stamps(module_path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Name, size, time and inode of a plugin's files: equal stamps mean nothing was written."""
    found: list[tuple[str, int, int, int]] = []
    for path in _files_of(module_path):
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((path.name, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)


def _files_of(module_path: Path) -> Iterable[Path]:
    for suffix in (".wasm", ".toml", ".json", ".yaml", ".yml", ".sig"):
        yield module_path.with_suffix(suffix)


def read_source(path: Path, module_limit_bytes: int, component_limit_bytes: int) -> Source:
    """Read a plugin's files, again if they change meanwhile. Raises PluginFailed."""
    for _ in range(_ATTEMPTS):
        before = stamps(path)
        source = _read_once(path, module_limit_bytes, component_limit_bytes)
        if stamps(path) == before:
            return source
    raise PluginFailed(path.stem, "file", f"{path}: keeps changing while it is read")


def _read_once(path: Path, module_limit_bytes: int, component_limit_bytes: int) -> Source:
    limit = min(max(module_limit_bytes, component_limit_bytes), MAX_MODULE_BYTES)
    wasm = _read(path, limit, "module")
    if wasm[:4] != _MAGIC:
        raise PluginFailed(path.stem, "file", f"{path}: not a WebAssembly file (wrong magic)")
    version = wasm[4:8]
    if version not in (_CORE_VERSION, _COMPONENT_VERSION):
        raise PluginFailed(
            path.stem, "file", f"{path}: unknown WebAssembly version {version.hex()}"
        )
    is_component = version == _COMPONENT_VERSION
    own_limit = component_limit_bytes if is_component else module_limit_bytes
    if len(wasm) > own_limit:
        kind = "component" if is_component else "module"
        raise PluginFailed(
            path.stem, "size", f"{path}: {len(wasm)} bytes; the limit of a {kind} is {own_limit}"
        )
    manifest_path = find_manifest(path)
    if manifest_path is None:
        raise PluginFailed(
            path.stem,
            "manifest",
            f"{path}: no manifest; expected {path.with_suffix('.toml').name} beside it "
            f"(or {path.with_suffix('.json').name} or {path.with_suffix('.yaml').name} for ABI 0)",
        )
    manifest_bytes = _read(manifest_path, MAX_MANIFEST_BYTES, "manifest")
    manifest = parse_manifest(manifest_path, manifest_bytes)
    digest = hashlib.sha256(wasm).hexdigest()
    if manifest.wasm_sha256 and manifest.wasm_sha256.lower() != digest:
        raise PluginFailed(
            manifest.name,
            "manifest",
            f"{manifest_path}: wasm_sha256 is not that of {path.name} ({digest})",
        )
    signature_path = path.with_suffix(".sig")
    signature: bytes | None = None
    if signature_path.is_file():
        signature = _read(signature_path, _MAX_SIGNATURE_BYTES, "signature")
    return Source(
        path=path,
        wasm=wasm,
        wasm_sha256=digest,
        manifest=manifest,
        manifest_bytes=manifest_bytes,
        manifest_sha256=hashlib.sha256(manifest_bytes).hexdigest(),
        signature=signature,
        is_component=is_component,
    )


def _read(path: Path, limit_bytes: int, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise PluginFailed(path.stem, "file", f"{path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise PluginFailed(
            path.stem, "size", f"{path}: the {what} is larger than {limit_bytes} bytes"
        )
    return data
