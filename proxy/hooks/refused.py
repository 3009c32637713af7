"""
The last statements that plugins refused: who wanted what, and who said no.

For the question that every refusal brings: why was my query blocked? Bounded, kept by each worker
process, never written anywhere. Constants are not in it, nor any text that is not understood: what
a client sent may be a secret.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from proxy.errors import Refusal
from proxy.hooks.clearing import UNKNOWN_KIND
from proxy.session.inspection import Inspection

KEPT: Final = 200
TEXT_CHARACTERS: Final = 500


class RefusedStatements:
    """A ring of refusals, the newest at the end; `clock` gives seconds since the epoch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def add(self, inspection: Inspection, plugin: str, hook: str, refusal: Refusal) -> None:
        """Keep one; plugin and hook are "" where the operator's settings refuse."""
        client = inspection.client
        facts = inspection.facts
        is_known = facts.kind != UNKNOWN_KIND
        self._last.append(
            {
                "time_s": self._clock(),
                "client": client.client_id,
                "user": client.user,
                "identity": client.identity,
                "database": client.database,
                "client_addr": client.shown_addr,
                "application_name": client.application_name,
                "plugin": plugin,
                "hook": hook,
                "sqlstate": refusal.sqlstate,
                "message": refusal.message[:TEXT_CHARACTERS],
                "kind": facts.kind,
                "statement": facts.normalized[:TEXT_CHARACTERS] if is_known else None,
                "fingerprint": facts.fingerprint,
            }
        )

    def last(self) -> list[dict[str, Any]]:
        """All that are kept."""
        return list(self._last)
