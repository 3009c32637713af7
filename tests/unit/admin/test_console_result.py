"""Values on the wire, in text and in binary."""

from proxy.admin.console_result import INT8, TEXT, Result, done
from proxy.protocol import backend


def values(result: Result, formats: list[int]) -> list[bytes | None]:
    return backend.data_row_values(result.data_rows(formats)[0][5:])


def test_text_and_binary() -> None:
    result = Result([("a", INT8), ("b", TEXT), ("c", INT8)], [[-5, "x\0ä", True]], "SHOW")
    assert values(result, []) == [b"-5", "xä".encode(), b"1"]
    assert values(result, [1]) == [
        (-5).to_bytes(8, "big", signed=True),
        "xä".encode(),
        b"\0" * 7 + b"\1",
    ]
    assert values(result, [0, 0, 1])[0] == b"-5"


def test_null() -> None:
    assert values(Result([("a", INT8), ("b", TEXT)], [[None, None]], "SHOW"), []) == [None, None]


def test_description_says_the_formats() -> None:
    result = Result([("a", INT8), ("b", TEXT)], [], "SHOW")
    columns = backend.columns_of(result.description([1])[5:])
    assert [(c.name, c.type_oid, c.format) for c in columns] == [(b"a", 20, 1), (b"b", 25, 1)]
    assert done("PAUSE").columns == []
