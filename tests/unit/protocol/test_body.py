import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.protocol import body
from proxy.protocol.body import BodyReader
from tests.support import strategies


def test_integers_with_and_without_sign() -> None:
    reader = BodyReader(b"\xff\xfe\xff\xfe\xff\xff\xff\xfe\xff\xff\xff\xfe\x07")
    assert reader.take_int16() == -2
    assert reader.take_uint16() == 0xFFFE
    assert reader.take_int32() == -2
    assert reader.take_uint32() == 0xFFFFFFFE
    assert reader.left_bytes() == 1
    assert reader.take_byte() == 7
    reader.finish()


@given(strategies.int32s, strategies.int16s)
def test_integers_come_back(long: int, short: int) -> None:
    reader = BodyReader(body.int32(long) + body.int16(short))
    assert reader.take_int32() == long
    assert reader.take_int16() == short
    reader.finish()


@given(strategies.value_lists)
def test_values_come_back(values: list[bytes | None]) -> None:
    reader = BodyReader(body.counted_values(values))
    assert reader.take_values(reader.take_uint16()) == values
    reader.finish()


@given(st.lists(strategies.uint16s, max_size=8), st.lists(strategies.oids, max_size=8))
def test_lists_come_back(formats: list[int], oids: list[int]) -> None:
    reader = BodyReader(body.uint16_list(formats) + body.oid_list(oids))
    assert reader.take_uint16_list() == formats
    assert reader.take_oid_list() == oids
    reader.finish()


def test_a_string_ends_at_its_nul_and_the_rest_is_left() -> None:
    reader = BodyReader(b"abc\x00rest")
    assert reader.take_cstring() == b"abc"
    assert reader.take_bytes(2) == b"re"
    assert reader.take_rest() == b"st"
    reader.finish()


def test_what_does_not_fit_is_refused_in_postgresqls_words() -> None:
    with pytest.raises(ProtocolViolation, match="no data left in message"):
        BodyReader(b"").take_byte()
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        BodyReader(b"\x00").take_uint16()
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        BodyReader(b"\x00\x00\x00").take_uint32()
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        BodyReader(b"abc").take_bytes(4)
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        BodyReader(b"abc").take_bytes(-2)
    with pytest.raises(ProtocolViolation, match="invalid string in message"):
        BodyReader(b"abc").take_cstring()
    with pytest.raises(ProtocolViolation, match="invalid message format") as caught:
        BodyReader(b"x").finish()
    assert caught.value.sqlstate == "08P01"


def test_a_null_and_a_length_below_it() -> None:
    assert BodyReader(b"\xff\xff\xff\xff").take_value() is None
    with pytest.raises(ProtocolViolation, match="insufficient data"):
        BodyReader(b"\xff\xff\xff\xfe").take_value()


def test_a_frame_counts_its_length_but_not_its_tag() -> None:
    assert body.frame(0x51, b"x\x00") == b"Q\x00\x00\x00\x06x\x00"
    big = body.frame(0x64, bytes(70_000))
    assert big[1:5] == (70_004).to_bytes(4, "big")
