"""The pools, their bounds and their shared limits."""

from proxy.pool.assignment import Destination, Pool
from proxy.pool.registry import Registry
from proxy.routing.node import Node
from proxy.routing.router import Candidates
from tests.unit.pool.fakes import make_plan

NODE = Node("pg1", 0, 1, 0.0)


def destination(size: int = 3, max_connections: int = 0, client: str = "app") -> Destination:
    made = Destination(client, "alice", "", "app", "alice", Candidates((NODE,)))
    made.size = size
    made.max_connections = max_connections
    return made


def opened(pool: Pool) -> None:
    slot = pool.begin_open()
    pool.opened(slot)
    pool.put(slot)


def test_one_pool_for_one_database_user_and_node() -> None:
    registry = Registry(make_plan())
    pool = registry.pool_for(destination(), NODE, 5.0)
    assert registry.pool_for(destination(client="alias"), NODE, 6.0) is pool
    assert registry.pool_for(destination(), Node("pg2", 0, 1, 0.0), 6.0) is not pool
    assert (pool.size, pool.last_used_s) == (3, 5.0)


def test_of_two_names_for_a_database_the_larger_size_counts() -> None:
    registry = Registry(make_plan())
    pool = registry.pool_for(destination(3), NODE, 0.0)
    registry.pool_for(destination(5, client="alias"), NODE, 0.0)
    registry.pool_for(destination(2, client="alias2"), NODE, 0.0)
    assert pool.size == 5


def test_a_new_plan_can_lower_bounds_and_lift_or_set_shared_limits() -> None:
    plan = make_plan()
    plan.min_size = 9
    registry = Registry(plan)
    pool = registry.pool_for(destination(3, max_connections=4), NODE, 0.0)
    opened(pool)
    assert pool.min_size == 3
    assert [quota.limit for quota in pool.quotas] == [4]
    registry.replan(make_plan())
    assert registry.pool_for(destination(2), NODE, 0.0) is pool
    assert (pool.size, pool.quotas) == (2, [])
    registry.replan(make_plan())
    registry.pool_for(destination(2, max_connections=1), NODE, 0.0)
    [quota] = pool.quotas
    assert (quota.limit, quota.count, list(quota.members)) == (1, 1, [pool])


def test_pools_under_one_limit_share_its_quota() -> None:
    registry = Registry(make_plan())
    one = registry.pool_for(destination(max_connections=4), NODE, 0.0)
    two = registry.pool_for(destination(max_connections=4), Node("pg2", 0, 1, 0.0), 0.0)
    assert one.quotas == two.quotas
    opened(one)
    assert registry.evictable_under(one.quotas[0], two) is one.oldest_idle()
    assert registry.evictable_under(one.quotas[0], one) is None


def test_what_rests_at_the_same_node_can_give_way() -> None:
    registry = Registry(make_plan())
    one = registry.pool_for(destination(), NODE, 0.0)
    other = destination()
    other.user = "bob"
    two = registry.pool_for(other, NODE, 0.0)
    assert registry.evictable_at(two) is None
    opened(one)
    assert registry.evictable_at(two) is one.oldest_idle()


def test_pauses_hold_for_pools_made_later_too() -> None:
    registry = Registry(make_plan())
    pools = [registry.pool_for(destination(), NODE, 0.0)]
    registry.pause("app")
    pools.append(registry.pool_for(destination(), Node("pg2", 0, 1, 0.0), 0.0))
    assert [pool.is_paused for pool in pools] == [True, True]
    registry.resume("app")
    registry.pause("other")
    assert [pool.is_paused for pool in pools] == [False, False]
    registry.pause("")
    assert [pool.is_paused for pool in pools] == [True, True]
    registry.resume("")
    assert [pool.is_paused for pool in pools] == [False, False]
    assert not registry.is_paused("other")


def test_a_node_that_was_removed_and_came_back_has_a_new_pool() -> None:
    registry = Registry(make_plan())
    old = registry.pool_for(destination(), NODE, 0.0)
    new = registry.pool_for(destination(), Node("pg1", 0, 1, 0.0), 0.0)
    assert new is not old
    registry.forget(old)
    assert list(registry.pools.values()) == [new]
    registry.forget(new)
    assert not registry.pools


def test_a_limit_that_stays_is_kept_and_one_that_ends_for_one_name_stays_for_others() -> None:
    registry = Registry(make_plan())
    pool = registry.pool_for(destination(max_connections=4), NODE, 0.0)
    opened(pool)
    registry.replan(make_plan())
    assert registry.pool_for(destination(max_connections=4), NODE, 0.0) is pool
    [quota] = pool.quotas
    assert (quota.limit, quota.count) == (4, 1)
    # Another pool that was never under it is not taken out of it.
    free = registry.pool_for(destination(client="alias"), Node("pg2", 0, 1, 0.0), 0.0)
    assert free.quotas == []
    assert quota.count == 1
