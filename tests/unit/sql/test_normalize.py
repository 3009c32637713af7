"""Constants to $n, and what is said about sharing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sql.normalize import is_filling, normalize


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("SELECT 1", "SELECT $1"),
        ("SELECT 'a''b', 1.5, 5", "SELECT $1, $2, $3"),
        ("SELECT a FROM t", "SELECT a FROM t"),
        ("SELECT $2, 5", "SELECT $2, $3"),
        ("SELECT 5, $1, 6", "SELECT $2, $1, $3"),
        ("SELECT E'a\\'b', $$x$$, $t$y$t$, B'01', X'ff', U&'x'", "SELECT $1, $2, $3, $4, $5, $6"),
        ("SELECT 'a'\n'b', 5", "SELECT $1, $2"),
        ("SELECT 'é', 5 /* é 7 */, 6", "SELECT $1, $2 /* é 7 */, $3"),
        ("SELECT t1.c FROM t1 -- 5", "SELECT t1.c FROM t1 -- 5"),
        ("SELECT -5, 0x1F, 1_000, 1e5", "SELECT -$1, $2, $3, $4"),
        ('SELECT "1" FROM "a 2"', 'SELECT "1" FROM "a 2"'),
    ],
)
def test_normalized(text: str, normalized: str) -> None:
    assert normalize(text).text == normalized


@pytest.mark.parametrize(
    ("text", "shared"),
    [
        ("SELECT a", True),
        ("SELECT 1, 1.5, '2024-01-01', ''", True),
        ('SELECT "a" FROM "b" WHERE c = 5', True),
        ("SELECT 'x' -- no digits", True),
        ("SELECT t1", False),
        ('SELECT "1"', False),
        ("SELECT $1", False),
        ("SELECT 1e5", False),
        ("SELECT 0x1", False),
        ("SELECT 1_0", False),
        ("SELECT E'1'", False),
        ("SELECT '\\1'", False),
        ("SELECT $$1$$", False),
        ("SELECT B'1'", False),
        ("SELECT U&'1'", False),
        ('SELECT U&"\\0064"', False),
        ("SELECT 1 -- 2", False),
        ("SELECT /* 1 */ a", False),
    ],
)
def test_which_texts_may_share_by_digits(text: str, shared: bool) -> None:
    assert normalize(text).has_digits_in_constants_only is shared


def test_unicode_escapes_are_told() -> None:
    assert normalize("SELECT U&'x' UESCAPE '!'").has_unicode_escapes
    assert normalize("SELECT U&\"x\" UESCAPE '!'").has_unicode_escapes
    assert not normalize("SELECT 'U&'").has_unicode_escapes


@given(st.lists(st.sampled_from(["'a'", "5", "1.5", "x", "$3", "t.c"]), min_size=1, max_size=8))
def test_every_constant_and_nothing_else_is_replaced(items: list[str]) -> None:
    text = "SELECT " + ", ".join(items)
    normalized = normalize(text).text
    kept = [item for item in items if item in ("x", "$3", "t.c")]
    parts = normalized.removeprefix("SELECT ").split(", ")
    assert len(parts) == len(items)
    assert [part for part, item in zip(parts, items, strict=True) if item in kept] == kept
    first = 3 if "$3" in items else 0
    new = [part for part, item in zip(parts, items, strict=True) if item not in kept]
    assert new == [f"${first + position + 1}" for position in range(len(new))]


def test_filling() -> None:
    assert is_filling("")
    assert is_filling(" ; \n\t;")
    assert is_filling("; -- x\n /* ; y /* z */ */ ;")
    assert not is_filling("; x")
    assert not is_filling("1")
    assert not is_filling("/* a */ (")
