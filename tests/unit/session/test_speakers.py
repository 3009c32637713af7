"""Notifications name clients, as far as it is known whom a server process has served."""

from proxy.session import speakers
from tests.support.playbook import Playbook, complete, query
from tests.support.wire import message


def notification(process_id: int) -> bytes:
    return message(b"A", process_id.to_bytes(4, "big") + b"here\x00payload\x00")


def test_process_that_served_a_client_is_named_by_its_key() -> None:
    speaker = speakers.enter("a", 7)
    assert speakers.named(notification(7), "a") == notification(7)
    speaker.client_id = 99
    assert speakers.named(notification(7), "a") == notification(99)
    assert speakers.named(notification(7), "b") == notification(7)
    assert speakers.named(notification(8), "a") == notification(8)
    speakers.leave(speaker)
    speakers.leave(speaker)
    assert speakers.named(notification(7), "a") == notification(7)


def test_end_of_an_older_connection_is_not_the_end_of_a_newer() -> None:
    older = speakers.enter("a", 7)
    newer = speakers.enter("a", 7)
    newer.client_id = 5
    speakers.leave(older)
    assert speakers.named(notification(7), "a") == notification(5)
    speakers.leave(newer)


def test_too_short_a_message_stays_as_it_is() -> None:
    assert speakers.named(b"A\x00\x00\x00\x04", "a") == b"A\x00\x00\x00\x04"


def test_order_among_other_replies_is_kept() -> None:
    play = Playbook()
    play.f(query(b"LISTEN here"))
    before, behind = complete(b"LISTEN"), complete(b"SELECT 1")
    raw = before + notification(100) + behind
    play.link.speaker.client_id = 4711
    assert play.b(raw) == before + notification(4711) + behind
    play.link.close("the end")
    assert speakers.named(notification(100), "pg0") == notification(100)
