"""
One PostgreSQL server as routing sees it: what it is called, what it is, how well it is.

A plain record. Who may change it, and when, is `pool.nodes`; which one a statement goes to is
`routing.router`.
"""

from typing import Final, final

ROLE_UNKNOWN: Final = 0
ROLE_PRIMARY: Final = 1
ROLE_STANDBY: Final = 2

LAG_UNKNOWN: Final = -1

CRASH_S: Final = 1.0
"""When a server process crashes all others end; how long a busy machine may take for that."""

ROLE_NAMES: Final = ("unknown", "primary", "standby")
"""The roles' words for people, at their numbers."""


@final
class Node:
    """
    One server.

    configured_role  ROLE_UNKNOWN for `role = "auto"`
    role             what it is now; ROLE_UNKNOWN while nobody could tell
    is_up            it answered when it was last asked
    is_checked       it was asked at least once since the start
    is_observed      `role` is the monitor's own answer, not what a login let us guess
    lag_bytes        how far a standby's replay is behind, LAG_UNKNOWN when that cannot be told
    timeline         timeline of a primary's WAL, so that of two primaries the later promoted wins
    since_s          when is_up or role last changed
    last_error       why it is not up, "" while it is well
    active           server connections to it that are in use now
    lost_at_s        when a connection to it was last lost that nobody had given up
    """

    __slots__ = (
        "active",
        "configured_role",
        "is_checked",
        "is_observed",
        "is_up",
        "lag_bytes",
        "last_error",
        "lost_at_s",
        "name",
        "role",
        "since_s",
        "timeline",
        "weight",
    )

    def __init__(self, name: str, configured_role: int, weight: int, since_s: float) -> None:
        self.name = name
        self.configured_role = configured_role
        self.weight = weight
        self.role = configured_role
        self.is_up = False
        self.is_checked = False
        self.is_observed = False
        self.lag_bytes = LAG_UNKNOWN
        self.timeline = 0
        self.since_s = since_s
        self.last_error = ""
        self.active = 0
        self.lost_at_s = -CRASH_S

    def is_losing(self, now_s: float) -> bool:
        """Whether a connection to it was lost a moment ago: others may be lost for the same reason."""
        return now_s - self.lost_at_s < CRASH_S

    def __repr__(self) -> str:
        state = "up" if self.is_up else "down"
        return f"Node({self.name}: {state}, {ROLE_NAMES[self.role]}, lag {self.lag_bytes})"
