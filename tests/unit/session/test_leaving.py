"""Rules 20 and 25: who leaves, or is sent away, leaves nothing behind, whatever was going on."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend, tags
from proxy.session.relay import APPLYING, CLOSED, IDLE, PROBING
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
    fatal,
    parse,
    query,
    row,
)

MANY_ROWS = backend.row_description([(b"a", 25, -1, 0)]) + row(b"x" * 100)
SHUTDOWN = fatal("57P01", "terminating connection due to administrator command")
TIMEOUT = Refusal("25P03", "terminating connection due to idle-in-transaction timeout")


def discarded(play: Playbook) -> list[str]:
    return [reason for link, reason in play.broker.discarded if link is play.link]


def test_idle_client_leaves_its_server_connection_where_it_is() -> None:
    play = Playbook()
    play.f(query(b"SELECT 1"))
    play.b(complete(b"SELECT 1") + READY)
    play.session.on_frontend_lost()
    assert play.session.phase == CLOSED
    assert play.broker.free == [play.link]
    assert play.server.take() == b""


@pytest.mark.parametrize("ready", [READY_T, READY_E])
def test_transaction_is_rolled_back(ready: bytes) -> None:
    play = Playbook()
    play.f(query(b"BEGIN; SELECT 1"))
    play.b(complete(b"BEGIN") + complete(b"SELECT 1") + ready)
    play.session.on_frontend_lost()
    assert play.server.take() == query(b"ROLLBACK")
    assert play.broker.free == []
    assert play.b(complete(b"ROLLBACK") + READY) == b""
    assert play.broker.free == [play.link]


def test_what_a_transaction_may_have_left_is_discarded_with_it() -> None:
    play = Playbook()
    play.f(query(b"BEGIN; SET work_mem = '1MB'"))
    play.b(complete(b"BEGIN") + complete(b"SET") + READY_T)
    play.link.prepared[b"key"] = b"headgate_1"
    play.session.on_frontend_lost()
    assert play.server.take() == query(b"ROLLBACK")
    play.b(complete(b"ROLLBACK") + READY)
    assert play.server.take() == query(b"DISCARD ALL")
    assert play.broker.free == []
    play.b(complete(b"DISCARD ALL") + READY)
    assert play.broker.free == [play.link]
    assert play.link.prepared == {}
    assert not play.link.is_touched


def test_connection_that_cannot_be_cleaned_is_closed() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.session.on_frontend_lost()
    play.b(error("XX000", "no") + READY_T)
    assert discarded(play) == ["it could not be cleaned after its client left"]
    assert play.broker.free == []


def test_session_pooling_discards_all_of_the_session() -> None:
    play = Playbook(mode=POOL_SESSION)
    play.f(query(b"SELECT 1"))
    play.b(complete(b"SELECT 1") + READY)
    assert play.broker.free == []
    play.session.on_frontend_lost()
    assert play.server.take() == query(b"DISCARD ALL")
    play.b(complete(b"DISCARD ALL") + READY)
    assert play.broker.free == [play.link]


def test_pinned_session_is_discarded_too() -> None:
    play = Playbook()
    play.f(query(b"LISTEN channel"))
    play.b(complete(b"LISTEN") + READY)
    play.server.take()
    play.b(row(b"p", b"LISTEN", b"") + complete(b"SELECT 1") + READY)
    assert play.session.state.pins == ["LISTEN"]
    play.session.on_frontend_lost()
    assert play.server.take() == query(b"DISCARD ALL")


@pytest.mark.parametrize("end", [b"", complete(b"LOAD") + READY_T])
def test_library_cannot_be_discarded(end: bytes) -> None:
    play = Playbook()
    play.f(query(b"BEGIN; LOAD 'x'"))
    play.b(complete(b"BEGIN"))
    play.b(end)
    play.session.on_frontend_lost()
    assert play.link.is_closed
    assert len(discarded(play)) == 1


def test_client_that_leaves_in_the_middle_of_a_result_has_it_cancelled() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    play.b(MANY_ROWS[:-50])
    play.session.on_frontend_lost()
    assert play.broker.cancelled == [play.link]
    assert discarded(play) == ["client left in the middle of an exchange"]
    assert play.counters.by_cause == {"client_left_in_exchange": 1}
    # What still comes goes to nobody.
    play.from_server(0, MANY_ROWS[-50:] + complete(b"SELECT 1"))
    assert play.client.take() == b""
    play.from_server(0, READY)
    assert play.client.take() == b""
    assert play.broker.free == []


def test_client_that_leaves_in_the_middle_of_a_copy_leaves_a_closed_connection() -> None:
    play = Playbook()
    play.f(query(b"COPY t FROM STDIN"))
    play.b(b"G\x00\x00\x00\x07\x00\x00\x00")
    play.f(b"d\x00\x00\x01\x00abc")
    play.session.on_frontend_lost()
    assert play.link.is_closed
    assert play.broker.free == []


def test_client_that_says_goodbye_is_closed() -> None:
    play = Playbook()
    assert play.f(frontend.TERMINATE) == b""
    assert play.client.is_closed
    assert play.session.phase == CLOSED
    assert play.client.take() == b""


def test_goodbye_behind_a_transaction_rolls_it_back() -> None:
    play = Playbook()
    play.f(query(b"BEGIN") + frontend.TERMINATE + query(b"COMMIT"))
    play.b(complete(b"BEGIN") + READY_T)
    assert play.client.is_closed
    assert play.server.take() == query(b"ROLLBACK")


def test_goodbye_in_the_middle_of_a_copy_ends_it_unfinished() -> None:
    play = Playbook()
    play.f(query(b"COPY t FROM STDIN"))
    play.b(b"G\x00\x00\x00\x07\x00\x00\x00")
    play.session.receive_from_frontend(b"d\x00\x00\x00\x061\n" + frontend.TERMINATE)
    assert play.client.is_closed
    assert play.link.is_closed
    assert discarded(play) == ["client left in the middle of an exchange"]


def test_client_that_leaves_while_its_settings_are_made() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(query(b"SELECT 1"))
    assert play.session.phase == APPLYING
    play.session.on_frontend_lost()
    assert play.link.is_closed
    play.from_server(0, row(b"t") + complete(b"SELECT 1") + READY)
    assert play.client.take() == b""
    assert play.broker.free == []


def test_client_that_leaves_while_its_session_is_looked_at() -> None:
    play = Playbook()
    play.f(query(b"SET work_mem = '1MB'"))
    play.b(complete(b"SET") + READY)
    assert play.session.phase == PROBING
    play.session.on_frontend_lost()
    assert play.link.is_closed
    play.from_server(0, row(b"s", b"work_mem", b"1MB") + complete(b"SELECT 1") + READY)
    assert play.session.phase == CLOSED
    assert play.session.state.desired == {}


def test_client_that_leaves_while_it_waits_is_forgotten() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    play.session.on_frontend_lost()
    assert play.broker.waiting is None


def test_connection_that_comes_too_late_goes_back() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    play.session.on_frontend_lost()
    link = play.new_link()
    play.session.on_backend(link)
    assert play.broker.free == [link]


def test_leaving_twice_is_leaving_once() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.session.on_frontend_lost()
    play.session.on_frontend_lost()
    play.session.fatal(Refusal("57P01", "too late"))
    assert play.server.take() == query(b"ROLLBACK")
    assert play.client.take() == b""


def test_closed_session_reads_and_answers_nothing() -> None:
    play = Playbook()
    play.session.on_frontend_lost()
    assert play.f(query(b"SELECT 1")) == b""
    assert play.counters.bytes_from_clients == 0
    play.session.cancel()
    play.session.drain()
    assert play.client.take() == b""
    assert play.broker.cancelled == []


def test_connection_that_is_lost_already_is_not_cleaned() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.link.close("the pool is closed")
    play.server.take()
    play.session.on_frontend_lost()
    assert play.server.take() == b""
    assert play.broker.discarded == []


# -- sent away


def test_fatal_error_is_told_and_ends_the_session() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.session.fatal(TIMEOUT)
    assert play.client.take() == fatal("25P03", TIMEOUT.message)
    assert play.client.is_closed
    assert play.counters.sqlstates == {"25P03": 1}
    assert play.server.take() == query(b"ROLLBACK")


def test_behind_half_a_row_nothing_can_be_told() -> None:
    """The client would take the error for the other half."""
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    assert play.b(MANY_ROWS[:-50]) == MANY_ROWS[:-50]
    play.session.fatal(Refusal("57P01", "shutdown"))
    assert play.client.take() == b""
    assert play.client.is_closed
    assert play.link.is_closed


def test_idle_client_is_told_of_a_shutdown_at_once() -> None:
    play = Playbook()
    play.session.drain()
    assert play.client.take() == SHUTDOWN
    assert play.client.is_closed


@pytest.mark.parametrize("is_touched", [False, True])
def test_statement_under_way_ends_before_a_shutdown(is_touched: bool) -> None:
    play = Playbook()
    play.f(query(b"SET work_mem = '1MB'" if is_touched else b"SELECT 1"))
    play.session.drain()
    assert play.client.take() == b""
    done = complete(b"DONE") + READY
    if is_touched:
        assert play.b(done) == done
        assert play.b(complete(b"SELECT 0") + READY) == SHUTDOWN
    else:
        assert play.b(done) == done + SHUTDOWN
    assert play.client.is_closed
    assert play.broker.free == [play.link]


def test_transaction_ends_before_a_shutdown() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.session.drain()
    assert play.client.take() == b""
    play.f(query(b"SELECT 1"))
    assert play.b(complete(b"SELECT 1") + READY_T) == complete(b"SELECT 1") + READY_T
    play.f(query(b"COMMIT"))
    assert play.b(complete(b"COMMIT") + READY) == complete(b"COMMIT") + READY + SHUTDOWN
    assert play.session.status == tags.STATUS_IDLE


def test_pipeline_ends_before_a_shutdown() -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    play.session.drain()
    play.b(backend.PARSE_COMPLETE)
    play.f(bind(b"") + execute() + frontend.SYNC)
    replies = backend.BIND_COMPLETE + complete(b"SELECT 1") + READY
    assert play.b(replies) == replies + SHUTDOWN


def test_session_pooling_ends_behind_the_transaction_too() -> None:
    play = Playbook(mode=POOL_SESSION)
    play.f(query(b"SELECT 1"))
    play.session.drain()
    assert play.b(complete(b"SELECT 1") + READY).endswith(READY + SHUTDOWN)
    assert play.server.take() == query(b"DISCARD ALL")


def test_client_that_waits_when_a_shutdown_begins_is_still_served() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    play.session.drain()
    assert play.client.take() == b""
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY + SHUTDOWN
    assert play.session.phase != IDLE
