"""
The proxy's own result cache: rows that `cache_get` names a key for and `cache_set` agrees to keep.

An entry is found only for the same key, database, user, identity, roles, search_path and role, and
parameters. It ends with its time to live, with the memory limit (least recently used first), and
with a write to one of its tables: at the write, and again at the end of the writer's transaction,
because until then others still read the old rows. A result whose read began before such a
moment is not stored at all: each table has a number that counts those moments.

What this process does not see it cannot know: writes past the proxy, or by a function whose text
names no table, end an entry only by its time to live. Statements that are not known, DDL
and calls empty the whole cache.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, final

from proxy.hooks.rowset import ResultCache
from proxy.session.inspection import Inspection, RowSet
from proxy.sql.statement import CONTROL_COMMIT, CONTROL_ROLLBACK

_ENTRY_BYTES: Final = 400
_VALUE_BYTES: Final = 60

MAX_ENTRY_SHARE: Final = 8
"""No entry takes more than this part of the memory limit."""

MAX_WRITERS: Final = 10_000

# What a write of these kinds changes stands in its `tables`.
_KINDS_WITH_TABLES: Final = frozenset({"insert", "update", "delete", "merge", "copy", "select"})
_HARMLESS_KINDS: Final = frozenset(
    {"set", "transaction", "listen", "notify", "explain", "fetch", "lock", "empty", "utility"}
)

Key = tuple[object, ...]


@final
class _Entry:
    __slots__ = ("rows", "size", "stored_us", "tables", "until_us")

    def __init__(
        self, rows: RowSet, size: int, stored_us: int, until_us: int, tables: tuple[str, ...]
    ) -> None:
        self.rows = rows
        self.size = size
        self.stored_us = stored_us
        self.until_us = until_us
        self.tables = tables


@final
class LocalResultCache(ResultCache):
    """
    One process's result cache of at most `max_bytes`.

    hits, misses, stored, declined, invalidated   plain counters
    """

    def __init__(self, max_bytes: int, now_us: Callable[[], int]) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.stored = 0
        self.declined = 0
        self.invalidated = 0
        self.on_written: Callable[[frozenset[str] | None], None] | None = None
        self._now_us = now_us
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._by_table: dict[str, set[Key]] = {}
        self._epoch = 0
        self._written_at: dict[str, int] = {}
        self._emptied_at = 0
        self._writers: dict[str, set[str] | None] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # -- ResultCache

    def lookup(self, inspection: Inspection, key: str, max_age_ms: int) -> RowSet | None:
        """Rows not older than max_age_ms (0: any age), or None; a miss remembers its moment."""
        now_us = self._now_us()
        full = _key_of(inspection, key)
        entry = self._entries.get(full)
        if entry is not None:
            is_young = max_age_ms <= 0 or now_us - entry.stored_us <= max_age_ms * 1000
            if now_us < entry.until_us and is_young:
                self._entries.move_to_end(full)
                self.hits += 1
                return entry.rows
            if now_us >= entry.until_us:
                self._drop(full)
        self.misses += 1
        inspection.cache_epoch = self._epoch
        return None

    def store(self, inspection: Inspection, key: str, rows: RowSet, ttl_ms: int) -> None:
        """Keep the rows, unless a table was written since the read began."""
        tables = _tables_of(inspection)
        began = inspection.cache_epoch
        size = _size_of(rows)
        is_stale = self._emptied_at > began or any(
            self._written_at.get(table, 0) > began for table in tables
        )
        if (
            is_stale
            or not inspection.facts.is_read_only
            or size > self.max_bytes // MAX_ENTRY_SHARE
        ):
            self.declined += 1
            return
        now_us = self._now_us()
        full = _key_of(inspection, key)
        self._drop(full)
        self._entries[full] = _Entry(rows, size, now_us, now_us + ttl_ms * 1000, tables)
        for table in tables:
            self._by_table.setdefault(table, set()).add(full)
        self.bytes += size
        self.stored += 1
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def written(self, inspection: Inspection) -> None:
        """A statement that is no plain read is over."""
        facts = inspection.facts
        client = inspection.client.client_id
        if facts.control in (CONTROL_COMMIT, CONTROL_ROLLBACK):
            if client in self._writers:
                pending = self._writers.pop(client)
                self._forget_and_tell(None if pending is None else frozenset(pending))
            return
        if facts.kind in _HARMLESS_KINDS:
            return
        tables: set[str] | None = None
        if facts.kind in _KINDS_WITH_TABLES and (facts.tables or facts.kind == "select"):
            tables = set(_tables_of(inspection))
        if inspection.in_transaction and len(self._writers) < MAX_WRITERS:
            known = self._writers.get(client, set())
            self._writers[client] = None if tables is None or known is None else known | tables
        self._forget_and_tell(None if tables is None else frozenset(tables))

    # -- for others

    def left(self, client_id: str) -> None:
        """A client has gone: its open transaction was rolled back, nothing was written."""
        self._writers.pop(client_id, None)

    def forget(self, tables: frozenset[str] | None) -> None:
        """Forget what depends on these tables; None: everything. Also for writes seen elsewhere."""
        self._epoch += 1
        if tables is None:
            self.invalidated += len(self._entries)
            self._entries.clear()
            self._by_table.clear()
            self._written_at.clear()
            self.bytes = 0
            self._emptied_at = self._epoch
            return
        for table in tables:
            self._written_at[table] = self._epoch
            for key in list(self._by_table.get(table, ())):
                self.invalidated += 1
                self._drop(key)

    def _forget_and_tell(self, tables: frozenset[str] | None) -> None:
        self.forget(tables)
        if self.on_written is not None:
            self.on_written(tables)

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.size
        for table in entry.tables:
            keys = self._by_table.get(table)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._by_table[table]


def _key_of(inspection: Inspection, key: str) -> Key:
    client = inspection.client
    parameters = inspection.parameters
    return (
        key,
        client.database,
        client.branch,
        client.user,
        client.identity,
        tuple(client.roles),
        inspection.settings_key,
        None if parameters is None else tuple(parameters),
    )


def _tables_of(inspection: Inspection) -> tuple[str, ...]:
    """Names without their schema: `orders` and `public.orders` may be one table, so they are."""
    return tuple({name.rpartition(".")[2] for name in inspection.facts.tables})


def _size_of(rows: RowSet) -> int:
    size = _ENTRY_BYTES + _VALUE_BYTES * len(rows.columns)
    for row in rows.rows:
        for value in row:
            size += _VALUE_BYTES + (0 if value is None else len(value))
    return size
