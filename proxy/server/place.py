"""
A worker process's place among several: what its parent gave it, and the line back to the parent.

A proxy that is one process has none of this. The parent's end of the line is `server.workers`. What
goes to a worker is pickled, because a worker trusts its parent; what comes from one is JSON, because
a parent does not have to trust a worker.
"""

import asyncio
import pickle
import socket
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final

import msgspec

from proxy.server.channel import ChannelClosed, framed, read_message
from proxy.settings.model import Settings

RELOAD_TIMEOUT_S: Final = 120.0


@dataclass(frozen=True)
class Order:
    """
    What a worker process is started with.

    settings     as the parent has them, which may be older than the file
    incarnation  how many workers of this number there were before
    directory    private to this proxy's processes
    secret       random, the same for all workers of one start
    descriptors  listening sockets, inherited
    """

    settings: Settings
    config_path: Path
    index: int
    workers: int
    incarnation: int
    directory: Path
    secret: bytes
    descriptors: tuple[int, ...]


class Commanded(Protocol):
    """A worker process as its parent commands it."""

    async def take(self, settings: Settings) -> list[str]:
        """Take new settings; the problems, if it could not."""

    def count(self, cause: str) -> None:
        """Count what the parent saw."""

    def drain(self) -> None:
        """Let the clients finish, then end."""

    def cut(self) -> None:
        """End now."""

    def parent_gone(self) -> None:
        """The parent has died."""


@final
class ParentLink:
    """The line to the parent process."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._serial = 0
        self._reloads: dict[int, asyncio.Future[list[str]]] = {}
        self._taking: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Take the line into the event loop."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._channel)

    async def listen(self, commanded: Commanded, ready: asyncio.Event) -> None:
        """Do what the parent says until it is gone; settings are taken once `ready` is set."""
        order = asyncio.Lock()
        while self._reader is not None:
            try:
                message = await read_message(self._reader)
            except ChannelClosed:
                commanded.parent_gone()
                return
            word, *values = pickle.loads(message)
            if word == "drain":
                commanded.drain()
            elif word == "cut":
                commanded.cut()
            elif word == "count":
                commanded.count(*values)
            elif word == "settings":
                self._spawn(self._take(commanded, ready, order, *values))
            elif word == "reloaded":
                serial, problems = values
                waiting = self._reloads.pop(serial, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(problems)

    async def _take(
        self,
        commanded: Commanded,
        ready: asyncio.Event,
        order: asyncio.Lock,
        serial: int,
        settings: Settings,
    ) -> None:
        await ready.wait()
        problems = ["internal error, see the log"]
        try:
            async with order:
                problems = await commanded.take(settings)
        finally:
            self.tell({"word": "applied", "serial": serial, "problems": problems})

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    def tell(self, message: dict[str, Any]) -> None:
        """Send the parent a message."""
        if self._writer is not None:
            self._writer.write(framed(msgspec.json.encode(message)))

    async def flush(self) -> None:
        """Wait until all of it has been sent."""
        if self._writer is not None:
            try:
                await self._writer.drain()
            except OSError:
                return

    async def reload(self) -> list[str]:
        """Have the parent read the file again, for all workers; the problems."""
        self._serial += 1
        serial = self._serial
        waiting: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._reloads[serial] = waiting
        self.tell({"word": "reload", "serial": serial})
        try:
            async with asyncio.timeout(RELOAD_TIMEOUT_S):
                return await waiting
        except TimeoutError:
            return [f"the parent process did not reload within {RELOAD_TIMEOUT_S:g} s"]
        finally:
            self._reloads.pop(serial, None)


@dataclass(frozen=True)
class Place:
    """
    Where a worker stands.

    sockets  what it accepts clients from; the parent has them too, so that nobody is refused while
             a worker is replaced
    """

    order: Order
    sockets: tuple[socket.socket, ...]
    parent: ParentLink
