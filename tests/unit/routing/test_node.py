"""The record of one server."""

from proxy.routing.node import (
    CRASH_S,
    LAG_UNKNOWN,
    ROLE_PRIMARY,
    ROLE_STANDBY,
    ROLE_UNKNOWN,
    Node,
)


def test_a_new_node_is_down_and_unchecked_until_somebody_asked_it() -> None:
    node = Node("pg1", ROLE_UNKNOWN, 1, 5.0)
    assert not node.is_up
    assert not node.is_checked
    assert (node.role, node.lag_bytes, node.since_s) == (ROLE_UNKNOWN, LAG_UNKNOWN, 5.0)


def test_a_node_is_shown_by_its_state() -> None:
    node = Node("pg2", ROLE_STANDBY, 1, 0.0)
    node.is_up = True
    node.lag_bytes = 7
    assert repr(node) == "Node(pg2: up, standby, lag 7)"


def test_a_loss_is_one_of_many_for_a_moment_only() -> None:
    node = Node("pg1", ROLE_PRIMARY, 1, 0.0)
    assert not node.is_losing(0.0)
    node.lost_at_s = 10.0
    assert node.is_losing(10.0)
    assert not node.is_losing(10.0 + CRASH_S)
