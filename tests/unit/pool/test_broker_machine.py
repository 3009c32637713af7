"""
The broker under any interleaving of clients, openings, losses, cancels and failing nodes.

A client is served or refused exactly once, no connection ever has two owners, the counts stay
level, and when all is well again everybody who still waits is served.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.errors import Refusal
from proxy.pool import upkeep
from proxy.pool.assignment import SLOT_ACTIVE, Slot
from proxy.pool.plan import PoolPlan
from proxy.routing.node import ROLE_PRIMARY, ROLE_STANDBY
from proxy.routing.route import READ, WRITE
from proxy.session.link import BackendLink
from tests.unit.pool.fakes import FakeWaiter, Stage, make_plan

PICK = st.integers(0, 50)
FAILURES = (
    Refusal("08006", "connection refused"),
    Refusal("57P03", "the database system is starting up"),
    Refusal("53300", "sorry, too many clients already"),
    Refusal("28P01", "password authentication failed"),
)


class Client(FakeWaiter):
    """A session that knows what it has, and that it is called back as promised."""

    def __init__(self, machine: "BrokerMachine") -> None:
        super().__init__()
        self.machine = machine
        self.is_waiting = False

    def on_backend(self, link: BackendLink) -> None:
        assert self.is_waiting, "called back without waiting"
        self.is_waiting = False
        self.machine.own(link, self)

    def on_no_backend(self, refusal: Refusal) -> None:
        assert self.is_waiting, "called back without waiting"
        self.is_waiting = False
        self.refusals.append(refusal)


def _plan() -> PoolPlan:
    plan = make_plan(size=2)
    plan.reserve_size = 1
    plan.reserve_timeout_s = 5.0
    plan.max_user_connections = 4
    plan.databases["*"].max_connections = 3
    plan.min_size = 1
    return plan


class BrokerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(_plan())
        self.broker = self.stage.broker
        self.owned: dict[BackendLink, Client] = {}
        self.clients: list[Client] = []

    def own(self, link: BackendLink, client: Client) -> None:
        assert link not in self.owned, "two owners"
        assert not link.is_closed
        slot = link.pool
        assert isinstance(slot, Slot)
        assert slot.state == SLOT_ACTIVE
        self.owned[link] = client

    def waiting(self) -> list[Client]:
        return [client for client in self.clients if client.is_waiting]

    def picked_link(self, pick: int) -> BackendLink:
        links = list(self.owned)
        link = links[pick % len(links)]
        del self.owned[link]
        return link

    @rule(
        database=st.sampled_from(["app", "other"]),
        user=st.sampled_from(["alice", "bob"]),
        route=st.sampled_from([READ, WRITE]),
    )
    def a_client_comes(self, database: str, user: str, route: object) -> None:
        client = Client(self)
        self.clients.append(client)
        client.is_waiting = True
        link = self.broker.acquire(client, database, user, READ if route is READ else WRITE)
        if link is not None:
            client.is_waiting = False
            self.own(link, client)

    @precondition(lambda self: self.waiting())
    @rule(pick=PICK)
    def a_client_withdraws(self, pick: int) -> None:
        waiting = self.waiting()
        client = waiting[pick % len(waiting)]
        self.broker.withdraw(client)
        client.is_waiting = False

    @precondition(lambda self: self.owned)
    @rule(pick=PICK)
    def a_client_releases(self, pick: int) -> None:
        self.broker.release(self.picked_link(pick))

    @precondition(lambda self: self.owned)
    @rule(pick=PICK)
    def a_client_leaves_in_the_middle(self, pick: int) -> None:
        self.broker.discard(self.picked_link(pick), "left")

    @precondition(lambda self: self.owned)
    @rule(pick=PICK)
    def a_client_cancels(self, pick: int) -> None:
        links = list(self.owned)
        self.broker.cancel(links[pick % len(links)])

    @precondition(lambda self: self.stage.errands.cancels)
    @rule(pick=PICK, is_certain=st.booleans())
    def a_cancel_is_done(self, pick: int, is_certain: bool) -> None:
        cancels = self.stage.errands.cancels
        self.broker.on_cancel_done(cancels.pop(pick % len(cancels)), is_certain)

    @precondition(lambda self: self.owned)
    @rule(pick=PICK)
    def a_connection_is_lost(self, pick: int) -> None:
        link = self.picked_link(pick)
        link.is_closed = True
        self.broker.on_link_closed(link)

    @precondition(lambda self: self.stage.errands.openings)
    @rule()
    def connections_open(self) -> None:
        self.stage.open_all()

    @precondition(lambda self: self.stage.errands.openings)
    @rule(failure=st.sampled_from(FAILURES))
    def an_opening_fails(self, failure: Refusal) -> None:
        slot = self.stage.errands.openings.pop(0)
        self.broker.on_open_failed(slot, failure)

    @rule(name=st.sampled_from(["pg1", "pg2", "pg3"]))
    def a_node_goes_down(self, name: str) -> None:
        self.stage.down(name)

    @rule()
    def all_nodes_are_well(self) -> None:
        self.stage.up("pg1", ROLE_PRIMARY)
        self.stage.up("pg2", ROLE_STANDBY)
        self.stage.up("pg3", ROLE_STANDBY)

    @rule()
    def a_failover(self) -> None:
        self.stage.up("pg1", ROLE_STANDBY)
        self.stage.up("pg2", ROLE_PRIMARY)

    @rule(seconds=st.sampled_from([0.1, 3.0, 31.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.pass_time(seconds)
        upkeep.reap(self.broker)

    @rule()
    def the_loop_turns(self) -> None:
        self.stage.flush()

    @rule()
    def an_administrator_reconnects(self) -> None:
        upkeep.reconnect(self.broker, "")

    @invariant()
    def counts_are_level(self) -> None:
        self.stage.level()
        registry = self.broker.registry
        active = sum(pool.active for pool in registry.pools.values())
        assert sum(node.active for node in self.stage.nodes.by_name.values()) == active
        if not self.stage.errands.flushes:
            assert active == len(self.owned)
        for database in ("app", "other"):
            total = sum(p.total() for p in registry.pools.values() if p.database == database)
            assert total <= 3
        for user in ("alice", "bob"):
            assert sum(p.total() for p in registry.pools.values() if p.user == user) <= 4

    @invariant()
    def nobody_waits_beside_an_idle_connection(self) -> None:
        for pool in self.broker.registry.pools.values():
            assert pool.waiting.count == 0 or pool.idle == 0

    def teardown(self) -> None:
        for _ in range(1000):
            if not self.waiting() and not self.stage.errands.flushes:
                break
            self.all_nodes_are_well()
            self.stage.flush()
            while self.stage.errands.cancels:
                self.a_cancel_is_done(0, True)
            while self.owned:
                self.a_client_releases(0)
            self.stage.open_all()
            self.stage.pass_time(0.1)
        assert not self.waiting(), "somebody starves"
        assert not self.broker.parked.count


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
