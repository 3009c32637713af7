"""Compiling in a process of its own: what comes back of it, and that it ends with the proxy."""

import sys
import threading
import time

import pytest
import wasmtime
from wasmtime.component import Component

from proxy.errors import PluginFailed
from proxy.plugins import apart
from proxy.plugins.apart import COMPONENT, MODULE, Apart
from proxy.plugins.compiled import IN_PLACE_BYTES, CompiledCache
from proxy.plugins.runtime import runtime
from tests.support.wat import body_wat, wasm_of


def test_the_code_is_for_our_engine():
    code = Apart().compile("p", wasm_of("component"), COMPONENT)
    component = Component.deserialize(runtime().engine, code)
    assert "call" in component.type.exports(runtime().engine)
    component.close()
    code = Apart().compile("p", bytes(wasmtime.wat2wasm(body_wat("(i64.const 0)"))), MODULE)
    module = wasmtime.Module.deserialize(runtime().engine, code)
    assert "pre_query" in {export.name for export in module.exports}
    module.close()


def test_large_modules_are_compiled_apart(monkeypatch):
    seen = []
    compile_apart = Apart.compile

    def spying(self, plugin, wasm, kind):
        seen.append(len(wasm))
        return compile_apart(self, plugin, wasm, kind)

    monkeypatch.setattr(Apart, "compile", spying)
    cache = CompiledCache(runtime(), None)
    plain = bytes(wasmtime.wat2wasm(body_wat("(i64.const 0)")))
    for padding in (10, IN_PLACE_BYTES):
        # A custom section of that many bytes, named x.
        size = padding + 2
        length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127])
        wasm = plain + b"\x00" + length + b"\x01x" + bytes(padding)
        cache.module("p", wasm, str(padding)).close()
    assert len(seen) == 1
    assert seen[0] > IN_PLACE_BYTES


def test_what_is_no_component_is_refused_with_the_reason():
    broken = bytes(wasmtime.wat2wasm("(component)")) + b"\xff\x01"
    with pytest.raises(PluginFailed, match="not a valid component") as caught:
        Apart().compile("p", broken, COMPONENT)
    assert (caught.value.plugin, caught.value.cause) == ("p", "compile")


def test_one_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(apart, "COMPILE_TIMEOUT_S", 0.001)
    with pytest.raises(PluginFailed, match="longer than"):
        Apart().compile("p", wasm_of("component"), COMPONENT)


def test_no_process_is_a_refusal(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PluginFailed, match="no process to compile in"):
        Apart().compile("p", wasm_of("component"), COMPONENT)


def test_the_end_of_the_proxy_ends_it(tmp_path, monkeypatch):
    endless = tmp_path / "endless"
    endless.write_text("#!/bin/sh\nexec sleep 600\n")
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))
    compiler = Apart()
    refused: list[PluginFailed] = []

    def compiling() -> None:
        try:
            compiler.compile("p", b"", COMPONENT)
        except PluginFailed as failed:
            refused.append(failed)

    thread = threading.Thread(target=compiling)
    thread.start()
    while not compiler._children:
        time.sleep(0.01)
    compiler.close()
    thread.join(20)
    assert [failed.cause for failed in refused] == ["compile"]
    with pytest.raises(PluginFailed, match="the proxy is ending"):
        compiler.compile("p", b"", COMPONENT)
