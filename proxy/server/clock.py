"""
The clocks of the program, in one place: the core gets time as an argument or through `Clock`.
"""

import time
from typing import final

from proxy.session.ports import Clock


@final
class MonotonicClock(Clock):
    """CLOCK_MONOTONIC."""

    def now_us(self) -> int:
        """Microseconds since some fixed moment."""
        return time.monotonic_ns() // 1000


def monotonic_s() -> float:
    """Seconds since some fixed moment."""
    return time.monotonic()


def unix_time_s() -> float:
    """Seconds since the epoch: for validity dates and logs."""
    return time.time()
