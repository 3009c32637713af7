"""
Semantic versions: whether a text is one, and which of two is the later.
"""

import re
from typing import Final

_VERSION: Final = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?\Z"
)
_LOOSE: Final = re.compile(r"\d+(?:\.\d+)*\Z")

VersionKey = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]


def is_version(text: str) -> bool:
    """Whether the text is a semantic version."""
    return len(text) <= 128 and _VERSION.match(text) is not None


def version_key(text: str) -> VersionKey:
    """
    A key that sorts versions by semantic-version precedence; build metadata does not count.

    Dotted numbers of any length are understood too (ABI 0 manifests have them): 1.2 is 1.2.0.
    """
    match = _VERSION.match(text)
    if match is None:
        if not _LOOSE.match(text):
            return (0,), ()
        numbers = [int(part) for part in text.split(".")]
        while len(numbers) < 3:
            numbers.append(0)
        return tuple(numbers), ((2, 0, ""),)
    release = tuple(int(part) for part in match.group(1, 2, 3))
    if match.group(4) is None:
        return release, ((2, 0, ""),)
    parts = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in match.group(4).split(".")
    )
    return release, parts
