"""
The JSON shapes of what plugins answer, for `answers` to understand.

Never to be compiled: msgspec reads the annotations at run time, and mypyc keeps of `str | None`
only that it is a type. A compiled shape would make every answer a failed call.
"""

import msgspec


class RawAnswer(msgspec.Struct):
    """Every field that an answer of a statement hook may have."""

    action: str
    value: str | None = None
    reason: str | None = None
    target: str | None = None
    sqlstate: str | None = None
    hint: str | None = None
    detail: str | None = None
    key: str | None = None
    max_age_ms: int | None = None
    ttl_ms: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


answer_decoder = msgspec.json.Decoder(RawAnswer)


class RawIdentity(msgspec.Struct):
    """Who somebody is, of an `authenticate` answer."""

    username: str
    user_id: str = ""
    roles: list[str] = []
    tenant_id: str | None = None
    claims: dict[str, object] = {}


class RawLogin(msgspec.Struct):
    """Every field that an answer of `authenticate` may have."""

    action: str
    identity: RawIdentity | None = None
    message: str | None = None


class RawSample(msgspec.Struct):
    """One sample of `metrics`."""

    name: str
    type: str
    value: float
    labels: dict[str, str] = {}


login_decoder = msgspec.json.Decoder(RawLogin)
samples_decoder = msgspec.json.Decoder(list[RawSample])
