"""
Secrets as a users file or a server's catalogue holds them, and clear passwords checked by them.

Three forms: a clear password, md5…, SCRAM-SHA-256$….
"""

import hmac
from typing import Final, final

from proxy.auth import md5, scram
from proxy.errors import ProtocolViolation

KIND_CLEAR: Final = 0
KIND_MD5: Final = 1
KIND_SCRAM: Final = 2
KIND_UNUSABLE: Final = 3


@final
class Secret:
    """
    A secret and what form it has.

    kind          KIND_*; unusable is one that looks like a SCRAM secret and is none: no password opens it
    text          as stored
    scram_secret  the parsed secret, with KIND_SCRAM
    """

    __slots__ = ("kind", "scram_secret", "text")

    def __init__(self, kind: int, text: str, scram_secret: scram.ScramSecret | None) -> None:
        self.kind = kind
        self.text = text
        self.scram_secret = scram_secret

    @staticmethod
    def parse(text: str) -> "Secret":
        """Tell the form of a stored secret. Never raises."""
        if text.startswith(scram.SECRET_PREFIX):
            try:
                return Secret(KIND_SCRAM, text, scram.ScramSecret.parse(text))
            except ProtocolViolation:
                # SAFETY: not a clear password that happens to look so: whoever can read the file
                # would have a password from it.
                return Secret(KIND_UNUSABLE, text, None)
        if md5.is_secret(text):
            return Secret(KIND_MD5, text, None)
        return Secret(KIND_CLEAR, text, None)

    def __repr__(self) -> str:
        if self.kind == KIND_CLEAR:
            return "Secret(clear)"
        if self.kind == KIND_MD5:
            return "Secret(md5)"
        return "Secret(scram)" if self.kind == KIND_SCRAM else "Secret(unusable)"


def verify_cleartext(secret: Secret, user: str, password: str) -> bool:
    """Check a clear password. An empty one is never right, as with PostgreSQL."""
    is_equal = False
    if secret.kind == KIND_SCRAM:
        if secret.scram_secret is not None:
            is_equal = scram.verify_password(secret.scram_secret, password)
    elif secret.kind == KIND_MD5:
        built = md5.build_secret(user, password)
        is_equal = hmac.compare_digest(built.encode("ascii"), secret.text.encode("ascii"))
    elif secret.kind == KIND_CLEAR:
        is_equal = hmac.compare_digest(
            password.encode("utf-8", "surrogateescape"),
            secret.text.encode("utf-8", "surrogateescape"),
        )
    return is_equal and password != ""
