"""The inbox: messages whole, limits, backpressure, ends."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.server.inbox import Inbox, PeerLeft
from tests.unit.server.peers import FakeWire, message, packet


async def test_a_message_may_come_in_any_pieces() -> None:
    inbox = Inbox()
    reading = asyncio.ensure_future(inbox.read_message())
    for byte in message(b"p", b"secret\0"):
        assert not reading.done()
        inbox.feed(bytes([byte]))
        await asyncio.sleep(0)
    assert await reading == (ord("p"), b"secret\0")


async def test_the_rest_is_handed_over() -> None:
    inbox = Inbox()
    inbox.feed(packet(196608, b"x") + message(b"p", b"") + b"Q\0\0")
    assert await inbox.read_first() == packet(196608, b"x")
    assert await inbox.read_message() == (ord("p"), b"")
    assert inbox.rest() == b"Q\0\0"
    assert inbox.rest() == b""


@pytest.mark.parametrize("length", [0, 3, 65_537, 0x7FFFFFFF, 0xFFFFFFFF])
async def test_a_senseless_length_is_refused_before_the_body_comes(length: int) -> None:
    inbox = Inbox()
    inbox.feed(b"p" + length.to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        await inbox.read_message()


@pytest.mark.parametrize("length", [0, 7, 10_001, 0xFFFFFFFF])
async def test_a_senseless_startup_length_is_refused(length: int) -> None:
    inbox = Inbox()
    inbox.feed(length.to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match="startup packet"):
        await inbox.read_first()


async def test_what_was_sent_before_the_end_is_still_read() -> None:
    inbox = Inbox()
    inbox.feed(message(b"p", b"a"))
    inbox.end()
    assert await inbox.read_message() == (ord("p"), b"a")
    with pytest.raises(PeerLeft):
        await inbox.read_message()


async def test_the_end_wakes_the_reader() -> None:
    inbox = Inbox()
    reading = asyncio.ensure_future(inbox.read_first())
    await asyncio.sleep(0)
    inbox.end()
    with pytest.raises(PeerLeft):
        await reading


async def test_a_flood_is_not_read_and_the_reader_goes_on() -> None:
    wire = FakeWire()
    inbox = Inbox(limit_bytes=100)
    inbox.wire = wire
    inbox.feed(message(b"p", b"a" * 50) + message(b"p", b"b" * 60))
    assert wire.calls == ["pause"]
    await inbox.read_message()
    assert wire.calls == ["pause", "resume"]
    assert await inbox.read_message() == (ord("p"), b"b" * 60)


async def test_handing_over_reads_the_peer_again() -> None:
    wire = FakeWire()
    inbox = Inbox(limit_bytes=10)
    inbox.wire = wire
    inbox.feed(b"x" * 50)
    assert wire.calls == ["pause"]
    assert inbox.rest() == b"x" * 50
    assert wire.calls == ["pause", "resume"]


@given(
    bodies=st.lists(st.binary(max_size=40), max_size=8),
    cuts=st.lists(st.integers(min_value=0, max_value=400), max_size=12),
)
async def test_any_chunking_gives_the_same_messages(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(message(b"p", body) for body in bodies)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    inbox = Inbox()

    async def read() -> list[bytes]:
        return [(await inbox.read_message())[1] for _ in bodies]

    reading = asyncio.ensure_future(read())
    for start, end in itertools.pairwise(places):
        inbox.feed(data[start:end])
        await asyncio.sleep(0)
    assert await reading == bodies
