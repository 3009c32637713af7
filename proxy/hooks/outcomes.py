"""
What happens after a reply, off the client's path: post_query and cache_set.

A bounded queue, drained in the event loop in slices so short that client traffic does not notice.
What does not fit is dropped and counted by hook; nothing is lost silently. Knows no clock and no
loop of its own: the `Scheduler` is passed in.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, final

from mypy_extensions import mypyc_attr

from proxy.errors import PluginFailed
from proxy.hooks import answers, codec
from proxy.hooks.points import CACHE_SET, POST_QUERY, Completion, HookChains, Subscriber
from proxy.hooks.rowset import ResultCache, rows_from_server
from proxy.observe.counters import Counters
from proxy.session.inspection import Inspection, RowSet

DEFAULT_LIMIT: Final = 10_000
SLICE_US: Final = 1_000
"""One slice delays a statement that arrives meanwhile by no more than that and one call."""
PAUSE_S: Final = 0.001
"""Between slices, so that sockets have as much time as outcomes even under overload."""
MAX_RESULT_BYTES: Final = 32 * 1024 * 1024
MAX_SLOW_CALLS: Final = 256


@mypyc_attr(allow_interpreted_subclasses=True)
class Scheduler(ABC):
    """The event loop and its clock."""

    @abstractmethod
    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call back in the loop, not before other work that waits now."""

    @abstractmethod
    def now_us(self) -> int:
        """Microseconds that only go forward."""


@final
class _Item:
    """One finished statement; it holds its chains until the last call for it is done."""

    __slots__ = ("chains", "inspection", "pending", "result")

    def __init__(self, chains: HookChains, inspection: Inspection, result: bytes | None) -> None:
        self.chains = chains
        self.inspection = inspection
        self.result = result
        self.pending = 1


class OutcomeQueue:
    """
    Finished statements that plugins are still to be told of.

    `put` takes over the statement's hold on its chains and gives it up exactly once, dropped
    statements included.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        counters: Counters,
        request_prefix: bytes = b"",
        limit: int = DEFAULT_LIMIT,
        max_result_bytes: int = MAX_RESULT_BYTES,
        max_slow_calls: int = MAX_SLOW_CALLS,
    ) -> None:
        self.cache: ResultCache | None = None
        self.prefix = request_prefix
        self._scheduler = scheduler
        self._counters = counters
        self._limit = limit
        self._max_result_bytes = max_result_bytes
        self._max_slow_calls = max_slow_calls
        self._items: deque[_Item] = deque()
        self._result_bytes = 0
        self._slow_calls = 0
        self._is_scheduled = False

    def __len__(self) -> int:
        return len(self._items)

    def put(self, chains: HookChains, inspection: Inspection, result: bytes | None) -> None:
        """Take a finished statement; when the queue is full it is dropped and counted."""
        if result is not None and self._result_bytes + len(result) > self._max_result_bytes:
            self._counters.count("cache_set_dropped")
            result = None
        if len(self._items) >= self._limit:
            if chains.points[POST_QUERY]:
                self._counters.count("post_query_dropped")
            if result is not None:
                self._counters.count("cache_set_dropped")
            chains.leave()
            return
        if result is not None:
            self._result_bytes += len(result)
        self._items.append(_Item(chains, inspection, result))
        if not self._is_scheduled:
            self._is_scheduled = True
            self._scheduler.call_later(PAUSE_S, self._run_slice)

    def flush(self) -> None:
        """Work off everything now: at the end of the process, when nobody is delayed."""
        while self._items:
            self._work(self._items.popleft())

    def _run_slice(self) -> None:
        scheduler = self._scheduler
        items = self._items
        until = scheduler.now_us() + SLICE_US
        while items:
            self._work(items.popleft())
            if scheduler.now_us() >= until:
                break
        if items:
            scheduler.call_later(PAUSE_S, self._run_slice)
        else:
            self._is_scheduled = False

    def _work(self, item: _Item) -> None:
        chains = item.chains
        try:
            if item.result is not None:
                self._result_bytes -= len(item.result)
                self._offer(item, item.result)
                item.result = None
            # Who was judged at Parse is told of there; this one is about the cache alone.
            observers = () if item.inspection.is_judged else chains.points[POST_QUERY]
            for subscriber in observers:
                self._observe(item, subscriber)
        except Exception:
            # A defect of ours or of the host: the next statements are still to be told of.
            self._counters.count("outcome_failed")
        finally:
            self._done(item)

    def _done(self, item: _Item) -> None:
        item.pending -= 1
        if item.pending == 0:
            item.chains.leave()

    def _observe(self, item: _Item, subscriber: Subscriber) -> None:
        inspection = item.inspection
        if not subscriber.matches(inspection.facts, inspection.client):
            subscriber.stats.filtered += 1
            return
        payload = codec.post_query_envelope(
            inspection,
            self.prefix,
            "query.params" in subscriber.permissions,
            subscriber.input_limit_bytes,
        )
        if not payload:
            subscriber.stats.failed("input")
        elif subscriber.is_slow:
            self.call_slow(item, subscriber, payload, _Observed(self, item))
        else:
            # An observer's failure is counted where it is called, and concerns nobody else.
            self.call(subscriber, payload)

    def call(self, subscriber: Subscriber, payload: bytes) -> tuple[bool, bytes | None]:
        """Call now; (False, None) when the call failed."""
        try:
            return True, subscriber.call(payload)
        except PluginFailed:
            return False, None
        except Exception:
            # A defect of the host must not end the queue's slice.
            subscriber.answer_failed("host")
            return False, None

    def call_slow(
        self, item: _Item, subscriber: Subscriber, payload: bytes, completion: Completion
    ) -> None:
        """Call on a worker thread; when too many wait there already, drop it and count it."""
        if self._slow_calls >= self._max_slow_calls:
            name = "cache_set_dropped" if subscriber.hook == CACHE_SET else "post_query_dropped"
            self._counters.count(name)
            return
        self._slow_calls += 1
        item.pending += 1
        try:
            subscriber.call_slow(payload, completion)
        except Exception:
            subscriber.answer_failed("host")
            self.slow_call_done(item)

    def slow_call_done(self, item: _Item) -> None:
        """A call on a worker thread has answered."""
        self._slow_calls -= 1
        self._done(item)

    # --- cache_set ---------------------------------------------------------------------------

    def _offer(self, item: _Item, result: bytes) -> None:
        """Ask cache_set about a result that `cache_get` named a key for."""
        inspection = item.inspection
        outcome = inspection.outcome
        if self.cache is None or outcome is None or not outcome.success:
            return
        rows = rows_from_server(result)
        if rows is not None:
            offer = _Offer(self, item, rows, len(result))
            offer.ask_next()

    def store(self, inspection: Inspection, rows: RowSet, ttl_ms: int) -> None:
        """All that were asked agreed."""
        if self.cache is not None and ttl_ms > 0:
            self.cache.store(inspection, inspection.cache_key, rows, ttl_ms)


@final
class _Observed(Completion):
    """A post_query call on a worker thread; its answer says nothing."""

    def __init__(self, queue: OutcomeQueue, item: _Item) -> None:
        self._queue = queue
        self._item = item

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """Let the statement go."""
        del answer, failed_cause
        self._queue.slow_call_done(self._item)


@final
class _Offer(Completion):
    """
    One result on its way through the cache_set chain.

    It is stored only if every plugin whose filter lets it through says so, for the shortest of
    their times; a failed call is a skip.
    """

    def __init__(self, queue: OutcomeQueue, item: _Item, rows: RowSet, result_bytes: int) -> None:
        self._queue = queue
        self._item = item
        self._rows = rows
        self._result_bytes = result_bytes
        self._at = 0
        self._ttl_ms = answers.MAX_MILLIS
        self._agreed = 0

    def ask_next(self) -> None:
        """Go on with the chain."""
        inspection = self._item.inspection
        queue = self._queue
        chain = self._item.chains.points[CACHE_SET]
        while self._at < len(chain):
            subscriber = chain[self._at]
            self._at += 1
            if not subscriber.matches(inspection.facts, inspection.client):
                subscriber.stats.filtered += 1
                continue
            payload = codec.cache_set_envelope(
                inspection,
                queue.prefix,
                "query.params" in subscriber.permissions,
                self._result_bytes,
                len(self._rows.rows),
            )
            if len(payload) > subscriber.input_limit_bytes:
                subscriber.stats.failed("input")
                return
            if subscriber.is_slow:
                queue.call_slow(self._item, subscriber, payload, self)
                return
            worked, answer = queue.call(subscriber, payload)
            if not worked or not self._take(subscriber, answer):
                return
        if self._agreed:
            queue.store(inspection, self._rows, self._ttl_ms)

    def _take(self, subscriber: Subscriber, answer: bytes | None) -> bool:
        """Whether the plugin agrees."""
        found = answers.decode(CACHE_SET, answer)
        if found is None or (
            found.action == answers.STORE and "cache.write" not in subscriber.permissions
        ):
            subscriber.answer_failed("bad_answer" if found is None else "permission")
            return False
        subscriber.stats.decided(found.word)
        if found.action != answers.STORE:
            return False
        self._agreed += 1
        self._ttl_ms = min(self._ttl_ms, found.millis)
        return True

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """A cache_set call on a worker thread has answered."""
        subscriber = self._item.chains.points[CACHE_SET][self._at - 1]
        try:
            if not failed_cause and self._take(subscriber, answer):
                self.ask_next()
        finally:
            self._queue.slow_call_done(self._item)
