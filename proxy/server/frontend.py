"""
A client's socket: bytes to its login, and then to its session.

No protocol knowledge: what bytes mean is the session's business. This file is the asyncio
end of `session.ports.Wire`, and the place where backpressure meets the sockets.
"""

import asyncio
from collections.abc import Callable
from typing import cast, final

from proxy.server.inbox import Inbox
from proxy.server.wire import TransportWire
from proxy.session.ports import OtherSession, Wire
from proxy.session.session import Session


@final
class FrontendConnection(asyncio.Protocol):
    """
    One client.

    inbox    takes received bytes until `begin`; None afterwards
    session  the conversation, from `begin` on
    other    what serves the client in place of a session, from `begin_other` on
    """

    __slots__ = ("_on_closed", "_wire", "inbox", "other", "session")

    def __init__(self, on_closed: "Callable[[FrontendConnection], None]") -> None:
        self._on_closed = on_closed
        self._wire: TransportWire | None = None
        self.inbox: Inbox | None = Inbox()
        self.session: Session | None = None
        self.other: OtherSession | None = None

    @property
    def wire(self) -> Wire:
        """The sending side; only after connection_made."""
        wire = self._wire
        if wire is None:
            raise RuntimeError("not connected")
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket stands."""
        wire = TransportWire(cast(asyncio.Transport, transport))
        self._wire = wire
        if self.inbox is not None:
            self.inbox.wire = wire

    def begin(self, session: Session) -> None:
        """The login is done: greet the client, and give the session all bytes from now on."""
        inbox = self.inbox
        self.inbox = None
        self.session = session
        session.start()
        if inbox is not None:
            rest = inbox.rest()
            if rest:
                session.receive_from_frontend(rest)
            if inbox.is_ended:
                self.connection_lost(None)

    def begin_other(self, other: OtherSession) -> None:
        """The login is done, and this is for the console: it gets all bytes from now on."""
        inbox = self.inbox
        self.inbox = None
        self.other = other
        if inbox is not None:
            rest = inbox.rest()
            if rest:
                other.receive_from_frontend(rest)
            if inbox.is_ended:
                self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        session = self.session
        if session is not None:
            session.receive_from_frontend(data)
        elif self.inbox is not None:
            self.inbox.feed(data)
        elif self.other is not None:
            self.other.receive_from_frontend(data)

    def pause_writing(self) -> None:
        """The client takes its rows too slowly."""
        if self.session is not None:
            self.session.on_frontend_full()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self.session is not None:
            self.session.on_frontend_drained()

    def eof_received(self) -> bool:
        """The client has closed its side: it wants nothing more."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has ended."""
        if self.inbox is not None:
            self.inbox.end()
        session = self.session
        if session is not None:
            session.on_frontend_lost()
        if self.other is not None:
            self.other.on_frontend_lost()
        self._on_closed(self)
