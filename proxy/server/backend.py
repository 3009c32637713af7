"""
A server connection's socket: bytes to its login, and then to its link.
"""

import asyncio
from collections.abc import Callable
from typing import cast, final

from proxy.server.inbox import Inbox
from proxy.server.wire import TransportWire
from proxy.session.link import BackendLink
from proxy.session.ports import Wire


@final
class BackendConnection(asyncio.Protocol):
    """
    One socket towards a server.

    inbox  takes received bytes until `attach`; None afterwards
    wire   the sending side, once connected
    """

    __slots__ = ("_link", "_on_closed", "_wire", "inbox")

    def __init__(self, on_closed: Callable[[BackendLink], None]) -> None:
        self._on_closed = on_closed
        self._link: BackendLink | None = None
        self._wire: TransportWire | None = None
        self.inbox: Inbox | None = Inbox()

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

    def attach(self, link: BackendLink) -> None:
        """The login is done: everything from now on is the link's."""
        inbox = self.inbox
        self.inbox = None
        self._link = link
        if inbox is not None:
            rest = inbox.rest()
            if rest:
                link.receive_from_backend(rest)
            if inbox.is_ended:
                self.connection_lost(None)

    def data_received(self, data: bytes) -> None:
        """Bytes from the server."""
        link = self._link
        if link is not None:
            if not link.is_closed:
                link.receive_from_backend(data)
        elif self.inbox is not None:
            self.inbox.feed(data)

    def pause_writing(self) -> None:
        """The server takes its data too slowly."""
        link = self._link
        if link is not None and link.user_session is not None:
            link.user_session.on_backend_full()

    def resume_writing(self) -> None:
        """The server has caught up."""
        link = self._link
        if link is not None and link.user_session is not None:
            link.user_session.on_backend_drained()

    def eof_received(self) -> bool:
        """The server has closed its side; so do we."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The socket has ended."""
        if self.inbox is not None:
            self.inbox.end()
        link = self._link
        if link is not None:
            self._link = None
            link.connection_lost()
            self._on_closed(link)
