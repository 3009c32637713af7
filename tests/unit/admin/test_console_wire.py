"""The console's protocol, byte for byte."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admin.console import Console, Operator
from proxy.admin.console_wire import MAX_MESSAGE_BYTES, ConsoleSession
from proxy.admin.side import AdminSide
from proxy.errors import Refusal
from proxy.protocol import backend, frontend, tags
from proxy.server.worker import Worker
from proxy.session.context import ClientContext
from proxy.session.ports import Wire
from proxy.session.tuning import CancelKey


class Recorder(Wire):
    def __init__(self) -> None:
        self.data = b""
        self.is_closed = False
        self.is_paused = False

    def write(self, data: bytes) -> None:
        self.data += data

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def messages(self) -> list[tuple[int, bytes]]:
        found = []
        data, self.data = self.data, b""
        while data:
            end = 1 + int.from_bytes(data[1:5], "big")
            found.append((data[0], data[5:end]))
            data = data[end:]
        return found

    def letters(self) -> str:
        return "".join(chr(tag) for tag, _ in self.messages())


class Client:
    def __init__(self, side: AdminSide, worker: Worker, user: str = "admin") -> None:
        context = ClientContext("w0-1", "127.0.0.1", False, 0.0)
        context.user = user
        self.wire = Recorder()
        self.session = ConsoleSession(
            Console(side.desk), Operator(context, side.desk), self.wire, worker.tasks.spawn
        )
        self.session.start(CancelKey(7, b"1234"))

    async def send(self, *frames: bytes, until: int = tags.READY_FOR_QUERY) -> str:
        self.session.receive_from_frontend(b"".join(frames))
        return await self.answer(until)

    async def answer(self, until: int) -> str:
        async with asyncio.timeout(5):
            while not self.wire.is_closed:
                whole = self.wire.data
                if until in {tag for tag, _ in self.wire.messages()}:
                    self.wire.data = whole
                    break
                self.wire.data = whole
                await asyncio.sleep(0)
        return self.wire.letters()


@pytest.fixture
async def client(side: AdminSide, worker: Worker) -> AsyncIterator[Client]:
    made = Client(side, worker)
    assert made.wire.letters() == "S" * 8 + "KZ"
    yield made
    made.session.on_frontend_lost()


def query(sql: str) -> bytes:
    return frontend.Query(sql.encode()).encode()


def extended(sql: str, formats: list[int] | None = None) -> list[bytes]:
    return [
        frontend.Parse(b"", sql.encode(), []).encode(),
        frontend.Bind(b"", b"", [], [], formats or []).encode(),
        frontend.Describe(frontend.PORTAL, b"").encode(),
        frontend.Execute(b"", 0).encode(),
        frontend.Sync().encode(),
    ]


async def test_simple(client: Client) -> None:
    assert await client.send(query("SHOW NODES")) == "TDDCZ"
    assert await client.send(query("SHOW VERSION; SHOW VERSION")) == "TDCTDCZ"
    assert await client.send(query("RECONNECT")) == "CZ"
    assert await client.send(query("")) == "IZ"
    assert await client.send(query("nonsense")) == "EZ"
    assert await client.send(query("SHOW VERSION; nonsense; SHOW VERSION")) == "TDCEZ"


async def test_extended(client: Client) -> None:
    assert await client.send(*extended("SHOW NODES")) == "12TDDCZ"
    assert await client.send(*extended("RECONNECT")) == "12nCZ"
    assert await client.send(*extended("")) == "12nIZ"


async def test_named_statements(client: Client) -> None:
    answer = await client.send(
        frontend.Parse(b"s", b"SHOW LISTS", []).encode(),
        frontend.Describe(frontend.STATEMENT, b"s").encode(),
        frontend.Sync().encode(),
    )
    assert answer == "1tTZ"
    bind = frontend.Bind(b"p", b"s", [], [], []).encode()
    execute = frontend.Execute(b"p", 0).encode()
    assert (await client.send(bind, execute, frontend.Sync().encode()))[:2] == "2D"
    close = frontend.Close(frontend.STATEMENT, b"s").encode()
    assert await client.send(close, bind, execute, frontend.Sync().encode()) == "3EZ"


async def test_an_error_skips_to_sync(client: Client) -> None:
    answer = await client.send(
        frontend.Parse(b"", b"SHOW VERSION", []).encode(),
        frontend.Bind(b"", b"", [], [b"1"], []).encode(),
        frontend.Execute(b"", 0).encode(),
        frontend.Parse(b"", b"SHOW VERSION", []).encode(),
        frontend.Sync().encode(),
    )
    assert answer == "1EZ"
    assert await client.send(query("SHOW VERSION")) == "TDCZ"


async def test_binary_results(client: Client) -> None:
    client.session.receive_from_frontend(b"".join(extended("SELECT 1", [1])))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while b"SELECT 1" not in client.wire.data:  # noqa: ASYNC110
            await asyncio.sleep(0)
    rows = [body for tag, body in client.wire.messages() if tag == tags.DATA_ROW]
    assert backend.data_row_values(rows[0]) == [(1).to_bytes(8, "big")]


async def test_text_that_is_not_utf8(client: Client) -> None:
    assert await client.send(frontend.Query(b"SHOW \xff").encode()) == "EZ"


async def test_who_may_not_be_here(side: AdminSide, worker: Worker) -> None:
    client = Client(side, worker, "stranger")
    fields = backend.error_fields(client.wire.messages()[0][1])
    assert (fields["S"], fields["C"]) == ("FATAL", "42501")
    assert client.wire.is_closed
    client.session.receive_from_frontend(query("SHUTDOWN"))
    assert client.wire.data == b""


@pytest.mark.parametrize(
    "data", [b"Q\x00\x00\x00\x03", b"Q" + (MAX_MESSAGE_BYTES + 1).to_bytes(4, "big")]
)
async def test_a_bad_length_ends_it(client: Client, data: bytes) -> None:
    client.session.receive_from_frontend(data)
    fields = backend.error_fields(client.wire.messages()[0][1])
    assert fields["C"] == "08P01"
    assert client.wire.is_closed


async def test_a_message_that_cannot_be_read_ends_it(client: Client) -> None:
    assert (await client.send(b"B\x00\x00\x00\x05x")) == "E"
    assert client.wire.is_closed


async def test_terminate(client: Client) -> None:
    await client.send(b"X\x00\x00\x00\x04")
    assert client.wire.is_closed


async def test_a_function_call_is_refused(client: Client) -> None:
    assert await client.send(b"F\x00\x00\x00\x04", frontend.Sync().encode()) == "EZ"


async def test_drain_and_fatal(client: Client, side: AdminSide, worker: Worker) -> None:
    client.session.drain()
    assert backend.error_fields(client.wire.messages()[0][1])["C"] == "57P01"
    other = Client(side, worker)
    other.wire.messages()
    other.session.fatal(Refusal("57P01", "gone"))
    other.session.fatal(Refusal("57P01", "gone"))
    assert other.wire.letters() == "E"


async def test_many_messages_are_held_back(side: AdminSide, worker: Worker) -> None:
    client = Client(side, worker)
    client.session.receive_from_frontend(query("SHOW VERSION") * 1500)
    assert client.wire.is_paused
    async with asyncio.timeout(10):
        while client.wire.data.count(b"Headgate ") < 1500:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert not client.wire.is_paused
    client.session.on_frontend_lost()


@settings(
    max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(st.lists(st.integers(1, 40), max_size=12))
async def test_any_chunking_gives_the_same(
    side: AdminSide, worker: Worker, cuts: list[int]
) -> None:
    client = Client(side, worker)
    client.wire.messages()
    data = query("SHOW VERSION") + b"".join(extended("SHOW NODES"))
    for size in cuts:
        client.session.receive_from_frontend(data[:size])
        data = data[size:]
    client.session.receive_from_frontend(data)
    async with asyncio.timeout(5):
        while client.wire.data.count(b"Z\x00\x00\x00\x05I") < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert client.wire.letters() == "TDCZ12TDDCZ"
    client.session.on_frontend_lost()
