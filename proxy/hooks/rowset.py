"""
Rows as values: from a plugin's JSON, and from what a server sent.

Also the port of the result cache, because what it keeps are such rows. Knows the bytes of
RowDescription, DataRow and CommandComplete and nothing of sessions or plugins.
"""

from abc import ABC, abstractmethod
from typing import Final

import msgspec

from proxy.protocol import tags
from proxy.session.inspection import Inspection, RowSet

TEXT_OID: Final = 25
MAX_COLUMNS: Final = 1664
"""PostgreSQL's MaxTupleAttributeNumber: no driver expects more in a RowDescription."""
MAX_OID: Final = 0xFFFF_FFFF


class ResultCache(ABC):
    """
    The proxy's own result cache, as the hooks see it.

    A plugin's `cache_get` names a key; what makes two uses of one key different (database,
    identity, roles, parameters, settings) is for the cache to add from the inspection.
    """

    @abstractmethod
    def lookup(self, inspection: Inspection, key: str, max_age_ms: int) -> RowSet | None:
        """Rows that are not older than that, or None."""

    @abstractmethod
    def store(self, inspection: Inspection, key: str, rows: RowSet, ttl_ms: int) -> None:
        """Keep the rows for so long at most; it may decline."""

    @abstractmethod
    def written(self, inspection: Inspection) -> None:
        """A statement that is no plain read is over: forget what depends on its tables."""

    @abstractmethod
    def clear(self) -> None:
        """Forget everything: writes were not told for a while."""


class _Column(msgspec.Struct):
    name: str
    oid: int | None = None


class _Rows(msgspec.Struct):
    columns: list[_Column]
    rows: list[list[str | None]]


_rows_decoder = msgspec.json.Decoder(_Rows)
_bytes_decoder = msgspec.json.Decoder(list[int])


def rows_from_json(data: bytes) -> RowSet | None:
    """
    Rows of a `cached` or `hit` answer, None if it is not what the contract says.

    The object itself, or (ABI 0) the object's JSON once more as an array of byte numbers.
    """
    try:
        if data[:1] == b"[":
            # bytes() refuses what is not 0 to 255.
            data = bytes(_bytes_decoder.decode(data))
            data.decode()
        found = _rows_decoder.decode(data)
    except (ValueError, msgspec.MsgspecError, RecursionError):
        return None
    if len(found.columns) > MAX_COLUMNS:
        return None
    columns: list[tuple[str, int]] = []
    for column in found.columns:
        oid = TEXT_OID if column.oid is None else column.oid
        if "\0" in column.name or not 0 < oid <= MAX_OID:
            return None
        columns.append((column.name, oid))
    width = len(columns)
    rows: list[list[bytes | None]] = []
    for row in found.rows:
        if len(row) != width:
            return None
        values = [None if value is None else value.encode() for value in row]
        # No text value of PostgreSQL holds a NUL.
        if any(value is not None and b"\0" in value for value in values):
            return None
        rows.append(values)
    return RowSet(columns, rows)


def rows_from_server(data: bytes) -> RowSet | None:
    """
    Rows of one statement's reply as a server sent it, None for what cannot be given again.

    Exactly one RowDescription, its DataRows and a CommandComplete; messages that
    say nothing about the rows (ParseComplete, BindComplete, ParameterStatus ...) are passed over.
    """
    columns: list[tuple[str, int]] | None = None
    rows: list[list[bytes | None]] = []
    is_complete = False
    is_raw = False
    pos = 0
    size = len(data)
    try:
        while pos < size:
            tag = data[pos]
            end = pos + 1 + int.from_bytes(data[pos + 1 : pos + 5], "big")
            body = data[pos + 5 : end]
            if end > size or end < pos + 5:
                return None
            if tag == tags.DATA_ROW:
                if columns is None:
                    return None
                rows.append(_data_row(body, len(columns)))
            elif tag == tags.ROW_DESCRIPTION:
                if columns is not None:
                    return None
                columns, is_raw = _row_description(body)
            elif tag == tags.COMMAND_COMPLETE:
                if is_complete:
                    return None
                is_complete = True
            elif tag in _REPLIES_THAT_CANNOT_BE_KEPT:
                return None
            pos = end
    except ValueError:
        return None
    if columns is None or not is_complete:
        return None
    found = RowSet(columns, rows)
    found.is_raw = is_raw
    return found


_REPLIES_THAT_CANNOT_BE_KEPT: Final = frozenset(
    {
        tags.ERROR_RESPONSE,
        tags.PORTAL_SUSPENDED,
        tags.COPY_IN_RESPONSE,
        tags.COPY_OUT_RESPONSE,
        tags.COPY_BOTH_RESPONSE,
        tags.COPY_DATA,
        tags.FUNCTION_CALL_RESPONSE,
        tags.EMPTY_QUERY_RESPONSE,
        # Whoever asks again would miss the notice.
        tags.NOTICE_RESPONSE,
    }
)

_FIELD_TAIL_BYTES: Final = 18  # table OID, column number, type OID, size, modifier, format


def _row_description(body: bytes) -> tuple[list[tuple[str, int]], bool]:
    """Decode column names and types, and whether any is binary; ValueError for a bad message."""
    count = int.from_bytes(body[0:2], "big")
    pos = 2
    columns = []
    is_binary = False
    for _ in range(count):
        end = body.index(b"\0", pos)
        tail = body[end + 1 : end + 1 + _FIELD_TAIL_BYTES]
        if len(tail) != _FIELD_TAIL_BYTES:
            raise ValueError("a column that is cut off")
        is_binary = is_binary or tail[16:18] != b"\0\0"
        columns.append((body[pos:end].decode(), int.from_bytes(tail[6:10], "big")))
        pos = end + 1 + _FIELD_TAIL_BYTES
    if pos != len(body):
        raise ValueError("bytes behind the last column")
    return columns, is_binary


def _data_row(body: bytes, width: int) -> list[bytes | None]:
    """Decode the values of one row; ValueError for a bad message."""
    if int.from_bytes(body[0:2], "big") != width:
        raise ValueError("a row of another width than its description")
    pos = 2
    row: list[bytes | None] = []
    for _ in range(width):
        length = int.from_bytes(body[pos : pos + 4], "big", signed=True)
        pos += 4
        if length == -1:
            row.append(None)
            continue
        if length < 0 or pos + length > len(body):
            raise ValueError("a value reaches beyond its row")
        row.append(body[pos : pos + length])
        pos += length
    if pos != len(body):
        raise ValueError("bytes behind the last value")
    return row
