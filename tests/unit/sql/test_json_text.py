"""Fragments are JSON for whatever text there is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sql.json_text import head_fragment, query_fragment, rest_of, tail_fragment

TEXTS = st.text(max_size=60) | st.sampled_from(['"', "\\", "\x01\x1f\x7f", "é\u2028", "\U0001f600"])
WITHOUT_SURROGATES = TEXTS.filter(lambda text: text.encode("utf-8", "ignore").decode() == text)


@given(
    WITHOUT_SURROGATES, WITHOUT_SURROGATES, st.lists(WITHOUT_SURROGATES, max_size=3), st.booleans()
)
def test_head(text: str, normalized: str, tables: list[str], reads: bool) -> None:
    fragment = head_fragment(text, normalized, tuple(tables), reads)
    assert json.loads(b"{" + fragment + b"}") == {
        "query": text,
        "normalized": normalized,
        "tables": tables,
        "is_read_only": reads,
    }


def test_tail() -> None:
    assert json.loads(b"{" + tail_fragment("select", "0123456789abcdef") + b"}") == {
        "kind": "select",
        "fingerprint": "0123456789abcdef",
    }


@pytest.mark.parametrize("text", ["", "a", '"', 'a"b', "\\", '\\"', '\\\\"x', 'x","normalized":"'])
def test_the_part_behind_the_text_is_found_whatever_the_text_is(text: str) -> None:
    head = head_fragment(text, "n", ("t",), True)
    rest = rest_of(head)
    assert head[:rest] == query_fragment(text)
    assert head[rest:] == b',"normalized":"n","tables":["t"],"is_read_only":true'
