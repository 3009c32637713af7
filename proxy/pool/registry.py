"""
All pools of a worker process, the limits that they share, and which of them are paused.

Makes pools when they are first asked for and keeps their bounds in step with the plan. Opens and
closes nothing: it only says which connection could give way to another.
"""

from typing import final

from proxy.pool.assignment import Destination, Pool, Quota, Slot
from proxy.pool.plan import PoolPlan
from proxy.routing.node import Node


@final
class Registry:
    """The pools by (database, user, node), and their quotas."""

    __slots__ = ("_is_paused_all", "_paused", "_plan", "_plan_number", "_quotas", "pools")

    def __init__(self, plan: PoolPlan) -> None:
        self._plan = plan
        self._plan_number = 1
        self.pools: dict[str, Pool] = {}
        self._quotas: dict[str, Quota] = {}
        self._is_paused_all = False
        self._paused: dict[str, None] = {}

    def replan(self, plan: PoolPlan) -> None:
        """Take over another plan: each pool follows when it is asked for the next time."""
        self._plan = plan
        self._plan_number += 1

    def pool_for(self, destination: Destination, node: Node, now_s: float) -> Pool:
        """The pool of a destination at a node, made or brought up to date if need be."""
        pool = destination.pools.get(node.name)
        if pool is not None:
            return pool
        key = _key(destination.database, destination.user, node.name)
        pool = self.pools.get(key)
        if pool is not None and pool.node is not node:
            # A node that was removed from the file and came back is another node: what is left of
            # the old pool ends with its connections.
            pool = None
        if pool is None:
            pool = Pool(destination.database, destination.user, node)
            pool.is_paused = self.is_paused(destination.database)
            pool.last_used_s = now_s
            self.pools[key] = pool
        if pool.plan_number != self._plan_number:
            pool.plan_number = self._plan_number
            pool.size = destination.size
            pool.min_size = min(self._plan.min_size, destination.size)
            pool.reserve_size = self._plan.reserve_size
            pool.reserve_timeout_s = self._plan.reserve_timeout_s
            self._join(pool, "database " + pool.database, destination.max_connections)
            self._join(pool, "user " + pool.user, self._plan.max_user_connections)
        elif destination.size > pool.size:
            # Two names of clients for one database behind: the larger of their sizes.
            pool.size = destination.size
        destination.pools[node.name] = pool
        return pool

    def forget(self, pool: Pool) -> None:
        """Leave out an empty pool; the caller sees to it that no destination has it any more."""
        key = _key(pool.database, pool.user, pool.node.name)
        if self.pools.get(key) is pool:
            self.pools.pop(key, None)
        pool.stop_starving()

    def pause(self, database: str) -> None:
        """Mark the pools of a database on the server as paused; "" is all."""
        if database == "":
            self._is_paused_all = True
        else:
            self._paused[database] = None
        self._mark()

    def resume(self, database: str) -> None:
        """End `pause`; "" ends every one."""
        if database == "":
            self._is_paused_all = False
            self._paused = {}
        else:
            self._paused.pop(database, None)
        self._mark()

    def is_paused(self, database: str) -> bool:
        """Whether a database on the server is paused."""
        return self._is_paused_all or database in self._paused

    def evictable_under(self, quota: Quota, pool: Pool) -> Slot | None:
        """A connection that rests in another pool of a quota that is full."""
        for member in quota.members:
            if member is not pool and member.idle > 0:
                return member.oldest_idle()
        return None

    def evictable_at(self, pool: Pool) -> Slot | None:
        """A connection that rests in another pool at the same node."""
        for other in self.pools.values():
            if other is not pool and other.node is pool.node and other.idle > 0:
                return other.oldest_idle()
        return None

    def _mark(self) -> None:
        for pool in self.pools.values():
            pool.is_paused = self.is_paused(pool.database)
            if pool.is_paused:
                pool.stop_starving()

    def _join(self, pool: Pool, name: str, limit: int) -> None:
        """Make a pool subject to a shared limit; 0 ends that."""
        quota = self._quotas.get(name)
        if quota is None:
            if limit == 0:
                return
            quota = Quota(name, limit)
            self._quotas[name] = quota
        if limit > 0:
            quota.limit = limit
            if quota not in pool.quotas:
                pool.quotas.append(quota)
                quota.count += len(pool.slots)
                if pool.slots:
                    quota.members[pool] = None
        elif quota in pool.quotas:
            pool.quotas.remove(quota)
            quota.count -= len(pool.slots)
            quota.members.pop(pool, None)
            quota.starved.pop(pool, None)


def _key(database: str, user: str, node: str) -> str:
    # A NUL can be in none of the three, so the joined key is unambiguous.
    return database + "\0" + user + "\0" + node
