"""Keys for texts that differ in constants."""

import pytest

from proxy.sql.shapes import literal_shape, zeroed


def test_zeroed_keeps_everything_but_digits() -> None:
    assert zeroed(b"SELECT 12.5, 'a9' FROM t7") == b"SELECT 00.0, 'a0' FROM t0"
    assert zeroed("é9".encode()) == "é0".encode()


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        (b"SELECT 'a'", b"SELECT ''"),
        (b"SELECT ''", b"SELECT ''"),
        (b"SELECT 'a''b', 'c'", b"SELECT '''', ''"),
        (b"SELECT 'a--b /* $1 */ \"'", b"SELECT ''"),
        (b'SELECT "it\'s", \'x\' FROM "a""b"', b'SELECT "it\'s", \'\' FROM "a""b"'),
        (b"SELECT '\"', \"'\"", b"SELECT '', \"'\""),
        (b"SELECT 1", None),
        (b"SELECT 'a\\'", None),
        (b"SELECT E'\\''", None),
        (b"SELECT 'a' -- it's", None),
        (b"SELECT 'a' /* x */", None),
        (b"SELECT 'a', $1", None),
        (b"SELECT 'a', $$'$$", None),
        ("SELECT 'ä'".encode(), b"SELECT ''"),
        (b"SELECT '\xff'", None),
        ("SELECT 'ä'".encode()[:-2] + b"'", None),
    ],
)
def test_literal_shape(text: bytes, shape: bytes | None) -> None:
    assert literal_shape(text) == shape


def test_an_open_quote_is_not_taken_for_a_literal() -> None:
    assert literal_shape(b"SELECT 'a") == b"SELECT 'a"
    assert literal_shape(b"SELECT 'a', \"b 'c'") != literal_shape(b"SELECT 'a', \"b 'd'\"")
