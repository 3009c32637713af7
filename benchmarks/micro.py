"""
What the parts of one statement cost inside the proxy: `python -m benchmarks.micro`.

The classifier's cache, the envelope of a hook, and the hook pipeline around a plugin that answers
at once; what a plugin call itself costs is `micro_plugin`. With PYTHONPATH on the compiled tree it
measures that. Best of several rounds, since the machine is shared. Prints, asserts nothing.
"""

import sys
from collections.abc import Callable
from time import perf_counter
from typing import Final

from proxy.hooks import codec
from proxy.hooks.outcomes import OutcomeQueue, Scheduler
from proxy.hooks.pipeline import HookPipeline
from proxy.hooks.points import (
    EMPTY_CHAINS,
    PRE_QUERY,
    Completion,
    HookChains,
    Subscriber,
)
from proxy.observe.counters import Counters, HookStats
from proxy.protocol import backend
from proxy.session.context import ClientContext
from proxy.session.inspection import PHASE_STATEMENT, Inspection
from proxy.sql.classify import PgClassifier
from proxy.sql.statement import StatementFacts

ROUNDS: Final = 7
CALLS: Final = 20_000
POINT_SELECT: Final = b"SELECT abalance FROM pgbench_accounts WHERE aid = %d"


class _AtOnce(Subscriber):
    """A plugin that costs nothing, so that what is around it shows."""

    def __init__(self, is_pure: bool, lets_in: bool) -> None:
        self.plugin = "at-once"
        self.version = "1.0.0"
        self.generation = 1
        self.hook = PRE_QUERY
        self.priority = 100
        self.fails_closed = True
        self.is_pure = is_pure
        self.is_slow = False
        self.is_filtered = not lets_in
        self.permissions = frozenset(["query.block"])
        self.input_limit_bytes = 65_536
        self.last_us = 0
        self.stats = HookStats()
        self._lets_in = lets_in

    def matches(self, facts: StatementFacts, client: ClientContext) -> bool:
        """Let everything in, or nothing."""
        return self._lets_in

    def call(self, payload: bytes) -> bytes | None:
        """Answer the default."""
        return None

    def call_slow(self, payload: bytes, completion: Completion) -> None:
        """Never used: it is not slow."""


class _NoScheduler(Scheduler):
    """Nothing observes here, so nothing is ever put off."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Drop it."""

    def now_us(self) -> int:
        """Stand still."""
        return 0


def main() -> None:
    """Measure every part and print a line for each."""
    classifier = PgClassifier()
    counters = Counters()
    client = ClientContext("w0-1", "127.0.0.1", False, 0.0)
    client.user = client.identity = "alice"
    client.database = "app"
    texts = [POINT_SELECT % number for number in range(10_000, 10_000 + CALLS)]
    build = "compiled" if backend.__file__.endswith(".so") else "interpreted"
    sys.stdout.write(f"{build}, best of {ROUNDS} rounds of {CALLS} calls\n")

    def same_text() -> None:
        text = texts[0]
        for _ in range(CALLS):
            classifier.facts(text)

    def other_constants() -> None:
        for text in texts:
            classifier.facts(text)

    def exact_text() -> None:
        text = texts[0]
        for _ in range(CALLS):
            classifier.exact(text)

    facts = classifier.exact(texts[0]).statements[0]
    inspection = Inspection(facts, client, True, PHASE_STATEMENT, False, None)

    def envelope() -> None:
        for _ in range(CALLS):
            codec.statement_envelope(inspection, b"w0-", False, False)

    report("facts of a text seen before", same_text)
    report("facts of a shape seen before, other constants", other_constants)
    report("exact facts of a text seen before", exact_text)
    report("envelope of a hook", envelope)
    for name, subscriber in (
        ("judge, no plugin", None),
        ("judge, a plugin that answers at once", _AtOnce(False, True)),
        ("judge, a pure plugin", _AtOnce(True, True)),
        ("judge, a plugin whose filter keeps it out", _AtOnce(False, False)),
    ):
        pipeline = _pipeline_with(subscriber, classifier, counters)

        def judge(pipeline: HookPipeline = pipeline) -> None:
            for _ in range(CALLS):
                one = Inspection(facts, client, True, PHASE_STATEMENT, False, None)
                pipeline.judge(one)
                pipeline.finished(one, None)

        report(name, judge)


def _pipeline_with(
    subscriber: Subscriber | None, classifier: PgClassifier, counters: Counters
) -> HookPipeline:
    outcomes = OutcomeQueue(_NoScheduler(), counters, b"w0-")
    pipeline = HookPipeline(classifier, counters, outcomes, b"w0-")
    if subscriber is not None:
        points: list[tuple[Subscriber, ...]] = [()] * len(EMPTY_CHAINS.points)
        points[PRE_QUERY] = (subscriber,)
        pipeline.install(HookChains(1, tuple(points)))
    return pipeline


def report(what: str, calls: Callable[[], None]) -> None:
    """Print the cost of one call."""
    calls()
    best = min(_time(calls) for _ in range(ROUNDS))
    sys.stdout.write(f"{what:48}{best / CALLS * 1e6:8.3f} us\n")


def _time(calls: Callable[[], None]) -> float:
    started = perf_counter()
    calls()
    return perf_counter() - started


if __name__ == "__main__":
    main()
