"""What a module offers and asks for, where `test_hostile` does not look."""

from pathlib import Path

import pytest
import wasmtime

from proxy.errors import PluginFailed
from proxy.hooks.points import CUSTOM_HOOK, METRICS, ON_CONNECT, POST_QUERY, PRE_QUERY
from proxy.plugins.manifest import parse_manifest
from proxy.plugins.module import check_grants, inspect, wishes_of
from proxy.plugins.runtime import runtime
from tests.support.wat import manifest

LIMIT = 16 << 20
LEGACY = """(module
  (import "env" "kv_get" (func (param i32 i32 i32 i32) (result i32)))
  (import "env" "abort" (func (param i32 i32 i32 i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 8))
  (func (export "dealloc") (param i32 i32))
  (func (export "_initialize"))
  (func (export "custom") (param i32 i32) (result i64) (i64.const 0))
  (func (export "post_query") (param i32 i32))
  (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0)))"""


def look(wat, text, suffix=".toml"):
    module = wasmtime.Module(runtime().engine, bytes(wasmtime.wat2wasm(wat)))
    parsed = parse_manifest(Path(f"p{suffix}"), text.encode())
    return inspect(module, parsed, LIMIT), parsed


def test_a_legacy_module():
    shape, parsed = look(
        LEGACY, '{"name":"p","hooks":["pre_query","post_query","custom_hook"]}', ".json"
    )
    assert shape.abi == 0
    assert shape.exports == {
        PRE_QUERY: "pre_query",
        POST_QUERY: "post_query",
        CUSTOM_HOOK: "custom",
    }
    assert shape.observers == {POST_QUERY}
    assert shape.has_initialize
    assert not shape.has_init
    assert shape.permissions_of_imports == {"kv.read"}
    wishes = wishes_of(shape, parsed)
    assert wishes == {"query.block", "query.rewrite", "query.answer", "kv.read"}
    check_grants(shape, parsed, wishes)
    with pytest.raises(PluginFailed, match=r"import env\.kv_get needs kv\.read"):
        check_grants(shape, parsed, frozenset())


def test_a_native_manifest_of_a_legacy_module_asks_for_itself():
    shape, parsed = look(LEGACY, manifest("p", permissions='"kv.read"'))
    assert wishes_of(shape, parsed) == {"kv.read"}


SILENT = LEGACY.replace(
    '(func (export "post_query")',
    '(func (export "on_connect") (param i32 i32)) (func (export "metrics") (param i32 i32))'
    ' (func (export "post_query")',
)
SILENT_JSON = '{"name":"p","hooks":["connect","metrics","post_query"]}'


def test_what_a_legacy_module_only_listens_to_it_does_not_ask_to_decide():
    shape, parsed = look(SILENT, SILENT_JSON, ".json")
    assert shape.observers == {ON_CONNECT, METRICS, POST_QUERY}
    assert wishes_of(shape, parsed) == {"kv.read"}


MARKED = LEGACY.replace("(memory", '(func (export "headgate_abi_1")) (memory', 1)


NO_ALLOC = LEGACY.replace("(param i32) (result i32) (i32.const 8)", "")
BAD_DEALLOC = LEGACY.replace('"dealloc") (param i32 i32)', '"dealloc") (param i32)')
JSON = '{"name":"p","hooks":["pre_query"]}'


@pytest.mark.parametrize(
    ("wat", "text", "suffix", "problem"),
    [
        (MARKED, JSON, ".json", "expected a native manifest p.toml"),
        (MARKED, manifest("p", more="abi = 0"), ".toml", "abi = 0, the module is ABI 1"),
        (LEGACY, manifest("p", more="abi = 1"), ".toml", "does not export headgate_abi_1"),
        (NO_ALLOC, manifest("p"), ".toml", "export alloc is () -> ()"),
        (
            SILENT.replace("(memory", '(func (export "headgate_abi_1")) (memory', 1),
            manifest("p", hooks='"on_connect"'),
            ".toml",
            "export on_connect is (i32, i32) -> (); expected (i32, i32) -> (i64)",
        ),
        (BAD_DEALLOC, manifest("p"), ".toml", "export dealloc is (i32) -> ()"),
    ],
)
def test_disagreements(wat, text, suffix, problem):
    with pytest.raises(PluginFailed) as caught:
        look(wat, text, suffix)
    assert caught.value.cause == "module"
    assert problem in caught.value.message
