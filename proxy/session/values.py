"""
Values of the usual types, from their text to their binary form, as PostgreSQL's send functions
make it.

For answers that plugins give as text and clients ask for in binary. What is not known here, or
does not read as the type, is None: never a guess.
"""

from datetime import UTC, date, datetime
from math import isinf
from struct import pack
from typing import Final

TEXT: Final = 25
BOOL: Final = 16
BYTEA: Final = 17
NAME: Final = 19
INT8: Final = 20
INT2: Final = 21
INT4: Final = 23
OID: Final = 26
JSON: Final = 114
XML: Final = 142
FLOAT4: Final = 700
FLOAT8: Final = 701
UNKNOWN: Final = 705
BPCHAR: Final = 1042
VARCHAR: Final = 1043
DATE: Final = 1082
TIMESTAMP: Final = 1114
TIMESTAMPTZ: Final = 1184
NUMERIC: Final = 1700
UUID: Final = 2950
JSONB: Final = 3802

# Types whose binary form is their text.
_TEXT_LIKE: Final = (TEXT, VARCHAR, BPCHAR, NAME, JSON, XML, UNKNOWN)

_NAMES: Final = {
    BOOL: "bool",
    BYTEA: "bytea",
    NAME: "name",
    INT8: "int8",
    INT2: "int2",
    INT4: "int4",
    OID: "oid",
    JSON: "json",
    XML: "xml",
    FLOAT4: "float4",
    FLOAT8: "float8",
    BPCHAR: "bpchar",
    VARCHAR: "varchar",
    DATE: "date",
    TIMESTAMP: "timestamp",
    TIMESTAMPTZ: "timestamptz",
    NUMERIC: "numeric",
    UUID: "uuid",
    JSONB: "jsonb",
}
_SIZES: Final = {
    BOOL: 1,
    INT2: 2,
    INT4: 4,
    OID: 4,
    FLOAT4: 4,
    DATE: 4,
    INT8: 8,
    FLOAT8: 8,
    TIMESTAMP: 8,
    TIMESTAMPTZ: 8,
    UUID: 16,
    NAME: 64,
}
_TRUE: Final = (b"t", b"true", b"y", b"yes", b"on", b"1")
_FALSE: Final = (b"f", b"false", b"n", b"no", b"off", b"0")
_SPECIAL_NUMERICS: Final = {"nan": 0xC000, "infinity": 0xD000, "-infinity": 0xF000}
_MAX_DIGITS: Final = 16_383
"""Of a numeric here: its binary form counts digits in 16 bits."""
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = date(2000, 1, 1).toordinal()


def type_size(oid: int) -> int:
    """pg_type.typlen of a type known here; -1 for the rest."""
    return _SIZES.get(oid, -1)


def type_name(oid: int) -> str:
    """A type's SQL name; text for those not known here."""
    return "pg_catalog." + _NAMES.get(oid, "text")


def binary(value: bytes, oid: int) -> bytes | None:
    """A value's binary form, or None where it is not known or the text does not fit the type."""
    if oid in _TEXT_LIKE:
        return value
    try:
        return _binary(value, oid)
    except (ValueError, OverflowError):
        return None


def _binary(value: bytes, oid: int) -> bytes | None:
    if oid == BOOL:
        word = value.strip().lower()
        if word in _TRUE:
            return b"\x01"
        return b"\x00" if word in _FALSE else None
    if oid == INT4 or oid == INT8 or oid == INT2 or oid == OID:
        return int(value).to_bytes(_SIZES[oid], "big", signed=oid != OID)
    text = value.decode()
    if oid == FLOAT8 or oid == FLOAT4:
        number = float(text)
        if isinf(number) and "inf" not in text.lower():
            return None
        return pack(">d" if oid == FLOAT8 else ">f", number)
    if oid == NUMERIC:
        return _numeric(text.strip().lower())
    if oid == BYTEA:
        return bytes.fromhex(text[2:]) if text[:2] == "\\x" else None
    if oid == UUID:
        raw = bytes.fromhex(text.strip().strip("{}").replace("-", ""))
        return raw if len(raw) == 16 else None
    if oid == JSONB:
        return b"\x01" + value
    if oid == DATE:
        return (date.fromisoformat(text).toordinal() - _EPOCH_DAY).to_bytes(4, "big", signed=True)
    if oid == TIMESTAMP or oid == TIMESTAMPTZ:
        return _timestamp(text, oid == TIMESTAMPTZ)
    return None


def _timestamp(text: str, has_zone: bool) -> bytes | None:
    """Microseconds since 2000. Without its zone, what a moment is depends on the session."""
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is not None) != has_zone:
        return None
    since = (moment if has_zone else moment.replace(tzinfo=UTC)) - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return microseconds.to_bytes(8, "big", signed=True)


def _numeric(text: str) -> bytes | None:
    """Digits to the base 10,000, how many of them stand before the point, and the decimal scale."""
    special = _SPECIAL_NUMERICS.get(text)
    if special is not None:
        # The scale of an infinity is what numeric_send gives it.
        return pack(">HhHh", 0, 0, special, 0 if text == "nan" else 0x20)
    is_negative = text[:1] == "-"
    mantissa, _, exponent = text[text[:1] in ("-", "+") :].partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = whole + fraction
    if not digits.isascii() or not digits.isdigit():
        return None
    scale = len(fraction) - (int(exponent) if exponent else 0)
    if abs(scale) > _MAX_DIGITS or len(digits) > _MAX_DIGITS:
        return None
    if scale < 0:
        digits += "0" * -scale
        scale = 0
    digits = digits.zfill(scale)
    whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :]
    whole = "0" * (-len(whole) % 4) + whole
    fraction += "0" * (-len(fraction) % 4)
    weight = len(whole) // 4 - 1
    together = whole + fraction
    groups = [int(together[at : at + 4]) for at in range(0, len(together), 4)]
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        return pack(">HhHh", 0, 0, 0, scale)
    head = pack(">HhHh", len(groups), weight, 0x4000 if is_negative else 0, scale)
    return head + b"".join([group.to_bytes(2, "big") for group in groups])
