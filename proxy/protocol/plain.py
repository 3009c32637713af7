"""
One plain statement as it is on the wire as a rule: looked at without making objects of it.

Each function says yes only where it is sure; what it does not know is for the full codec. The
messages are those of protocol-message-formats; `session.express` is what they are for.
"""

from typing import Final

from mypy_extensions import i64

from proxy.protocol import tags

DESCRIBE_EXECUTE_SYNC: Final = (
    b"D\x00\x00\x00\x06P\x00E\x00\x00\x00\x09\x00\x00\x00\x00\x00S\x00\x00\x00\x04"
)
"""Describe and Execute of the unnamed portal, all of its rows, and Sync."""

EXECUTE_SYNC: Final = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00S\x00\x00\x00\x04"

MAX_OIDS: Final = 16
"""Parameter types up to which a Parse is plain."""

_HEADER: Final = 5


def query_text(data: bytes) -> bytes | None:
    """The text of a Query that is all of `data`; a NUL may still be in it. None: it is not one."""
    size: i64 = len(data)
    if size <= _HEADER or data[0] != tags.QUERY or _int32(data, 1) != size - 1:
        return None
    if data[size - 1] != 0:
        return None
    return data[_HEADER : size - 1]


def parse_end(data: bytes) -> int:
    """Where the Parse of an unnamed statement ends that `data` begins with; -1: it is not plain."""
    size: i64 = len(data)
    if size < _HEADER + 4 or data[0] != tags.PARSE or data[_HEADER] != 0:
        return -1
    end: i64 = _int32(data, 1) + 1
    if end < _HEADER + 4 or end > size:
        return -1
    return end


def parse_text(data: bytes, end: int) -> bytes | None:
    """The text of such a Parse; None where it has more parameter types, or is malformed."""
    # PERF: a text has no NUL but the one behind it, and how far from the end that is follows from
    # the number of types, so it need not be looked for.
    last: i64 = end
    count: i64 = 0
    at: i64 = last - 3
    while count <= MAX_OIDS and at > _HEADER:
        if data[at] == 0 and data[at + 1] == 0 and data[at + 2] == count:
            text = data[_HEADER + 1 : at]
            if 0 not in text:
                return text
        count += 1
        at -= 4
    return None


def bind_end(data: bytes, start: int) -> int:
    """Where the Bind of the unnamed portal ends that begins at `start`; -1: it is not plain."""
    size: i64 = len(data)
    pos: i64 = start
    if size - pos < _HEADER + 2 or data[pos] != tags.BIND or data[pos + _HEADER] != 0:
        return -1
    end: i64 = pos + 1 + _int32(data, pos + 1)
    if end < pos + _HEADER + 2 or end > size:
        return -1
    return end


def bind_name(data: bytes, start: int, end: int) -> bytes | None:
    """The name of the statement that such a Bind is of; None: it has no end."""
    first: i64 = start + _HEADER + 1
    pos: i64 = first
    last: i64 = end
    while pos < last:
        if data[pos] == 0:
            return data[first:pos]
        pos += 1
    return None


def is_plain_reply(data: bytes) -> bool:
    """
    Whether these bytes are all of a server's reply to one statement that went well, outside of a
    transaction: whole messages, the last of them the one ReadyForQuery.
    """
    size: i64 = len(data)
    last: i64 = size - 6
    # ReadyForQuery: 'Z', length 5, 'I'.
    if last <= 0 or data[size - 1] != 73 or data[last] != tags.READY_FOR_QUERY:
        return False
    if _int32(data, last + 1) != 5:
        return False
    pos: i64 = 0
    while pos < last:
        tag: i64 = data[pos]
        if not (
            tag == tags.DATA_ROW
            or tag == tags.COMMAND_COMPLETE
            or tag == tags.ROW_DESCRIPTION
            or tag == tags.BIND_COMPLETE
            or tag == tags.PARSE_COMPLETE
            or tag == tags.NO_DATA
        ):
            return False
        length: i64 = _int32(data, pos + 1)
        if length < 4:
            return False
        pos += 1 + length
    return pos == last


def _int32(data: bytes, pos: i64) -> i64:
    """Four bytes, the first the highest; they are there."""
    first: i64 = data[pos]
    second: i64 = data[pos + 1]
    third: i64 = data[pos + 2]
    fourth: i64 = data[pos + 3]
    return (first << 24) | (second << 16) | (third << 8) | fourth
