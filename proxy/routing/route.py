"""
Where a statement shall go, as a value: asked of the router, answered by a node.

Knows nothing of nodes, pools or hooks.
"""

from typing import Final, final

ROUTE_DEFAULT: Final = 0  # by the statement's facts and `[routing]`
ROUTE_PRIMARY: Final = 1
ROUTE_STANDBY: Final = 2
ROUTE_NODE: Final = 3  # target = node name
ROUTE_BRANCH: Final = 4  # target = branch name


@final
class Route:
    """
    A wish for a server connection.

    kind    ROUTE_*
    target  node or branch name for ROUTE_NODE and ROUTE_BRANCH, else ""
    read    the statement is a plain read outside a transaction: a standby may serve it
    """

    __slots__ = ("kind", "read", "target")

    def __init__(self, kind: int, target: str, read: bool) -> None:
        self.kind = kind
        self.target = target
        self.read = read


READ: Final = Route(ROUTE_DEFAULT, "", True)
WRITE: Final = Route(ROUTE_DEFAULT, "", False)
