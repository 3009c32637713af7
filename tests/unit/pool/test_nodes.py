"""What is learned about a node, from whom, and who is told."""

from proxy.pool.nodes import Nodes, NodesWatcher, role_of_word
from proxy.routing.node import (
    LAG_UNKNOWN,
    ROLE_PRIMARY,
    ROLE_STANDBY,
    ROLE_UNKNOWN,
    Node,
)


class Watcher(NodesWatcher):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_node_changed(self, node: Node) -> None:
        self.seen.append(node.name)


def make(configured_role: int = ROLE_UNKNOWN) -> tuple[Nodes, Node, Watcher]:
    nodes = Nodes(max_lag_bytes=1000)
    node = nodes.add("pg1", configured_role, 1, 0.0)
    watcher = Watcher()
    nodes.watch(watcher)
    return nodes, node, watcher


def test_the_words_of_the_file() -> None:
    assert [role_of_word(word) for word in ("auto", "primary", "standby")] == [
        ROLE_UNKNOWN,
        ROLE_PRIMARY,
        ROLE_STANDBY,
    ]


def test_an_observation_is_told_only_when_it_changes_something() -> None:
    nodes, node, watcher = make()
    version = nodes.version
    nodes.observed(node, 1.0, ROLE_STANDBY, 10, 0)
    nodes.observed(node, 2.0, ROLE_STANDBY, 900, 0)
    assert watcher.seen == ["pg1"]
    assert nodes.version == version + 1
    assert (node.since_s, node.lag_bytes) == (1.0, 900)
    nodes.observed(node, 3.0, ROLE_STANDBY, 1001, 0)
    nodes.observed(node, 4.0, ROLE_STANDBY, 5000, 0)
    nodes.observed(node, 5.0, ROLE_STANDBY, 0, 0)
    assert len(watcher.seen) == 3
    assert node.since_s == 1.0


def test_a_node_goes_down_and_comes_back_as_something_else() -> None:
    nodes, node, watcher = make()
    nodes.observed(node, 1.0, ROLE_PRIMARY, 0, 3)
    nodes.failed(node, 2.0, "refused")
    nodes.failed(node, 3.0, "still refused")
    assert (node.is_up, node.role, node.since_s) == (False, ROLE_UNKNOWN, 2.0)
    assert node.last_error == "still refused"
    nodes.observed(node, 4.0, ROLE_STANDBY, 0, 0)
    assert (node.role, node.since_s, node.last_error) == (ROLE_STANDBY, 4.0, "")
    assert len(watcher.seen) == 3


def test_a_configured_standby_stays_one_and_a_configured_primary_must_be_one() -> None:
    nodes, node, _ = make(ROLE_STANDBY)
    nodes.observed(node, 1.0, ROLE_PRIMARY, 0, 1)
    nodes.learned(node, 1.0, in_recovery=False)
    assert node.role == ROLE_STANDBY
    nodes, node, _ = make(ROLE_PRIMARY)
    nodes.observed(node, 1.0, ROLE_STANDBY, 0, 1)
    assert node.role == ROLE_STANDBY
    nodes.failed(node, 2.0, "refused")
    assert node.role == ROLE_PRIMARY


def test_a_login_tells_the_role_only_while_the_monitor_cannot() -> None:
    nodes, node, watcher = make()
    nodes.reachable(node, 1.0, "no login")
    nodes.learned(node, 2.0, in_recovery=True)
    assert (node.role, node.lag_bytes) == (ROLE_STANDBY, LAG_UNKNOWN)
    nodes.learned(node, 2.0, in_recovery=True)
    nodes.reachable(node, 3.0, "no login")
    assert node.role == ROLE_STANDBY
    assert len(watcher.seen) == 2
    nodes.observed(node, 4.0, ROLE_PRIMARY, 0, 1)
    nodes.learned(node, 5.0, in_recovery=True)
    assert node.role == ROLE_PRIMARY


def test_a_login_that_works_shows_that_the_node_is_up() -> None:
    nodes, node, watcher = make()
    nodes.failed(node, 1.0, "refused")
    nodes.learned(node, 2.0, in_recovery=False)
    assert (node.is_up, node.role, node.lag_bytes) == (True, ROLE_PRIMARY, 0)
    assert len(watcher.seen) == 2


def test_a_monitor_that_may_no_longer_log_in_forgets_what_it_saw() -> None:
    nodes, node, _ = make()
    nodes.observed(node, 1.0, ROLE_STANDBY, 0, 0)
    nodes.reachable(node, 2.0, "password changed")
    assert (node.is_up, node.role, node.lag_bytes) == (True, ROLE_UNKNOWN, LAG_UNKNOWN)


def test_a_reload_keeps_what_is_known_unless_the_role_is_set_anew() -> None:
    nodes, node, watcher = make()
    nodes.observed(node, 1.0, ROLE_PRIMARY, 0, 1)
    assert nodes.add("pg1", ROLE_UNKNOWN, 5, 2.0) is node
    assert (node.role, node.weight) == (ROLE_PRIMARY, 5)
    nodes.add("pg1", ROLE_STANDBY, 5, 3.0)
    assert (node.role, node.is_observed) == (ROLE_STANDBY, False)
    nodes.remove("pg1")
    nodes.remove("pg1")
    assert not node.is_up
    assert watcher.seen == ["pg1", "pg1"]


def test_whether_all_have_been_asked() -> None:
    nodes, node, _ = make()
    assert not nodes.has_checked_all()
    nodes.failed(node, 1.0, "refused")
    assert nodes.has_checked_all()
