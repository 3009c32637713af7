"""From settings to the pools' numbers."""

import pytest

from proxy.pool.plan import plan_of, share
from proxy.routing.node import ROLE_STANDBY, ROLE_UNKNOWN
from proxy.routing.router import BALANCE_RANDOM, READS_ANY
from proxy.settings.model import Branch, Database, Node, Pool, Routing, Settings

NODES = (Node(name="pg1"), Node(name="pg2", role="standby", weight=3))


def test_without_databases_every_name_is_on_all_nodes() -> None:
    plan = plan_of(Settings(node=NODES))
    found = plan.database("whatever")
    assert found is not None
    assert (found.dbname, found.user, found.nodes) == ("", "", ("pg1", "pg2"))
    assert (found.size, found.mode, found.max_connections) == (20, "transaction", 0)
    assert [(node.name, node.role, node.weight) for node in plan.nodes] == [
        ("pg1", ROLE_UNKNOWN, 1),
        ("pg2", ROLE_STANDBY, 3),
    ]


def test_a_database_by_its_name_goes_before_the_star() -> None:
    app = Database(
        name="app",
        dbname="app_v2",
        nodes=("pg1",),
        user="svc",
        pool_mode="session",
        pool_size=3,
        max_connections=7,
    )
    plan = plan_of(Settings(node=NODES, database=(app, Database(name="*"))))
    found = plan.database("app")
    assert found is not None
    assert (found.dbname, found.user, found.nodes) == ("app_v2", "svc", ("pg1",))
    assert (found.size, found.mode, found.max_connections) == (3, "session", 7)
    other = plan.database("other")
    assert other is not None
    assert other.name == "*"
    assert plan_of(Settings(node=NODES, database=(app,))).database("other") is None


def test_pool_routing_and_branches() -> None:
    plan = plan_of(
        Settings(
            node=NODES,
            pool=Pool(min_size=1, reserve_size=2, wait_timeout=3.0, max_db_connections=9),
            routing=Routing(reads="any", balance="random", max_lag=5, fallback_to_primary=False),
            branches={"dev": Branch(database="app_dev", nodes=("pg2",)), "x": Branch(database="y")},
        )
    )
    assert (plan.min_size, plan.reserve_size, plan.wait_timeout_s) == (1, 2, 3.0)
    assert plan.policy.reads == READS_ANY
    assert plan.policy.balance == BALANCE_RANDOM
    assert (plan.policy.max_lag_bytes, plan.policy.fallback_to_primary) == (5, False)
    assert (plan.branches["dev"].database, plan.branches["dev"].nodes) == ("app_dev", ("pg2",))
    assert plan.branches["x"].nodes == ("pg1", "pg2")
    assert plan.databases["*"].max_connections == 9


@pytest.mark.parametrize(("total", "workers"), [(20, 4), (21, 4), (7, 3), (5, 1)])
def test_workers_share_a_limit_exactly(total: int, workers: int) -> None:
    assert sum(share(total, index, workers) for index in range(workers)) == total


def test_every_worker_has_at_least_one_and_no_limit_stays_none() -> None:
    assert share(2, 3, 4) == 1
    assert share(0, 0, 4) == 0
    assert plan_of(Settings(node=NODES), 1, 8).size == 3
