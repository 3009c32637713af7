"""
Whether a plugin may be loaded: signed by someone trusted, not revoked, not an older version.

Without a trust root everything but a revoked module may. The versions accepted before are kept in
the cache directory, so that a restart does not forget them, or in memory without one.
"""

import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from proxy.errors import PluginFailed
from proxy.plugins.loader import Source
from proxy.plugins.private_dir import open_private_dir
from proxy.plugins.signature import (
    Revocations,
    SignatureRefused,
    Verdict,
    read_revocations,
    read_trust_root,
    verify,
)
from proxy.plugins.version import version_key
from proxy.settings.plugin_model import Plugins

_VERSIONS_FILE: Final = "accepted-versions.json"
_MAX_FILE_BYTES: Final = 1024 * 1024


class Trust:
    """The operator's rules of trust, applied to sources."""

    def __init__(self, settings: Plugins) -> None:
        self._settings = settings
        self._versions = AcceptedVersions(settings.cache_dir)

    def update(self, settings: Plugins) -> None:
        """Go by other settings from now on."""
        if settings.cache_dir != self._settings.cache_dir:
            self._versions = AcceptedVersions(settings.cache_dir)
        self._settings = settings

    def check(self, source: Source) -> Verdict | None:
        """Refuse what is not trusted; None where no signature is asked for. Reads files."""
        name = source.manifest.name
        settings = self._settings
        try:
            revocations = Revocations()
            if settings.revocation_file is not None:
                revocations = read_revocations(settings.revocation_file)
            if source.wasm_sha256 in revocations.modules:
                raise SignatureRefused(f"module {source.wasm_sha256} is revoked")
            if settings.trust_root is None:
                return None
            if source.signature is None:
                expected = source.path.with_suffix(".sig").name
                raise SignatureRefused(f"no signature; expected {expected} beside the module")
            verdict = verify(
                read_trust_root(settings.trust_root),
                revocations,
                source.signature,
                name,
                source.manifest.version,
                source.wasm,
                source.wasm_sha256,
                source.manifest_sha256,
                datetime.now(UTC),
                settings.allow_legacy_signatures,
            )
            if not settings.allow_downgrade:
                self._versions.check(name, source.manifest.version)
        except SignatureRefused as refused:
            raise PluginFailed(name, "signature", f"{source.path}: {refused}") from None
        return verdict

    def accepted(self, source: Source) -> None:
        """A trusted plugin became active: nothing older than it from now on. Writes a file."""
        if self._settings.trust_root is not None:
            self._versions.accept(
                source.manifest.name, source.manifest.version, self._settings.allow_downgrade
            )


class AcceptedVersions:
    """The highest version of each plugin that was ever active."""

    def __init__(self, directory: Path | None) -> None:
        self._path = directory / _VERSIONS_FILE if directory is not None else None
        self._memory: dict[str, str] = {}

    def check(self, name: str, version: str) -> None:
        """Raise SignatureRefused for a version below the accepted one."""
        known = self._read().get(name)
        if known is not None and version_key(version) < version_key(known):
            raise SignatureRefused(
                f"version {version} is lower than {known}, which was accepted before; expected "
                "that or a later one, or plugins.allow_downgrade = true"
            )

    def accept(self, name: str, version: str, may_lower: bool) -> None:
        """Remember a version."""
        versions = self._read()
        known = versions.get(name)
        if known == version:
            return
        if known is not None and not may_lower and version_key(version) < version_key(known):
            return
        versions[name] = version
        self._write(versions)

    def _read(self) -> dict[str, str]:
        if self._path is None:
            return self._memory
        try:
            with self._path.open("rb") as file:
                data = json.loads(file.read(_MAX_FILE_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            # Failing open here would be the roll-back that this file is against.
            raise SignatureRefused(
                f"cannot read {self._path}: {error}; restore or remove it"
            ) from error
        if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
            raise SignatureRefused(f"{self._path}: not a table of versions; restore or remove it")
        return data

    def _write(self, versions: dict[str, str]) -> None:
        if self._path is None:
            self._memory = versions
            return
        open_private_dir(self._path.parent)
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".versions-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(versions, file, indent=1, sort_keys=True)
            os.replace(temporary, self._path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
