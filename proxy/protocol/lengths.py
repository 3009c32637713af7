"""
Which messages a frontend may send after its login, and how long they may be.
"""

from typing import Final

from proxy.errors import ProtocolViolation
from proxy.protocol import tags

MAX_MESSAGE_BYTES: Final = 0x3FFFFFFE
"""Longest message that PostgreSQL takes at all (PQ_LARGE_MESSAGE_LIMIT)."""

SMALL_MESSAGE_BYTES: Final = 10_000
"""Longest message of a type that holds names only (PostgreSQL's PQ_SMALL_MESSAGE_LIMIT)."""


def is_long_type(tag: int) -> bool:
    """Whether a message of this type may be long."""
    return (
        tag == tags.QUERY
        or tag == tags.PARSE
        or tag == tags.BIND
        or tag == tags.COPY_DATA
        or tag == tags.FUNCTION_CALL
    )


def check_type(tag: int) -> None:
    """Raise ProtocolViolation for what no client may send after its login."""
    if (
        is_long_type(tag)
        or tag == tags.EXECUTE
        or tag == tags.SYNC
        or tag == tags.DESCRIBE
        or tag == tags.CLOSE
        or tag == tags.FLUSH
        or tag == tags.TERMINATE
        or tag == tags.COPY_DONE
        or tag == tags.COPY_FAIL
    ):
        return
    raise ProtocolViolation(f"invalid frontend message type {tag}")
