"""
What a server says before a connection ends that it did not mean to end.

When one server process crashes, and at an immediate shutdown, PostgreSQL's other processes say so by
a WARNING and go. To the client that is an error only if what it waits for is lost with it.
"""

from typing import Final

from proxy.errors import Refusal
from proxy.protocol import backend

CRASH_OF_ANOTHER: Final = "57P02"
_LAST_WORDS: Final = ("57P01", CRASH_OF_ANOTHER)


NODE_IS_DOWN: Final = Refusal("08006", "the server does not answer any more", severity="FATAL")
"""Why a connection is left that has not ended."""


def is_farewell(body: bytes) -> bool:
    """Whether a NoticeResponse is the last that the server has to say."""
    return backend.sqlstate_of(backend.error_fields(body)) in _LAST_WORDS


def fatal_of(fields: dict[str, str]) -> Refusal:
    """The server's own words as a client's end."""
    return Refusal(
        backend.sqlstate_of(fields),
        backend.message_of(fields),
        fields.get("D", ""),
        fields.get("H", ""),
        "FATAL",
    )


def refusal_of(rest: list[bytes], node: str) -> Refusal:
    """Why a connection has ended, from what of it was not handed on yet."""
    message = b"".join(rest)
    if message[:1] == b"N":
        fields = backend.error_fields(message[5:])
        if backend.sqlstate_of(fields) in _LAST_WORDS:
            return fatal_of(fields)
    return Refusal(
        "08006",
        "server closed the connection unexpectedly",
        detail=f'The connection to node "{node}" ended while it was in use.',
        severity="FATAL",
    )
