"""
The pools' part of the configuration, as plain objects that the broker reads.

A worker process gets its share of each limit here, so that all workers together keep to the file's
numbers. Knows nothing of nodes' states or of connections.
"""

from typing import final

from proxy.pool.nodes import role_of_word
from proxy.routing.router import (
    BALANCE_LEAST_CONNECTIONS,
    BALANCE_RANDOM,
    BALANCE_ROUND_ROBIN,
    READS_ANY,
    READS_PRIMARY,
    READS_STANDBY,
    Policy,
)
from proxy.settings.model import Database, Settings


@final
class NodePlan:
    """A `[[node]]`: name, ROLE_* it is configured as (unknown = auto), weight."""

    __slots__ = ("name", "role", "weight")

    def __init__(self, name: str, role: int, weight: int) -> None:
        self.name = name
        self.role = role
        self.weight = weight


@final
class DatabasePlan:
    """
    A `[[database]]`; "" in dbname and user means: as the client says.

    max_connections  server connections in all, 0 is no limit
    """

    __slots__ = ("dbname", "max_connections", "mode", "name", "nodes", "size", "user")

    def __init__(
        self,
        name: str,
        dbname: str,
        user: str,
        nodes: tuple[str, ...],
        size: int,
        mode: str,
        max_connections: int,
    ) -> None:
        self.name = name
        self.dbname = dbname
        self.user = user
        self.nodes = nodes
        self.size = size
        self.mode = mode
        self.max_connections = max_connections


@final
class BranchPlan:
    """A `[branches.NAME]`."""

    __slots__ = ("database", "nodes")

    def __init__(self, database: str, nodes: tuple[str, ...]) -> None:
        self.database = database
        self.nodes = nodes


@final
class PoolPlan:
    """`[pool]`, `[routing]`, the nodes, databases and branches; times in seconds, 0.0 is off."""

    __slots__ = (
        "branches",
        "connect_timeout_s",
        "databases",
        "idle_timeout_s",
        "lifetime_s",
        "max_user_connections",
        "min_size",
        "nodes",
        "policy",
        "reserve_size",
        "reserve_timeout_s",
        "size",
        "wait_timeout_s",
    )

    def __init__(self, policy: Policy, size: int) -> None:
        self.policy = policy
        self.size = size
        self.min_size = 0
        self.reserve_size = 0
        self.reserve_timeout_s = 0.0
        self.wait_timeout_s = 0.0
        self.idle_timeout_s = 0.0
        self.lifetime_s = 0.0
        self.connect_timeout_s = 5.0
        self.max_user_connections = 0
        self.nodes: list[NodePlan] = []
        self.databases: dict[str, DatabasePlan] = {}
        self.branches: dict[str, BranchPlan] = {}

    def database(self, name: str) -> DatabasePlan | None:
        """What a client means by this name; None: there is no such database."""
        found = self.databases.get(name)
        if found is None:
            found = self.databases.get("*")
        return found


def share(total: int, worker_index: int, workers: int) -> int:
    """This worker's part of a limit, at least 1; 0 stays 0 (no limit, none kept)."""
    if total == 0 or workers <= 1:
        return total
    part = total // workers
    if worker_index < total % workers:
        part += 1
    return max(part, 1)


def plan_of(settings: Settings, worker_index: int = 0, workers: int = 1) -> PoolPlan:
    """The plan that these settings mean for one worker process."""
    pool = settings.pool
    plan = PoolPlan(policy_of(settings), share(pool.size, worker_index, workers))
    plan.min_size = share(pool.min_size, worker_index, workers)
    plan.reserve_size = share(pool.reserve_size, worker_index, workers)
    plan.reserve_timeout_s = pool.reserve_timeout
    plan.wait_timeout_s = pool.wait_timeout
    plan.idle_timeout_s = pool.idle_timeout
    plan.lifetime_s = pool.lifetime
    plan.connect_timeout_s = pool.connect_timeout
    plan.max_user_connections = share(pool.max_user_connections, worker_index, workers)
    for node in settings.node:
        plan.nodes.append(NodePlan(node.name, role_of_word(node.role), node.weight))
    databases = settings.database or (Database(name="*"),)
    every = tuple(node.name for node in settings.node)
    for database in databases:
        plan.databases[database.name] = DatabasePlan(
            database.name,
            database.dbname,
            database.user,
            tuple(database.nodes) or every,
            share(database.pool_size or pool.size, worker_index, workers),
            database.pool_mode or pool.mode,
            share(database.max_connections or pool.max_db_connections, worker_index, workers),
        )
    for name, branch in settings.branches.items():
        plan.branches[name] = BranchPlan(branch.database, tuple(branch.nodes) or every)
    return plan


def policy_of(settings: Settings) -> Policy:
    """`[routing]` in the router's numbers."""
    routing = settings.routing
    reads = {"primary": READS_PRIMARY, "standby": READS_STANDBY, "any": READS_ANY}
    balance = {
        "least_connections": BALANCE_LEAST_CONNECTIONS,
        "round_robin": BALANCE_ROUND_ROBIN,
        "random": BALANCE_RANDOM,
    }
    return Policy(
        reads[routing.reads],
        routing.max_lag,
        balance[routing.balance],
        routing.fallback_to_primary,
    )
