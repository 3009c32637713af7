"""
SQL for plugins: permission `db.query`.

Runs through asyncpg on a small pool of its own, as the role that the operator names, READ ONLY
unless said otherwise, each query with its own time limit. Worker threads hand queries over to the
event loop and wait; the loop itself never does.
"""

import asyncio
import concurrent.futures
import datetime
import decimal
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any, Final, final

import asyncpg  # type: ignore[import-untyped]

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    DENIED,
    TIMED_OUT,
    TOO_LARGE,
    UNAVAILABLE,
    HostFault,
)
from proxy.plugins.host.services import QueryRunner
from proxy.pool.health import tls_of
from proxy.settings.model import Node
from proxy.settings.plugin_model import PluginQuery

logger = logging.getLogger("headgate.plugins")

MAX_ROWS: Final = 10_000
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_SQL_BYTES: Final = 64 * 1024
_SLACK_S: Final = 0.5


@final
class PgQueryRunner(QueryRunner):
    """
    Queries on the primary. `find_node` gives the node to ask, now; None: none. Its `[node.tls]` holds
    here as for clients: a password never goes to a server that they would not be sent to.
    """

    def __init__(
        self,
        settings: PluginQuery,
        find_node: Callable[[], Node | None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._settings = settings
        self._find_node = find_node
        self._loop = loop
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._pool_node: Node | None = None
        self._lock = asyncio.Lock()

    def run(self, plugin: str, sql: str, parameters: list[object]) -> bytes:
        """See QueryRunner."""
        if not self._settings.user:
            raise HostFault(UNAVAILABLE)
        if len(sql) > MAX_SQL_BYTES:
            raise HostFault(TOO_LARGE)
        if "\0" in sql:
            raise HostFault(BAD_ARGUMENT)
        waiting = asyncio.run_coroutine_threadsafe(self._run(plugin, sql, parameters), self._loop)
        try:
            return waiting.result(self._settings.timeout * 2 + _SLACK_S)
        except concurrent.futures.TimeoutError:
            waiting.cancel()
            raise HostFault(TIMED_OUT) from None

    async def _run(self, plugin: str, sql: str, parameters: list[object]) -> bytes:
        try:
            async with asyncio.timeout(self._settings.timeout):
                pool = await self._connected()
                async with pool.acquire() as connection:
                    return await self._answer(connection, sql, parameters)
        except TimeoutError:
            raise HostFault(TIMED_OUT) from None
        except asyncpg.QueryCanceledError:
            raise HostFault(TIMED_OUT) from None
        except (asyncpg.InsufficientPrivilegeError, asyncpg.ReadOnlySQLTransactionError) as error:
            logger.warning("plugin %s: query refused by the server: %s", plugin, error)
            raise HostFault(DENIED) from None
        except asyncpg.PostgresError as error:
            return json.dumps(
                {"error": {"sqlstate": error.sqlstate, "message": str(error)}}
            ).encode()
        except (asyncpg.InterfaceError, ValueError, TypeError) as error:
            logger.warning("plugin %s: query not run: %s", plugin, error)
            raise HostFault(BAD_ARGUMENT) from None
        except OSError as error:
            logger.warning("plugin %s: no server for its query: %s", plugin, error)
            raise HostFault(UNAVAILABLE) from None

    async def _connected(self) -> "asyncpg.Pool[asyncpg.Record]":
        async with self._lock:
            node = self._find_node()
            if node is None:
                raise HostFault(UNAVAILABLE)
            if self._pool is not None and node != self._pool_node:
                self._pool.terminate()
                self._pool = None
            if self._pool is None:
                settings = self._settings
                self._pool = await asyncpg.create_pool(
                    host=node.host,
                    port=node.port,
                    ssl=tls_of(node.tls),
                    direct_tls=node.tls.negotiation == "direct",
                    user=settings.user,
                    password=str(settings.password) or None,
                    database=settings.database,
                    min_size=0,
                    max_size=settings.pool_size,
                    timeout=settings.timeout,
                    statement_cache_size=0,
                    server_settings={
                        "application_name": "headgate plugin",
                        "statement_timeout": str(int(settings.timeout * 1000)),
                        "default_transaction_read_only": "on" if settings.read_only else "off",
                    },
                )
                self._pool_node = node
            return self._pool

    async def _answer(self, connection: Any, sql: str, parameters: list[object]) -> bytes:
        # One statement each, prepared: a second one behind a semicolon is an error of the server.
        async with connection.transaction(readonly=self._settings.read_only):
            if self._settings.role:
                # The query before this one, maybe another plugin's, may have left another.
                await connection.execute(f"SET LOCAL ROLE {_quoted(self._settings.role)}")
            statement = await connection.prepare(sql)
            given = [
                _as_parameter(value, kind.name)
                for value, kind in zip(parameters, statement.get_parameters(), strict=True)
            ]
            rows = await statement.fetch(*given) if statement.get_attributes() else []
            status = statement.get_statusmsg() if statement.get_attributes() else None
            if not statement.get_attributes():
                status = await connection.execute(sql, *given)
        if len(rows) > MAX_ROWS:
            raise HostFault(TOO_LARGE)
        columns = [attribute.name for attribute in statement.get_attributes()]
        answer = json.dumps(
            {
                "columns": columns,
                "rows": [[_as_json(value) for value in row.values()] for row in rows],
                "status": status,
            },
            ensure_ascii=False,
        ).encode()
        if len(answer) > MAX_ANSWER_BYTES:
            raise HostFault(TOO_LARGE)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        async with self._lock:
            if self._pool is not None:
                self._pool.terminate()
                self._pool = None


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _as_parameter(value: object, kind: str) -> object:
    """A JSON value as asyncpg wants it for a parameter of this type."""
    if value is None:
        return None
    if kind in ("json", "jsonb"):
        return json.dumps(value)
    if kind in ("text", "varchar", "bpchar", "name") and not isinstance(value, str):
        return json.dumps(value)
    if kind == "numeric" and isinstance(value, int | float | str):
        return decimal.Decimal(str(value))
    if isinstance(value, str):
        if kind in ("int2", "int4", "int8", "oid"):
            return int(value)
        if kind in ("float4", "float8"):
            return float(value)
        if kind in ("timestamp", "timestamptz"):
            return datetime.datetime.fromisoformat(value)
        if kind == "date":
            return datetime.date.fromisoformat(value)
        if kind == "uuid":
            return uuid.UUID(value)
        if kind == "bytea":
            return value.encode()
    return value


def _as_json(value: object) -> object:
    """A value of a row for JSON: what JSON has no type for is text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
