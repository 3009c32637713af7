"""Seats: what is worked out once for each subscriber."""

import pytest

from proxy.hooks.plan import Plan, Seat
from proxy.hooks.points import AUTHORIZE, CACHE_GET, PRE_QUERY, REWRITE, ROUTE
from tests.unit.hooks.fakes import FakeSubscriber, chains_of


@pytest.mark.parametrize(
    ("hook", "permissions", "closed", "is_watching"),
    [
        (PRE_QUERY, "", False, True),
        (PRE_QUERY, "log", False, True),
        (PRE_QUERY, "", True, False),
        (PRE_QUERY, "query.block", False, False),
        (PRE_QUERY, "query.rewrite", False, False),
        (PRE_QUERY, "query.answer", False, False),
        (REWRITE, "query.rewrite", False, False),
        (CACHE_GET, "cache.read", False, False),
        (AUTHORIZE, "authz.decide", False, False),
        (ROUTE, "", False, True),
        (ROUTE, "route.decide", False, False),
        (ROUTE, "query.rewrite", False, True),
    ],
)
def test_who_only_looks_on(hook: int, permissions: str, closed: bool, is_watching: bool) -> None:
    subscriber = FakeSubscriber(hook, permissions=frozenset(permissions.split()), closed=closed)
    assert Seat(subscriber, None).is_watching is is_watching


def test_a_permission_counts_at_its_own_hook() -> None:
    everything = {hook: Seat(FakeSubscriber(hook), None) for hook in (AUTHORIZE, PRE_QUERY, ROUTE)}
    assert [seat.may_block for seat in everything.values()] == [False, True, True]
    assert [seat.may_deny for seat in everything.values()] == [True, False, False]
    assert [seat.may_route for seat in everything.values()] == [False, False, True]


@pytest.mark.parametrize("hook", [AUTHORIZE, PRE_QUERY, REWRITE, CACHE_GET, ROUTE])
def test_memos_go_on_with_their_generation(hook: int) -> None:
    pure = FakeSubscriber(hook, pure=True)
    plain = FakeSubscriber(hook)
    first = Plan(chains_of(pure, plain), None)
    second = Plan(chains_of(plain, pure, number=2), first)
    newer = FakeSubscriber(hook, pure=True)
    third = Plan(chains_of(newer, number=3), second)
    memo = first.seats_of(hook)[0].memo
    assert memo is not None
    assert second.seats_of(hook)[1].memo is memo
    assert second.seats_of(hook)[0].memo is None
    assert third.seats_of(hook)[0].memo is not memo
