"""What `headgate check` says of plugins."""

from proxy.plugins.check import abi_of, check_plugins
from proxy.plugins.loader import read_source
from proxy.settings.model import Settings
from proxy.settings.plugin_model import PluginOverride, Plugins
from tests.support.wat import body_wat, manifest, put, wasm_of

GOOD = body_wat("(i64.const 0)")


def lines_of(directory, **options):
    found = check_plugins(Settings(plugins=Plugins(dir=directory, **options)))
    return {line.subject: line for line in found}


def test_nothing_to_check(tmp_path):
    assert check_plugins(Settings()) == []
    assert lines_of(tmp_path) == {}


def test_each_plugin_has_a_line(tmp_path):
    put(tmp_path, "a", GOOD, manifest("good", permissions='"query.block", "log"'))
    put(tmp_path, "b", wasm_of("init_refuses"), manifest("refuses"))
    put(tmp_path, "c", wasm_of("start_loops"), manifest("loops"))
    put(tmp_path, "d", GOOD, manifest("good"))
    put(tmp_path, "e", GOOD, manifest("off"))
    put(tmp_path, "f", b"\0asm\x01\0\0\0\xff", manifest("broken"))
    put(tmp_path, "g", wasm_of("component"), manifest("comp"))
    put(
        tmp_path, "h", wasm_of("legacy_counter"),
        '{"name":"old","hooks":["pre_query"],"permissions":["network"]}', ".json",
    )  # fmt: skip
    overrides = {"off": PluginOverride(enabled=False), "ghost": PluginOverride()}
    lines = lines_of(tmp_path, settings=overrides, grants=("log", "kv.read", "kv.write", "crypto"))
    assert "has the same name" in lines["good"].text
    assert not lines["good"].ok
    assert "I want a license" in lines["refuses"].text
    assert "fuel" in lines["loops"].text
    assert lines["off"].ok
    assert "disabled" in lines["off"].text
    assert not lines["broken"].ok
    assert lines["comp"].ok
    assert lines["old"].ok
    assert "asks for and does not get query.answer, query.block" in lines["old"].text
    assert "what no plugin gets: network" in lines["old"].text
    assert "no module in" in lines["ghost"].text


def test_what_is_asked_for_and_not_granted_is_told(tmp_path):
    put(tmp_path, "a", GOOD, manifest("good", permissions='"query.block", "log"'))
    text = lines_of(tmp_path)["good"].text
    assert "gets log" in text
    assert "asks for and does not get query.block" in text


def test_a_directory_that_is_missing(tmp_path):
    lines = lines_of(tmp_path / "missing")
    assert not lines["platform"].ok


def test_abi_of(tmp_path):
    limit = 1 << 20
    assert abi_of(read_source(put(tmp_path, "a", GOOD, manifest("a")), limit, limit)) == 1
    old = put(tmp_path, "b", wasm_of("legacy_counter"), '{"name":"b","hooks":["route"]}', ".json")
    assert abi_of(read_source(old, limit, limit)) == 0
    comp = put(tmp_path, "c", wasm_of("component"), manifest("c"))
    assert abi_of(read_source(comp, limit, limit)) == 1
