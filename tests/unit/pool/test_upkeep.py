"""Ageing, minimum sizes, administration and reports of the pools."""

from proxy.pool import upkeep
from proxy.pool.assignment import Pool
from proxy.pool.plan import DatabasePlan, PoolPlan
from proxy.routing.node import ROLE_PRIMARY
from proxy.routing.route import WRITE
from proxy.session.link import BackendLink
from tests.unit.pool.fakes import FakeWaiter, FakeWire, Stage, make_link, make_plan


def connect(stage: Stage, count: int = 1, database: str = "app") -> list[BackendLink]:
    waiters = [FakeWaiter() for _ in range(count)]
    links = []
    for waiter in waiters:
        link = stage.broker.acquire(waiter, database, "alice", WRITE)
        if link is None:
            stage.open_all()
            link = waiter.link
        links.append(link)
    return links


def age(stage: Stage, seconds: float) -> None:
    stage.pass_time(seconds)
    upkeep.reap(stage.broker)


def only_pool(stage: Stage) -> Pool:
    [pool] = stage.broker.registry.pools.values()
    return pool


def test_idle_connections_are_closed_after_idle_timeout_down_to_min_size() -> None:
    plan = make_plan(size=3)
    plan.min_size = 1
    stage = Stage(plan)
    links = connect(stage, 3)
    stage.pass_time(0.0)
    for link in links:
        stage.broker.release(link)
    age(stage, 599.0)
    assert not any(link.is_closed for link in links)
    age(stage, 2.0)
    assert [link.is_closed for link in links] == [True, True, False]
    stage.level()


def test_idle_timeout_0_and_lifetime_0_close_nothing() -> None:
    plan = make_plan()
    plan.idle_timeout_s = plan.lifetime_s = 0.0
    stage = Stage(plan)
    [link] = connect(stage)
    stage.broker.release(link)
    age(stage, 1e7)
    assert not link.is_closed


def test_connections_end_with_their_lifetime_when_they_are_free() -> None:
    stage = Stage()
    used, idle = connect(stage, 2)
    stage.broker.release(idle)
    age(stage, 3601.0)
    assert [used.is_closed, idle.is_closed] == [False, True]
    stage.broker.release(used)
    assert used.is_closed
    assert only_pool(stage).total() == 0


def test_min_size_is_kept_up() -> None:
    plan = make_plan()
    plan.min_size = 2
    stage = Stage(plan)
    [link] = connect(stage)
    upkeep.reap(stage.broker)
    stage.open_all()
    assert only_pool(stage).total() == 2
    stage.broker.on_link_closed(link)
    age(stage, 1.0)
    stage.open_all()
    assert only_pool(stage).total() == 2
    stage.down("pg1")
    stage.broker.release(link)
    age(stage, 1.0)
    assert not stage.errands.openings
    stage.up("pg1", ROLE_PRIMARY)
    pool = only_pool(stage)
    pool.backoff_s = 0.1
    age(stage, 1.0)
    assert pool.opening == 1  # a probe: the last login had failed


def test_after_size_was_lowered_the_surplus_is_closed() -> None:
    stage = Stage(make_plan(size=3))
    links = connect(stage, 3)
    for link in links:
        stage.broker.release(link)
    only_pool(stage).size = 1
    age(stage, 1.0)
    assert sum(link.is_closed for link in links) == 2


def test_empty_pools_are_forgotten() -> None:
    stage = Stage()
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    stage.broker.withdraw(waiter)
    stage.broker.close_slot(stage.errands.openings.pop(), "test")
    destination = stage.broker.directory.find("app", "alice")
    age(stage, 59.0)
    assert stage.broker.registry.pools
    age(stage, 70.0)
    assert not stage.broker.registry.pools
    assert stage.broker.directory.find("app", "alice") is not destination
    [link] = connect(stage)
    stage.broker.on_link_closed(link)
    age(stage, 70.0)
    assert stage.broker.registry.pools  # it had a connection: its counters stay for a while
    age(stage, 3700.0)
    assert not stage.broker.registry.pools


def test_the_report_says_who_has_and_who_waits() -> None:
    stage = Stage(make_plan(size=2))
    used, idle = connect(stage, 2)
    stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE)
    stage.clock.seconds += 2.0
    stage.broker.tick()
    [report] = upkeep.reports(stage.broker)
    assert (report.database, report.user, report.node) == ("app", "alice", "pg1")
    assert (report.cl_active, report.cl_waiting) == (2, 1)
    assert 1_999_000 < report.maxwait_us <= 2_000_000
    assert (report.sv_active, report.sv_idle, report.sv_opening, report.sv_held) == (2, 0, 0, 0)
    assert (report.size, report.is_paused, report.last_error) == (2, False, "")
    assert report.counters.logins == 2
    stage.broker.release(used)
    stage.broker.release(idle)
    [report] = upkeep.reports(stage.broker)
    assert (report.cl_active, report.sv_idle, report.maxwait_us) == (1, 1, 0)


def test_pause_takes_effect_as_connections_come_back_and_resume_serves_who_waited() -> None:
    stage = Stage()
    used, idle = connect(stage, 2)
    [other] = connect(stage, database="other")
    stage.broker.release(idle)
    upkeep.pause(stage.broker, "app")
    assert [used.is_closed, idle.is_closed, other.is_closed] == [False, True, False]
    waiter = FakeWaiter()
    assert stage.broker.acquire(waiter, "app", "alice", WRITE) is None
    assert upkeep.in_use(stage.broker, "app") == 1
    stage.broker.release(used)
    assert used.is_closed
    assert upkeep.in_use(stage.broker, "app") == 0
    stage.pass_time(1.0)
    assert not stage.errands.openings
    upkeep.resume(stage.broker, "app")
    stage.open_all()
    assert len(waiter.links) == 1


def test_reconnect_makes_every_connection_anew_when_it_is_free() -> None:
    stage = Stage()
    used, idle = connect(stage, 2)
    stage.broker.release(idle)
    upkeep.reconnect(stage.broker, "")
    assert [used.is_closed, idle.is_closed] == [False, True]
    stage.broker.release(used)
    assert used.is_closed


def test_a_database_that_somebody_needs_is_left_for_a_while() -> None:
    plan = make_plan(size=3)
    plan.min_size = 2
    stage = Stage(plan)
    used, idle = connect(stage, 2)
    stage.broker.release(idle)
    upkeep.vacate(stage.broker, "other")
    assert not idle.is_closed
    upkeep.vacate(stage.broker, only_pool(stage).database)
    assert [used.is_closed, idle.is_closed] == [False, True]
    stage.broker.release(used)
    assert used.is_closed
    age(stage, upkeep.QUIET_S - 1.0)
    stage.open_all()
    assert only_pool(stage).total() == 0
    # Who wants a connection gets one.
    [link] = connect(stage)
    assert not link.is_closed
    age(stage, 2.0)
    stage.open_all()
    assert only_pool(stage).total() == 2


def test_kill_ends_everything_and_refuses_who_waits() -> None:
    stage = Stage(make_plan(size=2))
    used, idle = connect(stage, 2)
    stage.broker.release(idle)
    waiting = connect(stage)[0]
    waiter = FakeWaiter()
    stage.broker.acquire(waiter, "app", "alice", WRITE)
    upkeep.kill(stage.broker, "app")
    stage.flush()
    assert waiter.refusal.sqlstate == "57P01"
    for link in (used, waiting):
        assert isinstance(link.wire, FakeWire)
        assert link.wire.is_aborted
        assert link.last_fatal is not None
        assert link.last_fatal.sqlstate == "57P01"
        stage.broker.on_link_closed(link)
    assert stage.broker.acquire(FakeWaiter(), "app", "alice", WRITE) is None
    assert not stage.errands.openings
    stage.level()


def test_a_name_that_clients_use_means_the_database_behind_it() -> None:
    stage = Stage(_mapped())
    [link] = connect(stage)
    assert link.database == "app_v2"
    assert upkeep.in_use(stage.broker, "app") == 1
    assert upkeep.in_use(stage.broker, "") == 1
    assert upkeep.server_name(stage.broker, "") == ""
    assert upkeep.server_name(stage.broker, "unknown") == "unknown"


def test_pools_whose_user_is_known_are_opened_before_any_client_asks() -> None:
    plan = _mapped()
    upkeep.warm(Stage(plan).broker)
    plan.min_size = 1
    stage = Stage(plan)
    upkeep.warm(stage.broker)
    upkeep.reap(stage.broker)
    stage.open_all()
    assert {pool.node.name: pool.idle for pool in stage.broker.registry.pools.values()} == {
        "pg1": 1,
        "pg2": 1,
    }


def _mapped() -> PoolPlan:
    plan = make_plan()
    plan.databases = {
        "app": DatabasePlan("app", "app_v2", "svc", ("pg1", "pg2"), 2, "transaction", 0)
    }
    return plan


def test_kill_ends_what_is_used_what_rests_and_what_is_being_opened() -> None:
    stage = Stage(make_plan(size=3))
    used, idle = connect(stage, 2)
    waiting = FakeWaiter()
    assert stage.broker.acquire(waiting, "app", "alice", WRITE) is None
    [opening] = stage.errands.openings
    stage.broker.release(idle)
    assert waiting.link is idle
    stage.broker.release(idle)
    upkeep.kill(stage.broker, "app")
    wire = used.wire
    assert isinstance(wire, FakeWire)
    assert wire.is_aborted
    assert used.last_fatal is not None
    assert used.last_fatal.sqlstate == "57P01"
    assert idle.is_closed
    # What comes of the opening is closed when it stands.
    late = make_link(opening)
    stage.broker.on_opened(opening, late)
    assert late.is_closed
    assert only_pool(stage).total() == 1
    stage.level()


def test_outdated_connections_are_counted_until_they_are_closed() -> None:
    stage = Stage()
    [link] = connect(stage)
    assert upkeep.outdated(stage.broker, "app") == 0
    stage.broker.drop_idle(only_pool(stage), "reconnect")
    assert upkeep.outdated(stage.broker, "app") == 1
    stage.broker.release(link)
    assert link.is_closed
    assert upkeep.outdated(stage.broker, "app") == 0
