"""The server in the loop: it listens, answers, leaves the signals alone, and stops."""

import asyncio
import contextlib
import signal

import pytest

from proxy.admin import http
from proxy.admin.side import AdminSide
from proxy.errors import SettingsError
from proxy.server.worker import Worker
from tests.support.ports import take_port
from tests.unit.admin.conftest import settings_for


async def get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_from_start_to_stop(worker: Worker) -> None:
    port = take_port()
    worker.settings = settings_for(worker.config_path.parent, port=port)
    before = signal.getsignal(signal.SIGTERM)
    side = AdminSide(worker)
    await side.start()
    answer = await get(port, "/health/live")
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b'{"status":"alive"}')
    assert signal.getsignal(signal.SIGTERM) is before
    await side.stop()
    with pytest.raises(ConnectionRefusedError):
        await get(port, "/health/live")


async def test_connections_that_say_nothing_are_left(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "REQUEST_TIMEOUT_S", 0.2)
    port = take_port()
    worker.settings = settings_for(worker.config_path.parent, port=port)
    side = AdminSide(worker)
    await side.start()
    for begun in (
        b"",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        b"POST /api/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(10):
                await reader.read()
        writer.close()
    await side.stop()


async def test_health_is_told_however_many_say_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 4)
    port = take_port()
    worker.settings = settings_for(worker.config_path.parent, port=port)
    side = AdminSide(worker)
    await side.start()
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
    assert (await get(port, "/health/live")).startswith(b"HTTP/1.1 200")
    left = 0
    for reader, writer in silent[:5]:
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        left += 1
        writer.close()
    assert left == 5
    for _, writer in silent[5:]:
        writer.close()
    await side.stop()


async def test_an_address_that_is_taken(worker: Worker) -> None:
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    worker.settings = settings_for(worker.config_path.parent, port=port)
    with pytest.raises(SettingsError, match="admin"):
        await AdminSide(worker).start()
    taken.close()
    await taken.wait_closed()


async def test_no_port_is_no_server(worker: Worker) -> None:
    worker.settings = settings_for(worker.config_path.parent, port=0)
    side = AdminSide(worker)
    await side.start()
    await side.stop()
    assert len(worker.tasks) == 0
