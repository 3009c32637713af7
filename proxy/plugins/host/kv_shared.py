"""
The key-value store that all worker processes of one proxy share: a SQLite file.

SQLite keeps the file whole whatever process is killed when. Its own way of waiting for another
writer is sleeping, which an event loop cannot afford, so writers queue at a file lock of their own,
which the kernel hands on within microseconds and frees when its holder dies. Nothing is ever synced
to disk: the store lives as long as the proxy, not longer.
"""

import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from proxy.plugins.host.guest import TOO_LARGE, UNAVAILABLE, HostFault
from proxy.plugins.host.kv import KvBounds, KvStore, counted

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kv (
  plugin TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, expires REAL NOT NULL,
  PRIMARY KEY (plugin, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS used (
  plugin TEXT PRIMARY KEY, keys INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS added AFTER INSERT ON kv BEGIN
  INSERT INTO used VALUES (new.plugin, 1, length(new.key) + length(new.value))
    ON CONFLICT DO UPDATE SET keys = keys + 1, bytes = bytes + excluded.bytes; END;
CREATE TRIGGER IF NOT EXISTS changed AFTER UPDATE ON kv BEGIN
  UPDATE used SET bytes = bytes + length(new.value) - length(old.value)
    WHERE plugin = new.plugin; END;
CREATE TRIGGER IF NOT EXISTS removed AFTER DELETE ON kv BEGIN
  UPDATE used SET keys = keys - 1, bytes = bytes - length(old.key) - length(old.value)
    WHERE plugin = old.plugin; END;
"""
# Only what is a number as `counted` writes it, and far from the ends of 64 bits.
_ADD: Final = """
UPDATE kv SET value = CAST(CAST(value AS INTEGER) + ?1 AS BLOB)
  WHERE plugin = ?2 AND key = ?3 AND (expires = 0 OR expires > ?4)
    AND CAST(CAST(value AS INTEGER) AS BLOB) = value AND abs(CAST(value AS INTEGER)) < ?5
  RETURNING CAST(value AS INTEGER)
"""
_PLAIN: Final = 1 << 61
_BUSY_MS: Final = 1_000


@final
class SharedKv(KvStore):
    """A store in a file; every process that opens the same path has the same one."""

    def __init__(self, path: Path, bounds: KvBounds | None = None) -> None:
        self.bounds = bounds or KvBounds()
        self._lock = threading.Lock()
        self._lock_fd = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        # The file is made by us, so that its mode does not depend on the umask.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._database = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=32
        )
        with self._writing(begin=False):
            self._database.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = OFF")
            self._database.executescript(_SCHEMA)

    @contextmanager
    def _writing(self, begin: bool = True) -> Iterator[None]:
        with self._lock:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX)
            try:
                if begin:
                    self._database.execute("BEGIN IMMEDIATE")
                yield
                if begin:
                    self._database.execute("COMMIT")
            except BaseException as error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise HostFault(UNAVAILABLE) from error
                raise
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)

    def _find(self, plugin: str, key: bytes) -> tuple[bytes, float] | None:
        row: tuple[bytes, float] | None = self._database.execute(
            "SELECT value, expires FROM kv WHERE plugin = ? AND key = ?", (plugin, key)
        ).fetchone()
        # CLOCK_MONOTONIC is one clock for all processes of a machine.
        if row is None or (row[1] and row[1] <= time.monotonic()):
            return None
        return row

    def get(self, plugin: str, key: bytes) -> bytes | None:
        """See KvStore."""
        try:
            with self._lock:
                row = self._find(plugin, key)
        except sqlite3.Error as error:
            raise HostFault(UNAVAILABLE) from error
        return row[0] if row is not None else None

    def set(self, plugin: str, key: bytes, value: bytes, ttl_ms: int = 0) -> None:
        """See KvStore."""
        self.check_sizes(key, value)
        expires = time.monotonic() + ttl_ms / 1000 if ttl_ms > 0 else 0.0
        with self._writing():
            self._put(plugin, key, value, expires)

    def _put(self, plugin: str, key: bytes, value: bytes, expires: float) -> None:
        if not self._fits(plugin, key, value):
            self._database.execute(
                "DELETE FROM kv WHERE expires > 0 AND expires <= ?", (time.monotonic(),)
            )
            if not self._fits(plugin, key, value):
                raise HostFault(TOO_LARGE)
        self._database.execute(
            "INSERT INTO kv VALUES (?, ?, ?, ?) ON CONFLICT (plugin, key) "
            "DO UPDATE SET value = excluded.value, expires = excluded.expires",
            (plugin, key, value, expires),
        )

    def _fits(self, plugin: str, key: bytes, value: bytes) -> bool:
        old = self._database.execute(
            "SELECT length(value) FROM kv WHERE plugin = ? AND key = ?", (plugin, key)
        ).fetchone()
        total, keys = self._database.execute(
            "SELECT total(bytes), total(CASE WHEN plugin = ? THEN keys END) FROM used", (plugin,)
        ).fetchone()
        if old is None and keys >= self.bounds.plugin_keys:
            return False
        growth = len(value) - old[0] if old is not None else len(key) + len(value)
        return bool(total + growth <= self.bounds.total_bytes)

    def delete(self, plugin: str, key: bytes) -> bool:
        """See KvStore."""
        with self._writing():
            cursor = self._database.execute(
                "DELETE FROM kv WHERE plugin = ? AND key = ?", (plugin, key)
            )
            return cursor.rowcount > 0

    def incr(self, plugin: str, key: bytes, delta: int, ttl_ms: int = 0) -> int:
        """See KvStore."""
        if -_PLAIN < delta < _PLAIN:
            # PERF: the usual counter in one statement; 20 us instead of 40.
            with self._writing(begin=False):
                found = self._database.execute(
                    _ADD, (delta, plugin, key, time.monotonic(), _PLAIN)
                ).fetchone()
            if found is not None:
                return int(found[0])
        with self._writing():
            row = self._find(plugin, key)
            value = counted(row[0] if row is not None else None, delta)
            self.check_sizes(key, value)
            if row is not None:
                expires = row[1]
            else:
                expires = time.monotonic() + ttl_ms / 1000 if ttl_ms > 0 else 0.0
            self._put(plugin, key, value, expires)
        return int(value)

    def keys(self, plugin: str, prefix: bytes) -> list[bytes]:
        """See KvStore."""
        try:
            with self._lock:
                rows = self._database.execute(
                    "SELECT key FROM kv WHERE plugin = ? AND key >= ? "
                    "AND (expires = 0 OR expires > ?) ORDER BY key",
                    (plugin, prefix, time.monotonic()),
                ).fetchall()
        except sqlite3.Error as error:
            raise HostFault(UNAVAILABLE) from error
        return [bytes(key) for (key,) in rows if key.startswith(prefix)]

    def close(self) -> None:
        """See KvStore."""
        with self._lock:
            if self._lock_fd >= 0:
                self._database.close()
                os.close(self._lock_fd)
                self._lock_fd = -1
