"""
Read the fields of one message body: integers, strings, counted bytes.

Shared by the frontend's and the backend's decoders. Raises only ProtocolViolation, in PostgreSQL's
words.
"""

from typing import final

from proxy.errors import ProtocolViolation


@final
class FieldReader:
    """A position in a body. Each read moves it; `finish` demands that nothing is left."""

    __slots__ = ("_body", "_pos")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._pos = 0

    def byte(self) -> int:
        """Byte1."""
        pos = self._pos
        if pos >= len(self._body):
            raise ProtocolViolation("no data left in message")
        self._pos = pos + 1
        return self._body[pos]

    def int16(self) -> int:
        """Int16, unsigned."""
        pos = self._pos
        if len(self._body) - pos < 2:
            raise ProtocolViolation("insufficient data left in message")
        self._pos = pos + 2
        return (self._body[pos] << 8) | self._body[pos + 1]

    def uint32(self) -> int:
        """Int32, unsigned: OIDs and keys."""
        body = self._body
        pos = self._pos
        if len(body) - pos < 4:
            raise ProtocolViolation("insufficient data left in message")
        self._pos = pos + 4
        return (body[pos] << 24) | (body[pos + 1] << 16) | (body[pos + 2] << 8) | body[pos + 3]

    def int32(self) -> int:
        """Int32, signed."""
        value = self.uint32()
        if value >= 0x80000000:
            return value - 0x100000000
        return value

    def string(self) -> bytes:
        """String: up to its NUL, without it."""
        end = self._body.find(0, self._pos)
        if end < 0:
            raise ProtocolViolation("invalid string in message")
        value = self._body[self._pos : end]
        self._pos = end + 1
        return value

    def counted(self, size: int) -> bytes:
        """Byten: exactly `size` bytes."""
        if size < 0 or len(self._body) - self._pos < size:
            raise ProtocolViolation("insufficient data left in message")
        value = self._body[self._pos : self._pos + size]
        self._pos += size
        return value

    def value(self) -> bytes | None:
        """Int32 length and that many bytes; None for length -1 (NULL)."""
        size = self.int32()
        if size == -1:
            return None
        return self.counted(size)

    def rest(self) -> bytes:
        """Everything that is left."""
        value = self._body[self._pos :]
        self._pos = len(self._body)
        return value

    def left(self) -> int:
        """How many bytes are left."""
        return len(self._body) - self._pos

    def finish(self) -> None:
        """The message ends here."""
        if self._pos != len(self._body):
            raise ProtocolViolation("invalid message format")


def int16(value: int) -> bytes:
    """Encode an Int16."""
    return (value & 0xFFFF).to_bytes(2, "big")


def int32(value: int) -> bytes:
    """Encode an Int32, signed or not."""
    return (value & 0xFFFFFFFF).to_bytes(4, "big")


def frame(tag: int, body: bytes) -> bytes:
    """A whole message: type byte, length, body."""
    return bytes([tag]) + (len(body) + 4).to_bytes(4, "big") + body


def encode_value(value: bytes | None) -> bytes:
    """Int32 length and bytes; -1 for None."""
    if value is None:
        return b"\xff\xff\xff\xff"
    return len(value).to_bytes(4, "big") + value
