"""A guest's memory, read and written within its bounds; waiting calls counted."""

import pytest

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    BAD_POINTER,
    MAX_WAITS,
    TOO_LARGE,
    HostFault,
)
from tests.support.wat import fake_guest


@pytest.fixture
def guest():
    return fake_guest(memory_bytes=100)


def code_of(call, *arguments):
    with pytest.raises(HostFault) as caught:
        call(*arguments)
    return caught.value.code


def test_reading_and_writing(guest):
    guest.write(90, b"0123456789")
    assert guest.read(95, 5) == b"56789"
    assert guest.read_text(90, 2) == "01"
    assert guest.memory_bytes() == 100
    assert code_of(guest.read, 96, 5) == BAD_POINTER
    assert code_of(guest.write, 96, b"12345") == BAD_POINTER
    guest.write(0, b"\xff")
    assert code_of(guest.read_text, 0, 1) == BAD_ARGUMENT


def test_giving(guest):
    assert guest.give(b"abc", 0, 3) == 3
    assert guest.read(0, 3) == b"abc"
    assert guest.give(b"xyz", 0, 2) == 3
    assert guest.read(0, 3) == b"abc"


def test_no_instance_no_memory(guest):
    guest.imports.active = None
    assert code_of(guest.read, 0, 1) == BAD_POINTER
    assert guest.memory_bytes() == 0
    guest.end_wait()


def test_waits(guest):
    assert code_of(guest.begin_wait) == TOO_LARGE
    guest.begin_call(7)
    for _ in range(MAX_WAITS):
        guest.begin_wait()
        guest.end_wait()
    assert code_of(guest.begin_wait) == TOO_LARGE
    assert guest.imports.active.deadlines == [7] * MAX_WAITS
