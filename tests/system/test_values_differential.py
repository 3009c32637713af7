"""Binary forms of values are those that PostgreSQL itself sends for the same text."""

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.session import values

SAMPLES = {
    values.BOOL: ["t", "f", "true", "off", " yes "],
    values.INT2: ["0", "-32768", "32767"],
    values.INT4: ["7", "-2147483648"],
    values.INT8: ["9223372036854775807", "-1"],
    values.OID: ["0", "4294967295"],
    values.FLOAT4: ["1.5", "-0", "3.4028235e38", "Infinity", "0.1"],
    values.FLOAT8: ["0.1", "-1e-300", "1e308", "-Infinity", "12345.678"],
    values.NUMERIC: [
        *("0", "1", "-1", "10000", "9999", "0.1", "0.0001", "0.00001", "12345678.90", "-0.50"),
        *("100000000", "1e10", "1.5e-7", "1234.5e2", "0.00", "000123.4500", "NaN", "Infinity"),
        *(
            "-Infinity",
            "+5",
            ".5",
            "5.",
            "99999999999999999999999999.000000000001",
            "1" + "0" * 200,
        ),
    ],
    values.BYTEA: ["\\x", "\\x00ff10", "\\xDEADbeef"],
    values.UUID: ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"],
    values.JSON: ['{"a": 1}'],
    values.JSONB: ['{"a": 1}', "[1, 2]", '"x"'],
    values.DATE: ["2000-01-01", "1999-12-31", "2024-02-29", "9999-12-31", "0001-01-01"],
    values.TIMESTAMP: ["2024-02-29 12:34:56.789012", "1970-01-01 00:00:00", "2000-01-01 00:00:00"],
    values.TIMESTAMPTZ: [
        *("2024-02-29 12:34:56.789012+00", "1969-12-31 23:59:59+02", "2024-06-01 00:00:00-05:30"),
    ],
    values.TEXT: ["", "naïve"],
    values.VARCHAR: ["x"],
}


@pytest.mark.parametrize("oid", SAMPLES)
def test_the_binary_form_is_the_servers(primary: EmbeddedPostgres, oid: int) -> None:
    with psycopg.connect(primary.dsn()) as client:
        for text in SAMPLES[oid]:
            cursor = client.execute(
                f"SELECT %s::{values.type_name(oid)}", (text,), binary=True, prepare=False
            )
            assert cursor.pgresult is not None
            assert values.binary(text.encode(), oid) == cursor.pgresult.get_value(0, 0), text
        row = client.execute(
            "SELECT typlen, typname FROM pg_type WHERE oid = %s", (oid,)
        ).fetchone()
        assert row == (values.type_size(oid), values.type_name(oid).partition(".")[2])
