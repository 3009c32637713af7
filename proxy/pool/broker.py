"""
Hand out server connections: the session's `Broker`, over nodes and pools.

Theory of operation. `acquire` is the hot path: destination, node, idle slot, each a dictionary or
attribute away. Who cannot be served gets a `Ticket` and stands

    in a pool's queue    its node is up; a connection is being opened, or one will come back
    in `parked`          no node can serve it now; some outage is younger than connect_timeout, so
                         it is worth waiting for a restart or a failover to end
    in `_doomed`         it will be refused when the caller has returned: nobody is called back
                         from inside `acquire`

and leaves by a grant, by a refusal, or by `withdraw`; `tickets` has it until then. When a node's
state changes, the tickets that depended on it are placed anew, in the order of their age.

SQLSTATEs: 57P03 no node (drivers may try again), 53300 wait_timeout passed while every connection
was busy, 3D000 no such database, 42704 no such node or branch, else what the server answered to
the login. This module does no input or output: what needs the event loop is asked of `Errands`.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.errors import Refusal
from proxy.observe.counters import Counters
from proxy.pool.assignment import (
    PUT_CLOSE,
    PUT_GRANT,
    PUT_IDLE,
    SLOT_ACTIVE,
    SLOT_CLOSED,
    SLOT_IDLE,
    SLOT_OPENING,
    Destination,
    Pool,
    Slot,
    Ticket,
    WaitQueue,
)
from proxy.pool.directory import Directory
from proxy.pool.errands import Errands
from proxy.pool.nodes import Nodes, NodesWatcher
from proxy.pool.plan import PoolPlan
from proxy.pool.refusals import no_destination, waited_too_long
from proxy.pool.registry import Registry
from proxy.routing.node import ROLE_STANDBY, Node
from proxy.routing.route import ROUTE_BRANCH, ROUTE_DEFAULT, ROUTE_STANDBY, Route
from proxy.routing.router import Candidates, Router
from proxy.session.ports import Broker, Clock, Waiter

if TYPE_CHECKING:
    from proxy.session.link import BackendLink

NODE_FAILURES: Final = ("08000", "08001", "08003", "08006", "57P01", "57P02", "57P03")
"""Answers to a login that say something about the node, not about the user or the database."""

MAKE_ROOM: Final = "another pool needs the place"


@final
class PoolBroker(Broker):
    """The pools of one worker process."""

    __slots__ = (
        "_clock",
        "_doomed",
        "_errands",
        "_granting",
        "_is_granting",
        "_last_since_s",
        "busy",
        "counters",
        "directory",
        "nodes",
        "now_s",
        "parked",
        "plan",
        "registry",
        "router",
        "tickets",
    )

    def __init__(
        self,
        plan: PoolPlan,
        nodes: Nodes,
        counters: Counters,
        clock: Clock,
        errands: Errands,
        seed: int,
    ) -> None:
        self.plan = plan
        self.nodes = nodes
        self.counters = counters
        self._clock = clock
        self._errands = errands
        self.router = Router(plan.policy, seed)
        self.now_s = clock.now_us() / 1e6
        for node in plan.nodes:
            nodes.add(node.name, node.role, node.weight, self.now_s)
        self.directory = Directory(plan, nodes)
        self.registry = Registry(plan)
        self.busy: dict[Pool, None] = {}
        self.parked = WaitQueue()
        self.tickets: dict[Waiter, Ticket] = {}
        self._doomed: list[Ticket] = []
        self._granting: list[Slot] = []
        self._is_granting = False
        self._last_since_s = 0.0
        nodes.watch(_NodeListener(self))

    # -- Broker: the session's side

    def acquire(
        self, waiter: Waiter, database: str, user: str, route: Route
    ) -> "BackendLink | None":
        """A server connection now, or None and a callback later."""
        destination: Destination | None
        if route.kind == ROUTE_BRANCH:
            destination = self.directory.find_branch(route.target, database, user)
        else:
            destination = self.directory.find(database, user)
        if destination is None:
            self._refuse_unknown(waiter, database, route)
            return None
        candidates = destination.candidates
        if candidates.version != self.nodes.version:
            self.router.refresh(candidates, self.nodes.version)
        node = self.router.choose(route, candidates)
        if isinstance(node, Node):
            pool = destination.pools.get(node.name)
            if pool is not None:
                slot = self._take(pool)
                if slot is not None:
                    self._count_routed(node)
                    return slot.link
        self.now_s = self._clock.now_us() / 1e6
        # Ages are unique, so that of two tickets one is always the older.
        self._last_since_s = max(self.now_s, self._last_since_s + 1e-6)
        ticket = Ticket(waiter, destination, route, self._last_since_s)
        if waiter in self.tickets:
            self.withdraw(waiter)
        self.tickets[waiter] = ticket
        slot = self._place(ticket, node)
        if slot is None:
            return None
        self.tickets.pop(waiter, None)
        self._count_routed(slot.pool.node)
        return slot.link

    def withdraw(self, waiter: Waiter) -> None:
        """The waiter no longer wants one (idempotent)."""
        ticket = self.tickets.pop(waiter, None)
        if ticket is not None and ticket.queue is not None:
            ticket.queue.remove(ticket)

    def release(self, link: "BackendLink") -> None:
        """Take back a clean connection: to whoever waits first, else it rests."""
        slot = link.pool
        if not isinstance(slot, Slot) or slot.state != SLOT_ACTIVE:
            return
        if link.is_closed:
            self._lose(slot)
            return
        link.turn += 1
        code = slot.pool.put(slot)
        if code == PUT_IDLE:
            slot.idle_since_s = self.now_s
            link.idle_since_s = self.now_s
        else:
            self._after_put(slot, code)

    def regain(self, link: "BackendLink") -> bool:
        """Take this very connection, if it rests."""
        slot = link.pool
        if link.is_closed or not isinstance(slot, Slot) or not slot.pool.take_this(slot):
            return False
        self._count_routed(slot.pool.node)
        return True

    def spare(self, link: "BackendLink") -> None:
        """Give this connection, which rests, to others last."""
        slot = link.pool
        if isinstance(slot, Slot):
            slot.pool.put_last(slot)

    def discard(self, link: "BackendLink", reason: str) -> None:
        """Close a connection that cannot be given back."""
        slot = link.pool
        if isinstance(slot, Slot) and slot.state != SLOT_CLOSED:
            self.close_slot(slot, reason)
            self.after_loss(slot.pool)
        else:
            link.close(reason)

    def cancel(self, link: "BackendLink") -> None:
        """Cancel what runs on this connection; nobody else gets it before that is settled."""
        slot = link.pool
        if isinstance(slot, Slot) and slot.state == SLOT_ACTIVE:
            slot.cancels += 1
            self._errands.cancel(slot)

    def demoted(self, link: "BackendLink") -> None:
        """25006 where a primary was expected: look at the node, and do not use this one again."""
        # The node's state is left to the monitor: a client can provoke 25006 by itself, with SET
        # default_transaction_read_only, and must not be able to take the primary from the others.
        slot = link.pool
        if isinstance(slot, Slot):
            slot.is_stale = True
        self._errands.look_again(link.node)

    def is_losing(self, link: "BackendLink") -> bool:
        """Whether other connections to the link's node were lost a moment ago."""
        slot = link.pool
        return isinstance(slot, Slot) and slot.pool.node.is_losing(self._clock.now_us() / 1e6)

    def crashed(self, link: "BackendLink") -> None:
        """All connections to the link's node are ending: close what rests before it is given out."""
        slot = link.pool
        if isinstance(slot, Slot):
            for pool in list(self.registry.pools.values()):
                if pool.node is slot.pool.node:
                    self.drop_idle(pool, "the server has crashed")

    # -- the shell's side

    def on_opened(self, slot: Slot, link: "BackendLink") -> None:
        """A connection stands."""
        pool = slot.pool
        self.now_s = self._clock.now_us() / 1e6
        pool.counters.logins += 1
        if slot.state != SLOT_OPENING:
            link.close("not needed any more")
            return
        slot.link = link
        link.pool = slot
        if self.plan.lifetime_s > 0.0:
            # Up to a tenth less, so that what was opened together is not closed together.
            early = (link.process_id % 101) / 1000.0
            slot.expires_s = self.now_s + self.plan.lifetime_s * (1.0 - early)
        if self.nodes.by_name.get(pool.node.name) is not pool.node:
            slot.is_stale = True
        pool.opened(slot)
        recovery = link.reported.get(b"in_hot_standby")
        if recovery is not None:
            self.nodes.learned(pool.node, self.now_s, recovery == b"on")
        elif not pool.node.is_up:
            self._errands.look_again(pool.node.name)
        if link.is_closed:
            self._lose(slot)
        elif slot.state == SLOT_ACTIVE:
            self.settle(slot)
        if pool.waiting.head is not None:
            self.grow(pool)

    def on_open_failed(self, slot: Slot, refusal: Refusal) -> None:
        """A connection could not be made; `refusal` is the server's word, or 08xxx."""
        pool = slot.pool
        self.now_s = self._clock.now_us() / 1e6
        pool.counters.login_failures += 1
        if slot.state != SLOT_OPENING:
            return
        pool.remove(slot)
        sqlstate = refusal.sqlstate
        pool.back_off(self.now_s, refusal)
        if sqlstate in NODE_FAILURES:
            self.nodes.failed(pool.node, self.now_s, refusal.message)
            self._errands.look_again(pool.node.name)
            if pool.waiting.head is not None:
                self._replace(pool.node)
        elif sqlstate[:2] == "53":
            self._evict(self.registry.evictable_at(pool), MAKE_ROOM)
            if pool.is_turned_away(self.now_s) and pool.waiting.head is not None:
                self._replace(pool.node)
        elif not pool.slots:
            # The server knows this user or database not, or does not let it in: the clients are
            # told in its own words, at once.
            while pool.waiting.head is not None:
                self.doom(pool.waiting.head, refusal)
        self.after_loss(pool)

    def on_link_closed(self, link: "BackendLink") -> None:
        """The socket of a connection has ended, whoever had it (idempotent)."""
        slot = link.pool
        if isinstance(slot, Slot) and slot.state != SLOT_CLOSED:
            # One lost connection is often the first sign of a node that is dying.
            self._errands.look_again(link.node)
            slot.pool.node.lost_at_s = self._clock.now_us() / 1e6
            self._lose(slot)

    def on_cancel_done(self, slot: Slot, is_certain: bool) -> None:
        """A cancel request was dealt with; not certainly: it may still hit, so the slot ends."""
        if not is_certain:
            slot.is_stale = True
        if slot.pool.cancel_done(slot):
            self.settle(slot)

    def on_node_changed(self, node: Node) -> None:
        """A node's state has changed: `NodesWatcher`."""
        self.now_s = self._clock.now_us() / 1e6
        if not node.is_up:
            for pool in list(self.registry.pools.values()):
                if pool.node is node:
                    self.drop_idle(pool, "the node is down")
        self._replace(node)

    def flush(self) -> None:
        """Tell those who were granted a connection or are refused: the promised callback."""
        if self._granting and not self._is_granting:
            self._grant_all()
        doomed = self._doomed
        self._doomed = []
        done = 0
        try:
            for ticket in doomed:
                done += 1
                refusal = ticket.refusal
                waiter = ticket.waiter
                if refusal is not None and self.tickets.get(waiter) is ticket:
                    self.tickets.pop(waiter, None)
                    waiter.on_no_backend(refusal)
        finally:
            if done < len(doomed):
                self._doomed = doomed[done:] + self._doomed
                self._errands.flush_soon()

    def tick(self) -> None:
        """Wait limits and retries; to be called about ten times a second."""
        now_s = self._clock.now_us() / 1e6
        self.now_s = now_s
        limit_s = self.plan.wait_timeout_s
        for pool in list(self.busy):
            head = pool.waiting.head
            if limit_s > 0.0:
                while head is not None and now_s - head.since_s >= limit_s:
                    self.doom(head, waited_too_long(pool, limit_s))
                    head = pool.waiting.head
            if head is None:
                self.busy.pop(pool, None)
                pool.stop_starving()
            else:
                self.grow(pool)
        ticket = self.parked.head
        while ticket is not None:
            following = ticket.next
            if now_s >= ticket.deadline_s and ticket.refusal is not None:
                self.doom(ticket, ticket.refusal)
            ticket = following

    # -- for upkeep and administration (pool.upkeep)

    def open_one(self, pool: Pool) -> None:
        """Open a connection for this pool, whoever gets it then."""
        self._errands.open(pool.begin_open())

    def close_slot(self, slot: Slot, reason: str) -> None:
        """Close a connection and forget it; `after_loss` is up to the caller."""
        slot.pool.remove(slot)
        link = slot.link
        slot.link = None
        if link is not None:
            link.close(reason)

    def drop_idle(self, pool: Pool, reason: str) -> None:
        """Close what rests; what is in use is closed when it is given back."""
        for slot in list(pool.slots):
            slot.is_stale = slot.state != SLOT_OPENING
            if slot.state == SLOT_IDLE:
                self.close_slot(slot, reason)

    def settle(self, slot: Slot) -> None:
        """A slot is free: grant, rest, hold or close."""
        code = slot.pool.put(slot)
        if code == PUT_IDLE:
            slot.idle_since_s = self.now_s
        else:
            self._after_put(slot, code)

    def after_loss(self, pool: Pool) -> None:
        """A place has become free: open for those who wait, under the same quota or here."""
        for quota in pool.quotas:
            while True:
                starved = quota.next_to_serve()
                if starved is None:
                    break
                opening = starved.opening
                self.grow(starved)
                if starved.opening == opening and starved in quota.starved:
                    break
        if pool.waiting.head is not None:
            self.grow(pool)

    def grow(self, pool: Pool) -> None:
        """Open as many connections as those who wait need and the limits allow."""
        while pool.wants_open(self.now_s):
            quota = pool.full_quota()
            if quota is None:
                self.open_one(pool)
            elif not self._evict(self.registry.evictable_under(quota, pool), MAKE_ROOM):
                pool.starve()
                return
        if pool.quotas:
            pool.stop_starving()

    def refuse_waiting(self, pool: Pool, refusal: Refusal) -> None:
        """Refuse all who wait for this pool."""
        while pool.waiting.head is not None:
            self.doom(pool.waiting.head, refusal)

    def forget_pool(self, pool: Pool) -> None:
        """Remove an empty pool; it is made again when somebody asks for it."""
        self.registry.forget(pool)
        self.busy.pop(pool, None)
        self.directory.clear()

    # -- inside: tickets

    def _place(self, ticket: Ticket, choice: Node | Refusal) -> Slot | None:
        """Serve a ticket, or let it stand in the right queue."""
        if isinstance(choice, Refusal):
            self._park(ticket, choice)
            return None
        ticket.refusal = None
        pool = self.registry.pool_for(ticket.destination, choice, self.now_s)
        if pool.is_turned_away(self.now_s):
            pool = self._other_pool(ticket) or pool
        slot = self._take(pool)
        if slot is not None:
            return slot
        pool.waiting.insert(ticket)
        self.busy[pool] = None
        self.grow(pool)
        return None

    def _other_pool(self, ticket: Ticket) -> Pool | None:
        """Where a read may go whose node has no connection for it: as if that node were down."""
        candidates = ticket.destination.candidates
        if ticket.route.kind == ROUTE_STANDBY:
            nodes = candidates.standbys
        elif ticket.route.read and ticket.route.kind in (ROUTE_DEFAULT, ROUTE_BRANCH):
            nodes = candidates.readers
        else:
            return None
        if candidates.primary is not None and self.router.policy.fallback_to_primary:
            nodes = (*nodes, candidates.primary)
        for node in nodes:
            pool = self.registry.pool_for(ticket.destination, node, self.now_s)
            if not pool.is_turned_away(self.now_s):
                return pool
        return None

    def place_again(self, ticket: Ticket) -> None:
        """Place a ticket that stands in no queue; what it gets is told after the caller returned."""
        destination = ticket.destination
        if destination.candidates.version != self.nodes.version:
            self.router.refresh(destination.candidates, self.nodes.version)
        slot = self._place(ticket, self.router.choose(ticket.route, destination.candidates))
        if slot is not None:
            slot.ticket = ticket
            self._granting.append(slot)
            self._errands.flush_soon()

    def _replace(self, node: Node) -> None:
        """Place anew who waits for this node, or for any."""
        moved = WaitQueue()
        queues: list[WaitQueue] = [self.parked]
        for pool in self.busy:
            if pool.node is node:
                queues.append(pool.waiting)
        for queue in queues:
            ticket = queue.pop()
            while ticket is not None:
                moved.insert(ticket)
                ticket = queue.pop()
        ticket = moved.pop()
        while ticket is not None:
            self.place_again(ticket)
            ticket = moved.pop()

    def _park(self, ticket: Ticket, refusal: Refusal) -> None:
        """
        Wait for a node while the last change of any is younger than connect_timeout: it may be a
        restart or a failover. After that whoever asks is refused at once.
        """
        ticket.refusal = refusal
        since_s = -self.plan.connect_timeout_s
        for node in ticket.destination.candidates.nodes:
            since_s = max(since_s, node.since_s)
        ticket.deadline_s = min(since_s, ticket.since_s) + self.plan.connect_timeout_s
        if refusal.sqlstate != "57P03" or ticket.deadline_s <= self.now_s:
            self.doom(ticket, refusal)
        else:
            self.parked.insert(ticket)

    def doom(self, ticket: Ticket, refusal: Refusal) -> None:
        """Take a ticket out of its queue and refuse it, after the caller has returned."""
        if ticket.queue is not None:
            ticket.queue.remove(ticket)
        ticket.refusal = refusal
        if not self._doomed:
            self._errands.flush_soon()
        self._doomed.append(ticket)

    def _refuse_unknown(self, waiter: Waiter, database: str, route: Route) -> None:
        destination = Destination(database, "", "", "", "", Candidates(()))
        ticket = Ticket(waiter, destination, route, self.now_s)
        self.tickets[waiter] = ticket
        self.doom(ticket, no_destination(database, route))

    # -- inside: slots and pools

    def _after_put(self, slot: Slot, code: int) -> None:
        pool = slot.pool
        if code == PUT_GRANT:
            ticket = pool.waiting.pop()
            slot.ticket = ticket
            self._granting.append(slot)
            if not self._is_granting:
                self._grant_all()
        elif code == PUT_CLOSE:
            self.close_slot(slot, "not to be used again")
            self.after_loss(pool)

    def _grant_all(self) -> None:
        """
        Give granted slots to their tickets. A waiter may give its connection back, or withdraw
        others, from inside `on_backend`: this loop takes that up, instead of a recursion.
        """
        self._is_granting = True
        try:
            while self._granting:
                slot = self._granting.pop(0)
                ticket = slot.ticket
                slot.ticket = None
                is_wanted = ticket is not None and self.tickets.get(ticket.waiter) is ticket
                link = slot.link
                if ticket is None or not is_wanted:
                    if slot.state == SLOT_ACTIVE:
                        self.settle(slot)
                elif slot.state != SLOT_ACTIVE or link is None:
                    self.place_again(ticket)
                elif link.is_closed:
                    self._lose(slot)
                    self.place_again(ticket)
                else:
                    self.tickets.pop(ticket.waiter, None)
                    counters = slot.pool.counters
                    counters.waits += 1
                    counters.wait_us += max(0, self._clock.now_us() - int(ticket.since_s * 1e6))
                    self._count_routed(slot.pool.node)
                    ticket.waiter.on_backend(link)
        finally:
            self._is_granting = False
            if self._granting:
                self._errands.flush_soon()

    def _take(self, pool: Pool) -> Slot | None:
        slot = pool.take()
        while slot is not None:
            link = slot.link
            if link is not None and not link.is_closed:
                return slot
            # It closed itself while it rested; the end of its socket is not reported yet.
            self._lose(slot)
            slot = pool.take()
        return None

    def _lose(self, slot: Slot) -> None:
        pool = slot.pool
        pool.remove(slot)
        slot.link = None
        self.after_loss(pool)

    def _evict(self, slot: Slot | None, reason: str) -> bool:
        if slot is None:
            return False
        self.close_slot(slot, reason)
        return True

    def _count_routed(self, node: Node) -> None:
        if node.role == ROLE_STANDBY:
            self.counters.read_routed += 1
        else:
            self.counters.write_routed += 1


@final
class _NodeListener(NodesWatcher):
    """Passes changes of nodes on to the broker, which is a Broker and can have no second base."""

    __slots__ = ("_broker",)

    def __init__(self, broker: PoolBroker) -> None:
        self._broker = broker

    def on_node_changed(self, node: Node) -> None:
        """The node's state has changed."""
        self._broker.on_node_changed(node)
