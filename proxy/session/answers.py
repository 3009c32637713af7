"""
Rows that a plugin or the cache answers with, as the messages a server would have sent.

Knows types only as far as needed to give a client that asks for binary results what it asks
for; a type it cannot write in binary is refused, never sent wrongly.
"""

from typing import Final

from proxy.protocol import backend
from proxy.session.inspection import RowSet

TEXT_OID: Final = 25

# Types whose binary form is their text: text, varchar, bpchar, name, json, xml, unknown.
_TEXT_LIKE: Final = (25, 1043, 1042, 19, 114, 142, 705)
_BOOL: Final = 16
_INT8: Final = 20
_INT2: Final = 21
_INT4: Final = 23
_OID: Final = 26


def format_of(formats: list[int], column: int) -> int:
    """Bind's result format for a column: none given = text, one = for all."""
    if not formats:
        return 0
    if len(formats) == 1:
        return formats[0]
    return formats[column] if column < len(formats) else 0


def describe(answer: RowSet, formats: list[int]) -> bytes:
    """RowDescription (B), or NoData for an answer without columns."""
    if not answer.columns:
        return backend.NO_DATA
    columns: list[tuple[bytes, int, int, int]] = []
    for index in range(len(answer.columns)):
        name, oid = answer.columns[index]
        columns.append((name.encode(), oid, type_size(oid), format_of(formats, index)))
    return backend.row_description(columns)


def type_size(oid: int) -> int:
    """pg_type.typlen of the types written here; -1 for the rest."""
    if oid == _BOOL:
        return 1
    if oid == _INT2:
        return 2
    if oid == _INT4 or oid == _OID:
        return 4
    if oid == _INT8:
        return 8
    return -1


def rows(answer: RowSet, formats: list[int]) -> bytes | None:
    """DataRows and CommandComplete (B); None where a value has no binary form known here."""
    pieces: list[bytes] = []
    for row in answer.rows:
        values: list[bytes | None] = []
        for index in range(len(answer.columns)):
            value = row[index]
            if value is not None and not answer.is_raw and format_of(formats, index) == 1:
                value = binary(value, answer.columns[index][1])
                if value is None:
                    return None
            values.append(value)
        pieces.append(backend.data_row(values))
    pieces.append(backend.command_complete(b"SELECT %d" % len(answer.rows)))
    return b"".join(pieces)


def binary(value: bytes, oid: int) -> bytes | None:
    """A value's binary form, or None where it is not known or the text does not fit the type."""
    if oid in _TEXT_LIKE:
        return value
    if oid == _BOOL:
        return b"\x01" if value in (b"t", b"true", b"1") else b"\x00"
    size = type_size(oid)
    if size < 0:
        return None
    try:
        number = int(value)
        return number.to_bytes(size, "big", signed=oid != _OID)
    except (ValueError, OverflowError):
        return None


def as_sql(answer: RowSet) -> str:
    """
    The answer as a SELECT of constants: what one statement among several in a Query becomes, so
    that the whole stays one implicit transaction on the server.
    """
    selects: list[str] = []
    names = [name for name, _ in answer.columns]
    if not answer.rows:
        nulls = ", ".join(
            f"NULL::{type_name(oid)} AS {quote_identifier(name)}" for name, oid in answer.columns
        )
        return f"SELECT {nulls} WHERE false"
    for row in answer.rows:
        values: list[str] = []
        for index in range(len(names)):
            value = row[index]
            text = "NULL" if value is None else quote_literal(value.decode("utf-8", "replace"))
            oid = answer.columns[index][1]
            values.append(f"{text}::{type_name(oid)} AS {quote_identifier(names[index])}")
        selects.append("SELECT " + ", ".join(values))
    return " UNION ALL ".join(selects)


def type_name(oid: int) -> str:
    """A type's SQL name; text for those not known here."""
    if oid == _BOOL:
        return "pg_catalog.bool"
    if oid == _INT2:
        return "pg_catalog.int2"
    if oid == _INT4:
        return "pg_catalog.int4"
    if oid == _INT8:
        return "pg_catalog.int8"
    if oid == _OID:
        return "pg_catalog.oid"
    return "pg_catalog.text"


def quote_literal(text: str) -> str:
    """A string constant that reads the same whatever standard_conforming_strings is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def quote_identifier(text: str) -> str:
    """A quoted identifier."""
    return '"' + text.replace('"', '""') + '"'
