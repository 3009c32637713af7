"""
A worker process: `python -m proxy.server.child`, started by `server.workers` and by nobody else.

Its parent gives it settings, listening sockets and a line; it says when it is ready, and ends when
the parent says so or is gone. Signals are the parent's: a service manager that sends SIGTERM to all
processes of a service must not be taken for somebody who asks twice.
"""

import argparse
import asyncio
import contextlib
import os
import pickle
import shutil
import signal
import socket
import sys
from typing import Final, final

import structlog
import uvloop

from proxy.errors import SettingsError
from proxy.observe.log import configure_logging
from proxy.server.channel import ChannelClosed, read_message_now
from proxy.server.lifecycle import take_settings, tune_collector
from proxy.server.listener import remove_unix_socket
from proxy.server.place import Order, ParentLink, Place
from proxy.server.worker import Worker
from proxy.settings.model import Settings

EXIT_BAD_CONFIGURATION: Final = 2
ORPHAN_LIMIT_S: Final = 10.0
"""What a worker whose parent has died may take to end."""

_log = structlog.get_logger("headgate")


@final
class Commands:
    """What the parent's words do to this worker."""

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.stopping = asyncio.Event()
        self.is_orphan = False

    async def take(self, settings: Settings) -> list[str]:
        """Take new settings."""
        worker = self.worker
        return [] if worker is None else await take_settings(worker, settings)

    def count(self, cause: str) -> None:
        """Count what the parent saw."""
        if self.worker is not None:
            self.worker.counters.count(cause)

    def drain(self) -> None:
        """Begin to drain."""
        self.stopping.set()

    def cut(self) -> None:
        """End the drain."""
        if self.worker is not None:
            self.worker.cut_off()
        self.stopping.set()

    def parent_gone(self) -> None:
        """As PostgreSQL's backends do without their postmaster: end at once."""
        _log.error("the parent process is gone; this worker ends")
        self.is_orphan = True
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, ORPHAN_LIMIT_S)
        self.cut()


async def run(order: Order, channel: socket.socket) -> int:
    """Serve until the parent says otherwise; gives the exit code."""
    tune_collector()
    commands = Commands()
    ready = asyncio.Event()
    link = ParentLink(channel)
    await link.open()
    sockets = tuple(socket.socket(fileno=descriptor) for descriptor in order.descriptors)
    listening = asyncio.get_running_loop().create_task(link.listen(commands, ready))
    try:
        code = await _serve(Place(order, sockets, link), commands, ready)
        await link.flush()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    if commands.is_orphan:
        # Nobody else is left to clear up; all workers do it, whoever comes first.
        shutil.rmtree(order.directory, ignore_errors=True)
        listen = order.settings.listen
        if listen.unix_socket_dir is not None:
            remove_unix_socket(listen.unix_socket_dir, listen.port)
        return 1
    return code


async def _serve(place: Place, commands: Commands, ready: asyncio.Event) -> int:
    order = place.order
    worker: Worker | None = None
    try:
        worker = Worker(order.settings, order.config_path, order.index, order.workers, place)
        commands.worker = worker
        await worker.start()
    except SettingsError as error:
        place.parent.tell({"word": "refused", "problems": error.problems})
        if worker is not None:
            await worker.stop()
        return EXIT_BAD_CONFIGURATION
    ready.set()
    place.parent.tell({"word": "ready"})
    await commands.stopping.wait()
    _log.info("draining", clients=len(worker.connections))
    await worker.stop()
    _log.info("stopped")
    return 0


def main() -> int:
    """Take the parent's order from the inherited line, and carry it out."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    parser = argparse.ArgumentParser(prog="headgate worker", description=__doc__)
    # All but --channel is there for whoever reads a list of processes.
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--of", type=int, required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--channel", type=int, required=True)
    channel = socket.socket(fileno=parser.parse_args().channel)
    try:
        order: Order = pickle.loads(read_message_now(channel))
    except ChannelClosed:
        return 1
    for descriptor in (channel.fileno(), *order.descriptors):
        os.set_inheritable(descriptor, False)
    configure_logging(order.settings.log)
    structlog.contextvars.bind_contextvars(worker=order.index)
    with contextlib.suppress(KeyboardInterrupt):
        return uvloop.run(run(order, channel))
    return 1


if __name__ == "__main__":
    sys.exit(main())
