"""
The event loop as the hooks see it: later, and what time it is.
"""

import asyncio
from collections.abc import Callable
from typing import final

from proxy.hooks.outcomes import Scheduler
from proxy.session.ports import Clock


@final
class LoopScheduler(Scheduler):
    """The running loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back in the loop."""
        asyncio.get_running_loop().call_later(delay_s, callback)

    def now_us(self) -> int:
        """Microseconds that only go forward."""
        return self._clock.now_us()
