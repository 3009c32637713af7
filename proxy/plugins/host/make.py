"""
The services of this process, as the settings have them: which KV store, whether SQL and HTTP.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from proxy.plugins.host.http import AllowedHttp
from proxy.plugins.host.kv import KvBounds, KvStore, LocalKv
from proxy.plugins.host.kv_redis import RedisKv
from proxy.plugins.host.kv_shared import SharedKv
from proxy.plugins.host.query import PgQueryRunner
from proxy.plugins.host.services import Services
from proxy.settings.model import Node, Settings
from proxy.settings.plugin_model import Kv

FindNode = Callable[[], Node | None]


def make_kv(settings: Kv, shared_path: Path | None) -> KvStore:
    """A fleet's store where there is a url, else one of all worker processes, else of this one."""
    bounds = KvBounds(
        key_bytes=settings.max_key,
        value_bytes=settings.max_value,
        plugin_keys=settings.max_keys,
        total_bytes=settings.max_total,
    )
    if settings.url:
        return RedisKv(settings.url, settings.timeout, bounds)
    if shared_path is not None:
        return SharedKv(shared_path, bounds)
    return LocalKv(bounds)


def make_services(
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    find_node: FindNode | None = None,
    kv_path: Path | None = None,
) -> Services:
    """
    Everything for host functions. `find_node` gives the primary to ask for `db.query` (else the
    first node of the file), `kv_path` a file that all worker processes of the proxy open.
    """
    services = Services(kv=make_kv(settings.kv, kv_path))
    connect_services(services, settings, loop, find_node)
    return services


def connect_services(
    services: Services,
    settings: Settings,
    loop: asyncio.AbstractEventLoop,
    find_node: FindNode | None,
) -> None:
    """Make the parts that follow a reload of the settings: SQL and HTTP."""

    def first_node() -> Node | None:
        return settings.node[0] if settings.node else None

    query = settings.plugins.query
    services.queries = PgQueryRunner(query, find_node or first_node, loop) if query.user else None
    services.http = (
        AllowedHttp(settings.plugins.http) if settings.plugins.http.allow_hosts else None
    )
