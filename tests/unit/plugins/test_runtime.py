"""The engine: one a process, with what plugins do not need turned off."""

import pytest
import wasmtime

from proxy.errors import PluginFailed
from proxy.plugins.runtime import engine_fingerprint, runtime


def test_one_engine_a_process():
    assert runtime() is runtime()


def test_a_bad_module_is_refused_with_a_reason():
    with pytest.raises(PluginFailed) as caught:
        runtime().compile("p", b"\0asm\x01\0\0\0\xff")
    assert caught.value.cause == "compile"
    assert caught.value.plugin == "p"


@pytest.mark.parametrize(
    "wat",
    [
        "(module (memory i64 1))",
        "(module (memory 1 2 shared))",
        "(module (tag))",
        "(module (type (struct)))",
    ],
)
def test_features_that_plugins_do_not_need_are_off(wat):
    with pytest.raises(PluginFailed):
        runtime().compile("p", bytes(wasmtime.wat2wasm(wat)))


def test_the_fingerprint_is_stable():
    assert engine_fingerprint() == engine_fingerprint()
    assert len(engine_fingerprint()) == 64
