"""
One archive of a plugin's files, and back: `<name>-<version>.tar.gz`.

The archive is the same for the same files: no times, no owners.
"""

import gzip
import io
import tarfile
from pathlib import Path

from proxy.plugins.limits import MAX_MODULE_BYTES
from proxy.plugins.loader import Source, read_source


def pack(module: Path, directory: Path) -> Path:
    """Write the archive of a plugin into a directory; raises PluginFailed for bad files."""
    source = read_source(module, MAX_MODULE_BYTES, MAX_MODULE_BYTES)
    manifest = source.manifest
    target = directory / f"{manifest.name}-{manifest.version}.tar.gz"
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in _members(source):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o644
            archive.addfile(info, io.BytesIO(data))
    with target.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(content.getvalue())
    return target


def _members(source: Source) -> list[tuple[str, bytes]]:
    stem = source.path.stem
    members = [
        (f"{stem}{source.manifest.path.suffix}", source.manifest_bytes),
        (f"{stem}.wasm", source.wasm),
    ]
    if source.signature is not None:
        members.append((f"{stem}.sig", source.signature))
    return members
