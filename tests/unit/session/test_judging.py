"""A batch and its verdicts: at once or after a while, and what the client gets in their place."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session.dispatch import BEGINNING
from proxy.session.inspection import VERDICT_ANSWER, VERDICT_REFUSE, Inspection, RowSet
from proxy.session.relay import CLOSED, IDLE, JUDGING
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

NO = error("42501", "not here")
ROWS = backend.row_description([(b"a", 25, -1, 0)]) + row(b"1") + complete(b"SELECT 1")
REWRITTEN = b"SELECT a FROM t LIMIT 10"


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42501", "not here")


def answer(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [[b"1"]])


def answer_in_german(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [["Grüße".encode()]])


def judged(slow: bytes = b"") -> Playbook:
    play = Playbook()
    play.gate.judges = True
    if slow:
        play.gate.slow.append(slow)
    return play


def texts(play: Playbook) -> list[bytes]:
    return [inspection.facts.text for inspection in play.gate.seen]


def test_refused_query_never_reaches_a_server() -> None:
    play = judged()
    play.gate.rules[b"DROP"] = refuse
    assert play.f(query(b"DROP TABLE t")) == b""
    assert play.client.take() == NO + READY
    assert play.broker.routes == []
    assert play.counters.sqlstates == {"42501": 1}


def test_refused_statement_of_several_refuses_the_query() -> None:
    play = judged()
    play.gate.rules[b"DROP"] = refuse
    assert play.f(query(b"SELECT 1; DROP TABLE t; SELECT 2")) == b""
    assert play.client.take() == NO + READY
    # Nobody is asked about what stands behind the refusal.
    assert len(play.gate.seen) == 2


def test_refused_query_in_a_transaction_fails_it() -> None:
    play = judged()
    play.gate.rules[b"DROP"] = refuse
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    sent = play.f(query(b"DROP TABLE t"))
    assert sent.startswith(b"Q")
    assert b"DROP" not in sent
    assert play.b(error("42601", "syntax error") + READY_E) == NO + READY_E


def test_refused_statement_skips_its_pipeline_to_the_sync() -> None:
    play = judged()
    play.gate.rules[b"DROP"] = refuse
    play.f(parse(b"s", b"DROP TABLE t") + frontend.FLUSH)
    assert play.client.take() == NO
    assert play.f(bind(b"s") + execute() + query(b"SELECT 1")) == b""
    assert play.client.take() == b""
    play.f(frontend.SYNC)
    assert play.client.take() == READY
    assert play.session.intake.statements == {}
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")


def test_goodbye_in_a_skipped_pipeline_is_one() -> None:
    play = judged()
    play.gate.rules[b"DROP"] = refuse
    play.f(parse(b"", b"DROP TABLE t") + frontend.FLUSH + frontend.TERMINATE)
    assert play.client.take() == NO
    assert play.client.is_closed
    assert play.session.phase == CLOSED


def test_plugin_that_takes_its_time_holds_up_nobody_else_and_keeps_the_order() -> None:
    play = judged(slow=b"slow")
    assert play.f(query(b"SELECT 'slow'") + query(b"SELECT 2")) == b""
    assert play.session.phase == JUDGING
    assert play.broker.routes == []
    play.gate.decide()
    assert play.server.take() == query(b"SELECT 'slow'")
    play.b(ROWS + READY)
    assert play.server.take() == query(b"SELECT 2")


def test_late_refusal_is_a_refusal() -> None:
    play = judged(slow=b"DROP")
    play.gate.rules[b"DROP"] = refuse
    play.f(query(b"DROP TABLE t; SELECT 2"))
    play.gate.decide()
    assert play.client.take() == NO + READY
    assert len(play.gate.seen) == 1
    assert play.session.phase == IDLE


def test_each_statement_may_take_its_time() -> None:
    play = judged(slow=b"slow")
    text = b"SELECT 'slow', 1; SELECT 'slow', 2"
    play.f(query(text))
    play.gate.decide()
    assert play.server.take() == b""
    assert play.session.phase == JUDGING
    play.gate.decide()
    assert play.server.take() == query(text)


def test_verdict_for_a_client_that_has_gone_changes_nothing() -> None:
    play = judged(slow=b"slow")
    play.f(query(b"SELECT 'slow'"))
    play.session.on_frontend_lost()
    play.gate.decide()
    assert play.server.take() == b""
    assert play.broker.routes == []
    assert len(play.gate.done) == 1


def test_answered_query_needs_no_server() -> None:
    play = judged()
    play.gate.rules[b"cached"] = answer
    assert play.f(query(b"SELECT a FROM cached")) == b""
    assert play.client.take() == ROWS + READY
    assert play.broker.routes == []


def test_rewritten_query_goes_out_as_the_plugin_wants_it() -> None:
    play = judged()

    def rewrite(inspection: Inspection) -> None:
        inspection.is_rewritten = True
        facts = play.session._classifier.exact(REWRITTEN)
        inspection.facts = facts.statements[0]

    play.gate.rules[b"FROM t"] = rewrite
    group = parse(b"", b"SELECT a FROM t") + bind(b"") + execute() + frontend.SYNC
    sent = play.f(group)
    assert parse(b"", REWRITTEN) in sent
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + ROWS + READY)
    assert play.session.intake.was_rewritten
    # A statement that was rewritten is another text from now on, although nobody judges any more.
    play.gate.judges = False
    assert bind(b"") in play.f(bind(b"") + execute() + frontend.SYNC)


def test_rewritten_text_of_a_session_that_is_not_parsed_is_parsed_itself() -> None:
    """Rule 37: the client's text is not read here, but the plugin's is what runs."""
    play = judged()
    play.f(parse(b"s", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"SET standard_conforming_strings = off"))
    told = backend.parameter_status(b"standard_conforming_strings", b"off")
    play.b(told + complete(b"SET") + READY)
    play.looked_at(row(b"s", b"standard_conforming_strings", b"off"))

    def deallocate(inspection: Inspection) -> None:
        inspection.is_rewritten = True
        inspection.facts = play.session._classifier.exact(b"DEALLOCATE s").statements[0]

    play.gate.rules[b"'forget'"] = deallocate
    assert play.f(query(b"SELECT 'forget'")) == query(b"DEALLOCATE headgate_1")
    assert play.b(complete(b"DEALLOCATE") + READY) == complete(b"DEALLOCATE") + READY
    assert play.session.intake.statements == {}
    assert play.link.prepared == {}


def test_plugins_text_must_be_ascii_for_a_client_of_another_encoding() -> None:
    play = judged()
    play.f(query(b"SET client_encoding = 'LATIN1'"))
    told = backend.parameter_status(b"client_encoding", b"LATIN1")
    play.b(told + complete(b"SET") + READY)
    play.b(row(b"s", b"client_encoding", b"LATIN1") + complete(b"SELECT 1") + READY)
    play.gate.rules[b"cached"] = answer_in_german
    play.f(query(b"SELECT a FROM cached"))
    said = play.client.take()
    assert b"C22021\x00" in said
    assert said.endswith(READY)
    play.gate.rules[b"cached"] = answer
    play.f(query(b"SELECT a FROM cached"))
    assert play.client.take() == ROWS + READY


def test_answered_statement_of_the_extended_protocol() -> None:
    play = judged()
    play.gate.rules[b"cached"] = answer
    group = parse(b"", b"SELECT a FROM cached") + describe() + bind(b"") + execute()
    assert play.f(group + close() + frontend.SYNC) == b""
    columns = backend.row_description([(b"a", 25, -1, 0)])
    assert play.client.take() == (
        backend.PARSE_COMPLETE + backend.parameter_description([]) + columns + backend.BIND_COMPLETE
        + row(b"1") + complete(b"SELECT 1") + backend.CLOSE_COMPLETE + READY
    )  # fmt: skip


@pytest.mark.parametrize("tail", [frontend.SYNC, frontend.FLUSH])
def test_group_without_a_message_is_answered_without_a_server(tail: bytes) -> None:
    play = Playbook()
    assert play.f(tail) == b""
    assert play.client.take() == (READY if tail == frontend.SYNC else b"")
    assert play.broker.routes == []
    if tail == frontend.FLUSH:
        play.f(frontend.SYNC)
        assert play.client.take() == READY


def test_empty_group_in_a_transaction_has_its_status() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    assert play.f(frontend.SYNC) == BEGINNING + frontend.SYNC
    assert play.b(backend.PARSE_COMPLETE + backend.CLOSE_COMPLETE + READY_T) == READY_T


def test_every_judged_statement_is_finished_once() -> None:
    play = judged()
    play.gate.rules[b"DROP"] = refuse
    play.gate.rules[b"cached"] = answer
    for text in (b"SELECT 1; SELECT 2", b"DROP TABLE t", b"SELECT a FROM cached"):
        play.f(query(text))
        if play.session.link is not None:
            play.b(complete(b"SELECT 1") + complete(b"SELECT 1") + READY)
    assert play.gate.done == play.gate.seen
    assert len(play.gate.done) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_answered_query_behind_a_pipeline_ends_as_a_query(fails: bool) -> None:
    """An empty one is run in its place: what fails before it must have it skipped."""
    play = judged()
    play.gate.rules[b"cached"] = answer
    sent = play.f(parse(b"", b"SELECT 1") + query(b"SELECT a FROM cached"))
    assert sent == parse(b"", b"SELECT 1") + query(b"")
    assert play.client.take() == b""
    if fails:
        failed = error("42601", "syntax error")
        assert play.b(failed) == failed
        assert play.f(frontend.SYNC) == frontend.SYNC
        assert play.b(READY) == READY
    else:
        assert play.b(backend.PARSE_COMPLETE) == backend.PARSE_COMPLETE + ROWS
        assert play.b(backend.EMPTY_QUERY_RESPONSE + READY) == READY
    assert play.broker.free == [play.link]


def test_error_of_the_query_in_place_of_an_answered_one_is_said() -> None:
    """A cancel request that comes as late as that."""
    play = judged()
    play.gate.rules[b"cached"] = answer
    play.f(parse(b"", b"SELECT 1") + query(b"SELECT a FROM cached"))
    play.b(backend.PARSE_COMPLETE)
    canceled = error("57014", "canceling statement due to user request")
    assert play.b(canceled + READY) == canceled + READY
    assert play.broker.free == [play.link]
    assert not play.client.is_closed
