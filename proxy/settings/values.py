"""
Single values of the file: durations, sizes, environment variables, both ways where it makes sense.

Every function takes text and gives a value or raises ValueError with what was expected. Knows
nothing of TOML, keys or sections.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from proxy.settings.kinds import GIB, KIB, MIB

EXPECTED_DURATION: Final = 'a duration such as "5ms", "30s", "10m" or "1h30m", or "0"'
EXPECTED_SIZE: Final = 'a size such as "64kB", "16MiB" or "1GB"'

# A timer for longer than this is a mistake, and would overflow somewhere below.
MAX_DURATION_S: Final = 10 * 365 * 86400
MAX_SIZE_BYTES: Final = (1 << 63) - 1

_MICROSECONDS: Final = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
# As in PostgreSQL's own settings, kB, MB and GB are powers of 1024 too.
_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": KIB,
    "kib": KIB,
    "mb": MIB,
    "mib": MIB,
    "gb": GIB,
    "gib": GIB,
    "tb": 1024 * GIB,
    "tib": 1024 * GIB,
}
# The number of digits is bounded, so that no text makes huge integers.
_DURATION_PART: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(us|ms|s|min|m|h|d)")
_SIZE: Final = re.compile(r"([0-9]{1,19}) ?([A-Za-z]{0,3})")
_REFERENCE: Final = re.compile(
    r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}|\$\{", re.DOTALL
)


def parse_duration(text: str) -> float:
    """Seconds of "5ms", "30s", "10m", "1h30m"; 0.0 of "0"."""
    if text == "0":
        return 0.0
    position = 0
    total_us = Decimal(0)
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        if part is None:
            break
        total_us += Decimal(part[1]) * _MICROSECONDS[part[2]]
        position = part.end()
    if not text or position < len(text):
        raise ValueError(EXPECTED_DURATION)
    seconds = float(total_us / 1_000_000)
    if seconds > MAX_DURATION_S:
        raise ValueError("at most 3650d")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest text that parse_duration reads as this."""
    rest = round(seconds * 1_000_000)
    if rest == 0:
        return "0"
    for unit in ("d", "h", "m", "s", "ms"):
        if rest % _MICROSECONDS[unit] == 0:
            return f"{rest // _MICROSECONDS[unit]}{unit}"
    return f"{rest}us"


def parse_size(text: str) -> int:
    """Bytes of "256B", "64kB", "16MiB", "1GB"; units are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(EXPECTED_SIZE)
    size = int(match[1]) * _SIZE_UNITS[match[2].lower()]
    if size > MAX_SIZE_BYTES:
        raise ValueError("less than 8388608TiB")
    return size


def format_size(size_bytes: int) -> str:
    """The shortest text that parse_size reads as this."""
    if size_bytes == 0:
        return "0"
    for unit, factor in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def expand_environment(text: str, environ: Mapping[str, str]) -> str:
    """
    Replace ${NAME} and ${NAME:-default}; `$${` stands for `${`.

    As in a shell, the default is used for a variable that is not set or is empty. What a variable
    holds is never expanded again.
    """

    def value_of(match: re.Match[str]) -> str:
        name: str | None = match[1]
        if name is None:
            if match[0] == "$${":
                return "${"
            raise ValueError(
                "not a variable; expected ${NAME} or ${NAME:-default}, or $${ for ${ itself"
            )
        value = environ.get(name)
        default: str | None = match[2]
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(
                f"environment variable {name} is not set; expected it set, or ${{{name}:-default}}"
            )
        return value

    return _REFERENCE.sub(value_of, text)
