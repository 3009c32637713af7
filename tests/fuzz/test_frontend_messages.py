"""Random streams of frontend messages behind a login, whole and damaged."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.protocol import frontend
from tests.support.fuzzing import (
    LOGIN,
    assert_well,
    check_messages,
    exchange,
    for_some_time,
    mutated,
)
from tests.support.system import RunningProxy
from tests.support.wire import message, sqlstates

TEXTS = (
    b"SELECT 1",
    b"SELECT $1::int",
    b"",
    b";;",
    b"SELECT 1; SELECT 2",
    b"BEGIN",
    b"COMMIT",
    b"ROLLBACK",
    b"SAVEPOINT s",
    b"SELECT 1/0",
    b"SET work_mem = '1MB'",
    b"SET LOCAL search_path = a",
    b"SET client_encoding = 'SJIS'",
    b"SET standard_conforming_strings = off",
    b"SELECT '\\'",
    b"COPY (SELECT 1) TO STDOUT",
    b"COPY fuzz_rows FROM STDIN",
    b"SELECT * FROM generate_series(1, 300)",
    b"PREPARE a AS SELECT 1",
    b"EXECUTE a",
    b"DEALLOCATE ALL",
    b"DISCARD ALL",
    b"CREATE TEMP TABLE IF NOT EXISTS fuzz_rows (x text)",
    b"LISTEN a",
    b"NOTIFY a",
    b"DECLARE c CURSOR WITH HOLD FOR SELECT 1",
    b"FETCH 1 FROM c",
    b"selec",
    b"SELECT 'caf\xc3\xa9'",
    b"SELECT '\xff\xfe'",
    b"/* comment */ LISTEN b -- more",
    b"\x01\x02\x03",
    b"DO $$BEGIN NULL; END$$",
)
VALUES: tuple[list[bytes | None], ...] = ([], [b"1"], [None], [b"1", b"x"])
NAMES = (b"", b"a", b"b", b"headgate_1", b"\xff")


def random_message(dice: random.Random) -> bytes:
    """One message; most are legal, some out of place, some broken inside."""
    kind = dice.randrange(17)
    name, portal, text = dice.choice(NAMES), dice.choice(NAMES), dice.choice(TEXTS)
    if kind < 3:
        return frontend.encode_query(text)
    if kind < 5:
        return frontend.Parse(name, text, dice.choice(([], [23], [0, 25]))).encode()
    if kind < 7:
        values = dice.choice(VALUES)
        return frontend.Bind(portal, name, [], values, dice.choice(([], [0], [1]))).encode()
    if kind < 9:
        return frontend.Execute(portal, dice.choice((0, 0, 1, 100))).encode()
    if kind == 9:
        return frontend.Describe(dice.choice((83, 80)), name).encode()
    if kind == 10:
        return frontend.Close(dice.choice((83, 80)), name).encode()
    if kind < 13:
        return frontend.SYNC
    if kind == 13:
        return frontend.FLUSH
    if kind == 14:
        return dice.choice((message(b"d", b"row\n"), message(b"c"), message(b"f", b"no\0")))
    if kind == 15:
        body = dice.choice((b"\0\0\x05\x78\0\0\0\0\0\0", b"\0\0", dice.randbytes(20)))
        return message(b"F", body)
    return message(
        bytes([dice.choice(b"PBDECHSQFdcfpX?\0\xff")]), dice.randbytes(dice.randrange(30))
    )


def stream(dice: random.Random) -> bytes:
    """A conversation after a login."""
    parts = [random_message(dice) for _ in range(dice.randrange(1, 25))]
    data = b"".join(parts)
    if dice.random() < 0.3:
        data = mutated(data, dice)
    return data


def run(gate: RunningProxy, dice: random.Random) -> None:
    data = LOGIN + stream(dice) + dice.choice((b"", frontend.SYNC + b"X\0\0\0\x04"))
    found = check_messages(exchange(gate.port, data, dice.choice((1, 1, 2, 7, 30))))
    # What the server itself could say is allowed; of the proxy's own only these.
    for state in sqlstates(found):
        assert state not in ("58000", "08006"), found


@settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**48))
def test_random_streams(gate: RunningProxy, seed: int) -> None:
    run(gate, random.Random(seed))


@pytest.mark.parametrize("length", [0, 3, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2_000_000])
@pytest.mark.parametrize("tag", [b"Q", b"P", b"B", b"d", b"S", b"?", b"\0"])
def test_rule_06_message_lengths(gate: RunningProxy, tag: bytes, length: int) -> None:
    data = LOGIN + tag + length.to_bytes(4, "big") + bytes(100)
    assert sqlstates(check_messages(exchange(gate.port, data))) == ["08P01"]


def test_the_proxy_is_well_afterwards(gate: RunningProxy) -> None:
    assert_well(gate)


@pytest.mark.fuzz
def test_streams_for_long(gate: RunningProxy) -> None:
    for_some_time(gate, lambda dice: run(gate, dice))
