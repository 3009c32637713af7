"""Rule 8: what a server's unnamed statement is behind an error; replayed only where it is gone."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session.inspection import VERDICT_REFUSE, Inspection
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
)

SYNC = frontend.SYNC
SET = b"SET TRANSACTION READ ONLY"
SET_AGAIN = parse(b"", SET)
FAILED = error("34000", 'portal "" does not exist')
CALL = frontend.FunctionCall(1, [], [], 0).encode()
ROWLESS = backend.parameter_description([]) + backend.NO_DATA


def prepared_in_a_transaction() -> Playbook:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.f(parse(b"", SET) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY_T)
    return play


def replays(play: Playbook) -> bool:
    """Whether the unnamed statement is prepared again where it is described next."""
    sent = play.f(describe(b"") + SYNC)
    assert sent in (describe(b"") + SYNC, SET_AGAIN + describe(b"") + SYNC)
    return sent.startswith(b"P")


def test_it_is_described_in_a_failed_transaction() -> None:
    """A server parses nothing in one, but has what was parsed before."""
    play = prepared_in_a_transaction()
    play.f(execute() + SYNC)
    play.b(FAILED + READY_E)
    assert not replays(play)
    assert play.b(ROWLESS + READY_E) == ROWLESS + READY_E


def test_it_is_there_where_its_own_group_has_failed_behind_it() -> None:
    play = Playbook()
    play.f(parse(b"", SET) + bind(b"") + execute() + execute(b"p") + parse(b"", b"SELECT 1") + SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SET") + FAILED + READY)
    assert not replays(play)


def test_it_is_there_behind_what_fails_at_the_sync() -> None:
    """A constraint that was deferred; with a statement that has a name, so that steps are counted."""
    for name in (b"", b"s"):
        play = Playbook()
        play.f(parse(b"", SET) + parse(name, SET) + SYNC)
        play.b(backend.PARSE_COMPLETE * 2 + error("23505", "duplicate key") + READY)
        assert not replays(play)


def test_it_is_there_behind_a_function_that_fails() -> None:
    play = prepared_in_a_transaction()
    play.f(CALL)
    play.b(error("42883", "no such function") + READY_E)
    assert not replays(play)


def test_it_is_gone_where_it_was_not_parsed_again() -> None:
    """What was sent says nothing: the server has skipped it."""
    play = Playbook(links=2)
    play.f(parse(b"", SET) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.broker.free.reverse()
    play.session.receive_from_frontend(execute() + bind(b"") + SYNC)
    assert SET_AGAIN in play.wire_of(1).take()
    play.from_server(1, FAILED + READY)
    play.broker.free = [play.links[1]]
    play.session.receive_from_frontend(describe(b"") + SYNC)
    assert play.wire_of(1).take() == SET_AGAIN + describe(b"") + SYNC


@pytest.mark.parametrize("is_replayed", [True, False])
def test_it_is_there_where_it_was_parsed_again_before(is_replayed: bool) -> None:
    play = Playbook()
    play.f(parse(b"", SET) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.link.unnamed = None
    sent = play.f(bind(b"") + execute() + execute(b"p") + SYNC)
    assert sent.startswith(SET_AGAIN)
    if is_replayed:
        play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SET") + FAILED + READY)
    else:
        play.b(error("25P02", "current transaction is aborted") + READY)
    assert replays(play) != is_replayed


def test_it_is_gone_behind_a_query_that_fails() -> None:
    for texts in (b"SELECT nobody", b"SELECT 1; SELECT nobody"):
        play = Playbook()
        play.f(parse(b"", SET) + SYNC)
        play.b(backend.PARSE_COMPLETE + READY)
        ahead = b"" if b";" not in texts else complete(b"SELECT 1") * 2
        play.f(query(texts))
        play.b(ahead + error("42703", "no such column") + READY)
        assert play.link.unnamed is None


def test_it_is_gone_behind_a_close_that_came_before_the_error() -> None:
    play = prepared_in_a_transaction()
    play.f(close(b"") + execute() + SYNC)
    play.b(backend.CLOSE_COMPLETE + FAILED + READY_E)
    assert play.link.unnamed is None


def test_close_of_a_portal_is_not_one_of_a_statement() -> None:
    play = prepared_in_a_transaction()
    play.f(close(b"", frontend.PORTAL) + execute() + SYNC)
    play.b(backend.CLOSE_COMPLETE + FAILED + READY_E)
    assert not replays(play)


@pytest.mark.parametrize("group", [query(b"no"), CALL])
def test_it_is_gone_where_a_query_was_sent_to_fail(group: bytes) -> None:
    play = prepared_in_a_transaction()
    play.gate.judges = True

    def refuse(inspection: Inspection) -> None:
        inspection.verdict = VERDICT_REFUSE
        inspection.refusal = Refusal("42501", "no")

    play.gate.rules = {b"no": refuse, b"FUNCTION CALL": refuse}
    play.f(group)
    play.b(error("42601", "syntax error") + READY_E)
    assert play.link.unnamed is None


def test_another_name_for_what_a_failed_transaction_refuses_to_parse_keeps_its_statement() -> None:
    play = Playbook()
    play.f(parse(b"a", SET) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"BEGIN; SELECT 1/0"))
    play.b(complete(b"BEGIN") + error("22012", "division by zero") + READY_E)
    aborted = error("25P02", "current transaction is aborted")
    sent = play.f(parse(b"b", SET) + SYNC)
    assert sent == parse(b"headgate_2", SET) + SYNC
    assert play.b(aborted + READY_E) == aborted + READY_E
    assert play.f(describe(b"a") + SYNC) == describe(b"headgate_1") + SYNC
    assert play.b(ROWLESS + READY_E) == ROWLESS + READY_E
