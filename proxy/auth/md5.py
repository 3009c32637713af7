"""
The md5 method: what a client answers, and how to check it.

Broken by design (whoever has the stored secret can log in), and here only because servers and
clients still use it. Both sides.
"""

import hashlib
import hmac
from typing import Final

SECRET_CHARACTERS: Final = 35
_PREFIX: Final = "md5"
_HEXADECIMAL: Final = "0123456789abcdef"


def build_secret(user: str, password: str) -> str:
    """What PostgreSQL stores: "md5" and the hash of password and user name."""
    material = password.encode("utf-8", "surrogateescape") + user.encode("utf-8", "surrogateescape")
    return _PREFIX + _digest(material)


def is_secret(text: str) -> bool:
    """Tell whether a text has the form of a stored md5 secret."""
    if len(text) != SECRET_CHARACTERS or not text.startswith(_PREFIX):
        return False
    return all(character in _HEXADECIMAL for character in text[len(_PREFIX) :])


def response(secret: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password, from a stored secret (see build_secret)."""
    inner = secret[len(_PREFIX) :].encode("ascii", "replace")
    return (_PREFIX + _digest(inner + salt)).encode("ascii")


def verify(secret: str, salt: bytes, answer: bytes) -> bool:
    """Check a client's answer against the stored secret."""
    is_equal = hmac.compare_digest(response(secret, salt), answer)
    return is_equal and is_secret(secret)


def _digest(material: bytes) -> str:
    # Not for security, so that it also works where policy forbids md5 for that.
    return hashlib.md5(material, usedforsecurity=False).hexdigest()
