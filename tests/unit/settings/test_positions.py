"""Lines of keys, against documents whose lines are known because they were written here."""

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.settings.positions import Path, find_lines

DOCUMENT = '''\
# a comment with [brackets] and key = "value"
top = 1
dotted.key.path = "x"

[listen]  # after a header
host = [
    "a", # first = 1
    'b]',
]
text = """
not.a = "key"
[not.a.table]
""\\" still
"""
raw = \'\'\'
also = 'not' ''\'\'\'
tls = { mode = "allow", deep = { er = [1, { x = 2 }] } }
when = 1979-05-27 07:32:00
"quoted \\u0041 key" = 5
'lit.eral' = 6

[[node]]
name = "a"
[node.tls]
mode = "prefer"
[[node]]
tls.mode = "require"
name = "b"
[[node.child]]
x = 1
[[node.child]]
x = 2
[a.b]
c = 1
[a]
d = 2
'''

EXPECTED: dict[Path, int] = {
    (): 1,
    ("top",): 2,
    ("dotted",): 3,
    ("dotted", "key", "path"): 3,
    ("listen",): 5,
    ("listen", "host"): 6,
    ("listen", "host", 0): 7,
    ("listen", "host", 1): 8,
    ("listen", "text"): 10,
    ("listen", "raw"): 15,
    ("listen", "tls", "mode"): 17,
    ("listen", "tls", "deep", "er", 1, "x"): 17,
    ("listen", "when"): 18,
    ("listen", "quoted A key"): 19,
    ("listen", "lit.eral"): 20,
    ("node",): 22,
    ("node", 0, "name"): 23,
    ("node", 0, "tls"): 24,
    ("node", 0, "tls", "mode"): 25,
    ("node", 1): 26,
    ("node", 1, "tls", "mode"): 27,
    ("node", 1, "name"): 28,
    ("node", 1, "child", 0, "x"): 30,
    ("node", 1, "child", 1): 31,
    ("node", 1, "child", 1, "x"): 32,
    ("a", "b"): 33,
    ("a", "b", "c"): 34,
    ("a",): 35,
    ("a", "d"): 36,
}


def test_lines_of_every_way_to_write_a_key() -> None:
    lines = find_lines(DOCUMENT)
    assert {path: lines.get(path) for path in EXPECTED} == EXPECTED
    assert set(paths_of(tomllib.loads(DOCUMENT))) <= set(lines)


def paths_of(value: Any, path: Path = ()) -> list[Path]:
    found: list[Path] = [path]
    if isinstance(value, dict):
        for key, below in value.items():
            found += paths_of(below, (*path, key))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            found += paths_of(below, (*path, number))
    return found


keys = st.one_of(
    st.text("abcz09_-", min_size=1, max_size=5),
    st.sampled_from(['"a.b"', "'c d'", '"\\u00e9"', '"x\\"]"', '"#"', '""']),
)
scalars = st.sampled_from(
    [
        "1",
        "-2.5e3",
        "true",
        "inf",
        "2020-01-01",
        '"]},#= \\" \\\\"',
        "'x\"#'",
        '""',
        "''",
        '""""two\n[x]\n\'\'\'\n"""""',
        "'''\na = \"\"\"'\n'''''",
        '"""\\\n   folded"""',
    ]
)
gaps = st.sampled_from(["", " ", "\t", "\n", " # note = [1]\n", "\n\n"])


@st.composite
def lists(draw: st.DrawFn, elements: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(elements, max_size=3))
    text = "["
    for item in items:
        text += draw(gaps) + item + draw(gaps) + ","
    return text + draw(gaps) + "]"


@st.composite
def inline_tables(draw: st.DrawFn, elements: st.SearchStrategy[str]) -> str:
    items = draw(st.lists(st.tuples(keys, elements), max_size=3, unique_by=lambda item: item[0]))
    return "{" + ", ".join(f"{key} = {value}" for key, value in items) + "}"


values = st.recursive(scalars, lambda inner: lists(inner) | inline_tables(inner), max_leaves=6)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    """A document with one key for each table, and the lines of those keys."""
    text = ""
    expected: dict[Path, int] = {}
    for number in range(draw(st.integers(1, 5))):
        text += draw(gaps) + "\n"
        path: Path = (f"t{number}",)
        if draw(st.booleans()):
            text += f"[{path[0]}]"
        else:
            text += f"[[ {path[0]} ]]"
            path = (*path, 0)
        text += draw(st.sampled_from(["\n", " # [x]\n"]))
        expected[(*path, "k")] = text.count("\n") + 1
        text += f"k = {draw(values)}\n"
    return text, expected


@given(documents())
def test_any_document_has_a_line_for_every_key(document: tuple[str, dict[Path, int]]) -> None:
    text, expected = document
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        # Two spellings of one key.
        return
    lines = find_lines(text)
    assert set(paths_of(parsed)) <= set(lines)
    assert {path: lines[path] for path in expected} == expected
