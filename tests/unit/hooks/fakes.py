"""Subscribers, a classifier and a scheduler that do what a test tells them."""

import asyncio
from collections.abc import Callable

import msgspec

from proxy.errors import PluginFailed
from proxy.hooks import points
from proxy.hooks.outcomes import OutcomeQueue, Scheduler
from proxy.hooks.pipeline import HookPipeline
from proxy.hooks.points import Completion, HookChains, Subscriber
from proxy.hooks.rowset import ResultCache
from proxy.observe.counters import Counters, HookStats
from proxy.session.context import ClientContext
from proxy.session.inspection import PHASE_STATEMENT, Inspection, RowSet
from proxy.session.ports import Classifier, Waiter
from proxy.sql.statement import StatementFacts, TextFacts

ALL_PERMISSIONS = frozenset(
    {
        "query.block",
        "query.rewrite",
        "query.answer",
        "query.params",
        "auth.decide",
        "auth.credentials",
        "authz.decide",
        "route.decide",
        "conn.deny",
        "cache.read",
        "cache.write",
        "metrics",
    }
)


def facts_of(text: bytes | str) -> StatementFacts:
    """Facts as far as these tests look: SELECT reads, everything else writes."""
    raw = text.encode() if isinstance(text, str) else text
    sql = raw.decode("utf-8", "replace")
    is_read_only = sql.lower().lstrip().startswith("select")
    kind = sql.split()[0].lower() if sql.split() else "empty"
    head = msgspec.json.encode(
        {
            "query": sql,
            "normalized": sql,
            "tables": ["public.t"],
            "is_read_only": is_read_only,
        }
    )[1:-1]
    tail = msgspec.json.encode({"kind": kind, "fingerprint": "00"})[1:-1]
    return StatementFacts(
        raw, kind, is_read_only, ("public.t",), sql, "00", 0, False, 0, "", head, tail
    )


def unknown_facts_of(text: str) -> StatementFacts:
    """The same text, where nobody knows what it means."""
    facts = facts_of(text)
    facts.kind = "unknown"
    facts.is_read_only = False
    facts.tail = b'"kind":"unknown","fingerprint":""'
    return facts


class FakeClassifier(Classifier):
    """Statements end at a semicolon; a text with nothing in it holds none."""

    def facts(self, text: bytes) -> TextFacts:
        return self.exact(text)

    def known(self, text: bytes, is_parsed: bool) -> TextFacts | None:
        return self.exact(text)

    def exact(self, text: bytes) -> TextFacts:
        parts = [part for part in text.split(b";") if part.strip()]
        return TextFacts(tuple(facts_of(part) for part in parts))

    def unknown(self, text: bytes) -> TextFacts:
        return TextFacts((facts_of(text),))


Answering = bytes | None | Exception | Callable[[bytes], bytes | None]


class FakeSubscriber(Subscriber):
    """Answers the same each time, or what a function says; keeps what it was given."""

    def __init__(
        self,
        hook: int,
        answer: Answering = None,
        *,
        name: str = "fake",
        permissions: frozenset[str] = ALL_PERMISSIONS,
        closed: bool = False,
        pure: bool = False,
        slow: bool = False,
        filtered: bool = False,
        limit: int = 65536,
        cost_us: int = 2,
        matching: Callable[[StatementFacts, ClientContext], bool] | None = None,
    ) -> None:
        self.plugin = name
        self.version = "1.0.0"
        self.generation = 1
        self.hook = hook
        self.priority = 100
        self.fails_closed = closed
        self.is_pure = pure
        self.is_slow = slow
        self.is_filtered = filtered
        self.permissions = permissions
        self.input_limit_bytes = limit
        self.last_us = cost_us
        self.stats = HookStats()
        self.answer = answer
        self.payloads: list[bytes] = []
        self.waiting: list[Completion] = []
        self.is_called = asyncio.Event()
        self._matching = matching

    def matches(self, facts: StatementFacts, client: ClientContext) -> bool:
        return self._matching is None or self._matching(facts, client)

    def call(self, payload: bytes) -> bytes | None:
        assert not self.is_slow
        self.payloads.append(payload)
        if isinstance(self.answer, Exception):
            if isinstance(self.answer, PluginFailed):
                self.stats.failed(self.answer.cause)
            raise self.answer
        return self.answer(payload) if callable(self.answer) else self.answer

    def call_slow(self, payload: bytes, completion: Completion) -> None:
        assert self.is_slow
        self.payloads.append(payload)
        if isinstance(self.answer, Exception):
            raise self.answer
        self.waiting.append(completion)
        self.is_called.set()


def chains_of(*subscribers: Subscriber, number: int = 1) -> HookChains:
    """Chains with these subscribers, in the order given."""
    return HookChains(
        number,
        tuple(
            tuple(found for found in subscribers if found.hook == hook)
            for hook in range(len(points.HOOK_NAMES))
        ),
    )


class FakeScheduler(Scheduler):
    """Callbacks wait until the test runs them; the clock goes on by `step_us` a look."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.time_us = 0
        self.step_us = 0

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.waiting.append(callback)

    def now_us(self) -> int:
        self.time_us += self.step_us
        return self.time_us

    def run(self) -> None:
        """Run what waits now, and not what that schedules."""
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class FakeCache(ResultCache):
    """A dictionary by key, and the kinds of the writes that it was told of."""

    def __init__(self) -> None:
        self.cleared = 0
        self.writes: list[str] = []
        self.rows: dict[str, RowSet] = {}
        self.stored: list[tuple[str, RowSet, int]] = []

    def lookup(self, inspection: Inspection, key: str, max_age_ms: int) -> RowSet | None:
        return self.rows.get(key)

    def store(self, inspection: Inspection, key: str, rows: RowSet, ttl_ms: int) -> None:
        self.stored.append((key, rows, ttl_ms))

    def written(self, inspection: Inspection) -> None:
        self.writes.append(inspection.facts.kind)

    def clear(self) -> None:
        self.cleared += 1


class FakeWaiter(Waiter):
    """Counts its verdicts."""

    def __init__(self) -> None:
        self.judged: list[Inspection] = []

    def on_judged(self, inspection: Inspection) -> None:
        self.judged.append(inspection)

    def on_backend(self, link: object) -> None:
        raise AssertionError("the gate grants no connections")

    def on_no_backend(self, refusal: object) -> None:
        raise AssertionError("the gate grants no connections")


class Setup:
    """A pipeline with all its collaborators, and one client."""

    def __init__(
        self,
        *subscribers: Subscriber,
        limit: int = 10_000,
        max_result_bytes: int = 1_000_000,
        max_slow_calls: int = 100,
    ) -> None:
        self.counters = Counters()
        self.scheduler = FakeScheduler()
        self.outcomes = OutcomeQueue(
            self.scheduler, self.counters, b"r-", limit, max_result_bytes, max_slow_calls
        )
        self.pipeline = HookPipeline(FakeClassifier(), self.counters, self.outcomes, b"r-")
        self.chains = chains_of(*subscribers)
        self.pipeline.install(self.chains)
        self.client = client_of()

    def inspection(
        self,
        text: bytes | str = "select 1",
        *,
        is_extended: bool = False,
        phase: int = PHASE_STATEMENT,
        in_transaction: bool = False,
        parameters: list[bytes | None] | None = None,
    ) -> Inspection:
        made = Inspection(
            facts_of(text), self.client, is_extended, phase, in_transaction, parameters
        )
        made.may_cache = True
        return made

    def judge(self, text: bytes | str = "select 1") -> Inspection:
        """Judge a simple Query's statement outside a transaction, without waiting."""
        inspection = self.inspection(text)
        assert self.pipeline.judge(inspection) is True
        return inspection


def client_of(identity: str = "alice") -> ClientContext:
    """A client that has logged in over TLS."""
    client = ClientContext("w0-17", "10.0.0.7", True, 0.0)
    client.user = identity
    client.identity = identity
    client.database = "app"
    client.application_name = "psql"
    return client
