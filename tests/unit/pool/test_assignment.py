"""One pool's bookkeeping: examples, and a state machine against a plain model of it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import Refusal
from proxy.pool.assignment import (
    FIRST_BACKOFF_S,
    LAST_BACKOFF_S,
    PUT_CLOSE,
    PUT_GRANT,
    PUT_HELD,
    PUT_IDLE,
    SLOT_ACTIVE,
    SLOT_CLOSED,
    SLOT_HELD,
    SLOT_IDLE,
    SLOT_OPENING,
    Destination,
    Pool,
    Quota,
    Slot,
    Ticket,
    WaitQueue,
)
from proxy.routing.node import Node
from proxy.routing.route import WRITE
from proxy.routing.router import Candidates
from tests.unit.pool.fakes import FakeWaiter

DESTINATION = Destination("app", "alice", "", "app", "alice", Candidates(()))
REFUSAL = Refusal("28P01", "password authentication failed")


def make_ticket(since_s: float) -> Ticket:
    return Ticket(FakeWaiter(), DESTINATION, WRITE, since_s)


def make_pool(size: int = 2, reserve_size: int = 0) -> Pool:
    pool = Pool("app", "alice", Node("pg1", 0, 1, 0.0))
    pool.size = size
    pool.reserve_size = reserve_size
    pool.reserve_timeout_s = 5.0
    return pool


def open_idle(pool: Pool) -> Slot:
    slot = pool.begin_open()
    pool.opened(slot)
    assert pool.put(slot) == PUT_IDLE
    return slot


def test_the_last_used_connection_is_taken_first() -> None:
    pool = make_pool()
    first, second = open_idle(pool), open_idle(pool)
    assert pool.take() is second
    assert pool.take() is first
    assert pool.take() is None
    assert (pool.active, pool.idle, pool.node.active) == (2, 0, 2)


def test_an_idle_connection_that_ended_is_skipped() -> None:
    pool = make_pool()
    first, second = open_idle(pool), open_idle(pool)
    pool.remove(second)
    pool.remove(second)
    assert pool.take() is first
    assert (pool.total(), pool.idle, pool.active) == (1, 0, 1)


def test_the_idle_stack_does_not_grow_with_connections_that_ended() -> None:
    pool = make_pool(size=1)
    for _ in range(500):
        pool.remove(open_idle(pool))
    assert len(pool.idle_stack) < 50
    assert pool.total() == 0


def test_a_paused_pool_gives_nothing_and_closes_what_comes_back() -> None:
    pool = make_pool()
    used = open_idle(pool)
    assert pool.take() is used
    pool.is_paused = True
    pool.waiting.insert(make_ticket(0.0))
    assert not pool.wants_open(0.0)
    assert pool.put(used) == PUT_CLOSE
    pool.is_paused = False
    assert pool.put(used) == PUT_GRANT


def test_a_stale_connection_is_closed_when_it_comes_back() -> None:
    pool = make_pool()
    slot = open_idle(pool)
    assert pool.take() is slot
    slot.is_stale = True
    assert pool.put(slot) == PUT_CLOSE
    assert slot.state == SLOT_ACTIVE


def test_a_connection_with_a_cancel_under_way_goes_to_nobody() -> None:
    pool = make_pool()
    slot = open_idle(pool)
    assert pool.take() is slot
    slot.cancels = 2
    pool.waiting.insert(make_ticket(0.0))
    assert pool.put(slot) == PUT_HELD
    assert (slot.state, pool.held, pool.active) == (SLOT_HELD, 1, 0)
    assert not pool.cancel_done(slot)
    assert pool.cancel_done(slot)
    assert pool.put(slot) == PUT_GRANT


def test_a_cancel_that_ends_before_the_connection_comes_back_changes_nothing() -> None:
    pool = make_pool()
    slot = open_idle(pool)
    assert pool.take() is slot
    slot.cancels = 1
    assert not pool.cancel_done(slot)
    assert pool.put(slot) == PUT_IDLE


def test_a_held_connection_can_end() -> None:
    pool = make_pool()
    slot = open_idle(pool)
    assert pool.take() is slot
    slot.cancels = 1
    assert pool.put(slot) == PUT_HELD
    pool.remove(slot)
    assert not pool.cancel_done(slot)
    assert (pool.held, pool.total()) == (0, 0)


def test_no_more_connections_are_opened_than_clients_wait() -> None:
    pool = make_pool(size=10)
    assert not pool.wants_open(0.0)
    pool.waiting.insert(make_ticket(0.0))
    assert pool.wants_open(0.0)
    pool.begin_open()
    assert not pool.wants_open(0.0)


def test_the_reserve_is_for_those_who_waited_long() -> None:
    pool = make_pool(size=1, reserve_size=1)
    pool.begin_open()
    for since_s in (0.0, 1.0, 2.0):
        pool.waiting.insert(make_ticket(since_s))
    assert not pool.wants_open(4.9)
    assert pool.wants_open(5.0)
    pool.begin_open()
    assert not pool.wants_open(100.0)
    pool.reserve_timeout_s = 0.0
    pool.reserve_size = 2
    assert not pool.wants_open(100.0)


def test_failed_logins_back_off_and_probe_one_at_a_time() -> None:
    pool = make_pool(size=10)
    for _ in range(3):
        pool.waiting.insert(make_ticket(0.0))
    pool.back_off(10.0, REFUSAL)
    assert pool.last_refusal == REFUSAL
    assert not pool.wants_open(10.0)
    assert pool.wants_open(10.0 + FIRST_BACKOFF_S)
    slot = pool.begin_open()
    assert not pool.wants_open(99.0)
    for _ in range(20):
        pool.back_off(10.0, REFUSAL)
    assert pool.retry_at_s == 10.0 + LAST_BACKOFF_S
    pool.opened(slot)
    assert [pool.last_refusal, pool.backoff_s] == [None, 0.0]
    assert pool.wants_open(10.0)


def test_a_quota_counts_all_pools_under_it() -> None:
    quota = Quota("database app", 1)
    one, two = make_pool(), make_pool()
    one.quotas.append(quota)
    two.quotas.append(quota)
    slot = one.begin_open()
    assert two.full_quota() is quota
    assert list(quota.members) == [one]
    one.remove(slot)
    assert two.full_quota() is None
    assert not quota.members


def test_a_pool_without_connections_is_not_starved_by_one_that_has_them_all() -> None:
    quota = Quota("database app", 1)
    rich, poor = make_pool(), make_pool()
    rich.quotas.append(quota)
    poor.quotas.append(quota)
    slot = rich.begin_open()
    rich.opened(slot)
    poor.waiting.insert(make_ticket(1.0))
    quota.starved[poor] = None
    rich.waiting.insert(make_ticket(0.5))
    assert rich.put(slot) == PUT_GRANT  # its own has waited longer
    rich.waiting.pop()
    rich.waiting.insert(make_ticket(2.0))
    assert rich.put(slot) == PUT_CLOSE
    quota.limit = 2
    assert rich.put(slot) == PUT_GRANT  # there is room for both


def test_a_pool_where_nobody_waits_is_no_older_than_another() -> None:
    quota = Quota("database app", 1)
    holder, waiting = make_pool(), make_pool()
    for pool in (holder, waiting):
        pool.quotas.append(quota)
    slot = holder.begin_open()
    holder.opened(slot)
    waiting.waiting.insert(make_ticket(1.0))
    waiting.starve()
    assert not holder.is_older_than(waiting)
    assert waiting.is_older_than(holder)
    assert quota.neediest() is waiting
    assert holder.put(slot) == PUT_CLOSE
    waiting.stop_starving()
    assert quota.neediest() is None


def test_the_oldest_idle_connection_is_the_one_that_rested_longest() -> None:
    pool = make_pool()
    assert pool.oldest_idle() is None
    first, second = open_idle(pool), open_idle(pool)
    assert pool.oldest_idle() is first
    pool.remove(first)
    assert pool.oldest_idle() is second


def test_a_full_limit_without_others_in_need_takes_nothing_away() -> None:
    roomy, full = Quota("server", 5), Quota("database app", 1)
    pool = make_pool()
    pool.quotas.extend((roomy, full))
    slot = pool.begin_open()
    pool.opened(slot)
    pool.waiting.insert(make_ticket(1.0))
    assert pool.put(slot) == PUT_GRANT


def test_the_last_place_is_kept_for_the_pool_that_has_none() -> None:
    quota = Quota("database app", 2)
    rich, poor, other = make_pool(), make_pool(), make_pool()
    for pool in (rich, poor, other):
        pool.quotas.append(quota)
    rich.opened(rich.begin_open())
    assert rich.full_quota() is None  # nobody is in need
    assert quota.next_to_serve() is None
    poor.starve()
    assert rich.full_quota() is None  # in need, but nobody waits there
    assert quota.next_to_serve() is poor
    other.waiting.insert(make_ticket(2.0))
    other.starve()
    poor.waiting.insert(make_ticket(1.0))
    assert quota.neediest() is poor
    assert quota.next_to_serve() is poor
    assert rich.full_quota() is quota
    assert other.full_quota() is quota
    assert poor.full_quota() is None
    rich.waiting.insert(make_ticket(0.5))
    assert rich.full_quota() is None  # its own has waited longest
    poor.stop_starving()
    assert quota.neediest() is other


def test_a_pool_is_under_a_limit_while_it_has_a_connection() -> None:
    quota = Quota("database app", 5)
    pool = make_pool()
    pool.quotas.append(quota)
    first, second = open_idle(pool), open_idle(pool)
    pool.remove(first)
    assert (quota.count, list(quota.members)) == (1, [pool])
    pool.remove(second)
    assert (quota.count, list(quota.members)) == (0, [])


@pytest.mark.parametrize(("sqlstate", "is_turned_away"), [("53300", True), ("08006", False)])
def test_a_server_without_room_is_not_asked_again_at_once(
    sqlstate: str, is_turned_away: bool
) -> None:
    pool = make_pool()
    assert not pool.is_turned_away(0.0)
    pool.back_off(0.0, Refusal(sqlstate, "no"))
    assert pool.is_turned_away(0.0) == is_turned_away
    assert not pool.is_turned_away(pool.retry_at_s)
    open_idle(pool)
    assert not pool.is_turned_away(0.0)


def test_connections_that_ended_are_swept_and_those_that_rest_are_kept() -> None:
    pool = make_pool(200)
    slots = [open_idle(pool) for _ in range(200)]
    for slot in slots[1:]:
        pool.remove(slot)
    assert len(pool.idle_stack) < 100
    assert pool.oldest_idle() is slots[0]
    assert pool.take() is slots[0]


def test_the_queue_is_ordered_by_age_and_can_be_left_anywhere() -> None:
    queue = WaitQueue()
    tickets = [make_ticket(since_s) for since_s in (3.0, 1.0, 2.0, 1.0)]
    for ticket in tickets:
        queue.insert(ticket)
    queue.remove(tickets[2])
    order = [queue.pop(), queue.pop(), queue.pop(), queue.pop()]
    assert order == [tickets[1], tickets[3], tickets[0], None]
    assert queue.count == 0
    assert queue.tail is None


def test_a_slot_that_is_spared_is_taken_last_and_can_be_taken_by_name() -> None:
    pool = make_pool(size=3)
    slots = [pool.begin_open() for _ in range(3)]
    for slot in slots:
        pool.opened(slot)
        pool.put_last(slot)
        assert not pool.take_this(slot)
        assert pool.put(slot) == PUT_IDLE
    pool.put_last(slots[2])
    assert pool.take() is slots[1]
    assert pool.take_this(slots[2])
    assert (pool.idle, pool.active, pool.node.active) == (1, 2, 2)
    assert pool.take() is slots[0]
    pool.put(slots[0])
    pool.is_paused = True
    assert not pool.take_this(slots[0])


class PoolMachine(RuleBasedStateMachine):
    """
    Drives a pool as the broker does, with any interleaving of clients, openings and losses, and
    keeps its own account of who has what.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pool = make_pool(size=3, reserve_size=1)
        self.now_s = 0.0
        self.owners: dict[Slot, Ticket | str] = {}
        self.cancels: list[Slot] = []

    # what the broker does with the answers

    def grow(self) -> None:
        while self.pool.wants_open(self.now_s):
            self.pool.begin_open()

    def settle(self, slot: Slot) -> None:
        self.owners.pop(slot, None)
        code = self.pool.put(slot)
        if code == PUT_GRANT:
            head = self.pool.waiting.head
            ticket = self.pool.waiting.pop()
            assert ticket is not None
            assert ticket is head
            self.give(slot, ticket)
        elif code == PUT_CLOSE:
            self.pool.remove(slot)
            self.grow()

    def give(self, slot: Slot, owner: Ticket | str) -> None:
        assert slot not in self.owners, "two owners"
        assert slot.cancels == 0
        self.owners[slot] = owner

    def in_state(self, state: int) -> list[Slot]:
        return [slot for slot in self.pool.slots if slot.state == state]

    # what happens

    @rule()
    def a_client_comes(self) -> None:
        self.now_s += 0.25
        slot = self.pool.take()
        if slot is not None:
            assert self.pool.waiting.count == 0, "overtook somebody who waits"
            self.give(slot, "client")
            return
        assert self.pool.idle == 0
        self.pool.waiting.insert(make_ticket(self.now_s))
        self.grow()

    @precondition(lambda self: self.pool.slots)
    @rule(pick=st.integers(0, 30))
    def a_client_comes_back(self, pick: int) -> None:
        slot = list(self.pool.slots)[pick % len(self.pool.slots)]
        rests = slot.state == SLOT_IDLE
        assert self.pool.take_this(slot) == (rests and not self.pool.is_paused)
        if slot.state == SLOT_ACTIVE and rests:
            self.give(slot, "client")

    @precondition(lambda self: self.pool.slots)
    @rule(pick=st.integers(0, 30))
    def a_slot_is_spared(self, pick: int) -> None:
        self.pool.put_last(list(self.pool.slots)[pick % len(self.pool.slots)])

    @precondition(lambda self: self.pool.waiting.count > 0)
    @rule(pick=st.integers(0, 30))
    def a_client_goes(self, pick: int) -> None:
        ticket = self.pool.waiting.head
        for _ in range(pick % self.pool.waiting.count):
            assert ticket is not None
            ticket = ticket.next
        assert ticket is not None
        self.pool.waiting.remove(ticket)

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 30))
    def a_client_releases(self, pick: int) -> None:
        slots = list(self.owners)
        self.settle(slots[pick % len(slots)])

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 30))
    def a_client_cancels(self, pick: int) -> None:
        slots = list(self.owners)
        slot = slots[pick % len(slots)]
        slot.cancels += 1
        self.cancels.append(slot)

    @precondition(lambda self: self.cancels)
    @rule(pick=st.integers(0, 30))
    def a_cancel_is_done(self, pick: int) -> None:
        slot = self.cancels.pop(pick % len(self.cancels))
        if self.pool.cancel_done(slot):
            self.settle(slot)

    @precondition(lambda self: self.pool.opening > 0)
    @rule(succeeds=st.booleans())
    def an_opening_ends(self, succeeds: bool) -> None:
        slot = self.in_state(SLOT_OPENING)[0]
        if succeeds:
            self.pool.opened(slot)
            self.settle(slot)
        else:
            self.pool.remove(slot)
            self.pool.back_off(self.now_s, REFUSAL)
            self.grow()

    @precondition(lambda self: self.pool.slots)
    @rule(pick=st.integers(0, 30))
    def a_connection_ends(self, pick: int) -> None:
        slots = [slot for slot in self.pool.slots if slot.state != SLOT_OPENING]
        if slots:
            slot = slots[pick % len(slots)]
            self.owners.pop(slot, None)
            self.pool.remove(slot)
            assert slot.state == SLOT_CLOSED
            self.grow()

    @precondition(lambda self: self.owners)
    @rule(pick=st.integers(0, 30))
    def a_connection_grows_old(self, pick: int) -> None:
        slots = list(self.owners)
        slots[pick % len(slots)].is_stale = True

    @rule(seconds=st.sampled_from([0.1, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.grow()

    # what always holds

    @invariant()
    def counts_are_level(self) -> None:
        pool = self.pool
        assert pool.idle == len(self.in_state(SLOT_IDLE))
        assert pool.active == len(self.in_state(SLOT_ACTIVE))
        assert pool.opening == len(self.in_state(SLOT_OPENING))
        assert pool.held == len(self.in_state(SLOT_HELD))
        assert pool.total() == pool.idle + pool.active + pool.opening + pool.held
        assert pool.node.active == pool.active
        assert set(self.owners) == set(self.in_state(SLOT_ACTIVE))

    @invariant()
    def never_above_the_bounds(self) -> None:
        assert self.pool.total() <= self.pool.size + self.pool.reserve_size

    @invariant()
    def nobody_waits_beside_an_idle_connection(self) -> None:
        assert self.pool.waiting.count == 0 or self.pool.idle == 0

    @invariant()
    def whoever_waits_has_somebody_to_wait_for(self) -> None:
        pool = self.pool
        if pool.waiting.count > 0:
            assert pool.total() > 0 or self.now_s < pool.retry_at_s

    @invariant()
    def the_queue_is_in_order(self) -> None:
        ticket = self.pool.waiting.head
        seen = 0
        while ticket is not None:
            seen += 1
            following = ticket.next
            if following is not None:
                assert ticket.since_s <= following.since_s
                assert following.previous is ticket
            else:
                assert self.pool.waiting.tail is ticket
            ticket = following
        assert seen == self.pool.waiting.count

    def teardown(self) -> None:
        """Once everything that is under way has ended and nobody else comes, all are served."""
        while self.cancels:
            self.a_cancel_is_done(0)
        for _ in range(1000):
            if self.pool.waiting.count == 0:
                break
            if self.owners:
                self.a_client_releases(0)
            elif self.pool.opening > 0:
                self.an_opening_ends(True)
            else:
                self.time_passes(6.0)
        assert self.pool.waiting.count == 0, "somebody starves"


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
