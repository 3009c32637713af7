"""
From what a client asks for to where it can be had: (database, user) or a branch -> Destination.

Caches what the plan says, and forgets all of it when the plan changes or the caches grow too large:
clients may ask for any name where "*" is configured. Opens nothing, chooses no node.
"""

from typing import Final, final

from proxy.pool.assignment import Destination
from proxy.pool.nodes import Nodes
from proxy.pool.plan import DatabasePlan, PoolPlan
from proxy.routing.node import Node
from proxy.routing.router import Candidates

MAX_CACHED: Final = 20_000
"""Destinations kept; above it the caches start anew."""


@final
class Directory:
    """The destinations of one plan."""

    __slots__ = ("_branches", "_by_database", "_count", "_nodes", "plan")

    def __init__(self, plan: PoolPlan, nodes: Nodes) -> None:
        self.plan = plan
        self._nodes = nodes
        self._by_database: dict[str, dict[str, Destination]] = {}
        self._branches: dict[str, Destination] = {}
        self._count = 0

    def find(self, database: str, user: str) -> Destination | None:
        """Where this user's connections to this database go; None: there is no such database."""
        by_user = self._by_database.get(database)
        if by_user is not None:
            found = by_user.get(user)
            if found is not None:
                return found
        return self._add(database, user)

    def find_branch(self, branch: str, database: str, user: str) -> Destination | None:
        """The same for a branch, as the server user that `database` has; None: no such branch."""
        # A NUL can be in no name that came over the protocol, so the joined key is unambiguous.
        key = branch + "\0" + database + "\0" + user
        found = self._branches.get(key)
        if found is not None:
            return found
        branch_plan = self.plan.branches.get(branch)
        database_plan = self.plan.database(database)
        if branch_plan is None or database_plan is None:
            return None
        destination = Destination(
            database,
            user,
            branch,
            branch_plan.database,
            database_plan.user or user,
            Candidates(self._nodes_of(branch_plan.nodes)),
        )
        behind = self.plan.database(branch_plan.database)
        self._fill(destination, database_plan if behind is None else behind)
        destination.mode = database_plan.mode
        self._make_room()
        self._branches[key] = destination
        return destination

    def clear(self) -> None:
        """Forget every destination; they are made again when they are asked for."""
        self._by_database = {}
        self._branches = {}
        self._count = 0

    def _add(self, database: str, user: str) -> Destination | None:
        plan = self.plan.database(database)
        if plan is None:
            return None
        destination = Destination(
            database,
            user,
            "",
            plan.dbname or database,
            plan.user or user,
            Candidates(self._nodes_of(plan.nodes)),
        )
        self._fill(destination, plan)
        self._make_room()
        by_user = self._by_database.get(database)
        if by_user is None:
            by_user = {}
            self._by_database[database] = by_user
        by_user[user] = destination
        return destination

    def _fill(self, destination: Destination, plan: DatabasePlan) -> None:
        destination.size = plan.size
        destination.max_connections = plan.max_connections
        destination.mode = plan.mode

    def _make_room(self) -> None:
        if self._count >= MAX_CACHED:
            self.clear()
        self._count += 1

    def _nodes_of(self, names: tuple[str, ...]) -> tuple[Node, ...]:
        found: list[Node] = []
        for name in names:
            node = self._nodes.by_name.get(name)
            if node is not None:
                found.append(node)
        return tuple(found)
