"""
When the clock behind time limits has to tick, and when it may wait or rest.

Each tick of `plugins.ticker` starts a thread of the C library's: 160 us of processor time here, and a
hundred of them a second for nothing while calls take microseconds. So a process that makes short
calls in its event loop puts the next tick off every few milliseconds, and it comes only if one of
them does not return; and where no call was made for a while, the clock stands still. Calls that
may take longer, on any thread, say so first (`need`), and have regular ticks until they are `over`.
"""

from threading import get_ident
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from proxy.plugins.ticker import Ticker

REST_NS: Final = 100_000_000
"""Without a call for so long the clock rests, when that is looked at next."""

MARGIN_NS: Final = 2_000_000_000
"""How much longer than twice its limit a call may be under way; then fuel must end it."""

MAX_TICKS: Final = 60_000


@final
class Pulse:
    """
    The ticker of this process, and who needs it. The event loop's thread calls all but `need` and
    `over`. Times are CLOCK_MONOTONIC's.

    ticker      None while nothing runs guests
    is_resting  it does not tick at all
    """

    __slots__ = ("_needed_until_ns", "_touched_ns", "is_resting", "ticker")

    def __init__(self) -> None:
        self.ticker: Ticker | None = None
        self.is_resting = False
        self._touched_ns = 0
        # By thread, each of which runs one call at a time: until when ticks are promised to it.
        self._needed_until_ns: dict[int, int] = {}

    def follow(self, ticker: "Ticker") -> None:
        """Go by another ticker from now on: the process has a new engine."""
        self.ticker = ticker
        self.is_resting = False
        self._needed_until_ns.clear()
        self._touched_ns = perf_counter_ns()

    def need(self, ticks: int) -> None:
        """A call begins, on any thread, that may run for so many ticks; or goes on for so many."""
        ticker = self.ticker
        if ticker is None:
            return
        wait_ns = min(ticks, MAX_TICKS) * ticker.period_ms * 2_000_000 + MARGIN_NS
        until_ns = perf_counter_ns() + wait_ns
        thread = get_ident()
        self._needed_until_ns[thread] = max(until_ns, self._needed_until_ns.get(thread, 0))
        # In this order, and `look` looks in the other: one of both sees what the other did.
        if self.is_resting:
            self.is_resting = False
            ticker.begin_again()

    def over(self) -> None:
        """This thread's call has ended. Who never says so is counted on until its time is up."""
        self._needed_until_ns.pop(get_ident(), None)

    def is_needed(self, now_ns: int) -> bool:
        """Whether ticks are promised to somebody."""
        if not self._needed_until_ns:
            return False
        # All at once: other threads come and go.
        return now_ns < max(tuple(self._needed_until_ns.values()), default=0)

    def put_off(self, now_ns: int) -> None:
        """A short call begins: the next tick comes a period from now, if nobody needs one before."""
        self._touched_ns = now_ns
        if self.is_needed(now_ns):
            return
        ticker = self.ticker
        if ticker is not None:
            self.is_resting = False
            ticker.begin_again()

    def look(self, now_ns: int) -> None:
        """Rest, if no call was made for a while; to be called now and then."""
        ticker = self.ticker
        if ticker is None or self.is_resting:
            return
        if now_ns - self._touched_ns < REST_NS or self.is_needed(now_ns):
            return
        self.is_resting = True
        ticker.rest()
        if self.is_needed(now_ns):
            self.is_resting = False
            ticker.begin_again()


PULSE: Final = Pulse()
