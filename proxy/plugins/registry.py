"""
What the proxy knows of each plugin, and the views of it that the API, the console and metrics show.

A record outlives the plugin's generations: its counters never go back at a replacement.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.hooks.points import HOOK_NAMES
from proxy.observe.counters import HookStats
from proxy.plugins.generation import Generation
from proxy.plugins.lifecycle import State
from proxy.plugins.loader import Source
from proxy.plugins.module import wishes_of

STATUS_ACTIVE = "active"
STATUS_DISABLED = "disabled"
STATUS_FAILED = "failed"
STATUS_UNLOADED = "unloaded"


@dataclass(slots=True)
class Record:
    """
    One plugin.

    stamps    its files as they were when they were last looked at, good or bad
    error     why the last load failed; "" when it did not. The generation before it may be active
    """

    name: str
    path: Path
    stamps: tuple[tuple[str, int, int, int], ...] = ()
    source: Source | None = None
    generation: Generation | None = None
    draining: list[Generation] = field(default_factory=list)
    stats: dict[int, HookStats] = field(default_factory=dict)
    is_disabled: bool = False
    is_unloaded: bool = False
    loads: int = 0
    failures: int = 0
    drain_timeouts: int = 0
    error: str = ""
    error_cause: str = ""

    @property
    def status(self) -> str:
        """active, disabled, unloaded or failed."""
        if self.generation is not None:
            return STATUS_ACTIVE
        if self.is_disabled:
            return STATUS_DISABLED
        return STATUS_FAILED if self.error else STATUS_UNLOADED


@dataclass(frozen=True, slots=True)
class HookView:
    """Counters of one plugin at one hook, for the metrics; `breaker` is "" without a generation."""

    plugin: str
    hook: str
    stats: HookStats
    breaker: str
    breaker_opened: int


@dataclass(frozen=True, slots=True)
class PluginView:
    """What the metrics show of one plugin as a whole."""

    plugin: str
    version: str
    status: str
    state: str
    generation: int
    memory_bytes: int
    draining: int
    in_flight: int
    loads: int
    load_failures: int
    drain_timeouts: int
    log_lines: int
    log_dropped: int
    hooks: tuple[HookView, ...]
    custom: dict[str, tuple[bool, float]]


def hook_views(record: Record) -> tuple[HookView, ...]:
    """The counters of every hook that any generation of the plugin had."""
    breakers = {}
    if record.generation is not None:
        breakers = {hook.hook: hook.breaker for hook in record.generation.hooks}
    views = []
    for number, stats in sorted(record.stats.items()):
        breaker = breakers.get(number)
        views.append(
            HookView(
                record.name,
                HOOK_NAMES[number],
                stats,
                breaker.state if breaker is not None else "",
                breaker.opened if breaker is not None else 0,
            )
        )
    return tuple(views)


def state_of(record: Record) -> State | None:
    """State of the newest generation; None where there was none, or it has gone."""
    if record.generation is not None:
        return record.generation.life.state
    return record.draining[-1].life.state if record.draining else None


def summary(record: Record) -> dict[str, Any]:
    """A plugin in the list of the API."""
    generation = record.generation
    manifest = record.source.manifest if record.source is not None else None
    state = state_of(record)
    return {
        "name": record.name,
        "version": manifest.version if manifest is not None else None,
        "status": record.status,
        "state": state.value if state is not None else None,
        "enabled": not record.is_disabled,
        "generation": generation.number if generation is not None else None,
        "priority": generation.priority if generation is not None else None,
        "hooks": [HOOK_NAMES[h] for h in manifest.hooks] if manifest is not None else [],
        "draining": len(record.draining),
        "error": record.error or None,
        "error_cause": record.error_cause or None,
    }


def details(record: Record) -> dict[str, Any]:
    """A plugin by itself in the API."""
    view = summary(record)
    view["path"] = str(record.path)
    view["loads"] = record.loads
    view["load_failures"] = record.failures
    view["drain_timeouts"] = record.drain_timeouts
    view["draining_generations"] = [
        {
            "generation": g.number,
            "version": g.manifest.version,
            "state": g.life.state.value,
            "in_flight": g.in_flight,
        }
        for g in record.draining
    ]
    view["hook_stats"] = {v.hook: _hook_details(v) for v in hook_views(record)}
    source = record.source
    if source is not None:
        manifest = source.manifest
        view.update(
            wasm_sha256=source.wasm_sha256,
            manifest_sha256=source.manifest_sha256,
            manifest=manifest.path.name,
            description=manifest.description,
            author=manifest.author,
            license=manifest.license,
            kind="component" if source.is_component else "module",
            is_signed=source.signature is not None,
            pure=manifest.is_pure,
        )
    generation = record.generation
    if generation is not None:
        wishes = wishes_of(generation.shape, generation.manifest)
        limits = generation.limits
        view.update(
            abi=generation.shape.abi,
            permissions=sorted(generation.permissions),
            permissions_not_granted=sorted(wishes - generation.permissions),
            memory_bytes=generation.memory_bytes(),
            in_flight=generation.in_flight,
            limits={
                "memory": limits.memory_bytes,
                "fuel": limits.fuel,
                "timeout_ms": limits.timeout_ms,
                "input": limits.input_bytes,
                "output": limits.output_bytes,
            },
            fails_closed={HOOK_NAMES[h.hook]: h.fails_closed for h in generation.hooks},
        )
    return view


def _hook_details(view: HookView) -> dict[str, Any]:
    stats = view.stats
    latency = stats.latency
    return {
        "calls": stats.calls,
        "filtered": stats.filtered,
        "memoized": stats.memoized,
        "errors": dict(stats.errors),
        "decisions": dict(stats.decisions),
        "fuel": stats.fuel,
        "mean_us": round(latency.sum_us / latency.count, 3) if latency.count else 0.0,
        "breaker": view.breaker,
        "breaker_opened": view.breaker_opened,
    }
