"""Manifests of both forms: what they say, and every way in which they are refused."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import PluginFailed
from proxy.hooks.points import (
    AUTHENTICATE,
    CUSTOM_HOOK,
    ON_CONNECT,
    ON_DISCONNECT,
    POST_QUERY,
    PRE_QUERY,
    ROUTE,
)
from proxy.plugins.manifest import find_manifest, parse_hook, parse_manifest, parse_size

FULL = """
name = "no-drop"
version = "1.2.0"
description = "d"; author = "a"; license = "Apache-2.0"
abi = 1
hooks = ["pre_query", "custom"]
permissions = ["query.block", "log"]
priority = 7
on_error = "closed"
pure = true
[limits]
memory = "16MiB"
fuel = 5_000_000
timeout_ms = 10
[match]
kinds = ["insert", "ddl"]
databases = ["app*"]
sample = 0.5
[config]
tables = ["orders"]
""".replace('"; ', '"\n')

MINIMAL = 'name = "p"\nversion = "1.0.0"\nhooks = ["pre_query"]\n'


def parse(text, suffix=".toml"):
    return parse_manifest(Path(f"p{suffix}"), text.encode())


def test_a_full_native_manifest():
    manifest = parse(FULL)
    assert manifest.name == "no-drop"
    assert manifest.version == "1.2.0"
    assert manifest.abi == 1
    assert manifest.hooks == (PRE_QUERY, CUSTOM_HOOK)
    assert manifest.wishes == {"query.block", "log"}
    assert manifest.priority == 7
    assert manifest.on_error == "closed"
    assert manifest.is_pure
    assert manifest.limits.memory_bytes == 16 * 1024 * 1024
    assert manifest.limits.fuel == 5_000_000
    assert manifest.limits.timeout_ms == 10
    assert manifest.match.kinds == ("insert", "ddl")
    assert manifest.match.databases == ("app*",)
    assert manifest.match.sample == 0.5
    assert manifest.config == {"tables": ["orders"]}


def test_defaults():
    manifest = parse(MINIMAL)
    assert manifest.priority == 100
    assert manifest.on_error == ""
    assert manifest.abi is None
    assert not manifest.is_pure
    assert manifest.wishes == frozenset()
    assert manifest.match.is_empty()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pre_query", PRE_QUERY),
        ("PreQuery", PRE_QUERY),
        ("prequery", PRE_QUERY),
        ("auth", AUTHENTICATE),
        ("routing", ROUTE),
        ("connect", ON_CONNECT),
        ("disconnect", ON_DISCONNECT),
        ("on-disconnect", ON_DISCONNECT),
        ("postquery", POST_QUERY),
        ("custom", CUSTOM_HOOK),
        ("custom_hook", CUSTOM_HOOK),
        ("pre", None),
        ("", None),
    ],
)
def test_hook_names(text, expected):
    assert parse_hook(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MINIMAL + 'colour = "red"', "colour: unknown key"),
        (MINIMAL + "[limits]\nspeed = 1", "limits.speed: unknown key"),
        (MINIMAL + "[match]\nmoon = []", "match.moon: unknown key"),
        (
            MINIMAL.replace("pre_query", "pre_dinner"),
            "'pre_dinner' is not accepted; expected one of",
        ),
        (MINIMAL + 'permissions = ["everything"]', "permissions: 'everything'"),
        (MINIMAL + "permissions = [1]", "permissions: [1] is not accepted; expected a list"),
        (MINIMAL.replace('"p"', '"a b"'), "name: 'a b'"),
        (MINIMAL.replace('"p"', f'"{"x" * 129}"'), "name:"),
        (MINIMAL.replace("1.0.0", "1.0"), "version: '1.0'"),
        ('name = "p"\nversion = "1.0.0"\n', "hooks: missing"),
        ('name = "p"\nversion = "1.0.0"\nhooks = []', "hooks: empty"),
        ('version = "1.0.0"\nhooks = ["route"]', "name: None"),
        (MINIMAL + "abi = 2", "abi: 2"),
        (MINIMAL + 'on_error = "maybe"', "on_error: 'maybe'"),
        (MINIMAL + "pure = 1", "pure: 1"),
        (MINIMAL + "priority = true", "priority: True"),
        (MINIMAL + '[limits]\nmemory = "lots"', "limits.memory: 'lots'"),
        (MINIMAL + "[limits]\nfuel = -1", "limits.fuel: -1"),
        (MINIMAL + '[match]\nkinds = ["tea"]', "match.kinds: 'tea'"),
        (MINIMAL + "[match]\nsample = 2", "match.sample: 2"),
        (MINIMAL + "limits = 3", "limits: 3"),
        ("name = ", "p.toml: "),
        ("\udcff", "p.toml: "),
    ],
)
def test_native_manifests_are_strict(text, problem):
    with pytest.raises(PluginFailed) as caught:
        parse_manifest(Path("p.toml"), text.encode("utf-8", "surrogateescape"))
    assert caught.value.cause == "manifest"
    assert problem in caught.value.message
    assert "p.toml: " in caught.value.message


def test_all_problems_are_told_at_once():
    with pytest.raises(PluginFailed) as caught:
        parse('name = "a b"\nversion = "x"\nhooks = ["nope"]\ncolour = 1')
    for word in ("name:", "version:", "hooks:", "colour:"):
        assert word in caught.value.message


LEGACY_JSON = """{"name":"old","version":"0.3.1","description":"d","author":"a","license":"x",
 "hooks":["prequery","route"],"permissions":["kv_read","query_execute","network","shiny"],
 "resources":{"min_memory":"1MB","max_memory":"32MB"},"schema_version":"1.0","extra":true}"""
LEGACY_YAML = """
name: old
version: 0.3.1
hooks:
  - pre_query
  - route
permissions:
  - kv_read
  - query_execute
  - network
  - shiny
max_memory: 33554432
"""


@pytest.mark.parametrize(
    ("text", "suffix"), [(LEGACY_JSON, ".json"), (LEGACY_YAML, ".yaml"), (LEGACY_YAML, ".yml")]
)
def test_legacy_manifests_are_lenient(text, suffix):
    manifest = parse(text, suffix)
    assert manifest.name == "old"
    assert manifest.version == "0.3.1"
    assert manifest.abi == 0
    assert manifest.hooks == (PRE_QUERY, ROUTE)
    assert manifest.wishes == {"kv.read", "db.query"}
    assert manifest.refused == ("network", "shiny")
    assert manifest.limits.memory_bytes == 32 * 1024 * 1024


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"name":"old","hooks":["prelude"]}', "'prelude'"),
        ('{"name":"old"}', "hooks: missing"),
        ('{"name":"","hooks":["route"]}', "name: ''"),
        ('{"name":"old","hooks":["route"],"version":"new"}', "version: 'new'"),
        ("[1]", "not a table"),
        ("{", "p.json: "),
        ("[" * 100_000, "p.json: "),
    ],
)
def test_legacy_manifests_are_strict_about_hooks(text, problem):
    with pytest.raises(PluginFailed) as caught:
        parse(text, ".json")
    assert problem in caught.value.message


def test_sidecars_are_looked_for_in_their_order(tmp_path):
    module = tmp_path / "p.wasm"
    assert find_manifest(module) is None
    for suffix in (".yml", ".yaml", ".json", ".toml"):
        (tmp_path / f"p{suffix}").touch()
        assert find_manifest(module) == tmp_path / f"p{suffix}"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("16MiB", 16 << 20), ("64kB", 65_536), ("64KB", 65_536), ("1GB", 1 << 30), ("5", 5),
        (7, 7), ("MiB", None), ("1 TB", None), (True, None), (1.5, None),
    ],
)  # fmt: skip
def test_sizes(value, expected):
    assert parse_size(value) == expected


def test_a_manifest_has_a_size_limit():
    with pytest.raises(PluginFailed, match="expected at most"):
        parse("#" * 300_000)


@given(st.binary(max_size=300), st.sampled_from([".toml", ".json", ".yaml"]))
@settings(max_examples=200, deadline=None)
def test_garbage_is_refused_and_nothing_else(content, suffix):
    with pytest.raises(PluginFailed):
        parse_manifest(Path(f"p{suffix}"), content)
