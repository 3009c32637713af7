"""Durations, sizes and environment references, both ways."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.settings.values import (
    MAX_DURATION_S,
    expand_environment,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("0s", 0.0),
        ("5us", 0.000005),
        ("5ms", 0.005),
        ("30s", 30.0),
        ("1.5s", 1.5),
        ("10m", 600.0),
        ("10min", 600.0),
        ("1h", 3600.0),
        ("1h30m", 5400.0),
        ("2d", 172800.0),
        ("100 ms", 0.1),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "-5s",
        "5 parsecs",
        "5s5",
        "1h 30m",
        "+1s",
        "1e3s",
        "nan",
        "٣s",
        "5S",
        "9" * 40,
    ],
)
def test_bad_durations_say_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match='such as "5ms"'):
        parse_duration(text)


def test_a_duration_of_centuries_is_a_mistake() -> None:
    assert parse_duration("3650d") == MAX_DURATION_S
    with pytest.raises(ValueError, match="at most 3650d"):
        parse_duration("3651d")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("256B", 256),
        ("64kB", 65536),
        ("64KiB", 65536),
        ("16MiB", 16 << 20),
        ("16MB", 16 << 20),
        ("1GB", 1 << 30),
        ("2TiB", 2 << 40),
        ("1 GB", 1 << 30),
        ("123", 123),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "B", "-1B", "1.5MiB", "1XB", "1 parsec", "1e3", "9" * 30])
def test_bad_sizes_say_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match='such as "64kB"'):
        parse_size(text)


def test_a_size_beyond_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="less than"):
        parse_size("9000000000000000000GB")


@given(st.integers(min_value=0, max_value=MAX_DURATION_S * 1_000_000))
def test_a_written_duration_reads_as_itself(microseconds: int) -> None:
    seconds = microseconds / 1_000_000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(min_value=0, max_value=1 << 62))
def test_a_written_size_reads_as_itself(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == size_bytes


@given(st.text())
def test_no_text_does_anything_but_parse_or_raise(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${B}z", "xoneytwoz"),
        ("${NONE:-else}", "else"),
        ("${NONE:-}", ""),
        ("${EMPTY:-else}", "else"),
        ("${EMPTY}", ""),
        ("${A:-else}", "one"),
        ("${NONE:-a:-b $c}", "a:-b $c"),
        ("$A $1 $ {A}", "$A $1 $ {A}"),
        ("$${A}", "${A}"),
        ("${NESTED}", "${A}"),
    ],
)
def test_environment(text: str, expanded: str) -> None:
    environ = {"A": "one", "B": "two", "EMPTY": "", "NESTED": "${A}"}
    assert expand_environment(text, environ) == expanded


def test_a_variable_that_is_not_set_is_an_error_with_its_name() -> None:
    with pytest.raises(ValueError, match="environment variable NOPE is not set"):
        expand_environment("a${NOPE}", {})


@pytest.mark.parametrize("text", ["${", "${A", "${A-b}", "${1}", "${}", "${A:b}"])
def test_what_only_looks_like_a_reference_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a variable"):
        expand_environment(text, {"A": "one"})
