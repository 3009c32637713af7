"""The shapes keep their types in every build: a union that decayed would fail every answer."""

import msgspec
import pytest

from proxy.hooks import shapes


def test_optional_fields_take_text_and_null() -> None:
    for name in ("value", "reason", "target", "sqlstate", "hint", "detail", "key"):
        for text, value in ((b'"x"', "x"), (b"null", None)):
            data = b'{"action":"a","%b":%b}' % (name.encode(), text)
            assert getattr(shapes.answer_decoder.decode(data), name) == value
        with pytest.raises(msgspec.ValidationError):
            shapes.answer_decoder.decode(b'{"action":"a","%b":1}' % name.encode())


def test_login_and_samples() -> None:
    login = shapes.login_decoder.decode(
        b'{"action":"success","identity":{"username":"a","roles":["b"],"claims":{"c":1}}}'
    )
    assert login.identity is not None
    assert login.identity.roles == ["b"]
    assert login.identity.claims == {"c": 1}
    (sample,) = shapes.samples_decoder.decode(b'[{"name":"a","type":"gauge","value":1}]')
    assert sample.labels == {}


def test_the_shapes_are_not_compiled() -> None:
    assert shapes.__file__.endswith(".py")
