"""
Messages between the processes of one proxy: a length of four bytes, then that many bytes.

Used between the parent and each worker process, and from worker to worker. Knows nothing of what
is in a message.
"""

import asyncio
import socket
from typing import Final

LENGTH_BYTES: Final = 4
MAX_MESSAGE_BYTES: Final = 256 * 1024 * 1024
"""Longest message: the list of all clients of a worker process is the longest there is."""


class ChannelClosed(Exception):
    """The other process has closed its end, or is gone."""


def framed(message: bytes) -> bytes:
    """A message as it travels."""
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Read one message. Raises ChannelClosed."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        if length > MAX_MESSAGE_BYTES:
            raise ChannelClosed(f"a message of {length} bytes")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, OSError) as error:
        raise ChannelClosed(str(error)) from None


def read_message_now(channel: socket.socket) -> bytes:
    """Read one message before there is an event loop; waits. Raises ChannelClosed."""
    length = int.from_bytes(_read_exactly(channel, LENGTH_BYTES), "big")
    if length > MAX_MESSAGE_BYTES:
        raise ChannelClosed(f"a message of {length} bytes")
    return _read_exactly(channel, length)


def _read_exactly(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            chunk = channel.recv(size - len(data))
        except OSError as error:
            raise ChannelClosed(str(error)) from None
        if not chunk:
            raise ChannelClosed("the end")
        data += chunk
    return data
