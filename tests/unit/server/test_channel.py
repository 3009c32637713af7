import asyncio
import socket

import pytest

from proxy.server.channel import ChannelClosed, framed, read_message, read_message_now


async def test_messages_are_whole_or_none() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(framed(b"") + framed(b"abc") + framed(b"cut")[:-1])
    reader.feed_eof()
    assert await read_message(reader) == b""
    assert await read_message(reader) == b"abc"
    with pytest.raises(ChannelClosed):
        await read_message(reader)


async def test_a_length_that_cannot_be_is_the_end() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(ChannelClosed):
        await read_message(reader)


def test_before_there_is_an_event_loop() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(framed(b"first") + framed(b"second") + b"\x00\x00\x00\x09rest")
        assert read_message_now(theirs) == b"first"
        assert read_message_now(theirs) == b"second"
        ours.close()
        with pytest.raises(ChannelClosed):
            read_message_now(theirs)
