"""
Everything that /metrics shows, read from one worker process at the moment of a scrape.

`snapshot` gives the families of this process. With several worker processes each makes its own,
`observe.families.merge` makes one of them, and `observe.exposition.expose` writes that down.
"""

import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from proxy import __version__
from proxy.observe.families import COUNTER, GAUGE, HISTOGRAM, Families, Family
from proxy.observe.plugin_metrics import hook_families, own_families, plugin_families
from proxy.observe.process import ProcessUse
from proxy.routing.node import ROLE_NAMES

if TYPE_CHECKING:
    from proxy.hooks.answers import Sample as PluginSample
    from proxy.pool.upkeep import PoolReport
    from proxy.routing.node import Node
    from proxy.server.worker import Worker

NO_SAMPLES: Final[Mapping[str, Sequence["PluginSample"]]] = {}


def snapshot(
    worker: "Worker", samples: Mapping[str, Sequence["PluginSample"]] = NO_SAMPLES
) -> Families:
    """All families of this worker process; `samples` is what the hook `metrics` gave."""
    views = worker.plugins.stats()
    return [
        *client_families(worker),
        *statement_families(worker),
        *pool_families(worker.pools.stats()),
        *node_families(list(worker.pools.nodes.by_name.values())),
        *hook_families(views),
        *plugin_families(views),
        *own_families(views, samples, worker.counters),
        _plugin_events(worker),
        # After everything that may count an event while it is read.
        _events(worker),
        *process_families(worker),
    ]


def client_families(worker: "Worker") -> Families:
    """Who is connected, and how much went through."""
    counters = worker.counters
    connected = Family("headgate_client_connections", GAUGE, "Clients that are logged in.")
    connected.add(counters.clients_active)
    limit = Family(
        "headgate_client_connections_limit", GAUGE, "pool.max_client_connections.", "max"
    )
    limit.add(worker.settings.pool.max_client_connections)
    logins = Family("headgate_client_logins", COUNTER, "Logins of clients that succeeded.")
    logins.add(counters.clients_total)
    transferred = Family("headgate_client_bytes", COUNTER, "Bytes from (in) and to (out) clients.")
    transferred.add(counters.bytes_from_clients, direction="in")
    transferred.add(counters.bytes_to_clients, direction="out")
    cancels = Family("headgate_cancel_requests", COUNTER, "Cancel requests with a right key.")
    cancels.add(counters.cancels)
    return [connected, limit, logins, transferred, cancels]


def statement_families(worker: "Worker") -> Families:
    """Queries, their time, what was refused, and where they went."""
    counters = worker.counters
    queries = Family("headgate_queries", COUNTER, "Queries and Sync groups that were completed.")
    queries.add(counters.queries)
    duration = Family(
        "headgate_query_duration_seconds", HISTOGRAM, "From the first message to ReadyForQuery."
    )
    duration.add_histogram(counters.query_us)
    blocked = Family("headgate_blocked", COUNTER, "Statements that plugins blocked.")
    blocked.add(counters.blocked)
    errors = Family("headgate_errors", COUNTER, "Errors that clients were sent, by SQLSTATE.")
    for sqlstate, count in sorted(counters.sqlstates.items()):
        errors.add(count, sqlstate=sqlstate)
    routed = Family("headgate_routed", COUNTER, "Server connections given out, by kind of node.")
    routed.add(counters.read_routed, target="standby")
    routed.add(counters.write_routed, target="primary")
    classified = Family(
        "headgate_classifier_lookups", COUNTER, "Statement texts, found in the cache or analysed."
    )
    classified.add(worker.classifier.hits, result="hit")
    classified.add(worker.classifier.misses, result="miss")
    outcomes = Family(
        "headgate_outcome_queue_length", GAUGE, "Outcomes that plugins are still to be told of."
    )
    outcomes.add(len(worker.outcomes))
    return [queries, duration, blocked, errors, routed, classified, outcomes]


def pool_families(reports: "Sequence[PoolReport]") -> Families:
    """Per pool, which is a database, user and node as they are called on the server."""
    size = Family("headgate_pool_size", GAUGE, "Server connections that it may have.")
    servers = Family(
        "headgate_pool_server_connections", GAUGE, "Server connections by what they do."
    )
    clients = Family("headgate_pool_clients_active", GAUGE, "Clients that have a connection.")
    waiting = Family("headgate_pool_clients_waiting", GAUGE, "Clients that wait for one.")
    longest = Family(
        "headgate_pool_max_wait_seconds", GAUGE, "How long the first in the queue waits.", "max"
    )
    paused = Family("headgate_pool_paused", GAUGE, "1: paused by an administrator.", "max")
    waits = Family("headgate_pool_waits", COUNTER, "Waits for a connection that were served.")
    wait_s = Family("headgate_pool_wait_seconds", COUNTER, "Time of those waits.")
    logins = Family("headgate_pool_logins", COUNTER, "Server connections that were made.")
    failures = Family(
        "headgate_pool_login_failures", COUNTER, "Server connections that could not be made."
    )
    for report in reports:
        labels = {"database": report.database, "user": report.user, "node": report.node}
        counters = report.counters
        size.add(report.size, **labels)
        servers.add(report.sv_active, **labels, state="active")
        servers.add(report.sv_idle, **labels, state="idle")
        servers.add(report.sv_opening, **labels, state="opening")
        servers.add(report.sv_held, **labels, state="held")
        clients.add(report.cl_active, **labels)
        waiting.add(report.cl_waiting, **labels)
        longest.add(report.maxwait_us / 1e6, **labels)
        paused.add(report.is_paused, **labels)
        waits.add(counters.waits, **labels)
        wait_s.add(counters.wait_us / 1e6, **labels)
        logins.add(counters.logins, **labels)
        failures.add(counters.login_failures, **labels)
    return [size, servers, clients, waiting, longest, paused, waits, wait_s, logins, failures]


def node_families(nodes: "Sequence[Node]") -> Families:
    """Per node: does it answer, what is it, how far behind."""
    up = Family("headgate_node_up", GAUGE, "1: it answered when it was last asked.", "min")
    lag = Family(
        "headgate_node_lag_bytes", GAUGE, "How far a standby's replay is behind, if known.", "max"
    )
    active = Family("headgate_node_connections_active", GAUGE, "Server connections in use.")
    for node in nodes:
        up.add(node.is_up, node=node.name, role=ROLE_NAMES[node.role])
        if node.lag_bytes >= 0:
            lag.add(node.lag_bytes, node=node.name)
        active.add(node.active, node=node.name)
    return [up, lag, active]


def process_families(worker: "Worker") -> Families:
    """The worker process itself, each under its number."""
    use = ProcessUse()
    name = str(worker.index)
    info = Family("headgate_build_info", GAUGE, "1; its labels are the versions.", "max")
    info.add(1, version=__version__, python=platform.python_version())
    ready = Family("headgate_ready", GAUGE, "1: this worker takes clients.", "max")
    ready.add(worker.is_ready, worker=name)
    draining = Family("headgate_draining", GAUGE, "1: this worker is shutting down.", "max")
    draining.add(worker.is_draining, worker=name)
    started = Family(
        "headgate_process_start_time_seconds", GAUGE, "When it started, Unix time.", "max"
    )
    started.add(worker.started_at_s, worker=name)
    cpu = Family("headgate_process_cpu_seconds", COUNTER, "User and system time.")
    cpu.add(use.cpu_s, worker=name)
    resident = Family("headgate_process_resident_memory_bytes", GAUGE, "Resident memory.")
    resident.add(use.resident_bytes, worker=name)
    families = [info, ready, draining, started, cpu, resident]
    if use.open_fds >= 0:
        open_fds = Family("headgate_process_open_fds", GAUGE, "Open file descriptors.")
        open_fds.add(use.open_fds, worker=name)
        families.append(open_fds)
    max_fds = Family("headgate_process_max_fds", GAUGE, "Limit of open file descriptors.")
    max_fds.add(use.max_fds, worker=name)
    tasks = Family("headgate_tasks", GAUGE, "Tasks that run beside the sockets' callbacks.")
    tasks.add(len(worker.tasks), worker=name)
    return [*families, max_fds, tasks]


def _plugin_events(worker: "Worker") -> Family:
    events = Family(
        "headgate_plugin_events", COUNTER, "What happened to plugins: loaded, replaced, failed."
    )
    for kind, count in sorted(worker.plugins.events.counts.items()):
        events.add(count, kind=kind)
    return events


def _events(worker: "Worker") -> Family:
    events = Family(
        "headgate_events",
        COUNTER,
        "Everything refused, dropped, lost or retried, under one word each.",
    )
    for cause, count in sorted(worker.counters.by_cause.items()):
        events.add(count, cause=cause)
    return events
