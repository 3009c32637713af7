"""First packets of any kind: a clean error or a clean end, nothing else."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.fuzzing import (
    LOGIN,
    assert_well,
    check_messages,
    exchange,
    for_some_time,
    mutated,
)
from tests.support.system import RunningProxy
from tests.support.wire import sqlstates, startup_packet

SSL = b"\0\0\0\x08\x04\xd2\x16\x2f"
GSS = b"\0\0\0\x08\x04\xd2\x16\x30"
CANCEL = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01abcd"

PACKETS = (
    LOGIN,
    SSL,
    GSS,
    CANCEL,
    SSL + LOGIN,
    GSS + SSL + LOGIN,
    startup_packet({"user": "postgres", "options": "-c work_mem=1MB -c search_path=a\\ b"}),
    startup_packet({"user": "postgres", "_pq_.x": "y", "replication": "true"}, 0x30002),
    startup_packet({"user": "x" * 300, "database": "\u00e9" * 50}),
    startup_packet({"user": "postgres", "application_name": "\u00e9'\\"}),
    startup_packet({}),
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),
)


@settings(max_examples=150)
@given(data=st.binary(max_size=80), pieces=st.integers(1, 10))
def test_any_bytes(gate: RunningProxy, data: bytes, pieces: int) -> None:
    check_messages(exchange(gate.port, data, pieces))


@settings(max_examples=150)
@given(
    parameters=st.dictionaries(
        st.sampled_from(["user", "database", "options", "client_encoding", "work_mem", "_pq_.a"])
        | st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=10),
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30),
        max_size=6,
    ),
    version=st.sampled_from([0x30000, 0x30002, 0x3FFFF, 0x20000, 0x40000, 0]),
)
def test_any_parameters(gate: RunningProxy, parameters: dict[str, str], version: int) -> None:
    data = startup_packet(parameters, version) + b"X\0\0\0\x04"
    check_messages(exchange(gate.port, data))


@settings(max_examples=200)
@given(packet=st.sampled_from(PACKETS), seed=st.integers(0, 2**32))
def test_damaged_packets(gate: RunningProxy, packet: bytes, seed: int) -> None:
    check_messages(exchange(gate.port, mutated(packet, random.Random(seed))))


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 10_001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_rule_06_startup_lengths(gate: RunningProxy, size: int) -> None:
    data = size.to_bytes(4, "big") + b"\0\3\0\0" + bytes(20_000)
    assert sqlstates(check_messages(exchange(gate.port, data))) in ([], ["08P01"])


def test_the_proxy_is_well_afterwards(gate: RunningProxy) -> None:
    assert_well(gate)


@pytest.mark.fuzz
def test_startup_for_long(gate: RunningProxy) -> None:
    def once(dice: random.Random) -> None:
        packet = b"".join(dice.choices(PACKETS, k=dice.randrange(1, 4)))
        check_messages(exchange(gate.port, mutated(packet, dice), dice.randrange(1, 6)))

    for_some_time(gate, once)
