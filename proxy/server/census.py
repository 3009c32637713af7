"""
How many clients all worker processes have together: in all, per user, per database.

A file in the parent's private directory that every worker maps. Each writes to its own part alone
and reads those of the others, so there is nothing to lock; a worker that takes a dead one's place
begins with its part empty. Whoever counts itself in first and then reads the sum can never let the
sum pass a limit, though two who come at the same moment may both be refused the last place.
"""

import hashlib
import mmap
import os
import struct
from pathlib import Path
from typing import Final, final

ENTRIES: Final = 4096
"""Names that one worker can count at the same time; further ones are counted by itself alone."""

_ENTRY: Final = struct.Struct("=12sI")
_COUNT: Final = struct.Struct("=I")
_NAME_BYTES: Final = 12
_PART_BYTES: Final = (ENTRIES + 1) * _ENTRY.size
_NO_NAME: Final = bytes(_NAME_BYTES)


@final
class Census:
    """Counts of clients by name, of this worker and of all."""

    def __init__(self, directory: Path, worker: int, workers: int) -> None:
        self._workers = workers
        self._start = worker * _PART_BYTES
        self._slots: dict[bytes, int] = {}
        self._free = list(range(ENTRIES, -1, -1))
        descriptor = os.open(directory / "census", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # All of them make it as long as it must be; what is there already stays.
            os.ftruncate(descriptor, workers * _PART_BYTES)
            self._map = mmap.mmap(descriptor, workers * _PART_BYTES)
        finally:
            os.close(descriptor)
        self._map[self._start : self._start + _PART_BYTES] = bytes(_PART_BYTES)

    def set(self, name: str, count: int) -> None:
        """Write down how many this worker has under a name."""
        key = _key(name)
        slot = self._slots.get(key)
        if count == 0:
            if slot is not None:
                self._map[self._place(slot) : self._place(slot) + _ENTRY.size] = bytes(_ENTRY.size)
                del self._slots[key]
                self._free.append(slot)
            return
        if slot is not None:
            _COUNT.pack_into(self._map, self._place(slot) + _NAME_BYTES, count)
        elif self._free:
            slot = self._free.pop()
            self._slots[key] = slot
            # The count first: a name that can be found has one.
            _COUNT.pack_into(self._map, self._place(slot) + _NAME_BYTES, count)
            self._map[self._place(slot) : self._place(slot) + _NAME_BYTES] = key

    def others(self, name: str) -> int:
        """How many all other workers have under a name."""
        key = _key(name)
        total = 0
        for worker in range(self._workers):
            start = worker * _PART_BYTES
            if start != self._start:
                total += self._find(key, start)
        return total

    def _find(self, key: bytes, start: int) -> int:
        place = self._map.find(key, start, start + _PART_BYTES)
        while place >= 0 and (place - start) % _ENTRY.size:
            place = self._map.find(key, place + 1, start + _PART_BYTES)
        if place < 0:
            return 0
        found, count = _ENTRY.unpack_from(self._map, place)
        return int(count) if found == key else 0

    def _place(self, slot: int) -> int:
        return self._start + slot * _ENTRY.size


def _key(name: str) -> bytes:
    key = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=_NAME_BYTES).digest()
    return key if key != _NO_NAME else b"\x01" * _NAME_BYTES
