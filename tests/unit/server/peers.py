"""Peers of the handshake in one process: connections, a listener, raw clients, scripted servers."""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import cast

from proxy.observe.counters import Counters
from proxy.server.cancel import CancelRegistry
from proxy.server.inbox import Inbox, LoginConnection, PeerLeft
from proxy.server.listener import Listener, open_tcp_sockets, open_unix_socket
from proxy.server.negotiate import Peer
from proxy.server.tasks import Tasks
from proxy.server.tls import NO_TLS, ServerTls
from proxy.server.wire import TransportWire
from proxy.session.link import BackendLink
from proxy.session.ports import Wire


class FakeWire(Wire):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.sent = b""
        self.calls: list[str] = []
        self.is_closed = False
        self.is_aborted = False

    def write(self, data: bytes) -> None:
        self.sent += data

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


class Connection(asyncio.Protocol):
    """The smallest connection that can be logged in over, on either leg."""

    def __init__(self) -> None:
        self.inbox: Inbox | None = Inbox()
        self.link: BackendLink | None = None
        self.lost = asyncio.Event()
        self._wire: TransportWire | None = None

    @property
    def wire(self) -> Wire:
        assert self._wire is not None
        return self._wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = TransportWire(cast(asyncio.Transport, transport))
        assert self.inbox is not None
        self.inbox.wire = self._wire

    def data_received(self, data: bytes) -> None:
        assert self.inbox is not None
        self.inbox.feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        assert self.inbox is not None
        self.inbox.end()
        self.lost.set()

    def attach(self, link: BackendLink) -> None:
        self.link = link


class Door:
    """A listener on a free port (and on a Unix socket) with everything it needs."""

    def __init__(
        self,
        on_client: Callable[[LoginConnection, Peer, float], Awaitable[None]],
        tls: ServerTls = NO_TLS,
        login_timeout_s: float = 5.0,
        max_pending: int = 100,
        unix_dir: Path | None = None,
    ) -> None:
        self.counters = Counters()
        self.tasks = Tasks(self.counters)
        self.cancels = CancelRegistry(self.counters)
        self.tls = tls
        self.login_timeout_s = login_timeout_s
        self.max_pending = max_pending
        self.connections: list[Connection] = []
        self._on_client = on_client
        sockets = open_tcp_sockets(["127.0.0.1"], 0, 16, reuse_port=False)
        self.port = int(sockets[0].getsockname()[1])
        if unix_dir is not None:
            sockets.append(open_unix_socket(unix_dir, self.port, 0o777, 16))
        self.listener = Listener(
            self.tasks,
            self.counters,
            self.cancels,
            self._make,
            self._serve,
            lambda: self.tls,
            lambda: self.login_timeout_s,
            lambda: self.max_pending,
        )
        self.listener.start(sockets)

    def _make(self) -> Connection:
        connection = Connection()
        self.connections.append(connection)
        return connection

    async def _serve(self, connection: LoginConnection, peer: Peer, deadline: float) -> None:
        await self._on_client(connection, peer, deadline)

    async def close(self) -> None:
        self.listener.stop()
        await self.tasks.cancel_all()
        for connection in self.connections:
            if connection._wire is not None:
                connection.wire.abort()
                await connection.lost.wait()


@contextlib.asynccontextmanager
async def open_door(
    on_client: Callable[[LoginConnection, Peer, float], Awaitable[None]], **options: object
) -> AsyncIterator[Door]:
    """Keep a door open for the length of a block."""
    door = Door(on_client, **options)  # type: ignore[arg-type]
    try:
        yield door
    finally:
        await door.close()


class RawClient:
    """A client that sends exactly what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.readexactly(size)

    async def message(self) -> tuple[bytes, bytes]:
        head = await self.read(5)
        return head[:1], await self.read(int.from_bytes(head[1:], "big") - 4)

    async def to_end(self) -> bytes:
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read()
            return b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        async with asyncio.timeout(10):
            await self.writer.start_tls(context, server_hostname="localhost")

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def raw_client(
    port: int, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[RawClient]:
    """Connect a raw client for the length of a block."""
    if path is not None:
        streams = await asyncio.open_unix_connection(str(path))
    elif tls is not None:
        streams = await asyncio.open_connection(
            "127.0.0.1", port, ssl=tls, server_hostname="localhost"
        )
    else:
        streams = await asyncio.open_connection("127.0.0.1", port)
    client = RawClient(*streams)
    try:
        yield client
    finally:
        await client.close()


class ScriptedServer:
    """A server that does for each connection what a test's coroutine says, and notes failures."""

    def __init__(self, script: Callable[[RawClient], Awaitable[None]]) -> None:
        self._script = script
        self._failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self.connections = 0
        self.port = 0

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = RawClient(reader, writer)
        try:
            async with asyncio.timeout(10):
                await self._script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except AssertionError as error:
            self._failures.append(error)
        finally:
            await peer.close()
            self._tasks.discard(task)

    async def __aenter__(self) -> "ScriptedServer":
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        assert not self._failures, self._failures


def message(tag: bytes, body: bytes) -> bytes:
    """One typed message."""
    return tag + struct.pack("!I", len(body) + 4) + body


def packet(code: int, body: bytes = b"") -> bytes:
    """One untyped first packet."""
    return struct.pack("!II", len(body) + 8, code) + body


def startup_packet(protocol: int = 196608, **parameters: str) -> bytes:
    """A StartupMessage; `_pq_` and dots in names are written as double underscores."""
    body = b"".join(
        name.replace("__", ".").encode() + b"\0" + value.encode() + b"\0"
        for name, value in parameters.items()
    )
    return packet(protocol, body + b"\0")


def error_of(data: bytes) -> dict[str, str]:
    """The fields of the ErrorResponse that `data` is, whole."""
    assert data[:1] == b"E", data
    assert int.from_bytes(data[1:5], "big") == len(data) - 1
    fields = data[5:].rstrip(b"\0").split(b"\0")
    return {field[:1].decode(): field[1:].decode() for field in fields}


async def ended(connection: LoginConnection) -> None:
    """Wait until the peer has left; what it still sends is dropped."""
    assert connection.inbox is not None
    with contextlib.suppress(PeerLeft):
        while True:
            await connection.inbox.read_message()


async def until(condition: Callable[[], object]) -> None:
    """Give the loop turns until a condition holds that nothing announces; fail after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
    return client, server
