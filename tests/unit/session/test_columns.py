"""What counts as the same columns, and that they are asked for once (rule 13)."""

from proxy.protocol import backend, frontend, tags
from proxy.session.columns import columns_key
from tests.support.playbook import READY, Playbook, bind, complete, error, execute, parse, query

DESCRIBE_STATEMENT = b"D\x00\x00\x00\x07Ss\x00"


def described(name: bytes, table: int, type_oid: int, modifier: int = -1) -> bytes:
    return backend.encode_columns([backend.Column(name, type_oid, 4, 0, table, 1, modifier)])


def body(frame: bytes) -> bytes:
    return frame[5:]


def test_names_and_types_count_and_where_they_come_from_does_not() -> None:
    key = columns_key(body(described(b"a", 1, 23)))
    assert key == columns_key(body(described(b"a", 2, 23)))
    assert key != columns_key(body(described(b"b", 1, 23)))
    assert key != columns_key(body(described(b"a", 1, 25)))
    assert key != columns_key(body(described(b"a", 1, 23, 7)))


def test_no_columns_are_columns_too_and_garbage_is_itself() -> None:
    assert columns_key(b"")
    assert columns_key(b"") != columns_key(body(described(b"a", 1, 23)))
    assert columns_key(b"\x00\x05abc") == b"\x00\x05abc"


def told(columns: bytes) -> Playbook:
    """A client that was told columns; then the schema has changed."""
    play = Playbook()
    play.f(parse(b"s", b"SELECT * FROM t") + DESCRIBE_STATEMENT + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.parameter_description([]) + columns + READY)
    play.f(query(b"ALTER TABLE t ADD b int"))
    play.b(complete(b"ALTER TABLE") + READY)
    return play


def answer(columns: bytes) -> bytes:
    return backend.PARSE_COMPLETE + backend.parameter_description([]) + columns + READY


def test_the_same_columns_are_asked_for_once() -> None:
    columns = described(b"a", 1, 23)
    play = told(columns)
    sent = play.f(bind(b"s") + execute() + frontend.SYNC)
    assert sent.startswith(b"P")
    assert sent.endswith(frontend.SYNC)
    assert b"B" + bytes(3) not in sent
    assert play.b(answer(columns)) == b""
    assert play.server.take().startswith(bytes([tags.BIND]))
    rows = backend.BIND_COMPLETE + complete(b"SELECT 0") + READY
    assert play.b(rows) == rows
    assert play.f(bind(b"s") + execute() + frontend.SYNC).startswith(bytes([tags.BIND]))


def test_other_columns_refuse_the_execution_in_its_turn() -> None:
    play = told(described(b"a", 1, 23))
    play.f(parse(b"", b"SELECT 1") + bind(b"s") + execute() + frontend.SYNC)
    assert play.b(answer(described(b"a", 1, 25))) == b""
    sent = play.server.take()
    assert bytes([tags.EXECUTE]) + b"\x00\x00\x00\x09" not in sent
    replied = play.b(backend.PARSE_COMPLETE + error("42601", "syntax error") + READY)
    assert replied.startswith(backend.PARSE_COMPLETE)
    assert b"C0A000\x00Mcached plan must not change result type\x00" in replied
    # Drivers prepare again for this one of all 0A000s, which they know by its routine.
    assert b"\x00RRevalidateCachedQuery\x00" in replied
    assert replied.endswith(READY)
