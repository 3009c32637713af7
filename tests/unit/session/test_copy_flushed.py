"""COPY IN by the extended protocol, as drivers send it: the Sync is on its way before the data."""

import pytest

from proxy.protocol import backend, frontend
from proxy.routing.route import READ, WRITE
from tests.support.playbook import (
    READY,
    Playbook,
    bind,
    close,
    complete,
    execute,
    fatal,
    parse,
)

COPY_DATA = b"d\x00\x00\x00\x061\n"
COPY_DONE = b"c\x00\x00\x00\x04"
COPY_IN_RESPONSE = b"G\x00\x00\x00\x07\x00\x00\x00"


@pytest.mark.parametrize("flush", [b"", frontend.FLUSH], ids=["plain", "flushed"])
@pytest.mark.parametrize("is_split", [False, True], ids=["at once", "message by message"])
def test_sync_behind_the_data_ends_the_copy(flush: bytes, is_split: bool) -> None:
    play = Playbook()
    pieces = [parse(b"", b"COPY t FROM STDIN"), bind(b""), flush, execute(), flush, frontend.SYNC]
    for piece in pieces if is_split else [b"".join(pieces)]:
        play.f(piece)
    play.b(backend.PARSE_COMPLETE)
    play.b(backend.BIND_COMPLETE)
    assert play.b(COPY_IN_RESPONSE) == COPY_IN_RESPONSE
    assert play.f(COPY_DATA).endswith(COPY_DATA)
    # A server sends CommandComplete only when it has a Sync or Flush; and the Sync must not come
    # while the reply may be another CopyInResponse.
    assert play.f(COPY_DONE + frontend.SYNC).endswith(COPY_DONE + frontend.FLUSH)
    assert play.b(complete(b"COPY 1")) == complete(b"COPY 1")
    assert play.server.take() == frontend.SYNC
    assert play.b(READY) == READY
    assert play.broker.free == [play.link]


@pytest.mark.parametrize(
    ("behind", "tag"),
    [(close(b"known"), "43"), (parse(b"other", b"SELECT 1"), "50")],
    ids=["Close", "Parse"],
)
def test_message_behind_a_copy_that_the_server_does_not_get_ends_the_session(
    behind: bytes, tag: str
) -> None:
    play = Playbook()
    play.f(parse(b"known", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    copy = parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute()
    assert play.f(copy + behind + frontend.SYNC) == copy + frontend.SYNC
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE)
    # The server would wait for data, the client for the ReadyForQuery of its Sync.
    why = f"unexpected message type 0x{tag} during COPY from stdin"
    assert play.b(COPY_IN_RESPONSE) == COPY_IN_RESPONSE + fatal("08P01", why)
    assert play.client.is_closed
    assert play.link.is_closed


def test_another_execute_behind_a_copy_is_the_servers_to_refuse() -> None:
    play = Playbook()
    copy = parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute()
    play.f(copy + bind(b"") + execute() + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE)
    assert play.b(COPY_IN_RESPONSE) == COPY_IN_RESPONSE
    assert not play.client.is_closed


def test_copy_behind_a_cut_read_is_undone_with_its_group() -> None:
    play = Playbook(links=2)
    # Data outside of a COPY cuts the group: so far it is a read, and may be prepared on a standby.
    begun = parse(b"a", b"SELECT 1") + COPY_DATA
    copy = parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute()
    # What comes next waits for the reply: until then nobody knows whether the group may still move.
    assert play.f(begun + copy + COPY_DATA + COPY_DONE).endswith(b"\x00" + frontend.FLUSH)
    assert play.b(backend.PARSE_COMPLETE) == backend.PARSE_COMPLETE
    assert play.server.take() == frontend.SYNC
    assert play.b(READY) == b""
    assert play.wire_of(1).take() == copy + frontend.FLUSH
    play.from_server(1, backend.PARSE_COMPLETE + backend.BIND_COMPLETE + COPY_IN_RESPONSE)
    assert play.wire_of(1).take() == COPY_DATA + COPY_DONE + frontend.FLUSH
    play.from_server(1, complete(b"COPY 1"))
    # A Sync here would commit what the Bind that fails shall undo.
    rest = bind(b"") + execute()
    assert play.f(rest + frontend.SYNC) == b""
    assert play.wire_of(1).take() == rest + frontend.FLUSH
    assert play.broker.routes == [READ, WRITE]
