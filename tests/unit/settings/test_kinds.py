"""Secrets are strings that do not show themselves."""

import msgspec

from proxy.settings.kinds import NO_SECRET, Secret


def test_a_secret_is_a_string_that_repr_hides() -> None:
    secret = Secret("hush")
    assert secret == "hush"
    assert secret.encode() == b"hush"
    assert repr(secret) == "'***'"
    assert "hush" not in repr([secret, {"x": secret}])


def test_no_secret_is_false_and_can_be_told_from_one() -> None:
    assert not NO_SECRET
    assert repr(NO_SECRET) == "''"


def test_a_struct_hides_its_secrets() -> None:
    class Holder(msgspec.Struct):
        password: Secret

    assert "hush" not in repr(Holder(Secret("hush")))
