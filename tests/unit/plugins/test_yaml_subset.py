"""The YAML that manifests use; everything else is refused with its line."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.plugins.yaml_subset import YamlError, parse_yaml

DOCUMENT = """\
---
# a plugin
name: old-guard      # trailing comment
version: "1.2.0"
author: 'O''Brien # not a comment'
empty:
priority: 10
ratio: 0.5
on: true
off: ~
hooks:
  - pre_query
  - "post_query"
permissions: [kv_read, 'kv_write']
flow: {a: 1, b: x}
none: []
resources:
  min_memory: 1MB
  max_memory: 16MB
  deep:
    - name: a
      value: 1
    - name: b
same_indent:
- x
- y
url: http://host/path
"""


def test_a_manifest():
    assert parse_yaml(DOCUMENT) == {
        "name": "old-guard",
        "version": "1.2.0",
        "author": "O'Brien # not a comment",
        "empty": None,
        "priority": 10,
        "ratio": 0.5,
        "on": True,
        "off": None,
        "hooks": ["pre_query", "post_query"],
        "permissions": ["kv_read", "kv_write"],
        "flow": {"a": 1, "b": "x"},
        "none": [],
        "resources": {
            "min_memory": "1MB",
            "max_memory": "16MB",
            "deep": [{"name": "a", "value": 1}, {"name": "b"}],
        },
        "same_indent": ["x", "y"],
        "url": "http://host/path",
    }


def test_block_scalars():
    text = """\
description: >-
  Blocks what
  must not be.

  Really: all # of it.
license: |
  first
    second

hooks:
  - pre_query
config:
  note: |-
    "quoted"
  empty: >
last: |
  end"""
    assert parse_yaml(text) == {
        "description": "Blocks what must not be.\nReally: all # of it.",
        "license": "first\n  second\n",
        "hooks": ["pre_query"],
        "config": {"note": '"quoted"', "empty": ""},
        "last": "end\n",
    }


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n"])
def test_nothing(text):
    assert parse_yaml(text) is None


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\na: 2", 2),
        ("\ta: 1", 1),
        ("a: &x 1", 1),
        ("a: |2\n  text", 1),
        ("a: |\n    text\n  less", 3),
        ("- |\n  text", 1),
        ("a: 1\n---\nb: 2", 2),
        ("a: 1\n   b: 2", 2),
        ("a: [1, [2]]", 1),
        ("a: [1", 1),
        ("a: [1,,2]", 1),
        ("a: 'x", 1),
        ('a: "x', 1),
        ("a: {b}", 1),
        ("hello\nthere", 1),
        ("a:\n  - 1\n b: 2", 3),
        ("%YAML 1.2", 1),
    ],
)
def test_what_is_not_understood(text, line):
    with pytest.raises(YamlError, match=f"line {line}:"):
        parse_yaml(text)


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_garbage_raises_only_its_own_error(text):
    with contextlib.suppress(YamlError):
        parse_yaml(text)


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=20)))
@settings(max_examples=100, deadline=None)
def test_quoted_strings_come_back(data):
    lines = "\n".join(f"{key}: {json.dumps(value)}" for key, value in data.items())
    assert parse_yaml(lines) == (data or None)
