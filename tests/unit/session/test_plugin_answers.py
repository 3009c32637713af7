"""Statements that a plugin answers or rewrites when they are executed, message by message."""

from collections.abc import Callable

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session import answers
from proxy.session.inspection import (
    PHASE_EXECUTE,
    PHASE_STATEMENT,
    VERDICT_ANSWER,
    VERDICT_REFUSE,
    Inspection,
    RowSet,
)
from tests.support.playbook import (
    READY,
    Playbook,
    bind,
    close,
    complete,
    describe,
    execute,
    parse,
    query,
    row,
)

SYNC = frontend.SYNC
SQL = b"SELECT a FROM t"
COLUMNS = describe(b"", frontend.PORTAL)
INT = [("a", 23)]
Rule = Callable[[Inspection], None]


def answering(columns: list[tuple[str, int]], rows: list[list[bytes | None]]) -> Rule:
    def rule(inspection: Inspection) -> None:
        inspection.verdict = VERDICT_ANSWER
        inspection.answer = RowSet(columns, rows)

    return rule


def rewriting(play: Playbook, sql: bytes, phase: int = -1) -> Rule:
    def rule(inspection: Inspection) -> None:
        if phase in (-1, inspection.phase) and inspection.facts.text != sql:
            inspection.is_rewritten = True
            inspection.facts = play.session._classifier.exact(sql).statements[0]

    return rule


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42000", "no")


def judged(prepared: bytes = b"") -> Playbook:
    play = Playbook()
    play.gate.judges = True
    if prepared:
        play.f(parse(b"s", prepared) + SYNC)
        play.b(backend.PARSE_COMPLETE + READY)
    return play


def told(play: Playbook, data: bytes) -> bytes:
    """What the client gets at once; nothing of it may go to a server."""
    assert play.f(data) == b""
    return play.client.take()


def test_prepared_statement_is_answered_message_by_message() -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = answering(INT, [[b"7"], [None]])
    columns = backend.row_description([(b"a", 23, 4, 0)])
    rows = row(b"7") + row(None) + complete(b"SELECT 2")
    group = bind(b"s") + COLUMNS + execute() + SYNC
    assert told(play, group) == backend.BIND_COMPLETE + columns + rows + READY
    assert play.session.exchange is None
    assert play.broker.free == [play.link]


def test_statement_that_is_answered_at_parse_describes_itself() -> None:
    play = judged()
    play.gate.rules[SQL] = answering(INT, [])
    group = frontend.Parse(b"", SQL, [23]).encode() + describe() + bind(b"") + execute()
    assert told(play, group + SYNC) == (
        backend.PARSE_COMPLETE
        + backend.parameter_description([23])
        + backend.row_description([(b"a", 23, 4, 0)])
        + backend.BIND_COMPLETE
        + complete(b"SELECT 0")
        + READY
    )


def test_answer_without_columns_has_no_description() -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = answering([], [])
    group = bind(b"s") + COLUMNS + execute() + SYNC
    no_rows = backend.NO_DATA + complete(b"SELECT 0")
    assert told(play, group) == backend.BIND_COMPLETE + no_rows + READY


@pytest.mark.parametrize(
    ("formats", "first", "second"),
    [
        ([], b"7", b"8"),
        ([1], b"\0\0\0\7", b"\0\0\0\0\0\0\0\x08"),
        ([0, 1], b"7", b"\0\0\0\0\0\0\0\x08"),
        ([0, 0], b"7", b"8"),
    ],
)
def test_answer_comes_in_the_formats_that_bind_asks_for(
    formats: list[int], first: bytes, second: bytes
) -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = answering([("a", 23), ("b", 20)], [[b"7", b"8"]])
    each = formats if len(formats) == 2 else (formats or [0]) * 2
    columns = backend.row_description([(b"a", 23, 4, each[0]), (b"b", 20, 8, each[1])])
    rows = backend.data_row([first, second]) + complete(b"SELECT 1")
    group = bind(b"s", formats=formats) + COLUMNS + execute() + SYNC
    assert told(play, group) == backend.BIND_COMPLETE + columns + rows + READY


def test_too_few_formats_are_text_for_the_rest() -> None:
    assert [answers.format_of([1, 1], index) for index in range(4)] == [1, 1, 0, 0]


def test_what_cannot_be_sent_in_binary_is_refused() -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = answering([("a", 600)], [[b"(1,2)"]])
    said = told(play, bind(b"s", formats=[1]) + execute() + bind(b"s") + execute() + SYNC)
    assert said.startswith(backend.BIND_COMPLETE + b"E")
    assert b"C0A000" in said
    assert said.endswith(READY)
    assert said.count(b"D\0") == 0
    # What is NULL has no format.
    play.gate.rules[SQL] = answering([("a", 600)], [[None]])
    said = told(play, bind(b"s", formats=[1]) + execute() + SYNC)
    assert said == backend.BIND_COMPLETE + row(None) + complete(b"SELECT 1") + READY


def test_portals_of_the_server_beside_answered_ones() -> None:
    """A name that is bound to a server's statement is a portal of the server's again."""
    play = judged(SQL)
    play.gate.rules[SQL] = answering(INT, [[b"7"]])
    other = parse(b"", b"SELECT 2") + bind(b"", b"p") + execute(b"p") + COLUMNS
    sent = play.f(bind(b"s", b"p") + execute(b"p") + other + SYNC)
    assert sent == other + SYNC
    replies = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + row(b"2") + complete(b"SELECT 1")
    mine = backend.BIND_COMPLETE + row(b"7") + complete(b"SELECT 1")
    assert play.b(replies + backend.NO_DATA + READY) == mine + replies + backend.NO_DATA + READY


def test_closed_portal_is_the_servers_matter_again() -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = answering(INT, [[b"7"]])
    gone = close(b"p", frontend.PORTAL) + execute(b"p") + close(b"unknown")
    sent = play.f(bind(b"s", b"p") + gone + SYNC)
    assert sent.startswith(close(b"p", frontend.PORTAL) + execute(b"p"))
    assert play.client.take() == backend.BIND_COMPLETE


@pytest.mark.parametrize("formats", [b"\0\2\0\0\0\0", b"\0\0"])
@pytest.mark.parametrize("how", ["parameters", "answered", "caches", "first"])
def test_bind_that_is_malformed_is_refused_where_it_is_read(how: str, formats: bytes) -> None:
    play = judged(SQL)
    play.gate.wants_parameters = how == "parameters"
    play.gate.caches = how in ("caches", "first")
    if how == "answered":
        play.gate.rules[SQL] = answering(INT, [])
    body = b"\0s\0" + formats + b"\0\1" + b"\0\0\0\0"
    start = b""
    if how == "first":
        start = parse(b"n", SQL)
        body = b"\0n\0" + body[3:]
    broken = b"B" + (len(body) + 4).to_bytes(4, "big") + body
    play.f(start + broken + execute() + SYNC)
    said = play.client.take()
    if how == "first":
        assert said == backend.PARSE_COMPLETE
        said = play.b(backend.error_response(Refusal("42601", "syntax error")) + READY)
    assert b"C08P01" in said
    assert said.endswith(READY)
    assert play.session.exchange is None


def test_execution_with_another_text_is_prepared_unseen() -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = rewriting(play, b"SELECT a FROM u", PHASE_EXECUTE)
    sent = play.f(bind(b"s") + execute() + SYNC)
    assert b"SELECT a FROM u" in sent
    assert bind(b"headgate_2") + execute() in sent
    replies = backend.BIND_COMPLETE + row(b"1") + complete(b"SELECT 1") + READY
    assert play.b(backend.PARSE_COMPLETE + replies) == replies
    play.gate.rules.clear()
    assert play.f(bind(b"s") + execute() + SYNC) == bind(b"headgate_1") + execute() + SYNC


def test_text_of_parse_is_the_plugins_and_goes_back_when_it_is_gone() -> None:
    play = judged()
    play.gate.rules[SQL] = rewriting(play, b"SELECT a FROM u")
    for name in (b"", b"s"):
        sent = play.f(parse(name, SQL) + SYNC)
        assert b"SELECT a FROM u\0" in sent
        assert SQL not in sent
        play.b(backend.PARSE_COMPLETE + READY)
    play.gate.rules.clear()
    sent = play.f(bind(b"s") + execute() + bind(b"") + execute() + SYNC)
    assert sent.count(SQL) == 1
    assert sent.endswith((bind(b"headgate_2") + execute()) * 2 + SYNC)
    assert play.session.intake.statements[b"s"].text == SQL


@pytest.mark.parametrize("in_group", [False, True])
def test_refused_execution_of_an_older_statement(in_group: bool) -> None:
    play = judged(SQL)
    play.gate.rules[SQL] = refuse
    before = parse(b"", b"SELECT 1") + bind(b"") + execute() if in_group else b""
    play.f(before + bind(b"s") + execute() + SYNC)
    said = play.client.take()
    if in_group:
        said = play.b(
            backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SELECT 1")
            + backend.error_response(Refusal("42601", "syntax error")) + READY
        )  # fmt: skip
        assert complete(b"SELECT 1") in said
    assert b"C42000" in said
    assert b"42601" not in said
    assert said.endswith(READY)


def function_call(oid: bytes) -> bytes:
    body = oid + b"\0\0\0\0\0\0"
    return b"F" + (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("rule", "sqlstate"),
    [(refuse, b"C42000"), (answering(INT, []), b"C0A000"), (None, b"")],
)
def test_function_call_is_judged_by_its_oid(rule: Rule | None, sqlstate: bytes) -> None:
    play = judged()
    if rule is not None:
        play.gate.rules[b"FUNCTION CALL 4660"] = rule
    sent = play.f(function_call(b"\0\0\x12\x34"))
    assert [inspection.facts.kind for inspection in play.gate.seen] == ["function_call"]
    assert (sent == function_call(b"\0\0\x12\x34")) == (rule is None)
    if sqlstate:
        assert sqlstate in play.client.take()
    play = judged()
    assert play.f(b"F\0\0\0\x05\0") == b"F\0\0\0\x05\0"
    assert play.gate.seen[0].facts.text == b"FUNCTION CALL 0"


def test_answers_among_several_statements_stay_one_transaction() -> None:
    play = judged()
    play.gate.rules[b"FROM t"] = answering(
        [('a"b', 23), ("c", 25)], [[b"7", b"x'\\"], [None, b"y"]]
    )
    play.gate.rules[b"FROM u"] = answering(INT, [])
    sent = play.f(query(b"SELECT a FROM t; UPDATE v SET a = 1; SELECT a FROM u"))
    assert sent == query(
        b"SELECT E'7'::pg_catalog.int4 AS \"a\"\"b\", E'x''\\\\'::pg_catalog.text AS \"c\""
        b' UNION ALL SELECT NULL::pg_catalog.int4 AS "a""b", E\'y\'::pg_catalog.text AS "c"; '
        b'UPDATE v SET a = 1; SELECT NULL::pg_catalog.int4 AS "a" WHERE false'
    )


def test_phases_of_a_statement() -> None:
    play = judged()
    group = parse(b"s", SQL) + bind(b"s") + execute()
    play.f(group + bind(b"s") + execute() + SYNC)
    assert [inspection.phase for inspection in play.gate.seen] == [PHASE_STATEMENT, PHASE_EXECUTE]
