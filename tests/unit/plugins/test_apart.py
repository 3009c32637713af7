"""Compiling in a process of its own: what comes back of it."""

import sys

import pytest
import wasmtime
from wasmtime.component import Component

from proxy.errors import PluginFailed
from proxy.plugins import apart
from proxy.plugins.apart import compile_component
from proxy.plugins.runtime import runtime
from tests.support.wat import wasm_of


def test_the_code_is_for_our_engine():
    component = Component.deserialize(
        runtime().engine, compile_component("p", wasm_of("component"))
    )
    assert "call" in component.type.exports(runtime().engine)
    component.close()


def test_what_is_no_component_is_refused_with_the_reason():
    broken = bytes(wasmtime.wat2wasm("(component)")) + b"\xff\x01"
    with pytest.raises(PluginFailed, match="not a valid component") as caught:
        compile_component("p", broken)
    assert (caught.value.plugin, caught.value.cause) == ("p", "compile")


def test_one_that_takes_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(apart, "COMPILE_TIMEOUT_S", 0.001)
    with pytest.raises(PluginFailed, match="longer than"):
        compile_component("p", wasm_of("component"))


def test_no_process_is_a_refusal(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(PluginFailed, match="no process to compile in"):
        compile_component("p", wasm_of("component"))
