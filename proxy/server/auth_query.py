"""
`auth.query`: ask a server for a user's secret, over a connection that does nothing else.

One asyncpg connection for each database that is asked in, opened when needed and replaced when it
breaks; no client's value but the user name, as a parameter, ever reaches it. Answers are kept and
forgotten by `auth.userstore`.
"""

import asyncio
import contextlib
import datetime
from collections.abc import Callable, Sequence
from typing import Final, Literal, final

import asyncpg  # type: ignore[import-untyped]
import structlog

from proxy.auth.userstore import FoundSecret, SecretLookup, UserStore
from proxy.errors import Refusal, Refused
from proxy.observe.counters import Counters
from proxy.server.tls import make_node_tls
from proxy.settings.model import Node, Settings

MAX_CONNECTIONS: Final = 8
"""Databases that a connection is kept for; the one used longest ago is closed first."""

_log = structlog.get_logger("headgate.auth_query")


@final
class AuthQuery(SecretLookup):
    """
    Looks up secrets as `[auth]` says.

    nodes  the servers to ask, best first, at this moment: the primary before standbys
    users  the users file, for query_user's own password
    """

    __slots__ = ("_connections", "_counters", "_locks", "_nodes", "_settings", "_users")

    def __init__(
        self,
        settings: Settings,
        users: UserStore,
        nodes: Callable[[], Sequence[Node]],
        counters: Counters,
    ) -> None:
        self._settings = settings
        self._users = users
        self._nodes = nodes
        self._counters = counters
        self._connections: dict[str, asyncpg.Connection[asyncpg.Record]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def look_up(self, user: str, database: str) -> FoundSecret | None:
        """Ask for a user's secret, in the configured database or the client's."""
        where = self._settings.auth.query_database or database
        timeout_s = self._settings.pool.connect_timeout
        try:
            async with asyncio.timeout(timeout_s):
                row = await self._ask(user, where)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            self._counters.count("auth_query_failed")
            _log.warning("auth.query failed", database=where, reason=str(error) or repr(error))
            raise Refused(
                Refusal("57P03", "the authentication query failed", hint="Try again later.")
            ) from None
        if row is None or len(row) < 2 or row[1] is None:
            return None
        return FoundSecret(str(row[1]), _unix_time_s(row[2]) if len(row) > 2 else 0.0, True)

    async def close(self) -> None:
        """Close all connections (idempotent)."""
        connections = list(self._connections.values())
        self._connections.clear()
        for connection in connections:
            await _close(connection)

    async def _ask(self, user: str, database: str) -> asyncpg.Record | None:
        lock = self._locks.setdefault(database, asyncio.Lock())
        async with lock:
            try:
                connection = await self._connection(database)
                # Twice, because a kept connection may have died unseen.
                try:
                    return await connection.fetchrow(self._settings.auth.query, user)
                except (OSError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError):
                    await self._drop(database)
                    connection = await self._connection(database)
                    return await connection.fetchrow(self._settings.auth.query, user)
            except BaseException:
                await self._drop(database)
                raise
            finally:
                if database not in self._connections:
                    self._locks.pop(database, None)

    async def _connection(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        held = self._connections.pop(database, None)
        if held is None or held.is_closed():
            if len(self._connections) >= MAX_CONNECTIONS:
                await self._drop(next(iter(self._connections)))
            held = await self._connect(database)
        self._connections[database] = held
        return held

    async def _connect(self, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        problem: Exception = OSError("there is no node to ask")
        for node in self._nodes():
            try:
                return await self._connect_to(node, database)
            except asyncpg.InvalidCatalogNameError:
                # Rule 31: a database that does not exist must look like one that does until the
                # client has proven who it is.
                fallback = self._settings.monitor.database
                if fallback == database:
                    raise
                return await self._connect_to(node, fallback)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                problem = error
        raise problem

    async def _connect_to(self, node: Node, database: str) -> "asyncpg.Connection[asyncpg.Record]":
        auth = self._settings.auth
        password = str(auth.query_password) or self._users.file_secret(auth.query_user) or None
        tls: object = make_node_tls(node.tls)
        how: Literal["prefer"] | object = "prefer" if node.tls.mode == "prefer" else tls or False
        return await asyncpg.connect(
            host=node.host,
            port=node.port,
            user=auth.query_user,
            password=password,
            database=database,
            ssl=how,
            direct_tls=node.tls.negotiation == "direct",
            timeout=self._settings.pool.connect_timeout,
            statement_cache_size=0,
            server_settings={"application_name": "headgate auth.query"},
        )

    async def _drop(self, database: str) -> None:
        connection = self._connections.pop(database, None)
        if connection is not None:
            await _close(connection)


async def _close(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        connection.terminate()


def _unix_time_s(value: object) -> float:
    """`VALID UNTIL` as Unix time; NULL and infinity are 0.0: for ever."""
    if not isinstance(value, datetime.datetime) or value.year >= 9999:
        return 0.0
    if value.tzinfo is None:
        value = value.replace(tzinfo=datetime.UTC)
    return value.timestamp()
