"""The scratch cache: forgets the least recently used, and what has expired."""

import time

from proxy.plugins.host.cache import LocalCache


def test_values_by_plugin():
    cache = LocalCache()
    assert cache.set("p", b"k", b"v", 0)
    assert cache.get("p", b"k") == b"v"
    assert cache.get("q", b"k") is None
    cache.delete("p", b"k")
    cache.delete("p", b"k")
    assert cache.get("p", b"k") is None


def test_it_evicts_what_was_not_used():
    cache = LocalCache(plugin_bytes=30)
    for key in (b"a", b"b", b"c"):
        cache.set("p", key, bytes(9), 0)
    cache.get("p", b"a")
    cache.set("p", b"d", bytes(9), 0)
    assert [cache.get("p", key) is not None for key in (b"a", b"b", b"c", b"d")] == [
        True,
        False,
        True,
        True,
    ]


def test_sizes_and_time():
    cache = LocalCache()
    assert not cache.set("p", bytes(257), b"", 0)
    assert not cache.set("p", b"k", bytes(65_537), 0)
    cache.set("p", b"k", b"v", 5)
    time.sleep(0.01)
    assert cache.get("p", b"k") is None
    cache.set("p", b"k", b"v", 0)
    cache.forget("p")
    assert cache.get("p", b"k") is None
