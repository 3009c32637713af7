"""The demo's stack: its refusals, and the harmless change that makes a new build of a plugin."""

import socket
import tomllib
from pathlib import Path

import pytest
import wasmtime

from proxy.demo import stack
from proxy.demo.stack import DemoFailed, DemoStack
from tests.support.ports import take_port


def test_port_in_use_is_named_with_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(DemoFailed, match=rf"port {port} .*--admin-port"):
            DemoStack(take_port(), port, print)


def test_custom_section_changes_a_module_and_leaves_it_valid() -> None:
    module = bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1))'))
    changed = module + stack._custom_section("build", "9.9.9")
    assert changed != module
    loaded = wasmtime.Module(wasmtime.Engine(), changed)
    assert [export.name for export in loaded.exports] == ["memory"]


def test_written_files_are_a_valid_configuration(tmp_path: Path) -> None:
    text = stack._CONFIG.format(
        port=1,
        admin_port=2,
        socket_dir='"/tmp"',
        os_user='"me"',
        primary_port=3,
        standby_port=4,
    ) + stack._OWN_DATABASE.format(os_user='"me"', database='"shop"')
    document = tomllib.loads(text)
    assert [node["port"] for node in document["node"]] == [3, 4]
    assert [entry["name"] for entry in document["database"]] == ["*", "me"]
