"""Rules 13, 39 and 40: what is run again unseen, where, and what must never be."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.routing.route import READ, WRITE
from proxy.session.relay import CLOSED, WAITING
from proxy.session.tuning import POOL_SESSION
from tests.support.playbook import (
    READY,
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

READ_ONLY = error("25006", "cannot execute INSERT in a read-only transaction")
STALE = error("0A000", "cached plan must not change result type")
GONE = error("26000", 'prepared statement "headgate_1" does not exist')
SERIALIZABLE = error("0A000", "cannot use serializable mode in a hot standby")
SELECT = query(b"SELECT a FROM t")
ROWS = backend.row_description([(b"a", 25, -1, 0)]) + row(b"1") + complete(b"SELECT 1")
RUN = bind(b"s") + describe(b"", frontend.PORTAL) + execute() + frontend.SYNC
REPLIES = backend.BIND_COMPLETE + ROWS + READY


def pinned(play: Playbook) -> None:
    """The client has something on its server connection that cannot be elsewhere."""
    play.f(query(b"LISTEN channel"))
    play.b(complete(b"LISTEN") + READY)
    play.server.take()
    play.b(row(b"p", b"LISTEN", b"") + complete(b"SELECT 1") + READY)
    assert play.session.link is play.link


def prepare(play: Playbook) -> None:
    play.f(parse(b"s", b"SELECT a FROM t") + frontend.SYNC)
    assert play.b(backend.PARSE_COMPLETE + READY) == backend.PARSE_COMPLETE + READY


# -- a read that a standby cannot serve


@pytest.mark.parametrize("failure", [READ_ONLY, SERIALIZABLE])
def test_read_that_turns_out_to_write_is_run_on_the_primary(failure: bytes) -> None:
    play = Playbook(links=2)
    play.f(SELECT)
    assert play.broker.routes == [READ]
    assert play.b(failure) == b""
    assert play.b(READY) == b""
    assert play.broker.routes == [READ, WRITE]
    assert play.broker.demoted_links == []
    # The connections are told apart by their wires only: it may be the same one.
    link = play.session.link
    assert link is not None
    assert play.wire_of(play.links.index(link)).take() == SELECT
    link.receive_from_backend(ROWS + READY)
    assert play.client.take() == ROWS + READY


def test_primary_may_have_to_be_waited_for() -> None:
    play = Playbook()
    play.f(SELECT)
    play.b(READ_ONLY)
    play.broker.is_empty = True
    play.b(READY)
    assert play.client.take() == b""
    assert play.session.phase == WAITING
    play.broker.grant(play.link)
    assert play.server.take() == SELECT


def test_second_failure_is_the_clients() -> None:
    play = Playbook()
    play.f(SELECT)
    play.b(READ_ONLY + READY)
    assert play.server.take() == SELECT
    assert play.b(READ_ONLY + READY) == READ_ONLY + READY
    assert play.broker.demoted_links == [play.link]


def test_rule_39_write_that_a_primary_refuses_tells_of_a_demotion() -> None:
    play = Playbook()
    play.f(query(b"INSERT INTO t VALUES (1)"))
    assert play.b(READ_ONLY + READY) == READ_ONLY + READY
    assert play.broker.demoted_links == [play.link]


def test_nothing_is_run_again_once_the_client_has_seen_a_row() -> None:
    play = Playbook()
    play.f(SELECT)
    play.b(row(b"1"))
    assert play.b(READ_ONLY + READY).endswith(READ_ONLY + READY)
    assert play.broker.routes == [READ]


def test_rule_40_nothing_is_run_again_in_a_transaction() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.f(SELECT)
    assert play.b(READ_ONLY) == READ_ONLY


def test_nothing_is_run_again_in_an_open_pipeline() -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT a FROM t") + frontend.FLUSH)
    assert play.b(READ_ONLY) == READ_ONLY


# -- a plan that is stale


@pytest.mark.parametrize("failure", [STALE, GONE])
def test_stale_statement_is_prepared_anew_on_the_same_connection(failure: bytes) -> None:
    play = Playbook()
    prepare(play)
    play.f(RUN)
    assert play.b(failure + READY) == b""
    again = play.server.take()
    assert b"SELECT a FROM t" in again
    closed = backend.CLOSE_COMPLETE if again.startswith(b"C") else b""
    assert play.b(closed + backend.PARSE_COMPLETE + REPLIES) == REPLIES
    assert play.broker.free == [play.link]


@pytest.mark.parametrize("mode", ["pinned", "session"])
def test_client_keeps_the_connection_that_its_session_is_on(mode: str) -> None:
    """Another client would get what is on it, and this one would lose it."""
    play = Playbook(mode=POOL_SESSION, links=2) if mode == "session" else Playbook(links=2)
    if mode == "pinned":
        pinned(play)
    prepare(play)
    routes = list(play.broker.routes)
    play.f(RUN)
    assert play.b(STALE + READY) == b""
    assert play.session.link is play.link
    assert play.broker.routes == routes
    assert play.link not in play.broker.free
    again = play.server.take()
    assert b"SELECT a FROM t" in again
    assert again.endswith(frontend.SYNC)


def test_stale_read_is_prepared_anew_where_it_is() -> None:
    play = Playbook(links=2)
    prepare(play)
    play.broker.routes.clear()
    play.f(RUN)
    play.b(STALE + READY)
    assert play.broker.routes == [READ]
    assert play.session.link is play.link


# -- a connection that is lost


def test_rule_40_read_is_run_again_elsewhere() -> None:
    play = Playbook(links=2)
    play.f(SELECT)
    play.link.connection_lost()
    assert play.client.take() == b""
    assert play.wire_of(1).take() == SELECT
    assert play.counters.by_cause == {"retried_after_loss": 1}


def test_lost_connection_of_a_read_slows_its_client_no_more() -> None:
    play = Playbook(links=2)
    play.f(SELECT)
    play.session.on_backend_full()
    play.link.connection_lost()
    assert not play.client.is_paused


def test_rule_40_read_that_was_half_answered_is_lost() -> None:
    play = Playbook(links=2)
    play.f(SELECT)
    play.b(row(b"1"))
    play.link.connection_lost()
    assert b"C08006\x00" in play.client.take()
    assert play.client.is_closed


def test_connection_lost_between_transactions_of_a_pinned_client_is_told() -> None:
    play = Playbook()
    pinned(play)
    play.link.connection_lost()
    assert b"C08006\x00" in play.client.take()
    assert play.session.phase == CLOSED


def test_connection_lost_while_it_was_looked_at_is_told() -> None:
    """What the client has set there is not known elsewhere."""
    play = Playbook()
    play.f(query(b"SET work_mem = '1MB'"))
    play.b(complete(b"SET") + READY)
    play.link.connection_lost()
    assert b"C08006\x00" in play.client.take()
    assert play.session.phase == CLOSED


def test_last_words_of_the_server_are_the_clients_end() -> None:
    play = Playbook()
    play.f(query(b"INSERT INTO t VALUES (1)"))
    said = backend.error_response(
        Refusal("57P01", "terminating connection", "why", "and what to do", "FATAL")
    )
    assert play.b(said) == b""
    play.link.connection_lost()
    assert play.client.take() == said


def test_loss_after_the_end_of_the_session_is_nobodys() -> None:
    play = Playbook()
    play.f(SELECT)
    play.session.on_frontend_lost()
    play.session.on_link_lost(play.link, Refusal("08006", "gone"))
    assert play.client.take() == b""
