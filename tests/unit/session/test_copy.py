"""Rules 24 and 25: COPY both ways; what is left of one that failed reaches nobody."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session.inspection import VERDICT_REFUSE, Inspection
from proxy.session.relay import CLOSED, IDLE, READ_AHEAD_BYTES
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    bind,
    complete,
    error,
    execute,
    fatal,
    parse,
    query,
)

COPY_IN = backend.copy_in_response(0, [0])
COPY_OUT = backend.copy_out_response(0, [0])
LINE = frontend.CopyData(b"1\n").encode()
FAILED = error("22P02", 'invalid input syntax for type integer: "x"')
LOST = fatal("08P01", "terminating connection because protocol synchronization was lost")
COPY_FAIL = frontend.CopyFail(b"enough").encode()


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42000", "not this")


def copying() -> Playbook:
    play = Playbook()
    assert play.f(query(b"COPY t FROM STDIN")) == query(b"COPY t FROM STDIN")
    assert play.b(COPY_IN) == COPY_IN
    return play


def test_copy_in_passes_data_on_as_it_comes() -> None:
    play = copying()
    assert play.f(LINE) == LINE
    # A part of a message too: memory is bounded, whatever the length of a line.
    assert play.f(LINE[:3]) == b""
    assert play.f(LINE[3:6]) == LINE[:6]
    assert play.f(LINE[6:] + LINE) == LINE[6:] + LINE
    assert play.f(frontend.COPY_DONE) == frontend.COPY_DONE
    assert play.b(complete(b"COPY 3") + READY) == complete(b"COPY 3") + READY
    assert play.broker.free == [play.link]


def test_client_may_give_up() -> None:
    play = copying()
    assert play.f(LINE + COPY_FAIL) == LINE + COPY_FAIL
    failed = error("57014", "COPY from stdin failed: enough")
    assert play.b(failed + READY) == failed + READY
    assert play.session.phase == IDLE


def test_flush_and_sync_of_a_copy_are_not_the_end_of_it() -> None:
    """protocol-flow, COPY: the server ignores both while it waits for data."""
    play = copying()
    assert play.f(LINE + frontend.FLUSH + LINE) == LINE + frontend.FLUSH + LINE
    assert play.f(LINE + frontend.SYNC) == LINE
    assert play.f(LINE + frontend.COPY_DONE) == LINE + frontend.COPY_DONE
    assert play.b(complete(b"COPY 4") + READY) == complete(b"COPY 4") + READY


def test_rule_24_what_was_still_under_way_is_dropped() -> None:
    play = copying()
    play.f(LINE)
    assert play.b(FAILED + READY) == FAILED + READY
    assert play.broker.free == [play.link]
    assert play.f(LINE + LINE + frontend.COPY_DONE) == b""
    assert play.client.take() == b""
    assert play.f(COPY_FAIL + query(b"SELECT 1")) == query(b"SELECT 1")
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY


def test_rule_24_rest_of_a_line_that_the_server_waits_for_is_made_up() -> None:
    """The server would take whatever comes next for it, the next client's statements too."""
    play = copying()
    long_line = frontend.CopyData(b"x" * 200_000).encode()
    assert play.f(long_line[:1_000]) == long_line[:1_000]
    assert play.b(FAILED) == FAILED
    padding = play.server.take()
    assert padding == bytes(len(long_line) - 1_000)
    assert play.b(READY) == READY
    assert play.broker.free == [play.link]
    # What the client still has to say of the line is dropped, and the next statement is none of it.
    assert play.f(long_line[1_000:50_000]) == b""
    assert play.f(long_line[50_000:] + query(b"SELECT 1")) == query(b"SELECT 1")


def test_rule_24_client_that_waits_is_asked_for_the_rest_first() -> None:
    play = copying()
    assert play.f(LINE[:5]) == LINE[:5]
    assert play.b(FAILED + READY) == FAILED + READY
    assert play.server.take() == bytes(2)
    assert play.f(LINE[5:6]) == b""
    assert play.session.phase == IDLE
    assert play.f(LINE[6:]) == b""
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")


@pytest.mark.parametrize(
    ("other", "tag"), [(query(b"SELECT 1"), "51"), (parse(b"", b"SELECT 1"), "50")]
)
def test_other_message_ends_the_session_as_at_a_server(other: bytes, tag: str) -> None:
    play = copying()
    why = f"unexpected message type 0x{tag} during COPY from stdin"
    assert play.f(LINE + other) == LINE + frontend.encode_copy_fail(why.encode())
    assert play.f(LINE) == b""
    told = error("08P01", why) + LOST
    assert play.b(error("57014", f"COPY from stdin failed: {why}")) == told
    assert play.client.is_closed
    assert play.link.is_closed


def test_other_message_in_a_pipelined_copy_ends_the_session() -> None:
    play = Playbook()
    play.f(parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute() + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + COPY_IN)
    why = "unexpected message type 0x45 during COPY from stdin"
    play.f(execute())
    told = error("08P01", why) + LOST
    assert play.b(error("57014", f"COPY from stdin failed: {why}")) == told
    assert play.client.is_closed


def test_other_message_waits_until_it_is_known_whether_the_copy_has_failed() -> None:
    """Sent at once, it would be taken by a server whose COPY is over, judged by no plugin."""
    play = copying()
    refused = query(b"DROP TABLE t")
    play.gate.judges = True
    play.gate.rules[b"DROP"] = refuse
    assert refused not in play.f(LINE + refused)
    assert play.b(FAILED) == FAILED
    assert play.b(READY) == READY + error("42000", "not this") + READY
    assert refused not in play.server.take()


def test_client_is_not_read_without_end_while_its_message_waits() -> None:
    play = copying()
    play.f(query(b"SELECT 1"))
    play.f(bytes(READ_AHEAD_BYTES))
    assert play.client.is_paused


def test_broken_length_in_a_copy_is_fatal() -> None:
    play = copying()
    play.session.receive_from_frontend(b"d\x00\x00\x00\x03")
    said = play.client.take()
    assert b"SFATAL" in said
    assert b"C08P01" in said
    assert play.session.phase == CLOSED
    assert play.link.is_closed


def test_server_may_end_a_copy_before_its_data() -> None:
    """COPY FREEZE, a trigger: an error comes while the client sends; the client goes on a while."""
    play = Playbook()
    play.f(parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute() + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE)
    assert play.b(COPY_IN) == COPY_IN
    play.f(LINE)
    assert play.b(FAILED) == FAILED
    # The Sync that the client has sent before its data did not count; this one does.
    assert play.f(LINE + frontend.COPY_DONE + frontend.SYNC).endswith(frontend.SYNC)
    assert play.server.take() == b""
    assert play.b(READY) == READY
    assert play.broker.free == [play.link]


def test_several_copies_of_one_query() -> None:
    play = Playbook()
    play.f(query(b"COPY t FROM STDIN; COPY t FROM STDIN"))
    for _ in range(2):
        assert play.b(COPY_IN) == COPY_IN
        assert play.f(LINE + frontend.COPY_DONE) == LINE + frontend.COPY_DONE
        assert play.b(complete(b"COPY 1")) == complete(b"COPY 1")
    assert play.b(READY) == READY


def test_copy_out_streams() -> None:
    play = Playbook()
    play.f(query(b"COPY t TO STDOUT"))
    lines = COPY_OUT + LINE + LINE
    assert play.b(lines[:-2]) == lines[:-2]
    assert play.link.is_mid_message()
    assert play.b(lines[-2:] + backend.COPY_DONE) == lines[-2:] + backend.COPY_DONE
    end = complete(b"COPY 2") + READY_T
    assert play.b(end) == end
    assert play.session.link is play.link


def test_copy_of_a_file_by_the_extended_protocol_ends_its_group() -> None:
    """Whether it takes data is not known before: its Sync is held until the replies are there."""
    play = Playbook()
    group = parse(b"", b"COPY t FROM '/file'") + bind(b"") + execute()
    assert play.f(group + frontend.SYNC) == group + frontend.FLUSH
    replies = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"COPY 5")
    assert play.b(replies) == replies
    assert play.server.take() == frontend.SYNC
    assert play.b(READY) == READY
    assert play.broker.free == [play.link]


def test_rule_24_rest_of_a_line_in_a_pipeline_is_dropped_before_its_sync() -> None:
    play = Playbook()
    play.f(parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute() + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + COPY_IN)
    assert play.f(LINE[:5]) == LINE[:5]
    assert play.b(FAILED) == FAILED
    assert play.server.take() == bytes(2)
    assert play.f(LINE[5:6]) == b""
    assert play.f(LINE[6:] + LINE + frontend.COPY_DONE + frontend.SYNC) == frontend.SYNC
    assert play.b(READY) == READY


def test_copy_out_that_fails_in_the_middle() -> None:
    play = Playbook()
    play.f(query(b"COPY t TO STDOUT"))
    play.b(COPY_OUT + LINE)
    assert play.b(FAILED + READY) == FAILED + READY
    assert play.broker.free == [play.link]


def test_copy_data_outside_of_a_copy_is_ignored() -> None:
    play = Playbook()
    assert play.f(LINE + frontend.COPY_DONE + COPY_FAIL + query(b"SELECT 1")) == query(b"SELECT 1")
