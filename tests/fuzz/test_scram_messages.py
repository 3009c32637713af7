"""SCRAM messages of any kind: 28P01 or 08P01, never a login, never more."""

import base64
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
from tests.support.wire import message, sqlstates

FIRST = b"n,,n=,r=rOprNGfwEbeRWgbNEkqO"
FINALS = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO,p=" + base64.b64encode(bytes(32)),
    b"c=biws,r=,p=",
    b"",
    b"e=other-error",
)
REFUSALS = ("28P01", "08P01", "28000", "22021", "0A000")


def initial(mechanism: bytes, data: bytes) -> bytes:
    return message(b"p", mechanism + b"\0" + len(data).to_bytes(4, "big") + data)


def refused(gate: RunningProxy, data: bytes) -> None:
    found = check_messages(exchange(gate.port, LOGIN + data))
    for tag, body in found:
        assert tag in b"REN", found
        assert not (tag == b"R" and body == b"\0\0\0\0"), "let in"
    assert all(state in REFUSALS for state in sqlstates(found)), found


def conversation(dice: random.Random) -> bytes:
    mechanism = dice.choice((b"SCRAM-SHA-256", b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-1", b""))
    first = FIRST if dice.random() < 0.5 else mutated(FIRST, dice)
    data = initial(mechanism, first)
    final = dice.choice(FINALS)
    data += message(b"p", final if dice.random() < 0.5 else mutated(final, dice))
    return data if dice.random() < 0.6 else mutated(data, dice)


@settings(max_examples=100)
@given(data=st.binary(max_size=100))
def test_any_first_message(scram_gate: RunningProxy, data: bytes) -> None:
    refused(scram_gate, initial(b"SCRAM-SHA-256", data))


@settings(max_examples=100)
@given(data=st.binary(max_size=100))
def test_any_password_message(scram_gate: RunningProxy, data: bytes) -> None:
    refused(scram_gate, message(b"p", data))


@settings(max_examples=150)
@given(seed=st.integers(0, 2**48))
def test_damaged_conversations(scram_gate: RunningProxy, seed: int) -> None:
    refused(scram_gate, conversation(random.Random(seed)))


def test_nothing_runs_before_the_login(scram_gate: RunningProxy) -> None:
    refused(scram_gate, message(b"Q", b"SELECT 1\0"))
    refused(scram_gate, initial(b"SCRAM-SHA-256", FIRST) + message(b"Q", b"SELECT 1\0"))


def test_the_proxy_is_well_afterwards(scram_gate: RunningProxy) -> None:
    assert scram_gate.process is not None
    assert scram_gate.process.poll() is None
    with scram_gate.connect(password="a password") as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    assert "Traceback" not in scram_gate.log_text()


@pytest.mark.fuzz
def test_scram_for_long(scram_gate: RunningProxy, gate: RunningProxy) -> None:
    for_some_time(gate, lambda dice: refused(scram_gate, conversation(dice)))
    assert_well(gate)
