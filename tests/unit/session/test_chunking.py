"""
Rule 5: any chunking of the same bytes gives the same output, for a whole session.

A scripted server answers the messages that reach it, at once or when the client has said all; both
sides' bytes are cut anywhere. And garbage of either peer ends the conversation in order: nothing
raises.
"""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.protocol import backend, frontend, tags
from proxy.session.inspection import VERDICT_ANSWER, VERDICT_REFUSE, Inspection, RowSet
from proxy.session.relay import CLOSED
from tests.support.playbook import (
    READY,
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

COLUMNS = backend.row_description([(b"a", 25, -1, 0)])
NOTICE = backend.notice_response(Refusal("00000", "by the way", severity="NOTICE"))
COPY_IN = backend.copy_in_response(0, [0])
COPY_OUT = backend.copy_out_response(0, [0])
DATA = frontend.CopyData(b"1\n").encode()
SYNC = frontend.SYNC
FLUSH = frontend.FLUSH
UNKNOWN = frontend.Bind(b"", b"nobody", [], [], []).encode()
GROUP = parse(b"", b"SELECT a FROM t") + bind(b"") + describe(b"", frontend.PORTAL) + execute()


class Server:
    """Answers what reaches it as PostgreSQL would, by a word in the text."""

    def __init__(self) -> None:
        self.received = b""
        self.log = b""
        self.status = tags.STATUS_IDLE
        self.is_skipping = False
        self.copies = False
        self.is_extended = False
        self.texts: dict[bytes, bytes] = {}
        self.portal = b""

    def feed(self, data: bytes) -> bytes:
        """Take bytes; what it answers to the messages that are whole."""
        self.log += data
        self.received += data
        said = b""
        while len(self.received) >= 5:
            size = 1 + int.from_bytes(self.received[1:5], "big")
            if len(self.received) < size:
                break
            message, self.received = self.received[:size], self.received[size:]
            said += self.answer(message[0], message[5:])
        return said

    def answer(self, tag: int, body: bytes) -> bytes:
        if self.copies:
            return self.during_copy(tag)
        if tag == tags.SYNC:
            self.is_skipping = False
            return backend.ready_for_query(self.status)
        if (
            tag == tags.TERMINATE
            or self.is_skipping
            or tag in (tags.FLUSH, tags.COPY_DATA, tags.COPY_DONE, tags.COPY_FAIL)
        ):
            return b""
        if tag == tags.QUERY:
            self.is_extended = False
            said = self.run(body[:-1])
            return said if self.copies else said + backend.ready_for_query(self.status)
        if tag == tags.FUNCTION_CALL:
            self.is_extended = False
            return self.fail() + backend.ready_for_query(self.status)
        self.is_extended = True
        if tag == tags.PARSE:
            name, text = body.split(b"\x00")[:2]
            if b"headgate refused" in text:
                return self.fail()
            self.texts[name] = text
            return backend.PARSE_COMPLETE
        if tag == tags.BIND:
            self.portal = self.texts[body.split(b"\x00")[1]]
            return backend.BIND_COMPLETE
        if tag == tags.DESCRIBE:
            return COLUMNS if body[:1] == b"P" else backend.parameter_description([]) + COLUMNS
        if tag == tags.CLOSE:
            return backend.CLOSE_COMPLETE
        assert tag == tags.EXECUTE
        return self.run(self.portal)

    def run(self, text: bytes) -> bytes:
        if b"headgate refused" in text or b"bad" in text:
            return row(b"1") + self.fail() if b"bad" in text else self.fail()
        if b"BEGIN" in text:
            self.status = tags.STATUS_IN_TRANSACTION
        elif b"COMMIT" in text or b"ROLLBACK" in text:
            self.status = tags.STATUS_IDLE
        elif b"FROM STDIN" in text:
            self.copies = True
            return COPY_IN
        elif b"TO STDOUT" in text:
            return COPY_OUT + DATA + DATA + backend.COPY_DONE + complete(b"COPY 2")
        elif not text:
            return backend.EMPTY_QUERY_RESPONSE
        else:
            rows = row(b"1") + NOTICE + row(b"x" * 40) + complete(b"SELECT 2")
            return rows if self.is_extended else COLUMNS + rows
        return complete(text[:6])

    def fail(self) -> bytes:
        self.is_skipping = self.is_extended
        if self.status == tags.STATUS_IN_TRANSACTION:
            self.status = tags.STATUS_FAILED
        return error("22012", "division by zero")

    def during_copy(self, tag: int) -> bytes:
        if tag == tags.COPY_DATA or tag == tags.SYNC or tag == tags.FLUSH:
            return b""
        self.copies = False
        if tag == tags.COPY_DONE:
            said = complete(b"COPY 1")
        else:
            said = self.fail()
        return said if self.is_extended else said + backend.ready_for_query(self.status)


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42501", "not here")


def answer(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [[b"1"], [None]])


SCRIPTS = {
    "simple": query(b"SELECT a FROM t") + query(b"") + query(b"SELECT bad") + query(b"SELECT 2"),
    "transaction": query(b"BEGIN") + query(b"SELECT a FROM t") + query(b"SELECT bad")
    + query(b"COMMIT"),
    "pipelines": GROUP + SYNC + GROUP + FLUSH + bind(b"") + execute() + SYNC + GROUP + GROUP + SYNC,
    "a query in a pipeline": parse(b"s", b"SELECT a FROM t") + query(b"SELECT a FROM t") + GROUP
    + SYNC + bind(b"s") + execute() + SYNC,
    "named statements": parse(b"s", b"SELECT a FROM t") + describe(b"s") + SYNC
    + bind(b"s") + execute() + close(b"s") + SYNC + parse(b"s", b"SELECT a FROM t") + bind(b"s")
    + execute() + SYNC + query(b"EXECUTE s") + close(b"s") + SYNC,
    "errors": GROUP + parse(b"", b"SELECT bad") + bind(b"") + execute() + GROUP + SYNC
    + UNKNOWN + GROUP + SYNC + GROUP + UNKNOWN + FLUSH + GROUP + query(b"SELECT 3") + SYNC,
    "copy in": query(b"COPY t FROM STDIN") + DATA + DATA + frontend.COPY_DONE + query(b"SELECT 1")
    + query(b"COPY t FROM STDIN") + DATA + frontend.CopyFail(b"no").encode() + DATA
    + query(b"SELECT 2"),
    "copy in, extended": parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute() + SYNC + DATA
    + frontend.COPY_DONE + SYNC + GROUP + SYNC,
    "copy out": query(b"COPY t TO STDOUT") + parse(b"", b"COPY t TO STDOUT") + bind(b"")
    + execute() + SYNC,
    "invented": query(b"SELECT a FROM cached") + parse(b"", b"SELECT a FROM cached") + bind(b"")
    + describe(b"", frontend.PORTAL) + execute() + SYNC + GROUP + parse(b"", b"DROP TABLE t")
    + GROUP + SYNC + query(b"DROP TABLE t") + query(b"SELECT 1; DROP TABLE t"),
    "goodbye": GROUP + SYNC + query(b"BEGIN") + frontend.TERMINATE,
    "broken": GROUP + SYNC + query(b"SELECT 1") + b"Q\x00\x00\x00\x03",
}  # fmt: skip


Cut = Callable[[bytes], list[bytes]]


def whole(data: bytes) -> list[bytes]:
    return [data] if data else []


def converse(
    sent: bytes, cut_client: Cut, cut_server: Cut, is_late: bool = False
) -> tuple[bytes, bytes, bool]:
    """
    What the client got, what the server got, and whether the session has ended.

    is_late: the server answers when the client has sent everything.
    """
    play = Playbook()
    play.gate.judges = True
    play.gate.rules = {b"DROP": refuse, b"FROM cached": answer}
    server = Server()
    for piece in cut_client(sent):
        play.session.receive_from_frontend(piece)
        if not is_late:
            serve(play, server, cut_server)
    serve(play, server, cut_server)
    return play.client.take(), server.log, play.session.phase == CLOSED


def serve(play: Playbook, server: Server, cut: Cut) -> None:
    """Let the server answer until it is asked nothing more."""
    while asked := play.server.take():
        for part in cut(server.feed(asked)):
            play.from_server(0, part)
        broker = play.broker
        if broker.waiting is not None and broker.free:
            broker.grant(broker.free.pop())


def cutting(points: list[int]) -> Cut:
    """Cut each time at other places, by the same list of lengths."""

    def cut(data: bytes) -> list[bytes]:
        pieces = []
        at = 0
        turn = 0
        while at < len(data):
            step = points[turn % len(points)]
            pieces.append(data[at : at + step])
            at += step
            turn += 1
        return pieces

    return cut


lengths = st.lists(st.integers(1, 60), min_size=1, max_size=8).map(cutting)


@pytest.mark.parametrize("script", SCRIPTS)
def test_rule_5_byte_by_byte(script: str) -> None:
    expected = converse(SCRIPTS[script], whole, whole, True)
    assert len(expected[0]) > 60
    bytewise = cutting([1])
    for client, server in ((bytewise, whole), (whole, bytewise), (bytewise, bytewise)):
        assert converse(SCRIPTS[script], client, server, True) == expected
        # What is still sent behind an error depends on when it is known; what is said does not.
        said, _, has_ended = converse(SCRIPTS[script], client, server)
        assert (said, has_ended) == (expected[0], expected[2])


pieces_of_a_script = st.sampled_from(
    [GROUP, SYNC, FLUSH, query(b"SELECT a FROM t"), query(b"SELECT bad"), query(b"BEGIN"), UNKNOWN,
     query(b"COMMIT"), parse(b"s", b"SELECT a FROM t"), bind(b"s"), close(b"s"), execute(), DATA,
     query(b"COPY t FROM STDIN"), frontend.COPY_DONE, query(b"SELECT a FROM cached"),
     parse(b"", b"DROP TABLE t"), query(b"EXECUTE s"), query(b"DEALLOCATE ALL")]
)  # fmt: skip
scripts = st.sampled_from(list(SCRIPTS.values())) | st.lists(pieces_of_a_script, max_size=12).map(
    b"".join
)


@given(sent=scripts, client=lengths, server=lengths, is_late=st.booleans())
def test_rule_5_any_chunking_gives_the_same_output(
    sent: bytes, client: Cut, server: Cut, is_late: bool
) -> None:
    expected = converse(sent, whole, whole, True)
    found = converse(sent, client, server, is_late)
    assert found[0] == expected[0]
    assert found[2] == expected[2]
    if is_late:
        assert found[1] == expected[1]


# -- garbage


@st.composite
def spoiled(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Good bytes with some of them changed, left out or put in; or any bytes at all."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            del data[at : at + draw(st.integers(1, 9))]
        elif kind == 2:
            data[at:at] = draw(st.binary(max_size=9))
        else:
            data[at : at + 4] = draw(st.sampled_from([bytes(4), b"\0\0\0\3", b"\xff" * 4]))
    return bytes(data)


replies = st.sampled_from(
    [READY, complete(b"SELECT 1"), COLUMNS, row(b"1"), NOTICE, COPY_IN, COPY_OUT, DATA,
     backend.COPY_DONE, backend.PARSE_COMPLETE, backend.BIND_COMPLETE, backend.CLOSE_COMPLETE,
     backend.NO_DATA, backend.PORTAL_SUSPENDED, backend.EMPTY_QUERY_RESPONSE,
     error("22012", "division by zero"), error("0A000", "cached plan must not change result type"),
     error("25006", "read only"), backend.parameter_status(b"client_encoding", b"SJIS"),
     backend.ready_for_query(tags.STATUS_IN_TRANSACTION), row(b"x", b"a.b", b"00"),
     row(b"s", b"search_path", b"a"), row(b"q", b"s", b"PREPARE s AS SELECT 1"),
     row(b"p", b"LISTEN", b""), b"W\0\0\0\4", b"S\0\0\0\5a"]
)  # fmt: skip
many_replies = st.lists(replies, max_size=12).map(b"".join)


@given(spoiled(scripts), lengths)
def test_garbage_of_a_client_ends_in_order(sent: bytes, client: Cut) -> None:
    play = Playbook()
    play.gate.judges = True
    server = Server()
    for piece in client(sent):
        play.session.receive_from_frontend(piece)
        while asked := play.server.take():
            play.from_server(0, server.feed(asked))
    assert (play.session.phase == CLOSED) == play.client.is_closed
    play.session.on_frontend_lost()
    serve(play, server, whole)
    # Clean in the pool, or closed.
    assert play.link.is_closed != (play.broker.free == [play.link])


@given(scripts, st.lists(spoiled(many_replies), max_size=6), lengths)
def test_garbage_of_a_server_ends_in_order(sent: bytes, said: list[bytes], cut: Cut) -> None:
    play = Playbook(links=3)
    play.gate.judges = play.gate.observes = play.gate.captures = play.gate.caches = True
    play.gate.rules = {b"DROP": refuse, b"FROM cached": answer}
    play.session.receive_from_frontend(sent)
    for part in said:
        for number in range(len(play.links)):
            for piece in cut(part):
                play.from_server(number, piece)
    for link in play.links:
        if not link.is_closed:
            link.connection_lost()
    play.session.on_frontend_lost()
    assert play.session.phase == CLOSED
    assert play.session.link is None
    finished = [id(inspection) for inspection in play.gate.done]
    assert len(finished) == len(set(finished)) == len(play.gate.seen)
