"""Rules 20 and 27: a server that breaks the protocol loses its connection; nobody gets what it made up."""

import pytest

from proxy.protocol import backend, frontend
from proxy.session.link import MAX_REPLY_BYTES
from proxy.session.relay import CLOSED
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    complete,
    error,
    execute,
    parse,
    query,
    row,
)

BIG = MAX_REPLY_BYTES + 1
NOTICE = b"N\x00\x00\x00\x0dSNOTICE\x00\x00"
ERROR = error("XX000", "out of nowhere")


def frame(tag: bytes, length: int, body: bytes = b"") -> bytes:
    return tag + length.to_bytes(4, "big") + body


def writing() -> Playbook:
    """A statement is under way that is not tried again."""
    play = Playbook(links=2)
    play.f(query(b"INSERT INTO t VALUES (1)"))
    return play


def told(play: Playbook, problem: str) -> None:
    """The connection is gone at once, and its client knows why."""
    said = play.client.take()
    assert b"SFATAL\x00VFATAL\x00C08P01\x00" in said
    assert f'Mnode "pg0" sent {problem}\0'.encode() in said
    assert play.client.is_closed
    assert play.session.phase == CLOSED
    assert play.link.is_closed
    assert play.server.is_closed


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (frame(b"C", 3), "a message with an invalid length"),
        (frame(b"D", 0), "a message with an invalid length"),
        (frame(b"C", BIG), "a message that is too long"),
        (frame(b"C", 0xFFFFFFFF), "a message that is too long"),
        (frame(b"Z", 6, b"IT"), "a malformed ReadyForQuery"),
        (frame(b"Z", 4), "a malformed ReadyForQuery"),
        (frame(b"S", 6, b"a\x00"), "a malformed ParameterStatus"),
        (frame(b"S", 5, b"a"), "a malformed ParameterStatus"),
        (frame(b"W", 7, b"\x00\x00\x00"), "an unexpected message of type 87"),
        (frame(b"R", 8, b"\x00\x00\x00\x03"), "an unexpected message of type 82"),
    ],
)
def test_broken_message_ends_the_connection(sent: bytes, problem: str) -> None:
    play = writing()
    play.from_server(0, sent)
    told(play, problem)


def test_nothing_behind_a_broken_message_is_looked_at() -> None:
    play = writing()
    play.from_server(0, frame(b"W", 4) + complete(b"INSERT 0 1") + READY)
    told(play, "an unexpected message of type 87")


def test_read_is_tried_elsewhere() -> None:
    play = Playbook(links=2)
    play.f(query(b"SELECT a FROM t"))
    assert play.b(frame(b"C", 3)) == b""
    assert play.wire_of(1).take() == query(b"SELECT a FROM t")


@pytest.mark.parametrize(
    "sent",
    [
        READY,
        complete(b"SELECT 1"),
        row(b"1"),
        row(b"x" * 100)[:20],
        frontend.CopyData(b"1\n").encode(),
        backend.copy_in_response(0, []),
        b"1\x00\x00\x00\x04",
        frame(b"y", 4),
    ],
)
def test_what_nobody_asked_for_ends_the_connection(sent: bytes) -> None:
    """In a transaction, between two statements: the client is there, but nothing is owed."""
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.from_server(0, sent)
    assert b"C08P01\x00" in play.client.take()
    assert play.client.is_closed
    assert play.link.is_closed


@pytest.mark.parametrize("sent", [READY, complete(b"SELECT 1"), row(b"x" * 100)[:20]])
def test_what_an_idle_connection_makes_up_reaches_no_later_client(sent: bytes) -> None:
    play = Playbook()
    play.from_server(0, sent)
    assert play.link.is_closed
    assert play.client.take() == b""
    assert not play.client.is_closed


def test_second_ready_for_query_of_one_statement_ends_the_connection() -> None:
    play = Playbook()
    play.f(query(b"SELECT 1"))
    assert play.b(complete(b"SELECT 1") + READY + READY) == complete(b"SELECT 1") + READY
    assert play.link.is_closed


def test_transaction_that_nobody_began_is_not_the_next_clients() -> None:
    play = Playbook(links=2)
    play.f(query(b"SELECT a FROM t"))
    assert play.b(error("25006", "read only") + READY_T) == b""
    assert [link for link, _ in play.broker.discarded] == [play.link]
    assert play.wire_of(1).take() == query(b"SELECT a FROM t")


def test_transaction_in_an_answer_to_the_proxy_is_not_the_next_clients() -> None:
    play = probing()
    assert play.b(complete(b"SELECT 0") + READY_T) == b""
    assert [link for link, _ in play.broker.discarded] == [play.link]
    assert not play.client.is_closed


def test_error_that_nobody_is_owed_is_dropped() -> None:
    """An idle server may say that it will end; the end itself is what counts."""
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    assert play.b(ERROR) == b""
    assert not play.link.is_closed


def test_message_of_no_known_type_is_the_clients_to_judge() -> None:
    play = writing()
    unknown = frame(b"y", 6, b"ab")
    assert play.b(unknown + complete(b"INSERT 0 1") + READY) == (
        unknown + complete(b"INSERT 0 1") + READY
    )


# -- while the proxy asks something of its own


def probing() -> Playbook:
    play = Playbook()
    play.f(query(b"SET work_mem = '1MB'"))
    play.b(complete(b"SET") + READY)
    assert play.server.take().startswith(b"Q")
    return play


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (frame(b"D", 6, b"\x00\x01"), "a malformed row"),
        (frame(b"D", 10, b"\x00\x01\x00\x00\x00\xff"), "a malformed row"),
        (frame(b"D", BIG), "a row that is too long"),
        (frame(b"d", BIG), "a row that is too long"),
        (frame(b"T", BIG), "a message that is too long"),
    ],
)
def test_broken_answer_to_the_proxy_itself(sent: bytes, problem: str) -> None:
    play = probing()
    play.from_server(0, sent)
    told(play, problem)


def test_what_the_proxy_asks_is_not_the_clients_to_see() -> None:
    play = probing()
    columns = backend.row_description([(b"kind", 25, -1, 0)])
    copy = frontend.CopyData(b"1\n").encode()
    answer = columns + NOTICE + row(b"s", b"work_mem", b"1MB") + copy + complete(b"SELECT 1")
    half = len(columns + NOTICE) + 7
    assert play.b(answer[:half]) == b""
    assert play.b(answer[half:] + READY) == b""
    assert play.session.state.desired == {"work_mem": b"1MB"}


def test_error_behind_its_own_rows_fails_the_look() -> None:
    play = probing()
    play.b(row(b"s", b"work_mem", b"1MB") + ERROR + READY)
    assert play.counters.by_cause == {"probe_failed": 1}
    assert play.session.state.pins == ["unknown state"]
    assert play.session.link is play.link


@pytest.mark.parametrize(
    "answer",
    [
        row(b"s", b"work_mem"),
        row(),
        row(b"x", b"work_mem", b"no hex"),
        row(b"x", b"work_mem", b"\xff"),
        row(None, None, None),
        row(b"?", b"\xff", b"\xff"),
    ],
)
def test_answer_that_makes_no_sense_is_unknown_state_or_nothing(answer: bytes) -> None:
    play = probing()
    assert play.b(answer + complete(b"SELECT 1") + READY) == b""
    assert not play.client.is_closed
    assert play.f(query(b"SELECT 1")) != b""


def test_connection_that_ends_while_it_is_cleaned_is_nobodys() -> None:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.session.on_frontend_lost()
    play.from_server(0, frame(b"D", 6, b"\x00\x01"))
    assert play.link.is_closed
    assert play.broker.free == []
    assert play.client.take() == b""


def test_half_a_message_when_the_connection_ends() -> None:
    play = Playbook()
    play.f(query(b"INSERT INTO t VALUES (1)"))
    assert play.b(b"E\x00\x00\x00\x50SFATAL") == b""
    play.link.connection_lost()
    assert b"C08006\x00" in play.client.take()


def test_open_pipeline_that_the_server_ends_by_itself() -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    assert play.b(backend.PARSE_COMPLETE + READY) == backend.PARSE_COMPLETE + READY
    # Its next message belongs to another group for the server, and for the client.
    assert not play.client.is_closed
    assert play.broker.free == [play.link]
    play.f(execute() + frontend.SYNC)
    assert play.session.link is play.link


def test_a_reply_to_what_was_answered_by_the_proxy_ends_the_connection() -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT a FROM t") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    assert play.f(parse(b"b", b"SELECT a FROM t") + frontend.SYNC) == frontend.SYNC
    play.from_server(0, backend.PARSE_COMPLETE + READY)
    told(play, "a reply that nobody asked for")
