"""WASI stubs without permissions: no clock, no randomness, no log."""

import pytest

from proxy.plugins.host import wasi
from tests.support.wat import fake_guest


@pytest.fixture
def guest():
    return fake_guest()


def test_nothing_without_permission(guest):
    guest.write(0, b"\xff" * 16)
    assert wasi.clock_time_get(guest, 0, 0, 0) == wasi.SUCCESS
    assert wasi.random_get(guest, 8, 8) == wasi.SUCCESS
    assert guest.read(0, 16) == bytes(16)
    assert wasi.clock_time_get(guest, 9, 0, 0) == wasi.EINVAL
    assert wasi.random_get(guest, 0, 1 << 20) == wasi.EINVAL
    assert wasi.clock_res_get(guest, 0, 0) == wasi.SUCCESS


def test_output_is_taken_and_dropped(guest):
    guest.write(0, (100).to_bytes(4, "little") + (5).to_bytes(4, "little"))
    guest.write(100, b"hello")
    assert wasi.fd_write(guest, 1, 0, 1, 50) == wasi.SUCCESS
    assert int.from_bytes(guest.read(50, 4), "little") == 5
    assert guest.services.logs.all() == []
    assert wasi.fd_write(guest, 3, 0, 1, 50) == wasi.EBADF
    assert wasi.fd_write(guest, 1, 0, 1000, 50) == wasi.EBADF


def test_the_rest(guest):
    assert wasi.stub("environ_get")(guest, 0, 0) == wasi.SUCCESS
    assert wasi.stub("sched_yield")(guest) == wasi.SUCCESS
    assert wasi.stub("fd_close")(guest, 5) == wasi.EBADF
    assert wasi.stub("fd_fdstat_get")(guest, 1, 0) == wasi.SUCCESS
    assert wasi.stub("sock_send")(guest, 1, 2, 3, 4, 5) == wasi.ENOSYS
