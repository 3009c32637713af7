"""
What a peer has sent during its login, for code that awaits one message after the other.

A login is a dialogue, and reads best as a coroutine; the rest of a connection's life is callbacks.
An `Inbox` stands between: the connection's asyncio.Protocol feeds it from `data_received` and ends
it from `connection_lost`, the login awaits messages, and when it is done `rest` hands over what
came after the last one. Bounded: with more than a message's limit waiting, the peer is not read.
Knows nothing of what is in a message.
"""

import asyncio
from typing import Final, Protocol, final

from proxy.errors import ProtocolViolation
from proxy.protocol import startup
from proxy.session.link import BackendLink
from proxy.session.ports import Wire

MAX_LOGIN_MESSAGE_BYTES: Final = 65_536
"""
Longest message taken before a login is done. PostgreSQL's own limit for what clients send here is
65,535 (PG_MAX_AUTH_TOKEN_LENGTH); servers send less.
"""

_HEADER_BYTES: Final = 5


class PeerLeft(Exception):
    """The peer closed the connection while something was still expected of it."""


@final
class Inbox:
    """
    Bytes of one connection, awaited by one reader.

    wire  the connection's sending side, for backpressure; None until the connection is made
    """

    __slots__ = ("_buffer", "_is_ended", "_is_paused", "_limit_bytes", "_waiter", "wire")

    def __init__(self, limit_bytes: int = MAX_LOGIN_MESSAGE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._is_ended = False
        self._is_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.wire: Wire | None = None

    # -- for the asyncio.Protocol

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data
        # SAFETY: one segment may pass the limit, a second one cannot: the peer is not read.
        if len(self._buffer) > self._limit_bytes and self.wire is not None:
            self._is_paused = True
            self.wire.pause_reading()
        self._wake()

    def end(self) -> None:
        """Note that the peer has closed, or the connection is lost (idempotent)."""
        self._is_ended = True
        self._wake()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- for the login

    @property
    def is_ended(self) -> bool:
        """The peer has gone; what it sent before can still be read."""
        return self._is_ended

    async def read_first(self) -> bytes:
        """
        Read one untyped packet whole, its length included: StartupMessage and its kin. Raises
        ProtocolViolation, PeerLeft.
        """
        await self._fill(4)
        length = int.from_bytes(self._buffer[:4], "big")
        startup.check_length(length)
        await self._fill(length)
        return self._take(length)

    async def read_message(self) -> tuple[int, bytes]:
        """Read one message: its type byte, and what stands behind the length. Raises as above."""
        await self._fill(_HEADER_BYTES)
        length = int.from_bytes(self._buffer[1:5], "big")
        if length < 4 or length > self._limit_bytes:
            raise ProtocolViolation(f"invalid message length {length}")
        await self._fill(1 + length)
        frame = self._take(1 + length)
        return frame[0], frame[_HEADER_BYTES:]

    def rest(self) -> bytes:
        """Take everything that came behind the last message, and read the peer again."""
        return self._take(len(self._buffer))

    async def _fill(self, size: int) -> None:
        while len(self._buffer) < size:
            if self._is_ended:
                raise PeerLeft
            self._resume()
            await self._wait()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        if len(self._buffer) <= self._limit_bytes:
            self._resume()
        return taken

    def _resume(self) -> None:
        if self._is_paused and self.wire is not None:
            self._is_paused = False
            self.wire.resume_reading()


class LoginConnection(Protocol):
    """
    What a connection's asyncio.Protocol offers while its login goes on.

    inbox  fed by data_received and ended by connection_lost as long as it is not None
    wire   usable once connection_made was called
    """

    @property
    def inbox(self) -> Inbox | None:
        """Where received bytes go."""

    @property
    def wire(self) -> Wire:
        """The sending side."""


class LinkConnection(LoginConnection, Protocol):
    """The same towards a server: it becomes a link when the login is done."""

    def attach(self, link: BackendLink) -> None:
        """Give everything received from now on to the link, beginning with inbox.rest()."""
