"""What counts as the same columns, and that they are asked for once (rule 13)."""

import pytest

from proxy.protocol import backend, frontend, tags
from proxy.session.columns import columns_key
from tests.support.playbook import (
    READY,
    READY_E,
    READY_T,
    Playbook,
    bind,
    complete,
    describe,
    error,
    execute,
    parse,
    query,
)

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


INT = described(b"a", 1, 23)
GONE = error("42P01", 'relation "t" does not exist')


def begin(play: Playbook) -> None:
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)


def is_asked(sent: bytes) -> bool:
    """The server is asked for the columns of a statement."""
    return b"D\x00\x00\x00\x10Sheadgate_" in sent


def test_portal_that_is_described_at_once_is_not_asked_for() -> None:
    play = told(INT)
    group = bind(b"s") + describe(b"", frontend.PORTAL) + execute() + frontend.SYNC
    assert not is_asked(play.f(group))
    replies = backend.BIND_COMPLETE + described(b"a", 1, 25) + complete(b"SELECT 0") + READY
    assert play.b(replies) == replies


def test_bind_at_the_very_end_of_what_is_there_is_asked_for() -> None:
    play = told(INT)
    assert is_asked(play.f(bind(b"s") + frontend.CopyData(b"").encode()))


def test_group_that_has_begun_is_not_interrupted() -> None:
    """A Sync would end it."""
    play = told(INT)
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    play.b(backend.PARSE_COMPLETE)
    sent = play.f(bind(b"s") + execute() + frontend.SYNC)
    assert not is_asked(sent)
    assert sent.count(frontend.SYNC) == 1


def test_failed_transaction_is_asked_nothing() -> None:
    play = told(INT)
    begin(play)
    play.f(query(b"SELECT nobody"))
    play.b(error("42703", "no such column") + READY_E)
    assert not is_asked(play.f(bind(b"s") + execute() + frontend.SYNC))
    aborted = error("25P02", "current transaction is aborted")
    assert play.b(aborted + READY_E) == aborted + READY_E


def test_what_is_known_to_have_changed_is_refused_without_asking() -> None:
    play = told(INT)
    for asks in (True, False):
        sent = play.f(bind(b"s") + execute() + frontend.SYNC)
        assert is_asked(sent) == asks
        if asks:
            assert play.b(answer(described(b"a", 1, 25))) == b""
        said = play.b(error("42601", "syntax error") + READY)
        assert b"C0A000\x00" in said
        assert said.endswith(READY)


def test_statement_that_the_connection_has_is_only_described() -> None:
    play = told(INT)
    play.f(parse(b"t", b"SELECT * FROM t") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    sent = play.f(bind(b"s") + execute() + frontend.SYNC)
    assert sent.startswith(b"D")
    assert sent.endswith(frontend.SYNC)
    assert play.b(backend.parameter_description([]) + INT + READY) == b""
    assert play.server.take().startswith(b"B")


def test_statement_that_cannot_be_prepared_any_more_fails_in_its_turn() -> None:
    play = told(INT)
    play.f(bind(b"s") + execute() + frontend.SYNC)
    assert play.b(GONE + READY) == b""
    # The one from before the change is still there: the server says it itself, of that one.
    assert play.server.take().startswith(b"B")
    assert play.b(GONE + READY) == GONE + READY
    assert play.session.intake.statements.keys() == {b"s"}


def test_rule_3_question_in_a_transaction_has_no_sync_and_drops_the_unnamed_statement() -> None:
    """The transaction may be one of a pipeline with a Query in it: a Sync would commit it."""
    play = told(INT)
    begin(play)
    play.f(parse(b"", b"SELECT 7") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY_T)
    sent = play.f(bind(b"s") + execute() + bind(b"") + execute() + frontend.SYNC)
    assert is_asked(sent)
    assert frontend.SYNC not in sent
    assert sent.endswith(query(b""))
    empty = bytes([tags.EMPTY_QUERY_RESPONSE, 0, 0, 0, 4])
    told_now = backend.PARSE_COMPLETE + backend.parameter_description([]) + INT
    assert play.b(told_now + empty + READY_T) == b""
    sent = play.server.take()
    assert sent.startswith(b"B")
    assert b"SELECT 7" in sent


@pytest.mark.parametrize("ready", [READY_E, READY])
def test_transaction_that_the_question_has_failed_fails_with_its_words(ready: bytes) -> None:
    """One that a pipeline has left open is gone with it."""
    play = told(INT)
    begin(play)
    play.f(bind(b"s") + execute() + frontend.SYNC)
    assert play.b(GONE) == b""
    assert play.server.take() == frontend.SYNC
    assert play.b(ready) == b""
    assert bytes([tags.EXECUTE]) + b"\x00\x00\x00\x09" not in play.server.take()
    refused = error("42601", "syntax error")
    assert play.b(refused + ready) == GONE + ready


def test_more_columns_than_were_asked_for_are_dropped() -> None:
    """A hostile server."""
    play = told(INT)
    play.f(bind(b"s") + execute() + frontend.SYNC)
    assert play.b(answer(INT + described(b"z", 9, 9))) == b""
    assert play.server.take().startswith(b"B")
