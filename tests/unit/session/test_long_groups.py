"""A group that is sent on in parts: where a reply must be there before it goes on, it is asked for."""

import pytest

from proxy.protocol import backend, frontend
from proxy.session.framing import CUT_BYTES
from tests.support.playbook import READY, Playbook, bind, complete, execute, parse

LONG = parse(b"", b"SELECT '" + b"x" * CUT_BYTES + b"'")
DONE = backend.PARSE_COMPLETE + backend.BIND_COMPLETE


def run(text: bytes) -> bytes:
    return parse(b"", text) + bind(b"") + execute()


@pytest.mark.parametrize("text", [b"COPY t FROM '/dev/null'", b"DEALLOCATE ALL"])
def test_a_part_that_is_waited_for_is_flushed(text: bytes) -> None:
    """A server keeps its replies to itself until a Sync or Flush, or until they are many."""
    play = Playbook()
    assert play.f(run(text) + LONG) == run(text) + LONG + frontend.FLUSH
    assert play.f(run(b"SELECT 1") + frontend.SYNC) == b""
    replies = DONE + complete(text[:4]) + backend.PARSE_COMPLETE
    assert play.b(replies) == replies
    assert play.server.take().startswith(run(b"SELECT 1"))
    replies = DONE + complete(b"SELECT 1")
    assert play.b(replies + READY).startswith(replies)


def test_a_part_that_nobody_waits_for_is_sent_as_it_is() -> None:
    play = Playbook()
    assert play.f(run(b"SELECT 1") + LONG) == run(b"SELECT 1") + LONG
    assert play.f(run(b"SELECT 2") + frontend.SYNC) == run(b"SELECT 2") + frontend.SYNC
