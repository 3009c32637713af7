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
