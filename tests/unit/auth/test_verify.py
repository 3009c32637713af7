import pytest

from proxy.auth import md5, scram, verify
from proxy.auth.verify import Secret, verify_cleartext

SALT = b"0123456789abcdef"


def scram_text(password: str) -> str:
    """A SCRAM secret as stored; few iterations, for speed."""
    return scram.build_secret(password, SALT, 2).format()


def test_the_form_of_a_secret_tells_its_kind() -> None:
    assert Secret.parse("secret").kind == verify.KIND_CLEAR
    assert Secret.parse("").kind == verify.KIND_CLEAR
    assert Secret.parse("md5" + "0" * 32).kind == verify.KIND_MD5
    assert Secret.parse("md5" + "x" * 32).kind == verify.KIND_CLEAR
    parsed = Secret.parse(scram_text("secret"))
    assert parsed.kind == verify.KIND_SCRAM
    assert parsed.scram_secret is not None
    assert parsed.scram_secret.salt == SALT
    assert Secret.parse("SCRAM-SHA-256$nonsense").kind == verify.KIND_UNUSABLE


@pytest.mark.parametrize(
    "text", ["secret", md5.build_secret("alice", "secret"), scram_text("secret")]
)
def test_only_the_right_password_is_verified(text: str) -> None:
    secret = Secret.parse(text)
    assert verify_cleartext(secret, "alice", "secret")
    assert not verify_cleartext(secret, "alice", "Secret")
    assert not verify_cleartext(secret, "alice", "secret ")
    assert not verify_cleartext(secret, "alice", "")


def test_md5_depends_on_the_user() -> None:
    secret = Secret.parse(md5.build_secret("alice", "secret"))
    assert not verify_cleartext(secret, "bob", "secret")


@pytest.mark.parametrize("text", ["", md5.build_secret("alice", ""), scram_text("")])
def test_an_empty_password_is_never_right(text: str) -> None:
    assert not verify_cleartext(Secret.parse(text), "alice", "")


def test_a_damaged_scram_secret_is_no_clear_password() -> None:
    text = "SCRAM-SHA-256$nonsense"
    assert not verify_cleartext(Secret.parse(text), "alice", text)


def test_a_scram_secret_that_was_not_parsed_lets_nobody_in() -> None:
    assert not verify_cleartext(Secret(verify.KIND_SCRAM, "", None), "alice", "secret")


def test_passwords_that_are_no_utf8() -> None:
    assert verify_cleartext(Secret.parse("pa\udcff"), "alice", "pa\udcff")
    assert not verify_cleartext(Secret.parse("pa\udcff"), "alice", "pa\udcfe")


def test_a_secret_is_not_shown() -> None:
    shown = [
        repr(Secret.parse(text))
        for text in ("secret", "md5" + "0" * 32, scram_text("secret"), "SCRAM-SHA-256$x")
    ]
    assert shown == ["Secret(clear)", "Secret(md5)", "Secret(scram)", "Secret(unusable)"]
