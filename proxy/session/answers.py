"""
Rows that a plugin or the cache answers with, as the messages a server would have sent.

A type that `values` cannot write in binary is refused where a client asks for that, never sent
wrongly.
"""

from proxy.protocol import backend
from proxy.session.inspection import RowSet
from proxy.session.values import binary, type_name, type_size


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


def quote_literal(text: str) -> str:
    """A string constant that reads the same whatever standard_conforming_strings is."""
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def quote_identifier(text: str) -> str:
    """A quoted identifier."""
    return '"' + text.replace('"', '""') + '"'
