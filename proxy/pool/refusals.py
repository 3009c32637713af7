"""
What the pools refuse clients with.
"""

from proxy.errors import Refusal
from proxy.pool.assignment import Pool
from proxy.routing.route import ROUTE_BRANCH, Route
from proxy.routing.router import unknown_target


def waited_too_long(pool: Pool, limit_s: float) -> Refusal:
    """Every connection was in use for as long as a client may wait."""
    if pool.last_refusal is not None:
        return pool.last_refusal
    return Refusal(
        "53300",
        "timed out waiting for a server connection",
        detail=f'All {pool.size} connections to database "{pool.database}" as user '
        f'"{pool.user}" on node "{pool.node.name}" were busy for {limit_s:g} s.',
        hint="Shorten transactions, or raise pool.size or pool.wait_timeout.",
    )


def no_destination(database: str, route: Route) -> Refusal:
    """No such branch, or no such database."""
    if route.kind == ROUTE_BRANCH:
        return unknown_target("branch", route.target)
    return Refusal("3D000", f'database "{database}" does not exist', severity="FATAL")
