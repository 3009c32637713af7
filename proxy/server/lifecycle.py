"""
Start, signals, stop: what `headgate serve` does between its command line and its exit code.

SIGTERM and SIGINT drain, a second one ends at once; SIGHUP reloads. This is the life of a proxy that
is one process; with several, `server.workers` is the parent's part and `server.child` theirs.
"""

import asyncio
import gc
import os
import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from proxy.errors import SettingsError
from proxy.observe.log import ForgivingStream, configure_logging
from proxy.server.authrules import make_auth_rules
from proxy.server.tls import make_node_tls, make_server_tls
from proxy.settings.load import load
from proxy.settings.model import Settings
from proxy.settings.users import read_users

if TYPE_CHECKING:
    from proxy.server.worker import Worker

SPARE_DESCRIPTORS: Final = 500
"""For server connections, plugins and files, beside one descriptor for each client."""

_log = structlog.get_logger("headgate")


def serve(settings: Settings, config_path: Path, workers: int) -> int:
    """
    Serve until told to stop; gives the exit code.

    Raises SettingsError for what shows only when it is used, such as an address that is taken.
    """
    configure_logging(settings.log)
    raise_descriptor_limit(settings)
    if workers > 1:
        from proxy.server.workers import supervise

        return supervise(settings, config_path, workers)
    return uvloop.run(run_alone(settings, config_path))


def raise_descriptor_limit(settings: Settings) -> None:
    """Take all the descriptors that this user may have; the usual 1,024 are a thousand clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            hard = soft
    needed = settings.pool.max_client_connections + SPARE_DESCRIPTORS
    if hard != resource.RLIM_INFINITY and hard < needed:
        _log.warning(
            "fewer descriptors than clients: raise the limit (ulimit -Hn, LimitNOFILE=)",
            limit=hard,
            needed=needed,
        )


def tune_collector() -> None:
    """Have the garbage collector look less often."""
    # PERF: what a statement allocates dies by reference count; with the default thresholds the
    # collector took 3.6 % of the process's time in benchmarks.run.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def run_alone(settings: Settings, config_path: Path) -> int:
    """A proxy of one process from its start to its end."""
    # Here: the parent of several workers has no use for it, nor for wasmtime behind it.
    from proxy.server.worker import Worker

    tune_collector()
    worker = Worker(settings, config_path, 0, 1)
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
    stdout = ForgivingStream(sys.stdout)
    stdout.write(line + "\n")
    stdout.flush()


def _on_stop(stopping: asyncio.Event, worker: "Worker") -> None:
    if stopping.is_set():
        # Asked twice: whoever asks does not want to wait.
        worker.cut_off()
    stopping.set()


async def _reload_on_signal(worker: "Worker", reloading: asyncio.Event) -> None:
    while True:
        await reloading.wait()
        reloading.clear()
        await reload(worker)


async def reload(worker: "Worker") -> list[str]:
    """
    Read the file again, for all worker processes; on any problem everything stays as it was. Gives
    the problems.
    """
    if worker.place is not None:
        return await worker.place.parent.reload()
    try:
        settings = await asyncio.to_thread(load, worker.config_path, os.environ)
    except SettingsError as error:
        return _refused(worker, error)
    problems = await take_settings(worker, settings)
    if not problems:
        _log.info("reloaded", file=str(worker.config_path))
    return problems


async def take_settings(worker: "Worker", settings: Settings) -> list[str]:
    """Have a worker take new settings; gives the problems, and then nothing has changed."""
    try:
        await worker.apply(settings)
    except SettingsError as error:
        return _refused(worker, error)
    configure_logging(settings.log)
    worker.counters.count("reloaded")
    return []


def check_usable(settings: Settings) -> None:
    """Try what settings name and `load` does not open: SettingsError, before anything changes."""
    make_server_tls(settings.listen.tls)
    make_auth_rules(settings.auth)
    for node in settings.node:
        make_node_tls(node.tls)
    if settings.auth.users_file is not None:
        read_users(settings.auth.users_file)


def _refused(worker: "Worker", error: SettingsError) -> list[str]:
    for problem in error.problems:
        _log.error("reload refused", problem=problem)
    worker.counters.count("reload_refused")
    return error.problems
