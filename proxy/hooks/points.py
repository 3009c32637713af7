"""
The twelve hook points: their names, what a subscriber is, and what its answers may be.

The contract of `plugins.md` section 1.1 in code. Knows no WebAssembly: `plugins` implements
`Subscriber`, `hooks.pipeline` calls it, `hooks.codec` makes the envelopes and reads the answers.
"""

from abc import ABC, abstractmethod
from typing import Final, final

from mypy_extensions import mypyc_attr

from proxy.observe.counters import HookStats
from proxy.session.context import ClientContext
from proxy.sql.statement import StatementFacts

ABI_VERSION: Final = 1

ON_CONNECT: Final = 0
AUTHENTICATE: Final = 1
AUTHORIZE: Final = 2
PRE_QUERY: Final = 3
REWRITE: Final = 4
CACHE_GET: Final = 5
ROUTE: Final = 6
CACHE_SET: Final = 7
POST_QUERY: Final = 8
METRICS: Final = 9
ON_DISCONNECT: Final = 10
CUSTOM_HOOK: Final = 11

HOOK_NAMES: Final = (
    "on_connect",
    "authenticate",
    "authorize",
    "pre_query",
    "rewrite",
    "cache_get",
    "route",
    "cache_set",
    "post_query",
    "metrics",
    "on_disconnect",
    "custom_hook",
)
"""Export and manifest name of each hook, at its number."""

BLOCKED: Final = b"\x00blocked"
"""What `Subscriber.call` answers for the immediate verdict 1: block with the generic reason."""

NOT_SAID: Final = b"\x00not said"
"""What `Subscriber.say` answers where it did not call: the statement has to go by `call`."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Completion(ABC):
    """Whoever waits for a call that runs on a worker thread."""

    @abstractmethod
    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """The answer as `Subscriber.call` gives it; or the cause of the failure, else "". In the loop."""


@mypyc_attr(allow_interpreted_subclasses=True)
class Subscriber(ABC):
    """
    One generation of a plugin at one hook.

    plugin, version   its name and version in the manifest
    generation        counts up with each replacement of the plugin
    hook              number of the hook point
    priority          lower is called first; equal ones by name
    fails_closed      what a failed call means at this hook
    is_pure           the answer depends on the statement text and identity alone
    is_slow           it may wait: use `call_slow`, never `call`
    is_filtered       it has a filter, which goes by the statement and the client alone
    permissions       the effective ones, e.g. {"query.block", "log"}
    input_limit_bytes longest payload; a longer statement is refused (may block) or cut (observer)
    last_us           how long the last call took
    stats             its counters; calls, errors, latency are kept by the implementation of `call`,
                      decisions by the pipeline
    """

    plugin: str
    version: str
    generation: int
    hook: int
    priority: int
    fails_closed: bool
    is_pure: bool
    is_slow: bool
    is_filtered: bool
    permissions: frozenset[str]
    input_limit_bytes: int
    last_us: int
    stats: HookStats

    @abstractmethod
    def matches(self, facts: StatementFacts, client: ClientContext) -> bool:
        """Whether the manifest's `[match]` lets this statement into the module at all."""

    @abstractmethod
    def call(self, payload: bytes) -> bytes | None:
        """
        Run the hook now, in this thread. None: default verdict (0). BLOCKED: immediate verdict 1.
        Else the answer's bytes, not yet looked at. Raises PluginFailed: trap, fuel, timeout, memory,
        host, breaker, bad pointer or length.
        """

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
        """
        `call` with a payload in pieces, one after the other: `text` as a JSON string (nothing where
        it is empty), `number` in decimal. NOT_SAID: not called, for who would be called another way
        or where the pieces are not plain; then `call` has to be used.
        """
        return NOT_SAID

    def said_us(self) -> int:
        """How long the last `say` took; last_us is not kept by it."""
        return self.last_us

    @abstractmethod
    def call_slow(self, payload: bytes, completion: Completion) -> None:
        """Run the hook on a worker thread; completion.on_answer is called exactly once, in the loop."""

    def answer_failed(self, cause: str) -> None:
        """
        What the last call answered is worthless (bad_answer): the pipeline found it, this counts it.
        An implementation with a breaker tells its breaker too.
        """
        self.stats.failed(cause)


@final
class HookChains:
    """
    The subscribers of every hook point at one moment, in calling order.

    Never changed after it is made: a reload makes another and exchanges it in one assignment. A
    statement keeps the chains it started with. `in_flight` counts statements that still hold this
    object; when it was retired and falls to zero, its `on_drained` is called.
    """

    __slots__ = ("drained", "in_flight", "is_retired", "number", "points")

    def __init__(self, number: int, points: tuple[tuple[Subscriber, ...], ...]) -> None:
        self.number = number
        self.points = points
        self.in_flight = 0
        self.is_retired = False
        self.drained: Drained | None = None

    def enter(self) -> None:
        """A statement starts to use these chains."""
        self.in_flight += 1

    def leave(self) -> None:
        """A statement is done with them."""
        self.in_flight -= 1
        if self.is_retired and self.in_flight == 0 and self.drained is not None:
            self.drained.on_drained(self)

    def retire(self, drained: "Drained") -> None:
        """Others have taken their place; tell `drained` when the last user is gone, maybe now."""
        self.is_retired = True
        self.drained = drained
        if self.in_flight == 0:
            drained.on_drained(self)


@mypyc_attr(allow_interpreted_subclasses=True)
class Drained(ABC):
    """Whoever waits for retired chains to be used no more: the plugin manager."""

    @abstractmethod
    def on_drained(self, chains: HookChains) -> None:
        """No statement uses these chains any more. Called once."""


EMPTY_CHAINS: Final = HookChains(0, ((), (), (), (), (), (), (), (), (), (), (), ()))
"""No plugin at all."""
