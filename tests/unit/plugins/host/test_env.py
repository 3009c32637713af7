"""The result codes of ABI 0's four functions."""

import hashlib

import pytest

from proxy.plugins.host import env
from proxy.plugins.host.kv import KvBounds, LocalKv
from proxy.plugins.host.services import Services
from tests.support.wat import fake_guest


@pytest.fixture
def guest():
    services = Services(kv=LocalKv(KvBounds(key_bytes=4, value_bytes=10, plugin_keys=2)))
    return fake_guest(services=services)


def test_kv(guest):
    guest.write(0, b"key")
    guest.write(10, b"value")
    assert env.kv_get(guest, 0, 3, 50, 10) == -1
    assert env.kv_set(guest, 0, 3, 10, 5) == 0
    assert env.kv_get(guest, 0, 3, 50, 4) == -2
    assert env.kv_get(guest, 0, 3, 50, 5) == 5
    assert guest.read(50, 5) == b"value"
    assert env.kv_delete(guest, 0, 3) == 0
    assert env.kv_delete(guest, 0, 3) == 0
    assert env.kv_get(guest, 0, 3, 50, 10) == -1


def test_bounds_and_pointers(guest):
    assert env.kv_set(guest, 0, 5, 0, 1) == -1
    assert env.kv_set(guest, 0, 3, 0, 11) == -1
    assert env.kv_get(guest, 0, 5, 0, 1) == -1
    assert env.kv_set(guest, 199, 3, 0, 1) == -1
    assert env.kv_get(guest, 199, 3, 0, 1) == -1
    assert env.kv_delete(guest, 199, 3) == -1
    assert env.kv_delete(guest, 0, 99) == 0
    for key in range(2):
        guest.write(0, bytes([key + 65]))
        assert env.kv_set(guest, 0, 1, 0, 1) == 0
    guest.write(0, b"Z")
    assert env.kv_set(guest, 0, 1, 0, 1) == -1


def test_sha256_hex(guest):
    guest.write(0, b"abc")
    assert env.sha256_hex(guest, 0, 3, 100) == 64
    assert guest.read(100, 64) == hashlib.sha256(b"abc").hexdigest().encode()
    assert env.sha256_hex(guest, 0, 3, 150) == -1
    assert env.sha256_hex(guest, 198, 3, 0) == -1
