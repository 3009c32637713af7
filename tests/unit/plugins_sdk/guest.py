"""An example module run through wasmtime's public API, the way the contract says."""

import atexit
import json
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import wasmtime

from proxy.hooks import codec
from proxy.session.context import ClientContext
from proxy.session.inspection import PHASE_STATEMENT, Inspection, Outcome
from proxy.sql.classify import PgClassifier

EXAMPLES = Path(__file__).resolve().parents[3] / "plugins_sdk" / "examples"
CLASSIFIER = PgClassifier()
INPUT_BYTES = 65_536
FUEL = 5_000_000

_config = wasmtime.Config()
_config.consume_fuel = True
ENGINE = wasmtime.Engine(_config)
_stores: "weakref.WeakSet[wasmtime.Store]" = weakref.WeakSet()


@atexit.register
def _close_stores() -> None:
    # wasmtime's own finalizers come too late when the interpreter ends.
    for store in list(_stores):
        store.close()
    module_of.cache_clear()
    ENGINE.close()


@cache
def module_of(name: str) -> wasmtime.Module:
    """The module of an example, compiled once."""
    return wasmtime.Module(ENGINE, (EXAMPLES / name / f"{name}.wasm").read_bytes())


class Guest:
    """One instance of an example, with what it logged and counted."""

    def __init__(self, name: str, config: dict[str, Any] | None = None) -> None:
        module = module_of(name)
        self.store = wasmtime.Store(ENGINE)
        _stores.add(self.store)
        self.lines: list[tuple[int, str]] = []
        self.counts: dict[str, float] = {}
        linker = wasmtime.Linker(ENGINE)
        i32, f64 = wasmtime.ValType.i32(), wasmtime.ValType.f64()
        linker.define_func("headgate", "log", wasmtime.FuncType([i32, i32, i32], [i32]), self._log)
        linker.define_func(
            "headgate", "metric_add", wasmtime.FuncType([i32, i32, f64], [i32]), self._metric_add
        )
        self.store.set_fuel(FUEL)
        self.exports = linker.instantiate(self.store, module).exports(self.store)
        memory = self.exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        self.memory = memory
        self.fuel_used = 0
        self.init_answer: Any = None
        self.buffer = self._call("input_buffer", INPUT_BYTES)
        if "plugin_init" in {export.name for export in module.exports}:
            self.init_answer = self.run("plugin_init", json.dumps(config or {}).encode())

    def _log(self, level: int, address: int, length: int) -> int:
        self.lines.append((level, self._read(address, length).decode()))
        return 0

    def _metric_add(self, address: int, length: int, delta: float) -> int:
        name = self._read(address, length).decode()
        self.counts[name] = self.counts.get(name, 0) + delta
        return 0

    def _read(self, address: int, length: int) -> bytes:
        return bytes(self.memory.read(self.store, address, address + length))

    def _call(self, name: str, *arguments: int) -> Any:
        function = self.exports[name]
        assert isinstance(function, wasmtime.Func)
        self.store.set_fuel(FUEL)
        result = function(self.store, *arguments)
        self.fuel_used = FUEL - self.store.get_fuel()
        return result

    def run(self, hook: str, payload: bytes) -> Any:
        """Call a hook: None for the default, 1 for a generic block, else the answer's JSON."""
        assert len(payload) <= INPUT_BYTES
        self.memory.write(self.store, payload, self.buffer)
        packed = self._call(hook, self.buffer, len(payload))
        if packed is None:
            return None
        address, length = (packed >> 32) & 0xFFFF_FFFF, packed & 0xFFFF_FFFF
        if address == 0:
            return length or None
        return json.loads(self._read(address, length))


def client() -> ClientContext:
    """A client of the database `shop`."""
    context = ClientContext("w0-1", "10.0.0.7", True, 0.0)
    context.user = context.identity = "alice"
    context.database = "shop"
    context.application_name = "psql"
    return context


def inspection(
    sql: str | bytes, *, unknown: bool = False, in_transaction: bool = False
) -> Inspection:
    """A statement as the proxy sees it; the text holds exactly one."""
    text = sql.encode() if isinstance(sql, str) else sql
    facts = (CLASSIFIER.unknown(text) if unknown else CLASSIFIER.exact(text)).statements
    assert len(facts) == 1, facts
    return Inspection(facts[0], client(), False, PHASE_STATEMENT, in_transaction, None)


def envelope(found: Inspection) -> bytes:
    """The input of the statement hooks."""
    return codec.statement_envelope(found, b"t-", False, False)


def told(found: Inspection, outcome: Outcome) -> bytes:
    """The input of post_query."""
    found.outcome = outcome
    return codec.post_query_envelope(found, b"t-", False, INPUT_BYTES)
