"""A batch on its way to one connection: what is put in, left out or made to fail, and in which order."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session.dispatch import FAILING_PARSE, FAILING_QUERY, can_wait, needs_backend
from proxy.session.exchange import BOUND, END_FLUSH, STEP_INVENT, Batch, Exchange, Prepared, Step
from proxy.session.inspection import VERDICT_ANSWER, VERDICT_REFUSE, Inspection, RowSet
from proxy.session.intake import Intake
from proxy.sql.classify import PgClassifier
from tests.support.playbook import (
    READY,
    READY_E,
    READY_T,
    Playbook,
    bind,
    close,
    complete,
    describe,
    error,
    execute,
    parse,
    query,
    row,
)

CLASSIFIER = PgClassifier()
SYNC = frontend.SYNC
NO = error("42000", "no")
SYNTAX = error("42601", "syntax error")
ANSWER = row(b"1") + complete(b"SELECT 1")
RAN = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SELECT 1")
EMPTY = parse(b"", b"") + bind(b"") + execute()


def run(sql: bytes) -> bytes:
    return parse(b"", sql) + bind(b"") + execute()


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42000", "no")


def answer(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [[b"1"]])


def playing() -> Playbook:
    play = Playbook()
    play.gate.judges = True
    play.gate.rules = {b"secret": refuse, b"known": answer}
    return play


def in_transaction() -> Playbook:
    play = playing()
    play.f(query(b"BEGIN"))
    assert play.b(complete(b"BEGIN") + READY_T).endswith(READY_T)
    return play


def test_bytes_that_need_no_change_go_out_as_received() -> None:
    play = playing()
    group = run(b"SELECT 1") + close(b"", frontend.PORTAL) + close() + run(b"SELECT 2") + SYNC
    assert play.f(group) == group
    replies = RAN + backend.CLOSE_COMPLETE * 2 + RAN + READY
    assert play.b(replies) == replies


def test_answered_query_in_a_transaction_keeps_the_servers_ready() -> None:
    play = in_transaction()
    assert play.f(query(b"SELECT known")) == SYNC
    assert play.b(READY_T) == backend.row_description([(b"a", 25, -1, 0)]) + ANSWER + READY_T


def test_refused_query_in_a_transaction_fails_it_at_the_server() -> None:
    play = in_transaction()
    assert play.f(query(b"SELECT secret")) == FAILING_QUERY
    assert play.b(SYNTAX + READY_E) == NO + READY_E


def test_answers_stand_between_replies_of_the_server() -> None:
    play = playing()
    sent = play.f(run(b"SELECT 1") + run(b"SELECT known") + run(b"SELECT 2") + SYNC)
    assert sent == run(b"SELECT 1") + run(b"SELECT 2") + SYNC
    mine = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + ANSWER
    assert play.b(RAN + RAN + READY) == RAN + mine + RAN + READY


def test_answer_behind_a_query_is_none_of_its_replies() -> None:
    play = playing()
    sent = play.f(run(b"SELECT known") + query(b"SELECT 1"))
    assert sent == query(b"SELECT 1")
    mine = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + ANSWER
    rest = row(b"1") + complete(b"SELECT 1") + row(b"2") + complete(b"SELECT 1") + READY
    assert play.client.take() + play.b(rest) == mine + rest


@pytest.mark.parametrize("call", [query(b"SELECT 2"), b"F\0\0\0\x0e\0\0\0\1\0\0\0\0\0\0"])
def test_call_behind_a_refused_message_is_skipped_to_the_sync(call: bytes) -> None:
    play = playing()
    sent = play.f(run(b"SELECT 1") + run(b"SELECT secret") + call)
    assert sent == run(b"SELECT 1") + FAILING_PARSE + frontend.FLUSH
    assert play.b(RAN + SYNTAX) == RAN + NO
    assert play.f(query(b"SELECT 3")) == b""
    assert play.f(SYNC) == SYNC
    assert play.b(READY) == READY
    assert play.f(query(b"SELECT 4")) == query(b"SELECT 4")


def test_refused_statement_in_an_open_group() -> None:
    play = playing()
    group = run(b"SELECT 1") + frontend.FLUSH
    assert play.f(group) == group
    assert play.b(RAN) == RAN
    assert play.f(run(b"SELECT secret") + SYNC) == FAILING_PARSE + SYNC
    assert play.b(SYNTAX + READY) == NO + READY


def test_names_are_replaced_in_bind_and_describe() -> None:
    play = playing()
    play.f(parse(b"a", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    before = close(b"p", frontend.PORTAL)
    sent = play.f(before + describe(b"a") + bind(b"a", b"p") + execute(b"p") + SYNC)
    name = b"headgate_1"
    assert sent == before + describe(name) + bind(name, b"p") + execute(b"p") + SYNC


def test_unnamed_statement_of_another_connection_is_prepared_first() -> None:
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.broker.free = [play.links[1]]
    before = close(b"p", frontend.PORTAL)
    play.f(before + bind(b"") + execute() + SYNC)
    assert play.wire_of(1).take() == before + run(b"SELECT 1") + SYNC
    replies = backend.CLOSE_COMPLETE, backend.BIND_COMPLETE + complete(b"SELECT 1") + READY
    play.from_server(1, replies[0] + backend.PARSE_COMPLETE + replies[1])
    assert play.client.take() == b"".join(replies)


def test_statement_prepared_in_a_failed_transaction_is_the_servers_to_refuse() -> None:
    play = playing()
    play.f(parse(b"a", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"BEGIN; SELECT 1/0"))
    play.b(complete(b"BEGIN") + error("22012", "division by zero") + READY_E)
    sent = play.f(parse(b"b", b"SELECT 1") + SYNC)
    assert sent == parse(b"headgate_2", b"SELECT 1") + SYNC
    aborted = error("25P02", "current transaction is aborted")
    assert play.b(aborted + READY_E) == aborted + READY_E
    assert play.session.intake.statements.keys() == {b"a"}
    assert list(play.link.prepared.values()) == [b"headgate_1"]


def test_statement_that_ends_a_failed_transaction_is_prepared_in_one() -> None:
    play = playing()
    play.f(parse(b"a", b"ROLLBACK") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"BEGIN; SELECT 1/0"))
    play.b(complete(b"BEGIN") + error("22012", "division by zero") + READY_E)
    sent = play.f(parse(b"b", b"ROLLBACK") + bind(b"b") + execute() + SYNC)
    assert sent == parse(b"headgate_2", b"ROLLBACK") + bind(b"headgate_1") + execute() + SYNC
    replies = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"ROLLBACK") + READY
    assert play.b(replies) == replies
    # What was prepared only for the server to say so is closed when there is something to prepare.
    sent = play.f(parse(b"c", b"SELECT 1") + SYNC)
    assert sent == close(b"headgate_2") + parse(b"headgate_3", b"SELECT 1") + SYNC


def test_statements_that_are_used_last_are_kept_longest() -> None:
    play = Playbook(max_prepared=3)
    for name in (b"a", b"b", b"c"):
        play.f(parse(name, b"SELECT '" + name + b"'") + SYNC)
        play.b(backend.PARSE_COMPLETE + READY)
    play.f(bind(b"a") + execute() + SYNC)
    play.b(backend.BIND_COMPLETE + complete(b"SELECT 1") + READY)
    sent = play.f(parse(b"d", b"SELECT 'd'") + SYNC)
    assert sent == close(b"headgate_2") + parse(b"headgate_4", b"SELECT 'd'") + SYNC
    replies = backend.CLOSE_COMPLETE + backend.PARSE_COMPLETE + READY
    assert play.b(replies) == backend.PARSE_COMPLETE + READY


def test_more_statements_in_one_group_than_a_connection_keeps() -> None:
    """Rule 10: those of the batch stay."""
    play = Playbook(max_prepared=1)
    sent = play.f(parse(b"a", b"SELECT 1") + parse(b"b", b"SELECT 2") + SYNC)
    assert sent == parse(b"headgate_1", b"SELECT 1") + parse(b"headgate_2", b"SELECT 2") + SYNC
    assert len(play.link.prepared) == 2


def test_a_full_connection_whose_statements_are_all_in_use_takes_one_more() -> None:
    play = Playbook(max_prepared=2)
    play.f(parse(b"a", b"SELECT 1") + parse(b"b", b"SELECT 2") + SYNC)
    play.b(backend.PARSE_COMPLETE * 2 + READY)
    sent = play.f(parse(b"c", b"SELECT 3") + bind(b"a") + bind(b"b") + bind(b"c") + SYNC)
    assert sent.count(parse(b"headgate_3", b"SELECT 3")) == 1
    assert sent.count(b"SELECT 1") == sent.count(close(b"headgate_1")) == 1
    assert len(play.link.prepared) == 3


@pytest.mark.parametrize(
    ("group", "needed"),
    [
        (SYNC, False),
        (frontend.FLUSH, False),
        (close(b"a") + SYNC, False),
        (close(b"foreign") + SYNC, True),
        (close(b"p", frontend.PORTAL) + SYNC, True),
        (bind(b"unknown") + SYNC, False),
        (close(b"a") + execute() + SYNC, True),
        (parse(b"b", b"SELECT 1") + SYNC, True),
        (query(b"SELECT 1"), True),
    ],
)
def test_what_a_server_must_be_asked_for(group: bytes, needed: bool) -> None:
    intake = Intake(CLASSIFIER, 1 << 20)
    facts = CLASSIFIER.facts(b"SELECT 1")
    intake.statements[b"a"] = Prepared(b"SELECT 1", facts, b"\0\0", b"", True)
    foreign = Prepared(b"SELECT 1", facts, b"\0\0", b"", False)
    foreign.is_foreign = True
    intake.foreign[b"foreign"] = foreign
    intake.feed(group)
    batch = intake.next_batch()
    assert batch is not None
    assert needs_backend(batch) == needed


def test_empty_text_among_judged_ones() -> None:
    play = playing()
    sent = play.f(EMPTY + run(b"SELECT known") + EMPTY + SYNC)
    assert sent == EMPTY + EMPTY + SYNC


def test_everything_behind_a_refusal_never_ran() -> None:
    play = playing()
    broken = b"P\0\0\0\x06\0\0"
    play.f(parse(b"a", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    rest = broken + parse(b"a", b"SELECT 2") + parse(b"b", b"x") + query(b"SELECT 1") + SYNC
    assert play.f(bind(b"unknown") + rest) == b""
    assert b"C26000" in play.client.take()
    assert play.session.intake.statements[b"a"].text == b"SELECT 1"
    assert b"b" not in play.session.intake.statements


def test_parse_of_what_the_cache_answers_needs_no_server() -> None:
    play = playing()
    play.gate.caches = True

    def hit(inspection: Inspection) -> None:
        if inspection.is_judged:
            answer(inspection)

    play.gate.rules = {b"SELECT a": hit}
    assert play.f(run(b"SELECT a FROM t") + SYNC) == b""
    mine = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + ANSWER
    assert play.client.take() == mine + READY
    # A write is not looked up.
    play.gate.rules = {}
    group = run(b"DELETE FROM t") + SYNC
    assert play.f(group) == group
    assert not any(inspection.is_judged for inspection in play.gate.seen[-1:])


def test_rewritten_texts_behind_others() -> None:
    play = playing()

    def rewrite(inspection: Inspection) -> None:
        inspection.is_rewritten = True
        inspection.facts = CLASSIFIER.exact(b"SELECT 2").statements[0]

    play.gate.rules = {b"SELECT 1": rewrite}
    sent = play.f(run(b"SELECT 3") + parse(b"", b"SELECT 1") + query(b"SELECT 1"))
    assert sent == run(b"SELECT 3") + parse(b"", b"SELECT 2") + query(b"SELECT 2")


def test_names_in_a_query_behind_others() -> None:
    play = playing()
    play.f(parse(b"a", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    sent = play.f(run(b"SELECT 3") + query(b"EXECUTE a"))
    assert sent == run(b"SELECT 3") + query(b"EXECUTE headgate_1")


def test_statement_described_under_other_settings_is_prepared_under_them() -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT * FROM t") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"BEGIN; SET LOCAL search_path = s"))
    play.b(complete(b"BEGIN") + complete(b"SET") + READY_T)
    play.link.prepared.clear()
    sent = play.f(describe(b"a") + SYNC)
    assert sent == parse(b"headgate_2", b"SELECT * FROM t") + describe(b"headgate_2") + SYNC
    (key,) = play.link.prepared
    assert play.session.intake.statements[b"a"].key == key


def test_invented_replies_wait_only_for_what_is_owed() -> None:
    exchange = Exchange(0)
    assert not can_wait(exchange)
    exchange.steps = [Step(STEP_INVENT, b"1", None, b"")]
    assert can_wait(exchange)
    exchange.is_open = True
    assert not can_wait(exchange)
    exchange.steps.append(BOUND)
    assert can_wait(exchange)


def test_parameters_are_seen_where_they_are_asked_for() -> None:
    play = playing()
    play.gate.wants_parameters = True
    values = frontend.Bind(b"", b"", [], [b"7", None], []).encode()
    play.f(parse(b"", b"SELECT $1, $2") + values + execute() + SYNC)
    assert [inspection.parameters for inspection in play.gate.seen] == [None, [b"7", None]]


def test_what_is_refused_or_not_parsed_is_not_clear() -> None:
    play = playing()
    play.gate.clears = True
    assert play.f(bind(b"unknown") + execute() + SYNC) == b""
    assert b"C26000" in play.client.take()
    for text in (query(b"SELECT 1"), run(b"SELECT 1") + SYNC):
        play = playing()
        play.gate.clears = True
        play.session.intake.is_unsafe = True
        play.f(text)
        assert [inspection.facts.kind for inspection in play.gate.seen] == ["unknown"]


@pytest.mark.parametrize("flush", [b"", frontend.FLUSH])
def test_answered_query_behind_a_message_that_fails_is_skipped(flush: bytes) -> None:
    """Only the client's Sync ends its group; one of the proxy's own would."""
    for fails in (False, True):
        play = playing()
        sent = play.f(run(b"SELECT 1") + flush + query(b"SELECT known"))
        assert sent == run(b"SELECT 1") + flush + query(b"")
        if fails:
            assert play.b(backend.PARSE_COMPLETE + SYNTAX) == backend.PARSE_COMPLETE + SYNTAX
            assert play.f(SYNC) == SYNC
            assert play.b(READY) == READY
        else:
            mine = backend.row_description([(b"a", 25, -1, 0)]) + ANSWER
            assert play.b(RAN + backend.EMPTY_QUERY_RESPONSE + READY) == RAN + mine + READY


def rewriting(sql: bytes, needle: bytes) -> Playbook:
    play = playing()

    def rewrite(inspection: Inspection) -> None:
        inspection.is_rewritten = True
        inspection.facts = CLASSIFIER.exact(sql).statements[0]

    play.gate.rules = {needle: rewrite}
    return play


def test_rewritten_query_behind_messages_as_they_are() -> None:
    play = rewriting(b"SELECT 2", b"SELECT 1")
    assert play.f(run(b"SELECT 3") + query(b"SELECT 1")) == run(b"SELECT 3") + query(b"SELECT 2")


@pytest.mark.parametrize(("sql", "is_sent"), [("SELECT 'x'", True), ("SELECT 'é'", False)])
def test_text_of_a_plugin_that_the_server_would_misread_is_refused(sql: str, is_sent: bool) -> None:
    play = rewriting(sql.encode(), b"SELECT 1")
    play.session.intake.is_utf8 = False
    sent = play.f(query(b"SELECT 1"))
    assert sent == (query(sql.encode()) if is_sent else b"")
    assert (b"C22021" in play.client.take()) != is_sent


def test_oldest_statement_that_is_not_in_use_goes() -> None:
    play = Playbook(max_prepared=2)
    play.f(parse(b"a", b"SELECT 1") + parse(b"b", b"SELECT 2") + SYNC)
    play.b(backend.PARSE_COMPLETE * 2 + READY)
    # Of the text of `a`, which is there already.
    sent = play.f(parse(b"again", b"SELECT 1") + parse(b"c", b"SELECT 3") + SYNC)
    assert sent == close(b"headgate_2") + parse(b"headgate_3", b"SELECT 3") + SYNC


def test_rewritten_statement_is_prepared_as_such_under_other_settings() -> None:
    play = rewriting(b"SELECT 2", b"SELECT 1")
    play.f(parse(b"a", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"BEGIN; SET LOCAL search_path = s"))
    play.b(complete(b"BEGIN") + complete(b"SET") + READY_T)
    play.link.prepared.clear()
    play.gate.judges = False
    play.session.intake.was_rewritten = False
    sent = play.f(bind(b"a") + execute() + SYNC)
    assert sent == parse(b"headgate_2", b"SELECT 2") + bind(b"headgate_2") + execute() + SYNC


def test_setting_behind_another_statement_of_a_text_is_seen() -> None:
    """No server takes such a Parse; the texts behind it are read with care all the same."""
    play = playing()
    group = run(b"SELECT 1; SET client_encoding = 'SJIS'") + parse(b"", b"SELECT '\\'") + SYNC
    play.f(group)
    assert play.gate.seen[-1].facts.kind == "unknown"


def test_answered_parts_of_an_exchange_are_let_go() -> None:
    exchange = Exchange(0)
    batches = [Batch(b"", [], END_FLUSH) for _ in range(3)]
    for number, batch in enumerate(batches):
        batch.steps_end = number + 1
    exchange.batches = list(batches)
    exchange.steps = [BOUND] * 3
    exchange.sent = True
    exchange.forget_answered()
    assert (exchange.batches, exchange.is_partial) == (batches, False)
    exchange.at = 2
    exchange.forget_answered()
    assert exchange.batches == batches[2:]
    assert (exchange.at, len(exchange.steps), batches[2].steps_end) == (0, 1, 1)
    assert exchange.is_partial
    # Nothing was asked of a server: all of it is answered.
    exchange.sent = False
    exchange.forget_answered()
    assert exchange.batches == []
