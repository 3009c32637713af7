"""What statements are given that wait for a database to be left."""

from proxy.protocol import tags
from proxy.server.frontend import FrontendConnection
from proxy.server.sweep import sweep
from proxy.settings.model import Pool
from tests.support.playbook import READY, Playbook, complete, query


def left_for(play: Playbook, running_us: int) -> list[str]:
    """Which databases are left when the client's statement has run for so long."""
    left: list[str] = []
    connection = FrontendConnection(lambda connection: None)
    connection.session = play.session
    exchange = play.session.exchange
    started_us = play.clock.time_us if exchange is None else exchange.started_us
    sweep([connection], Pool(), [], started_us + running_us, left.append)
    return left


def test_a_database_is_left_while_the_server_waits_for_that() -> None:
    play = Playbook()
    play.f(query(b"DROP DATABASE one; DROP DATABASE two"))
    # Who may not drop it was refused by then.
    assert left_for(play, 90_000) == []
    assert left_for(play, 110_000) == ["one", "two"]
    assert left_for(play, 5_000_000) == ["one", "two"]
    assert left_for(play, 6_100_000) == []
    play.b(complete(b"DROP DATABASE") + READY)
    assert play.session.status == tags.STATUS_IDLE
    assert left_for(play, 200_000) == []


def test_nothing_is_left_for_who_waits_for_a_connection_or_for_anything_else() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"DROP DATABASE one"))
    assert left_for(play, 200_000) == []
    play = Playbook()
    play.f(query(b"SELECT 1"))
    assert left_for(play, 200_000) == []
