"""
The proxy's own result cache: rows that `cache_get` names a key for and `cache_set` agrees to keep.

An entry is found only for the same key and text (a key that a plugin gives to two statements must not
give one the other's rows), and for the same database, user, identity, roles, parameters and formats, and
settings of the session: search_path and role, but also TimeZone or a custom one that row level
security looks at. It ends with its time to live, with the memory limit (least recently used first), and
with a write to one of its tables: at the write, and again at the end of the writer's transaction,
because until then others still read the old rows. A result whose read began before such a
moment is not stored at all, and one that a sibling process has made stale is not found any more:
`WriteMarks` counts those moments for all processes of the proxy.

Statements that are not known, DDL, calls and functions of the user's empty the whole cache, as does
the end of a transaction whose beginning was not seen here. What passes the proxy by (another way
to the server, a trigger that writes elsewhere) ends an entry only by its time to live.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, final

from proxy.hooks.rowset import ResultCache
from proxy.hooks.write_marks import WriteMarks
from proxy.session.inspection import Inspection, RowSet
from proxy.sql.statement import CONTROL_BEGIN, CONTROL_COMMIT, CONTROL_NONE, CONTROL_ROLLBACK

_ENTRY_BYTES: Final = 400
_VALUE_BYTES: Final = 60

MAX_ENTRY_SHARE: Final = 8
"""No entry takes more than this part of the memory limit."""

MAX_WRITERS: Final = 10_000
"""Clients whose open transactions are kept track of; the end of another empties the cache."""

# What a write of these kinds changes stands in its `tables`.
_KINDS_WITH_TABLES: Final = frozenset({"insert", "update", "delete", "merge", "copy", "select"})
_HARMLESS_KINDS: Final = frozenset(
    {"set", "listen", "notify", "explain", "fetch", "lock", "empty", "utility"}
)

Key = tuple[object, ...]


@final
class _Entry:
    __slots__ = ("moment", "rows", "size", "stored_us", "tables", "until_us")

    def __init__(
        self,
        rows: RowSet,
        size: int,
        stored_us: int,
        until_us: int,
        tables: tuple[str, ...],
        moment: int,
    ) -> None:
        self.moment = moment
        self.rows = rows
        self.size = size
        self.stored_us = stored_us
        self.until_us = until_us
        self.tables = tables


@final
class LocalResultCache(ResultCache):
    """
    One process's result cache of at most `max_bytes`; `marks` are shared with its siblings.

    hits, misses, stored, declined, invalidated   plain counters
    """

    def __init__(
        self, max_bytes: int, now_us: Callable[[], int], marks: WriteMarks | None = None
    ) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self.stored = 0
        self.declined = 0
        self.invalidated = 0
        self._now_us = now_us
        self._marks = marks or WriteMarks()
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._by_table: dict[str, set[Key]] = {}
        self._writers: dict[str, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    # -- ResultCache

    def lookup(self, inspection: Inspection, key: str, max_age_ms: int) -> RowSet | None:
        """Rows not older than max_age_ms (0: any age), or None; a miss remembers its moment."""
        now_us = self._now_us()
        moment = self._marks.moment(_tables_of(inspection))
        full = _key_of(inspection, key)
        entry = self._entries.get(full)
        if entry is not None:
            if now_us >= entry.until_us or not self._is_current(entry, moment):
                self._drop(full)
            elif max_age_ms <= 0 or now_us - entry.stored_us <= max_age_ms * 1000:
                self._entries.move_to_end(full)
                self.hits += 1
                return entry.rows
        self.misses += 1
        inspection.cache_epoch = moment
        return None

    def _is_current(self, entry: _Entry, moment: int) -> bool:
        """Whether no sibling has written to an entry's tables since it was read."""
        if entry.moment == moment:
            return True
        self.invalidated += 1
        return False

    def store(self, inspection: Inspection, key: str, rows: RowSet, ttl_ms: int) -> None:
        """Keep the rows, unless a table was written since the read began."""
        tables = _tables_of(inspection)
        moment = self._marks.moment(tables)
        size = _size_of(rows)
        if (
            moment != inspection.cache_epoch
            or not inspection.facts.is_read_only
            or size > self.max_bytes // MAX_ENTRY_SHARE
        ):
            self.declined += 1
            return
        now_us = self._now_us()
        full = _key_of(inspection, key)
        self._drop(full)
        self._entries[full] = _Entry(rows, size, now_us, now_us + ttl_ms * 1000, tables, moment)
        for table in tables:
            self._by_table.setdefault(table, set()).add(full)
        self.bytes += size
        self.stored += 1
        self._shrink()

    def written(self, inspection: Inspection) -> None:
        """A statement that is no plain read is over."""
        facts = inspection.facts
        client = inspection.client.client_id
        if facts.control == CONTROL_BEGIN:
            if client not in self._writers and len(self._writers) < MAX_WRITERS:
                self._writers[client] = frozenset()
            return
        if facts.control in (CONTROL_COMMIT, CONTROL_ROLLBACK):
            # Who is not known here may have written before anybody looked.
            pending = self._writers.pop(client, None)
            if pending is None or pending:
                self.forget(pending)
            return
        # COMMIT PREPARED has no control over this session's transaction: whose it ends is unknown.
        is_within = facts.kind == "transaction" and facts.control != CONTROL_NONE
        if is_within or facts.kind in _HARMLESS_KINDS:
            return
        tables: frozenset[str] | None = None
        is_opaque = facts.effects is not None and facts.effects.is_opaque
        if facts.kind in _KINDS_WITH_TABLES and not is_opaque:
            if facts.tables or facts.kind == "select":
                tables = frozenset(_tables_of(inspection))
        known = self._writers.get(client)
        if inspection.in_transaction and known is not None:
            if tables is None:
                del self._writers[client]
            else:
                self._writers[client] = known | tables
        self.forget(tables)

    def clear(self) -> None:
        """Nobody has looked at writes for a while, or will: nothing that is here counts."""
        self._writers.clear()
        self.forget(None)

    # -- for others

    def resize(self, max_bytes: int) -> None:
        """Take another memory limit."""
        self.max_bytes = max_bytes
        self._shrink()

    def left(self, client_id: str) -> None:
        """A client has gone: its open transaction was rolled back, nothing was written."""
        self._writers.pop(client_id, None)

    def forget(self, tables: frozenset[str] | None) -> None:
        """Forget, here and in the siblings, what depends on these tables; None: everything."""
        self._marks.mark(tables)
        if tables is None:
            self.invalidated += len(self._entries)
            self._entries.clear()
            self._by_table.clear()
            self.bytes = 0
            return
        for table in tables:
            for key in list(self._by_table.get(table, ())):
                self.invalidated += 1
                self._drop(key)

    def _shrink(self) -> None:
        while self.bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self.bytes -= entry.size
        for table in entry.tables:
            keys = self._by_table[table]
            keys.discard(key)
            if not keys:
                del self._by_table[table]


def _key_of(inspection: Inspection, key: str) -> Key:
    client = inspection.client
    parameters = inspection.parameters
    return (
        key,
        inspection.facts.text,
        client.database,
        client.branch,
        client.user,
        client.identity,
        tuple(client.roles),
        inspection.settings_key,
        inspection.bind_key,
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
