"""
The plugins' key-value store: bytes by plugin and key, bounded, with times to live.

Permissions `kv.read` and `kv.write`. `LocalKv` serves one process; `kv_shared` serves all worker
processes of a proxy and `kv_redis` a fleet, behind the same `KvStore`. A plugin sees its own keys
only. Nothing here is lost when a plugin is replaced.
"""

import json
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final, final

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    INCR_FAILED,
    MISSING,
    TOO_LARGE,
    Guest,
    HostFault,
    time_to_live,
    whole,
)

MAX_COUNTER: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class KvBounds:
    """Limits of a store, in bytes and keys."""

    key_bytes: int = 256
    value_bytes: int = 64 * 1024
    plugin_keys: int = 1024
    total_bytes: int = 64 * 1024 * 1024


class KvStore(ABC):
    """
    A store. `waits` says that a call may take long, so that plugins using it need worker threads.

    Methods raise HostFault: TOO_LARGE over a bound, BAD_ARGUMENT for a counter that is no number,
    UNAVAILABLE or TIMED_OUT when what is behind it does not answer.
    """

    waits: bool = False
    bounds: KvBounds = KvBounds()

    @abstractmethod
    def get(self, plugin: str, key: bytes) -> bytes | None:
        """The value, or None."""

    @abstractmethod
    def set(self, plugin: str, key: bytes, value: bytes, ttl_ms: int = 0) -> None:
        """Keep a value, for `ttl_ms` or (0) until deleted."""

    @abstractmethod
    def delete(self, plugin: str, key: bytes) -> bool:
        """Forget a key; whether it was there."""

    @abstractmethod
    def incr(self, plugin: str, key: bytes, delta: int, ttl_ms: int = 0) -> int:
        """
        Add to a decimal counter, atomically; a missing one is 0. The time to live is set when the
        counter is made and not by later additions: that is what a window of a rate limit is.
        """

    @abstractmethod
    def keys(self, plugin: str, prefix: bytes) -> list[bytes]:
        """Keys that start with `prefix`, sorted."""

    def close(self) -> None:
        """Let go of files and connections, if there are any."""
        return

    def check_sizes(self, key: bytes, value: bytes) -> None:
        """Raise TOO_LARGE if key or value is over its bound."""
        if not key:
            raise HostFault(BAD_ARGUMENT)
        if len(key) > self.bounds.key_bytes or len(value) > self.bounds.value_bytes:
            raise HostFault(TOO_LARGE)


def counted(value: bytes | None, delta: int) -> bytes:
    """A counter's new text. Raises BAD_ARGUMENT: no number, or out of 64 bits."""
    try:
        number = int(value) if value is not None else 0
    except ValueError:
        raise HostFault(BAD_ARGUMENT) from None
    number += delta
    if not -MAX_COUNTER <= number <= MAX_COUNTER:
        raise HostFault(BAD_ARGUMENT)
    return b"%d" % number


@final
class LocalKv(KvStore):
    """A store in this process, for the event loop and the worker threads of plugins."""

    def __init__(self, bounds: KvBounds | None = None) -> None:
        self.bounds = bounds or KvBounds()
        self._plugins: dict[str, dict[bytes, tuple[bytes, float]]] = {}
        self._total = 0
        self._lock = threading.RLock()

    def _live(self, plugin: str, key: bytes) -> tuple[bytes, float] | None:
        entry = self._plugins.get(plugin, {}).get(key)
        if entry is not None and entry[1] and entry[1] <= time.monotonic():
            self.delete(plugin, key)
            return None
        return entry

    def get(self, plugin: str, key: bytes) -> bytes | None:
        """See KvStore."""
        with self._lock:
            entry = self._live(plugin, key)
            return entry[0] if entry is not None else None

    def set(self, plugin: str, key: bytes, value: bytes, ttl_ms: int = 0) -> None:
        """See KvStore."""
        expires = time.monotonic() + ttl_ms / 1000 if ttl_ms > 0 else 0.0
        with self._lock:
            self._put(plugin, key, value, expires)

    def _put(self, plugin: str, key: bytes, value: bytes, expires: float) -> None:
        self.check_sizes(key, value)
        entries = self._plugins.setdefault(plugin, {})
        old = entries.get(key)
        growth = len(value) - len(old[0]) if old is not None else len(key) + len(value)
        is_new = old is None
        if (is_new and len(entries) >= self.bounds.plugin_keys) or (
            self._total + growth > self.bounds.total_bytes
        ):
            self._expire()
            entries = self._plugins.setdefault(plugin, {})
            if (is_new and len(entries) >= self.bounds.plugin_keys) or (
                self._total + growth > self.bounds.total_bytes
            ):
                raise HostFault(TOO_LARGE)
        entries[key] = (value, expires)
        self._total += growth

    def _expire(self) -> None:
        now = time.monotonic()
        for plugin, entries in list(self._plugins.items()):
            for key in [k for k, (_, at) in entries.items() if at and at <= now]:
                self.delete(plugin, key)

    def delete(self, plugin: str, key: bytes) -> bool:
        """See KvStore."""
        with self._lock:
            entry = self._plugins.get(plugin, {}).pop(key, None)
            if entry is None:
                return False
            self._total -= len(key) + len(entry[0])
            return True

    def incr(self, plugin: str, key: bytes, delta: int, ttl_ms: int = 0) -> int:
        """See KvStore."""
        with self._lock:
            entry = self._live(plugin, key)
            value = counted(entry[0] if entry is not None else None, delta)
            if entry is not None:
                self._put(plugin, key, value, entry[1])
            else:
                self.set(plugin, key, value, ttl_ms)
            return int(value)

    def keys(self, plugin: str, prefix: bytes) -> list[bytes]:
        """See KvStore."""
        with self._lock:
            self._expire()
            return sorted(key for key in self._plugins.get(plugin, {}) if key.startswith(prefix))


def kv_get(guest: Guest, key: int, key_len: int, out: int, capacity: int) -> int:
    """kv_get(key_ptr, key_len, out_ptr, out_cap): length of the value, or MISSING."""
    store = guest.services.kv
    if key_len > store.bounds.key_bytes:
        return MISSING
    value = store.get(guest.plugin, guest.read(key, key_len))
    return MISSING if value is None else guest.give(value, out, capacity)


def kv_set(
    guest: Guest, key: int, key_len: int, value: int, value_len: int, ttl_ms: float = 0
) -> int:
    """kv_set(key_ptr, key_len, val_ptr, val_len[, ttl_ms]): 0."""
    store = guest.services.kv
    if key_len > store.bounds.key_bytes or value_len > store.bounds.value_bytes:
        return TOO_LARGE
    lives_ms = time_to_live(ttl_ms)
    store.set(guest.plugin, guest.read(key, key_len), guest.read(value, value_len), lives_ms)
    return 0


def kv_delete(guest: Guest, key: int, key_len: int) -> int:
    """kv_delete(key_ptr, key_len): 0, there or not."""
    store = guest.services.kv
    if key_len <= store.bounds.key_bytes:
        store.delete(guest.plugin, guest.read(key, key_len))
    return 0


def kv_incr(guest: Guest, key: int, key_len: int, delta: float, ttl_ms: float = 0) -> int:
    """kv_incr(key_ptr, key_len, delta[, ttl_ms]): the new value, or INCR_FAILED (i64 minimum)."""
    store = guest.services.kv
    if key_len > store.bounds.key_bytes:
        return INCR_FAILED
    try:
        lives_ms = time_to_live(ttl_ms)
        return store.incr(guest.plugin, guest.read(key, key_len), whole(delta), lives_ms)
    except HostFault:
        return INCR_FAILED


def kv_list(guest: Guest, prefix: int, prefix_len: int, out: int, capacity: int) -> int:
    """kv_list(prefix_ptr, prefix_len, out_ptr, out_cap): length of a JSON array of keys."""
    store = guest.services.kv
    start = guest.read(prefix, min(prefix_len, store.bounds.key_bytes + 1))
    names = [key.decode("utf-8", "replace") for key in store.keys(guest.plugin, start)]
    return guest.give(json.dumps(names, ensure_ascii=False).encode(), out, capacity)
