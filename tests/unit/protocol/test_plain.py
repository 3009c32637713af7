"""`protocol.plain` says yes only to what the full codec reads in the same way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import backend, frontend, plain, tags

SYNC = frontend.SYNC
READY = backend.ready_for_query(tags.STATUS_IDLE)
BIND = frontend.Bind(b"", b"a", [], [b"1"], []).encode()
PARSE = frontend.Parse(b"", b"SELECT $1", [23]).encode()
ROW = backend.data_row([b"1"])
DONE = backend.command_complete(b"SELECT 1")
COLUMNS = backend.row_description([(b"a", 25, -1, 0)])


def frame(tag: bytes, body: bytes) -> bytes:
    return tag + (len(body) + 4).to_bytes(4, "big") + body


@given(st.binary(max_size=40))
def test_the_text_of_a_query(text: bytes) -> None:
    assert plain.query_text(frame(b"Q", text + b"\0")) == text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Q",
        b"Q\0\0\0\x04",
        frame(b"P", b"SELECT 1\0"),
        frame(b"Q", b"SELECT 1"),
        frame(b"Q", b"SELECT 1\0") + SYNC,
        frame(b"Q", b"SELECT 1\0")[:-1],
        b"Q\0\0\0\x05",
    ],
)
def test_what_is_not_one_query(data: bytes) -> None:
    assert plain.query_text(data) is None


texts = st.binary(max_size=30).filter(lambda text: b"\0" not in text)


@given(
    texts,
    st.lists(st.integers(0, 2**32 - 1), max_size=20),
)
def test_the_text_of_a_parse(text: bytes, oids: list[int]) -> None:
    data = frontend.Parse(b"", text, oids).encode()
    end = plain.parse_end(data + BIND)
    assert end == len(data)
    assert plain.parse_text(data + BIND, end) == (text if len(oids) <= plain.MAX_OIDS else None)


bodies = st.binary(max_size=30) | st.builds(
    bytes.__add__, st.binary(max_size=9), st.sampled_from([b"\0\0\0", b"\0\0\1\0\0\0\0", b"\0\0\2"])
)


@given(bodies)
def test_whatever_stands_in_a_parse_its_text_is_what_the_codec_reads(body: bytes) -> None:
    data = frame(b"P", b"\0" + body)
    end = plain.parse_end(data)
    text = plain.parse_text(data, end) if end >= 0 else None
    if text is not None:
        assert data == frontend.Parse.decode(data[5:]).encode()
        assert text == frontend.Parse.decode(data[5:]).sql


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P\0\0\0\x08\0a\0",
        BIND + SYNC,
        frontend.Parse(b"a", b"SELECT 1", []).encode(),
        b"P\0\0\0\x07\0a\0\0\0\0",
        b"P\xff\xff\xff\xff\0a\0\0\0\0",
        PARSE[:-1],
    ],
)
def test_what_is_not_a_plain_parse(data: bytes) -> None:
    assert plain.parse_end(data) == -1


@given(texts, st.binary(max_size=9))
def test_the_name_in_a_bind(name: bytes, ahead: bytes) -> None:
    data = ahead + frontend.Bind(b"", name, [], [b"1"], []).encode()
    end = plain.bind_end(data + SYNC, len(ahead))
    assert end == len(data)
    assert plain.bind_name(data, len(ahead), end) == name


@pytest.mark.parametrize(
    "data",
    [
        b"",
        BIND[:6],
        PARSE,
        frontend.Bind(b"portal", b"a", [], [], []).encode(),
        BIND[:-1],
        b"B\0\0\0\x05\0\0\0\0\0",
        b"B\xff\xff\xff\xff\0\0\0\0\0",
    ],
)
def test_what_is_not_a_plain_bind(data: bytes) -> None:
    assert plain.bind_end(data, 0) == -1


def test_a_name_without_end() -> None:
    assert plain.bind_name(frame(b"B", b"\0abc"), 0, 9) is None


PLAIN = [ROW, DONE, COLUMNS, backend.PARSE_COMPLETE, backend.BIND_COMPLETE, backend.NO_DATA]


@given(st.lists(st.sampled_from(PLAIN), min_size=1))
def test_plain_replies(messages: list[bytes]) -> None:
    reply = b"".join(messages) + READY
    assert plain.is_plain_reply(reply)
    assert not plain.is_plain_reply(reply[:-1])
    assert not plain.is_plain_reply(reply + READY)
    assert not plain.is_plain_reply(reply[1:])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        READY,
        ROW + backend.ready_for_query(tags.STATUS_IN_TRANSACTION),
        ROW + backend.ready_for_query(tags.STATUS_FAILED),
        ROW + b"Z\0\0\0\x06I",
        ROW + b"Y\0\0\0\x05I",
        frame(b"E", b"\0") + READY,
        frame(b"N", b"\0") + READY,
        frame(b"S", b"a\0b\0") + READY,
        frame(b"G", b"") + READY,
        ROW + READY + ROW + READY,
        b"D\0\0\0\x03" + READY,
        # A row whose end would be in, or behind, what only looks like the last message.
        b"D\0\0\0\x09" + READY,
        b"D\0\0\0\xff" + READY,
        b"D\xff\xff\xff\xff" + READY,
    ],
)
def test_what_is_not_a_plain_reply(data: bytes) -> None:
    assert not plain.is_plain_reply(data)


@given(texts, texts, st.binary(max_size=9))
def test_a_bind_of_another_name(name: bytes, other: bytes, value: bytes) -> None:
    data, wanted = (
        frontend.Bind(b"", one, [], [value], []).encode() + SYNC for one in (name, other)
    )
    assert frontend.rename_bind(data, other) == wanted
