"""
The time that a call into a guest has, in ticks of the clock. Compiled: set at every call of a plugin.
"""

from typing import Final, final

TICK_MS: Final = 10
"""Resolution of time limits; see `plugins.pulse`."""

GRACE_NS: Final = TICK_MS * 1_000_000
"""With it a call has at least its time limit, wherever between two ticks it began."""


@final
class Allowance:
    """
    Whether a guest's time is up, asked at ticks that it meets.

    `begin` goes before each call whose deadline is set in the store: without it, two innocent calls
    that each met a tick look like one call that ran from the first to the second. Where setting a
    deadline is too slow, `left = ticks` goes before each call instead, and the ticks that the call
    meets are counted here; the store's deadline is then never more than one tick ahead.

    On a busy machine the whole process may have been off the processor, and ticks that were held
    up then come all at once, to an innocent call. So what counts from the deadline on is the time
    of the processor: a guest that takes a tick of it more is stopped. Fuel bounds all of that.
    """

    __slots__ = ("_expired_ns", "_is_passed", "left")

    def __init__(self) -> None:
        self.left = 0
        self._expired_ns = 0  # of the thread's processor time; 0: the time is not up
        self._is_passed = False

    def begin(self) -> None:
        """A call starts, or gets its whole time again."""
        self._expired_ns = 0
        self.left = 0

    def is_used_up(self, now_ns: int) -> bool:
        """The running call has met a tick at this moment of its thread's processor time."""
        if self.left > 0:
            self.left -= 1
            self._expired_ns = now_ns
        elif self._expired_ns == 0:
            self._expired_ns = now_ns
        elif now_ns - self._expired_ns >= GRACE_NS:
            self._is_passed = True
            return True
        return False

    def take(self) -> bool:
        """Whether the last call was stopped by it; asked once."""
        was_passed, self._is_passed = self._is_passed, False
        return was_passed
