"""The store of a fleet, against a fake of the client's few calls."""

import pytest

redis = pytest.importorskip("redis")

from proxy.plugins.host.guest import (  # noqa: E402
    BAD_ARGUMENT,
    TIMED_OUT,
    TOO_LARGE,
    UNAVAILABLE,
    HostFault,
)
from proxy.plugins.host.kv import KvBounds  # noqa: E402
from proxy.plugins.host.kv_redis import RedisKv  # noqa: E402


class FakeClient:
    def __init__(self):
        self.values = {}
        self.indexes = {}
        self.answers = []
        self.fault = None

    def _check(self):
        if self.fault is not None:
            raise self.fault

    def get(self, name):
        self._check()
        return self.values.get(name)

    def delete(self, name):
        return int(self.values.pop(name, None) is not None)

    def srem(self, index, key):
        self.indexes.get(index, set()).discard(key)

    def smembers(self, index):
        return self.indexes.get(index, set())

    def mget(self, names):
        return [self.values.get(name) for name in names]

    def script(self, keys, args):
        self._check()
        if self.answers:
            return self.answers.pop(0)
        self.values[keys[0]] = args[1]
        self.indexes.setdefault(keys[1], set()).add(args[0])
        return 0

    def close(self):
        self.fault = redis.ConnectionError()


@pytest.fixture
def store():
    found = RedisKv("redis://127.0.0.1:1/0", 0.1, KvBounds(key_bytes=8, value_bytes=10))
    found._client = FakeClient()
    found._set = found._incr = found._client.script
    return found


def code_of(call, *arguments):
    with pytest.raises(HostFault) as caught:
        call(*arguments)
    return caught.value.code


def test_it_waits(store):
    assert store.waits


def test_values(store):
    store.set("p", b"k", b"v")
    assert store.get("p", b"k") == b"v"
    assert store.get("q", b"k") is None
    assert store.keys("p", b"") == [b"k"]
    assert store.keys("p", b"x") == []
    assert store.delete("p", b"k")
    assert not store.delete("p", b"k")
    assert store.keys("p", b"") == []


def test_answers_of_the_scripts(store):
    store._client.answers = [-2, [-2], [-4], [0, b"7"]]
    assert code_of(store.set, "p", b"k", b"v") == TOO_LARGE
    assert code_of(store.incr, "p", b"k", 1) == TOO_LARGE
    assert code_of(store.incr, "p", b"k", 1) == BAD_ARGUMENT
    assert store.incr("p", b"k", 1) == 7
    assert code_of(store.set, "p", b"k" * 9, b"v") == TOO_LARGE


def test_a_server_that_does_not_answer(store):
    store._client.fault = redis.TimeoutError()
    assert code_of(store.get, "p", b"k") == TIMED_OUT
    store.close()
    assert code_of(store.get, "p", b"k") == UNAVAILABLE


def test_a_server_that_is_not_there():
    store = RedisKv("redis://127.0.0.1:1/0", 0.2)
    assert code_of(store.get, "p", b"k") == UNAVAILABLE
