"""
The clocks of the program, in one place: the core gets time as an argument or through `Clock`.
"""

import time
from typing import Final, final

from proxy.session.ports import Clock

# PERF: looked up once. Two are taken of every statement.
_monotonic_ns: Final = time.monotonic_ns


@final
class MonotonicClock(Clock):
    """CLOCK_MONOTONIC."""

    def now_us(self) -> int:
        """Microseconds since some fixed moment."""
        return _monotonic_ns() // 1000


def monotonic_s() -> float:
    """Seconds since some fixed moment."""
    return time.monotonic()


def unix_time_s() -> float:
    """Seconds since the epoch: for validity dates and logs."""
    return time.time()
