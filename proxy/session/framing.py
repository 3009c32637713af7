"""
Bytes of one client to messages: where each ends, what is long and must be waited for, COPY data.

The frame that `session.intake` reads messages in. Raises only ProtocolViolation.
"""

from typing import Final

from proxy.errors import ProtocolViolation
from proxy.protocol import tags
from proxy.protocol.lengths import (
    MAX_MESSAGE_BYTES,
    SMALL_MESSAGE_BYTES,
    check_type,
    is_long_type,
)

CUT_BYTES: Final = 64 * 1024
"""A pipeline without Sync or Flush that grows longer than this is sent on in parts, so that its
memory stays bounded; the server's answers are the same."""

HEADER_BYTES: Final = 5


class Framing:
    """The client's bytes that were received and not yet given out."""

    __slots__ = (
        "_base",
        "_buffer",
        "_chunks",
        "_have",
        "_max_message_bytes",
        "_needed",
        "_passing",
        "_pos",
        "copy_end",
        "is_terminated",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = min(max_message_bytes, MAX_MESSAGE_BYTES)
        self._buffer = b""
        self._base = 0  # start of the batch that is being collected
        self._pos = 0  # start of the first message not yet looked at
        self._chunks: list[bytes] = []
        self._have = 0
        self._needed = 0
        self._passing = 0  # bytes of a CopyData that is passed on in pieces
        self.copy_end = 0
        self.is_terminated = False

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        if self._needed > 0:
            # A long message is joined once, when all of it is there: no quadratic copying.
            self._chunks.append(data)
            self._have += len(data)
            if self._have < self._needed:
                return
            self._buffer = b"".join(self._chunks)
            self._chunks = []
            self._have = 0
            self._needed = 0
            return
        base = self._base
        if base >= len(self._buffer):
            self._buffer = data
        else:
            self._buffer = self._buffer[base:] + data
        self._pos -= base
        self._base = 0

    def pending_bytes(self) -> int:
        """Bytes that were received and not yet given out."""
        return len(self._buffer) - self._base + self._have

    def _next(self) -> int:
        """End of the message at `_pos`, or -1 while it is incomplete."""
        buffer = self._buffer
        pos = self._pos
        if len(buffer) - pos < HEADER_BYTES or self._needed > 0:
            if pos < len(buffer) and self._needed == 0:
                check_type(buffer[pos])
            return -1
        length = (
            (buffer[pos + 1] << 24)
            | (buffer[pos + 2] << 16)
            | (buffer[pos + 3] << 8)
            | buffer[pos + 4]
        )
        if (
            length < 4
            or length > self._max_message_bytes
            or (length > SMALL_MESSAGE_BYTES and not is_long_type(buffer[pos]))
        ):
            check_type(buffer[pos])
            raise ProtocolViolation("invalid message length")
        end = pos + 1 + length
        if end > len(buffer):
            check_type(buffer[pos])
            if end - pos > CUT_BYTES and pos - self._base <= CUT_BYTES:
                # Long, and not behind messages that are to be sent on without it.
                rest = buffer[self._base :]
                self._chunks = [rest]
                self._have = len(rest)
                self._needed = end - self._base
                self._pos -= self._base
                self._base = 0
                self._buffer = b""
                # _pos stays relative to the batch; feed() brings the whole buffer back.
            return -1
        return end

    def copy_run(self) -> bytes:
        """
        During COPY IN: what can be passed to the server now, parts of a CopyData included.

        `copy_end` is then the type of the message that ended the run; 0 when the COPY goes on.
        CopyDone and CopyFail are part of the run, and a Sync is dropped: the server ignores it
        during a COPY, but would not if the COPY failed before it got there. Any other message
        stays where it is.
        """
        self.copy_end = 0
        if self._needed > 0:
            self._buffer = b"".join(self._chunks)
            self._chunks = []
            self._have = 0
            self._needed = 0
        buffer = self._buffer
        start = self._base
        pos = start
        size = len(buffer)
        if self._passing > 0:
            if self._passing > size - pos:
                self._passing -= size - pos
                self._base = size
                self._pos = size
                return buffer[start:]
            pos += self._passing
            self._passing = 0
        while size - pos >= HEADER_BYTES:
            tag = buffer[pos]
            length = (
                (buffer[pos + 1] << 24)
                | (buffer[pos + 2] << 16)
                | (buffer[pos + 3] << 8)
                | buffer[pos + 4]
            )
            if length < 4 or length > self._max_message_bytes:
                raise ProtocolViolation("invalid message length")
            if length > SMALL_MESSAGE_BYTES and tag != tags.COPY_DATA:
                # SAFETY: a server ends the connection too. It must not be waited for until it is
                # whole: each chunk that comes would be joined to all before it.
                raise ProtocolViolation(
                    f"unexpected message type 0x{tag:02X} during COPY from stdin"
                )
            end = pos + 1 + length
            if tag == tags.COPY_DATA:
                if end > size:
                    self._passing = end - size
                    pos = size
                    break
                pos = end
                continue
            if end > size:
                break
            if tag == tags.TERMINATE:
                self.is_terminated = True
                break
            if tag == tags.SYNC:
                self.copy_end = tag
                self._base = end
                self._pos = end
                return buffer[start:pos]
            if tag == tags.FLUSH:
                pos = end
                continue
            # SAFETY: what is no part of a COPY is not sent unjudged. The COPY may have failed.
            self.copy_end = tag
            if tag == tags.COPY_DONE or tag == tags.COPY_FAIL:
                pos = end
            break
        self._base = pos
        self._pos = pos
        return buffer[start:pos]

    def abandon_copy(self) -> int:
        """
        The COPY failed: what is left of a CopyData in pieces goes nowhere.

        Returns how many bytes of it the server still waits for, before it can take a new message.
        """
        rest = self._passing
        if rest > 0:
            have = len(self._buffer) - self._base
            take = rest if rest < have else have
            self._base += take
            self._pos = self._base
            self._passing = rest - take
        return rest

    def drop_passing(self) -> bool:
        """Swallow the rest of an abandoned CopyData; False while some of it is still to come."""
        if self._passing > 0:
            self.abandon_copy()
        return self._passing == 0
