"""
Sums by database over clients that have left; the rest of SHOW STATS is with those still here.
"""

from typing import Final, final

MAX_DATABASES: Final = 1000
"""Clients choose the names: more than these are counted together."""
OTHERS: Final = "*"
SUMS: Final = 7
"""How many sums there are of each database."""


@final
class DatabaseTotals:
    """
    By the name that clients use: [clients, queries, bytes in, bytes out, transactions, time of queries,
    time of transactions], times in microseconds.
    """

    __slots__ = ("by_database",)

    def __init__(self) -> None:
        self.by_database: dict[str, list[int]] = {}

    def add(
        self,
        database: str,
        queries: int,
        bytes_in: int,
        bytes_out: int,
        transactions: int = 0,
        query_us: int = 0,
        transaction_us: int = 0,
    ) -> None:
        """A client has left."""
        sums = self.by_database.get(database)
        if sums is None:
            if len(self.by_database) >= MAX_DATABASES:
                database = OTHERS
            sums = self.by_database.setdefault(database, [0] * SUMS)
        sums[0] += 1
        sums[1] += queries
        sums[2] += bytes_in
        sums[3] += bytes_out
        sums[4] += transactions
        sums[5] += query_us
        sums[6] += transaction_us
