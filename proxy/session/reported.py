"""
Sets of settings that servers report, told apart by one number.

Clients are told of differences only (rule 18): whether there are any is asked for every statement.
"""

from typing import Final

UNTOLD: Final = b"in_hot_standby"
"""Not told again when it differs: with reads on standbys it would change with every statement, and
it says nothing about what the client can do here."""

MAX_IDENTITIES: Final = 10_000

_identities: dict[bytes, int] = {}
_last_identity = 0


def identify(reported: dict[bytes, bytes]) -> int:
    """
    A number for a set of reported settings, so that equal sets are recognised by one comparison.

    Equal sets have equal numbers as long as they are remembered; different ones never have.
    """
    global _last_identity
    pairs = sorted([name + b"\x00" + reported[name] for name in reported if name != UNTOLD])
    key = b"\x00".join(pairs)
    known = _identities.get(key)
    if known is None:
        _last_identity += 1
        known = _last_identity
        if len(_identities) >= MAX_IDENTITIES:
            _identities.clear()
        _identities[key] = known
    return known
