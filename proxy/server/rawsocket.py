"""
A non-blocking socket before it has a transport: looked at, read to the byte, answered.

Negotiation of encryption happens here because a transport reads ahead, and what was read ahead in
clear must never be taken for part of the encrypted stream (CVE-2021-23222). These reads take
exactly what was asked for. Knows nothing of the protocol.
"""

import asyncio
import contextlib
import socket
from typing import Final, final

AT_END: Final = -1


@final
class RawSocket:
    """One socket, used by one coroutine; `detach` gives it to a transport, `close` ends it."""

    __slots__ = ("_loop", "_socket")

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = asyncio.get_running_loop()

    async def peek(self) -> int:
        """Wait for the next byte and answer it without taking it; AT_END when the peer closed."""
        while True:
            try:
                data = self._socket.recv(1, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                await self._readable()
                continue
            return data[0] if data else AT_END

    def has_pending(self) -> bool:
        """Tell whether bytes have come that nobody took."""
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except (BlockingIOError, InterruptedError):
            return False

    async def read_exactly(self, size: int) -> bytes:
        """Read this many bytes and not one more. Raises EOFError, OSError."""
        data = b""
        while len(data) < size:
            chunk = await self._loop.sock_recv(self._socket, size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    async def write(self, data: bytes) -> None:
        """Send bytes. Raises OSError."""
        await self._loop.sock_sendall(self._socket, data)

    def detach(self) -> socket.socket:
        """Give the socket to whoever makes a transport of it."""
        return self._socket

    def close(self) -> None:
        """Close, after what was written (idempotent)."""
        with contextlib.suppress(OSError):
            # Without this an error message can be lost to the reset that unread input causes.
            self._socket.shutdown(socket.SHUT_WR)
        self._socket.close()

    async def _readable(self) -> None:
        waiter = self._loop.create_future()
        self._loop.add_reader(self._socket, _wake, waiter)
        try:
            await waiter
        finally:
            self._loop.remove_reader(self._socket)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
