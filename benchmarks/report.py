"""
Turn measurements into the table of benchmarks/README.md and the file results.json.

Budgets stand beside the results; a budget that is missed is said to be missed.
"""

import datetime
import json
import os
import platform
import statistics
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.measure import Run

Cell = tuple[str, int, str]
"""Mode, clients, target."""

_START: Final = "<!-- results: written by `make bench` -->"
_END: Final = "<!-- end of results -->"
BUDGET_CLIENTS: Final = 16


def medians(runs: dict[Cell, list[Run]]) -> dict[Cell, dict[str, float]]:
    """Take the median of the rounds for each figure."""
    return {
        cell: {
            "cpu_us": statistics.median(run.cpu_us for run in of_cell),
            "kernel_us": statistics.median(run.kernel_us for run in of_cell),
            "p50_us": statistics.median(run.p50_us for run in of_cell),
            "p99_us": statistics.median(run.p99_us for run in of_cell),
            "tps": statistics.median(run.tps for run in of_cell),
            "failed": float(sum(run.failed for run in of_cell)),
        }
        for cell, of_cell in runs.items()
    }


class Compared(NamedTuple):
    """Medians of what two cells differ by, each with the standard error of that median."""

    us: float
    us_error: float
    ratio: float
    ratio_error: float


def paired(runs: dict[Cell, list[Run]], cell: Cell, base: Cell) -> Compared | None:
    """Compare the processor time of two cells, turn by turn.

    A shared machine drifts more from turn to turn than targets differ within one.
    """
    pairs = [
        (one.cpu_us, other.cpu_us)
        for one, other in zip(runs.get(cell, []), runs.get(base, []), strict=False)
        if other.cpu_us
    ]
    if not pairs:
        return None
    return Compared(
        *median_and_error([one - other for one, other in pairs]),
        *median_and_error([one / other for one, other in pairs]),
    )


def median_and_error(values: list[float]) -> tuple[float, float]:
    """A median and its standard error, by the median deviation: single outliers do not count."""
    median = statistics.median(values)
    deviation = statistics.median(abs(value - median) for value in values)
    return median, 1.2533 * 1.4826 * deviation / len(values) ** 0.5


def table(results: dict[Cell, dict[str, float]]) -> list[str]:
    """Lay out every cell as a Markdown table."""
    lines = [
        "| mode | clients | target | CPU per query | of it kernel | x PgBouncer | p50 | p99 | tps |",
        "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (mode, clients, target), cell in results.items():
        bouncer = results.get((mode, clients, "pgbouncer"))
        ratio = (
            f"{cell['cpu_us'] / bouncer['cpu_us']:.2f}"
            if bouncer and bouncer["cpu_us"] and cell["cpu_us"]
            else "-"
        )
        cpu = f"{cell['cpu_us']:.1f} µs" if cell["cpu_us"] else "-"
        kernel = f"{cell['kernel_us']:.1f} µs" if cell["cpu_us"] else "-"
        failed = f" ({cell['failed']:.0f} failed)" if cell["failed"] else ""
        lines.append(
            f"| {mode} | {clients} | {target}{failed} | {cpu} | {kernel} | {ratio} "
            f"| {cell['p50_us']:.0f} µs | {cell['p99_us']:.0f} µs | {cell['tps']:.0f} |"
        )
    return lines


def budgets(
    runs: dict[Cell, list[Run]], memory: dict[str, float], bulk: dict[str, list[float]]
) -> list[dict[str, Any]]:
    """Compare what was measured with performance budgets; `held` is None when not measured."""
    results = medians(runs)
    found: list[dict[str, Any]] = []

    def add(
        what: str, required: str, limit: float, value: float | None, unit: str, error: float = 0.0
    ) -> None:
        margin = f" ± {error:.2f}" if error else ""
        shown = "not measured" if value is None else f"{value:.2f}{margin} {unit}".strip()
        found.append(
            {
                "what": what,
                "required": required,
                "measured": shown,
                "held": None if value is None else value <= limit,
            }
        )

    def against(mode: str, target: str, base: str) -> Compared | None:
        return paired(runs, (mode, BUDGET_CLIENTS, target), (mode, BUDGET_CLIENTS, base))

    modes = list(dict.fromkeys(mode for mode, _, _ in results))
    for mode in modes:
        compared = against(mode, "headgate", "pgbouncer")
        add(
            f"CPU per query, no plugins, {mode}, {BUDGET_CLIENTS} clients",
            "≤ 1.4 x PgBouncer",
            1.4,
            compared.ratio if compared else None,
            "x",
            compared.ratio_error if compared else 0.0,
        )
    for variant, required, limit in (
        ("continue", "≤ +3 µs", 3.0),
        ("continue-json", "≤ +3 µs", 3.0),
        # A tick of /proc over a few seconds is not finer than half a microsecond a query.
        ("pure", "0 (≤ 0.5 µs is noise)", 0.5),
        ("filtered", "0 (≤ 0.5 µs is noise)", 0.5),
        ("off-path", "0 (≤ 0.5 µs is noise)", 0.5),
    ):
        for mode in modes:
            compared = against(mode, f"headgate+{variant}", "headgate")
            if compared is not None:
                what = f"plugin {variant}, {mode}, against none"
                # pgbench puts another number into each text: there is nothing to remember.
                is_new = variant == "pure" and mode == "simple"
                add(
                    what,
                    "≤ +3 µs: each text is new" if is_new else required,
                    3.0 if is_new else limit,
                    compared.us,
                    "µs",
                    compared.us_error,
                )
    for mode in modes:
        mine = results.get((mode, 1, "headgate"))
        direct = results.get((mode, 1, "direct"))
        if mine and direct:
            add(
                f"added p50 latency at 1 client, {mode}",
                "≤ 40 µs",
                40.0,
                mine["p50_us"] - direct["p50_us"],
                "µs",
            )
    if "headgate" in memory:
        add("memory per idle client", "≤ 12 KiB", 12.0, memory["headgate"] / 1024, "KiB")
    if "headgate" in bulk and "direct" in bulk:
        add(
            "resident growth during a bulk COPY",
            "≤ 8 MiB",
            8.0,
            bulk["headgate"][1] / 2**20,
            "MiB",
        )
        add(
            "time of a bulk COPY against direct",
            "≤ 1/0.9 x",
            1 / 0.9,
            _ratio(bulk["direct"][0], bulk["headgate"][0]),
            "x",
        )
    return found


def write(
    directory: Path,
    runs: dict[Cell, list[Run]],
    memory: dict[str, float],
    bulk: dict[str, list[float]],
    facts: dict[str, Any],
) -> str:
    """Write results.json and the section of README.md; the section is returned."""
    results = medians(runs)
    held = budgets(runs, memory, bulk)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        **facts,
    }
    document = {
        "facts": facts,
        "budgets": held,
        "cells": [
            {"mode": mode, "clients": clients, "target": target, **cell}
            for (mode, clients, target), cell in results.items()
        ],
        "idle_client_bytes": memory,
        "bulk_mib_per_second_and_growth_bytes": bulk,
    }
    (directory / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    section = "\n".join(_section(results, memory, bulk, held, facts))
    readme = directory / "README.md"
    text = readme.read_text() if readme.exists() else f"# Benchmarks\n\n{_START}\n{_END}\n"
    head, _, rest = text.partition(_START)
    _, _, tail = rest.partition(_END)
    readme.write_text(f"{head}{_START}\n\n{section}\n\n{_END}{tail}")
    return section


def _section(
    results: dict[Cell, dict[str, float]],
    memory: dict[str, float],
    bulk: dict[str, list[float]],
    held: list[dict[str, Any]],
    facts: dict[str, Any],
) -> list[str]:
    lines = [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()), ""]
    lines += [
        "### Budgets",
        "",
        "| what | required | measured | held |",
        "| --- | --- | ---: | --- |",
    ]
    for budget in held:
        verdict = {True: "yes", False: "**no**", None: "-"}[budget["held"]]
        lines.append(
            f"| {budget['what']} | {budget['required']} | {budget['measured']} | {verdict} |"
        )
    lines += ["", "### Every cell, median of the rounds", "", *table(results)]
    if memory:
        lines += ["", "### Idle clients", "", "| target | memory per client |", "| --- | ---: |"]
        lines += [f"| {name} | {value / 1024:.1f} KiB |" for name, value in memory.items()]
    if bulk:
        lines += [
            "",
            "### A bulk COPY to the client",
            "",
            "| target | MiB a second | growth of the proxy |",
            "| --- | ---: | ---: |",
        ]
        lines += [
            f"| {name} | {speed:.0f} | {growth / 2**20:.1f} MiB |"
            for name, (speed, growth) in bulk.items()
        ]
    return lines


def _ratio(value: float | None, base: float | None) -> float | None:
    return value / base if value is not None and base else None
