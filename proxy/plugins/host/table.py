"""
Every function that a guest may import: its permission, its types, and how it is linked.

    module     function      parameters                                   result  permission
    headgate   log           level, ptr, len                              i32     log
               metric_add    name, len, delta: any number                 i32     metrics
               metric_set    name, len, value: any number                 i32     metrics
               config_get    key, len, out, cap                           i32     config
               now_us                                                     i64     clock
               random        out, len                                     i32     random
               sha256        in, len, out [, cap]                         i32     crypto
               hmac_sha256   key, len, in, len, out [, cap]               i32     crypto
               kv_get        key, len, out, cap                           i32     kv.read
               kv_set        key, len, value, len [, ttl_ms: any number]  i32     kv.write
               kv_delete     key, len                                     i32     kv.write
               kv_incr       key, len, delta: number [, ttl_ms: number]   i64     kv.write
               kv_list       prefix, len, out, cap                        i32     kv.read
               cache_get     key, len, out, cap                           i32     cache.read
               cache_set     key, len, value, len [, ttl_ms: any number]  i32     cache.write
               cache_delete  key, len                                     i32     cache.write
               query         sql, len, params, len, out, cap              i32     db.query
               http          request, len, out, cap                       i32     http.fetch
               memory_size                                                i32     -
               abort         ptr, len                                     none    -
    env        kv_get, kv_set, kv_delete, sha256_hex (ABI 0), abort (AssemblyScript)
    wasi_*     stubs (`wasi`), no permission

Parameters are i32 unless they say number: then i32, i64, f32 and f64 will do. A result of i32 may
be declared i64, and one that only tells success may be left out. Codes below zero: `guest`.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import wasmtime

from proxy.plugins.ffi import U32, Imports
from proxy.plugins.host import cache, env, kv, log, metrics, plain, waiting, wasi
from proxy.plugins.host.guest import Guest, HostFault

HostBody = Callable[..., int]


@dataclass(frozen=True, slots=True)
class HostFunction:
    """
    One importable function.

    parameters  one letter each: i an i32, n any number; those after `required` may be left out
    result      "i" i32 (or i64), "I" i64, "" none
    may_drop    the result may be left out of the import's type
    """

    body: HostBody
    parameters: str
    required: int
    result: str = "i"
    permission: str = ""
    may_drop: bool = False


def _function(
    body: HostBody, parameters: str, permission: str, result: str = "i", may_drop: bool = False
) -> HostFunction:
    required, _, optional = parameters.partition("|")
    return HostFunction(body, required + optional, len(required), result, permission, may_drop)


_HEADGATE: Final = {
    "log": _function(log.log, "iii", "log", may_drop=True),
    "metric_add": _function(metrics.metric_add, "iin", "metrics", may_drop=True),
    "metric_set": _function(metrics.metric_set, "iin", "metrics", may_drop=True),
    "config_get": _function(plain.config_get, "iiii", "config"),
    "now_us": _function(plain.now_us, "", "clock", "I"),
    "random": _function(plain.random, "ii", "random", may_drop=True),
    "sha256": _function(plain.sha256, "iii|i", "crypto", may_drop=True),
    "hmac_sha256": _function(plain.hmac_sha256, "iiiii|i", "crypto", may_drop=True),
    "kv_get": _function(kv.kv_get, "iiii", "kv.read"),
    "kv_set": _function(kv.kv_set, "iiii|n", "kv.write", may_drop=True),
    "kv_delete": _function(kv.kv_delete, "ii", "kv.write", may_drop=True),
    "kv_incr": _function(kv.kv_incr, "iin|n", "kv.write", "I"),
    "kv_list": _function(kv.kv_list, "iiii", "kv.read"),
    "cache_get": _function(cache.cache_get, "iiii", "cache.read"),
    "cache_set": _function(cache.cache_set, "iiii|n", "cache.write", may_drop=True),
    "cache_delete": _function(cache.cache_delete, "ii", "cache.write", may_drop=True),
    "query": _function(waiting.query, "iiiiii", "db.query"),
    "http": _function(waiting.http, "iiii", "http.fetch"),
    "memory_size": _function(plain.memory_size, "", ""),
}
_ENV: Final = {
    "kv_get": _function(env.kv_get, "iiii", "kv.read"),
    "kv_set": _function(env.kv_set, "iiii", "kv.write"),
    "kv_delete": _function(env.kv_delete, "ii", "kv.write"),
    "sha256_hex": _function(env.sha256_hex, "iii", "crypto"),
}

WAITING_PERMISSIONS: Final = frozenset(("db.query", "http.fetch"))
KV_FUNCTIONS: Final = frozenset(name for name in _HEADGATE if name.startswith("kv_"))

# Their numbers may be negative, also when declared i32.
_SIGNED: Final = frozenset((metrics.metric_add, metrics.metric_set, kv.kv_incr))

_ABORTS: Final = {("headgate", "abort"): 2, ("env", "abort"): 4}
_MAX_ABORT_BYTES: Final = 512


def find(module: str, name: str) -> HostFunction | None:
    """The function behind an import, or None if there is no such."""
    if module == "headgate":
        return _HEADGATE.get(name)
    if module == "env":
        return _ENV.get(name)
    return None


def is_stub(module: str) -> bool:
    """Whether imports of this module are WASI's, and so stubbed."""
    return module in wasi.MODULES


def required_permission(module: str, name: str) -> str | None:
    """The permission an import needs: "" for none, None for an unknown import."""
    function = find(module, name)
    if function is not None:
        return function.permission
    if (module, name) in _ABORTS or is_stub(module):
        return ""
    return None


def type_problem(module: str, name: str, functype: wasmtime.FuncType) -> str:
    """What is wrong with an import's declared type; "" if nothing."""
    declared = [str(value) for value in functype.params]
    results = [str(value) for value in functype.results]
    shown = f"({', '.join(declared)}) -> ({', '.join(results)})"
    if is_stub(module):
        simple = all(value in ("i32", "i64") for value in declared)
        return "" if simple and results in ([], ["i32"]) else f"{shown} is no WASI signature"
    if (module, name) in _ABORTS:
        count = _ABORTS[module, name]
        if declared == ["i32"] * count and not results:
            return ""
        return f"{shown}; expected {count} i32 and no result"
    function = find(module, name)
    if function is None:
        return "unknown"
    expected = _expected(function)
    if not function.required <= len(declared) <= len(function.parameters):
        return f"{shown}; expected {expected}"
    for letter, value in zip(function.parameters, declared, strict=False):
        if value != "i32" and (letter == "i" or value not in ("i64", "f32", "f64")):
            return f"{shown}; expected {expected}"
    allowed = {"i": (["i32"], ["i64"]), "I": (["i64"],)}[function.result]
    if results in allowed or (not results and function.may_drop):
        return ""
    return f"{shown}; expected {expected}"


def _expected(function: HostFunction) -> str:
    names = ["i32" if letter == "i" else "number" for letter in function.parameters]
    must, may = names[: function.required], names[function.required :]
    text = ", ".join(must) + (f"[, {', '.join(may)}]" if may else "")
    return f"({text}) -> {'i64' if function.result == 'I' else 'i32'}"


def link(imports: Imports, guest: Guest, wanted: list[wasmtime.ImportType]) -> None:
    """Define every import that `wanted` names; permissions and types were checked before."""
    for item in wanted:
        functype = item.type
        module, name = item.module, item.name or ""
        if not isinstance(functype, wasmtime.FuncType):
            continue
        if (module, name) in _ABORTS:
            imports.define(module, name, functype, _abort_body(imports, guest, module))
            continue
        if is_stub(module):
            if name == "proc_exit":
                imports.define(module, name, functype, _exit_body(imports))
                continue
            body: HostBody = wasi.stub(name)
            fault_code: int | None = wasi.EINVAL
        else:
            found = find(module, name)
            assert found is not None, f"{module}.{name} was not checked"
            body = found.body
            fault_code = None
        imports.define(module, name, functype, _body(body, guest, functype, fault_code))


def _abort_body(imports: Imports, guest: Guest, module: str) -> Callable[[Any], int]:
    def abort(slots: Any) -> int:
        if module == "env":
            return imports.stop(f"abort at line {slots[4] & U32}")
        address, length = slots[0] & U32, min(slots[2] & U32, _MAX_ABORT_BYTES)
        try:
            reason = guest.read(address, length).decode("utf-8", "replace")
        except HostFault:
            reason = ""
        return imports.stop(f"abort: {reason}")

    return abort


def _exit_body(imports: Imports) -> Callable[[Any], int]:
    def proc_exit(slots: Any) -> int:
        return imports.stop(f"exit with code {slots[0] & U32}")

    return proc_exit


def _float64(slot: int) -> float:
    value: float = struct.unpack("<d", struct.pack("<q", slot))[0]
    return value


def _float32(slot: int) -> float:
    value: float = struct.unpack("<f", struct.pack("<I", slot & U32))[0]
    return value


def _number32(slot: int) -> int:
    slot &= U32
    return slot - (1 << 32) if slot & 0x8000_0000 else slot


def _same(slot: int) -> int:
    return slot


def _body(
    function: HostBody, guest: Guest, functype: wasmtime.FuncType, fault_code: int | None
) -> Callable[[Any], int]:
    """Arguments out of the slots, the result into the first."""
    types = [str(value) for value in functype.params]
    has_result = bool(functype.results)
    count = len(types)

    if all(value == "i32" for value in types) and count <= 4 and function not in _SIGNED:
        # PERF: the usual case without a loop; 0.3 us less a call (benchmarks/micro_plugin.py).
        def plain_body(slots: Any) -> int:
            try:
                if count == 4:
                    result = function(
                        guest, slots[0] & U32, slots[2] & U32, slots[4] & U32, slots[6] & U32
                    )
                elif count == 3:
                    result = function(guest, slots[0] & U32, slots[2] & U32, slots[4] & U32)
                elif count == 2:
                    result = function(guest, slots[0] & U32, slots[2] & U32)
                elif count == 1:
                    result = function(guest, slots[0] & U32)
                else:
                    result = function(guest)
            except HostFault as fault:
                result = fault.code if fault_code is None else fault_code
            if has_result:
                slots[0] = result
            return 0

        return plain_body

    known = next((f for f in _HEADGATE.values() if f.body is function), None)
    readers: list[Callable[[int], int | float]] = []
    for number, value in enumerate(types):
        if value == "i32":
            is_number = known is not None and known.parameters[number] == "n"
            readers.append(_number32 if is_number else U32.__and__)
        elif value == "i64":
            readers.append(_same)
        else:
            readers.append(_float64 if value == "f64" else _float32)

    def body(slots: Any) -> int:
        arguments = [reader(slots[2 * number]) for number, reader in enumerate(readers)]
        try:
            result = function(guest, *arguments)
        except HostFault as fault:
            result = fault.code if fault_code is None else fault_code
        if has_result:
            slots[0] = result
        return 0

    return body
