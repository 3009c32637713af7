"""
Cut a byte stream into protocol frames.

A frame is one message as it travels: a type byte, a big-endian Int32 length that counts itself
but not the type byte, then the body. This module knows framing and nothing else; it never
looks inside a body.
"""

from typing import Final, final

from proxy.errors import ProtocolViolation

HEADER_BYTES: Final = 5


@final
class FrameReader:
    """
    Split received bytes into whole frames, keeping the incomplete tail.

    After `next_frame` answered True, `buffer[start:end]` is the frame, `tag` its type byte. The
    buffer stays valid until the next `feed`. Raises only ProtocolViolation.
    """

    __slots__ = ("_max_frame_bytes", "_pos", "buffer", "end", "start", "tag")

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self.buffer = b""
        self._pos = 0
        self.tag = 0
        self.start = 0
        self.end = 0

    def feed(self, data: bytes) -> None:
        """Add received bytes behind what is left over."""
        pos = self._pos
        if pos >= len(self.buffer):
            self.buffer = data
        else:
            self.buffer = self.buffer[pos:] + data
        self._pos = 0

    def next_frame(self) -> bool:
        """Step to the next whole frame; False means more bytes are needed."""
        buffer = self.buffer
        pos = self._pos
        if len(buffer) - pos < HEADER_BYTES:
            return False
        length = (
            (buffer[pos + 1] << 24)
            | (buffer[pos + 2] << 16)
            | (buffer[pos + 3] << 8)
            | buffer[pos + 4]
        )
        if length < 4 or length > self._max_frame_bytes:
            raise ProtocolViolation(f"invalid message length {length}")
        end = pos + 1 + length
        if end > len(buffer):
            return False
        self.tag = buffer[pos]
        self.start = pos
        self.end = end
        self._pos = end
        return True

    def pending_bytes(self) -> int:
        """How many bytes wait behind the last whole frame."""
        return len(self.buffer) - self._pos

    def take_rest(self) -> bytes:
        """Remove and return all bytes behind the last frame."""
        rest = self.buffer[self._pos :]
        self.buffer = b""
        self._pos = 0
        return rest
