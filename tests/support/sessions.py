"""For tests of session state: a proxy with few server connections, and whose turn they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.system import ProxyFactory, RunningProxy

Connection = psycopg.Connection[tuple[Any, ...]]


def few_connections(
    workspace: Workspace,
    primary: EmbeddedPostgres,
    standby: EmbeddedPostgres | None,
    name: str,
    size: int = 2,
    **sections: Any,
) -> ProxyFactory:
    """Make a factory of proxies with `size` connections for each pool."""
    nodes = [{"name": "pg1", "host": "127.0.0.1", "port": primary.port}]
    if standby is not None:
        nodes.append({"name": "pg2", "host": "127.0.0.1", "port": standby.port})
    base: dict[str, Any] = {
        "auth": {"method": "trust"},
        "pool": {"size": size, "connect_timeout": "3s", "wait_timeout": "5s"},
        "routing": {
            "check_interval": "200ms",
            "reads": "standby" if standby is not None else "primary",
        },
        "monitor": {"user": "postgres", "database": "postgres"},
        "node": nodes,
        "database": [{"name": "*"}],
    }
    return ProxyFactory(workspace, {**base, **sections}, name)


def one(connection: Connection, sql: str, *values: object) -> Any:
    """The first value that a statement answers."""
    row = connection.execute(sql, values or None).fetchone()
    return None if row is None else row[0]


def setting(connection: Connection, name: str) -> str | None:
    """What a setting is in this session; None: not known."""
    value: str | None = one(connection, f"SELECT current_setting('{name}', true)")
    return value


@contextmanager
def elsewhere(proxy: RunningProxy, connection: Connection) -> Iterator[int]:
    """
    Let a session's next statements run on another server connection than its last one.

    Another client holds that one in a transaction meanwhile. Gives the process id left behind.
    """
    pid: int = one(connection, "SELECT pg_backend_pid()")
    holders: list[Connection] = []
    try:
        while True:
            holder = proxy.connect(autocommit=False)
            holders.append(holder)
            if one(holder, "SELECT pg_backend_pid()") == pid:
                break
            assert len(holders) < 10, "the session is pinned"
        while len(holders) > 1:
            holders.pop(0).close()
        yield pid
    finally:
        for holder in holders:
            holder.close()
