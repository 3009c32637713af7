import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.observe.counters import Counters
from proxy.server import control
from proxy.server.cancel import CancelRegistry
from proxy.server.control import ControlServer, Siblings, control_path
from proxy.server.tasks import Tasks


class FakeSession:
    def __init__(self) -> None:
        self.cancelled = 0

    def cancel(self) -> None:
        self.cancelled += 1


@contextlib.asynccontextmanager
async def running(directory: Path, worker: int) -> AsyncIterator[CancelRegistry]:
    cancels = CancelRegistry(Counters(), worker, workers=2)

    async def answer(request: bytes) -> bytes:
        return b"%d heard %s" % (worker, request)

    server = ControlServer(directory, worker, cancels, answer)
    await server.start()
    try:
        yield cancels
    finally:
        await server.stop()


async def test_every_other_worker_answers_in_order(tmp_path: Path) -> None:
    siblings = Siblings(tmp_path, 1, 4, Tasks(Counters()))
    async with running(tmp_path, 0), running(tmp_path, 2), running(tmp_path, 3):
        assert await siblings.ask_all(b"x") == [b"0 heard x", b"2 heard x", b"3 heard x"]


async def test_who_is_not_there_is_left_out(tmp_path: Path) -> None:
    siblings = Siblings(tmp_path, 0, 3, Tasks(Counters()))
    async with running(tmp_path, 2):
        assert await siblings.ask_all(b"x") == [b"2 heard x"]
    assert await siblings.ask_all(b"x") == []


async def test_who_does_not_say_that_it_has_heard_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "HEARD_TIMEOUT_S", 0.05)
    left = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_unix_server(deaf, str(control_path(tmp_path, 1)))
    siblings = Siblings(tmp_path, 0, 2, Tasks(Counters()))
    assert await siblings.ask_all(b"x") == []
    await left.wait()
    server.close()


async def test_a_cancel_request_is_carried_out_there(tmp_path: Path) -> None:
    siblings = Siblings(tmp_path, 0, 2, Tasks(Counters()))
    here = CancelRegistry(Counters(), 0, siblings, workers=2)
    async with running(tmp_path, 1) as there:
        session, other = FakeSession(), FakeSession()
        key = there.register(session, 2)
        there.register(other, 2)
        await here.handle(key.process_id, key.secret_key)
        assert (session.cancelled, other.cancelled) == (1, 0)
        await here.handle(key.process_id, bytes(len(key.secret_key)))
        assert (session.cancelled, other.cancelled) == (1, 0)


async def test_a_cancel_request_for_nobody_does_no_harm(tmp_path: Path) -> None:
    siblings = Siblings(tmp_path, 0, 2, Tasks(Counters()))
    await siblings.forward(1, 1 << 23, b"key!")
    await siblings.forward(200, 200 << 23, b"key!")


async def test_a_dead_workers_socket_is_replaced(tmp_path: Path) -> None:
    control_path(tmp_path, 1).touch()
    siblings = Siblings(tmp_path, 0, 2, Tasks(Counters()))
    async with running(tmp_path, 1):
        assert await siblings.ask_all(b"y") == [b"1 heard y"]
