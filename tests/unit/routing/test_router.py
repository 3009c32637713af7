"""Which node a statement goes to, for every route, policy and state of the nodes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Refusal
from proxy.routing.node import LAG_UNKNOWN, ROLE_PRIMARY, ROLE_STANDBY, ROLE_UNKNOWN, Node
from proxy.routing.route import (
    READ,
    ROUTE_BRANCH,
    ROUTE_NODE,
    ROUTE_PRIMARY,
    ROUTE_STANDBY,
    WRITE,
    Route,
)
from proxy.routing.router import (
    BALANCE_LEAST_CONNECTIONS,
    BALANCE_RANDOM,
    BALANCE_ROUND_ROBIN,
    READS_ANY,
    READS_PRIMARY,
    READS_STANDBY,
    Candidates,
    Policy,
    Router,
)

PRIMARY = Route(ROUTE_PRIMARY, "", True)
STANDBY = Route(ROUTE_STANDBY, "", True)


def make_node(
    name: str, role: int, lag_bytes: int = 0, is_up: bool = True, weight: int = 1
) -> Node:
    node = Node(name, ROLE_UNKNOWN, weight, 0.0)
    node.role = role
    node.lag_bytes = lag_bytes
    node.is_up = is_up
    node.is_checked = True
    return node


def trio() -> list[Node]:
    return [
        make_node("p", ROLE_PRIMARY),
        make_node("s1", ROLE_STANDBY),
        make_node("s2", ROLE_STANDBY),
    ]


def choose(
    route: Route,
    nodes: list[Node],
    reads: int = READS_STANDBY,
    fallback: bool = True,
    max_lag_bytes: int = 1000,
) -> str:
    """The node's name, or the refusal's SQLSTATE."""
    router = Router(Policy(reads, max_lag_bytes, BALANCE_LEAST_CONNECTIONS, fallback), 1)
    candidates = Candidates(tuple(nodes))
    router.refresh(candidates, 1)
    found = router.choose(route, candidates)
    return found.sqlstate if isinstance(found, Refusal) else found.name


def spread(
    nodes: list[Node], balance: int, reads: int = READS_STANDBY, count: int = 600
) -> Counter[str]:
    router = Router(Policy(reads, 1000, balance, True), 12345)
    candidates = Candidates(tuple(nodes))
    router.refresh(candidates, 1)
    names: Counter[str] = Counter()
    for _ in range(count):
        found = router.choose(READ, candidates)
        assert isinstance(found, Node)
        names[found.name] += 1
    return names


def test_writes_go_to_the_primary_and_reads_where_the_policy_says() -> None:
    assert choose(WRITE, trio()) == "p"
    assert choose(READ, trio()) in {"s1", "s2"}
    assert choose(READ, trio(), READS_PRIMARY) == "p"
    assert set(spread(trio(), BALANCE_ROUND_ROBIN, READS_ANY)) == {"p", "s1", "s2"}


def test_a_route_goes_before_the_policy() -> None:
    assert choose(PRIMARY, trio()) == "p"
    assert choose(STANDBY, trio(), READS_PRIMARY) in {"s1", "s2"}
    assert choose(Route(ROUTE_STANDBY, "", False), trio()) in {"s1", "s2"}
    assert choose(Route(ROUTE_NODE, "s2", False), trio()) == "s2"
    assert choose(Route(ROUTE_BRANCH, "dev", False), trio()) == "p"
    assert choose(Route(ROUTE_BRANCH, "dev", True), trio()) in {"s1", "s2"}


def test_a_standby_too_far_behind_is_not_used() -> None:
    nodes = [make_node("p", ROLE_PRIMARY), make_node("s1", ROLE_STANDBY, 1001)]
    assert choose(READ, nodes) == "p"
    assert choose(READ, nodes, max_lag_bytes=1001) == "s1"
    assert choose(READ, nodes, max_lag_bytes=0) == "s1"
    assert choose(READ, nodes[1:]) == "57P03"


def test_a_standby_of_unknown_lag_is_used_only_where_there_is_no_primary() -> None:
    standby = make_node("s1", ROLE_STANDBY, LAG_UNKNOWN)
    assert choose(READ, [make_node("p", ROLE_PRIMARY), standby]) == "p"
    assert choose(READ, [standby]) == "s1"


@pytest.mark.parametrize("reads", [READS_STANDBY, READS_ANY])
def test_without_a_usable_standby_reads_fall_back_if_allowed(reads: int) -> None:
    nodes = [make_node("p", ROLE_PRIMARY), make_node("s1", ROLE_STANDBY, is_up=False)]
    assert choose(READ, nodes, reads) == "p"
    assert choose(STANDBY, nodes, reads) == "p"
    assert choose(STANDBY, nodes, reads, fallback=False) == "57P03"
    expected = "p" if reads == READS_ANY else "57P03"
    assert choose(READ, nodes, reads, fallback=False) == expected


@pytest.mark.parametrize("reads", [READS_STANDBY, READS_ANY])
def test_without_a_primary_reads_go_on(reads: int) -> None:
    nodes = [make_node("p", ROLE_PRIMARY, is_up=False), make_node("s1", ROLE_STANDBY)]
    assert choose(READ, nodes, reads) == "s1"
    assert choose(WRITE, nodes, reads) == "57P03"
    assert choose(READ, nodes, READS_PRIMARY) == "57P03"


def test_of_two_primaries_the_one_promoted_last_is_meant() -> None:
    old, new = make_node("old", ROLE_PRIMARY), make_node("new", ROLE_PRIMARY)
    old.timeline, new.timeline = 3, 4
    assert choose(WRITE, [old, new]) == "new"
    new.timeline = 3
    assert choose(WRITE, [old, new]) == "old"


def test_a_node_of_unknown_role_is_taken_for_the_primary_when_there_is_none() -> None:
    nodes = [make_node("s1", ROLE_STANDBY), make_node("u", ROLE_UNKNOWN)]
    assert choose(WRITE, nodes) == "u"
    assert choose(WRITE, [*nodes, make_node("p", ROLE_PRIMARY)]) == "p"
    assert choose(READ, nodes[1:]) == "u"


def test_a_node_that_does_not_exist_or_is_down() -> None:
    assert choose(Route(ROUTE_NODE, "nope", True), trio()) == "42704"
    assert (
        choose(Route(ROUTE_NODE, "x", True), [make_node("x", ROLE_STANDBY, is_up=False)]) == "57P03"
    )
    assert choose(Route(99, "", True), trio()) == "XX000"


def test_the_refusal_says_what_state_the_nodes_are_in_and_no_address() -> None:
    unchecked = make_node("u", ROLE_UNKNOWN, is_up=False)
    unchecked.is_checked = False
    down = make_node("d", ROLE_PRIMARY, is_up=False)
    down.last_error = "connect to 10.0.0.1 refused"
    nodes = [
        unchecked,
        down,
        make_node("s", ROLE_STANDBY, 5000),
        make_node("t", ROLE_STANDBY, LAG_UNKNOWN),
    ]
    router = Router(Policy(READS_STANDBY, 1000, BALANCE_LEAST_CONNECTIONS, False), 1)
    candidates = Candidates(tuple(nodes))
    router.refresh(candidates, 1)
    refusal = router.choose(WRITE, candidates)
    assert isinstance(refusal, Refusal)
    assert refusal.sqlstate == "57P03"
    assert '"u" is not checked yet' in refusal.detail
    assert '"d" is down' in refusal.detail
    assert '"s" is up, standby, 5000 bytes behind' in refusal.detail
    assert '"t" is up, standby, lag unknown' in refusal.detail
    assert "10.0.0.1" not in refusal.detail + refusal.message + refusal.hint
    candidates = Candidates(())
    router.refresh(candidates, 1)
    empty = router.choose(READ, candidates)
    assert isinstance(empty, Refusal)
    assert "No server node" in empty.detail
    only = Candidates((make_node("p", ROLE_PRIMARY), make_node("v", ROLE_UNKNOWN)))
    router.refresh(only, 1)
    none = router.choose(READ, only)
    assert isinstance(none, Refusal)
    assert '"p" is up, primary; "v" is up, role unknown' in none.detail


def test_the_least_busy_node_by_weight() -> None:
    nodes = trio()
    nodes[1].active = 5
    assert set(spread(nodes, BALANCE_LEAST_CONNECTIONS)) == {"s2"}
    nodes[1].weight = 10
    nodes[2].active = 1
    assert set(spread(nodes, BALANCE_LEAST_CONNECTIONS)) == {"s1"}


def test_equally_busy_nodes_take_turns() -> None:
    assert spread(trio(), BALANCE_LEAST_CONNECTIONS) == {"s1": 300, "s2": 300}


def test_round_robin_follows_the_weights() -> None:
    nodes = trio()
    nodes[1].weight = 2
    assert spread(nodes, BALANCE_ROUND_ROBIN) == {"s1": 400, "s2": 200}


def test_random_follows_the_weights_and_its_seed() -> None:
    nodes = trio()
    nodes[1].weight = 3
    names = spread(nodes, BALANCE_RANDOM, count=4000)
    assert 2700 < names["s1"] < 3300
    assert names == spread(nodes, BALANCE_RANDOM, count=4000)


def test_weight_0_takes_reads_only_where_nobody_else_can() -> None:
    nodes = trio()
    nodes[1].weight = 0
    assert set(spread(nodes, BALANCE_ROUND_ROBIN)) == {"s2"}
    nodes[2].is_up = False
    assert set(spread(nodes, BALANCE_ROUND_ROBIN)) == {"s1"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ROLE_UNKNOWN, ROLE_PRIMARY, ROLE_STANDBY]),
            st.sampled_from([LAG_UNKNOWN, 0, 1000, 1001]),
            st.booleans(),
            st.integers(0, 2),
        ),
        max_size=4,
    ),
    st.sampled_from([READ, WRITE, PRIMARY, STANDBY, Route(ROUTE_NODE, "n0", True)]),
    st.sampled_from([READS_PRIMARY, READS_STANDBY, READS_ANY]),
    st.sampled_from([BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, BALANCE_RANDOM]),
    st.booleans(),
)
def test_never_a_node_that_is_down_nor_a_standby_for_a_write(
    states: list[tuple[int, int, bool, int]],
    route: Route,
    reads: int,
    balance: int,
    fallback: bool,
) -> None:
    nodes = [
        make_node(f"n{i}", role, lag, is_up, weight)
        for i, (role, lag, is_up, weight) in enumerate(states)
    ]
    router = Router(Policy(reads, 1000, balance, fallback), 3)
    candidates = Candidates(tuple(nodes))
    router.refresh(candidates, 1)
    found = router.choose(route, candidates)
    if isinstance(found, Refusal):
        usable = [node for node in nodes if node.is_up and node.role == ROLE_PRIMARY]
        assert not usable or route.kind in (ROUTE_NODE, ROUTE_STANDBY) or not fallback
        return
    assert found.is_up
    if route is WRITE or route is PRIMARY:
        assert found.role != ROLE_STANDBY
    if route is not WRITE and found.role == ROLE_STANDBY and route.kind != ROUTE_NODE:
        assert found.lag_bytes <= 1000
