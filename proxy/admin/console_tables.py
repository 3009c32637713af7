"""
The tables of SHOW, with PgBouncer's column names where it has them, so that its tools work.

What PgBouncer measures and this proxy does not is NULL. Columns of our own come after PgBouncer's.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy import __version__
from proxy.admin.console_result import INT8, TEXT, Column, Value
from proxy.settings.kinds import Secret
from proxy.settings.model import Settings

if TYPE_CHECKING:
    from proxy.admin.desk import Desk

Rows = list[list[Value]]
Table = tuple[list[Column], "Callable[[Desk], Awaitable[Rows]]"]

NOT_CHANGEABLE: Final = (
    "listen.host", "listen.port", "listen.unix_socket_dir", "listen.unix_socket_mode",
    "listen.backlog", "admin.host", "admin.port", "server.workers", "plugins.cache_dir",
    "plugins.outcome_queue", "kv.",
)  # fmt: skip

HELP: Final = (
    ("SHOW HELP|VERSION|STATE|CONFIG|LISTS|USERS", "about the proxy"),
    ("SHOW DATABASES|NODES|POOLS|SERVERS", "towards the servers"),
    ("SHOW CLIENTS|PINS", "who is connected, and whose connection cannot be shared"),
    ("SHOW STATS|STATS_TOTALS|STATS_AVERAGES|EVENTS", "what was counted"),
    ("SHOW PLUGINS|HOOKS", "plugins, and what their hooks did"),
    ("SHOW REFUSED", "the statements that plugins refused last: who, what, and why"),
    ("PAUSE [db]", "hand out no connection; returns when none is in use"),
    ("RESUME [db]", "end PAUSE or KILL"),
    ("RECONNECT [db]", "make server connections anew, each as soon as it is free"),
    ("KILL db", "end a database's server connections now, and pause it"),
    ("WAIT_CLOSE [db]", "return when RECONNECT has made all of them anew"),
    ("DISABLE|ENABLE db", "let no new client into a database, or let them in again"),
    ("KILL_CLIENT id", "end a client's connection now"),
    ("RELOAD", "read the configuration file again"),
    ("PLUGIN RELOAD [name]", "load a plugin anew, or what changed in the directory"),
    ("PLUGIN ENABLE|DISABLE|UNLOAD name", "take a plugin in or out"),
    ("SHUTDOWN", "drain and stop"),
)


def _columns(*names: str) -> list[Column]:
    """Columns; a name that ends in # is a number."""
    return [(name.rstrip("#"), INT8 if name.endswith("#") else TEXT) for name in names]


async def _help(desk: "Desk") -> Rows:
    del desk
    return [[command, meaning] for command, meaning in HELP]


async def _version(desk: "Desk") -> Rows:
    del desk
    return [[f"Headgate {__version__}"]]


async def _state(desk: "Desk") -> Rows:
    pools = await desk.pools()
    status = await desk.status()
    is_paused = bool(pools) and all(pool["is_paused"] for pool in pools)
    return [
        ["active", "no" if is_paused or status["is_draining"] else "yes"],
        ["paused", "yes" if is_paused else "no"],
        ["suspended", "no"],
        ["draining", "yes" if status["is_draining"] else "no"],
    ]


async def _pools(desk: "Desk") -> Rows:
    return [
        [
            row["database"], row["user"], row["cl_active"], row["cl_waiting"], 0, 0,
            row["sv_active"], 0, row["sv_held"], row["sv_idle"], 0, 0, row["sv_opening"],
            row["maxwait_us"] // 1_000_000, row["maxwait_us"] % 1_000_000, row["pool_mode"],
            row["node"], row["size"], row["is_paused"], row["last_error"],
        ]
        for row in await desk.pools()
    ]  # fmt: skip


async def _clients(desk: "Desk") -> Rows:
    return [
        [
            "C", row["user"], row["database"], _client_state(row), row["address"], None, None, None,
            _when(row["connected_at"]), None, row["wait_us"] // 1_000_000,
            row["wait_us"] % 1_000_000, 0, row["id"], _link(row["node"], row["server_pid"]),
            row["pid"], "TLS" if row["is_tls"] else "", row["application_name"],
            row["prepared_statements"], row["id"], row["transaction"], row["queries"],
            row["identity"], row["branch"], ",".join(row["pins"]),
        ]
        for row in await desk.rows("clients")
    ]  # fmt: skip


async def _servers(desk: "Desk") -> Rows:
    hosts = {row["name"]: row for row in await desk.nodes()}
    rows: Rows = []
    for row in await desk.rows("servers"):
        node = hosts.get(row["node"], {})
        rows.append(
            [
                "S", row["user"], row["database"], row["state"], node.get("host"), node.get("port"),
                None, None, _when(row["opened_at"]), None, 0, 0, row["is_stale"],
                _link(row["node"], row["server_pid"]), row["client"], row["server_pid"], None, None,
                row["prepared_statements"], _link(row["node"], row["server_pid"]), row["node"],
                row["transaction"], row["bytes_received"],
            ]
        )  # fmt: skip
    return rows


async def _databases(desk: "Desk") -> Rows:
    settings = desk.worker.settings
    pools = await desk.pools()
    rows: Rows = []
    for database in settings.database:
        nodes = [n for n in settings.node if not database.nodes or n.name in database.nodes]
        name = database.dbname or database.name
        its = [pool for pool in pools if database.name == "*" or pool["database"] == name]
        rows.append(
            [
                database.name, nodes[0].host if nodes else None, nodes[0].port if nodes else None,
                database.dbname or (None if database.name == "*" else database.name),
                database.user or None, database.pool_size or settings.pool.size,
                settings.pool.min_size, settings.pool.reserve_size,
                database.pool_mode or settings.pool.mode,
                database.max_connections or settings.pool.max_db_connections,
                sum(p["sv_active"] + p["sv_idle"] + p["sv_opening"] + p["sv_held"] for p in its),
                bool(its) and all(p["is_paused"] for p in its),
                database.name in desk.worker.limits.disabled,
                ",".join(node.name for node in nodes),
            ]
        )  # fmt: skip
    return rows


async def _nodes(desk: "Desk") -> Rows:
    return [
        [
            row["name"], row["host"], row["port"], "up" if row["is_up"] else "down", row["role"],
            row["configured_role"], row["lag_bytes"], row["weight"], row["active"],
            row["timeline"], int(row["since_s"]), row["last_error"],
        ]
        for row in await desk.nodes()
    ]  # fmt: skip


async def _users(desk: "Desk") -> Rows:
    admin = desk.worker.settings.admin
    names = {row["user"] for row in await desk.rows("clients")}
    names |= {row["user"] for row in await desk.pools()}
    names |= {*admin.console_users, *admin.stats_users}
    rows: Rows = []
    for name in sorted(names):
        console = "all" if name in admin.console_users else ""
        if not console and name in admin.stats_users:
            console = "show"
        rows.append([name, None, console])
    return rows


async def _lists(desk: "Desk") -> Rows:
    pools = await desk.pools()
    clients = await desk.rows("clients")
    servers = await desk.rows("servers")
    idle = sum(1 for row in servers if row["state"] == "idle")
    return [
        ["databases", len(desk.worker.settings.database)],
        ["users", len(await _users(desk))],
        ["pools", len(pools)],
        ["free_clients", None],
        ["used_clients", len(clients)],
        ["login_clients", None],
        ["free_servers", idle],
        ["used_servers", len(servers) - idle],
        ["nodes", len(desk.worker.settings.node)],
        ["plugins", len(await desk.plugins())],
    ]


async def _stats(desk: "Desk") -> Rows:
    uptime_s = max(1.0, (await desk.status())["uptime_s"])
    rows: Rows = []
    for row in await _stats_totals(desk):
        sums = [int(value or 0) for value in row[1:8]]
        transactions, queries = sums[0], sums[1]
        averages: list[Value] = [
            *(int(value / uptime_s) for value in sums[:4]),
            sums[4] // transactions if transactions else 0,
            *(value // queries if queries else 0 for value in sums[5:]),
        ]
        rows.append([*row[:8], *averages])
    return rows


async def _stats_averages(desk: "Desk") -> Rows:
    return [[row[0], *row[8:]] for row in await _stats(desk)]


async def _stats_totals(desk: "Desk") -> Rows:
    waits: dict[str, int] = {}
    for pool in await desk.pools():
        waits[pool["database"]] = waits.get(pool["database"], 0) + pool["wait_us"]
    rows: Rows = []
    names = {database.name: database.dbname for database in desk.worker.settings.database}
    for row in await desk.totals():
        wait_us = waits.get(names.get(row["database"]) or row["database"], 0)
        rows.append(
            [
                row["database"], row["transactions"], row["queries"], row["bytes_in"],
                row["bytes_out"], row["transaction_us"], row["query_us"], wait_us, row["clients"],
            ]
        )  # fmt: skip
    return rows


async def _config(desk: "Desk") -> Rows:
    defaults = dict(_flat(Settings(), ""))
    return [
        [
            key, value, defaults.get(key),
            "no" if key.startswith(NOT_CHANGEABLE) else "yes",
        ]
        for key, value in _flat(desk.worker.settings, "")
    ]  # fmt: skip


def _flat(value: object, key: str) -> list[tuple[str, str]]:
    if isinstance(value, msgspec.Struct):
        found = []
        for name in value.__struct_fields__:
            found += _flat(getattr(value, name), f"{key}.{name}" if key else name)
        return found
    if isinstance(value, dict):
        if key.endswith(".config"):
            # Nobody but the plugin knows which of these is a secret.
            return [(key, f"{len(value)} keys")]
        return [pair for name, item in value.items() for pair in _flat(item, f"{key}.{name}")]
    if isinstance(value, tuple) and value and isinstance(value[0], msgspec.Struct):
        return [
            pair
            for number, item in enumerate(value)
            for pair in _flat(item, f"{key}.{getattr(item, 'name', number)}")
        ]
    if isinstance(value, tuple):
        return [(key, ", ".join(map(str, value)))]
    if isinstance(value, Secret):
        return [(key, "***" if value else "")]
    if isinstance(value, bool):
        return [(key, "true" if value else "false")]
    return [(key, "" if value is None else str(value))]


async def _plugins(desk: "Desk") -> Rows:
    return [
        [
            row["name"], row["version"], row["status"], row["state"], row["generation"],
            row["priority"], ",".join(row["hooks"]), row["draining"], row["error"],
        ]
        for row in await desk.plugins()
    ]  # fmt: skip


async def _hooks(desk: "Desk") -> Rows:
    return [
        [
            row["name"], hook, stats["calls"], sum(stats["errors"].values()), stats["filtered"],
            stats["memoized"], stats["fuel"], stats["latency"]["p50_us"],
            stats["latency"]["p99_us"], stats["breaker"], _pairs(stats["decisions"]),
            _pairs(stats["errors"]),
        ]
        for row in await desk.plugins()
        for hook, stats in row["hook_stats"].items()
    ]  # fmt: skip


async def _pins(desk: "Desk") -> Rows:
    return [
        [row["id"], row["user"], row["database"], row["node"], row["server_pid"], reason]
        for row in await desk.rows("clients")
        for reason in row["pins"]
    ]


async def _refused(desk: "Desk") -> Rows:
    return [
        [
            _when(row["time_s"]), row["client"], row["user"], row["database"],
            row["application_name"], row["plugin"] or None, row["hook"] or None, row["sqlstate"],
            row["message"], row["statement"],
        ]
        for row in await desk.refused()
    ]  # fmt: skip


async def _events(desk: "Desk") -> Rows:
    events: dict[str, int] = (await desk.status())["events"]
    return [[cause, count] for cause, count in sorted(events.items())]


def _client_state(row: dict[str, Any]) -> str:
    state = str(row["state"])
    return "active" if state in ("idle", "busy", "applying", "probing") else state


def _when(unix_s: float | None) -> str | None:
    if unix_s is None:
        return None
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _link(node: str | None, pid: int | None) -> str | None:
    return f"{node}/{pid}" if node is not None and pid is not None else None


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


_SOCKET: Final = (
    "type", "user", "database", "state", "addr", "port#", "local_addr", "local_port#",
    "connect_time", "request_time", "wait#", "wait_us#", "close_needed#", "ptr", "link",
    "remote_pid#", "tls", "application_name", "prepared_statements#", "id",
)  # fmt: skip
_TOTALS: Final = (
    "database", "total_xact_count#", "total_query_count#", "total_received#", "total_sent#",
    "total_xact_time#", "total_query_time#", "total_wait_time#",
)  # fmt: skip

TABLES: Final[dict[str, Table]] = {
    "help": (_columns("command", "meaning"), _help),
    "version": (_columns("version"), _version),
    "state": (_columns("key", "value"), _state),
    "pools": (
        _columns(
            "database", "user", "cl_active#", "cl_waiting#", "cl_active_cancel_req#",
            "cl_waiting_cancel_req#", "sv_active#", "sv_active_cancel#", "sv_being_canceled#",
            "sv_idle#", "sv_used#", "sv_tested#", "sv_login#", "maxwait#", "maxwait_us#",
            "pool_mode", "node", "size#", "paused#", "last_error",
        ),
        _pools,
    ),
    "clients": (
        _columns(*_SOCKET, "transaction", "queries#", "identity", "branch", "pins"), _clients,
    ),
    "servers": (_columns(*_SOCKET, "node", "transaction", "bytes_received#"), _servers),
    "databases": (
        _columns(
            "name", "host", "port#", "database", "force_user", "pool_size#", "min_pool_size#",
            "reserve_pool_size#", "pool_mode", "max_connections#", "current_connections#",
            "paused#", "disabled#", "nodes",
        ),
        _databases,
    ),
    "nodes": (
        _columns(
            "name", "host", "port#", "state", "role", "configured_role", "lag_bytes#", "weight#",
            "active#", "timeline#", "since_s#", "last_error",
        ),
        _nodes,
    ),
    "users": (_columns("name", "pool_mode", "console"), _users),
    "lists": (_columns("list", "items#"), _lists),
    "stats": (
        _columns(
            *_TOTALS, "avg_xact_count#", "avg_query_count#", "avg_recv#", "avg_sent#",
            "avg_xact_time#", "avg_query_time#", "avg_wait_time#",
        ),
        _stats,
    ),
    "stats_totals": (
        _columns(
            "database", "xact_count#", "query_count#", "bytes_received#", "bytes_sent#",
            "xact_time#", "query_time#", "wait_time#", "clients#",
        ),
        _stats_totals,
    ),
    "stats_averages": (
        _columns(
            "database", "xact_count#", "query_count#", "bytes_received#", "bytes_sent#",
            "xact_time#", "query_time#", "wait_time#",
        ),
        _stats_averages,
    ),
    "config": (_columns("key", "value", "default", "changeable"), _config),
    "plugins": (
        _columns(
            "name", "version", "status", "state", "generation#", "priority#", "hooks",
            "draining#", "error",
        ),
        _plugins,
    ),
    "hooks": (
        _columns(
            "plugin", "hook", "calls#", "errors#", "filtered#", "memoized#", "fuel#", "p50_us#",
            "p99_us#", "breaker", "decisions", "errors_by_cause",
        ),
        _hooks,
    ),
    "pins": (_columns("client", "user", "database", "node", "server_pid#", "reason"), _pins),
    "events": (_columns("cause", "count#"), _events),
    "refused": (
        _columns(
            "time", "client", "user", "database", "application_name", "plugin", "hook", "sqlstate",
            "message", "statement",
        ),
        _refused,
    ),
}  # fmt: skip
"""Columns of each SHOW, and who makes its rows."""
