"""Rule 34: cancel requests and time-outs, by what the client is doing; and whom waiting is told to."""

import pytest

from proxy.protocol import backend, frontend
from proxy.session.relay import APPLYING, IDLE, ROUTING, WAITING
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

APPLIED = row(b"t") + complete(b"SELECT 1") + READY
CANCELED = error("57014", "canceling statement due to user request")


def test_idle_client_has_nothing_to_cancel() -> None:
    play = Playbook()
    play.session.cancel()
    assert play.client.take() == b""
    assert play.broker.cancelled == []


def test_cancel_goes_to_the_connection_that_serves_the_client_now() -> None:
    play = Playbook(links=2)
    play.f(query(b"SELECT 1"))
    play.session.cancel()
    assert play.broker.cancelled == [play.link]
    # No answer of the proxy's own: the server's error is the answer.
    assert play.client.take() == b""
    assert play.b(CANCELED + READY) == CANCELED + READY
    assert play.session.phase == IDLE


def test_client_that_waits_for_a_connection_is_answered_at_once() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1") + query(b"SELECT 2"))
    play.session.cancel()
    assert play.client.take() == CANCELED + READY
    # The next statement is another one: it waits in its turn.
    assert play.session.phase == WAITING
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.server.take() == query(b"SELECT 2")


def test_cancelled_pipeline_is_skipped_to_its_sync() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(parse(b"s", b"SELECT 1") + bind(b"s") + frontend.FLUSH)
    play.session.cancel()
    assert play.client.take() == CANCELED
    play.session.receive_from_frontend(execute() + query(b"SELECT 2") + frontend.SYNC)
    assert play.client.take() == READY
    assert play.broker.waiting is None
    # Its Parse never ran.
    assert play.session.intake.statements == {}


def test_cancelled_group_with_its_sync_needs_no_other() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(
        parse(b"", b"SELECT 1") + bind(b"") + execute() + frontend.SYNC
    )
    play.session.cancel()
    assert play.client.take() == CANCELED + READY


# -- time-outs


def test_statement_that_runs_too_long_is_cancelled_once() -> None:
    play = Playbook()
    play.f(query(b"SELECT pg_sleep(100)"))
    play.session.time_out_query()
    play.session.time_out_query()
    assert play.broker.cancelled == [play.link]
    assert play.counters.by_cause == {"query_timeout": 1}
    assert play.b(CANCELED + READY) == CANCELED + READY


def test_next_statement_has_a_time_of_its_own() -> None:
    play = Playbook()
    for expected in (1, 2):
        play.f(query(b"SELECT pg_sleep(100)"))
        play.session.time_out_query()
        assert len(play.broker.cancelled) == expected
        play.b(CANCELED + READY)


@pytest.mark.parametrize("is_waiting", [False, True])
def test_what_does_not_run_is_not_cancelled(is_waiting: bool) -> None:
    play = Playbook(links=0)
    if is_waiting:
        play.session.receive_from_frontend(query(b"SELECT 1"))
    play.session.time_out_query()
    assert play.broker.cancelled == []
    assert play.counters.by_cause == {}


# -- waiting


def test_who_waits_is_told_so_once() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    assert play.session.waiting_since_us > 0
    play.session.notify_waiting()
    notice = play.client.take()
    assert notice.startswith(b"N")
    assert b"SNOTICE\x00VNOTICE\x00C00000\x00Mwaiting for a server connection\x00" in notice
    play.session.notify_waiting()
    assert play.client.take() == b""
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.session.waiting_since_us == 0
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY


def test_failed_transaction_stays_failed_when_it_is_cancelled() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.f(query(b"SELECT pg_sleep(100)"))
    play.session.cancel()
    assert play.b(CANCELED + READY_E) == CANCELED + READY_E
    assert play.session.link is play.link
    play.f(query(b"COMMIT"))
    assert play.b(complete(b"ROLLBACK") + READY) == complete(b"ROLLBACK") + READY
    assert play.broker.free == [play.link]


def test_cancel_between_the_parts_of_a_pipeline_goes_to_its_connection() -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    play.b(backend.PARSE_COMPLETE)
    play.session.cancel()
    assert play.broker.cancelled == [play.link]


def slow(links: int = 1) -> Playbook:
    """A session whose plugin takes its time over SELECT 'slow'."""
    play = Playbook(links=links)
    play.gate.judges = True
    play.gate.slow.append(b"slow")
    return play


def test_client_whose_plugin_takes_its_time_is_answered_at_once() -> None:
    play = slow()
    play.f(query(b"SELECT 'slow'") + query(b"SELECT 2"))
    play.session.cancel()
    assert play.client.take() == CANCELED + READY
    # What the plugin says then is nobody's business any more; the next statement runs.
    assert [inspection.facts.text for inspection in play.gate.done] == [b"SELECT 'slow'"]
    assert play.server.take() == query(b"SELECT 2")


def test_cancel_while_a_plugin_routes() -> None:
    play = Playbook()
    play.gate.judges = play.gate.routes = True
    play.gate.slow_routes.append(b"slow")
    play.f(query(b"SELECT 'slow'"))
    assert play.session.phase == ROUTING
    play.session.cancel()
    assert play.client.take() == CANCELED + READY
    assert play.broker.routes == []


def test_in_a_transaction_the_server_fails_what_was_cancelled_before_it_was_sent() -> None:
    play = slow()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.client.take()
    assert play.f(query(b"SELECT 'slow'")) == b""
    play.session.cancel()
    assert play.client.take() == b""
    play.gate.decide()
    sent = play.server.take()
    assert sent.startswith(b"Q")
    assert b"slow" not in sent
    assert play.b(error("42601", "syntax error") + READY_E) == CANCELED + READY_E


def test_cancel_while_settings_are_made_ends_the_statement_behind_them() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.broker.free = []
    play.f(query(b"SELECT 1"))
    play.broker.grant(play.link)
    assert play.session.phase == APPLYING
    assert b"work_mem" in play.server.take()
    play.session.cancel()
    assert play.broker.cancelled == []
    play.b(APPLIED)
    assert b"SELECT 1" not in play.server.take()
    assert play.b(error("42601", "syntax error") + READY) == CANCELED + READY
