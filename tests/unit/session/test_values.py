"""What is no value of its type has no binary form; the right ones are compared with a server's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session import values


@pytest.mark.parametrize(
    ("text", "oid"),
    [
        ("maybe", values.BOOL),
        ("", values.BOOL),
        ("40000", values.INT2),
        ("-1", values.OID),
        ("1.5", values.INT4),
        ("x", values.FLOAT8),
        ("1e400", values.FLOAT4),
        ("", values.NUMERIC),
        ("1.2.3", values.NUMERIC),
        ("1e99999", values.NUMERIC),
        ("--1", values.NUMERIC),
        ("٣", values.NUMERIC),
        ("ff", values.BYTEA),
        ("\\xf", values.BYTEA),
        ("a0eebc99", values.UUID),
        ("2024-13-01", values.DATE),
        ("2024-01-01 00:00:00+00", values.TIMESTAMP),
        ("2024-01-01 00:00:00", values.TIMESTAMPTZ),
        ("infinity", values.TIMESTAMP),
        ("{1,2}", 1007),
    ],
)
def test_what_has_no_binary_form(text, oid):
    assert values.binary(text.encode(), oid) is None


def test_a_type_that_is_not_known_is_text_in_sql():
    assert values.type_name(1007) == "pg_catalog.text"
    assert values.type_size(1007) == -1
    assert values.binary(b"\xff", values.NUMERIC) is None


@given(st.binary(max_size=40), st.sampled_from(sorted(values._NAMES)))
def test_any_bytes_give_a_form_or_none(data, oid):
    form = values.binary(data, oid)
    size = values.type_size(oid)
    assert form is None or size < 0 or oid == values.NAME or len(form) == size


@pytest.mark.parametrize(
    ("text", "oid", "form"),
    [
        ("yes", values.BOOL, "01"),
        (" F ", values.BOOL, "00"),
        ("-2", values.INT2, "fffe"),
        ("4294967295", values.OID, "ffffffff"),
        ("1.5", values.FLOAT8, "3ff8000000000000"),
        ("-Infinity", values.FLOAT4, "ff800000"),
        ("\\x00ff", values.BYTEA, "00ff"),
        ("{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", values.UUID, "a0eebc999c0b4ef8bb6d6bb9bd380a11"),
        ('{"a":1}', values.JSONB, "01" + b'{"a":1}'.hex()),
        ("2000-01-02", values.DATE, "00000001"),
        ("1999-12-31", values.DATE, "ffffffff"),
        ("2000-01-01 00:00:00.000001", values.TIMESTAMP, "0000000000000001"),
        ("2000-01-01 01:00:00+01", values.TIMESTAMPTZ, "0000000000000000"),
        ("NaN", values.NUMERIC, "00000000c0000000"),
        ("Infinity", values.NUMERIC, "00000000d0000020"),
        ("0.00", values.NUMERIC, "0000000000000002"),
        ("1", values.NUMERIC, "00010000000000000001"),
        ("-12345.678", values.NUMERIC, "0003000140000003000109291a7c"),
        ("+1e5", values.NUMERIC, "0001000100000000000a"),
        ("100000000", values.NUMERIC, "00010002000000000001"),
        ("0.0001", values.NUMERIC, "0001ffff000000040001"),
    ],
)
def test_binary_forms(text, oid, form):
    assert values.binary(text.encode(), oid) == bytes.fromhex(form)
