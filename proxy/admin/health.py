"""
Is it alive, is it ready: what probes and load balancers ask.

Ready means that a client would be served: the worker takes clients, and at least one node is up.
Without a primary, reads are still served by standbys; that is ready, and `degraded` says so.
"""

from typing import TYPE_CHECKING, Any

from proxy.routing.node import ROLE_STANDBY

if TYPE_CHECKING:
    from proxy.server.worker import Worker


def readiness(worker: "Worker") -> tuple[bool, dict[str, Any]]:
    """Whether to send clients here, and why not."""
    reasons: list[str] = []
    degraded: list[str] = []
    if worker.is_draining:
        reasons.append("draining: the proxy is shutting down")
    elif not worker.is_ready:
        reasons.append("starting: clients are not accepted yet")
    nodes = list(worker.pools.nodes.by_name.values())
    usable = [node for node in nodes if node.is_up]
    for node in nodes:
        if not node.is_up:
            why = node.last_error or ("not asked yet" if not node.is_checked else "no answer")
            degraded.append(f"node {node.name} is down: {why}")
    if not usable:
        reasons.append("no node is usable")
    elif all(node.role == ROLE_STANDBY for node in usable):
        degraded.append("no primary: only reads are served")
    is_ready = not reasons
    state = "not ready"
    if is_ready:
        state = "degraded" if degraded else "ready"
    return is_ready, {"status": state, "reasons": reasons, "degraded": degraded}
