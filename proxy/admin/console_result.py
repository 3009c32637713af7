"""
What a console command gives back, and how it looks on the wire.

Three types are enough: text, int8, and boolean as PgBouncer shows it, 0 or 1.
"""

from typing import Final, final

from proxy.errors import Refusal
from proxy.protocol import backend

TEXT: Final = 25
INT8: Final = 20

Value = str | int | float | bool | None
Column = tuple[str, int]


@final
class Result:
    """
    Columns, rows and the command tag. Without columns it is a command that gives no rows.

    notices   sent before the result
    """

    __slots__ = ("columns", "notices", "rows", "tag")

    def __init__(self, columns: list[Column], rows: list[list[Value]], tag: str) -> None:
        self.columns = columns
        self.rows = rows
        self.tag = tag
        self.notices: list[Refusal] = []

    def description(self, formats: list[int]) -> bytes:
        """RowDescription."""
        return backend.row_description(
            [
                (name.encode(), oid, 8 if oid == INT8 else -1, _format(formats, at))
                for at, (name, oid) in enumerate(self.columns)
            ]
        )

    def data_rows(self, formats: list[int]) -> list[bytes]:
        """The DataRows."""
        return [
            backend.data_row(
                [
                    _encoded(value, self.columns[at][1], _format(formats, at))
                    for at, value in enumerate(row)
                ]
            )
            for row in self.rows
        ]


def done(tag: str) -> Result:
    """The result of a command without rows."""
    return Result([], [], tag)


def _format(formats: list[int], at: int) -> int:
    if not formats:
        return 0
    return formats[0] if len(formats) == 1 else formats[at] if at < len(formats) else 0


def _encoded(value: Value, oid: int, format_code: int) -> bytes | None:
    if value is None:
        return None
    if oid == INT8:
        number = int(value)
        return number.to_bytes(8, "big", signed=True) if format_code == 1 else b"%d" % number
    # NUL can be in no text of the protocol.
    return str(value).replace("\0", "").encode("utf-8", "replace")
