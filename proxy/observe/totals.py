"""
Sums by database over clients that have left; the rest of SHOW STATS is with those still here.
"""

from typing import Final, final

MAX_DATABASES: Final = 1000
"""Clients choose the names: more than these are counted together."""
OTHERS: Final = "*"


@final
class DatabaseTotals:
    """[clients, queries, bytes in, bytes out] by the name that clients use."""

    __slots__ = ("by_database",)

    def __init__(self) -> None:
        self.by_database: dict[str, list[int]] = {}

    def add(self, database: str, queries: int, bytes_in: int, bytes_out: int) -> None:
        """A client has left."""
        sums = self.by_database.get(database)
        if sums is None:
            if len(self.by_database) >= MAX_DATABASES:
                database = OTHERS
            sums = self.by_database.setdefault(database, [0, 0, 0, 0])
        sums[0] += 1
        sums[1] += queries
        sums[2] += bytes_in
        sums[3] += bytes_out
