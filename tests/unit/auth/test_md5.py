import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth import md5
from tests.support import strategies


def test_a_secret_as_postgresql_stores_it() -> None:
    # As from: CREATE ROLE alice PASSWORD 'secret' with password_encryption = md5.
    expected = "md5" + hashlib.md5(b"secretalice").hexdigest()
    assert md5.build_secret("alice", "secret") == expected
    assert md5.build_secret("alice", "pa\udcff").startswith("md5")


def test_a_response_as_libpq_makes_it() -> None:
    secret = md5.build_secret("alice", "secret")
    expected = hashlib.md5(secret[3:].encode() + b"\x01\x02\x03\x04").hexdigest()
    assert md5.response(secret, b"\x01\x02\x03\x04") == b"md5" + expected.encode()


@given(strategies.passwords, strategies.passwords, st.binary(min_size=4, max_size=4))
def test_only_the_right_password_is_verified(user: str, password: str, salt: bytes) -> None:
    secret = md5.build_secret(user, password)
    answer = md5.response(secret, salt)
    assert md5.verify(secret, salt, answer)
    assert not md5.verify(md5.build_secret(user, password + "x"), salt, answer)
    assert not md5.verify(secret, salt, answer[:-1])
    assert not md5.verify(secret, salt, b"")


def test_what_is_no_secret_lets_nobody_in() -> None:
    # Even though the response fits what was hashed.
    answer = md5.response("not a secret", b"salt")
    assert not md5.verify("not a secret", b"salt", answer)


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("md5" + "0" * 32, True),
        ("md5" + "0123456789abcdef" * 2, True),
        ("md5" + "0123456789ABCDEF" * 2, False),
        ("md5" + "0" * 31, False),
        ("md5" + "0" * 33, False),
        ("md6" + "0" * 32, False),
        ("md5" + "\u0660" * 32, False),
        ("", False),
    ],
)
def test_the_form_of_a_secret(text: str, is_one: bool) -> None:
    assert md5.is_secret(text) is is_one
