"""
What is done to the pools beside the clients' way: ageing, minimum sizes, administration, reports.

Plain functions over a `PoolBroker`, called about once a second or by the console. Time comes from
the broker's clock.
"""

from typing import Final, final

from proxy.errors import Refusal
from proxy.observe.counters import PoolCounters
from proxy.pool.assignment import SLOT_ACTIVE, SLOT_IDLE, Pool, Ticket
from proxy.pool.broker import PoolBroker
from proxy.pool.plan import PoolPlan
from proxy.pool.refusals import no_destination

FORGET_AFTER_S: Final = 60.0
"""An empty pool that nobody wants is forgotten after this long, if it never had a connection."""

QUIET_S: Final = 6.0
"""A server waits for five seconds until nobody is connected to a database."""

FORGET_USED_AFTER_S: Final = 3600.0
"""The same for one that had connections: its counters are still of interest."""


@final
class PoolReport:
    """One pool's state for SHOW POOLS and /metrics; cl_ and sv_ as PgBouncer has them."""

    __slots__ = (
        "cl_active",
        "cl_waiting",
        "counters",
        "database",
        "is_paused",
        "last_error",
        "maxwait_us",
        "node",
        "size",
        "sv_active",
        "sv_held",
        "sv_idle",
        "sv_opening",
        "user",
    )

    def __init__(self, pool: Pool, now_s: float) -> None:
        head = pool.waiting.head
        self.database = pool.database
        self.user = pool.user
        self.node = pool.node.name
        self.size = pool.size
        self.cl_active = pool.active
        self.cl_waiting = pool.waiting.count
        self.sv_active = pool.active
        self.sv_idle = pool.idle
        self.sv_held = pool.held
        self.sv_opening = pool.opening
        self.maxwait_us = 0 if head is None else max(0, int((now_s - head.since_s) * 1e6))
        self.is_paused = pool.is_paused
        self.last_error = "" if pool.last_refusal is None else pool.last_refusal.message
        self.counters: PoolCounters = pool.counters


def reports(broker: PoolBroker) -> list[PoolReport]:
    """The state of every pool. Tickets that wait for a node, not a pool, are `broker.parked`."""
    return [PoolReport(pool, broker.now_s) for pool in broker.registry.pools.values()]


def reap(broker: PoolBroker) -> None:
    """Close what is too old, idle too long or too many; open up to min_size; forget empty pools."""
    now_s = broker.now_s
    for pool in list(broker.registry.pools.values()):
        _close_old(broker, pool, now_s)
        _keep_minimum(broker, pool)
        if pool.slots or pool.waiting.head is not None:
            pool.last_used_s = now_s
            continue
        limit_s = FORGET_AFTER_S if pool.counters.logins == 0 else FORGET_USED_AFTER_S
        if now_s - pool.last_used_s > limit_s:
            broker.forget_pool(pool)


def pause(broker: PoolBroker, database: str) -> None:
    """Hand out no connection of this database ("" is all); close those that rest or come back."""
    broker.registry.pause(server_name(broker, database))
    for pool in pools_of(broker, database):
        broker.drop_idle(pool, "the pool is paused")


def resume(broker: PoolBroker, database: str) -> None:
    """End `pause`; "" ends every one. Who waited meanwhile is served."""
    broker.registry.resume(server_name(broker, database))
    for pool in pools_of(broker, database):
        broker.after_loss(pool)


def reconnect(broker: PoolBroker, database: str) -> None:
    """Make every connection of this database anew, as soon as each is free; "" is all."""
    for pool in pools_of(broker, database):
        broker.drop_idle(pool, "reconnect was asked for")
        broker.after_loss(pool)


def vacate(broker: PoolBroker, database: str) -> None:
    """Close what rests in a database (by its name on the server) that somebody needs for himself."""
    for pool in list(broker.registry.pools.values()):
        if pool.database == database:
            pool.quiet_until_s = broker.now_s + QUIET_S
            broker.drop_idle(pool, "a statement needs the database for itself")
            broker.after_loss(pool)


def kill(broker: PoolBroker, database: str) -> None:
    """End every connection of this database now, with what runs on it, and pause it."""
    pause(broker, database)
    refusal = Refusal(
        "57P01", "terminating connection due to administrator command", severity="FATAL"
    )
    for pool in pools_of(broker, database):
        broker.refuse_waiting(pool, refusal)
        for slot in list(pool.slots):
            link = slot.link
            if slot.state == SLOT_ACTIVE and link is not None:
                # The session that has it is told by the end of the socket.
                link.last_fatal = refusal
                link.wire.abort()
            else:
                broker.close_slot(slot, "killed by an administrator")


def in_use(broker: PoolBroker, database: str) -> int:
    """How many connections of this database are in use: 0 when a pause has taken full effect."""
    return sum(pool.active + pool.held + pool.opening for pool in pools_of(broker, database))


def outdated(broker: PoolBroker, database: str) -> int:
    """How many connections are to be closed as soon as they are free: 0 when a reconnect is done."""
    return sum(slot.is_stale for pool in pools_of(broker, database) for slot in pool.slots)


def pools_of(broker: PoolBroker, database: str) -> list[Pool]:
    """The pools behind a name that clients use; "" is all."""
    if not database:
        return list(broker.registry.pools.values())
    name = server_name(broker, database)
    return [pool for pool in broker.registry.pools.values() if pool.database == name]


def server_name(broker: PoolBroker, database: str) -> str:
    """The name on the server of a database that clients call so; "" stays ""."""
    plan = broker.plan.database(database) if database else None
    return plan.dbname or database if plan is not None else database


def warm(broker: PoolBroker) -> None:
    """Make the pools that are known before any client asks, so that min_size holds from the start."""
    if broker.plan.min_size == 0:
        return
    for plan in broker.plan.databases.values():
        if plan.user and (plan.dbname or plan.name != "*"):
            destination = broker.directory.find(plan.name, plan.user)
            if destination is not None:
                for node in destination.candidates.nodes:
                    broker.registry.pool_for(destination, node, broker.now_s)


def reconfigure(broker: PoolBroker, plan: PoolPlan) -> None:
    """A reload: take over another plan. Connections stay; bounds and targets are the new."""
    broker.plan = plan
    broker.registry.replan(plan)
    broker.router.policy = plan.policy
    broker.nodes.max_lag_bytes = plan.policy.max_lag_bytes
    kept = {node.name for node in plan.nodes}
    for node in plan.nodes:
        broker.nodes.add(node.name, node.role, node.weight, broker.now_s)
    broker.directory.plan = plan
    broker.directory.clear()
    for ticket in list(broker.tickets.values()):
        _resolve_again(broker, ticket)
    for name in list(broker.nodes.by_name):
        if name not in kept:
            broker.nodes.remove(name)
    for pool in list(broker.registry.pools.values()):
        if pool.node.name not in kept and not pool.slots:
            broker.forget_pool(pool)


def _resolve_again(broker: PoolBroker, ticket: Ticket) -> None:
    if ticket.queue is None:
        return
    ticket.queue.remove(ticket)
    old = ticket.destination
    if old.branch:
        found = broker.directory.find_branch(old.branch, old.client_database, old.client_user)
    else:
        found = broker.directory.find(old.client_database, old.client_user)
    if found is None:
        broker.doom(ticket, no_destination(old.client_database, ticket.route))
    else:
        ticket.destination = found
        broker.place_again(ticket)


def _close_old(broker: PoolBroker, pool: Pool, now_s: float) -> None:
    idle_timeout_s = broker.plan.idle_timeout_s
    has_closed = False
    for slot in list(pool.slots):
        if 0.0 < slot.expires_s <= now_s:
            slot.is_stale = True
            if slot.state == SLOT_IDLE:
                broker.close_slot(slot, "it has reached its lifetime")
                has_closed = True
    while pool.idle > 0:
        oldest = pool.oldest_idle()
        if oldest is None:
            break
        is_surplus = pool.total() > pool.size + pool.reserve_size
        is_unused = (
            idle_timeout_s > 0.0
            and now_s - oldest.idle_since_s >= idle_timeout_s
            and pool.total() > pool.min_size
        )
        if not is_surplus and not is_unused:
            break
        broker.close_slot(oldest, "it has been idle for too long")
        has_closed = True
    if has_closed:
        broker.after_loss(pool)


def _keep_minimum(broker: PoolBroker, pool: Pool) -> None:
    if not pool.node.is_up or pool.is_paused:
        return
    if broker.now_s < pool.retry_at_s or broker.now_s < pool.quiet_until_s:
        return
    while pool.total() < pool.min_size and pool.full_quota() is None:
        if pool.backoff_s > 0.0 and pool.opening > 0:
            return
        broker.open_one(pool)
