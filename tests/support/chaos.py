"""
A TCP relay that misbehaves: cuts, delays, slices and duplicates, and servers that say odd things.

It runs on a thread of its own, so that tests may block. What it does to a chunk is decided by dice
with a seed, or by a trigger in the bytes that the client side sends.
"""

import asyncio
import contextlib
import random
import socket
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from tests.support.ports import take_port


@dataclass
class Weather:
    """Chances for each chunk, 0 to 1."""

    cut: float = 0.0
    delay: float = 0.0
    slice: float = 0.0
    duplicate: float = 0.0
    max_delay_s: float = 0.05


CALM = Weather()


@dataclass
class Oddity:
    """
    What the server side says when a client's bytes hold a trigger.

    answer   sent in place of the real server's, which never hears of it
    then     "close": the connection is closed; "hang": nothing more is sent; "endless": the answer
             is repeated until the other side closes; "pass": the real server goes on
    """

    answer: bytes
    then: str = "close"


class ChaosRelay:
    """Listens on `port` and relays to `target`; use it as a context manager."""

    def __init__(self, target: int, seed: int = 0) -> None:
        self.target = target
        self.port = take_port()
        self.weather = CALM
        self.oddities: dict[bytes, Oddity] = {}
        self.connections = 0
        self.refuses = False
        self._dice = random.Random(seed)
        self._pairs: dict[asyncio.StreamWriter, asyncio.StreamWriter] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> "ChaosRelay":
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut_all(self) -> None:
        """Cut every connection now."""
        self._run(self._cut_all())

    def open_connections(self) -> int:
        """Connections that stand."""
        return len(self._pairs)

    def _run(self, work: "Coroutine[Any, Any, None]") -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._on_client, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut_all()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut_all(self) -> None:
        for client, server in list(self._pairs.items()):
            _abort(client)
            _abort(server)

    async def _on_client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuses:
            _abort(writer)
            return
        try:
            server_reader, server = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            _abort(writer)
            return
        for each in (writer, server):
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pairs[writer] = server
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._relay(reader, server, writer, True))
                group.create_task(self._relay(server_reader, writer, server, False))
        except* (ConnectionError, OSError):
            pass
        finally:
            self._pairs.pop(writer, None)
            _abort(writer)
            _abort(server)

    async def _relay(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        is_from_client: bool,
    ) -> None:
        dice = self._dice
        while True:
            data = await source.read(65_536)
            if not data:
                raise ConnectionResetError
            if is_from_client and self.oddities and await self._odd(data, back):
                return
            weather = self.weather
            if weather is not CALM:
                if dice.random() < weather.cut:
                    # Sometimes with half of what there was.
                    target.write(data[: dice.randrange(len(data) + 1)])
                    raise ConnectionResetError
                if dice.random() < weather.delay:
                    await asyncio.sleep(dice.random() * weather.max_delay_s)
                if dice.random() < weather.duplicate:
                    data += data
                if dice.random() < weather.slice:
                    for position in range(min(len(data), 40)):
                        target.write(data[position : position + 1])
                        await asyncio.sleep(0)
                    data = data[40:]
            target.write(data)
            await target.drain()

    async def _odd(self, data: bytes, back: asyncio.StreamWriter) -> bool:
        for trigger, oddity in self.oddities.items():
            if trigger not in data:
                continue
            back.write(oddity.answer)
            with contextlib.suppress(ConnectionError):
                await back.drain()
                while oddity.then == "endless":
                    back.write(oddity.answer)
                    await back.drain()
            if oddity.then == "pass":
                return False
            if oddity.then == "hang":
                await asyncio.sleep(3600)
            if oddity.then == "close":
                back.close()
            raise ConnectionResetError
        return False


def _abort(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(Exception):
        if writer.is_closing():
            return
        writer.close()
