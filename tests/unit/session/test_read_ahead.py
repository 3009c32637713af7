"""A client that sends ahead is held, and is read again as soon as only its own bytes can help."""

from proxy.protocol import backend, frontend
from proxy.session.relay import READ_AHEAD_BYTES
from tests.support.playbook import READY, Playbook, bind, complete, execute, parse, query

LONG_QUERY = query(b"SELECT '" + b"x" * (2 * READ_AHEAD_BYTES) + b"'")


def test_client_is_held_while_it_is_far_ahead() -> None:
    play = Playbook()
    play.f(query(b"SELECT 1"))
    for _ in range(3):
        assert not play.client.is_paused
        play.f(query(b"SELECT '" + b"x" * (READ_AHEAD_BYTES // 3) + b"'"))
    play.f(query(b"SELECT 3"))
    assert play.client.is_paused
    for _ in range(4):
        play.b(complete(b"SELECT 1") + READY)
    assert not play.client.is_paused


def test_half_a_long_message_behind_an_exchange_is_read_on() -> None:
    """Held while busy, a message longer than the limit can only be finished by reading on."""
    play = Playbook()
    play.f(query(b"SELECT 1"))
    half = len(LONG_QUERY) - 100
    play.f(LONG_QUERY[:half])
    assert play.client.is_paused
    play.b(complete(b"SELECT 1") + READY)
    assert not play.client.is_paused
    assert play.f(LONG_QUERY[half:]) == LONG_QUERY
    assert play.b(complete(b"SELECT 1") + READY).endswith(READY)


def test_half_a_long_message_in_an_open_exchange_is_read_on() -> None:
    play = Playbook()
    long_parse = parse(b"", b"SELECT '" + b"x" * (2 * READ_AHEAD_BYTES) + b"'")
    play.f(parse(b"", b"LOCK t") + frontend.FLUSH + long_parse[: len(long_parse) - 100])
    play.b(backend.PARSE_COMPLETE)
    assert not play.client.is_paused
    rest = long_parse[len(long_parse) - 100 :] + bind(b"") + execute() + frontend.SYNC
    assert play.f(rest).startswith(long_parse)


def test_slow_client_stays_held_until_it_has_caught_up() -> None:
    play = Playbook()
    play.f(query(b"SELECT 1"))
    play.session.on_frontend_full()
    play.f(query(b"SELECT '" + b"x" * (2 * READ_AHEAD_BYTES) + b"'"))
    play.b(complete(b"SELECT 1") + READY)
    assert play.client.is_paused
    play.session.on_frontend_drained()
    assert not play.client.is_paused
