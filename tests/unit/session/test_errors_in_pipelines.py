"""Rule 2: an error drops everything to the Sync, and what the proxy counted on did not happen."""

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

BAD = b"SELECT nobody"
FAILED = error("42703", 'column "nobody" does not exist')
CLOSED = error("34000", 'portal "" does not exist')
CALL = frontend.FunctionCall(1, [], [], 0).encode()


def names(play: Playbook) -> list[bytes]:
    return list(play.session.intake.statements)


def unnamed(play: Playbook) -> bytes:
    prepared = play.session.intake.unnamed
    return b"" if prepared is None else prepared.text


def prepared(*statements: bytes) -> Playbook:
    play = Playbook()
    for name in statements:
        play.f(parse(name, b"SELECT '" + name + b"'") + frontend.SYNC)
        play.b(backend.PARSE_COMPLETE + READY)
    return play


def test_parse_that_fails_defines_nothing() -> None:
    play = Playbook()
    play.f(parse(b"s", BAD) + frontend.SYNC)
    assert play.b(FAILED + READY) == FAILED + READY
    assert names(play) == []
    assert play.link.prepared == {}
    # The name is free.
    sent = play.f(parse(b"s", b"SELECT 1") + frontend.SYNC)
    assert b"SELECT 1" in sent


def test_parse_behind_an_error_defines_nothing() -> None:
    play = Playbook()
    play.f(parse(b"s", BAD) + parse(b"t", b"SELECT 1") + frontend.SYNC)
    assert play.b(FAILED + READY) == FAILED + READY
    assert names(play) == []
    assert play.link.prepared == {}


def test_parse_before_an_error_stays() -> None:
    play = Playbook()
    play.f(parse(b"s", b"SELECT 1") + parse(b"t", BAD) + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + FAILED + READY)
    assert names(play) == [b"s"]
    assert len(play.link.prepared) == 1


def test_close_behind_an_error_closes_nothing() -> None:
    play = prepared(b"s", b"t")
    play.f(parse(b"", BAD) + close(b"s") + close() + frontend.SYNC)
    assert play.b(FAILED + READY) == FAILED + READY
    assert names(play) == [b"t", b"s"]
    # It can be executed, and is still on the connection.
    sent = play.f(bind(b"s") + execute() + frontend.SYNC)
    assert b"SELECT 's'" not in sent


def test_close_that_the_proxy_answers_comes_in_its_turn() -> None:
    play = prepared(b"s")
    play.f(parse(b"", b"SELECT 1") + close(b"s") + bind(b"") + execute() + frontend.SYNC)
    first = backend.PARSE_COMPLETE
    assert play.b(first) == first + backend.CLOSE_COMPLETE
    rest = backend.BIND_COMPLETE + complete(b"SELECT 1") + READY
    assert play.b(rest) == rest
    assert names(play) == []


def test_replies_that_the_proxy_makes_are_dropped_with_the_rest() -> None:
    play = prepared(b"s")
    missing = error("26000", "unnamed prepared statement does not exist")
    assert play.f(bind(b"") + close(b"s") + frontend.SYNC) == b""
    assert play.client.take() == missing + READY
    # Behind what a server must be asked, the server itself fails in that place.
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")
    play.b(complete(b"SELECT 1") + READY)
    play.f(parse(b"", b"SELECT 1") + bind(b"nobody") + close(b"s") + frontend.SYNC)
    said = play.b(backend.PARSE_COMPLETE + error("42601", "syntax error") + READY)
    missing = error("26000", 'prepared statement "nobody" does not exist')
    assert said == backend.PARSE_COMPLETE + missing + READY
    assert names(play) == [b"s"]


def test_unnamed_statement_is_gone_when_its_parse_fails() -> None:
    """PostgreSQL drops it before it looks at the new one."""
    play = Playbook()
    play.f(parse(b"", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(parse(b"", BAD) + frontend.SYNC)
    play.b(FAILED + READY)
    assert unnamed(play) == b""


def test_unnamed_statement_is_as_before_when_a_parse_never_ran() -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(describe(b"", frontend.PORTAL) + parse(b"", b"SELECT 2") + frontend.SYNC)
    assert play.b(CLOSED + READY) == CLOSED + READY
    assert unnamed(play) == b"SELECT 1"


def test_error_at_the_sync_undoes_nothing() -> None:
    """A deferred constraint: the statements ran, the commit fails."""
    play = Playbook()
    play.f(parse(b"s", b"INSERT INTO t VALUES (1)") + bind(b"s") + execute() + frontend.SYNC)
    done = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"INSERT 0 1")
    violated = error("23503", "violates foreign key constraint")
    assert play.b(done + violated + READY) == done + violated + READY
    assert names(play) == [b"s"]
    assert len(play.link.prepared) == 1


def test_error_in_one_group_does_not_touch_the_next() -> None:
    play = Playbook()
    play.f(parse(b"s", BAD) + frontend.SYNC + parse(b"t", b"SELECT 1") + frontend.SYNC)
    assert play.b(FAILED + READY) == FAILED + READY
    assert b"SELECT 1" in play.server.take()
    assert play.b(backend.PARSE_COMPLETE + READY) == backend.PARSE_COMPLETE + READY
    assert names(play) == [b"t"]


def test_open_pipeline_is_skipped_to_its_sync() -> None:
    play = Playbook()
    play.f(parse(b"", BAD) + frontend.FLUSH)
    assert play.b(FAILED) == FAILED
    assert play.f(bind(b"") + execute() + query(b"SELECT 2") + frontend.FLUSH) == b""
    assert play.f(parse(b"u", b"SELECT 3") + frontend.SYNC) == frontend.SYNC
    assert play.b(READY) == READY
    assert names(play) == []
    assert play.broker.free == [play.link]


def test_error_with_more_of_the_pipeline_sent_already() -> None:
    play = Playbook()
    play.f(parse(b"", BAD) + frontend.FLUSH + parse(b"s", b"SELECT 1") + frontend.FLUSH)
    assert play.b(FAILED) == FAILED
    assert names(play) == []
    assert play.f(frontend.SYNC) == frontend.SYNC
    assert play.b(READY) == READY
    assert play.link.prepared == {}


# -- a Query or FunctionCall among extended messages


@pytest.mark.parametrize("call", [query(b"SELECT 2"), CALL])
def test_call_behind_a_failed_message_is_skipped_too(call: bytes) -> None:
    """The server skips it, so only a Sync ends this."""
    play = Playbook()
    play.f(parse(b"", BAD) + call)
    assert play.b(FAILED) == FAILED
    assert play.f(query(b"SELECT 3")) == b""
    assert play.f(frontend.SYNC) == frontend.SYNC
    assert play.b(READY) == READY
    if call == CALL:
        play.looked_at()
    assert play.f(query(b"SELECT 4")) == query(b"SELECT 4")


@pytest.mark.parametrize("call", [query(BAD), CALL])
def test_call_that_fails_itself_ends_with_its_own_ready(call: bytes) -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT 1") + call)
    assert play.b(backend.PARSE_COMPLETE) == backend.PARSE_COMPLETE
    assert play.b(FAILED + READY) == FAILED + READY
    if call == CALL:
        play.looked_at()
    assert play.broker.free == [play.link]
    # A Query drops the unnamed statement, whether it fails or not; a FunctionCall does not.
    assert unnamed(play) == (b"SELECT 1" if call == CALL else b"")


def test_query_that_fails_restores_nothing_of_its_own() -> None:
    play = prepared(b"s")
    play.f(query(BAD))
    assert play.b(FAILED + READY) == FAILED + READY
    assert names(play) == [b"s"]
    assert play.counters.sqlstates == {"42703": 1}


def test_query_behind_a_query_goes_on_after_an_error() -> None:
    play = Playbook()
    play.f(query(BAD) + query(b"SELECT 2"))
    assert play.b(FAILED + READY) == FAILED + READY
    assert play.server.take() == query(b"SELECT 2")


# -- where the proxy put a message before a Query


def with_execute(sql: bytes) -> tuple[Playbook, bytes]:
    """SQL EXECUTE of a protocol-level statement that is not on this connection yet."""
    play = prepared(b"s")
    play.link.prepared.clear()
    return play, play.f(query(sql))


def test_parse_of_the_proxys_own_before_a_query_is_unseen() -> None:
    play, sent = with_execute(b"EXECUTE s")
    assert b"SELECT 's'" in sent
    assert b"EXECUTE headgate_2" in sent
    reply = complete(b"SELECT 1") + READY
    assert play.b(backend.PARSE_COMPLETE + reply) == reply


def test_error_of_a_parse_of_the_proxys_own_is_ended_by_a_sync_of_its_own() -> None:
    play, _ = with_execute(b"EXECUTE s")
    assert play.b(error("42P01", 'relation "t" does not exist')) == error(
        "42P01", 'relation "t" does not exist'
    )
    assert play.server.take() == frontend.SYNC
    assert play.b(READY) == READY
    assert play.link.prepared == {}
    play.looked_at()
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")


def test_error_of_the_query_speaks_of_the_clients_name() -> None:
    play, _ = with_execute(b"EXECUTE s")
    play.b(backend.PARSE_COMPLETE)
    wrong = 'wrong number of parameters for prepared statement "{}"'
    said = play.b(error("42601", wrong.format("headgate_2")) + READY)
    assert said == error("42601", wrong.format("s")) + READY


# -- refusals in place of messages


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42501", "not here")


def test_refusal_is_said_in_place_of_the_servers_error() -> None:
    play = Playbook()
    play.gate.judges = True
    play.gate.observes = True
    play.gate.rules[b"DROP"] = refuse
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.f(parse(b"", b"SELECT 1") + parse(b"", b"DROP TABLE t") + frontend.SYNC)
    said = play.b(backend.PARSE_COMPLETE + FAILED + READY_E)
    assert said == backend.PARSE_COMPLETE + error("42501", "not here") + READY_E
    assert play.session.exchange is None
    outcome = play.gate.seen[-1].outcome
    assert outcome is not None
    assert (outcome.success, outcome.sqlstate) == (False, "42501")
    assert play.counters.sqlstates == {"42501": 1}


def test_bind_of_an_unknown_statement_behind_a_query_text_ends_only_with_sync() -> None:
    play = Playbook()
    play.f(bind(b"nobody") + query(b"SELECT 1"))
    assert b"C26000\x00" in play.client.take()
    assert play.f(query(b"SELECT 2")) == b""
    play.f(frontend.SYNC)
    assert play.client.take() == READY
