"""The benchmark's plugins are modules of the contract: exports, signatures, answers."""

import tomllib
from pathlib import Path

import pytest
import wasmtime

from benchmarks import plugins


@pytest.mark.parametrize("variant", plugins.VARIANTS)
def test_module_has_its_exports_and_answers_continue(variant: str, tmp_path: Path) -> None:
    plugins.write(tmp_path, variant)
    manifest = tomllib.loads((tmp_path / f"{variant}.toml").read_text())
    store = wasmtime.Store()
    module = wasmtime.Module.from_file(store.engine, str(tmp_path / f"{variant}.wasm"))
    exports = wasmtime.Instance(store, module, []).exports(store)
    hook = exports[manifest["hooks"][0]]
    assert isinstance(hook, wasmtime.Func)
    answer = hook(store, 0, 0)
    if variant == "continue-json":
        memory = exports["memory"]
        assert isinstance(memory, wasmtime.Memory)
        start, length = answer >> 32, answer & 0xFFFFFFFF
        assert memory.read(store, start, start + length) == b'{"action":"continue"}'
    else:
        assert answer == 0
    assert manifest["name"] == variant
