"""What the hooks are told at the end of each statement, once each, and what the cache is offered."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session.inspection import VERDICT_ANSWER, VERDICT_REFUSE, Inspection, Outcome, RowSet
from proxy.session.outcome import KEPT_BATCHES
from proxy.session.tuning import POOL_SESSION
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
    row,
)

COLUMNS = backend.row_description([(b"a", 25, -1, 0)])
ROWS = COLUMNS + row(b"1") + complete(b"SELECT 1")
FAILED = error("22012", "division by zero")
RUN = parse(b"", b"SELECT a FROM t") + bind(b"") + execute() + frontend.SYNC


def observed() -> Playbook:
    play = Playbook()
    play.gate.judges = play.gate.observes = True
    return play


def cached() -> Playbook:
    """A plugin wants the result of what reads t."""
    play = Playbook()
    play.gate.judges = play.gate.caches = play.gate.captures = True
    play.gate.rules[b"FROM t"] = keep
    return play


def keep(inspection: Inspection) -> None:
    inspection.cache_key = "key"


def answer(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [[b"1"], [b"2"]])


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42501", "not here")


def outcomes(play: Playbook) -> list[Outcome]:
    found = []
    for inspection in play.gate.done:
        assert inspection.outcome is not None
        found.append(inspection.outcome)
    return found


def told(play: Playbook) -> list[tuple[bool, str, int]]:
    """Success, SQLSTATE and rows of each statement that is over."""
    return [(outcome.success, outcome.sqlstate, outcome.rows) for outcome in outcomes(play)]


# -- how it went


def test_statement_that_succeeds() -> None:
    play = observed()
    play.f(query(b"SELECT a FROM t"))
    play.b(ROWS)
    assert play.gate.done == []
    play.b(READY)
    assert told(play) == [(True, "", 1)]
    (outcome,) = outcomes(play)
    assert outcome.target_node == "pg0"
    assert outcome.response_bytes == len(ROWS + READY)
    assert outcome.elapsed_us > 0
    assert outcome.error == ""


def test_statement_that_fails() -> None:
    play = observed()
    play.f(query(b"SELECT 1/0"))
    play.b(FAILED + READY)
    assert told(play) == [(False, "22012", 0)]
    (outcome,) = outcomes(play)
    assert outcome.error == "division by zero"
    assert outcome.target_node == "pg0"


def test_each_statement_of_a_query_has_its_own() -> None:
    play = observed()
    play.f(query(b"INSERT INTO t VALUES (1), (2); SELECT 1/0; SELECT 3"))
    play.b(complete(b"INSERT 0 2") + FAILED + READY)
    # The third one never ran: it has the error of what stood before it.
    assert told(play) == [(True, "", 2), (False, "22012", 0), (False, "22012", 0)]


def test_empty_query_and_suspended_portal_are_no_rows() -> None:
    play = observed()
    play.f(query(b""))
    play.b(backend.EMPTY_QUERY_RESPONSE + READY)
    some = frontend.Execute(b"", 1).encode()
    play.f(parse(b"", b"SELECT a FROM t") + bind(b"") + some + execute() + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + row(b"1") + backend.PORTAL_SUSPENDED)
    play.b(row(b"2") + complete(b"SELECT 1") + READY)
    assert told(play)[-1] == (True, "", 1)


def test_more_completions_than_statements_are_the_servers_matter() -> None:
    """A rule or a DO INSTEAD may complete more than was asked for."""
    play = observed()
    play.f(query(b"SELECT a FROM t"))
    play.b(ROWS + complete(b"SELECT 7") + READY)
    assert told(play) == [(True, "", 1)]


def test_error_behind_the_last_statement_is_nobodys() -> None:
    """A deferred constraint fails at the commit of an implicit transaction."""
    play = observed()
    play.f(query(b"INSERT INTO t VALUES (1)"))
    play.b(complete(b"INSERT 0 1") + error("23503", "violates foreign key constraint") + READY)
    assert told(play) == [(True, "", 1)]
    assert play.counters.sqlstates == {"23503": 1}


def test_statement_that_the_client_did_not_wait_for() -> None:
    play = observed()
    play.f(query(b"SELECT a FROM t"))
    play.session.on_frontend_lost()
    assert told(play) == [(False, "57P01", 0)]
    (outcome,) = outcomes(play)
    assert outcome.error == "client disconnected"


def test_refused_statement_was_told_to_no_node() -> None:
    play = observed()
    play.gate.rules[b"DROP"] = refuse
    play.f(query(b"SELECT 1; DROP TABLE t"))
    assert told(play) == [(False, "42501", 0), (False, "42501", 0)]
    assert outcomes(play)[0].target_node == ""


def test_refused_message_fails_what_stood_before_it() -> None:
    play = observed()
    play.f(bind(b"nobody") + frontend.SYNC)
    play.f(parse(b"s", b"SELECT 1") + parse(b"s", b"SELECT 2") + frontend.SYNC)
    replies = backend.PARSE_COMPLETE + error("42601", "syntax error") + READY
    said = play.b(replies)
    assert b"C42P05\x00" in said
    assert play.counters.sqlstates == {"26000": 1, "42P05": 1}


def test_answered_statement_has_the_plugins_rows() -> None:
    play = observed()
    play.gate.rules[b"FROM t"] = answer
    play.f(query(b"SELECT a FROM t"))
    assert play.client.take().endswith(complete(b"SELECT 2") + READY)
    assert told(play) == [(True, "", 2)]


def test_statement_answered_in_parts_has_one_outcome() -> None:
    play = observed()
    play.gate.rules[b"FROM t"] = answer
    play.f(parse(b"", b"SELECT a FROM t") + describe() + frontend.FLUSH)
    assert told(play) == []
    play.f(bind(b"") + execute() + frontend.SYNC)
    assert told(play) == [(True, "", 2)]


def test_every_execution_is_a_statement() -> None:
    play = observed()
    play.f(parse(b"", b"SELECT a FROM t") + bind(b"") + execute() + bind(b"") + execute())
    play.f(frontend.SYNC)
    replies = backend.PARSE_COMPLETE + (backend.BIND_COMPLETE + complete(b"SELECT 1")) * 2
    play.b(replies + READY)
    assert told(play) == [(True, "", 1), (True, "", 1)]
    for outcome in outcomes(play):
        assert outcome.response_bytes < len(replies + READY)


def test_transaction_of_a_session_is_told_statement_by_statement() -> None:
    play = Playbook(mode=POOL_SESSION)
    play.gate.judges = play.gate.observes = True
    for text, ready in ((b"BEGIN", READY_T), (b"SELECT 1/0", READY_E), (b"ROLLBACK", READY)):
        play.f(query(text))
        play.b((FAILED if b"/" in text else complete(text)) + ready)
    assert told(play) == [(True, "", 0), (False, "22012", 0), (True, "", 0)]


def test_nothing_is_counted_for_nobody() -> None:
    play = Playbook()
    play.gate.judges = True
    play.f(query(b"SELECT a FROM t"))
    play.b(ROWS + READY)
    (inspection,) = play.gate.done
    assert inspection.outcome is None


@pytest.mark.parametrize("observes", [False, True])
def test_statement_that_was_not_judged_is_not_finished(observes: bool) -> None:
    """Its batch was refused before its turn."""
    play = Playbook()
    play.gate.judges = True
    play.gate.observes = observes
    play.gate.rules[b"DROP"] = refuse
    play.f(query(b"DROP TABLE t; SELECT 1"))
    assert len(play.gate.done) == 1


# -- the result cache


def test_result_is_offered_as_the_client_got_it() -> None:
    play = cached()
    play.f(query(b"SELECT a FROM t"))
    play.b(ROWS[:20])
    play.b(ROWS[20:] + READY)
    assert play.gate.results == [ROWS + READY]


@pytest.mark.parametrize(
    ("sent", "replies"),
    [
        (query(b"SELECT a FROM t"), FAILED + READY),
        (query(b"SELECT a FROM t; SELECT 2"), ROWS + complete(b"SELECT 1") + READY),
        (query(b"SELECT 1"), ROWS + READY),
    ],
)
def test_what_is_not_one_whole_result_is_not_offered(sent: bytes, replies: bytes) -> None:
    play = cached()
    play.f(sent)
    play.b(replies)
    assert set(play.gate.results) == {None}


def test_result_that_is_too_long_is_not_kept() -> None:
    play = cached()
    play.f(query(b"SELECT a FROM t"))
    long_row = row(b"x" * (1 << 20))
    play.b(COLUMNS)
    play.b(long_row)
    assert play.session.exchange is not None
    assert play.session.exchange.capture is None
    play.b(complete(b"SELECT 1") + READY)
    assert play.gate.results == [None]


def test_result_over_several_parts_of_a_pipeline_is_not_offered() -> None:
    play = cached()
    play.f(parse(b"", b"SELECT a FROM t") + frontend.FLUSH)
    play.b(backend.PARSE_COMPLETE)
    play.f(bind(b"") + execute() + frontend.SYNC)
    play.b(backend.BIND_COMPLETE + ROWS + READY)
    assert set(play.gate.results) == {None}


def test_taken_answer_of_the_cache_is_not_offered_again() -> None:
    play = cached()
    play.gate.rules[b"FROM t"] = answer
    play.f(RUN)
    assert set(play.gate.results) == {None}


@pytest.mark.parametrize("is_looked_up", [True, False])
def test_write_in_a_long_pipeline_counts_for_the_cache_to_its_end(is_looked_up: bool) -> None:
    """It is committed at the Sync: until then nothing of the pipeline may be taken or kept."""
    play = cached()
    play.gate.observes = True
    play.gate.caches = is_looked_up
    insert = parse(b"", b"INSERT INTO u VALUES (1)") + bind(b"") + execute() + frontend.FLUSH
    select = parse(b"", b"SELECT a FROM t") + bind(b"") + execute() + frontend.FLUSH
    begun = backend.PARSE_COMPLETE + backend.BIND_COMPLETE
    play.f(insert)
    play.b(begun + complete(b"INSERT 0 1"))
    for _ in range(2 * KEPT_BATCHES):
        play.f(select)
        play.b(begun + complete(b"SELECT 0"))
    writes = [inspection for inspection in play.gate.seen if inspection.facts.kind == "insert"]
    assert not any(inspection.may_cache for inspection in play.gate.seen[1:])
    assert 0 < len(play.gate.done) < len(play.gate.seen)
    assert not set(writes) & set(play.gate.done)
    play.f(frontend.SYNC)
    play.b(READY)
    assert set(play.gate.done) == set(play.gate.seen)
    assert len(play.gate.done) == len(play.gate.seen)
    assert set(play.gate.results) == {None}
