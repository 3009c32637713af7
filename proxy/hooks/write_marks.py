"""
Marks of writes, in memory that all worker processes of a proxy share.

A result cache has to know of writes that other processes carry out, and at once: a message would
come too late. So each table has a place in an array of counters, and each process a row of its
own, which only it writes. A moment is the sum of the counters that concern some tables: counters
only grow, so two moments are equal exactly when nothing was written between them. Tables that share
a place by chance are taken for one.
"""

import mmap
import os
from pathlib import Path
from typing import Final, final
from zlib import crc32

PLACES: Final = 1024
_ROW: Final = PLACES + 1
_ALL: Final = PLACES
"""The last place of a row: writes of which nobody knows what they changed."""
_COUNTER_BYTES: Final = 8
_WRAP: Final = (1 << 64) - 1


@final
class WriteMarks:
    """Counters of this process (`index` of `workers`), beside those of its siblings."""

    def __init__(self, shared_path: Path | None = None, index: int = 0, workers: int = 1) -> None:
        size = _ROW * _COUNTER_BYTES * max(1, workers)
        if shared_path is None:
            self._memory = mmap.mmap(-1, size)
        else:
            # Whoever comes first makes it; making it longer leaves what is there.
            descriptor = os.open(shared_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, size)
                self._memory = mmap.mmap(descriptor, size)
            finally:
                os.close(descriptor)
        self._counters = memoryview(self._memory).cast("Q")
        self._own = _ROW * index
        self._rows = range(0, _ROW * max(1, workers), _ROW)

    def mark(self, tables: frozenset[str] | None) -> None:
        """These tables were written; None: any."""
        if tables is None:
            self._count(_ALL)
            return
        for table in tables:
            self._count(_place_of(table))

    def moment(self, tables: tuple[str, ...]) -> int:
        """A number that changes with every write to one of these tables, in any process."""
        counters = self._counters
        places = [_ALL, *[_place_of(table) for table in tables]]
        return sum(counters[row + place] for row in self._rows for place in places)

    def _count(self, place: int) -> None:
        at = self._own + place
        self._counters[at] = (self._counters[at] + 1) & _WRAP


def _place_of(table: str) -> int:
    # Not hash(): that differs from process to process.
    return crc32(table.encode("utf-8", "replace")) % PLACES
