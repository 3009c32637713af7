"""
The sending side of a socket: what the session core writes to.

A thin cover over an asyncio transport, so that the core never sees one.
"""

import asyncio
from collections.abc import Callable
from typing import final

from proxy.session.ports import Wire


@final
class TransportWire(Wire):
    """One transport; all methods may be called at any time, also after it has closed."""

    __slots__ = ("_is_paused", "_transport", "_write", "sent_bytes")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # PERF: looked up once, not for every message.
        self._write: Callable[[bytes], None] = transport.write
        self._is_paused = False
        self.sent_bytes = 0

    def write(self, data: bytes) -> None:
        """Send bytes, in order."""
        self.sent_bytes += len(data)
        self._write(data)

    def pause_reading(self) -> None:
        """Stop receiving."""
        if not self._is_paused:
            self._is_paused = True
            if not self._transport.is_closing():
                self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Receive again."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self) -> None:
        """Close once everything written has been sent."""
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
