"""
The manifest beside a module: who the plugin is, what it hooks, asks for, and how much it needs.

Two forms: `<stem>.toml` (native, strict: anything unknown is an error), and `<stem>.json` or
`<stem>.yaml` as HeliosProxy has them, for ABI 0 modules (lenient about extra keys, strict about
hooks). All problems of a file are told at once. Reads no module and grants nothing.
"""

import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from proxy.errors import PluginFailed
from proxy.hooks.points import HOOK_NAMES
from proxy.plugins import permissions
from proxy.plugins.limits import Wishes
from proxy.plugins.match import KINDS, MatchRules
from proxy.plugins.version import is_version
from proxy.plugins.yaml_subset import YamlError, parse_yaml

FORM_NATIVE: Final = "native"
FORM_LEGACY: Final = "legacy"
SUFFIXES: Final = (".toml", ".json", ".yaml", ".yml")
MAX_MANIFEST_BYTES: Final = 256 * 1024
DEFAULT_PRIORITY: Final = 100

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_LEGACY_VERSION: Final = re.compile(r"\d+(\.\d+)*\Z")
_SIZE: Final = re.compile(r"(\d+)\s*([kmg]?i?b?)\Z", re.IGNORECASE)
_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}

_SHORT_FORMS: Final = {
    "connect": "onconnect",
    "disconnect": "ondisconnect",
    "auth": "authenticate",
    "authz": "authorize",
    "routing": "route",
    "custom": "customhook",
}
_HOOKS: Final = {name.replace("_", ""): number for number, name in enumerate(HOOK_NAMES)}

_KEYS: Final = frozenset(
    (
        "name", "version", "description", "author", "license", "abi", "hooks", "permissions",
        "priority", "on_error", "pure", "limits", "match", "config",
    )
)  # fmt: skip
_LIMIT_KEYS: Final = ("memory", "fuel", "timeout_ms", "input", "output")
_MATCH_KEYS: Final = ("kinds", "databases", "users", "tables", "sample")


@dataclass(frozen=True, slots=True)
class Manifest:
    """
    What a manifest says.

    abi        0 or 1; None where it does not say, and the module decides
    hooks      hook numbers, as declared, each once
    wishes     permissions asked for, in our words
    refused    ABI 0 permissions that nobody gets (files, sockets) or that have no meaning here
    on_error   "closed", "open", or "" for each hook's own default
    """

    form: str
    path: Path
    name: str
    version: str
    hooks: tuple[int, ...]
    wishes: frozenset[str]
    abi: int | None = None
    refused: tuple[str, ...] = ()
    description: str = ""
    author: str = ""
    license: str = ""
    priority: int = DEFAULT_PRIORITY
    on_error: str = ""
    is_pure: bool = False
    limits: Wishes = field(default_factory=Wishes)
    match: MatchRules = field(default_factory=MatchRules)
    config: dict[str, Any] = field(default_factory=dict)
    wasm_sha256: str = ""


def parse_hook(name: str) -> int | None:
    """Number of a hook by its name, in any case and in the short forms; None if there is none."""
    plain = name.strip().lower().replace("_", "").replace("-", "")
    return _HOOKS.get(_SHORT_FORMS.get(plain, plain))


def find_manifest(module_path: Path) -> Path | None:
    """The sidecar of a module, native form first."""
    for suffix in SUFFIXES:
        candidate = module_path.with_suffix(suffix)
        if candidate.is_file():
            return candidate
    return None


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """Read a manifest; raises PluginFailed with every problem, file first."""
    if len(content) > MAX_MANIFEST_BYTES:
        raise PluginFailed(
            path.stem, "manifest", f"{path}: {len(content)} bytes; expected at most "
            f"{MAX_MANIFEST_BYTES}"
        )  # fmt: skip
    try:
        text = content.decode("utf-8")
        if path.suffix == ".toml":
            data: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            data = json.loads(text)
        else:
            data = parse_yaml(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, YamlError, ValueError) as error:
        raise PluginFailed(path.stem, "manifest", f"{path}: {error}") from error
    except RecursionError:
        raise PluginFailed(path.stem, "manifest", f"{path}: nested too deeply") from None
    reader = _Reader(path, data)
    manifest = reader.native() if path.suffix == ".toml" else reader.legacy()
    if reader.problems or manifest is None:
        plugin = manifest.name if manifest is not None else path.stem
        raise PluginFailed(
            plugin, "manifest", "; ".join(f"{path}: {line}" for line in reader.problems)
        )
    return manifest


class _Reader:
    """Takes values out of a decoded manifest and collects what is wrong."""

    def __init__(self, path: Path, data: Any) -> None:
        self.path = path
        self.problems: list[str] = []
        self.data: dict[str, Any] = {}
        if isinstance(data, dict):
            self.data = data
        else:
            self.problems.append("not a table of keys and values")

    def native(self) -> Manifest | None:
        data = self.data
        self._unknown(data, _KEYS, "")
        name = self._name()
        version = self._text("version", required=True)
        if version and not is_version(version):
            self._wrong("version", version, "a semantic version such as 1.2.0")
        abi = data.get("abi")
        if abi is not None and (type(abi) is not int or abi not in (0, 1)):
            self._wrong("abi", abi, "0 or 1")
            abi = None
        wishes: set[str] = set()
        for text in self._texts("permissions", required=False):
            permission = permissions.parse(text)
            if permission is None:
                known = ", ".join(sorted(permissions.KNOWN))
                self._wrong("permissions", text, f"one of {known}")
            else:
                wishes.add(permission)
        on_error = self._text("on_error", default="")
        if on_error not in ("", "closed", "open"):
            self._wrong("on_error", on_error, '"closed" or "open"')
        pure = data.get("pure", False)
        if not isinstance(pure, bool):
            self._wrong("pure", pure, "true or false")
        config = self._table("config")
        return Manifest(
            form=FORM_NATIVE,
            path=self.path,
            name=name,
            version=version,
            hooks=self._hooks(),
            wishes=frozenset(wishes),
            abi=abi,
            description=self._text("description"),
            author=self._text("author"),
            license=self._text("license"),
            priority=self._priority(),
            on_error=on_error,
            is_pure=bool(pure),
            limits=self._limits(),
            match=self._match(),
            config=config,
        )

    def legacy(self) -> Manifest | None:
        data = self.data
        name = self._name()
        version = data.get("version", "0.0.0")
        if isinstance(version, int | float) and not isinstance(version, bool):
            version = str(version)
        if not isinstance(version, str) or not (
            _LEGACY_VERSION.match(version) or is_version(version)
        ):
            self._wrong("version", version, "a version such as 1.2.0")
            version = "0.0.0"
        wishes: set[str] = set()
        refused: list[str] = []
        for text in self._texts("permissions", required=False):
            permission = permissions.parse_legacy(text)
            if permission is None:
                refused.append(text)
            else:
                wishes.add(permission)
        config = data.get("config")
        digest = data.get("wasm_sha256", "")
        return Manifest(
            form=FORM_LEGACY,
            path=self.path,
            name=name,
            version=version,
            hooks=self._hooks(),
            wishes=frozenset(wishes),
            abi=0,
            refused=tuple(refused),
            description=self._loose_text("description"),
            author=self._loose_text("author"),
            license=self._loose_text("license"),
            priority=self._priority(),
            limits=self._legacy_limits(),
            config=config if isinstance(config, dict) else {},
            wasm_sha256=digest if isinstance(digest, str) else "",
        )

    def _wrong(self, key: str, got: object, expected: str) -> None:
        self.problems.append(f"{key}: {_shown(got)} is not accepted; expected {expected}")

    def _unknown(self, table: dict[str, Any], known: Any, prefix: str) -> None:
        for key in table:
            if key not in known:
                self.problems.append(
                    f"{prefix}{key}: unknown key; expected one of {', '.join(sorted(known))}"
                )

    def _name(self) -> str:
        name = self.data.get("name")
        if not isinstance(name, str) or not _NAME.match(name):
            self._wrong("name", name, "1 to 128 letters, digits, - and _")
            return self.path.stem
        return name

    def _text(self, key: str, required: bool = False, default: str = "") -> str:
        value = self.data.get(key)
        if value is None:
            if required:
                self.problems.append(f"{key}: missing; expected a string")
            return default
        if not isinstance(value, str):
            self._wrong(key, value, "a string")
            return default
        return value

    def _loose_text(self, key: str) -> str:
        value = self.data.get(key)
        return value if isinstance(value, str) else ""

    def _texts(self, key: str, required: bool) -> list[str]:
        value = self.data.get(key)
        if value is None:
            if required:
                self.problems.append(f"{key}: missing; expected a list of names")
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(key, value, "a list of strings")
            return []
        return value

    def _hooks(self) -> tuple[int, ...]:
        hooks: list[int] = []
        names = self._texts("hooks", required=True)
        for name in names:
            hook = parse_hook(name)
            if hook is None:
                self._wrong("hooks", name, f"one of {', '.join(HOOK_NAMES)}")
            elif hook not in hooks:
                hooks.append(hook)
        if isinstance(self.data.get("hooks"), list) and not names:
            self.problems.append("hooks: empty; expected at least one hook")
        return tuple(hooks)

    def _priority(self) -> int:
        value = self.data.get("priority", DEFAULT_PRIORITY)
        if type(value) is not int or not -1_000_000 <= value <= 1_000_000:
            self._wrong("priority", value, "a whole number from -1000000 to 1000000")
            return DEFAULT_PRIORITY
        return value

    def _table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            self._wrong(key, value, "a table")
            return {}
        return value

    def _size(self, key: str, value: object) -> int | None:
        if value is None:
            return None
        size = parse_size(value)
        if size is None or size < 1:
            self._wrong(key, value, "a size such as 16MiB")
            return None
        return size

    def _count(self, key: str, value: object) -> int | None:
        if value is None:
            return None
        if type(value) is not int or value < 1:
            self._wrong(key, value, "a positive whole number")
            return None
        return value

    def _limits(self) -> Wishes:
        table = self._table("limits")
        self._unknown(table, _LIMIT_KEYS, "limits.")
        return Wishes(
            memory_bytes=self._size("limits.memory", table.get("memory")),
            fuel=self._count("limits.fuel", table.get("fuel")),
            timeout_ms=self._count("limits.timeout_ms", table.get("timeout_ms")),
            input_bytes=self._size("limits.input", table.get("input")),
            output_bytes=self._size("limits.output", table.get("output")),
        )

    def _legacy_limits(self) -> Wishes:
        """Memory and the like, at the top or in `resources` or `limits`, under either name."""
        memory: int | None = None
        fuel: int | None = None
        timeout: int | None = None
        for table in (self.data, self.data.get("resources"), self.data.get("limits")):
            if not isinstance(table, dict):
                continue
            for key in ("max_memory", "memory", "memory_limit"):
                if table.get(key) is not None:
                    memory = self._size(key, table[key])
            for key in ("fuel", "max_fuel", "fuel_limit"):
                if table.get(key) is not None:
                    fuel = self._count(key, table[key])
            if table.get("timeout_ms") is not None:
                timeout = self._count("timeout_ms", table["timeout_ms"])
        return Wishes(memory_bytes=memory, fuel=fuel, timeout_ms=timeout)

    def _match(self) -> MatchRules:
        table = self._table("match")
        self._unknown(table, _MATCH_KEYS, "match.")
        lists: dict[str, tuple[str, ...]] = {}
        for key in ("kinds", "databases", "users", "tables"):
            value = table.get(key, [])
            if not isinstance(value, list) or not all(
                isinstance(item, str) and item for item in value
            ):
                self._wrong(f"match.{key}", value, "a list of names")
                value = []
            lists[key] = tuple(value)
        for kind in lists["kinds"]:
            if kind not in KINDS:
                self._wrong("match.kinds", kind, f"one of {', '.join(sorted(KINDS))}")
        sample = table.get("sample", 1.0)
        if isinstance(sample, bool) or not isinstance(sample, int | float) or not 0 <= sample <= 1:
            self._wrong("match.sample", sample, "a number from 0 to 1")
            sample = 1.0
        return MatchRules(sample=float(sample), **lists)


def parse_size(value: object) -> int | None:
    """Bytes from a whole number or a text such as 16MiB, 64kB or 64MB (all powers of 1024)."""
    if type(value) is int:
        return value
    if not isinstance(value, str):
        return None
    match = _SIZE.match(value.strip())
    if match is None:
        return None
    return int(match.group(1)) * _UNITS[match.group(2).lower().rstrip("b").rstrip("i")]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
