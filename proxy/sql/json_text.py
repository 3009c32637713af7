"""
The parts of the plugins' envelope that depend on the statement alone, as JSON fragments.

Fragments have no braces: whoever makes an envelope joins them with commas. Built once for each
cached statement, so that a plugin's call only copies them.
"""

from typing import Final

import msgspec

# The hard cap on a plugin call's input is 1 MiB. A longer text never reaches a plugin whole; its
# fragment is cut above that cap, so that it fails any check of length and costs no second copy.
MAX_TEXT_BYTES: Final = (1 << 20) + (1 << 16)

_ENCODER: Final = msgspec.json.Encoder()

json_of_text: Final = _ENCODER.encode
"""A text as JSON. PERF: looked up once."""


def head_fragment(text: str, normalized: str, tables: tuple[str, ...], is_read_only: bool) -> bytes:
    """What pre_query and its like see first: query, normalized, tables, is_read_only."""
    encode = _ENCODER.encode
    return b'"query":%b,"normalized":%b,"tables":%b,"is_read_only":%b' % (
        encode(text),
        encode(normalized),
        encode(tables),
        b"true" if is_read_only else b"false",
    )


def tail_fragment(kind: str, fingerprint: str) -> bytes:
    """What comes after the session's part of the envelope: kind, fingerprint."""
    encode = _ENCODER.encode
    return b'"kind":%b,"fingerprint":%b' % (encode(kind), encode(fingerprint))


def rest_of(head: bytes) -> int:
    """Where the part of a head begins that does not depend on the text: behind its "query"."""
    # JSON strings have no bare quote, so the first one that is not escaped ends the text.
    pos = len(b'"query":"')
    while True:
        end = head.index(b'"', pos)
        slashes = 0
        while head[end - 1 - slashes] == 0x5C:
            slashes += 1
        pos = end + 1
        if slashes % 2 == 0:
            return pos


def query_fragment(text: str) -> bytes:
    """The part of a head that depends on the text."""
    return b'"query":' + json_of_text(text)
