"""Rows from JSON and from a server's reply."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hooks.rowset import rows_from_json, rows_from_server


def message(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack("!I", len(body) + 4) + body


def description(*columns: tuple[str, int], fmt: int = 0) -> bytes:
    body = struct.pack("!H", len(columns))
    for name, oid in columns:
        body += name.encode() + b"\0" + struct.pack("!IHIhih", 0, 0, oid, -1, -1, fmt)
    return message(b"T", body)


def row(*values: bytes | None) -> bytes:
    body = struct.pack("!H", len(values))
    for value in values:
        body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value
    return message(b"D", body)


DONE = message(b"C", b"SELECT 1\0")
READY = message(b"Z", b"I")


def test_from_json() -> None:
    rows = rows_from_json(
        b'{"columns":[{"name":"a","oid":20},{"name":"b","oid":null}],"rows":[["1",null],["",""]]}'
    )
    assert rows is not None
    assert rows.columns == [("a", 20), ("b", 25)]
    assert rows.rows == [[b"1", None], [b"", b""]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"[300]",
        b"[-1]",
        b"[1.5]",
        b"[255]",
        b"[[",
        b'{"columns":[]}',
        b'{"columns":[{"name":"a"}],"rows":[[]]}',
        b'{"columns":[{"name":"a"}],"rows":[["1","2"]]}',
        b'{"columns":[{"name":"a"}],"rows":[[1]]}',
        b'{"columns":[{"name":"a\\u0000"}],"rows":[]}',
        b'{"columns":[{"name":"a"}],"rows":[["\\u0000"]]}',
        b'{"columns":[{"name":"a","oid":0}],"rows":[]}',
        b'{"columns":[{"name":"a","oid":4294967296}],"rows":[]}',
        b'{"columns":[{"oid":25}],"rows":[]}',
        json.dumps({"columns": [{"name": "a"}] * 1665, "rows": []}).encode(),
    ],
)
def test_json_rubbish(data: bytes) -> None:
    assert rows_from_json(data) is None


def test_from_a_server() -> None:
    data = (
        message(b"1", b"")
        + message(b"2", b"")
        + description(("id", 23), ("name", 25))
        + row(b"1", None)
        + row(b"", b"x\0y")
        + DONE
        + READY
    )
    rows = rows_from_server(data)
    assert rows is not None
    assert rows.columns == [("id", 23), ("name", 25)]
    assert rows.rows == [[b"1", None], [b"", b"x\0y"]]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        DONE,
        description(("a", 25)),
        description(("a", 25)) + row(b"1"),
        row(b"1") + DONE,
        description(("a", 25)) + description(("a", 25)) + DONE,
        description(("a", 25)) + DONE + DONE,
        description(("a", 25)) + row(b"1", b"2") + DONE,
        description(("a", 25)) + message(b"E", b"") + DONE,
        description(("a", 25)) + message(b"N", b"") + DONE,
        description(("a", 25)) + message(b"s", b""),
        message(b"T", b"\0\1a") + DONE,
        message(b"T", b"\0\1a\0" + bytes(5)) + DONE,
        message(b"T", b"\0\0junk") + DONE,
        description(("a", 25)) + message(b"D", b"\0\1\0\0\0\x09x") + DONE,
        description(("a", 25)) + message(b"D", b"\0\1\xff\xff\xff\xfe") + DONE,
        description(("a", 25)) + message(b"D", b"\0\1\xff\xff\xff\xffjunk") + DONE,
        description(("a", 25)) + DONE[:-1],
        description(("a", 25)) + b"C\0\0\0\1",
    ],
)
def test_replies_that_are_not_kept(data: bytes) -> None:
    assert rows_from_server(data) is None


@given(
    st.lists(
        st.lists(st.one_of(st.none(), st.binary(max_size=20)), min_size=3, max_size=3), max_size=8
    )
)
def test_rows_come_back_as_they_were(values: list[list[bytes | None]]) -> None:
    data = description(("a", 25), ("b", 17), ("ü", 23))
    for one in values:
        data += row(*one)
    rows = rows_from_server(data + DONE)
    assert rows is not None
    assert rows.rows == values
    assert [name for name, _ in rows.columns] == ["a", "b", "ü"]


@given(st.binary(max_size=200))
def test_any_bytes_crash_nothing(data: bytes) -> None:
    rows_from_server(data)
    rows_from_server(description(("a", 25)) + data)
    rows_from_json(data)


def test_binary_values_are_kept_as_they_are() -> None:
    found = rows_from_server(description(("a", 23), fmt=1) + row(b"\0\0\0\7") + DONE)
    assert found is not None
    assert found.is_raw
    assert found.rows == [[b"\0\0\0\7"]]
    text = rows_from_server(description(("a", 23)) + row(b"7") + DONE)
    assert text is not None
    assert not text.is_raw
