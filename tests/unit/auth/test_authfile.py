"""Lines, fields, tokens: quotes, commas, comments, continuation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.authfile import AuthFileError, Line, Token, cut_lines


def texts(line: Line) -> list[list[str]]:
    return [[token.text for token in field] for field in line.fields]


def test_fields_and_lists() -> None:
    lines = cut_lines('host a,b , "c d"\tall # why\n\n# nothing\n  local x\r\n')
    assert [line.number for line in lines] == [1, 4]
    assert texts(lines[0]) == [["host"], ["a", "b", "c d"], ["all"]]
    assert texts(lines[1]) == [["local"], ["x"]]


def test_quotes_make_plain_names() -> None:
    (line,) = cut_lines('"all" "say ""hi""" /"x,y # z" ""')
    assert texts(line) == [["all"], ['say "hi"'], ["/x,y # z"], [""]]
    quoted, _, pattern, _ = (field[0] for field in line.fields)
    assert not quoted.is_keyword("all")
    assert not pattern.is_pattern()
    assert Token("all", False).is_keyword("all")
    assert Token("/x", False).is_pattern()


def test_a_backslash_at_the_end_joins_lines() -> None:
    lines = cut_lines("a \\\nb\nc \\\n")
    assert [(line.number, texts(line)) for line in lines] == [(1, [["a"], ["b"]]), (3, [["c"]])]
    assert [texts(line) for line in cut_lines("a \\\nb\\")] == [[["a"], ["b"]]]
    # A continuation that never comes, of nothing.
    assert [texts(line) for line in cut_lines("a\n # b \\")] == [[["a"]]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('a\n"b', "line 2: a quote is not closed"),
        (",a", "comma stands without a value before"),
        ("a,", "comma stands without a value behind"),
        ("x" * 10_241, "too long"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, words: str) -> None:
    with pytest.raises(AuthFileError, match=words):
        cut_lines(text)


def test_a_list_where_one_value_is_expected() -> None:
    (line,) = cut_lines("a,b")
    with pytest.raises(AuthFileError, match="a list stands"):
        line.word(0)


@given(st.text(alphabet='ab ,"#\\\n/', max_size=60))
def test_any_text_is_cut_or_refused(text: str) -> None:
    lines: list[Line] = []
    last = text.count("\n") + 1
    at = 1
    try:
        lines = cut_lines(text)
    except AuthFileError as error:
        at = error.line
    assert 1 <= at <= last
    for line in lines:
        assert 1 <= line.number <= last
        assert line.fields
        assert all(field for field in line.fields)
