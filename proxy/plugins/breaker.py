"""
The circuit breaker of one plugin at one hook: after too many failures it answers without a call.

Pure: time comes in as an argument, in seconds.
"""

from collections import deque
from typing import Final, final

FAILURES: Final = 5
WINDOW_S: Final = 30.0
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0

CLOSED: Final = "closed"
OPEN: Final = "open"
HALF_OPEN: Final = "half-open"


@final
class Breaker:
    """
    Opens after FAILURES failures within WINDOW_S; then lets one trial call through after 1 s. If
    that fails the pause doubles, up to 60 s; if it succeeds, all is forgotten.
    """

    __slots__ = ("_failures", "_pause_s", "_until", "opened", "state")

    def __init__(self) -> None:
        self.state = CLOSED
        self.opened = 0
        self._failures: deque[float] = deque(maxlen=FAILURES)
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may go through now; a True while open is the one trial call."""
        if self.state == CLOSED:
            return True
        if self.state == OPEN and now >= self._until:
            self.state = HALF_OPEN
            return True
        return False

    def failed(self, now: float) -> None:
        """A call failed."""
        if self.state == HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            self._open(now)
            return
        self._failures.append(now)
        if (
            self.state == CLOSED
            and len(self._failures) == FAILURES
            and now - self._failures[0] <= WINDOW_S
        ):
            self._pause_s = FIRST_PAUSE_S
            self._open(now)

    def _open(self, now: float) -> None:
        self.state = OPEN
        self.opened += 1
        self._until = now + self._pause_s
        self._failures.clear()

    def succeeded(self) -> None:
        """A call came back."""
        if self.state == HALF_OPEN:
            self.state = CLOSED
            self._pause_s = FIRST_PAUSE_S
            self._failures.clear()

    def relapse(self) -> None:
        """What looked like a success of the trial call was none after all."""
        if self.state == CLOSED:
            self.state = HALF_OPEN
