import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth import scram_message
from proxy.auth.scram_message import AttributeReader
from proxy.errors import ProtocolViolation


def test_attributes_one_after_the_other() -> None:
    reader = AttributeReader(b"r=abc,x=,s=d=e")
    assert reader.take(b"r") == b"abc"
    assert reader.take_any() == (b"x", b"")
    assert not reader.is_at_end()
    assert reader.take(b"s") == b"d=e"
    assert reader.is_at_end()
    assert reader.peek() == b""


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", 'attribute "r" expected, but found ""'),
        (b"s=x", 'attribute "r" expected, but found "s"'),
        (b"r", 'expected character "=" for attribute "r"'),
        (b"r:x", 'expected character "=" for attribute "r"'),
        (b"\xff=x", 'attribute "r" expected, but found "0xff"'),
    ],
)
def test_an_attribute_that_is_not_there(message: bytes, reason: str) -> None:
    with pytest.raises(ProtocolViolation, match="^malformed SCRAM message: " + reason):
        AttributeReader(message).take(b"r")


@pytest.mark.parametrize("message", [b"", b"1=x", b"\x00=x", b"\xe9=x", b",r=x"])
def test_an_attribute_is_a_letter(message: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="attribute expected, but found invalid char"):
        AttributeReader(message).take_any()


def test_messages_are_neither_empty_nor_have_a_nul() -> None:
    scram_message.check_text(b"n,,")
    with pytest.raises(ProtocolViolation, match="the message is empty"):
        scram_message.check_text(b"")
    with pytest.raises(ProtocolViolation, match="message length does not match input length"):
        scram_message.check_text(b"n,\x00,")


def test_what_a_peer_sent_is_shown_printable_and_short() -> None:
    assert scram_message.printable(b"a\n\xff b") == "a0x0a0xff0x20b"
    assert len(scram_message.printable(b"x" * 10_000)) == scram_message.MAX_SHOWN_BYTES


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"", True), (b"!+-~", True), (b"a,b", False), (b"a b", False), (b"\x7f", False)],
)
def test_printable_as_rfc_5802_has_it(text: bytes, expected: bool) -> None:
    assert scram_message.is_printable(text) is expected


def test_names_are_escaped() -> None:
    assert scram_message.saslname("a=b,c") == b"a=3Db=2Cc"
    assert scram_message.saslname("é") == b"\xc3\xa9"


@pytest.mark.parametrize(
    ("digits", "count"),
    [
        (b"1", 1),
        (b"4096", 4096),
        (b"100", 100),
        (b"0004096", 4096),
        (b"4097", 0),
        (b"99999999999", 0),
        (b"0", 0),
        (b"", 0),
        (b"-1", 0),
        (b"+1", 0),
        (b"1 ", 0),
        (b"1e3", 0),
        (b"\xb2", 0),
    ],
)
def test_counts(digits: bytes, count: int) -> None:
    assert scram_message.count_of(digits, 4096) == count


@given(st.binary(max_size=64))
def test_base64_comes_back(data: bytes) -> None:
    assert scram_message.decode_base64(scram_message.encode_base64(data)) == data


@pytest.mark.parametrize("text", [b"a", b"YQ", b"YQ=", b"Y Q==", b"YQ==YQ==", b"\xff\xff\xff\xff"])
def test_what_is_not_base64(text: bytes) -> None:
    assert scram_message.decode_base64(text) == b""
