"""
Lines that plugins log: cut, counted, limited in rate, kept in a ring, and followed.

Permission `log`. Each plugin has its own ring, so a talkative one cannot push out another's lines.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final, final

from proxy.plugins.host.guest import Guest

LEVELS: Final = ("trace", "debug", "info", "warn", "error")
"""Names of the levels 0 to 4 that guests give; others are taken as info."""

_SEVERITY: Final = (5, logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
_RING_LINES: Final = 500

# One line stays one line in whatever reads the log, and a terminal that shows it takes no orders.
_CONTROLS: Final = (*range(9), *range(10, 32), *range(127, 160), 0x2028, 0x2029)
_PLAIN: Final = dict.fromkeys(_CONTROLS, " ") | {0: ""}

logger = logging.getLogger("headgate.plugins")


@final
class LogLine:
    """One line: number (counts up in its plugin), Unix time in seconds, level, text."""

    __slots__ = ("level", "number", "text", "time_s")

    def __init__(self, number: int, time_s: float, level: str, text: str) -> None:
        self.number = number
        self.time_s = time_s
        self.level = level
        self.text = text


@final
class PluginLog:
    """The last lines of one plugin."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.lines: deque[LogLine] = deque(maxlen=_RING_LINES)
        self.written = 0
        self.dropped = 0
        self.line_bytes = 2048
        self.lines_per_second = 200
        self._window = 0
        self._in_window = 0
        self._followers: list[Callable[[LogLine], None]] = []

    def write(self, level: int, text: str) -> bool:
        """Take a line; False: dropped, over the rate."""
        now = time.time()
        window = int(now)
        if window != self._window:
            self._window = window
            self._in_window = 0
        if self._in_window >= self.lines_per_second:
            self.dropped += 1
            return False
        self._in_window += 1
        self.written += 1
        if not 0 <= level < len(LEVELS):
            level = 2
        text = text.translate(_PLAIN)
        line = LogLine(self.written, now, LEVELS[level], text)
        self.lines.append(line)
        severity = _SEVERITY[level]
        if logger.isEnabledFor(severity):
            logger.log(severity, "%s", text, extra={"plugin": self.plugin})
        for follower in tuple(self._followers):
            follower(line)
        return True

    def follow(self, follower: Callable[[LogLine], None]) -> Callable[[], None]:
        """Have `follower` called with each new line, maybe from a worker thread; returns the end."""
        self._followers.append(follower)

        def unfollow() -> None:
            if follower in self._followers:
                self._followers.remove(follower)

        return unfollow

    def last(self, count: int) -> list[LogLine]:
        """The last lines, oldest first."""
        return list(self.lines)[-count:] if count > 0 else []


@final
class PluginLogs:
    """The logs of all plugins; they outlive a plugin's generations."""

    def __init__(self) -> None:
        self._logs: dict[str, PluginLog] = {}

    def of(self, plugin: str) -> PluginLog:
        """The log of one plugin."""
        log = self._logs.get(plugin)
        if log is None:
            log = self._logs[plugin] = PluginLog(plugin)
        return log

    def forget(self, plugin: str) -> None:
        """Drop a plugin's lines."""
        self._logs.pop(plugin, None)

    def all(self) -> list[PluginLog]:
        """Every plugin's log."""
        return list(self._logs.values())


def log(guest: Guest, level: int, address: int, length: int) -> int:
    """log(level, ptr, len): 0, or 1 for a line dropped over the rate."""
    target = guest.services.logs.of(guest.plugin)
    data = guest.read(address, min(length, target.line_bytes))
    return 0 if target.write(level, data.decode("utf-8", "replace")) else 1
