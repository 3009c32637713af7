"""
Choose the node that a statement goes to.

`Candidates` are the nodes that have a database, sorted by what they are good for; they are sorted
anew only when some node's state has changed, so that the choice itself is a few attribute reads.
Knows no pools and no connections; randomness comes in as a seed.
"""

from typing import Final, final

from proxy.errors import Refusal
from proxy.routing.node import ROLE_PRIMARY, ROLE_STANDBY, ROLE_UNKNOWN, Node
from proxy.routing.route import (
    ROUTE_BRANCH,
    ROUTE_DEFAULT,
    ROUTE_NODE,
    ROUTE_PRIMARY,
    ROUTE_STANDBY,
    Route,
)

READS_PRIMARY: Final = 0
READS_STANDBY: Final = 1
READS_ANY: Final = 2

BALANCE_LEAST_CONNECTIONS: Final = 0
BALANCE_ROUND_ROBIN: Final = 1
BALANCE_RANDOM: Final = 2

LOOK_FURTHER: Final = "The proxy's log, SHOW NODES in its console and /metrics say why."


@final
class Policy:
    """
    The `[routing]` section as numbers.

    reads, balance       READS_*, BALANCE_*
    max_lag_bytes        a standby further behind is not used; 0 is no limit
    fallback_to_primary  where no standby can be used, the primary takes its reads
    """

    __slots__ = ("balance", "fallback_to_primary", "max_lag_bytes", "reads")

    def __init__(
        self, reads: int, max_lag_bytes: int, balance: int, fallback_to_primary: bool
    ) -> None:
        self.reads = reads
        self.max_lag_bytes = max_lag_bytes
        self.balance = balance
        self.fallback_to_primary = fallback_to_primary


@final
class Candidates:
    """
    The nodes that have one database, and at `version` of their states what each is good for.

    primary   the node for writes, None while there is none
    standbys  standbys that may be used now, with the fallback to the primary already applied
    readers   where plain reads go by `[routing].reads`, fallback applied
    """

    __slots__ = ("nodes", "primary", "readers", "standbys", "version")

    def __init__(self, nodes: tuple[Node, ...]) -> None:
        self.nodes = nodes
        self.version = -1
        self.primary: Node | None = None
        self.standbys: tuple[Node, ...] = ()
        self.readers: tuple[Node, ...] = ()


@final
class Router:
    """Choose nodes by one policy. Pure but for its turn counter and its random sequence."""

    __slots__ = ("_random", "_turn", "policy")

    def __init__(self, policy: Policy, seed: int) -> None:
        self.policy = policy
        self._turn = 0
        self._random = seed & 0x7FFFFFFF

    def refresh(self, candidates: Candidates, version: int) -> None:
        """Sort the candidates by what they are good for now. Mutates `candidates`."""
        primary = _find_primary(candidates.nodes)
        usable: list[Node] = []
        for node in candidates.nodes:
            if self._is_usable_standby(node, primary is not None):
                usable.append(node)
        standbys = _weighty(usable)
        readers = standbys
        reads = self.policy.reads
        if primary is not None:
            if reads == READS_ANY:
                readers = _weighty([*usable, primary])
            elif reads == READS_PRIMARY:
                readers = (primary,)
            if not standbys and self.policy.fallback_to_primary:
                standbys = (primary,)
                readers = standbys
        elif reads == READS_PRIMARY:
            readers = ()
        candidates.primary = primary
        candidates.standbys = standbys
        candidates.readers = readers
        candidates.version = version

    def choose(self, route: Route, candidates: Candidates) -> Node | Refusal:
        """
        The node for this route, or why there is none. A branch's route is chosen among the
        branch's candidates, as by default.
        """
        kind = route.kind
        if kind in (ROUTE_DEFAULT, ROUTE_BRANCH):
            if route.read:
                return self._pick(candidates.readers, candidates)
            kind = ROUTE_PRIMARY
        if kind == ROUTE_PRIMARY:
            primary = candidates.primary
            if primary is None:
                return no_primary(candidates.nodes)
            return primary
        if kind == ROUTE_STANDBY:
            return self._pick(candidates.standbys, candidates)
        if kind == ROUTE_NODE:
            for node in candidates.nodes:
                if node.name == route.target:
                    return node if node.is_up else node_down(node)
            return unknown_target("node", route.target)
        return Refusal("XX000", f"invalid route kind {kind}")

    def _pick(self, nodes: tuple[Node, ...], candidates: Candidates) -> Node | Refusal:
        count = len(nodes)
        if count == 1:
            return nodes[0]
        if count == 0:
            return no_reader(candidates.nodes)
        balance = self.policy.balance
        if balance == BALANCE_LEAST_CONNECTIONS:
            return self._least_busy(nodes, count)
        total = 0
        for node in nodes:
            total += node.weight
        if balance == BALANCE_ROUND_ROBIN:
            self._turn = (self._turn + 1) & 0x3FFFFFFF
            ticket = self._turn % total
        else:
            # Park and Miller's generator by Lehmer; the high bits are good enough to spread load.
            self._random = (self._random * 48271 + 1) % 0x7FFFFFFF
            ticket = (self._random >> 4) % total
        for node in nodes:
            ticket -= node.weight
            if ticket < 0:
                return node
        raise AssertionError("the ticket is less than all weights together")

    def _least_busy(self, nodes: tuple[Node, ...], count: int) -> Node:
        # Starting at another node each time spreads the load when all are equally busy.
        turn = self._turn + 1
        if turn >= count:
            turn = 0
        self._turn = turn
        best = nodes[turn]
        for i in range(1, count):
            at = turn + i
            if at >= count:
                at -= count
            node = nodes[at]
            # (active + 1) / weight, without division
            if (node.active + 1) * best.weight < (best.active + 1) * node.weight:
                best = node
        return best

    def _is_usable_standby(self, node: Node, has_primary: bool) -> bool:
        if not node.is_up or node.role != ROLE_STANDBY:
            return False
        if self.policy.max_lag_bytes == 0:
            return True
        if node.lag_bytes < 0:
            # Nobody knows how old its data is: better than no answer, worse than the primary's.
            return not has_primary
        return node.lag_bytes <= self.policy.max_lag_bytes


def _find_primary(nodes: tuple[Node, ...]) -> Node | None:
    """Of several primaries the one with the latest timeline: it was promoted last."""
    found: Node | None = None
    for node in nodes:
        if not node.is_up or node.role != ROLE_PRIMARY:
            continue
        if found is None or node.timeline > found.timeline:
            found = node
    if found is not None:
        return found
    for node in nodes:
        # Reachable, but the monitor may not log in: a login of a client will tell what it is.
        if node.is_up and node.role == ROLE_UNKNOWN:
            return node
    return None


def _weighty(nodes: list[Node]) -> tuple[Node, ...]:
    """Leave out nodes of weight 0 while there are others."""
    chosen: list[Node] = []
    for node in nodes:
        if node.weight > 0:
            chosen.append(node)
    if chosen:
        return tuple(chosen)
    return tuple(nodes[:1])


def no_primary(nodes: tuple[Node, ...]) -> Refusal:
    """No node for writes: 57P03, so that drivers try again."""
    return Refusal(
        "57P03", "no primary server is available", detail=_describe(nodes), hint=LOOK_FURTHER
    )


def no_reader(nodes: tuple[Node, ...]) -> Refusal:
    """No node for reads."""
    return Refusal(
        "57P03",
        "no server is available for reads",
        detail=_describe(nodes),
        hint=LOOK_FURTHER,
    )


def node_down(node: Node) -> Refusal:
    """The one node that was asked for is not up."""
    return Refusal("57P03", f'server node "{node.name}" is not available', hint=LOOK_FURTHER)


def unknown_target(what: str, name: str) -> Refusal:
    """A route names a node or a branch that this database does not have (undefined_object)."""
    return Refusal(
        "42704",
        f'{what} "{name}" does not exist for this database',
        hint="A plugin or the startup parameter headgate.branch asked for it; "
        "the proxy's configuration file names what there is.",
    )


def _describe(nodes: tuple[Node, ...]) -> str:
    # Names and states only: addresses and errors of the inner network are for the log.
    if not nodes:
        return "No server node is configured for this database."
    parts: list[str] = []
    for node in nodes:
        if not node.is_checked:
            state = "not checked yet"
        elif not node.is_up:
            state = "down"
        elif node.role == ROLE_PRIMARY:
            state = "up, primary"
        elif node.role == ROLE_STANDBY:
            lag = "lag unknown" if node.lag_bytes < 0 else f"{node.lag_bytes} bytes behind"
            state = f"up, standby, {lag}"
        else:
            state = "up, role unknown"
        parts.append(f'"{node.name}" is {state}')
    return "Server nodes: " + "; ".join(parts) + "."
