"""
From one worker process to the others: cancel requests, and questions of operators.

Each worker listens on a Unix socket of its own in the parent's private directory, so no other user
can reach it. A request is one connection: a word that says what it is, its content, and an answer
when it is done. The worker that is asked says at once that it has heard; one that does not is hung
or just being replaced, and is left out. Knows nothing of what questions mean.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, final

import structlog

from proxy.server.cancel import CancelForwarder, CancelRegistry
from proxy.server.channel import ChannelClosed, framed, read_message
from proxy.server.tasks import Tasks

HEARD_TIMEOUT_S: Final = 2.0
"""Until a worker says that it has heard. One whose loop is blocked longer than this is ill."""

CANCEL_TIMEOUT_S: Final = 5.0
ANSWER_TIMEOUT_S: Final = 90.0
"""Until the answer: a reload may compile plugins."""

MAX_REQUESTS: Final = 64
"""Requests carried out at the same time in one worker; more wait in the kernel's queue."""

_HEARD: Final = b"heard"
_CANCEL: Final = b"cancel"
_ASK: Final = b"ask"
_PROCESS_ID_BYTES: Final = 4

Answerer = Callable[[bytes], Awaitable[bytes]]

_log = structlog.get_logger("headgate.control")


def control_path(directory: Path, worker: int) -> Path:
    """Where a worker listens."""
    return directory / f"w{worker}"


@final
class ControlServer:
    """What the other workers may ask of this one."""

    def __init__(
        self, directory: Path, worker: int, cancels: CancelRegistry, answer: Answerer
    ) -> None:
        self._path = control_path(directory, worker)
        self._cancels = cancels
        self._answer = answer
        self._server: asyncio.AbstractServer | None = None
        self._free = asyncio.Semaphore(MAX_REQUESTS)

    async def start(self) -> None:
        """Listen; a socket that a dead worker of this number left is replaced."""
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(self._path))

    async def stop(self) -> None:
        """Listen no more."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._free:
                kind = await read_message(reader)
                content = await read_message(reader)
                writer.write(framed(_HEARD))
                writer.write(framed(await self._carry_out(kind, content)))
                await writer.drain()
        except (ChannelClosed, OSError):
            _log.debug("another worker went away in the middle of its request")
        finally:
            writer.close()

    async def _carry_out(self, kind: bytes, content: bytes) -> bytes:
        if kind == _CANCEL:
            process_id = int.from_bytes(content[:_PROCESS_ID_BYTES], "big")
            self._cancels.cancel_here(process_id, content[_PROCESS_ID_BYTES:])
            return b""
        if kind == _ASK:
            return await self._answer(content)
        _log.error("another worker asked for what is not known here")
        return b""


@final
class Siblings(CancelForwarder):
    """The other workers, as this one reaches them."""

    def __init__(self, directory: Path, worker: int, workers: int, tasks: Tasks) -> None:
        self._directory = directory
        self._worker = worker
        self._workers = workers
        self._tasks = tasks

    async def forward(self, worker: int, process_id: int, secret_key: bytes) -> None:
        """See CancelForwarder."""
        if not 0 <= worker < self._workers:
            return
        content = process_id.to_bytes(_PROCESS_ID_BYTES, "big") + secret_key
        if await self._request(worker, _CANCEL, content, CANCEL_TIMEOUT_S) is None:
            _log.warning("cancel request could not be passed on", worker=worker)

    async def ask_all(self, request: bytes) -> list[bytes]:
        """Every other worker's answer, in the order of their numbers; those without are left out."""
        asked = [
            self._tasks.spawn(
                self._request(worker, _ASK, request, ANSWER_TIMEOUT_S), "ask another worker"
            )
            for worker in range(self._workers)
            if worker != self._worker
        ]
        answers: list[bytes] = []
        for task in asked:
            answer = await task
            if answer is not None:
                answers.append(answer)
        return answers

    async def _request(
        self, worker: int, kind: bytes, content: bytes, timeout_s: float
    ) -> bytes | None:
        """Carry a request to a worker; None: it did not answer."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(HEARD_TIMEOUT_S) as limit:
                path = control_path(self._directory, worker)
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(framed(kind) + framed(content))
                await read_message(reader)
                limit.reschedule(asyncio.get_running_loop().time() + timeout_s)
                return await read_message(reader)
        except (ChannelClosed, OSError, TimeoutError) as error:
            _log.warning("worker does not answer", worker=worker, reason=repr(error))
            return None
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
