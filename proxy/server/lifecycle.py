"""
Start, signals, stop: what `headgate serve` does between its command line and its exit code.

SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reloads. With more than one worker
process, `server.workers` is the parent's part; here is what each of them runs.
"""

import asyncio
import gc
import os
import signal
import sys
from pathlib import Path

import structlog
import uvloop

from proxy.errors import SettingsError
from proxy.observe.log import configure_logging
from proxy.server.worker import Worker
from proxy.settings.load import load
from proxy.settings.model import Settings

_log = structlog.get_logger("headgate")


def serve(settings: Settings, config_path: Path, workers: int) -> int:
    """
    Serve until told to stop; gives the exit code.

    Raises SettingsError for what shows only when it is used, such as an address that is taken.
    """
    configure_logging(settings.log)
    if workers > 1:
        from proxy.server.workers import supervise

        return supervise(settings, config_path, workers)
    return uvloop.run(run_worker(settings, config_path, 0, 1))


async def run_worker(settings: Settings, config_path: Path, index: int, workers: int) -> int:
    """One worker process from its start to its end."""
    # PERF: what a statement allocates dies by reference count; with the default thresholds the
    # collector took 3.6 % of the process's time in benchmarks.run.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    worker = Worker(settings, config_path, index, workers)
    stopping = asyncio.Event()
    reloading = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_stop, stopping, worker)
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    try:
        await worker.start()
    except SettingsError:
        await worker.stop()
        raise
    if workers == 1:
        announce(settings)
    reloads = worker.tasks.spawn(_reload_on_signal(worker, reloading), "reload")
    await stopping.wait()
    reloads.cancel()
    _log.info("draining", clients=len(worker.connections))
    await worker.stop()
    _log.info("stopped")
    return 0


def announce(settings: Settings) -> None:
    """The one line on standard output: connections are accepted from now on."""
    hosts = ", ".join(settings.listen.host)
    line = f"headgate is ready: PostgreSQL on {hosts} port {settings.listen.port}"
    if settings.admin.port:
        line += f", admin on http://{settings.admin.host}:{settings.admin.port}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _on_stop(stopping: asyncio.Event, worker: Worker) -> None:
    if stopping.is_set():
        # Asked twice: whoever asks does not want to wait.
        worker.cut_off()
    stopping.set()


async def _reload_on_signal(worker: Worker, reloading: asyncio.Event) -> None:
    while True:
        await reloading.wait()
        reloading.clear()
        await reload(worker)


async def reload(worker: Worker) -> list[str]:
    """Read the file again; on any problem everything stays as it was. Gives the problems."""
    try:
        settings = await asyncio.to_thread(load, worker.config_path, os.environ)
        await worker.apply(settings)
    except SettingsError as error:
        for problem in error.problems:
            _log.error("reload refused", problem=problem)
        worker.counters.count("reload_refused")
        return error.problems
    _log.info("reloaded", file=str(worker.config_path))
    return []
