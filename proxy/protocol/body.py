"""
Read and write what messages are made of: Byte, Int16, Int32, String, and counted bytes.

The reader raises ProtocolViolation, in PostgreSQL's words (pqformat.c), for anything that does not
fit. Knows no message by name.
"""

from typing import Final, final

from proxy.errors import ProtocolViolation

NULL_LENGTH: Final = -1
"""The length that stands for a NULL value, in Bind, FunctionCall and DataRow."""


@final
class BodyReader:
    """Take one field after the other from a message's body; `finish` when all are taken."""

    __slots__ = ("_body", "_end", "_pos")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._pos = 0
        self._end = len(body)

    def take_byte(self) -> int:
        """Byte1."""
        pos = self._pos
        if pos >= self._end:
            raise ProtocolViolation("no data left in message")
        self._pos = pos + 1
        return self._body[pos]

    def take_int16(self) -> int:
        """Int16 with a sign."""
        value = self.take_uint16()
        return value - 0x10000 if value >= 0x8000 else value

    def take_uint16(self) -> int:
        """Int16 without a sign: counts go to 65,535."""
        pos = self._pos
        if self._end - pos < 2:
            raise ProtocolViolation("insufficient data left in message")
        self._pos = pos + 2
        body = self._body
        return (body[pos] << 8) | body[pos + 1]

    def take_int32(self) -> int:
        """Int32 with a sign."""
        value = self.take_uint32()
        return value - 0x100000000 if value >= 0x80000000 else value

    def take_uint32(self) -> int:
        """Int32 without a sign: OIDs, and numbers that are only compared."""
        pos = self._pos
        if self._end - pos < 4:
            raise ProtocolViolation("insufficient data left in message")
        self._pos = pos + 4
        body = self._body
        return (body[pos] << 24) | (body[pos + 1] << 16) | (body[pos + 2] << 8) | body[pos + 3]

    def take_cstring(self) -> bytes:
        """A String, without its NUL."""
        pos = self._pos
        end = self._body.find(b"\x00", pos)
        if end < 0:
            raise ProtocolViolation("invalid string in message")
        self._pos = end + 1
        return self._body[pos:end]

    def take_bytes(self, size: int) -> bytes:
        """As many bytes as were announced."""
        pos = self._pos
        if size < 0 or size > self._end - pos:
            raise ProtocolViolation("insufficient data left in message")
        self._pos = pos + size
        return self._body[pos : pos + size]

    def take_value(self) -> bytes | None:
        """An Int32 length and as many bytes; None for NULL."""
        size = self.take_int32()
        if size == NULL_LENGTH:
            return None
        return self.take_bytes(size)

    def take_uint16_list(self) -> list[int]:
        """An Int16 count and as many Int16."""
        # The count goes to 65,535 only, so that a lying one costs little before it is found out.
        count = self.take_uint16()
        return [self.take_uint16() for _ in range(count)]

    def take_oid_list(self) -> list[int]:
        """An Int16 count and as many OIDs."""
        count = self.take_uint16()
        return [self.take_uint32() for _ in range(count)]

    def take_values(self, count: int) -> list[bytes | None]:
        """As many values, each an Int32 length and its bytes; None for NULL."""
        return [self.take_value() for _ in range(count)]

    def take_rest(self) -> bytes:
        """All that is left."""
        pos = self._pos
        self._pos = self._end
        return self._body[pos:]

    def left_bytes(self) -> int:
        """How many bytes are left."""
        return self._end - self._pos

    def finish(self) -> None:
        """Nothing may be left."""
        if self._pos != self._end:
            raise ProtocolViolation("invalid message format")


def frame(tag: int, body: bytes) -> bytes:
    """A whole message: type byte, length, body."""
    length = len(body) + 4
    return (
        bytes(
            (
                tag,
                (length >> 24) & 0xFF,
                (length >> 16) & 0xFF,
                (length >> 8) & 0xFF,
                length & 0xFF,
            )
        )
        + body
    )


def int16(value: int) -> bytes:
    """Int16; takes signed and unsigned values."""
    return bytes(((value >> 8) & 0xFF, value & 0xFF))


def int32(value: int) -> bytes:
    """Int32; takes signed and unsigned values."""
    return (value & 0xFFFFFFFF).to_bytes(4, "big")


def counted_value(value: bytes | None) -> bytes:
    """A value behind its length; None is NULL."""
    if value is None:
        return b"\xff\xff\xff\xff"
    return int32(len(value)) + value


def counted_values(values: list[bytes | None]) -> bytes:
    """An Int16 count and as many values."""
    return int16(len(values)) + b"".join([counted_value(value) for value in values])


def uint16_list(values: list[int]) -> bytes:
    """An Int16 count and as many Int16."""
    return int16(len(values)) + b"".join([int16(value) for value in values])


def oid_list(oids: list[int]) -> bytes:
    """An Int16 count and as many OIDs."""
    return int16(len(oids)) + b"".join([int32(oid) for oid in oids])
