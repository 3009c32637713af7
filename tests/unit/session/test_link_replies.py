"""Rules 1, 3 and 26: replies in the order in which they are owed, whatever comes in between."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend, tags
from proxy.session.relay import APPLYING, IDLE
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    bind,
    close,
    complete,
    describe,
    error,
    execute,
    parse,
    query,
    row,
)

NOTICE = backend.notice_response(Refusal("00000", "by the way", severity="NOTICE"))
NOTIFICATION = b"A\x00\x00\x00\x0f\x00\x00\x00\x07ch\x00yes\x00"
COLUMNS = backend.row_description([(b"a", 25, -1, 0)])
LONG_ROW = row(b"x" * 10_000)


def prepared() -> Playbook:
    play = Playbook()
    play.f(parse(b"s", b"SELECT a FROM t") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    return play


def in_transaction() -> Playbook:
    play = Playbook()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    return play


# -- how messages come


def test_long_row_streams_in_pieces() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    assert play.b(COLUMNS + LONG_ROW[:100]) == COLUMNS + LONG_ROW[:100]
    assert play.link.is_mid_message()
    assert play.b(LONG_ROW[100:200]) == LONG_ROW[100:200]
    assert play.b(LONG_ROW[200:]) == LONG_ROW[200:]
    assert not play.link.is_mid_message()
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY


def test_end_of_a_row_and_what_follows_come_together() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    play.b(COLUMNS + LONG_ROW[:100])
    rest = LONG_ROW[100:] + row(b"2") + complete(b"SELECT 2") + READY
    assert play.b(rest) == rest
    assert play.session.phase == IDLE


def test_other_message_is_whole_before_it_goes_on() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    for byte in COLUMNS[:-1]:
        assert play.b(bytes([byte])) == b""
    assert play.b(COLUMNS[-1:]) == COLUMNS


def test_goodbye_is_said_once() -> None:
    play = Playbook()
    play.link.close("idle for too long")
    play.link.close("and again")
    assert play.server.take() == frontend.TERMINATE
    assert play.link.close_reason == "idle for too long"


# -- asynchronous messages


@pytest.mark.parametrize("message", [NOTICE, NOTIFICATION])
def test_messages_between_replies_keep_their_place(message: bytes) -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t"))
    replies = COLUMNS + message + row(b"1") + message + complete(b"SELECT 1") + message + READY
    assert play.b(replies) == replies


@pytest.mark.parametrize("message", [NOTICE, NOTIFICATION])
def test_messages_between_statements_reach_whose_connection_it_is(message: bytes) -> None:
    play = in_transaction()
    assert play.b(message) == message


@pytest.mark.parametrize("message", [NOTICE, NOTIFICATION])
def test_rule_26_idle_connection_may_speak_and_stays(message: bytes) -> None:
    play = Playbook()
    assert play.b(message) == b""
    assert not play.link.is_closed
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")


def test_rule_26_idle_connection_that_is_ended_tells_nobody() -> None:
    play = Playbook()
    assert play.b(backend.error_response(Refusal("57P01", "shutdown", severity="FATAL"))) == b""
    play.link.connection_lost()
    assert play.client.take() == b""
    assert not play.client.is_closed


def test_setting_that_an_idle_connection_reports_is_told_to_its_next_client() -> None:
    play = Playbook()
    told = backend.parameter_status(b"TimeZone", b"UTC")
    assert play.b(told) == b""
    play.f(query(b"SELECT 1"))
    assert play.client.take() == told
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY
    play.f(query(b"SELECT 1"))
    assert play.client.take() == b""


def test_notification_for_the_client_does_not_wait_for_the_proxys_own_question() -> None:
    play = Playbook()
    play.f(query(b"LISTEN ch"))
    play.b(complete(b"LISTEN") + READY)
    assert play.b(NOTIFICATION) == NOTIFICATION
    assert play.b(NOTICE) == b""
    play.looked_at(row(b"p", b"LISTEN", b""))
    assert play.session.state.pins == ["LISTEN"]


def test_notification_on_a_connection_that_is_being_cleaned_is_nobodys() -> None:
    play = in_transaction()
    play.session.on_frontend_lost()
    assert play.b(NOTIFICATION + complete(b"ROLLBACK") + READY) == b""
    assert play.broker.free == [play.link]


def test_last_words_behind_a_reply_are_kept_for_the_end() -> None:
    play = Playbook()
    play.f(query(b"SELECT a FROM t; DELETE FROM t"))
    words = backend.notice_response(Refusal("57P02", "a crash", severity="WARNING"))
    assert play.b(row(b"1") + complete(b"SELECT 1") + words) == b""
    play.link.connection_lost()
    said = play.client.take()
    assert said.startswith(row(b"1") + complete(b"SELECT 1") + b"E")
    assert b"C57P02\x00" in said


# -- replies that are dropped, invented, replaced


def test_statement_that_is_there_is_not_parsed_again() -> None:
    play = prepared()
    assert play.f(parse(b"s2", b"SELECT a FROM t") + frontend.SYNC) == frontend.SYNC
    # Nothing is said yet, so that it can be tried again where the connection is lost.
    assert play.client.take() == b""
    assert play.b(READY) == backend.PARSE_COMPLETE + READY


def test_statement_that_is_there_is_not_lost_with_its_connection() -> None:
    play = Playbook(links=2)
    assert play.f(parse(b"s1", b"SELECT a FROM t") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    assert play.f(parse(b"s2", b"SELECT a FROM t") + frontend.SYNC) == frontend.SYNC
    play.link.connection_lost()
    assert play.wire_of(1).take() == parse(b"headgate_1", b"SELECT a FROM t") + frontend.SYNC
    play.from_server(1, backend.PARSE_COMPLETE + READY)
    assert play.client.take() == backend.PARSE_COMPLETE + READY


def test_invented_reply_waits_for_the_one_that_might_fail_unseen() -> None:
    play = prepared()
    group = parse(b"s2", b"SELECT a FROM t") + bind(b"s2") + execute() + frontend.SYNC
    play.f(group)
    assert play.client.take() == b""
    replies = backend.BIND_COMPLETE + row(b"1") + complete(b"SELECT 1") + READY
    assert play.b(replies) == backend.PARSE_COMPLETE + replies


def test_notice_before_the_reply_that_is_waited_for_keeps_its_place() -> None:
    play = prepared()
    play.f(parse(b"s2", b"SELECT a FROM t") + bind(b"s2") + execute() + frontend.SYNC)
    replies = NOTICE + backend.BIND_COMPLETE + complete(b"SELECT 0") + READY
    said = play.b(replies)
    assert said == NOTICE + backend.PARSE_COMPLETE + replies[len(NOTICE) :]


@pytest.mark.parametrize("before", [b"", NOTICE])
def test_server_that_leaves_replies_out_leaves_the_invented_ones_in(before: bytes) -> None:
    """No server does; but what was promised is not lost."""
    play = prepared()
    play.f(parse(b"s2", b"SELECT a FROM t") + bind(b"s2") + execute() + frontend.SYNC)
    assert play.b(before + READY) == before + backend.PARSE_COMPLETE + READY


def test_server_that_says_more_than_was_asked_is_not_counted_on() -> None:
    play = prepared()
    play.f(bind(b"s") + frontend.FLUSH)
    replies = backend.BIND_COMPLETE + backend.BIND_COMPLETE
    assert play.b(replies) == replies
    assert play.f(execute() + frontend.SYNC) == execute() + frontend.SYNC
    assert play.b(complete(b"SELECT 0") + READY) == complete(b"SELECT 0") + READY


def test_parse_that_the_client_did_not_send_is_unseen() -> None:
    play = prepared()
    play.links.append(play.new_link(1))
    play.broker.free = [play.links[1]]
    play.session.receive_from_frontend(bind(b"s") + describe(b"", frontend.PORTAL) + frontend.SYNC)
    assert play.wire_of(1).take().startswith(parse(b"headgate_1", b"SELECT a FROM t"))
    play.from_server(1, NOTICE + backend.PARSE_COMPLETE + backend.BIND_COMPLETE + COLUMNS + READY)
    assert play.client.take() == NOTICE + backend.BIND_COMPLETE + COLUMNS + READY


def test_close_of_an_answered_name_comes_between_the_servers_replies() -> None:
    play = prepared()
    sent = play.f(bind(b"s") + close(b"s") + execute() + frontend.SYNC)
    assert b"C\x00" not in sent
    replies = backend.BIND_COMPLETE + complete(b"SELECT 0") + READY
    assert play.b(replies) == (
        backend.BIND_COMPLETE + backend.CLOSE_COMPLETE + complete(b"SELECT 0") + READY
    )


def test_suspended_portal_goes_on() -> None:
    """Rule 14."""
    play = Playbook()
    some = frontend.Execute(b"", 2).encode()
    play.f(parse(b"", b"SELECT a FROM t") + bind(b"") + some + frontend.FLUSH)
    first = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + row(b"1") + backend.PORTAL_SUSPENDED
    assert play.b(first) == first
    assert play.session.link is play.link
    assert play.f(some + frontend.SYNC) == some + frontend.SYNC
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY
    assert play.broker.free == [play.link]


def test_empty_query_has_a_reply_of_its_own() -> None:
    """Rule 22."""
    play = Playbook()
    assert play.f(query(b"")) == query(b"")
    assert play.b(backend.EMPTY_QUERY_RESPONSE + READY) == backend.EMPTY_QUERY_RESPONSE + READY


def test_function_call_has_one_reply_and_its_ready() -> None:
    play = Playbook()
    call = frontend.FunctionCall(1, [], [], 0).encode()
    assert play.f(call) == call
    result = backend.function_call_response(b"1")
    assert play.b(result + READY) == result + READY
    play.looked_at()
    assert play.broker.free == [play.link]


# -- when the client ends within the server's own bytes


def test_nothing_is_looked_at_behind_the_end_of_a_session() -> None:
    play = Playbook()
    play.f(query(b"LOAD 'x'") + frontend.TERMINATE)
    play.b(complete(b"LOAD") + READY)
    # The look is answered, the goodbye is read, and the connection closed with the library on it.
    answer = complete(b"SELECT 0") + READY
    play.from_server(0, answer + NOTIFICATION + READY)
    assert play.link.is_closed
    assert play.client.take() == b""
    assert play.broker.free == []


def test_goodbye_behind_the_settings_of_an_open_pipeline() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(parse(b"", b"DELETE FROM t") + frontend.FLUSH + frontend.TERMINATE)
    assert play.session.phase == APPLYING
    play.from_server(0, row(b"t") + complete(b"SELECT 1") + READY + NOTICE + READY)
    assert play.link.is_closed
    assert play.client.take() == b""


def test_goodbye_behind_a_pinned_transaction_closes_within_one_read() -> None:
    play = Playbook()
    play.f(query(b"BEGIN; LOAD 'x'"))
    play.b(complete(b"BEGIN") + complete(b"LOAD") + READY_T)
    play.f(query(b"COMMIT AND CHAIN") + frontend.TERMINATE)
    play.from_server(0, complete(b"COMMIT") + READY_T + NOTICE + READY)
    assert play.link.is_closed
    assert play.client.take() == complete(b"COMMIT") + READY_T
    assert play.session.status == tags.STATUS_IN_TRANSACTION


def test_half_a_row_too_much_is_dropped_with_what_comes_of_it() -> None:
    """A hostile server; the rest of its row must not be taken for an answer to the proxy."""
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    play.b(backend.PARSE_COMPLETE + LONG_ROW[:100])
    play.f(parse(b"", b"DELETE FROM t") + bind(b"") + execute() + frontend.SYNC)
    assert play.b(LONG_ROW[100:]) == b""
    assert play.b(READY) == b""
    assert play.broker.free == [play.link]


def test_error_of_the_proxys_own_question_is_not_the_clients() -> None:
    play = Playbook(settings={"work_mem": "lots"})
    play.f(query(b"SELECT 1"))
    assert play.b(error("22023", "invalid value")) == b""
    assert play.b(error("22023", "another")) == b""
    # In place of its statement, once the Query has ended.
    assert play.b(READY) == error("22023", "invalid value") + READY
