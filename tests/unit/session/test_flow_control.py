"""Rule 7: who is too fast is paused, on both sides, and reads on when the other has caught up."""

import pytest

from proxy.protocol import frontend
from proxy.routing.route import READ
from proxy.session.relay import READ_AHEAD_BYTES
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    complete,
    parse,
    query,
    row,
)

LONG = query(b"SELECT '" + b"x" * (READ_AHEAD_BYTES + 10) + b"'")


def test_slow_client_pauses_its_server_until_it_has_caught_up() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    play.session.on_frontend_full()
    assert play.server.is_paused
    # What was read already is not lost.
    assert play.b(row(b"1")) == row(b"1")
    play.session.on_frontend_drained()
    assert not play.server.is_paused


def test_slow_client_gets_no_further_statement_run() -> None:
    play = Playbook()
    play.session.on_frontend_full()
    assert play.f(query(b"SELECT 1")) == b""
    play.session.on_frontend_drained()
    assert play.server.take() == query(b"SELECT 1")
    assert not play.server.is_paused


def test_next_server_connection_of_a_slow_client_is_paused_too() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    play.session.on_frontend_full()
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.server.is_paused


def test_connection_that_goes_back_is_slowed_by_nobody() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    play.session.on_frontend_full()
    play.session.on_backend_full()
    assert play.client.is_paused
    play.b(complete(b"SELECT 1") + READY)
    assert play.broker.free == [play.link]
    assert not play.server.is_paused
    assert not play.client.is_paused


def test_connection_of_a_client_that_left_is_read_again() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.session.on_frontend_full()
    play.session.on_frontend_lost()
    assert not play.server.is_paused


def test_slow_server_pauses_its_client() -> None:
    play = Playbook()
    play.f(query(b"COPY t FROM STDIN"))
    play.b(b"G\x00\x00\x00\x07\x00\x00\x00")
    play.session.on_backend_full()
    assert play.client.is_paused
    play.session.on_backend_drained()
    assert not play.client.is_paused


def test_client_far_ahead_is_not_read_because_the_server_has_caught_up() -> None:
    play = Playbook()
    play.f(query(b"SELECT 1"))
    play.session.on_backend_full()
    play.f(LONG)
    play.session.on_backend_drained()
    assert play.client.is_paused
    play.b(complete(b"SELECT 1") + READY)
    assert not play.client.is_paused


def test_client_is_not_read_for_a_slow_server_because_it_is_no_longer_ahead() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.f(LONG)
    play.session.on_backend_full()
    play.b(complete(b"BEGIN") + READY_T)
    assert play.server.take() == LONG
    assert play.client.is_paused
    play.session.on_backend_drained()
    assert not play.client.is_paused


@pytest.mark.parametrize("phase", ["waiting", "starting"])
def test_client_that_waits_is_held_when_it_sends_far_ahead(phase: str) -> None:
    play = Playbook(links=0, is_greeted=phase == "waiting")
    if phase == "starting":
        play.session.start()
    else:
        play.session.receive_from_frontend(query(b"SELECT 1"))
    play.session.receive_from_frontend(LONG)
    assert play.client.is_paused
    play.session.receive_from_frontend(b"")
    assert play.client.is_paused
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    if phase == "waiting":
        play.b(complete(b"SELECT 1") + READY)
    assert not play.client.is_paused
    assert play.server.take().endswith(LONG)


def test_slow_client_that_moves_to_another_connection_leaves_the_first_one_readable() -> None:
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT a FROM t") + frontend.FLUSH)
    assert play.broker.routes == [READ]
    play.b(b"1\x00\x00\x00\x04")
    play.session.on_frontend_full()
    assert play.server.is_paused
    play.f(parse(b"", b"DELETE FROM t") + b"B\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00")
    play.f(frontend.SYNC)
    assert not play.server.is_paused
    assert play.wire_of(1).is_paused
