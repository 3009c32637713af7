"""
What host functions reach: clock, randomness, logs, metrics, KV, cache, queries, HTTP.

One `Services` for all plugins of a process; passed in, so that tests and `headgate plugin test` can
give other ones.
"""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.plugins.host.cache import LocalCache
from proxy.plugins.host.kv import KvStore, LocalKv
from proxy.plugins.host.log import PluginLogs
from proxy.plugins.host.metrics import PluginMetrics


class QueryRunner(ABC):
    """Runs SQL for plugins; waits, so only worker threads may call it."""

    @abstractmethod
    def run(self, plugin: str, sql: str, parameters: list[object]) -> bytes:
        """JSON of the answer. Raises HostFault."""


class HttpFetcher(ABC):
    """Fetches from allow-listed hosts for plugins; waits, so only worker threads may call it."""

    @abstractmethod
    def fetch(self, plugin: str, request: bytes) -> bytes:
        """JSON of the response to a JSON request. Raises HostFault."""


def wall_clock_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Services:
    """Everything that host functions may be linked to."""

    logs: PluginLogs = field(default_factory=PluginLogs)
    metrics: PluginMetrics = field(default_factory=PluginMetrics)
    kv: KvStore = field(default_factory=LocalKv)
    cache: LocalCache = field(default_factory=LocalCache)
    queries: QueryRunner | None = None
    http: HttpFetcher | None = None
    now_us: Callable[[], int] = wall_clock_us
    random_bytes: Callable[[int], bytes] = secrets.token_bytes
