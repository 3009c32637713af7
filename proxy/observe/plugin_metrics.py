"""
Metrics about plugins, and plugins' own metrics.

Own metrics come from the host functions `metric_add` and `metric_set` and from the hook `metrics`.
They are exported as `headgate_plugin_<name>` with the label `plugin`. A plugin can take neither a
name of the proxy's own nor another plugin's under a different type, and no more than MAX_SERIES.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from proxy.observe.families import COUNTER, GAUGE, HISTOGRAM, Families, Family, Kind

if TYPE_CHECKING:
    from proxy.hooks.answers import Sample as PluginSample
    from proxy.observe.counters import Counters
    from proxy.plugins.registry import PluginView

PREFIX: Final = "headgate_plugin_"
MAX_SERIES: Final = 1000
"""Series of one plugin's own metrics."""
MAX_NAME: Final = 100
MAX_LABELS: Final = 10

STATES: Final = ("Loaded", "Linked", "Initialized", "Active", "Draining", "Removed")
BREAKERS: Final = {"closed": 0.0, "half-open": 1.0, "open": 2.0}

_OTHER: Final = re.compile(r"[^a-zA-Z0-9_]")


def hook_families(views: "Sequence[PluginView]") -> Families:
    """Per plugin and hook: calls, latency, failures, decisions and the rest."""
    latency = Family(
        "headgate_hook_duration_seconds", HISTOGRAM, "Time of a call of a plugin's hook."
    )
    calls = Family("headgate_hook_calls", COUNTER, "Calls of a plugin's hook.")
    errors = Family("headgate_hook_errors", COUNTER, "Failed calls of a plugin's hook by cause.")
    decisions = Family("headgate_hook_decisions", COUNTER, "What answers said, by action.")
    filtered = Family(
        "headgate_hook_filtered", COUNTER, "Statements that [match] kept from the module."
    )
    memoized = Family(
        "headgate_hook_memoized", COUNTER, "Answers of a pure plugin that were remembered."
    )
    fuel = Family(
        "headgate_hook_fuel",
        COUNTER,
        "Fuel burnt: WebAssembly instructions; one call in eight stands for all.",
    )
    breaker = Family("headgate_hook_breaker_state", GAUGE, "0 closed, 1 half-open, 2 open.", "max")
    opened = Family("headgate_hook_breaker_opened", COUNTER, "Times that the breaker opened.")
    for view in views:
        for hook in view.hooks:
            stats = hook.stats
            labels = {"plugin": view.plugin, "hook": hook.hook}
            latency.add_histogram(stats.latency, **labels)
            calls.add(stats.calls, **labels)
            filtered.add(stats.filtered, **labels)
            memoized.add(stats.memoized, **labels)
            fuel.add(stats.fuel, **labels)
            opened.add(hook.breaker_opened, **labels)
            if hook.breaker:
                breaker.add(BREAKERS.get(hook.breaker, 0.0), **labels)
            for cause, count in list(stats.errors.items()):
                errors.add(count, **labels, cause=cause)
            for action, count in list(stats.decisions.items()):
                decisions.add(count, **labels, action=action)
    return [latency, calls, errors, decisions, filtered, memoized, fuel, breaker, opened]


def plugin_families(views: "Sequence[PluginView]") -> Families:
    """Per plugin: is it up, which version and generation, memory, loads, drains, log lines."""
    up = Family(
        "headgate_plugin_up", GAUGE, "1: a generation is active; status says why not.", "min"
    )
    state = Family(
        "headgate_plugin_state", GAUGE, "1 for the state of the newest generation.", "max"
    )
    generation = Family(
        "headgate_plugin_generation", GAUGE, "Number of the active generation; 0: none.", "max"
    )
    memory = Family("headgate_plugin_memory_bytes", GAUGE, "Linear memory of its instances.")
    in_flight = Family("headgate_plugin_in_flight", GAUGE, "Calls on worker threads that run now.")
    draining = Family(
        "headgate_plugin_draining_generations", GAUGE, "Old generations still in use."
    )
    loads = Family("headgate_plugin_loads", COUNTER, "Loads and replacements that succeeded.")
    failures = Family("headgate_plugin_load_failures", COUNTER, "Those that were refused.")
    timeouts = Family("headgate_plugin_drain_timeouts", COUNTER, "Drains that took too long.")
    lines = Family("headgate_plugin_log_lines", COUNTER, "Lines that it logged.")
    dropped = Family("headgate_plugin_log_lines_dropped", COUNTER, "Lines that were over the rate.")
    for view in views:
        name = view.plugin
        up.add(view.status == "active", plugin=name, version=view.version, status=view.status)
        for known in STATES:
            if view.state == known:
                state.add(1, plugin=name, state=known)
        generation.add(view.generation, plugin=name)
        memory.add(view.memory_bytes, plugin=name)
        in_flight.add(view.in_flight, plugin=name)
        draining.add(view.draining, plugin=name)
        loads.add(view.loads, plugin=name)
        failures.add(view.load_failures, plugin=name)
        timeouts.add(view.drain_timeouts, plugin=name)
        lines.add(view.log_lines, plugin=name)
        dropped.add(view.log_dropped, plugin=name)
    return [
        up, state, generation, memory, in_flight, draining, loads, failures, timeouts, lines, dropped,
    ]  # fmt: skip


RESERVED: Final = frozenset({family.name for family in plugin_families(())} | {PREFIX + "events"})


def own_families(
    views: "Sequence[PluginView]",
    samples: "Mapping[str, Sequence[PluginSample]]",
    counters: "Counters",
) -> Families:
    """What plugins count themselves; what cannot be exported is counted as an event."""
    found: dict[str, Family] = {}
    taken = {exposed for name in RESERVED for exposed in _exposed(name, COUNTER)}
    for view in views:
        budget = MAX_SERIES
        given: dict[tuple[str, tuple[tuple[str, str], ...]], None] = {}
        offered: list[tuple[str, bool, float, dict[str, str]]] = [
            (name, is_counter, value, {}) for name, (is_counter, value) in view.custom.items()
        ]
        offered += [(s.name, s.is_counter, s.value, s.labels) for s in samples.get(view.plugin, ())]
        for name, is_counter, value, raw_labels in offered:
            kind: Kind = COUNTER if is_counter else GAUGE
            exported = exported_name(name, kind)
            labels = _labels(raw_labels)
            labels["plugin"] = view.plugin
            key = (exported, tuple(sorted(labels.items())))
            family = found.get(exported)
            if family is None and not taken.intersection(_exposed(exported, kind)):
                family = Family(exported, kind, "A plugin's own metric.")
                found[exported] = family
                taken.update(_exposed(exported, kind))
            is_good = math.isfinite(value) and (kind == GAUGE or value >= 0)
            if family is None or family.kind != kind or key in given or not is_good or budget == 0:
                counters.count("plugin_metric_refused")
                continue
            budget -= 1
            given[key] = None
            family.add(value, **labels)
    return list(found.values())


def exported_name(name: str, kind: Kind) -> str:
    """The name under which a plugin's metric is exported, without a counter's `_total`."""
    clean = _OTHER.sub("_", name)[:MAX_NAME]
    if kind == COUNTER:
        clean = clean.removesuffix("_total")
    return PREFIX + (clean or "_")


def _exposed(name: str, kind: Kind) -> tuple[str, ...]:
    """The series names that a family takes."""
    if kind == COUNTER:
        return (name, name + "_total", name + "_created")
    return (name,)


def _labels(raw: Mapping[str, str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name, value in raw.items():
        clean = _OTHER.sub("_", name)[:MAX_NAME]
        if len(labels) >= MAX_LABELS:
            break
        if clean and clean != "plugin" and not clean.startswith("__") and not clean[0].isdigit():
            labels[clean] = value
    return labels
