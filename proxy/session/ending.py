"""
Leaving a server connection: roll back, forget, hand back clean or not at all (rule 20).
"""

from typing import Final, final

from proxy.protocol import tags
from proxy.session.link import SYNC_FRAME, BackendLink
from proxy.session.ports import Broker
from proxy.session.users import InternalQuery

_ROLLBACK: Final = 0
_DISCARD: Final = 1


@final
class Cleanup(InternalQuery):
    """Bring a connection whose client has left back to the pool; close it when that fails."""

    __slots__ = ("_broker", "_failed", "_is_dirty", "_stage")

    def __init__(self, broker: Broker, is_dirty: bool) -> None:
        self._broker = broker
        self._is_dirty = is_dirty
        self._failed = False
        self._stage = _ROLLBACK

    def run(self, link: BackendLink) -> None:
        """Start; the link must have no user and owe nothing. At once when it is clean."""
        if link.status != tags.STATUS_IDLE:
            link.run_internal(b"ROLLBACK", self)
        elif self._is_dirty:
            self._stage = _DISCARD
            link.run_internal(b"DISCARD ALL", self)
        else:
            self._broker.release(link)

    def on_row(self, values: list[bytes | None]) -> None:
        """Neither command returns rows."""

    def on_columns(self, body: bytes) -> None:
        """Of no interest."""

    def on_error(self, fields: dict[str, str]) -> None:
        """A connection that cannot be cleaned is closed."""
        self._failed = True

    def on_done(self, link: BackendLink, status: int) -> None:
        """One command is done: the next one, or back to the pool."""
        if self._failed or status != tags.STATUS_IDLE:
            self._broker.discard(link, "it could not be cleaned after its client left")
            return
        if self._stage == _ROLLBACK and self._is_dirty:
            self._stage = _DISCARD
            link.run_internal(b"DISCARD ALL", self)
            return
        if self._stage == _DISCARD:
            link.applied = {}
            link.applied_key = b""
            link.prepared.clear()
            link.unnamed = None
            link.is_touched = False
            link.is_opaque = False
            link.sequences_since = link.turn + 1
        self._broker.release(link)


@final
class SwallowSync(InternalQuery):
    """Close a Sync group in which nothing was executed, unseen by the client."""

    __slots__ = ("_broker",)

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def run(self, link: BackendLink) -> None:
        """Send the Sync; the link must have no user."""
        link.expect_internal(self)
        link.send(SYNC_FRAME)

    def on_row(self, values: list[bytes | None]) -> None:
        """A Sync returns no rows."""

    def on_columns(self, body: bytes) -> None:
        """Of no interest."""

    def on_error(self, fields: dict[str, str]) -> None:
        """Nothing was executed: whatever it is, the status byte says where we are."""

    def on_done(self, link: BackendLink, status: int) -> None:
        """Back to the pool, if that is what the server says."""
        if status == tags.STATUS_IDLE:
            self._broker.release(link)
        else:
            self._broker.discard(link, "a Sync did not end its group")
