"""The broker: limits, outages, administration."""

import pytest

from proxy.errors import Refusal
from proxy.pool import upkeep
from proxy.pool.assignment import SLOT_CLOSED, SLOT_IDLE, Pool, Slot
from proxy.pool.plan import DatabasePlan, NodePlan
from proxy.routing.node import ROLE_PRIMARY, ROLE_STANDBY, ROLE_UNKNOWN
from proxy.routing.route import READ, ROUTE_BRANCH, ROUTE_NODE, ROUTE_STANDBY, WRITE, Route
from proxy.routing.router import BALANCE_ROUND_ROBIN, READS_STANDBY, Policy
from proxy.session.link import BackendLink
from tests.unit.pool.fakes import FakeWaiter, Stage, make_link, make_plan

REFUSED = Refusal("08006", "connection refused")
BAD_PASSWORD = Refusal("28P01", 'password authentication failed for user "alice"', severity="FATAL")


def slot_of(link: BackendLink) -> Slot:
    slot = link.pool
    assert isinstance(slot, Slot)
    return slot


def pool_of(stage: Stage, node: str, database: str = "app") -> Pool:
    for pool in stage.broker.registry.pools.values():
        if pool.node.name == node and pool.database == database:
            return pool
    raise AssertionError(f"no pool at {node}")


def connect(stage: Stage, route: Route = WRITE, user: str = "alice") -> BackendLink:
    """One client that gets a connection, opened if need be."""
    waiter = FakeWaiter()
    link = stage.broker.acquire(waiter, "app", user, route)
    if link is not None:
        return link
    stage.open_all()
    return waiter.link


def test_a_connection_that_closed_itself_while_it_rested_is_not_handed_out() -> None:
    stage = Stage()
    good, bad = connect(stage), connect(stage)
    stage.broker.release(good)
    stage.broker.release(bad)
    bad.close("the server broke the protocol")
    assert stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE) is good
    stage.broker.on_link_closed(bad)
    stage.level()


@pytest.mark.parametrize("is_reported", [True, False])
def test_a_promised_connection_that_ends_before_it_is_told_is_replaced(is_reported: bool) -> None:
    stage = Stage()
    link = connect(stage)
    stage.broker.release(link)
    stage.nodes.by_name["pg1"].is_up = False  # behind the broker's back: the connection stays
    stage.nodes.version += 1
    waiter, withdrawn = FakeWaiter(), FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.acquire(withdrawn, "app", "alice", WRITE)
    stage.up("pg1", ROLE_PRIMARY)
    assert waiter.links == []
    stage.broker.withdraw(withdrawn)
    link.is_closed = True
    if is_reported:
        stage.broker.on_link_closed(link)
    stage.flush()
    stage.open_all()
    assert waiter.link is not link
    assert withdrawn.links == []
    stage.level()


def test_a_promise_to_one_who_withdrew_goes_to_the_next() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    stage.broker.release(link)
    stage.nodes.by_name["pg1"].is_up = False
    stage.nodes.version += 1
    first, second = FakeWaiter(), FakeWaiter()
    stage.broker.acquire(first, "app", "alice", WRITE)
    stage.broker.acquire(second, "app", "alice", WRITE)
    stage.up("pg1", ROLE_PRIMARY)
    stage.broker.withdraw(first)
    stage.flush()
    assert (first.links, second.link) == ([], link)


# -- logins that fail


def test_the_servers_refusal_of_a_login_reaches_the_clients_at_once() -> None:
    stage = Stage()
    waiters = [FakeWaiter(), FakeWaiter()]
    for waiter in waiters:
        stage.broker.acquire(waiter, "app", "alice", WRITE)
    slot = stage.errands.openings.pop()
    stage.broker.on_open_failed(slot, BAD_PASSWORD)
    stage.flush()
    assert [waiter.refusals for waiter in waiters] == [[], []]  # another login is under way
    stage.fail_all(BAD_PASSWORD)
    assert [waiter.refusal for waiter in waiters] == [BAD_PASSWORD, BAD_PASSWORD]
    assert stage.nodes.by_name["pg1"].is_up


def test_failed_logins_do_not_loop() -> None:
    stage = Stage()
    attempts = 0
    for _ in range(100):
        stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE)
        stage.pass_time(0.1)
        attempts += len(stage.errands.openings)
        stage.fail_all(BAD_PASSWORD)
    assert 5 <= attempts <= 12


def test_a_login_that_fails_while_others_work_keeps_the_clients_waiting() -> None:
    stage = Stage()
    link = connect(stage)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.fail_all(BAD_PASSWORD)
    assert waiter.refusals == []
    stage.broker.release(link)
    assert waiter.link is link


def test_a_full_server_makes_another_pool_give_way() -> None:
    stage = Stage()
    link = connect(stage, user="bob")
    stage.broker.release(link)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.fail_all(Refusal("53300", "sorry, too many clients already", severity="FATAL"))
    assert link.is_closed
    assert waiter.refusals == []
    stage.pass_time(0.2)
    stage.open_all()
    assert len(waiter.links) == 1


def test_a_server_that_stays_full_is_named_as_the_reason() -> None:
    stage = Stage()
    full = Refusal("53300", "sorry, too many clients already", severity="FATAL")
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    for _ in range(400):
        stage.fail_all(full)
        stage.pass_time(0.1)
    assert waiter.refusal is full


@pytest.mark.parametrize("route", [READ, Route(ROUTE_STANDBY, "", True)])
def test_reads_go_elsewhere_while_a_standby_has_no_connection_at_all(route: Route) -> None:
    stage = Stage()
    full = Refusal("53300", "sorry, too many clients already", severity="FATAL")
    first, second, third = FakeWaiter(), FakeWaiter(), FakeWaiter()
    stage.broker.acquire(first, "app", "alice", route)
    tried = [slot.pool.node.name for slot in stage.errands.openings]
    stage.fail_all(full)
    tried += [slot.pool.node.name for slot in stage.errands.openings]
    assert sorted(tried) == ["pg2", "pg3"]
    stage.fail_all(full)
    stage.open_all()
    stage.broker.acquire(second, "app", "alice", route)
    stage.open_all()
    assert [first.link.node, second.link.node] == ["pg1", "pg1"]
    stage.pass_time(2.0)
    # It is tried again after a while.
    stage.broker.acquire(third, "app", "alice", route)
    stage.open_all()
    assert third.link.node in ("pg2", "pg3")
    stage.level()


def test_reads_wait_for_a_full_standby_where_nothing_may_take_its_place() -> None:
    plan = make_plan()
    plan.policy = Policy(READS_STANDBY, 0, BALANCE_ROUND_ROBIN, fallback_to_primary=False)
    stage = Stage(plan)
    stage.down("pg3")
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", READ)
    stage.fail_all(Refusal("53300", "sorry, too many clients already", severity="FATAL"))
    assert stage.errands.openings == []
    stage.pass_time(0.2)
    stage.open_all()
    assert waiter.link.node == "pg2"


def test_a_standby_that_serves_some_of_them_is_waited_for() -> None:
    stage = Stage()
    stage.down("pg3")
    first = connect(stage, READ)
    assert first.node == "pg2"
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", READ)
    stage.fail_all(Refusal("53300", "sorry, too many clients already", severity="FATAL"))
    stage.broker.release(first)
    stage.flush()
    assert waiter.link is first


def test_a_connection_that_nobody_needs_any_more_is_closed() -> None:
    stage = Stage()
    stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE)
    slot = stage.errands.openings.pop()
    stage.broker.close_slot(slot, "test")
    link = make_link(slot)
    stage.broker.on_opened(slot, link)
    assert link.is_closed
    stage.broker.on_open_failed(slot, REFUSED)
    assert stage.nodes.by_name["pg1"].is_up


def test_a_connection_opened_for_one_who_left_rests() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.withdraw(waiter)
    [link] = stage.open_all()
    assert waiter.links == []
    assert slot_of(link).state == SLOT_IDLE


# -- giving back


def test_discard_closes_and_serves_the_next() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.discard(link, "left in the middle of a result")
    assert link.is_closed
    assert link.close_reason == "left in the middle of a result"
    stage.broker.discard(link, "again")
    stage.open_all()
    assert len(waiter.links) == 1


def test_a_closed_connection_is_not_kept() -> None:
    stage = Stage()
    link = connect(stage)
    slot = slot_of(link)
    link.is_closed = True
    stage.broker.release(link)
    assert slot.state == SLOT_CLOSED
    stage.level()


def test_giving_back_twice_does_no_harm() -> None:
    stage = Stage()
    link = connect(stage)
    stage.broker.release(link)
    stage.broker.release(link)
    pool = pool_of(stage, "pg1")
    assert (pool.idle, pool.active) == (1, 0)


def test_rule_34_a_cancelled_connection_is_held_until_the_cancel_is_settled() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    stage.broker.cancel(link)
    assert stage.errands.cancels == [slot_of(link)]
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.release(link)
    assert waiter.links == []
    stage.broker.on_cancel_done(stage.errands.cancels.pop(), is_certain=True)
    assert waiter.link is link


def test_rule_34_a_cancel_of_unknown_fate_ends_the_connection() -> None:
    stage = Stage()
    link = connect(stage)
    stage.broker.cancel(link)
    stage.broker.release(link)
    stage.broker.on_cancel_done(stage.errands.cancels.pop(), is_certain=False)
    assert link.is_closed
    stage.broker.cancel(link)
    assert stage.errands.cancels == []


# -- quotas


def test_a_full_database_makes_room_from_another_user() -> None:
    plan = make_plan()
    plan.databases["*"].max_connections = 1
    stage = Stage(plan)
    link = connect(stage, user="bob")
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    assert stage.errands.openings == []
    second = FakeWaiter()
    stage.clock.seconds += 1.0
    stage.broker.acquire(second, "app", "bob", WRITE)
    stage.broker.release(link)  # alice has waited longer, and has no connection
    assert link.is_closed
    stage.open_all()
    assert waiter.link.user == "alice"
    stage.broker.release(waiter.link)
    stage.open_all()
    assert second.link.user == "bob"
    stage.level()


def test_a_full_database_closes_what_rests() -> None:
    plan = make_plan()
    plan.max_user_connections = 1
    stage = Stage(plan)
    link = connect(stage)
    stage.broker.release(link)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "other", "alice", WRITE)
    assert link.is_closed
    stage.open_all()
    assert waiter.link.database == "other"


# -- reload


def test_a_reload_changes_bounds_nodes_and_those_who_wait() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    waiter, lost = FakeWaiter(), FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.acquire(lost, "gone", "alice", Route(ROUTE_BRANCH, "dev", False))
    plan = make_plan(size=5)
    plan.branches = {}
    plan.nodes = [NodePlan("pg1", ROLE_UNKNOWN, 3), NodePlan("pg4", ROLE_STANDBY, 1)]
    plan.databases["*"] = DatabasePlan("*", "", "", ("pg1", "pg4"), 5, "session", 0)
    upkeep.reconfigure(stage.broker, plan)
    assert pool_of(stage, "pg1").size == 5
    assert stage.nodes.by_name["pg1"].weight == 3
    assert list(stage.nodes.by_name) == ["pg1", "pg4"]
    stage.open_all()
    assert waiter.link is not link
    assert lost.refusal.sqlstate == "42704"
    destination = stage.broker.directory.find("app", "alice")
    assert destination is not None
    assert destination.mode == "session"


def test_connections_to_a_removed_node_end() -> None:
    stage = Stage()
    link = connect(stage, Route(ROUTE_STANDBY, "", True))
    gone = link.node
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", Route(ROUTE_NODE, gone, True))
    late = stage.errands.openings.pop()
    plan = make_plan()
    plan.nodes = [NodePlan("pg1", ROLE_UNKNOWN, 1)]
    plan.databases["*"].nodes = ("pg1",)
    upkeep.reconfigure(stage.broker, plan)
    stage.flush()
    assert waiter.refusal.sqlstate == "42704"
    stage.broker.release(link)
    assert link.is_closed
    late_link = make_link(late)
    stage.broker.on_opened(late, late_link)
    assert late_link.is_closed
    assert upkeep.in_use(stage.broker, "") == 0
