"""
Counters: plain integers that the hot path adds to and a collector reads at a scrape.

No locks (one event loop per process writes), no labels, no formatting: that is `observe.metrics`.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from typing import Final, final

LATENCY_BUCKETS_US: Final = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
)  # fmt: skip
"""Upper bounds of the plugins' histograms, from 1 us to 100 ms; one more bucket is +Inf."""

QUERY_BUCKETS_US: Final = (
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 2_000_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000,
)  # fmt: skip
"""Upper bounds of the histogram of queries, which may take as long as they like."""

_MILLISECOND_AT: Final = 4
"""Where in QUERY_BUCKETS_US a millisecond is."""

MAX_SQLSTATES: Final = 300
"""PostgreSQL has some 260 of its own."""


@final
class Histogram:
    """Durations in microseconds, counted by the bounds they are under (not cumulative)."""

    __slots__ = ("bounds_us", "buckets", "count", "sum_us")

    def __init__(self, bounds_us: tuple[int, ...] = LATENCY_BUCKETS_US) -> None:
        self.bounds_us = bounds_us
        self.buckets = [0] * (len(bounds_us) + 1)
        self.count = 0
        self.sum_us = 0.0

    def observe_call(self, duration_us: float) -> None:
        """Count one duration by LATENCY_BUCKETS_US."""
        self.count += 1
        self.sum_us += duration_us
        # PERF: a plugin's call takes 1 to 10 us as a rule; compiled, a constant tuple would be made
        # into an object each time.
        if duration_us <= 1.0:
            index = 0
        elif duration_us <= 2.0:
            index = 1
        elif duration_us <= 5.0:
            index = 2
        elif duration_us <= 10.0:
            index = 3
        else:
            index = bisect_left(self.bounds_us, duration_us)
        self.buckets[index] += 1

    def observe_query(self, duration_us: int) -> None:
        """Count one duration by QUERY_BUCKETS_US."""
        self.count += 1
        self.sum_us += duration_us
        # PERF: a statement takes 50 us to 1 ms as a rule; whole numbers compare fast.
        index = _MILLISECOND_AT if duration_us > 1_000 else 0
        bounds_us = self.bounds_us
        count = len(bounds_us)
        while index < count and duration_us > bounds_us[index]:
            index += 1
        self.buckets[index] += 1


class Meter(ABC):
    """Who counts calls where they are made, and hands the counts over when somebody reads them."""

    @abstractmethod
    def settle(self) -> None:
        """Give to the HookStats what was counted since the last time."""


@final
class HookStats:
    """
    One plugin at one hook: calls, failures by cause, decisions by action, latency, fuel.

    meters  asked for what they have counted before calls, fuel or latency are read
    """

    __slots__ = (
        "_calls", "_decisions", "_fuel", "_latency", "_times", "_word", "errors", "filtered", "memoized",
        "meters",
    )  # fmt: skip

    def __init__(self) -> None:
        self.filtered = 0
        self.memoized = 0
        self.errors: dict[str, int] = {}
        self.meters: list[Meter] = []
        self._calls = 0
        self._fuel = 0
        self._latency = Histogram()
        self._decisions: dict[str, int] = {}
        self._word = ""
        self._times = 0

    @property
    def calls(self) -> int:
        """How many calls were made, with those that failed."""
        self._ask_meters()
        return self._calls

    @property
    def fuel(self) -> int:
        """What all calls together have used."""
        self._ask_meters()
        return self._fuel

    @property
    def latency(self) -> Histogram:
        """How long calls took."""
        self._ask_meters()
        return self._latency

    def called(self, duration_us: float) -> None:
        """Count one call."""
        self._calls += 1
        self._latency.observe_call(duration_us)

    def used(self, fuel: int) -> None:
        """Count what a call has used."""
        self._fuel += fuel

    def add(self, calls: int, fuel: int, sum_us: float, buckets: tuple[int, ...]) -> None:
        """Count what a meter has counted; `buckets` are those of LATENCY_BUCKETS_US."""
        self._calls += calls
        self._fuel += fuel
        latency = self._latency
        latency.count += calls
        latency.sum_us += sum_us
        for index, times in enumerate(buckets):
            latency.buckets[index] += times

    def _ask_meters(self) -> None:
        for meter in self.meters:
            meter.settle()

    def failed(self, cause: str) -> None:
        """Count a failed call: trap, fuel, timeout, memory, bad_answer, host, breaker."""
        self.errors[cause] = self.errors.get(cause, 0) + 1

    def decided(self, action: str) -> None:
        """Count what an answer said: continue, block, rewrite, cached ..."""
        # PERF: it is the same word again as a rule, and then the very same object.
        if action is not self._word:
            self._settle()
            self._word = action
        self._times += 1

    @property
    def decisions(self) -> dict[str, int]:
        """How often answers said what."""
        self._settle()
        return self._decisions

    def _settle(self) -> None:
        if self._times:
            self._decisions[self._word] = self._decisions.get(self._word, 0) + self._times
            self._times = 0


@final
class PoolCounters:
    """One pool's sums: (database, user, node)."""

    __slots__ = (
        "bytes_received",
        "bytes_sent",
        "errors",
        "login_failures",
        "logins",
        "queries",
        "wait_us",
        "waits",
    )

    def __init__(self) -> None:
        self.queries = 0
        self.errors = 0
        self.bytes_received = 0
        self.bytes_sent = 0
        self.waits = 0
        self.wait_us = 0
        self.logins = 0
        self.login_failures = 0


@final
class Counters:
    """
    Sums over the whole process.

    by_cause counts everything that is refused, dropped or lost under one word each: protocol
    violations, refused logins, dropped outcomes ... Nothing is lost silently.
    """

    __slots__ = (
        "blocked",
        "by_cause",
        "bytes_from_clients",
        "bytes_to_clients",
        "cancels",
        "clients_active",
        "clients_total",
        "errors",
        "queries",
        "query_us",
        "read_routed",
        "sqlstates",
        "write_routed",
    )

    def __init__(self) -> None:
        self.clients_active = 0
        self.clients_total = 0
        self.queries = 0
        self.errors = 0
        self.blocked = 0
        self.cancels = 0
        self.bytes_from_clients = 0
        self.bytes_to_clients = 0
        self.query_us = Histogram(QUERY_BUCKETS_US)
        self.read_routed = 0
        self.write_routed = 0
        self.sqlstates: dict[str, int] = {}
        self.by_cause: dict[str, int] = {}

    def count(self, cause: str) -> None:
        """Add one to `by_cause`."""
        self.by_cause[cause] = self.by_cause.get(cause, 0) + 1

    def refused(self, sqlstate: str) -> None:
        """Count an ErrorResponse that a client was sent, by the proxy or by a server."""
        self.errors += 1
        if sqlstate not in self.sqlstates and len(self.sqlstates) >= MAX_SQLSTATES:
            # A function can raise any of 60 million: the rest shares one line.
            sqlstate = "other"
        self.sqlstates[sqlstate] = self.sqlstates.get(sqlstate, 0) + 1
