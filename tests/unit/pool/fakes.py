"""Stand-ins for what the pools talk to: sessions, sockets, the event loop, time."""

from proxy.errors import Refusal
from proxy.observe.counters import Counters
from proxy.pool.assignment import Slot
from proxy.pool.broker import PoolBroker
from proxy.pool.errands import Errands
from proxy.pool.nodes import Nodes
from proxy.pool.plan import BranchPlan, DatabasePlan, NodePlan, PoolPlan
from proxy.routing.node import ROLE_PRIMARY, ROLE_STANDBY, ROLE_UNKNOWN
from proxy.routing.router import BALANCE_LEAST_CONNECTIONS, READS_STANDBY, Policy
from proxy.session.inspection import Inspection
from proxy.session.link import BackendLink
from proxy.session.ports import Clock, Waiter, Wire


class FakeWaiter(Waiter):
    """A session that notes what it is given."""

    def __init__(self) -> None:
        self.links: list[BackendLink] = []
        self.refusals: list[Refusal] = []

    def on_judged(self, inspection: Inspection) -> None:
        raise AssertionError("nobody judges here")

    def on_backend(self, link: BackendLink) -> None:
        self.links.append(link)

    def on_no_backend(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    @property
    def link(self) -> BackendLink:
        assert len(self.links) == 1
        return self.links[0]

    @property
    def refusal(self) -> Refusal:
        assert len(self.refusals) == 1
        return self.refusals[0]


class FakeWire(Wire):
    def __init__(self) -> None:
        self.is_aborted = False
        self.is_closed = False

    def write(self, data: bytes) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class FakeClock(Clock):
    def __init__(self) -> None:
        self.seconds = 1000.0

    def now_us(self) -> int:
        return int(self.seconds * 1e6)


class FakeErrands(Errands):
    """Notes what the broker wants done; a test does it when it likes."""

    def __init__(self) -> None:
        self.openings: list[Slot] = []
        self.cancels: list[Slot] = []
        self.flushes = 0
        self.looks: list[str] = []

    def open(self, slot: Slot) -> None:
        self.openings.append(slot)

    def cancel(self, slot: Slot) -> None:
        self.cancels.append(slot)

    def flush_soon(self) -> None:
        self.flushes += 1

    def look_again(self, node: str) -> None:
        self.looks.append(node)


def make_link(
    slot: Slot, process_id: int = 1, parameters: dict[bytes, bytes] | None = None
) -> BackendLink:
    pool = slot.pool
    return BackendLink(
        FakeWire(), pool.database, pool.user, pool.node.name, process_id, b"", parameters or {}, 0.0
    )


def make_plan(reads: int = READS_STANDBY, size: int = 2) -> PoolPlan:
    """A primary and two standbys, any database, a branch on the first standby."""
    plan = PoolPlan(Policy(reads, 1000, BALANCE_LEAST_CONNECTIONS, True), size)
    plan.wait_timeout_s = 30.0
    plan.idle_timeout_s = 600.0
    plan.lifetime_s = 3600.0
    plan.connect_timeout_s = 5.0
    plan.nodes = [NodePlan(name, ROLE_UNKNOWN, 1) for name in ("pg1", "pg2", "pg3")]
    plan.databases["*"] = DatabasePlan("*", "", "", ("pg1", "pg2", "pg3"), size, "transaction", 0)
    plan.branches["dev"] = BranchPlan("app_dev", ("pg2",))
    return plan


class Stage:
    """A broker with everything around it under the test's control."""

    def __init__(self, plan: PoolPlan | None = None, checked: bool = True) -> None:
        self.plan = plan if plan is not None else make_plan()
        self.clock = FakeClock()
        self.errands = FakeErrands()
        self.counters = Counters()
        self.nodes = Nodes(self.plan.policy.max_lag_bytes)
        self.broker = PoolBroker(
            self.plan, self.nodes, self.counters, self.clock, self.errands, seed=7
        )
        self.process_id = 0
        if checked:
            self.up("pg1", ROLE_PRIMARY)
            self.up("pg2", ROLE_STANDBY)
            self.up("pg3", ROLE_STANDBY)

    def up(self, name: str, role: int, lag_bytes: int = 0) -> None:
        self.nodes.observed(self.nodes.by_name[name], self.clock.seconds, role, lag_bytes, 1)

    def down(self, name: str) -> None:
        self.nodes.failed(self.nodes.by_name[name], self.clock.seconds, "connection refused")

    def pass_time(self, seconds: float) -> None:
        self.clock.seconds += seconds
        self.broker.tick()
        self.flush()

    def flush(self) -> None:
        while self.errands.flushes:
            self.errands.flushes = 0
            self.broker.flush()

    def open_all(self, parameters: dict[bytes, bytes] | None = None) -> list[BackendLink]:
        """Let every opening that was asked for succeed."""
        links = []
        while self.errands.openings:
            slot = self.errands.openings.pop(0)
            self.process_id += 1
            link = make_link(slot, self.process_id, parameters)
            links.append(link)
            self.broker.on_opened(slot, link)
        self.flush()
        return links

    def fail_all(self, refusal: Refusal) -> None:
        openings, self.errands.openings = self.errands.openings, []
        for slot in openings:
            self.broker.on_open_failed(slot, refusal)
        self.flush()

    def level(self) -> None:
        """Every pool's counts are those of its slots, and no more than its bounds allow."""
        for pool in self.broker.registry.pools.values():
            states = [slot.state for slot in pool.slots]
            assert pool.total() == pool.idle + pool.active + pool.opening + pool.held
            assert states.count(0) == pool.opening
            assert states.count(1) == pool.active
            assert states.count(2) == pool.idle
            assert states.count(3) == pool.held
            assert pool.total() <= pool.size + pool.reserve_size
