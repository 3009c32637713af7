"""
The parent of several worker processes: starts them, replaces them, and passes on what it is told.

Theory of operation. Each worker is a fresh interpreter (`server.child`), not a fork: what wasmtime
and the event loop hold does not survive one. The parent opens the listening sockets, one set for
each worker with SO_REUSEPORT, so that the kernel spreads the clients; it keeps them open, so that
clients that come while a worker is replaced wait for the new one and are not refused. A worker that
fails again and again gives its sockets back until its next try, and the kernel turns to the others.

The parent takes the signals: SIGTERM and SIGINT drain, a second one ends at once, SIGHUP reads the
file, checks it once, and gives all workers the same settings. It serves nobody itself.
"""

import asyncio
import os
import pickle
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, final

import msgspec
import structlog

from proxy.errors import SettingsError
from proxy.observe.counters import Counters
from proxy.observe.log import configure_logging
from proxy.server.channel import ChannelClosed, framed, read_message
from proxy.server.clock import monotonic_s
from proxy.server.lifecycle import announce, check_usable
from proxy.server.listener import open_tcp_sockets, open_unix_socket, remove_unix_socket
from proxy.server.place import Order
from proxy.server.tasks import Tasks
from proxy.settings.load import load
from proxy.settings.model import Settings

STEADY_S: Final = 10.0
"""A worker that lived this long had no trouble starting: its successor starts at once."""

FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0
APPLY_TIMEOUT_S: Final = 100.0
END_TIMEOUT_S: Final = 5.0
"""From a worker's last word to the end of its process."""

DRAIN_GRACE_S: Final = 15.0
"""What a worker may take beyond server.drain_timeout to close what it has open."""

MAX_DIRECTORY_LENGTH: Final = 100
"""The path of a Unix socket is at most 107 bytes long, and a worker's ends in /w255."""

EXIT_START_FAILED: Final = 1

_log = structlog.get_logger("headgate.parent")


def supervise(settings: Settings, config_path: Path, workers: int) -> int:
    """
    Run worker processes until told to stop; gives the exit code.

    Raises SettingsError for what a worker cannot start with.
    """
    return asyncio.run(Supervisor(settings, config_path, workers).run())


class _StartFailed(Exception):
    """A worker ended before it was ready, without saying why."""


@final
class Child:
    """One worker process."""

    __slots__ = (
        "applied",
        "index",
        "is_ready",
        "problems",
        "process",
        "reader",
        "started_s",
        "writer",
    )

    def __init__(
        self,
        index: int,
        process: "subprocess.Popen[bytes]",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.index = index
        self.process = process
        self.reader = reader
        self.writer = writer
        self.is_ready = False
        self.started_s = monotonic_s()
        self.problems: list[str] = []
        self.applied: dict[int, asyncio.Future[list[str]]] = {}

    def tell(self, *message: Any) -> None:
        """Send the worker a word and its values."""
        self.writer.write(framed(pickle.dumps(message)))


@final
class Supervisor:
    """All worker processes of one proxy."""

    def __init__(self, settings: Settings, config_path: Path, workers: int) -> None:
        self._settings = settings
        self._config_path = config_path
        self._workers = workers
        self._counters = Counters()
        self._tasks = Tasks(self._counters)
        self._secret = secrets.token_bytes(32)
        self._directory = Path()
        self._sockets: dict[int, list[socket.socket]] = {}
        self._unix: list[socket.socket] = []
        self._children: dict[int, Child] = {}
        self._is_ending = False
        self._serial = 0
        self._reload_lock = asyncio.Lock()
        self._next_reload: asyncio.Task[list[str]] | None = None

    async def run(self) -> int:
        """From the first worker's start to the last one's end."""
        loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = loop.create_future()
        self._directory = private_directory()
        try:
            self._open_all()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._on_stop)
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)
            keepers = [
                self._tasks.spawn(self._keep(index), f"worker {index}")
                for index in range(self._workers)
            ]
            return await self._live(keepers)
        finally:
            self._close_sockets()
            for child in self._children.values():
                child.process.kill()
                child.process.wait()
            shutil.rmtree(self._directory, ignore_errors=True)
            await self._tasks.cancel_all()

    async def _live(self, keepers: "list[asyncio.Task[None]]") -> int:
        try:
            await self._started
        except SettingsError:
            self._end(is_cut=True)
            await self._wait(keepers)
            raise
        except _StartFailed:
            self._end(is_cut=True)
            await self._wait(keepers)
            return EXIT_START_FAILED
        if not self._is_ending:
            announce(self._settings)
            _log.info("ready", workers=self._workers, pid=os.getpid())
        await self._wait(keepers)
        _log.info("stopped")
        return 0

    async def _wait(self, keepers: "list[asyncio.Task[None]]") -> None:
        await asyncio.gather(*keepers)

    # -- sockets

    def _open_all(self) -> None:
        listen = self._settings.listen
        admin = self._settings.admin
        # SO_REUSEPORT would let a second Headgate share the port: without it, a bind fails.
        for taken in open_tcp_sockets(listen.host, listen.port, 1, reuse_port=False):
            taken.close()
        if admin.port:
            try:
                for taken in open_tcp_sockets([admin.host], admin.port, 1, reuse_port=False):
                    taken.close()
            except SettingsError as error:
                raise SettingsError([f"admin: {problem}" for problem in error.problems]) from None
        for index in range(self._workers):
            self._open_sockets(index)
        if listen.unix_socket_dir is not None:
            mode = int(listen.unix_socket_mode, 8)
            # One for all: whichever worker is free first accepts.
            self._unix.append(
                open_unix_socket(listen.unix_socket_dir, listen.port, mode, listen.backlog)
            )

    def _open_sockets(self, index: int) -> None:
        if index not in self._sockets:
            listen = self._settings.listen
            self._sockets[index] = open_tcp_sockets(
                listen.host, listen.port, listen.backlog, reuse_port=True
            )

    def _close_worker_sockets(self, index: int) -> None:
        for listening in self._sockets.pop(index, []):
            listening.close()

    def _close_sockets(self) -> None:
        for index in list(self._sockets):
            self._close_worker_sockets(index)
        for listening in self._unix:
            listening.close()
        listen = self._settings.listen
        if self._unix and listen.unix_socket_dir is not None:
            remove_unix_socket(listen.unix_socket_dir, listen.port)
        self._unix.clear()

    # -- one worker after the other

    async def _keep(self, index: int) -> None:
        """Have a worker of this number until the end."""
        failures = 0
        incarnation = 0
        while not self._ends():
            child = await self._start(index, incarnation)
            incarnation += 1
            await self._attend(child)
            code = await _end_of(child.process)
            self._children.pop(index, None)
            child.writer.close()
            if self._ends():
                return
            if not self._started.done():
                self._started.set_exception(_why(child, code))
                return
            lived_s = monotonic_s() - child.started_s
            failures = 0 if child.is_ready and lived_s >= STEADY_S else failures + 1
            _log.error(
                "worker ended; another takes its place",
                worker=index,
                pid=child.process.pid,
                ended=_ending(code),
                lived_s=round(lived_s, 1),
                failures=failures,
                problems=child.problems,
            )
            if failures > 1:
                self._close_worker_sockets(index)
                pause_s = min(FIRST_PAUSE_S * 2 ** min(failures - 2, 10), LONGEST_PAUSE_S)
                await self._pause(pause_s)
                if not self._ends():
                    self._open_sockets(index)

    async def _pause(self, pause_s: float) -> None:
        until_s = monotonic_s() + pause_s
        while not self._is_ending and monotonic_s() < until_s:  # noqa: ASYNC110
            # Looks, and waits for no event: what ends it early is the end of the program.
            await asyncio.sleep(0.05)

    async def _start(self, index: int, incarnation: int) -> Child:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        sockets = [*self._sockets.get(index, []), *self._unix]
        order = Order(
            self._settings,
            self._config_path,
            index,
            self._workers,
            incarnation,
            self._directory,
            self._secret,
            tuple(listening.fileno() for listening in sockets),
        )
        with theirs:
            process = _spawn(order, theirs.fileno())
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(framed(pickle.dumps(order)))
        child = Child(index, process, reader, writer)
        self._children[index] = child
        if self._is_ending:
            child.tell("drain")
        return child

    async def _attend(self, child: Child) -> None:
        """Listen to a worker until it is gone."""
        while True:
            try:
                message = msgspec.json.decode(await read_message(child.reader))
            except (ChannelClosed, msgspec.DecodeError):
                break
            word = message["word"]
            if word == "ready":
                child.is_ready = True
                if all(other.is_ready for other in self._children.values()) and (
                    len(self._children) == self._workers and not self._started.done()
                ):
                    self._started.set_result(None)
            elif word == "refused":
                child.problems = [str(problem) for problem in message["problems"]]
            elif word == "applied":
                applied = child.applied.pop(int(message["serial"]), None)
                if applied is not None and not applied.done():
                    applied.set_result([str(problem) for problem in message["problems"]])
            elif word == "reload":
                self._tasks.spawn(self._reload_for(child, int(message["serial"])), "reload")
        for applied in child.applied.values():
            # The one that takes its place starts with the new settings.
            if not applied.done():
                applied.set_result([])

    # -- the end

    def _ends(self) -> bool:
        return self._is_ending

    def _on_stop(self) -> None:
        if self._is_ending:
            # Asked twice: whoever asks does not want to wait.
            for child in self._children.values():
                child.tell("cut")
            return
        _log.info("draining", workers=len(self._children))
        self._end(is_cut=False)
        if not self._started.done():
            self._started.set_result(None)

    def _end(self, *, is_cut: bool) -> None:
        self._is_ending = True
        # Ours too, or new clients would wait in a queue that nobody takes them from.
        self._close_sockets()
        for child in self._children.values():
            child.tell("cut" if is_cut else "drain")
        limit_s = self._settings.server.drain_timeout + DRAIN_GRACE_S
        asyncio.get_running_loop().call_later(limit_s, self._kill_all)

    def _kill_all(self) -> None:
        for child in self._children.values():
            _log.error("worker does not end; killed", worker=child.index, pid=child.process.pid)
            child.process.kill()

    # -- reload

    def _on_reload(self) -> None:
        self._tasks.spawn(self._reload(), "reload")

    async def _reload_for(self, child: Child, serial: int) -> None:
        problems = await self._reload()
        child.tell("reloaded", serial, problems)

    async def _reload(self) -> list[str]:
        """
        Read the file and give it to all workers; the problems.

        Whoever asks while one is under way gets the next one, since the file may have changed after
        it was read.
        """
        if self._next_reload is None:
            self._next_reload = self._tasks.spawn(self._reload_when_free(), "reload of all")
        return await asyncio.shield(self._next_reload)

    async def _reload_when_free(self) -> list[str]:
        async with self._reload_lock:
            self._next_reload = None
            return await self._reload_now()

    async def _reload_now(self) -> list[str]:
        try:
            settings = await asyncio.to_thread(_load, self._config_path)
        except SettingsError as error:
            for problem in error.problems:
                _log.error("reload refused", problem=problem)
            for child in self._children.values():
                child.tell("count", "reload_refused")
                break
            return error.problems
        self._settings = settings
        configure_logging(settings.log)
        self._serial += 1
        waiting: list[asyncio.Future[list[str]]] = []
        for child in self._children.values():
            applied: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
            child.applied[self._serial] = applied
            waiting.append(applied)
            child.tell("settings", self._serial, settings)
        problems: list[str] = []
        if waiting:
            done, late = await asyncio.wait(waiting, timeout=APPLY_TIMEOUT_S)
            for applied in done:
                problems += [line for line in applied.result() if line not in problems]
            if late:
                problems.append(f"{len(late)} workers did not take the settings in time")
        _log.info("reloaded", file=str(self._config_path), problems=problems)
        return problems


def private_directory() -> Path:
    """Make a directory that only this user can enter, with a short path: sockets live in it."""
    made = Path(tempfile.mkdtemp(prefix="headgate-"))
    if len(os.fsencode(made)) > MAX_DIRECTORY_LENGTH:
        made.rmdir()
        made = Path(tempfile.mkdtemp(prefix="headgate-", dir="/tmp"))
    return made


def _load(path: Path) -> Settings:
    settings = load(path, os.environ)
    check_usable(settings)
    return settings


def _spawn(order: Order, channel: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-P", "-m", "proxy.server.child", "--worker", str(order.index)]
    command += ["--of", str(order.workers), "--config", str(order.config_path)]
    return subprocess.Popen(
        [*command, "--channel", str(channel)],
        stdin=subprocess.DEVNULL,
        # The one line on standard output is the parent's.
        stdout=subprocess.DEVNULL,
        pass_fds=(channel, *order.descriptors),
        env=_environment(),
    )


def _environment() -> dict[str, str]:
    # Workers import what this process would, wherever it was started.
    places = [place or os.getcwd() for place in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}


async def _end_of(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process that has said its last word."""
    until_s = monotonic_s() + END_TIMEOUT_S
    while monotonic_s() < until_s:
        code = process.poll()
        if code is not None:
            return code
        await asyncio.sleep(0.02)
    process.kill()
    return process.wait()


def _why(child: Child, code: int) -> Exception:
    if child.problems:
        return SettingsError(child.problems)
    _log.error("worker did not start", worker=child.index, ended=_ending(code))
    return _StartFailed()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
