"""
A plugin generation at one hook: the `Subscriber` that the hook pipeline calls.

    ResidentHook  ABI 1: one instance stays, calls go the fast way, in the event loop's thread
    FreshHook     ABI 0: every call has a fresh instance, as such modules expect (their allocators
                  never free)
    ComponentHook a component's resident instance
    any           on worker threads, where a call may take long (`call_slow`)

Counts what happens to calls; what answers mean is the pipeline's business.
"""

from abc import abstractmethod
from time import perf_counter, thread_time_ns
from typing import TYPE_CHECKING, Any, Final, final

from proxy.errors import PluginFailed
from proxy.hooks.points import NOT_SAID, Completion, Subscriber
from proxy.observe.counters import HookStats, Meter
from proxy.plugins.breaker import CLOSED, Breaker
from proxy.plugins.component import ComponentInstance
from proxy.plugins.ffi import U32, GuestStopped
from proxy.plugins.guestcall import EXACT_CALLS, FUEL_SAMPLE
from proxy.plugins.instance import CAUSE_BAD_ANSWER, Instance
from proxy.plugins.match import Matcher
from proxy.plugins.pulse import PULSE
from proxy.session.context import ClientContext
from proxy.sql.statement import StatementFacts

if TYPE_CHECKING:
    from proxy.plugins.generation import Generation

CAUSE_BREAKER: Final = "breaker"

COUNTED: Final = -1.0
"""In place of the moment when a call began: it has counted itself."""

LONG_US: Final = 1_000
LOOK_S: Final = 0.005


@final
class BusyClock:
    """
    What a call can have taken of the processor at most.

    On a busy machine the whole process may be off the processor for tens of milliseconds, and a
    call of microseconds that was under way then has not used up its statement's budget.
    """

    __slots__ = ("_cpu_ns", "seen_s")

    def __init__(self) -> None:
        self.seen_s = 0.0
        self._cpu_ns = 0

    def look(self, now_s: float) -> None:
        """
        Remember this moment, and put off the next tick of the clock. PERF: 2 us, so once in LOOK_S
        only; who calls looks at seen_s.
        """
        self.seen_s = now_s
        PULSE.put_off(int(now_s * 1e9))
        self._cpu_ns = thread_time_ns()

    def look_now(self) -> None:
        """The same for who does not know the time."""
        self.look(_now_s())

    def at_most_us(self, duration_us: int) -> int:
        """The part of a call that began after the last look and ends now."""
        return max(0, min(duration_us, (thread_time_ns() - self._cpu_ns) // 1000))


# PERF: looked up once.
_now_s: Final = perf_counter

_busy: Final = BusyClock()
"""Of the event loop's thread."""


class PluginHook(Subscriber):
    """What both kinds have in common: identity, filter, breaker, counting."""

    def __init__(
        self,
        generation: "Generation",
        hook: int,
        stats: HookStats,
        fails_closed: bool,
        is_slow: bool,
        matcher: Matcher | None,
    ) -> None:
        manifest = generation.manifest
        self.owner = generation
        self.plugin = manifest.name
        self.version = manifest.version
        self.generation = generation.number
        self.hook = hook
        self.priority = generation.priority
        self.fails_closed = fails_closed
        self.is_pure = manifest.is_pure
        self.is_slow = is_slow
        self.is_filtered = matcher is not None and not matcher.is_sampled
        self.permissions = generation.permissions
        self.input_limit_bytes = generation.limits.input_bytes
        self.last_us = 0
        self.stats = stats
        self.breaker = Breaker()
        self._matcher = matcher
        self._fuel = generation.limits.fuel_of(hook)
        self._ticks = generation.blueprint.runtime.ticks(generation.limits.timeout_ms_of(hook))
        self._trial_call = -1
        """The number of the call that closed the breaker; its answer may yet prove worthless."""

    def matches(self, facts: StatementFacts, client: ClientContext) -> bool:
        """See Subscriber."""
        return self._matcher is None or self._matcher.matches(facts, client)

    @abstractmethod
    def forget_instance(self) -> None:
        """The generation's instance is gone: the next call must ask for a new one."""

    def answer_failed(self, cause: str) -> None:
        """See Subscriber."""
        self.stats.failed(cause)
        if self._trial_call == self.stats.calls:
            self.breaker.relapse()
        self.breaker.failed(perf_counter())
        if self.breaker.state != CLOSED:
            self.forget_instance()

    def admit(self) -> None:
        """Raise PluginFailed while the breaker is open."""
        if not self.breaker.allows(perf_counter()):
            self.stats.failed(CAUSE_BREAKER)
            raise PluginFailed(self.plugin, CAUSE_BREAKER, "too many failures; not called for now")

    def observe(self, started_s: float) -> None:
        """Count one call and its duration."""
        duration_us = (perf_counter() - started_s) * 1e6
        self.last_us = int(duration_us)
        if duration_us > LONG_US:
            self.last_us = _busy.at_most_us(self.last_us)
        self.stats.called(duration_us)

    def failed(self, stopped: GuestStopped) -> PluginFailed:
        """Count a failed call, tell the log, and make the exception that says so."""
        self.stats.failed(stopped.cause)
        self.breaker.failed(perf_counter())
        if self.breaker.state != CLOSED:
            self.forget_instance()
        self.owner.report_failure(self, stopped)
        return PluginFailed(self.plugin, stopped.cause, stopped.message)

    def came_back(self) -> None:
        """A call succeeded; if it was the trial of a half-open breaker, that closes."""
        if self.breaker.state != CLOSED:
            self._trial_call = self.stats.calls
            self.breaker.succeeded()

    def call_slow(self, payload: bytes, completion: Completion) -> None:
        """See Subscriber."""
        self.owner.run_on_thread(self, payload, completion)


@final
class _Entry(Meter):
    """Everything a fast call touches, found once per instance."""

    __slots__ = (
        "alloc", "allowance", "call", "can_say", "capacity", "free", "give", "instance", "read", "sandbox",
        "say", "stats",
    )  # fmt: skip

    def __init__(
        self, instance: Instance, hook: int, fuel: int, input_limit_bytes: int, stats: HookStats
    ) -> None:
        sandbox = instance.sandbox
        self.instance = instance
        self.sandbox = sandbox
        self.capacity = len(instance.buffer)
        # A buffer that is longer, for a long configuration, would take inputs beyond the limit.
        self.can_say = 0 < self.capacity <= input_limit_bytes
        self.stats = stats
        self.call = instance.hot_call(hook, fuel, _busy.look_now)
        # PERF: looked up once.
        self.give: Any = self.call.give
        self.say: Any = self.call.say
        self.read: Any = self.call.read
        self.alloc = instance.hot_alloc()
        self.free = instance.hot_dealloc()
        self.allowance = sandbox.deadline
        sandbox.count_ticks()

    def settle(self) -> None:
        """See Meter."""
        calls, fuel, elapsed_ns, buckets = self.call.take_counts()
        self.stats.add(calls, fuel, elapsed_ns / 1000, buckets)


@final
class ResidentHook(PluginHook):
    """A hook on the generation's resident instance. Event loop's thread only."""

    _entry: _Entry | None = None

    def __init__(
        self,
        generation: "Generation",
        hook: int,
        stats: HookStats,
        fails_closed: bool,
        is_slow: bool,
        matcher: Matcher | None,
    ) -> None:
        super().__init__(generation, hook, stats, fails_closed, is_slow, matcher)
        self._called = 0
        self._output_limit_bytes = generation.limits.output_bytes
        self._is_observer = hook in generation.shape.observers

    def forget_instance(self) -> None:
        """See PluginHook."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.settle()
            self.stats.meters.remove(entry)

    def _keep(self, entry: _Entry) -> None:
        self._entry = entry
        self.stats.meters.append(entry)

    def call(self, payload: bytes) -> bytes | None:
        """See Subscriber."""
        entry = self._entry
        if entry is None:
            entry = self._enter()
        started_s = _now_s()
        if started_s - _busy.seen_s > LOOK_S:
            _busy.look(started_s)
        entry.allowance.left = self._ticks
        length = len(payload)
        address = 0
        if length <= entry.capacity:
            packed: int | None = entry.give(payload)
        else:
            entry.call.refuel()
            entry, address = self._place(entry, payload, started_s)
            packed = entry.call.run(address, length)
        return self._came_back(entry, packed, address, length, started_s)

    def say(
        self,
        opening: bytes,
        text: bytes,
        rest: bytes,
        context: bytes,
        number: int,
        client: bytes,
        statement: bytes,
        ending: bytes,
    ) -> bytes | None:
        """See Subscriber."""
        entry = self._entry
        if entry is None or not entry.can_say:
            return NOT_SAID
        # PERF: two hundredths of a microsecond beside `HotCall.say`, which counts and times itself.
        entry.allowance.left = self._ticks
        packed: int | None = entry.say(
            opening, text, rest, context, number, client, statement, ending
        )
        if packed is False:
            return NOT_SAID
        if packed is None:
            self.last_us = entry.call.elapsed_ns() // 1000
            stopped = entry.sandbox.stopped(entry.call.take_error())
            raise self._stopped(entry, stopped, COUNTED)
        if packed == 0:
            return None
        return self._finish(entry, packed, 0, 0, COUNTED)

    def said_us(self) -> int:
        """See Subscriber."""
        entry = self._entry
        duration_us = self.last_us if entry is None else entry.call.elapsed_ns() // 1000
        return _busy.at_most_us(duration_us) if duration_us > LONG_US else duration_us

    def _came_back(
        self, entry: _Entry, packed: int | None, address: int, length: int, started_s: float
    ) -> bytes | None:
        """
        Count a call, and read its answer. `address` and `length` are those of an input that `alloc`
        made room for; else 0. Raises PluginFailed.
        """
        if packed is None:
            stopped = entry.sandbox.stopped(entry.call.take_error())
            raise self._stopped(entry, stopped, started_s)
        calls = self._called
        self._called = calls + 1
        stats = self.stats
        if calls < EXACT_CALLS:
            stats.used(entry.call.fuel_used())
        elif calls % FUEL_SAMPLE == 0:
            stats.used(entry.call.fuel_used() * FUEL_SAMPLE)
        answer: bytes | None = None
        if packed != 0 or address != 0:
            answer = self._finish(entry, packed, address, length, started_s)
        self.observe(started_s)
        if self._entry is None:
            self._settle(entry)
        return answer

    def _enter(self) -> _Entry:
        """Find the instance, or have one made, if the breaker allows. Raises PluginFailed."""
        self.admit()
        return self._find()

    def _find(self) -> _Entry:
        """Find the instance, or have one made. Raises PluginFailed."""
        started_s = perf_counter()
        try:
            instance = self.owner.resident()
            assert isinstance(instance, Instance)
            entry = _Entry(instance, self.hook, self._fuel, self.input_limit_bytes, self.stats)
        except GuestStopped as stopped:
            self.observe(started_s)
            raise self.failed(stopped) from None
        if self.breaker.state == CLOSED:
            self._keep(entry)
        return entry

    def _settle(self, entry: _Entry) -> None:
        """The trial call of a half-open breaker came back."""
        self._trial_call = self.stats.calls
        self.breaker.succeeded()
        if not entry.instance.is_closed:
            self._keep(entry)

    def _place(self, entry: _Entry, payload: bytes, started_s: float) -> tuple[_Entry, int]:
        """Put an input where `alloc` says. Raises PluginFailed."""
        instance = entry.instance
        try:
            address = self._allocated(entry, payload)
        except GuestStopped as stopped:
            if instance.served == 0:
                raise self._stopped(entry, stopped, started_s) from None
            # The guest's allocator may be one that never frees; a fresh instance has room again,
            # and the hook has not run yet, so nothing happens twice.
            self.owner.discard(instance)
            # Not asked again: the breaker's one trial call is this one.
            entry = self._find()
            entry.allowance.left = self._ticks
            entry.call.refuel()
            instance = entry.instance
            try:
                address = self._allocated(entry, payload)
            except GuestStopped as again:
                raise self._stopped(entry, again, started_s) from None
        instance.served += 1
        return entry, address

    def _allocated(self, entry: _Entry, payload: bytes) -> int:
        """`Instance.place` on the hot path, for an input that the buffer is too small for."""
        alloc = entry.alloc
        if alloc is None:
            return entry.instance.place(payload)
        found = alloc.run(len(payload), 0)
        if found is None:
            raise entry.sandbox.stopped(alloc.take_error())
        address = found & U32
        entry.instance.put(address, payload)
        return address

    def _finish(
        self, entry: _Entry, packed: int, address: int, length: int, started_s: float
    ) -> bytes | None:
        """Read the answer and hand back memory. Raises PluginFailed."""
        sandbox = entry.sandbox
        free = entry.free
        answer: bytes | None = None
        if packed != 0 and not self._is_observer:
            size = packed & U32
            place = (packed >> 32) & U32
            if place and size <= self._output_limit_bytes:
                answer = entry.read(place, size)
            if answer is not None:
                if free is not None and free.run(place, size) is None:
                    raise self._stopped(entry, sandbox.stopped(free.take_error()), started_s)
            else:
                # It does the same, and knows what is wrong, and what says yes or no without bytes.
                try:
                    answer = entry.instance.answer(packed, self._output_limit_bytes)
                except GuestStopped as stopped:
                    raise self._stopped(entry, stopped, started_s) from None
        if address != 0 and free is not None and free.run(address, length) is None:
            raise self._stopped(entry, sandbox.stopped(free.take_error()), started_s)
        return answer

    def _stopped(self, entry: _Entry, stopped: GuestStopped, started_s: float) -> PluginFailed:
        """Count a failed call; after a trap the instance is never used again."""
        self.stats.used(entry.call.fuel_used())
        if stopped.cause != CAUSE_BAD_ANSWER:
            self.owner.discard(entry.instance)
        if started_s != COUNTED:
            self.observe(started_s)
        return self.failed(stopped)


@final
class FreshHook(PluginHook):
    """A hook whose every call has an instance of its own. Event loop's thread only."""

    def forget_instance(self) -> None:
        """See PluginHook."""

    def call(self, payload: bytes) -> bytes | None:
        """See Subscriber."""
        if self.breaker.state != CLOSED:
            self.admit()
        started_s = perf_counter()
        if started_s - _busy.seen_s > LOOK_S:
            _busy.look(started_s)
        instance: Instance | ComponentInstance | None = None
        try:
            instance = self.owner.fresh()
            answer = instance.run(self.hook, payload)
            self.stats.used(self._fuel - instance.fuel_left())
        except GuestStopped as stopped:
            self.observe(started_s)
            raise self.failed(stopped) from None
        finally:
            if instance is not None:
                instance.close()
        self.observe(started_s)
        self.came_back()
        return answer


@final
class ComponentHook(PluginHook):
    """A hook of a component, on its resident instance. Event loop's thread only."""

    def forget_instance(self) -> None:
        """See PluginHook."""

    def call(self, payload: bytes) -> bytes | None:
        """See Subscriber."""
        if self.breaker.state != CLOSED:
            self.admit()
        started_s = perf_counter()
        if started_s - _busy.seen_s > LOOK_S:
            _busy.look(started_s)
        instance: Instance | ComponentInstance | None = None
        try:
            instance = self.owner.resident()
            answer = instance.run(self.hook, payload)
        except GuestStopped as stopped:
            if instance is not None and stopped.cause != CAUSE_BAD_ANSWER:
                self.owner.discard(instance)
            self.observe(started_s)
            raise self.failed(stopped) from None
        self.stats.used(self._fuel - instance.fuel_left())
        self.observe(started_s)
        self.came_back()
        return answer
