"""
The benchmark: direct, PgBouncer and Headgate in one run, interleaved, on the same machine.

Absolute figures drift on shared machines, so each round measures every target before the next
round begins, and a figure is the median of its rounds. The figure that holds is processor time
per query; latency and throughput stand beside it.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import typer

from benchmarks import measure, plugins, report, targets
from benchmarks.measure import Run
from benchmarks.report import BUDGET_CLIENTS, Cell
from benchmarks.targets import Target
from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace

TURNS: Final = 3

_HERE = Path(__file__).resolve().parent


def main(
    seconds: Annotated[int, typer.Option(help="time of a target in one round and cell")] = 3,
    rounds: Annotated[int, typer.Option(help="how often everything is measured")] = 3,
    clients: Annotated[str, typer.Option(help="client counts, comma-separated")] = "1,16,64",
    modes: Annotated[str, typer.Option(help="pgbench -M")] = "simple,extended,prepared",
    scale: Annotated[int, typer.Option(help="pgbench -s")] = 10,
    compiled: Annotated[Path | None, typer.Option(help="tree with compiled modules")] = None,
    idle: Annotated[int, typer.Option(help="idle clients for the memory figure; 0: none")] = 2000,
    bulk_mib: Annotated[int, typer.Option(help="size of the bulk COPY; 0: none")] = 1024,
    only: Annotated[str, typer.Option(help="only targets whose name is in this list")] = "",
    output: Annotated[Path, typer.Option(help="where README.md and results.json go")] = _HERE,
) -> None:
    """Measure, and write the table."""
    wanted = set(filter(None, only.split(",")))
    with Workspace("headgate-bench-") as workspace:
        server = targets.start_server(workspace)
        server.execute(f"CREATE DATABASE {measure.DATABASE}")
        workspace.run(
            [
                str(server.bin_dir / "pgbench"),
                *("-i", "-q", "-s", str(scale), "-h", "127.0.0.1", "-p", str(server.port)),
                *("-U", "postgres", measure.DATABASE),
            ],
            timeout_s=300,
        )
        scratch = workspace.path / "scratch"
        scratch.mkdir()
        runs: dict[Cell, list[Run]] = {}
        memory: dict[str, float] = {}
        bulk: dict[str, list[float]] = {}
        facts: dict[str, object] = {"PostgreSQL": server.version}
        client_counts = [int(count) for count in clients.split(",")]
        for round_number in range(rounds):
            # Where a process's memory happens to lie makes some microseconds a query that stay for
            # its whole life: so each round has processes of its own.
            place = workspace.make_private_directory(f"round-{round_number}")
            main_targets, variants = _start_targets(
                workspace, place, server, compiled, wanted, facts
            )
            for target in main_targets + variants:
                target.stand_still()
            for mode, count, target, length in _turns(
                modes.split(","), client_counts, main_targets, variants, seconds
            ):
                if _cannot(target, mode, facts):
                    continue
                target.go_on()
                run = measure.run_pgbench(
                    server.bin_dir, target.port, target.pids(), mode, count, length, scratch
                )
                target.stand_still()
                runs.setdefault((mode, count, target.name), []).append(run)
                sys.stderr.write(
                    f"{round_number + 1}/{rounds} {mode:9} {count:3} {target.name:24}"
                    f"{run.cpu_us:7.1f} us {run.tps:9.0f} tps\n"
                )
            for target in main_targets + variants:
                target.go_on()
            if round_number == rounds - 1:
                for target in main_targets:
                    if target.process is not None and idle:
                        found = measure.idle_client_bytes(target.port, target.pids(), idle)
                        memory[target.name] = found[1]
                    if bulk_mib:
                        bulk[target.name] = list(
                            measure.bulk_copy(server.bin_dir, target.port, target.pids(), bulk_mib)
                        )
            for target in main_targets + variants:
                target.stop()
        facts |= {"seconds": seconds, "rounds": rounds, "scale": scale, "bulk_MiB": bulk_mib}
        text = report.write(output, runs, memory, bulk, facts)
        sys.stdout.write(text + "\n")


def _turns(
    modes: list[str],
    client_counts: list[int],
    main_targets: list[Target],
    variants: list[Target],
    seconds: int,
) -> Iterator[tuple[str, int, Target, int]]:
    """
    Mode, clients, target and seconds of all that is measured in one round, in order.

    Where budgets compare targets, each has several short turns in place of a long one: a shared
    machine is another one from one quarter of a minute to the next.
    """
    for mode in modes:
        for count in client_counts:
            is_compared = count == BUDGET_CLIENTS
            turns = min(TURNS, seconds) if is_compared else 1
            measured = main_targets + (variants if is_compared else [])
            for turn in range(turns):
                # Nobody is always behind the same one.
                first = turn * len(measured) // turns
                for target in measured[first:] + measured[:first]:
                    yield mode, count, target, seconds // turns


def _start_targets(
    workspace: Workspace,
    place: Path,
    server: EmbeddedPostgres,
    compiled: Path | None,
    wanted: set[str],
    facts: dict[str, object],
) -> tuple[list[Target], list[Target]]:
    """Start all of them; those measured everywhere, and those measured at one client count."""
    here = _HERE.parent
    found: list[Target] = [Target("direct", server.port, None)]
    program = targets.pgbouncer_program()
    if program is None:
        facts["PgBouncer"] = "not installed"
    elif not wanted or "pgbouncer" in wanted:
        facts["PgBouncer"] = ".".join(map(str, targets.pgbouncer_version(program)))
        found.append(targets.start_pgbouncer(workspace, place, server, program))
    tree = compiled.resolve() if compiled is not None else here
    facts["Headgate"] = "compiled" if compiled is not None else "interpreted"
    if not wanted or "headgate" in wanted:
        found.append(targets.start_headgate(workspace, place, server, "headgate", tree))
    variants: list[Target] = []
    if compiled is not None and (not wanted or "headgate-python" in wanted):
        variants.append(targets.start_headgate(workspace, place, server, "headgate-python", here))
    for variant in plugins.VARIANTS:
        name = f"headgate+{variant}"
        if not wanted or name in wanted:
            variants.append(targets.start_headgate(workspace, place, server, name, tree, variant))
    return found, variants


def _cannot(target: Target, mode: str, facts: dict[str, object]) -> bool:
    """Tell whether a target has no such mode: old PgBouncers do not know prepared statements."""
    if target.name != "pgbouncer" or mode != "prepared":
        return False
    version = str(facts.get("PgBouncer", "0.0")).split(".")
    return (int(version[0]), int(version[1])) < (1, 21)


if __name__ == "__main__":
    typer.run(main)
