"""
The chains of one moment, prepared for the pipeline: everything that is asked of a subscriber at
each statement is worked out here, once for each reload.

Compiled together with the pipeline. Knows permissions, not answers.
"""

from typing import final

from proxy.hooks import answers, points
from proxy.hooks.answers import Answer
from proxy.hooks.memo import PureMemo
from proxy.hooks.points import HookChains, Subscriber
from proxy.observe.counters import HookStats


@final
class Seat:
    """
    A subscriber in its chain, with all that is asked of it at every statement.

    default        what the immediate verdict 0 means
    default_words  the last answer in words that meant the same; None before there was one
    """

    __slots__ = (
        "default",
        "default_words",
        "fails_closed",
        "hook",
        "is_slow",
        "is_watching",
        "limit_bytes",
        "may_answer",
        "may_block",
        "may_deny",
        "may_read_cache",
        "may_rewrite",
        "may_route",
        "memo",
        "stats",
        "subscriber",
        "wants_parameters",
    )

    def __init__(self, subscriber: Subscriber, memo: PureMemo | None) -> None:
        hook = subscriber.hook
        granted = subscriber.permissions
        self.subscriber = subscriber
        self.memo = memo
        self.hook = hook
        self.default: Answer = answers.default_answer(hook)
        self.default_words: bytes | None = None
        self.stats: HookStats = subscriber.stats
        self.is_slow: bool = subscriber.is_slow
        self.fails_closed: bool = subscriber.fails_closed
        self.limit_bytes: int = subscriber.input_limit_bytes
        self.wants_parameters = "query.params" in granted
        self.may_block = "query.block" in granted and hook == points.PRE_QUERY
        self.may_deny = "authz.decide" in granted and hook == points.AUTHORIZE
        self.may_route = "route.decide" in granted and hook == points.ROUTE
        if hook == points.ROUTE and (self.may_route or "query.block" in granted):
            # Whoever may send a statement to a node of its choice can stop it anyway.
            self.may_block = True
        self.may_rewrite = "query.rewrite" in granted
        self.may_read_cache = "cache.read" in granted
        self.may_answer = "query.answer" in granted
        self.is_watching = not (
            self.fails_closed
            or self.may_block
            or self.may_deny
            or (self.may_rewrite and hook != points.ROUTE)
            or self.may_answer
            or self.may_read_cache
        )


@final
class Plan:
    """
    The chains of one moment with their seats: what a statement holds on to.

    first              the stage that a statement begins with: authorize or pre_query
    ends_at_pre_query  nobody sits at any other stage of `judge`
    is_at_once         besides, nobody takes time, wants parameters, routes, observes or captures
    """

    __slots__ = (
        "authorize",
        "cache_get",
        "captures",
        "chains",
        "ends_at_pre_query",
        "first",
        "is_at_once",
        "is_judging",
        "number",
        "observes",
        "pre_query",
        "rewrite",
        "route",
        "wants_parameters",
    )

    def __init__(self, chains: HookChains, previous: "Plan | None") -> None:
        self.chains = chains
        self.number: int = 1 if previous is None else previous.number + 1
        self.authorize = _seats(chains, points.AUTHORIZE, previous)
        self.pre_query = _seats(chains, points.PRE_QUERY, previous)
        self.rewrite = _seats(chains, points.REWRITE, previous)
        self.cache_get = _seats(chains, points.CACHE_GET, previous)
        self.route = _seats(chains, points.ROUTE, previous)
        self.observes = len(chains.points[points.POST_QUERY]) > 0
        self.captures = len(chains.points[points.CACHE_SET]) > 0
        self.is_judging = (
            len(self.authorize) + len(self.pre_query) + len(self.rewrite) + len(self.cache_get) > 0
        )
        # PERF: stages without a seat are not gone through, in the usual case of pre_query alone.
        self.first = 0 if self.authorize else 1
        self.ends_at_pre_query = not (self.authorize or self.rewrite or self.cache_get)
        wants = False
        for hook in (
            points.AUTHORIZE,
            points.PRE_QUERY,
            points.REWRITE,
            points.ROUTE,
            points.CACHE_SET,
            points.POST_QUERY,
        ):
            for subscriber in chains.points[hook]:
                if "query.params" in subscriber.permissions:
                    wants = True
        self.wants_parameters = wants
        is_at_once = self.is_judging and self.ends_at_pre_query
        if self.route or self.observes or self.captures or wants:
            is_at_once = False
        for seat in self.pre_query:
            if seat.is_slow:
                is_at_once = False
        self.is_at_once = is_at_once

    def seats_of(self, hook: int) -> list[Seat]:
        """The chain of a hook that decides on statements."""
        if hook == points.PRE_QUERY:
            return self.pre_query
        if hook == points.REWRITE:
            return self.rewrite
        if hook == points.AUTHORIZE:
            return self.authorize
        if hook == points.CACHE_GET:
            return self.cache_get
        return self.route


def _seats(chains: HookChains, hook: int, previous: Plan | None) -> list[Seat]:
    """The seats of one chain; who stays from the previous plan keeps what it remembers."""
    seats: list[Seat] = []
    for subscriber in chains.points[hook]:
        memo: PureMemo | None = None
        if subscriber.is_pure:
            if previous is not None:
                for seat in previous.seats_of(hook):
                    if seat.subscriber is subscriber:
                        memo = seat.memo
            if memo is None:
                memo = PureMemo()
        seats.append(Seat(subscriber, memo))
    return seats
