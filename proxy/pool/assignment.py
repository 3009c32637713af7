"""
Who gets which server connection: one pool's bookkeeping, without opening or closing anything.

Theory of operation. A `Slot` is the place of one server connection in a pool, from the decision to
open it to its end; a `Ticket` is one client's wait. A `Pool` moves slots between its states and
keeps the counts level; what follows is returned as a value, and `pool.broker` carries it out:

    OPENING --opened--> ACTIVE --put--> IDLE --take--> ACTIVE
                          |  +--put, a cancel request is under way--> HELD --cancel_done--> put
                          +--put, somebody waits--> ACTIVE, granted to the first in the queue
    any state --remove--> CLOSED

Every step is O(1): idle slots are a stack (the last used is the warmest, and the rest can grow old
and be closed), the wait queue is a linked list, from which anyone can leave. A slot that ends while
it is idle stays in the stack as CLOSED and is skipped later.

Invariants, checked by a state machine in the tests: a slot has one owner; total never exceeds
size + reserve_size; nobody waits while a slot is idle; who waits longest is served first; the
counts are the numbers of slots in each state.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.errors import Refusal
from proxy.observe.counters import PoolCounters
from proxy.routing.node import Node
from proxy.routing.route import Route
from proxy.routing.router import Candidates

if TYPE_CHECKING:
    from proxy.session.link import BackendLink
    from proxy.session.ports import Waiter

SLOT_OPENING: Final = 0
SLOT_ACTIVE: Final = 1
SLOT_IDLE: Final = 2
SLOT_HELD: Final = 3
SLOT_CLOSED: Final = 4

PUT_IDLE: Final = 0
PUT_GRANT: Final = 1
PUT_HELD: Final = 2
PUT_CLOSE: Final = 3

FIRST_BACKOFF_S: Final = 0.1
LAST_BACKOFF_S: Final = 2.0

COMPACT_ABOVE: Final = 16
"""CLOSED slots left in an idle stack before it is cleaned; they cost nothing but memory."""


@final
class Slot:
    """
    One server connection's place in its pool.

    link        the connection, None while it is being opened
    cancels     cancel requests for it that are under way: nobody else may have it meanwhile
    is_stale    to be closed when it is given back: too old, reconnect asked for, node gone
    expires_s   when it is too old; 0.0 is never
    ticket      to whom it is being granted
    """

    __slots__ = (
        "cancels",
        "expires_s",
        "idle_since_s",
        "is_stale",
        "link",
        "pool",
        "state",
        "ticket",
    )

    def __init__(self, pool: "Pool") -> None:
        self.pool = pool
        self.link: BackendLink | None = None
        self.state = SLOT_OPENING
        self.cancels = 0
        self.is_stale = False
        self.expires_s = 0.0
        self.idle_since_s = 0.0
        self.ticket: Ticket | None = None


@final
class Ticket:
    """
    One client's wait for a server connection.

    queue     the queue it stands in, None once it was served, refused or withdrawn
    refusal   why it is refused: told soon, or at deadline_s where it waits for a node
    """

    __slots__ = (
        "deadline_s",
        "destination",
        "next",
        "previous",
        "queue",
        "refusal",
        "route",
        "since_s",
        "waiter",
    )

    def __init__(
        self, waiter: "Waiter", destination: "Destination", route: Route, since_s: float
    ) -> None:
        self.waiter = waiter
        self.destination = destination
        self.route = route
        self.since_s = since_s
        self.queue: WaitQueue | None = None
        self.refusal: Refusal | None = None
        self.deadline_s = 0.0
        self.previous: Ticket | None = None
        self.next: Ticket | None = None


@final
class WaitQueue:
    """Tickets, the oldest first. Everyone can leave from anywhere in O(1)."""

    __slots__ = ("count", "head", "tail")

    def __init__(self) -> None:
        self.head: Ticket | None = None
        self.tail: Ticket | None = None
        self.count = 0

    def insert(self, ticket: Ticket) -> None:
        """Stand in the queue by age: at the end, but for one that comes from another queue."""
        after = self.tail
        while after is not None and after.since_s > ticket.since_s:
            after = after.previous
        before = self.head if after is None else after.next
        ticket.previous = after
        ticket.next = before
        if after is None:
            self.head = ticket
        else:
            after.next = ticket
        if before is None:
            self.tail = ticket
        else:
            before.previous = ticket
        ticket.queue = self
        self.count += 1

    def pop(self) -> Ticket | None:
        """Take out the first."""
        ticket = self.head
        if ticket is not None:
            self.remove(ticket)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Take out any one that stands in this queue."""
        previous = ticket.previous
        following = ticket.next
        if previous is None:
            self.head = following
        else:
            previous.next = following
        if following is None:
            self.tail = previous
        else:
            following.previous = previous
        ticket.previous = None
        ticket.next = None
        ticket.queue = None
        self.count -= 1


@final
class Quota:
    """
    A limit that several pools share: server connections of one database or one user.

    members  pools that have connections counted here, in the order in which they got the first
    starved  pools that wait for a place here

    Who has connections could keep them among themselves for ever. So a place that becomes free
    is kept for the neediest, the starved pool without any connection whose client has waited
    longest. A pool can need a place in two quotas; as age orders all of them in the same way, two
    such pools never block each other.
    """

    __slots__ = ("count", "limit", "members", "name", "starved")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.limit = limit
        self.count = 0
        self.members: dict[Pool, None] = {}
        self.starved: dict[Pool, None] = {}

    def is_full_for(self, pool: "Pool") -> bool:
        """This pool may not open a further connection: no place, or the last is for another."""
        free = self.limit - self.count
        if free <= 0:
            return True
        if free > 1 or not self.starved:
            return False
        needy = self.neediest()
        return needy is not None and needy is not pool and needy.is_older_than(pool)

    def neediest(self) -> "Pool | None":
        """Of the starved pools without a connection the one with the oldest ticket."""
        found: Pool | None = None
        for pool in self.starved:
            if pool.slots or pool.waiting.head is None:
                continue
            if found is None or pool.is_older_than(found):
                found = pool
        return found

    def next_to_serve(self) -> "Pool | None":
        """Who is to be tried when a place has become free."""
        needy = self.neediest()
        if needy is not None:
            return needy
        for pool in self.starved:
            return pool
        return None


@final
class Pool:
    """
    The connections of one (database, user, node) and those who wait for one.

    size, min_size, reserve_size  bounds; the reserve is for those who waited reserve_timeout_s
    retry_at_s, backoff_s         after a failed login: no other before that; doubles
    last_refusal                  why the last login failed
    quotas                        shared limits; empty when there are none, the usual case
    quiet_until_s                 until then no connection is opened that nobody waits for
    is_paused                     PAUSE: nobody gets a connection, what comes back is closed
    slots                         all but CLOSED
    plan_number                   of the configuration that size comes from
    """

    __slots__ = (
        "active",
        "backoff_s",
        "counters",
        "database",
        "held",
        "idle",
        "idle_stack",
        "is_paused",
        "last_refusal",
        "last_used_s",
        "min_size",
        "node",
        "opening",
        "plan_number",
        "quiet_until_s",
        "quotas",
        "reserve_size",
        "reserve_timeout_s",
        "retry_at_s",
        "size",
        "slots",
        "user",
        "waiting",
    )

    def __init__(
        self,
        database: str,
        user: str,
        node: Node,
    ) -> None:
        self.database = database
        self.user = user
        self.node = node
        self.size = 1
        self.min_size = 0
        self.reserve_size = 0
        self.reserve_timeout_s = 0.0
        self.active = 0
        self.idle = 0
        self.opening = 0
        self.held = 0
        self.idle_stack: list[Slot] = []
        self.slots: dict[Slot, None] = {}
        self.waiting = WaitQueue()
        self.quotas: list[Quota] = []
        self.counters = PoolCounters()
        self.is_paused = False
        self.retry_at_s = 0.0
        self.backoff_s = 0.0
        self.last_refusal: Refusal | None = None
        self.last_used_s = 0.0
        self.plan_number = 0
        self.quiet_until_s = 0.0

    # -- the two steps of every statement

    def take(self) -> Slot | None:
        """The idle slot that was used last, now ACTIVE; None: wait, see `wants_open`."""
        if self.idle == 0 or self.is_paused:
            return None
        stack = self.idle_stack
        slot = stack.pop()
        while slot.state != SLOT_IDLE:
            slot = stack.pop()
        slot.state = SLOT_ACTIVE
        self.idle -= 1
        self.active += 1
        self.node.active += 1
        return slot

    def take_this(self, slot: Slot) -> bool:
        """This very slot, now ACTIVE; False: it does not rest."""
        if slot.state != SLOT_IDLE or self.is_paused:
            return False
        self.idle_stack.remove(slot)
        slot.state = SLOT_ACTIVE
        self.idle -= 1
        self.active += 1
        self.node.active += 1
        return True

    def put_last(self, slot: Slot) -> None:
        """Let a slot that rests be the last one to be taken."""
        if slot.state == SLOT_IDLE:
            self.idle_stack.remove(slot)
            self.idle_stack.insert(0, slot)

    def put(self, slot: Slot) -> int:
        """
        An ACTIVE slot is free. PUT_IDLE: it rests. PUT_HELD: it rests until its cancel requests are
        done. PUT_GRANT: still ACTIVE, for `waiting.pop()`. PUT_CLOSE: still ACTIVE, close it.
        """
        if slot.cancels > 0:
            slot.state = SLOT_HELD
            self.active -= 1
            self.node.active -= 1
            self.held += 1
            return PUT_HELD
        if slot.is_stale or self.is_paused or (self.quotas and self._owes_quota()):
            return PUT_CLOSE
        if self.waiting.head is not None:
            return PUT_GRANT
        slot.state = SLOT_IDLE
        self.active -= 1
        self.node.active -= 1
        self.idle += 1
        self.idle_stack.append(slot)
        return PUT_IDLE

    # -- the life of a slot

    def begin_open(self) -> Slot:
        """A new slot, OPENING, counted at once so that the bounds hold while it is opened."""
        slot = Slot(self)
        self.slots[slot] = None
        self.opening += 1
        for quota in self.quotas:
            quota.count += 1
            quota.members[self] = None
            quota.starved.pop(self, None)
        return slot

    def opened(self, slot: Slot) -> None:
        """The connection stands: the slot is ACTIVE, `put` it."""
        slot.state = SLOT_ACTIVE
        self.opening -= 1
        self.active += 1
        self.node.active += 1
        self.backoff_s = 0.0
        self.retry_at_s = 0.0
        self.last_refusal = None

    def cancel_done(self, slot: Slot) -> bool:
        """A cancel request was dealt with. True: the slot is free again and ACTIVE, `put` it."""
        slot.cancels -= 1
        if slot.cancels > 0 or slot.state != SLOT_HELD:
            return False
        slot.state = SLOT_ACTIVE
        self.held -= 1
        self.active += 1
        self.node.active += 1
        return True

    def remove(self, slot: Slot) -> None:
        """The slot ends, in whatever state it is (idempotent)."""
        state = slot.state
        if state == SLOT_CLOSED:
            return
        slot.state = SLOT_CLOSED
        if state == SLOT_ACTIVE:
            self.active -= 1
            self.node.active -= 1
        elif state == SLOT_IDLE:
            self.idle -= 1
            if len(self.idle_stack) > COMPACT_ABOVE + 2 * self.idle:
                self._compact()
        elif state == SLOT_OPENING:
            self.opening -= 1
        else:
            self.held -= 1
        self.slots.pop(slot, None)
        for quota in self.quotas:
            quota.count -= 1
            if not self.slots:
                quota.members.pop(self, None)

    def back_off(self, now_s: float, refusal: Refusal) -> None:
        """A login failed: no other attempt for a while, twice as long each time."""
        self.last_refusal = refusal
        if self.backoff_s == 0.0:
            self.backoff_s = FIRST_BACKOFF_S
        else:
            self.backoff_s = min(self.backoff_s * 2.0, LAST_BACKOFF_S)
        self.retry_at_s = now_s + self.backoff_s

    def is_turned_away(self, now_s: float) -> bool:
        """The server has not one connection for this pool, and was asked only just now."""
        refusal = self.last_refusal
        return (
            refusal is not None
            and not self.slots
            and now_s < self.retry_at_s
            and refusal.sqlstate[:2] == "53"
        )

    # -- whether to open one more

    def total(self) -> int:
        """Slots in all states but CLOSED."""
        return len(self.slots)

    def wants_open(self, now_s: float) -> bool:
        """
        Somebody waits for whom no connection is being opened yet, and the pool's own bounds allow
        another. The quotas are to be asked besides.
        """
        if self.opening >= self.waiting.count or self.is_paused:
            return False
        if self.backoff_s > 0.0 and (self.opening > 0 or now_s < self.retry_at_s):
            return False
        total = len(self.slots)
        if total < self.size:
            return True
        head = self.waiting.head
        return (
            head is not None
            and self.reserve_timeout_s > 0.0
            and total < self.size + self.reserve_size
            and now_s - head.since_s >= self.reserve_timeout_s
        )

    def full_quota(self) -> Quota | None:
        """A shared limit that allows no further connection; None: there is room."""
        for quota in self.quotas:
            if quota.is_full_for(self):
                return quota
        return None

    def starve(self) -> None:
        """Wait for places in the shared limits, in all of them, so that each is kept."""
        for quota in self.quotas:
            quota.starved[self] = None

    def stop_starving(self) -> None:
        """Wait for no place: nobody waits, or no connection may be opened for other reasons."""
        for quota in self.quotas:
            quota.starved.pop(self, None)

    def is_older_than(self, other: "Pool") -> bool:
        """Somebody has waited here longer than anybody there."""
        head = self.waiting.head
        other_head = other.waiting.head
        if head is None:
            return False
        return other_head is None or head.since_s < other_head.since_s

    def oldest_idle(self) -> Slot | None:
        """The idle slot that rested longest."""
        for slot in self.idle_stack:
            if slot.state == SLOT_IDLE:
                return slot
        return None

    # -- inside

    def _owes_quota(self) -> bool:
        """A place of a full limit is to go to a pool that has none."""
        for quota in self.quotas:
            if quota.count < quota.limit:
                continue
            needy = quota.neediest()
            if needy is not None and needy is not self and needy.is_older_than(self):
                return True
        return False

    def _compact(self) -> None:
        kept: list[Slot] = []
        for slot in self.idle_stack:
            if slot.state == SLOT_IDLE:
                kept.append(slot)
        self.idle_stack = kept


@final
class Destination:
    """
    What a client's (database, user), or a branch, means behind the proxy.

    A cache of the configuration; `pools`, by node, are filled at first use.

    client_database, client_user, branch  what was asked for
    database, user                        names on the server
    size, max_connections                 bounds for a pool, and for all of the database
    mode                                  session, transaction or statement
    """

    __slots__ = (
        "branch",
        "candidates",
        "client_database",
        "client_user",
        "database",
        "max_connections",
        "mode",
        "pools",
        "size",
        "user",
    )

    def __init__(
        self,
        client_database: str,
        client_user: str,
        branch: str,
        database: str,
        user: str,
        candidates: Candidates,
    ) -> None:
        self.client_database = client_database
        self.client_user = client_user
        self.branch = branch
        self.database = database
        self.user = user
        self.candidates = candidates
        self.size = 0
        self.max_connections = 0
        self.mode = ""
        self.pools: dict[str, Pool] = {}
