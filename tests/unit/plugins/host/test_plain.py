"""config_get, random and digests, with buffers of every size."""

import datetime
import hashlib
import math

import pytest

from proxy.plugins.host import plain
from proxy.plugins.host.guest import MISSING, TOO_LARGE
from proxy.plugins.host.services import wall_clock_us
from tests.support.wat import fake_guest


@pytest.fixture
def guest():
    config: dict[str, object] = {"text": "as it is", "list": [1, "é"]}
    config |= {"date": datetime.date(2026, 1, 2), "nans": {"a": [math.nan, 1.5]}}
    return fake_guest(config=config)


def test_config_get(guest):
    guest.write(0, b"textlistnone")
    assert plain.config_get(guest, 0, 4, 100, 50) == 8
    assert guest.read(100, 8) == b"as it is"
    assert plain.config_get(guest, 4, 4, 100, 50) == len('[1, "é"]'.encode())
    assert plain.config_get(guest, 8, 4, 100, 50) == MISSING
    guest.write(0, b"datenans")
    assert plain.config_get(guest, 0, 4, 100, 50) == len('"2026-01-02"')
    assert plain.config_get(guest, 4, 4, 100, 50) == len('{"a": [null, 1.5]}')
    assert guest.read(100, 18) == b'{"a": [null, 1.5]}'


def test_random_and_digests(guest):
    assert plain.random(guest, 0, 16) == 16
    assert guest.read(0, 16) != bytes(16)
    assert plain.random(guest, 0, 100_000) == TOO_LARGE
    assert plain.sha256(guest, 0, 16, 100, 31) == 32
    assert guest.read(100, 32) == bytes(32)
    assert plain.sha256(guest, 0, 16, 100) == 32
    assert guest.read(100, 32) == hashlib.sha256(guest.read(0, 16)).digest()


def test_the_clock():
    assert wall_clock_us() > 1_700_000_000_000_000
