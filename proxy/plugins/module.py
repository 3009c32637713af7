"""
What a compiled module offers and asks for, and whether that is what its manifest says.

Every disagreement is told at load: a missing or ill-typed export, an import that is unknown, has
another type, or is not granted. None is left for the first call.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import wasmtime

from proxy.errors import PluginFailed
from proxy.hooks.points import (
    CUSTOM_HOOK,
    HOOK_NAMES,
    METRICS,
    ON_CONNECT,
    ON_DISCONNECT,
    POST_QUERY,
)
from proxy.plugins import permissions
from proxy.plugins.host import table
from proxy.plugins.manifest import FORM_LEGACY, Manifest

MARKER: Final = "headgate_abi_1"
OBSERVERS: Final = frozenset((POST_QUERY, ON_DISCONNECT))
_LEGACY_OBSERVERS: Final = OBSERVERS | {ON_CONNECT, METRICS}
"""HeliosProxy only tells these; without a result they mean the default answer."""

_HOOK_PARAMS: Final = ["i32", "i32"]
PAGE_BYTES: Final = 65_536


@dataclass(slots=True)
class Shape:
    """
    What the host needs to know of a module.

    exports        export name of each hook the plugin subscribes to
    observers      those of them that return nothing
    imports        what must be linked
    env_imports    names it imports from `env`
    """

    abi: int
    exports: dict[int, str] = field(default_factory=dict)
    observers: frozenset[int] = frozenset()
    imports: list[wasmtime.ImportType] = field(default_factory=list)
    env_imports: frozenset[str] = frozenset()
    permissions_of_imports: frozenset[str] = frozenset()
    has_input_buffer: bool = False
    has_alloc: bool = False
    has_dealloc: bool = False
    has_init: bool = False
    has_initialize: bool = False
    memory_min_bytes: int = 0


def inspect(module: wasmtime.Module, manifest: Manifest, memory_limit_bytes: int) -> Shape:
    """Read and check exports and imports against the manifest; raises PluginFailed."""
    exports = {item.name: item.type for item in module.exports}
    problems: list[str] = []
    shape = Shape(abi=1 if MARKER in exports else 0)
    if manifest.abi is not None and manifest.abi != shape.abi:
        if manifest.form == FORM_LEGACY:
            problems.append(
                f"the module exports {MARKER}, so it is ABI 1; expected a native manifest "
                f"{manifest.path.stem}.toml"
            )
        else:
            problems.append(
                f"the manifest says abi = {manifest.abi}, the module is ABI {shape.abi} (it "
                f"{'exports' if shape.abi else 'does not export'} {MARKER})"
            )
    _check_memory(shape, exports, memory_limit_bytes, problems)
    _check_functions(shape, exports, problems)
    _check_hooks(shape, exports, manifest, problems)
    _check_imports(shape, module, problems)
    if problems:
        raise PluginFailed(manifest.name, "module", "; ".join(problems))
    return shape


def check_grants(shape: Shape, manifest: Manifest, effective: frozenset[str]) -> None:
    """Refuse a module that imports what it is not granted; raises PluginFailed."""
    problems: list[str] = []
    for item in shape.imports:
        module, name = item.module, item.name or ""
        permission = table.required_permission(module, name)
        if not permission or permission in effective:
            continue
        if permission in wishes_of(shape, manifest):
            reason = "which the operator does not grant"
        else:
            reason = "which the manifest does not ask for"
        problems.append(f"import {module}.{name} needs {permission}, {reason}")
    if problems:
        raise PluginFailed(manifest.name, "permission", "; ".join(problems))


def wishes_of(shape: Shape, manifest: Manifest) -> frozenset[str]:
    """What a plugin asks for: by its manifest, and at ABI 0 by its hooks and imports."""
    if shape.abi == 0 and manifest.form == FORM_LEGACY:
        answering = [hook for hook in manifest.hooks if hook not in shape.observers]
        return manifest.wishes | permissions.legacy_wishes(answering, shape.env_imports)
    return manifest.wishes


def _signature(functype: wasmtime.FuncType) -> tuple[list[str], list[str]]:
    return [str(t) for t in functype.params], [str(t) for t in functype.results]


def _shown(found: object) -> str:
    if not isinstance(found, wasmtime.FuncType):
        return f"{type(found).__name__.removesuffix('Type').lower()}"
    params, results = _signature(found)
    return f"({', '.join(params)}) -> ({', '.join(results)})"


def _check_memory(
    shape: Shape, exports: Mapping[str, object], limit_bytes: int, problems: list[str]
) -> None:
    memory = exports.get("memory")
    if not isinstance(memory, wasmtime.MemoryType):
        problems.append("no export memory; expected a memory of that name")
        return
    shape.memory_min_bytes = memory.limits.min * PAGE_BYTES
    if shape.memory_min_bytes > limit_bytes:
        problems.append(
            f"memory starts at {shape.memory_min_bytes} bytes; the limit is {limit_bytes}"
        )


def _check_functions(shape: Shape, exports: Mapping[str, object], problems: list[str]) -> None:
    expected = {
        "alloc": (["i32"], ["i32"]),
        "dealloc": (["i32", "i32"], []),
        "input_buffer": (["i32"], ["i32"]),
        "plugin_init": (["i32", "i32"], ["i64"]),
    }
    present: set[str] = set()
    for name, signature in expected.items():
        found = exports.get(name)
        if found is None:
            continue
        if not isinstance(found, wasmtime.FuncType) or _signature(found) != signature:
            params, results = signature
            problems.append(
                f"export {name} is {_shown(found)}; expected "
                f"({', '.join(params)}) -> ({', '.join(results)})"
            )
        else:
            present.add(name)
    if shape.abi == 1:
        # ABI 0 modules know neither; a function of that name in one means something else.
        shape.has_input_buffer = "input_buffer" in present
        shape.has_init = "plugin_init" in present
    shape.has_alloc = "alloc" in present
    shape.has_dealloc = "dealloc" in present
    initialize = exports.get("_initialize")
    if isinstance(initialize, wasmtime.FuncType) and _signature(initialize) == ([], []):
        shape.has_initialize = True
    if "alloc" not in exports and not shape.has_input_buffer:
        problems.append("no export alloc; expected (i32) -> (i32), or input_buffer at ABI 1")
    if shape.abi == 0 and "dealloc" not in exports:
        problems.append("no export dealloc; ABI 0 requires (i32, i32) -> ()")


def _check_hooks(
    shape: Shape, exports: Mapping[str, object], manifest: Manifest, problems: list[str]
) -> None:
    observers: set[int] = set()
    may_observe = OBSERVERS if shape.abi else _LEGACY_OBSERVERS
    for hook in manifest.hooks:
        names = [HOOK_NAMES[hook]] + (["custom"] if hook == CUSTOM_HOOK else [])
        name = next((candidate for candidate in names if candidate in exports), None)
        if name is None:
            problems.append(
                f"no export {names[0]}, which the manifest names; expected (i32, i32) -> (i64)"
            )
            continue
        found = exports[name]
        signature = _signature(found) if isinstance(found, wasmtime.FuncType) else ([], ["?"])
        if signature == (_HOOK_PARAMS, ["i64"]):
            shape.exports[hook] = name
        elif signature == (_HOOK_PARAMS, []) and hook in may_observe:
            shape.exports[hook] = name
            observers.add(hook)
        else:
            also = " or, without an answer, ()" if hook in may_observe else ""
            problems.append(f"export {name} is {_shown(found)}; expected (i32, i32) -> (i64){also}")
    shape.observers = frozenset(observers)


def _check_imports(shape: Shape, module: wasmtime.Module, problems: list[str]) -> None:
    needed: set[str] = set()
    env: set[str] = set()
    for item in module.imports:
        name = item.name or ""
        permission = table.required_permission(item.module, name)
        if not isinstance(item.type, wasmtime.FuncType):
            problems.append(
                f"import {item.module}.{name} is a {_shown(item.type)}; only functions are given"
            )
            continue
        if permission is None:
            problems.append(f"import {item.module}.{name} is not known")
            continue
        problem = table.type_problem(item.module, name, item.type)
        if problem:
            problems.append(f"import {item.module}.{name} is {problem}")
            continue
        if permission:
            needed.add(permission)
        if item.module == "env":
            env.add(name)
        shape.imports.append(item)
    shape.env_imports = frozenset(env)
    shape.permissions_of_imports = frozenset(needed)
