"""Chains: when they are free."""

from proxy.hooks.points import (
    CUSTOM_HOOK,
    EMPTY_CHAINS,
    HOOK_NAMES,
    PRE_QUERY,
    Drained,
    HookChains,
)
from tests.unit.hooks.fakes import FakeSubscriber, chains_of


class Told(Drained):
    def __init__(self) -> None:
        self.times = 0

    def on_drained(self, chains: HookChains) -> None:
        self.times += 1


def test_twelve_hooks() -> None:
    assert len(HOOK_NAMES) == len(EMPTY_CHAINS.points) == CUSTOM_HOOK + 1 == 12


def test_drained_at_once_when_nobody_is_in() -> None:
    told = Told()
    chains_of().retire(told)
    assert told.times == 1


def test_drained_by_the_last_to_leave() -> None:
    told = Told()
    chains = chains_of()
    chains.enter()
    chains.enter()
    chains.leave()
    chains.retire(told)
    assert told.times == 0
    chains.leave()
    assert told.times == 1


def test_leaving_chains_in_use_tells_nobody() -> None:
    chains = chains_of()
    chains.enter()
    chains.leave()
    assert chains.in_flight == 0
    assert not chains.is_retired


def test_a_worthless_answer_is_counted() -> None:
    subscriber = FakeSubscriber(PRE_QUERY)
    subscriber.answer_failed("bad_answer")
    assert subscriber.stats.errors == {"bad_answer": 1}
