"""
One line of log for each change that somebody asked for: who, what, and how it went.
"""

import time
from collections import deque
from typing import Any, Final, final

import structlog

_KEPT: Final = 200
_log = structlog.get_logger("headgate.audit")


@final
class Audit:
    """Writes the lines, and keeps the last ones for the page."""

    def __init__(self) -> None:
        self.last: deque[dict[str, Any]] = deque(maxlen=_KEPT)

    def note(self, who: str, source: str, action: str, target: str, result: str) -> None:
        """
        Note a change. `who`: a console user, "token" or "local"; `source`: the address; `result`:
        "ok", or why not.
        """
        line = {"who": who, "from": source, "action": action, "target": target, "result": result}
        self.last.append({"time_s": time.time(), **line})
        if result == "ok":
            _log.info("audit", **line)
        else:
            _log.warning("audit", **line)
