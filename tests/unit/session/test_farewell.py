"""A server that ends its connections says so first: reads go on elsewhere, the client hears nothing."""

import pytest

from proxy.protocol import backend, tags
from proxy.routing import route
from tests.support.playbook import READY, Playbook, bind, complete, error, execute, parse, query

CRASH = "terminating connection because of crash of another server process"
READ = query(b"SELECT a FROM t")
ROWS = (
    backend.row_description([(b"a", 25, -1, 0)]) + backend.data_row([b"1"]) + complete(b"SELECT 1")
)


def farewell(sqlstate: str = "57P02") -> bytes:
    fields = (
        b"SWARNING\x00VWARNING\x00C" + sqlstate.encode() + b"\x00M" + CRASH.encode() + b"\x00\x00"
    )
    return bytes([tags.NOTICE_RESPONSE]) + (len(fields) + 4).to_bytes(4, "big") + fields


def lose(play: Playbook, number: int) -> bytes:
    play.links[number].connection_lost()
    return play.client.take()


def test_read_is_run_again_although_the_server_has_warned() -> None:
    play = Playbook(links=2)
    play.f(READ)
    assert play.b(farewell()) == b""
    assert lose(play, 0) == b""
    assert play.links[1].wire.take() == READ  # type: ignore[attr-defined]
    play.from_server(1, ROWS + READY)
    assert play.client.take() == ROWS + READY
    assert play.broker.crashed_links == [play.links[0]]


def test_read_of_a_pipeline_too() -> None:
    play = Playbook(links=2)
    sent = parse(b"", b"SELECT a FROM t") + bind(b"") + execute() + b"S\x00\x00\x00\x04"
    play.f(sent)
    assert play.b(farewell()) == b""
    assert lose(play, 0) == b""
    assert b"SELECT a FROM t" in play.links[1].wire.take()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("sqlstate", "losses"), [("57P01", 2), ("57P02", 4), ("", 2)])
def test_number_of_tries_is_limited(sqlstate: str, losses: int) -> None:
    """More where the server says that another one was the reason."""
    play = Playbook(links=6)
    play.f(READ)
    said = b""
    for number in range(losses):
        assert said == b""
        if sqlstate:
            play.from_server(number, farewell(sqlstate))
        said = lose(play, number)
    # The last try of all is at the primary.
    assert play.broker.routes == [route.READ, route.READ, route.READ, route.WRITE][:losses]
    assert sqlstate.encode() in said
    assert b"FATAL" in said
    assert play.client.is_closed


def test_loss_without_a_word_counts_as_a_crash_where_others_are_lost_too() -> None:
    """What the server has said is lost with the connection if it had not read everything."""
    play = Playbook(links=4)
    play.f(READ)
    assert lose(play, 0) == b""
    assert play.broker.crashed_links == []
    play.broker.losing_links = play.links[1:]
    assert lose(play, 1) == b""
    assert lose(play, 2) == b""
    assert play.broker.crashed_links == play.links[1:3]
    assert b"C08006\x00" in lose(play, 3)


def test_who_is_ended_twice_by_an_operator_is_not_tried_again() -> None:
    play = Playbook(links=4)
    play.broker.losing_links = play.links
    play.f(READ)
    play.b(farewell("57P01"))
    assert lose(play, 0) == b""
    play.from_server(1, farewell("57P01"))
    assert b"C57P01\x00" in lose(play, 1)


def test_write_is_not_run_again_and_the_client_is_told_why() -> None:
    play = Playbook(links=2)
    play.f(query(b"INSERT INTO t VALUES (1)"))
    play.b(farewell())
    said = lose(play, 0)
    assert b"57P02" in said
    assert CRASH.encode() in said
    assert play.links[1].wire.take() == b""  # type: ignore[attr-defined]


def test_same_words_of_a_server_that_goes_on_are_handed_on_in_their_order() -> None:
    play = Playbook()
    play.f(READ)
    assert play.b(farewell()) == b""
    assert play.b(ROWS[:3]) == farewell()
    assert play.b(ROWS[3:] + READY) == ROWS + READY
    play.f(READ)
    assert play.b(farewell() + ROWS + READY) == farewell() + ROWS + READY


def test_half_of_another_warning_is_no_reason() -> None:
    play = Playbook()
    play.f(query(b"INSERT INTO t VALUES (1)"))
    assert play.b(farewell("01000")[:-1]) == b""
    assert b"C08006\x00" in lose(play, 0)


def test_other_warnings_are_not_held_back() -> None:
    play = Playbook()
    play.f(READ)
    assert play.b(farewell("01000")) == farewell("01000")
    assert play.b(error("22012", "division by zero") + READY).endswith(READY)


@pytest.mark.parametrize(("sent", "is_left"), [(READ, True), (query(b"DELETE FROM t"), False)])
def test_reads_leave_a_node_that_does_not_answer(sent: bytes, is_left: bool) -> None:
    play = Playbook(links=2)
    play.session.leave_node()
    play.f(sent)
    play.session.leave_node()
    assert play.server.is_closed == is_left


def test_read_that_is_half_answered_stays() -> None:
    play = Playbook(links=2)
    play.f(READ)
    play.b(ROWS)
    play.session.leave_node()
    assert not play.server.is_closed


def test_read_is_run_again_although_part_of_its_reply_had_come() -> None:
    play = Playbook(links=2)
    play.f(READ)
    assert play.b(ROWS + farewell()) == b""
    assert lose(play, 0) == b""
    assert play.links[1].wire.take() == READ  # type: ignore[attr-defined]
    play.from_server(1, ROWS + READY)
    assert play.client.take() == ROWS + READY


def test_what_came_before_a_farewell_is_told_where_it_cannot_be_tried_again() -> None:
    play = Playbook(links=2)
    play.f(query(b"INSERT INTO t VALUES (1)"))
    done = complete(b"INSERT 0 1")
    assert play.b(done + farewell()) == b""
    said = lose(play, 0)
    assert said.startswith(done)
    assert b"C57P02\x00" in said
    assert play.client.is_closed


def test_what_came_before_a_farewell_that_was_none_is_told_in_its_turn() -> None:
    play = Playbook()
    play.f(READ)
    assert play.b(ROWS + farewell()) == b""
    assert play.b(READY) == ROWS + farewell() + READY
