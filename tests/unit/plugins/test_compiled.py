"""The cache of compiled modules cannot be poisoned."""

import pytest
import wasmtime

from proxy.plugins.compiled import CompiledCache
from proxy.plugins.runtime import runtime
from tests.support.wat import exported, wasm_of

WASM = bytes(wasmtime.wat2wasm('(module (func (export "f") (result i32) (i32.const 7)))'))
HASH = "ab" * 32


@pytest.fixture
def directory(tmp_path):
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    return path


def files(directory):
    return sorted(directory.glob("*.compiled"))


def run(module):
    store = wasmtime.Store(runtime().engine)
    store.set_fuel(1000)
    store.set_epoch_deadline(1000)
    return exported(store, module, "f")(store)


def test_the_second_time_is_a_hit(directory):
    for expected in ((0, 1), (1, 0)):
        cache = CompiledCache(runtime(), directory)
        assert run(cache.module("p", WASM, HASH)) == 7
        assert (cache.hits, cache.misses) == expected
    assert len(files(directory)) == 1
    assert (directory / "cache.key").stat().st_mode & 0o777 == 0o600


def test_a_component_is_cached_too(directory):
    wasm = wasm_of("component")
    cache = CompiledCache(runtime(), directory)
    cache.component("p", wasm, HASH)
    cache.component("p", wasm, HASH)
    assert cache.hits == 1


@pytest.mark.parametrize("position", [0, 31, 32, 100, -1])
def test_an_altered_file_is_not_run(directory, position):
    cache = CompiledCache(runtime(), directory)
    cache.module("p", WASM, HASH)
    path = files(directory)[0]
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    again = CompiledCache(runtime(), directory)
    assert run(again.module("p", WASM, HASH)) == 7
    assert again.hits == 0


def test_a_file_under_another_name_is_not_run(directory):
    cache = CompiledCache(runtime(), directory)
    cache.module("p", WASM, HASH)
    first = files(directory)[0]
    cache.module("p", WASM, "cd" * 32)
    second = next(path for path in files(directory) if path != first)
    second.write_bytes(first.read_bytes())
    again = CompiledCache(runtime(), directory)
    again.module("p", WASM, "cd" * 32)
    assert again.hits == 0


def test_a_directory_that_others_may_write_is_not_used(directory):
    CompiledCache(runtime(), directory).module("p", WASM, HASH)
    directory.chmod(0o777)
    again = CompiledCache(runtime(), directory)
    assert run(again.module("p", WASM, HASH)) == 7
    assert again.hits == 0
    directory.chmod(0o700)


def test_a_readable_key_is_replaced(directory):
    CompiledCache(runtime(), directory).module("p", WASM, HASH)
    (directory / "cache.key").chmod(0o644)
    again = CompiledCache(runtime(), directory)
    again.module("p", WASM, HASH)
    assert again.hits == 0
    assert (directory / "cache.key").stat().st_mode & 0o777 == 0o600


def test_without_a_directory_it_compiles(tmp_path):
    cache = CompiledCache(runtime(), None)
    assert run(cache.module("p", WASM, HASH)) == 7
    assert list(tmp_path.iterdir()) == []
