"""
What happened to the plugins: the last events, counts by kind, and one line of log each.
"""

import logging
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Final

logger = logging.getLogger("headgate.plugins")

LOADED: Final = "loaded"
REPLACED: Final = "replaced"
UNLOADED: Final = "unloaded"
ENABLED: Final = "enabled"
DISABLED: Final = "disabled"
UNCHANGED: Final = "unchanged"
FAILED: Final = "load_failed"
DRAIN_TIMEOUT: Final = "drain_timeout"
REMOVED: Final = "removed"

KINDS: Final = (LOADED, REPLACED, UNLOADED, ENABLED, DISABLED, FAILED, DRAIN_TIMEOUT, REMOVED)
_KEPT: Final = 200


@dataclass(frozen=True, slots=True)
class Event:
    """
    One thing that happened. Hashes are those of the module, shortened; cause and message are set
    for failures, and name plugin, file, reason and what was expected.
    """

    kind: str
    plugin: str
    time_s: float
    old_version: str = ""
    new_version: str = ""
    old_hash: str = ""
    new_hash: str = ""
    generation: int = 0
    cause: str = ""
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Events:
    """The last events and how many there were of each kind."""

    def __init__(self) -> None:
        self.last: deque[Event] = deque(maxlen=_KEPT)
        self.counts: dict[str, int] = dict.fromkeys(KINDS, 0)

    def add(self, kind: str, plugin: str, **details: Any) -> Event:
        """Record an event, and tell the log in one line."""
        event = Event(kind, plugin, time.time(), **details)
        self.last.append(event)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind in (FAILED, DRAIN_TIMEOUT):
            logger.error("plugin %s: %s: %s", plugin, kind, event.message)
        elif kind == REPLACED:
            logger.info(
                "plugin %s: replaced %s %s by %s %s, generation %d",
                plugin, event.old_version, event.old_hash, event.new_version, event.new_hash,
                event.generation,
            )  # fmt: skip
        else:
            logger.info(
                "plugin %s: %s %s %s",
                plugin, kind, event.new_version or event.old_version,
                event.new_hash or event.old_hash,
            )  # fmt: skip
        return event
