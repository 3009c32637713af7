"""
Counters and gauges that plugins keep with `metric_add` and `metric_set`.

Permission `metrics`. Names are Prometheus's, and bounded in number: a plugin cannot flood a scrape.
"""

import math
import re
from typing import Final, final

from proxy.plugins.host.guest import BAD_ARGUMENT, TOO_LARGE, Guest, HostFault

MAX_NAMES: Final = 100
_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,99}\Z")


@final
class PluginMetrics:
    """Values by plugin and name: (is_counter, value)."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, tuple[bool, float]]] = {}

    def add(self, plugin: str, name: str, delta: float) -> None:
        """Add to a counter, which never goes down."""
        if not math.isfinite(delta) or delta < 0:
            raise HostFault(BAD_ARGUMENT)
        values = self._checked(plugin, name)
        _, value = values.get(name, (True, 0.0))
        values[name] = (True, value + delta)

    def set(self, plugin: str, name: str, value: float) -> None:
        """Set a gauge."""
        if not math.isfinite(value):
            raise HostFault(BAD_ARGUMENT)
        self._checked(plugin, name)[name] = (False, value)

    def _checked(self, plugin: str, name: str) -> dict[str, tuple[bool, float]]:
        values = self._values.setdefault(plugin, {})
        if name not in values:
            if not _NAME.match(name):
                raise HostFault(BAD_ARGUMENT)
            if len(values) >= MAX_NAMES:
                raise HostFault(TOO_LARGE)
        return values

    def of(self, plugin: str) -> dict[str, tuple[bool, float]]:
        """What one plugin has, by name."""
        return dict(self._values.get(plugin, {}))

    def forget(self, plugin: str) -> None:
        """Drop a plugin's values."""
        self._values.pop(plugin, None)


def metric_add(guest: Guest, address: int, length: int, delta: float) -> int:
    """metric_add(name_ptr, name_len, delta): 0."""
    guest.services.metrics.add(guest.plugin, guest.read_text(address, length), float(delta))
    return 0


def metric_set(guest: Guest, address: int, length: int, value: float) -> int:
    """metric_set(name_ptr, name_len, value): 0."""
    guest.services.metrics.set(guest.plugin, guest.read_text(address, length), float(value))
    return 0
