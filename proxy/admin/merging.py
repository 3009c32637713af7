"""
One picture of all worker processes, made of one answer from each of them.

Clients and server connections are told apart by worker; pools, plugins and sums are added up. The
first answer is the asked worker's own: what must be the same everywhere is taken from it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

Row = dict[str, Any]

NOT_SUMS: Final = frozenset(
    {
        *("worker", "pid", "version", "config", "started_at", "uptime_s"),
        *("is_ready", "is_draining", "bounds_us"),
    }
)
_POOL_KEY: Final = ("database", "user", "node")
_POOL_SUMS: Final = (
    *("cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_opening", "sv_held", "size"),
    *("waits", "wait_us", "logins", "login_failures"),
)


def status(answers: Sequence[Row]) -> Row:
    """All workers as one; `workers` has each by itself."""
    first = answers[0]
    total: Row = {name: value for name, value in first.items() if name in NOT_SUMS}
    for answer in answers:
        total = {**total, **_sum(total, {k: v for k, v in answer.items() if k not in NOT_SUMS})}
    total["is_ready"] = all(answer["is_ready"] for answer in answers)
    total["is_draining"] = any(answer["is_draining"] for answer in answers)
    total["query_latency"] = with_quantiles(total["query_latency"])
    shown = (
        "worker",
        "pid",
        "started_at",
        "is_ready",
        "clients",
        "queries",
        "resident_bytes",
        "cpu_s",
    )
    total["workers"] = [{name: answer[name] for name in shown} for answer in answers]
    del total["worker"]
    return total


def rows(answers: Iterable[Row]) -> list[Row]:
    """All rows of all workers."""
    return [row for answer in answers for row in answer.get("rows", ())]


def pools(answers: Iterable[Row]) -> list[Row]:
    """Each pool once."""
    found: dict[tuple[str, ...], Row] = {}
    for row in rows(answers):
        key = tuple(row[name] for name in _POOL_KEY)
        known = found.get(key)
        if known is None:
            found[key] = dict(row)
            continue
        for name in _POOL_SUMS:
            known[name] += row[name]
        known["maxwait_us"] = max(known["maxwait_us"], row["maxwait_us"])
        known["is_paused"] = known["is_paused"] or row["is_paused"]
        known["last_error"] = known["last_error"] or row["last_error"]
    return [found[key] for key in sorted(found)]


def totals(answers: Iterable[Row]) -> list[Row]:
    """Each database once."""
    found: dict[str, Row] = {}
    for row in rows(answers):
        known = found.get(row["database"])
        found[row["database"]] = dict(row) if known is None else _sum(known, row)
    return [found[name] for name in sorted(found)]


def plugins(answers: Sequence[Row]) -> list[Row]:
    """Each plugin once, with the counters of all workers; in all else the first one's word."""
    merged = [plugin([{"plugin": row}]) for row in answers[0].get("rows", ())]
    for row in merged:
        for answer in answers[1:]:
            for other in answer.get("rows", ()):
                if other["name"] == row["name"]:
                    _add_hooks(row, other)
    return [_readable(row) for row in merged]


def plugin(answers: Sequence[Row], *, is_readable: bool = False) -> Row:
    """One plugin, with the counters of all workers; in all else the first one's word."""
    merged: Row = dict(answers[0]["plugin"])
    for answer in answers[1:]:
        if "plugin" in answer:
            _add_hooks(merged, answer["plugin"])
    return _readable(merged) if is_readable else merged


def _add_hooks(row: Row, other: Row) -> None:
    row["hook_stats"] = _sum(row["hook_stats"], other["hook_stats"])


def _readable(row: Row) -> Row:
    stats = {}
    for hook, counters in row["hook_stats"].items():
        stats[hook] = {**counters, "latency": with_quantiles(counters["latency"])}
    return {**row, "hook_stats": stats}


def _sum(left: Row, right: Row) -> Row:
    """Numbers added, lists added element by element, the rest from the left."""
    total = dict(left)
    for name, value in right.items():
        known = total.get(name)
        if known is None:
            total[name] = value
        elif name in NOT_SUMS:
            continue
        elif isinstance(value, dict):
            total[name] = _sum(known, value)
        elif isinstance(value, list):
            total[name] = [a + b for a, b in zip(known, value, strict=False)]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            total[name] = known + value
    return total


def with_quantiles(row: Row) -> Row:
    """A `latency` for people: count, mean, and the bucket bounds that p50 and p99 are under."""
    count = row["count"]
    return {
        "count": count,
        "mean_us": round(row["sum_us"] / count, 3) if count else None,
        "p50_us": _quantile(row["bounds_us"], row["buckets"], 0.5),
        "p99_us": _quantile(row["bounds_us"], row["buckets"], 0.99),
    }


def _quantile(bounds_us: Sequence[int], buckets: list[int], share: float) -> int | None:
    """The upper bound of the bucket that a quantile is in; None: no value, or above all bounds."""
    wanted = sum(buckets) * share
    seen = 0
    for bound, count in zip(bounds_us, buckets, strict=False):
        seen += count
        if count and seen >= wanted:
            return bound
    return None
