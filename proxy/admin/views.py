"""
What one worker process looks like from outside, as rows of plain values.

The API, the page and the console show these; with several worker processes each makes its own, and
`admin.merging` makes one of them. Nothing here changes anything, and no secret is in it.
"""

import os
from typing import TYPE_CHECKING, Any, Final

import msgspec

from proxy import __version__
from proxy.observe.counters import Histogram
from proxy.observe.process import ProcessUse
from proxy.observe.totals import SUMS
from proxy.pool.assignment import SLOT_ACTIVE, SLOT_HELD, SLOT_IDLE, SLOT_OPENING, Slot
from proxy.routing.node import ROLE_NAMES
from proxy.server.clock import unix_time_s
from proxy.session.conversation import Conversation
from proxy.session.relay import STATE_NAMES, WAITING
from proxy.settings.kinds import Secret

if TYPE_CHECKING:
    from proxy.plugins.registry import HookView
    from proxy.server.worker import Worker

Row = dict[str, Any]

MASK: Final = "***"
SLOT_STATES: Final = {
    SLOT_OPENING: "opening",
    SLOT_ACTIVE: "active",
    SLOT_IDLE: "idle",
    SLOT_HELD: "held",
}
TRANSACTION_STATES: Final = {ord("I"): "idle", ord("T"): "in transaction", ord("E"): "failed"}


def status(worker: "Worker") -> Row:
    """The process as a whole."""
    counters = worker.counters
    use = ProcessUse()
    return {
        "worker": worker.index,
        "pid": os.getpid(),
        "version": __version__,
        "config": str(worker.config_path),
        "started_at": worker.started_at_s,
        "uptime_s": round(unix_time_s() - worker.started_at_s, 3),
        "is_ready": worker.is_ready,
        "is_draining": worker.is_draining,
        "clients": counters.clients_active,
        "logins": counters.clients_total,
        "queries": counters.queries,
        "blocked": counters.blocked,
        "errors": counters.errors,
        "cancels": counters.cancels,
        "routed_to_standby": counters.read_routed,
        "routed_to_primary": counters.write_routed,
        "bytes_in": counters.bytes_from_clients,
        "bytes_out": counters.bytes_to_clients,
        "resident_bytes": use.resident_bytes,
        "cpu_s": round(use.cpu_s, 3),
        "open_fds": use.open_fds,
        "query_latency": latency(counters.query_us),
        "events": dict(counters.by_cause),
        "sqlstates": dict(counters.sqlstates),
    }


def pools(worker: "Worker") -> list[Row]:
    """One row for each pool."""
    rows = []
    modes = {known.dbname or known.name: known.pool_mode for known in worker.settings.database}
    for report in worker.pools.stats():
        counters = report.counters
        rows.append(
            {
                "database": report.database,
                "user": report.user,
                "node": report.node,
                "cl_active": report.cl_active,
                "cl_waiting": report.cl_waiting,
                "sv_active": report.sv_active,
                "sv_idle": report.sv_idle,
                "sv_opening": report.sv_opening,
                "sv_held": report.sv_held,
                "size": report.size,
                "maxwait_us": report.maxwait_us,
                "is_paused": report.is_paused,
                "pool_mode": modes.get(report.database) or worker.settings.pool.mode,
                "waits": counters.waits,
                "wait_us": counters.wait_us,
                "logins": counters.logins,
                "login_failures": counters.login_failures,
                "last_error": report.last_error,
            }
        )
    return rows


def clients(worker: "Worker") -> list[Row]:
    """One row for each client that is logged in."""
    now_us = worker.clock.now_us()
    rows = []
    for connection in list(worker.connections):
        session = connection.session
        if session is not None:
            rows.append(_client(worker.index, session, now_us))
    return rows


def _client(worker_index: int, session: Conversation, now_us: int) -> Row:
    context = session.client
    link = session.link
    is_waiting = session.phase == WAITING and session.waiting_since_us > 0
    waits_us = now_us - session.waiting_since_us if is_waiting else 0
    return {
        "worker": worker_index,
        "id": context.client_id,
        "user": context.user,
        "database": context.database,
        "identity": context.identity,
        "branch": context.branch,
        "application_name": context.application_name,
        "address": context.client_addr,
        "is_tls": context.is_tls,
        "state": STATE_NAMES[session.phase],
        "transaction": TRANSACTION_STATES.get(session.status, ""),
        "connected_at": context.connected_at,
        "wait_us": waits_us,
        "queries": session.queries,
        "bytes_in": session.received_bytes,
        "bytes_out": session.sent_bytes,
        "pins": list(session.state.pins),
        "prepared_statements": len(session.intake.statements),
        "pid": session.key.process_id,
        "node": link.node if link is not None else None,
        "server_pid": link.process_id if link is not None else None,
    }


def totals(worker: "Worker") -> list[Row]:
    """Sums by database, over all clients of this worker that are or were here."""
    sums = {name: list(known) for name, known in worker.totals.by_database.items()}
    for connection in list(worker.connections):
        session = connection.session
        if session is not None:
            known = sums.setdefault(session.client.database, [0] * SUMS)
            known[0] += 1
            known[1] += session.queries
            known[2] += session.received_bytes
            known[3] += session.sent_bytes
            known[4] += session.transactions
            known[5] += session.query_us
            known[6] += session.transaction_us
    return [
        {
            "database": name,
            "clients": known[0],
            "queries": known[1],
            "bytes_in": known[2],
            "bytes_out": known[3],
            "transactions": known[4],
            "query_us": known[5],
            "transaction_us": known[6],
        }
        for name, known in sums.items()
    ]


def servers(worker: "Worker") -> list[Row]:
    """One row for each server connection."""
    now_s = worker.clock.now_us() / 1e6
    now_unix_s = unix_time_s()
    rows = []
    for pool in list(worker.pools.broker.registry.pools.values()):
        rows += [_server(worker.index, slot, now_s, now_unix_s) for slot in list(pool.slots)]
    return rows


def _server(worker_index: int, slot: Slot, now_s: float, now_unix_s: float) -> Row:
    link = slot.link
    pool = slot.pool
    session = link.user_session if link is not None else None
    client = session.client.client_id if isinstance(session, Conversation) else None
    return {
        "worker": worker_index,
        "database": pool.database,
        "user": pool.user,
        "node": pool.node.name,
        "state": SLOT_STATES.get(slot.state, "closed"),
        "transaction": TRANSACTION_STATES.get(link.status, "") if link is not None else "",
        "server_pid": link.process_id if link is not None else None,
        "opened_at": now_unix_s - (now_s - link.opened_at_s) if link is not None else None,
        "prepared_statements": len(link.prepared) if link is not None else 0,
        "bytes_received": link.bytes_received if link is not None else 0,
        "is_stale": slot.is_stale,
        "client": client,
    }


def nodes(worker: "Worker") -> list[Row]:
    """One row for each node, as this worker sees it."""
    now_s = worker.clock.now_us() / 1e6
    addresses = {node.name: (node.host, node.port) for node in worker.settings.node}
    rows = []
    for node in worker.pools.nodes.by_name.values():
        host, port = addresses.get(node.name, ("", 0))
        rows.append(
            {
                "name": node.name,
                "host": host,
                "port": port,
                "is_up": node.is_up,
                "role": ROLE_NAMES[node.role],
                "configured_role": ROLE_NAMES[node.configured_role]
                if node.configured_role
                else "auto",
                "lag_bytes": node.lag_bytes if node.lag_bytes >= 0 else None,
                "weight": node.weight,
                "active": node.active,
                "timeline": node.timeline,
                "since_s": round(now_s - node.since_s, 3),
                "last_error": node.last_error or None,
            }
        )
    return rows


def plugins(worker: "Worker") -> list[Row]:
    """One row for each plugin, with its counters at each hook."""
    stats = {view.plugin: view for view in worker.plugins.stats()}
    rows = []
    for summary in worker.plugins.list():
        view = stats.get(summary["name"])
        hooks = [_hook(hook) for hook in view.hooks] if view is not None else []
        rows.append({**summary, "hook_stats": {row.pop("hook"): row for row in hooks}})
    return rows


def plugin(worker: "Worker", name: str) -> Row:
    """One plugin in full. Raises LookupError."""
    found = worker.plugins.get(name)
    for view in worker.plugins.stats():
        if view.plugin == name:
            found["hook_stats"] = {row.pop("hook"): row for row in map(_hook, view.hooks)}
    found["worker"] = worker.index
    return found


def _hook(view: "HookView") -> Row:
    stats = view.stats
    return {
        "hook": view.hook,
        "calls": stats.calls,
        "filtered": stats.filtered,
        "memoized": stats.memoized,
        "errors": dict(stats.errors),
        "decisions": dict(stats.decisions),
        "fuel": stats.fuel,
        "breaker": view.breaker,
        "breaker_opened": view.breaker_opened,
        "latency": latency(stats.latency),
    }


def latency(histogram: Histogram) -> Row:
    """Sums of a histogram, from which `merging.with_quantiles` makes what people read."""
    return {
        "count": histogram.count,
        "sum_us": round(histogram.sum_us, 3),
        "buckets": list(histogram.buckets),
        "bounds_us": histogram.bounds_us,
    }


def config(worker: "Worker") -> Row:
    """The settings in use, without secrets."""
    masked = _masked(worker.settings)
    for override in masked["plugins"]["settings"].values():
        # Nobody but the plugin knows which of these is a secret.
        override["config"] = _without_texts(override["config"])
    result: Row = masked
    return result


def _masked(value: object) -> Any:
    if isinstance(value, Secret):
        return MASK if value else ""
    if isinstance(value, msgspec.Struct):
        return {name: _masked(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {str(key): _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_texts(item) for item in value]
    return MASK if isinstance(value, str) and value else value


def refused(worker: "Worker") -> list[Row]:
    """The statements that were refused last, the newest at the end."""
    return worker.refused.last()


def events(worker: "Worker") -> list[Row]:
    """What happened to the plugins last, the newest at the end."""
    return [event.as_dict() for event in list(worker.plugins.events.last)]
