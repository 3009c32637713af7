"""Rule 20, of sequences: what is asked before currval and lastval, and who keeps its connection."""

import pytest

from proxy.protocol import frontend
from proxy.session.relay import APPLYING, BUSY, IDLE
from proxy.session.sequences import MAX_UNREAD
from proxy.session.state import SEQUENCE
from proxy.session.tuning import POOL_SESSION
from tests.support.playbook import (
    READY,
    READY_E,
    READY_T,
    Playbook,
    bind,
    complete,
    error,
    execute,
    parse,
    query,
    row,
)

DISCARD = query(b"DISCARD SEQUENCES")
DISCARDED = complete(b"DISCARD SEQUENCES") + READY
DISCARDED_T = complete(b"DISCARD SEQUENCES") + READY_T
ASKED = b"SELECT WHERE EXISTS (SELECT FROM pg_catalog.pg_locks"
OWN = row() + complete(b"SELECT 1") + READY_T
NOT_OWN = complete(b"SELECT 0") + READY_T
NEXTVAL = query(b"SELECT nextval('s')")
CURRVAL = query(b"SELECT currval('s')")
LASTVAL = query(b"SELECT lastval()")
VALUE = row(b"7") + complete(b"SELECT 1")
UNDEFINED = error("55000", "lastval is not yet defined in this session")


def stained(mode: int | None = None, links: int = 1) -> Playbook:
    """The server connections have had other clients."""
    play = Playbook(links=links) if mode is None else Playbook(mode=mode, links=links)
    for link in play.links:
        link.turn = 5
    return play


def in_transaction(play: Playbook) -> Playbook:
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    return play


def goes_on(play: Playbook, sent: bytes, then: bytes) -> None:
    """Only the proxy's query was sent; after its answer the client's is."""
    assert sent == DISCARD
    assert play.session.phase == APPLYING
    assert play.b(DISCARDED) == b""
    assert play.server.take() == then


# -- outside a transaction


@pytest.mark.parametrize("sql", [CURRVAL, LASTVAL, query(b"INSERT INTO t VALUES (lastval())")])
def test_what_others_left_is_forgotten_first_and_the_reader_is_kept(sql: bytes) -> None:
    play = stained()
    goes_on(play, play.f(sql), sql)
    assert play.b(UNDEFINED + READY) == UNDEFINED + READY
    play.looked_at()
    assert play.session.state.pins == [SEQUENCE]
    # Nobody else has it: nothing is asked any more.
    assert play.f(LASTVAL) == LASTVAL
    play.b(VALUE + READY)
    assert play.session.link is play.link


def test_connection_that_nobody_else_had_knows_nothing_of_others() -> None:
    play = Playbook()
    assert play.f(CURRVAL) == CURRVAL
    play.b(UNDEFINED + READY)
    play.looked_at()
    assert play.session.state.pins == [SEQUENCE]


def test_value_of_the_text_itself_keeps_nobody() -> None:
    play = stained()
    both = query(b"SELECT nextval('s'); SELECT lastval()")
    goes_on(play, play.f(both), both)
    play.b(VALUE + VALUE + READY)
    assert play.session.link is None


def test_read_behind_another_statement_keeps_nobody() -> None:
    play = stained()
    both = query(b"INSERT INTO t VALUES (1); SELECT lastval()")
    goes_on(play, play.f(both), both)
    assert not play.session.state.reads_sequences


def test_session_mode_has_nobody_elses() -> None:
    play = stained(POOL_SESSION)
    assert play.f(CURRVAL) == CURRVAL


@pytest.mark.parametrize("oid", [1575, 2559])
def test_function_call_is_a_read(oid: int) -> None:
    play = stained()
    call = frontend.FunctionCall(oid, [], [], 0).encode()
    goes_on(play, play.f(call), call)
    assert play.session.state.reads_sequences


def test_other_function_calls_read_nothing() -> None:
    play = stained()
    call = frontend.FunctionCall(952, [], [], 0).encode()
    assert play.f(call) == call


def test_discard_that_fails_is_the_statements_error() -> None:
    play = stained()
    assert play.f(LASTVAL) == DISCARD
    assert play.b(error("57014", "canceling statement due to user request") + READY) == b""
    assert b"lastval" not in play.server.take()
    assert play.session.phase == BUSY
    answer = play.b(error("42601", "syntax error") + READY)
    assert b"57014" in answer
    assert b"42601" not in answer


# -- in a transaction


@pytest.mark.parametrize(
    ("sql", "looked_for"),
    [
        (b"SELECT currval('s')", b"pg_catalog.to_regclass(E's')"),
        (b"SELECT lastval()", b"relkind OPERATOR(pg_catalog.=) 'S'"),
        (
            b"SELECT currval(pg_get_serial_sequence('T', 'c'))",
            b"pg_catalog.to_regclass(E'T') AND attname OPERATOR(pg_catalog.=) E'c'",
        ),
        (b"SELECT setval('it''s', 1)", b"pg_catalog.to_regclass(E'it''s')"),
    ],
)
def test_value_that_the_transaction_got_is_its_own(sql: bytes, looked_for: bytes) -> None:
    play = in_transaction(stained())
    sent = play.f(query(sql))
    assert ASKED in sent
    assert looked_for in sent
    assert play.b(OWN) == b""
    assert play.server.take() == query(sql)
    assert play.b(VALUE + READY_T) == VALUE + READY_T
    assert not play.session.state.reads_sequences
    assert play.f(query(b"COMMIT")) == query(b"COMMIT")
    play.b(complete(b"COMMIT") + READY)
    assert play.session.link is None


def test_what_the_transaction_did_not_get_is_forgotten_first() -> None:
    play = in_transaction(stained())
    assert ASKED in play.f(CURRVAL)
    assert play.b(NOT_OWN) == b""
    assert play.server.take() == DISCARD
    assert play.b(DISCARDED_T) == b""
    assert play.server.take() == CURRVAL
    play.b(UNDEFINED + READY_E)
    play.f(query(b"ROLLBACK"))
    play.b(complete(b"ROLLBACK") + READY)
    play.looked_at()
    assert play.session.state.pins == [SEQUENCE]


def test_setval_of_what_it_did_not_get_keeps_nobody() -> None:
    play = in_transaction(stained())
    setval = query(b"SELECT setval('s', 1)")
    assert ASKED in play.f(setval)
    play.b(NOT_OWN)
    assert play.server.take() == DISCARD
    play.b(DISCARDED_T)
    assert play.server.take() == setval
    assert not play.session.state.reads_sequences


@pytest.mark.parametrize("sql", [b"SELECT currval('a' || 'b')", "SELECT currval('é')".encode()])
def test_sequence_that_cannot_be_named_is_forgotten_first(sql: bytes) -> None:
    play = in_transaction(stained())
    assert play.f(query(sql)) == DISCARD
    play.b(DISCARDED_T)
    assert play.server.take() == query(sql)


@pytest.mark.parametrize(
    ("formats", "values", "is_known"),
    [
        ([], [b"s"], True),
        ([0], [b"s"], True),
        ([1], [b"\0\0\0\7"], False),
        ([0, 1], [b"s", b"x"], True),
        ([], [None], False),
        ([], [], False),
    ],
)
def test_sequence_by_a_parameter(
    formats: list[int], values: list[bytes | None], is_known: bool
) -> None:
    play = in_transaction(stained())
    group = (
        parse(b"", b"SELECT currval($1)")
        + frontend.Bind(b"", b"", formats, values, []).encode()
        + execute()
        + frontend.SYNC
    )
    sent = play.f(group)
    assert (b"to_regclass(E's')" in sent) == is_known
    assert (sent == DISCARD) != is_known


def test_bind_that_cannot_be_read_names_no_sequence() -> None:
    play = in_transaction(stained())
    broken = frontend.Bind(b"", b"", [], [b"s"], []).encode()
    broken = b"B" + (len(broken) - 3).to_bytes(4, "big") + broken[5:-2]
    assert play.f(parse(b"", b"SELECT currval($1)") + broken + execute() + frontend.SYNC) == DISCARD


def test_question_that_fails_is_the_statements_error() -> None:
    play = in_transaction(stained())
    assert ASKED in play.f(CURRVAL)
    play.b(error("42602", "invalid name syntax") + READY_E)
    play.server.take()
    assert b"42602" in play.b(error("25P02", "current transaction is aborted") + READY_E)


def test_failed_transaction_is_asked_nothing() -> None:
    play = in_transaction(stained())
    play.f(query(b"SELECT 1/0"))
    play.b(error("22012", "division by zero") + READY_E)
    assert play.f(LASTVAL) == LASTVAL


def test_execute_reads_what_its_statement_does() -> None:
    play = in_transaction(stained())
    play.f(parse(b"p", b"SELECT lastval()") + frontend.SYNC)
    play.b(b"1\0\0\0\4" + READY_T)
    assert play.f(query(b"EXECUTE p")) == DISCARD
    play.b(DISCARDED_T)
    assert b"EXECUTE" in play.server.take()
    play.b(VALUE + READY_T)
    play.f(parse(b"q", b"SELECT 1") + frontend.SYNC)
    play.b(b"1\0\0\0\4" + READY_T)
    assert play.f(query(b"EXECUTE q; EXECUTE unknown")) != DISCARD


# -- groups that a Flush cuts


def test_parse_that_is_flushed_is_looked_at_with_its_value() -> None:
    play = in_transaction(stained())
    assert ASKED in play.f(parse(b"", b"SELECT lastval()") + frontend.FLUSH)
    play.b(OWN)
    play.server.take()
    play.b(b"1\0\0\0\4")
    sent = play.f(bind(b"") + execute() + frontend.SYNC)
    assert sent.startswith(b"B")
    assert b"headgate refused" not in sent


def test_value_cannot_be_asked_for_in_the_middle_of_a_group() -> None:
    play = stained()
    sent = play.f(parse(b"", b"INSERT INTO t VALUES (1)") + bind(b"") + execute() + frontend.FLUSH)
    assert sent.startswith(b"P")
    play.b(b"1\0\0\0\4" + b"2\0\0\0\4" + complete(b"INSERT 0 1"))
    sent = play.f(parse(b"", b"SELECT lastval()") + bind(b"") + execute() + frontend.SYNC)
    assert execute() not in sent
    assert b"headgate refused a statement" in sent
    assert b"55000" in play.b(b"1\0\0\0\4" + error("42601", "syntax error") + READY)


# -- nextval


def test_nextval_outside_a_transaction_is_found_again() -> None:
    play = stained(links=2)
    goes_on(play, play.f(NEXTVAL), NEXTVAL)
    play.b(VALUE + READY)
    # Others get it last.
    assert play.broker.free == [play.link, play.links[1]]
    assert play.f(CURRVAL) == CURRVAL
    play.b(VALUE + READY)
    play.looked_at()
    assert play.session.state.pins == [SEQUENCE]


def test_nextval_that_others_have_stepped_on_is_forgotten() -> None:
    play = stained()
    goes_on(play, play.f(NEXTVAL), NEXTVAL)
    play.b(VALUE + READY)
    play.link.turn += 1
    assert play.f(CURRVAL) == DISCARD


def test_nextval_on_a_connection_that_is_in_use() -> None:
    play = stained(links=2)
    goes_on(play, play.f(NEXTVAL), NEXTVAL)
    play.b(VALUE + READY)
    play.broker.free.remove(play.link)
    play.f(CURRVAL)
    assert play.wire_of(1).take() == DISCARD


def test_nextval_in_a_transaction_is_not_held_up() -> None:
    play = in_transaction(stained())
    assert play.f(NEXTVAL) == NEXTVAL
    play.b(VALUE + READY_T)
    play.f(query(b"COMMIT"))
    play.b(complete(b"COMMIT") + READY)
    assert play.session.state.sequence_link is None


def test_nextval_that_failed_is_not_looked_for() -> None:
    play = stained()
    goes_on(play, play.f(NEXTVAL), NEXTVAL)
    play.b(error("42P01", 'relation "s" does not exist') + READY)
    assert play.session.state.sequence_link is None


def test_who_never_reads_calls_nextval_as_any_statement() -> None:
    play = stained()
    for _ in range(MAX_UNREAD):
        play.link.turn += 1
        goes_on(play, play.f(NEXTVAL), NEXTVAL)
        play.b(VALUE + READY)
    for _ in range(2):
        play.link.turn += 1
        assert play.f(NEXTVAL) == NEXTVAL
        play.b(VALUE + READY)
        assert play.session.state.sequence_link is None
    assert play.session.phase == IDLE


# -- the end of a pin


@pytest.mark.parametrize("sql", [b"DISCARD SEQUENCES", b"DISCARD ALL"])
def test_discard_ends_the_pin(sql: bytes) -> None:
    play = stained()
    goes_on(play, play.f(LASTVAL), LASTVAL)
    play.b(UNDEFINED + READY)
    play.looked_at()
    play.f(query(sql))
    play.b(complete(sql) + READY)
    play.looked_at()
    assert play.session.state.pins == []
    assert play.session.link is None


def test_discard_before_a_read_ends_no_pin() -> None:
    play = stained()
    both = query(b"DISCARD SEQUENCES; SELECT lastval()")
    goes_on(play, play.f(both), both)
    play.session.state.reads_sequences = True
    play.b(complete(b"DISCARD SEQUENCES") + VALUE + READY)
    play.looked_at()
    assert play.session.state.pins == [SEQUENCE]


def test_connection_that_was_cleaned_is_as_new() -> None:
    play = stained()
    play.f(query(b"LISTEN x"))
    play.b(complete(b"LISTEN") + READY)
    play.looked_at(row(b"p", b"LISTEN", b""))
    play.session.on_frontend_lost()
    assert play.server.take() == query(b"DISCARD ALL")
    play.from_server(0, complete(b"DISCARD ALL") + READY)
    assert play.link.sequences_since == play.link.turn
