"""
All nodes and their states: what is learned about one is written down here, and nowhere else.

Three sources: the health monitor (`observed`, `reachable`, `failed`), a server connection that
could not be made (`failed`), and one that could (`learned`). Each change that can alter a choice of
the router raises `version` and is told to the watchers. Asks nobody; time comes in as an argument.
"""

from abc import ABC, abstractmethod
from typing import final

from mypy_extensions import mypyc_attr

from proxy.routing.node import (
    LAG_UNKNOWN,
    ROLE_PRIMARY,
    ROLE_STANDBY,
    ROLE_UNKNOWN,
    Node,
)


@mypyc_attr(allow_interpreted_subclasses=True)
class NodesWatcher(ABC):
    """Whoever wants to know that a node's state has changed."""

    @abstractmethod
    def on_node_changed(self, node: Node) -> None:
        """The node went up or down, changed its role, or became too old or recent enough."""


@final
class Nodes:
    """
    The table of nodes, in the order of the file.

    version        counts changes that matter to the router
    max_lag_bytes  bound at which a change of lag matters; 0 is no bound
    """

    __slots__ = ("_watchers", "by_name", "max_lag_bytes", "version")

    def __init__(self, max_lag_bytes: int) -> None:
        self.by_name: dict[str, Node] = {}
        self.version = 0
        self.max_lag_bytes = max_lag_bytes
        self._watchers: list[NodesWatcher] = []

    def watch(self, watcher: NodesWatcher) -> None:
        """Tell this watcher of every change from now on."""
        self._watchers.append(watcher)

    def add(self, name: str, configured_role: int, weight: int, now_s: float) -> Node:
        """Add a node, or take over new settings of a known one."""
        node = self.by_name.get(name)
        if node is None:
            node = Node(name, configured_role, weight, now_s)
            self.by_name[name] = node
        else:
            node.weight = weight
            if node.configured_role != configured_role:
                node.configured_role = configured_role
                node.role = configured_role
                node.is_observed = False
                node.since_s = now_s
        self.version += 1
        return node

    def remove(self, name: str) -> None:
        """Forget a node that is no longer in the file; its watchers see it go down."""
        node = self.by_name.pop(name, None)
        if node is not None:
            node.is_up = False
            node.last_error = "removed from the configuration"
            self._changed(node)

    def observed(self, node: Node, now_s: float, role: int, lag_bytes: int, timeline: int) -> None:
        """The monitor has asked the node what it is. Its word goes before all others."""
        # A node configured as primary that is in recovery cannot take writes, whatever the file
        # says; one configured as standby stays one, so that it can be kept to reads.
        if node.configured_role == ROLE_STANDBY:
            role = ROLE_STANDBY
        if role == ROLE_PRIMARY:
            lag_bytes = 0
        was_recent = self._is_recent(node)
        is_change = (
            not node.is_up
            or not node.is_checked
            or node.role != role
            or node.timeline != timeline
            or (node.lag_bytes < 0) != (lag_bytes < 0)
        )
        if not node.is_up or node.role != role:
            node.since_s = now_s
        node.is_up = True
        node.is_checked = True
        node.is_observed = True
        node.role = role
        node.lag_bytes = lag_bytes
        node.timeline = timeline
        node.last_error = ""
        if is_change or was_recent != self._is_recent(node):
            self._changed(node)

    def reachable(self, node: Node, now_s: float, reason: str) -> None:
        """It answers, but the monitor may not log in: its role is what logins tell, or the file."""
        is_change = not node.is_up or not node.is_checked or node.is_observed
        if is_change:
            node.since_s = now_s
        if node.is_observed:
            node.role = node.configured_role
        node.is_up = True
        node.is_checked = True
        node.is_observed = False
        node.lag_bytes = LAG_UNKNOWN
        node.last_error = reason
        if is_change:
            self._changed(node)

    def learned(self, node: Node, now_s: float, in_recovery: bool) -> None:
        """A login has succeeded, and the server said whether it is a hot standby."""
        is_change = False
        if not node.is_up:
            node.is_up = True
            node.is_checked = True
            node.last_error = ""
            is_change = True
        role = ROLE_STANDBY if in_recovery else ROLE_PRIMARY
        if node.configured_role == ROLE_STANDBY:
            role = ROLE_STANDBY
        if not node.is_observed and node.role != role:
            node.role = role
            node.lag_bytes = LAG_UNKNOWN if in_recovery else 0
            is_change = True
        if is_change:
            node.since_s = now_s
            self._changed(node)

    def failed(self, node: Node, now_s: float, reason: str) -> None:
        """It could not be reached or does not take connections now."""
        is_change = node.is_up or not node.is_checked
        if is_change:
            node.since_s = now_s
        node.is_up = False
        node.is_checked = True
        node.is_observed = False
        # After an outage it may come back as something else.
        node.role = node.configured_role
        node.lag_bytes = LAG_UNKNOWN
        node.timeline = 0
        node.last_error = reason
        if is_change:
            self._changed(node)

    def has_checked_all(self) -> bool:
        """Every node has been asked at least once."""
        for node in self.by_name.values():
            if not node.is_checked:
                return False
        return True

    def _is_recent(self, node: Node) -> bool:
        if node.role != ROLE_STANDBY or self.max_lag_bytes == 0:
            return True
        return 0 <= node.lag_bytes <= self.max_lag_bytes

    def _changed(self, node: Node) -> None:
        self.version += 1
        for watcher in self._watchers:
            watcher.on_node_changed(node)


def role_of_word(word: str) -> int:
    """ROLE_* of the word in the configuration file; auto is ROLE_UNKNOWN."""
    if word == "primary":
        return ROLE_PRIMARY
    if word == "standby":
        return ROLE_STANDBY
    return ROLE_UNKNOWN
