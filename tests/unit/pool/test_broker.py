"""The broker: grants, waits, refusals, nodes that fail, cancels, quotas. No input or output."""

import pytest

from proxy.errors import Refusal
from proxy.pool.assignment import SLOT_IDLE, Pool, Slot
from proxy.pool.plan import DatabasePlan
from proxy.routing.node import ROLE_PRIMARY, ROLE_STANDBY
from proxy.routing.route import READ, ROUTE_BRANCH, ROUTE_NODE, WRITE, Route
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


def test_the_first_client_waits_for_a_connection_and_the_next_reuses_it() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    assert stage.broker.acquire(waiter, "app", "alice", WRITE) is None
    assert waiter.links == []
    stage.open_all()
    link = waiter.link
    assert (link.node, link.database, link.user) == ("pg1", "app", "alice")
    stage.broker.release(link)
    assert stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE) is link
    pool = pool_of(stage, "pg1")
    assert (pool.counters.logins, pool.counters.waits) == (1, 1)
    assert (stage.counters.write_routed, stage.counters.read_routed) == (2, 0)


def test_reads_go_to_the_standbys_in_turn() -> None:
    stage = Stage()
    nodes = {connect(stage, READ).node, connect(stage, READ).node}
    assert nodes == {"pg2", "pg3"}
    assert stage.counters.read_routed == 2


def test_users_and_databases_do_not_share_connections() -> None:
    stage = Stage()
    link = connect(stage)
    stage.broker.release(link)
    for database, user in (("app", "bob"), ("other", "alice")):
        assert stage.broker.acquire(FakeWaiter(), database, user, WRITE) is None


def test_clients_are_served_in_the_order_in_which_they_came() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    waiters = [FakeWaiter() for _ in range(3)]
    for waiter in waiters:
        stage.clock.seconds += 1.0
        assert stage.broker.acquire(waiter, "app", "alice", WRITE) is None
    stage.broker.withdraw(waiters[1])
    stage.broker.withdraw(waiters[1])
    stage.broker.release(link)
    assert waiters[0].link is link
    assert waiters[2].links == []
    stage.broker.release(link)
    assert waiters[2].link is link
    assert waiters[1].links == []
    stage.broker.release(link)
    stage.level()
    assert pool_of(stage, "pg1").counters.wait_us >= 2_000_000


def test_a_pool_opens_no_more_than_its_size() -> None:
    stage = Stage(make_plan(size=2))
    for _ in range(5):
        stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE)
    assert len(stage.errands.openings) == 2
    stage.level()


def test_a_waiter_that_gives_back_at_once_makes_no_recursion() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)

    class Hasty(FakeWaiter):
        def on_backend(self, link: BackendLink) -> None:
            super().on_backend(link)
            stage.broker.release(link)

    waiters = [Hasty() for _ in range(5000)]
    for waiter in waiters:
        stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.release(link)
    assert all(waiter.link is link for waiter in waiters)
    assert slot_of(link).state == SLOT_IDLE


def test_a_waiter_that_fails_does_not_cost_the_others_their_turn() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)

    class Failing(FakeWaiter):
        def on_no_backend(self, refusal: Refusal) -> None:
            raise RuntimeError("a session failed")

    waiters = [Failing(), FakeWaiter()]
    for waiter in waiters:
        stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.clock.seconds += 31.0
    stage.broker.tick()
    with pytest.raises(RuntimeError):
        stage.broker.flush()
    stage.flush()
    assert waiters[1].refusal.sqlstate == "53300"
    stage.broker.release(link)


def test_waiting_too_long_is_53300() -> None:
    stage = Stage(make_plan(size=1))
    connect(stage)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.pass_time(29.0)
    assert waiter.refusals == []
    stage.pass_time(1.5)
    assert waiter.refusal.sqlstate == "53300"
    assert waiter.refusal.severity == "ERROR"
    assert "pool.size" in waiter.refusal.hint
    assert not stage.broker.busy


def test_wait_timeout_0_waits_for_ever() -> None:
    stage = Stage(make_plan(size=1))
    stage.plan.wait_timeout_s = 0.0
    connect(stage)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.pass_time(1e6)
    assert waiter.refusals == []


def test_an_unknown_database_is_refused_after_acquire_has_returned() -> None:
    plan = make_plan()
    plan.databases = {"app": plan.databases["*"]}
    stage = Stage(plan)
    waiter = FakeWaiter()
    assert stage.broker.acquire(waiter, "nope", "alice", WRITE) is None
    assert waiter.refusals == []
    stage.flush()
    assert waiter.refusal.sqlstate == "3D000"
    assert "nope" in waiter.refusal.message


@pytest.mark.parametrize("kind", [ROUTE_NODE, ROUTE_BRANCH])
def test_an_unknown_node_or_branch_is_refused(kind: int) -> None:
    stage = Stage()
    waiter = FakeWaiter()
    assert stage.broker.acquire(waiter, "app", "alice", Route(kind, "nope", True)) is None
    stage.flush()
    assert waiter.refusal.sqlstate == "42704"


def test_a_refusal_that_was_not_told_yet_can_be_withdrawn() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", Route(ROUTE_NODE, "nope", True))
    stage.broker.withdraw(waiter)
    stage.flush()
    assert waiter.refusals == []


def test_a_branch_is_another_database_on_its_own_nodes() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", Route(ROUTE_BRANCH, "dev", True))
    stage.open_all()
    assert (waiter.link.database, waiter.link.node) == ("app_dev", "pg2")


# -- nodes that fail


def test_with_no_primary_a_client_waits_for_one_within_connect_timeout() -> None:
    stage = Stage()
    stage.down("pg1")
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.pass_time(3.0)
    assert waiter.refusals == []
    stage.up("pg1", ROLE_PRIMARY)
    stage.open_all()
    assert waiter.link.node == "pg1"


def test_with_no_primary_a_client_is_refused_when_connect_timeout_is_over() -> None:
    stage = Stage()
    stage.down("pg1")
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.pass_time(5.1)
    assert waiter.refusal.sqlstate == "57P03"
    assert '"pg1" is down' in waiter.refusal.detail
    late = FakeWaiter()
    stage.broker.acquire(late, "app", "alice", WRITE)
    stage.flush()
    assert late.refusal.sqlstate == "57P03"
    assert stage.broker.parked.count == 0


def test_before_the_first_check_clients_wait_for_it() -> None:
    stage = Stage(checked=False)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    assert stage.broker.parked.count == 1
    stage.up("pg2", ROLE_STANDBY)
    assert stage.errands.openings == []
    stage.up("pg1", ROLE_PRIMARY)
    stage.open_all()
    assert waiter.link.node == "pg1"


def test_a_standby_that_cannot_be_reached_is_left_at_once() -> None:
    stage = Stage()
    waiters = [FakeWaiter() for _ in range(4)]
    for waiter in waiters:
        stage.broker.acquire(waiter, "app", "alice", READ)
    dead = stage.errands.openings[0].pool.node
    stage.broker.on_open_failed(stage.errands.openings.pop(0), REFUSED)
    assert not dead.is_up
    assert dead.name in stage.errands.looks
    links = stage.open_all()
    while links:
        link = links.pop()
        if slot_of(link).state == 1:
            stage.broker.release(link)
        links.extend(stage.open_all())
    served = [waiter.link.node for waiter in waiters]
    assert dead.name not in served
    stage.level()


def test_reads_fall_back_to_the_primary_when_every_standby_dies() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", READ)
    stage.fail_all(REFUSED)
    stage.fail_all(REFUSED)
    stage.open_all()
    assert waiter.link.node == "pg1"


def test_a_write_whose_only_primary_is_dead_is_refused_in_connect_timeout() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.clock.seconds += 5.0  # the node swallowed the packets for all of it
    stage.fail_all(REFUSED)
    assert waiter.refusal.sqlstate == "57P03"
    assert pool_of(stage, "pg1").counters.login_failures == 1


def test_idle_connections_to_a_dead_node_are_closed_and_used_ones_are_not_kept() -> None:
    stage = Stage()
    used, idle = connect(stage), connect(stage)
    stage.broker.release(idle)
    stage.down("pg1")
    assert [link.is_closed for link in (idle, used)] == [True, False]
    stage.broker.release(used)
    assert used.is_closed
    assert pool_of(stage, "pg1").total() == 0


def test_a_failover_moves_those_who_wait() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.up("pg1", ROLE_STANDBY)
    assert stage.broker.parked.count == 1
    stage.up("pg2", ROLE_PRIMARY)
    stage.open_all()
    assert waiter.link.node == "pg2"


def test_a_login_tells_the_role_where_the_monitor_could_not() -> None:
    stage = Stage(checked=False)
    for name in ("pg1", "pg2", "pg3"):
        stage.nodes.reachable(stage.nodes.by_name[name], 1000.0, "no login")
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    slot = stage.errands.openings.pop()
    assert slot.pool.node.name == "pg1"
    stage.broker.on_opened(slot, make_link(slot, parameters={b"in_hot_standby": b"on"}))
    stage.flush()
    assert stage.nodes.by_name["pg1"].role == ROLE_STANDBY
    assert waiter.links == []
    slot = stage.errands.openings.pop()
    assert slot.pool.node.name == "pg2"
    stage.broker.on_opened(slot, make_link(slot, parameters={b"in_hot_standby": b"off"}))
    stage.flush()
    assert waiter.link.node == "pg2"
    assert stage.nodes.by_name["pg2"].role == ROLE_PRIMARY


def test_rule_39_25006_has_the_node_looked_at_and_the_connection_closed() -> None:
    stage = Stage()
    link = connect(stage)
    stage.broker.demoted(link)
    assert stage.errands.looks == ["pg1"]
    assert stage.nodes.by_name["pg1"].role == ROLE_PRIMARY
    stage.broker.release(link)
    assert link.is_closed


def test_a_lost_connection_has_its_node_looked_at_and_frees_its_place() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.on_link_closed(link)
    stage.broker.on_link_closed(link)
    stage.broker.release(link)
    assert stage.errands.looks == ["pg1"]
    stage.open_all()
    assert waiter.link is not link
    stage.level()


def test_for_a_moment_after_a_loss_others_may_have_the_same_reason() -> None:
    stage = Stage(make_plan(size=3))
    first, second = connect(stage), connect(stage)
    assert not stage.broker.is_losing(second)
    stage.broker.on_link_closed(first)
    assert stage.broker.is_losing(second)
    stage.clock.seconds += 1.01
    assert not stage.broker.is_losing(second)
    second.pool = None
    assert not stage.broker.is_losing(second)


def test_of_a_server_that_crashes_nothing_that_rests_is_given_out() -> None:
    stage = Stage(make_plan(size=2))
    lost, resting = connect(stage), connect(stage)
    stage.broker.release(resting)
    stage.broker.crashed(lost)
    assert resting.is_closed
    assert stage.nodes.by_name["pg1"].is_up
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.on_link_closed(lost)
    stage.open_all()
    assert waiter.link not in (lost, resting)
    stage.level()


def test_two_names_of_one_database_share_its_connections() -> None:
    plan = make_plan()
    plan.databases["alias"] = DatabasePlan("alias", "app", "", ("pg1",), 2, "transaction", 0)
    stage = Stage(plan)
    link = connect(stage)
    stage.broker.release(link)
    waiter = FakeWaiter()
    assert stage.broker.acquire(waiter, "alias", "alice", WRITE) is link
    assert stage.counters.write_routed == 2
    stage.broker.release(link)
    assert waiter.links == []
    stage.level()


def test_who_asks_again_waits_once() -> None:
    stage = Stage(make_plan(size=1))
    link = connect(stage)
    waiter = FakeWaiter()
    for _ in range(2):
        assert stage.broker.acquire(waiter, "app", "alice", WRITE) is None
    assert pool_of(stage, "pg1").waiting.count == 1
    stage.broker.release(link)
    stage.broker.release(link)
    assert waiter.links == [link]
    assert slot_of(link).state == SLOT_IDLE


def test_a_connection_of_no_pool_has_its_node_looked_at_and_takes_none_along() -> None:
    stage = Stage()
    link = connect(stage)
    stage.broker.release(link)
    stranger = make_link(slot_of(link))
    stage.broker.demoted(stranger)
    stage.broker.crashed(stranger)
    assert stage.errands.looks == ["pg1"]
    assert not link.is_closed


def test_a_crash_ends_nothing_on_other_nodes() -> None:
    stage = Stage()
    write, read = connect(stage, WRITE), connect(stage, READ)
    for link in (write, read):
        stage.broker.release(link)
    stage.broker.crashed(write)
    assert [write.is_closed, read.is_closed] == [True, False]
    stage.level()


def test_a_connection_that_ends_as_it_begins_is_opened_anew_for_who_waits() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    [slot] = stage.errands.openings
    stage.errands.openings.clear()
    link = make_link(slot)
    link.close("its server has ended it")
    stage.broker.on_opened(slot, link)
    stage.flush()
    assert waiter.links == []
    assert len(stage.errands.openings) == 1
    stage.level()
    stage.open_all()
    assert waiter.link is not link


def test_a_login_that_fails_when_nobody_waits_any_more_is_not_tried_elsewhere() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.withdraw(waiter)
    stage.fail_all(REFUSED)
    assert stage.errands.looks == ["pg1"]
    assert stage.errands.openings == []
    assert waiter.refusals == []
    stage.level()


def test_a_connection_that_was_given_back_can_be_had_again() -> None:
    stage = Stage()
    links = [connect(stage), connect(stage)]
    for link in links:
        stage.broker.release(link)
        assert link.turn == 1
    stage.broker.spare(links[1])
    assert stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE) is links[0]
    routed = stage.counters.write_routed
    assert stage.broker.regain(links[1])
    assert stage.counters.write_routed == routed + 1
    assert slot_of(links[1]).pool.active == 2
    assert not stage.broker.regain(links[1])
    stage.broker.release(links[1])
    links[1].close("by itself")
    assert not stage.broker.regain(links[1])
    stranger = make_link(slot_of(links[0]))
    assert not stage.broker.regain(stranger)
    stage.broker.spare(stranger)
