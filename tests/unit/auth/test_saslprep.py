import pytest
from hypothesis import given

from proxy.auth.saslprep import prepare
from tests.support import strategies


@pytest.mark.parametrize(
    ("password", "expected"),
    [
        # RFC 4013, section 3, where PostgreSQL agrees.
        ("I\u00adX", b"IX"),
        ("user", b"user"),
        ("USER", b"USER"),
        ("\u00aa", b"a"),
        ("\u2168", b"IX"),
        # ASCII is never looked at, although RFC 4013 prohibits control characters.
        ("\x07", b"\x07"),
        ("", b""),
        # Spaces that are not ASCII; U+200B counts as one before it counts as nothing.
        ("pa\u00a0ss", b"pa ss"),
        ("pa\u200bss", b"pa ss"),
        ("\u3000\ufb01", b" fi"),
        # Right to left throughout.
        ("\u0627\u0031\u0628", "\u0627\u0031\u0628".encode()),
        ("\u0627", "\u0627".encode()),
    ],
)
def test_rule_32_prepared(password: str, expected: bytes) -> None:
    assert prepare(password) == expected


@pytest.mark.parametrize(
    "password",
    [
        "\u00ad",  # nothing left
        "\u0627\u0031",  # right to left, with a digit last
        "\u0031\u0627",  # and first
        "\u0627a\u0628",  # with a letter that runs from left to right
        "a\u0007\u00aa",  # C.2.1: control
        "a\u0085",  # C.2.2
        "a\ue000",  # C.3: private use
        "a\ufdd0",  # C.4: non-character
        "a\ufffc",  # C.6: inappropriate for plain text
        "a\u2ff0",  # C.7: inappropriate for canonical representation
        "a\u202a",  # C.8: changes display
        "a\U000e0041",  # C.9: tag
        "a\u0221",  # unassigned in Unicode 3.2
        "\U0001f600",  # likewise: an emoji
    ],
)
def test_rule_32_what_rfc_4013_refuses_is_used_as_it_is(password: str) -> None:
    assert prepare(password) == password.encode()


def test_bytes_that_are_no_utf8_are_used_as_they_are() -> None:
    assert prepare("pa\u00a0\udcff") == b"pa\xc2\xa0\xff"


@given(strategies.texts)
def test_any_text_can_be_prepared_and_stays_when_prepared_again(password: str) -> None:
    prepare(password)
    if password.isascii():
        assert prepare(password) == password.encode()
