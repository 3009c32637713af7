"""
How SCRAM messages are written: `x=value` parts with commas between, base64, decimal numbers.

Knows the letters of RFC 5802, and neither keys nor who says what.
"""

import binascii
from typing import Final, final

from proxy.errors import ProtocolViolation

MAX_SHOWN_BYTES: Final = 64
"""Longest piece of a peer's message that an error message shows."""
_COMMA: Final = 44


@final
class AttributeReader:
    """Take `x=value` parts, with commas between, from a message."""

    __slots__ = ("_message", "pos")

    def __init__(self, message: bytes) -> None:
        self._message = message
        self.pos = 0

    def peek(self) -> bytes:
        """The next character, b"" at the end."""
        return self._message[self.pos : self.pos + 1]

    def step(self) -> None:
        """Go behind the next character."""
        self.pos += 1

    def is_at_end(self) -> bool:
        """Nothing is left."""
        return self.pos >= len(self._message)

    def take(self, attribute: bytes) -> bytes:
        """The value of the attribute that must be next."""
        found = self.peek()
        if found != attribute:
            raise malformed(
                f'attribute "{printable(attribute)}" expected, but found "{printable(found)}"'
            )
        return self._value(attribute)

    def take_any(self) -> tuple[bytes, bytes]:
        """The next attribute, whatever it is, and its value."""
        attribute = self.peek()
        if not attribute.isalpha():
            raise malformed(
                f'attribute expected, but found invalid character "{printable(attribute)}"'
            )
        return attribute, self._value(attribute)

    def _value(self, attribute: bytes) -> bytes:
        message = self._message
        begin = self.pos + 2
        if message[begin - 1 : begin] != b"=":
            raise malformed(f'expected character "=" for attribute "{printable(attribute)}"')
        end = message.find(b",", begin)
        if end < 0:
            end = len(message)
            self.pos = end
        else:
            self.pos = end + 1
        return message[begin:end]


def check_text(message: bytes) -> None:
    """A message is not empty, and has no NUL in it."""
    if message == b"":
        raise malformed("the message is empty")
    if message.find(b"\x00") >= 0:
        raise malformed("message length does not match input length")


def malformed(what: str) -> ProtocolViolation:
    """The error for a message that breaks the grammar."""
    return ProtocolViolation(f"malformed SCRAM message: {what}")


def printable(text: bytes) -> str:
    """A peer's bytes, made fit for an error message and a log."""
    return "".join(
        [chr(byte) if 0x20 < byte < 0x7F else f"0x{byte:02x}" for byte in text[:MAX_SHOWN_BYTES]]
    )


def is_printable(text: bytes) -> bool:
    """What RFC 5802 calls printable: ASCII without space and comma."""
    return all(0x21 <= byte <= 0x7E and byte != _COMMA for byte in text)


def saslname(user: str) -> bytes:
    """A user name, with the two characters escaped that have a meaning."""
    name = user.encode("utf-8", "surrogateescape")
    return name.replace(b"=", b"=3D").replace(b",", b"=2C")


def count_of(digits: bytes, maximum: int) -> int:
    """A decimal number from 1 to `maximum`; 0 for anything else."""
    if not digits.isdigit() or len(digits) > 10:
        return 0
    count = int(digits)
    return count if count <= maximum else 0


def encode_base64(data: bytes) -> bytes:
    """Encode, on one line."""
    return binascii.b2a_base64(data, newline=False)


def decode_base64(text: bytes) -> bytes:
    """Decode; b"" for what is not base64."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return b""
