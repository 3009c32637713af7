"""
A scratch cache for plugins: bytes by key, local to this process, free to forget.

Permissions `cache.read` and `cache.write`. Unlike KV it is not shared and evicts what was not used
for longest, so it never refuses a value that fits.
"""

import threading
import time
from collections import OrderedDict
from typing import Final, final

from proxy.plugins.host.guest import MISSING, TOO_LARGE, Guest, time_to_live

MAX_KEY_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 64 * 1024
MAX_PLUGIN_BYTES: Final = 4 * 1024 * 1024


@final
class LocalCache:
    """Least recently used entries of each plugin, at most MAX_PLUGIN_BYTES."""

    def __init__(self, plugin_bytes: int = MAX_PLUGIN_BYTES) -> None:
        self._plugin_bytes = plugin_bytes
        self._entries: dict[str, OrderedDict[bytes, tuple[bytes, float]]] = {}
        self._bytes: dict[str, int] = {}
        self._lock = threading.RLock()

    def get(self, plugin: str, key: bytes) -> bytes | None:
        """The value, unless it was never set, has expired or was evicted."""
        with self._lock:
            entries = self._entries.get(plugin)
            entry = entries.get(key) if entries is not None else None
            if entries is None or entry is None:
                return None
            value, expires = entry
            if expires and expires <= time.monotonic():
                self.delete(plugin, key)
                return None
            entries.move_to_end(key)
            return value

    def set(self, plugin: str, key: bytes, value: bytes, ttl_ms: int) -> bool:
        """Keep a value; False: key or value too large."""
        if len(key) > MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            return False
        expires = time.monotonic() + ttl_ms / 1000 if ttl_ms > 0 else 0.0
        with self._lock:
            self.delete(plugin, key)
            entries = self._entries.setdefault(plugin, OrderedDict())
            entries[key] = (value, expires)
            self._bytes[plugin] = self._bytes.get(plugin, 0) + len(key) + len(value)
            while self._bytes[plugin] > self._plugin_bytes and len(entries) > 1:
                old_key, (old_value, _) = entries.popitem(last=False)
                self._bytes[plugin] -= len(old_key) + len(old_value)
            return True

    def delete(self, plugin: str, key: bytes) -> None:
        """Forget a key (idempotent)."""
        with self._lock:
            entries = self._entries.get(plugin)
            entry = entries.pop(key, None) if entries is not None else None
            if entry is not None:
                self._bytes[plugin] -= len(key) + len(entry[0])

    def forget(self, plugin: str) -> None:
        """Forget all of a plugin."""
        self._entries.pop(plugin, None)
        self._bytes.pop(plugin, None)


def cache_get(guest: Guest, key: int, key_len: int, out: int, capacity: int) -> int:
    """cache_get(key_ptr, key_len, out_ptr, out_cap): length of the value, or MISSING."""
    value = guest.services.cache.get(guest.plugin, guest.read(key, min(key_len, 257)))
    return MISSING if value is None else guest.give(value, out, capacity)


def cache_set(
    guest: Guest, key: int, key_len: int, value: int, value_len: int, ttl_ms: float = 0
) -> int:
    """cache_set(key_ptr, key_len, val_ptr, val_len[, ttl_ms]): 0."""
    if key_len > MAX_KEY_BYTES or value_len > MAX_VALUE_BYTES:
        return TOO_LARGE
    lives_ms = time_to_live(ttl_ms)
    kept = guest.services.cache.set(
        guest.plugin, guest.read(key, key_len), guest.read(value, value_len), lives_ms
    )
    return 0 if kept else TOO_LARGE


def cache_delete(guest: Guest, key: int, key_len: int) -> int:
    """cache_delete(key_ptr, key_len): 0, there or not."""
    guest.services.cache.delete(guest.plugin, guest.read(key, min(key_len, 257)))
    return 0
