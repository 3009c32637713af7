"""
Answers of `pure` plugins, remembered.

A plugin that declares `pure = true` says that its answer depends on the statement's text and the
identity alone. One memo belongs to one generation of a plugin at one hook, so a reload starts with
an empty one. Bounded in entries and bytes. Knows nothing of what an answer means.
"""

from typing import Final, final

from proxy.hooks.answers import Answer
from proxy.session.context import ClientContext

MAX_ENTRIES: Final = 4096
MAX_TEXT_BYTES: Final = 4096
"""Longer texts are seldom sent twice, and would let a client fill 4,096 times the input limit."""


def identity_of(client: ClientContext) -> str:
    """Everything an `authenticate` hook or a login said about who this is."""
    if not client.roles and not client.tenant_id and not client.claims:
        return client.identity
    # NUL is in none of them: identity and claims went through JSON text checks.
    claims = "\0".join(f"{name}={value}" for name, value in sorted(client.claims.items()))
    return "\0\0".join((client.identity, client.tenant_id, "\0".join(client.roles), claims))


@final
class PureMemo:
    """
    Text and identity to answer, bounded by two halves.

    New entries go into the young half; when it is full it becomes the old one and what was old is
    forgotten. An entry found in the old half is young again. So what is used stays, with no order
    to keep up at each hit.
    """

    __slots__ = ("_half_entries", "_old", "_young")

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._half_entries = max(1, max_entries // 2)
        self._young: dict[tuple[bytes, str], Answer] = {}
        self._old: dict[tuple[bytes, str], Answer] = {}

    def find(self, text: bytes, client: ClientContext) -> Answer | None:
        """What the plugin answered to this text and identity, or None."""
        if client.roles or client.claims or client.tenant_id:
            key = (text, identity_of(client))
        else:
            key = (text, client.identity)
        answer = self._young.get(key)
        if answer is not None:
            return answer
        if self._old:
            answer = self._old.get(key)
            if answer is not None:
                self._keep(key, answer)
        return answer

    def remember(self, text: bytes, client: ClientContext, answer: Answer) -> None:
        """Keep an answer that was understood and permitted; a failed call is never kept."""
        if len(text) <= MAX_TEXT_BYTES and not answer.is_large:
            self._keep((text, identity_of(client)), answer)

    def _keep(self, key: tuple[bytes, str], answer: Answer) -> None:
        if len(self._young) >= self._half_entries:
            self._old = self._young
            self._young = {}
        self._young[key] = answer

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())
