"""
The same raw messages to a server and through the proxy, and the two traces compared.

A script is a list of bytes to send and of things to wait for. A trace is what came back, frame by
frame, with only that replaced which differs between two connections to the same server as well:
process ids, OIDs of what a test makes, and in which file of the server an error was raised.
"""

import contextlib
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import psycopg

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from proxy.protocol import frontend
from tests.support.system import ProxyFactory, RunningProxy

TIMEOUT_S: Final = 10.0
FIRST_OWN_OID: Final = 16384
SOURCE_FIELDS: Final = b"FLR"
"""Fields of an error that name a place in the server's source; the proxy's own errors have none."""

SYNC: Final = frontend.SYNC
FLUSH: Final = frontend.FLUSH
TERMINATE: Final = frontend.TERMINATE
COPY_DONE: Final = frontend.COPY_DONE


class Until:
    """Wait for `count` frames of these types; the end of the connection ends any wait."""

    def __init__(self, tags: bytes, count: int = 1) -> None:
        self.tags = tags
        self.count = count


READY: Final = Until(b"Z")
CLOSED: Final = Until(b"")


def ready(count: int) -> Until:
    """Wait for so many ReadyForQuery."""
    return Until(b"Z", count)


Script = Sequence[bytes | Until]


def query(sql: str) -> bytes:
    return frontend.encode_query(sql.encode())


def parse(name: str, sql: str, oids: Sequence[int] = ()) -> bytes:
    return frontend.Parse(name.encode(), sql.encode(), list(oids)).encode()


def bind(
    name: str = "",
    parameters: Sequence[bytes | None] = (),
    portal: str = "",
    results: Sequence[int] = (),
) -> bytes:
    return frontend.Bind(
        portal.encode(), name.encode(), [], list(parameters), list(results)
    ).encode()


def describe(kind: str, name: str = "") -> bytes:
    return frontend.Describe(ord(kind), name.encode()).encode()


def close(kind: str, name: str = "") -> bytes:
    return frontend.Close(ord(kind), name.encode()).encode()


def execute(portal: str = "", max_rows: int = 0) -> bytes:
    return frontend.Execute(portal.encode(), max_rows).encode()


def run(sql: str) -> bytes:
    """One statement by the extended protocol, unnamed, without Sync."""
    return parse("", sql) + bind() + describe("P") + execute()


def copy_data(data: bytes) -> bytes:
    return frontend.CopyData(data).encode()


def message(tag: bytes, body: bytes) -> bytes:
    return tag + struct.pack("!I", len(body) + 4) + body


class Frame:
    """One message of a server, as it came."""

    def __init__(self, tag: bytes, body: bytes) -> None:
        self.tag = tag
        self.body = body

    @property
    def fields(self) -> dict[str, str]:
        """Fields of an ErrorResponse or NoticeResponse."""
        return {
            chunk[:1].decode(): chunk[1:].decode(errors="replace")
            for chunk in self.body.split(b"\x00")
            if chunk
        }

    @property
    def values(self) -> list[bytes | None]:
        """Values of a DataRow."""
        (count,) = struct.unpack_from("!H", self.body)
        found: list[bytes | None] = []
        pos = 2
        for _ in range(count):
            (size,) = struct.unpack_from("!i", self.body, pos)
            pos += 4
            found.append(None if size < 0 else self.body[pos : pos + size])
            pos += max(size, 0)
        return found

    def normal(self) -> str:
        """The frame without what differs between two connections to one server."""
        body = self.body
        if self.tag in (b"E", b"N"):
            kept = [chunk for chunk in body.split(b"\x00") if chunk[:1] not in SOURCE_FIELDS]
            body = b"\x00".join(kept)
        elif self.tag == b"A":
            body = b"pid_" + body[4:]
        elif self.tag == b"T":
            body = _without_own_oids(body)
        return f"{self.tag.decode('latin-1')} {body!r}"


def _without_own_oids(body: bytes) -> bytes:
    (count,) = struct.unpack_from("!H", body)
    pieces = [body[:2]]
    pos = 2
    for _ in range(count):
        end = body.index(0, pos) + 1
        (table,) = struct.unpack_from("!I", body, end)
        pieces.append(body[pos:end])
        pieces.append(b"\xff\xff\xff\xff" if table >= FIRST_OWN_OID else body[end : end + 4])
        pieces.append(body[end + 4 : end + 18])
        pos = end + 18
    return b"".join(pieces)


class Peer:
    """One raw client connection: logged in, its greeting read."""

    def __init__(self, port: int, user: str = "postgres", database: str = "rules", **startup: str):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.frames: list[Frame] = []
        self.is_closed = False
        words = {"user": user, "database": database, **startup}
        body = b"".join(f"{k}\0{v}\0".encode() for k, v in words.items()) + b"\0"
        self.socket.sendall(struct.pack("!II", len(body) + 8, 196608) + body)
        self.greeting = self.wait(READY)
        self.key = next((frame.body for frame in self.greeting if frame.tag == b"K"), b"")
        self.frames = []

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        # Who has been sent away may still read why.
        with contextlib.suppress(OSError):
            self.socket.sendall(data)

    def wait(self, until: Until) -> list[Frame]:
        """Receive until it holds, or the connection has ended; the frames since the last wait."""
        start = len(self.frames)
        missing = until.count
        deadline = time.monotonic() + TIMEOUT_S
        while until.tags == b"" or missing > 0:
            frame = self._cut()
            if frame is not None:
                self.frames.append(frame)
                if frame.tag in until.tags and until.tags:
                    missing -= 1
                continue
            if self.is_closed:
                break
            if time.monotonic() > deadline:
                raise AssertionError(f"still waiting for {until.tags!r} behind {self.trace()}")
            self._receive()
        return self.frames[start:]

    def quiet(self, seconds: float) -> bool:
        """Whether nothing comes for so long: for what must never be answered."""
        self.socket.settimeout(seconds)
        try:
            return self._cut() is None and not self._receive()
        finally:
            self.socket.settimeout(TIMEOUT_S)

    def ask(self, data: bytes, until: Until = READY) -> list[Frame]:
        self.send(data)
        return self.wait(until)

    def value(self, sql: str) -> str:
        """The one value of a simple Query."""
        (row,) = [frame for frame in self.ask(query(sql)) if frame.tag == b"D"]
        return (row.values[0] or b"").decode()

    def pid(self) -> int:
        """The process that serves this client now."""
        return int(self.value("SELECT pg_backend_pid()"))

    def play(self, script: Script) -> None:
        for step in script:
            if isinstance(step, bytes):
                self.send(step)
            else:
                self.wait(step)

    def trace(self) -> list[str]:
        return [frame.normal() for frame in self.frames] + (["closed"] if self.is_closed else [])

    def receive(self) -> None:
        """Take what is there, as whole frames."""
        self._receive()
        while (frame := self._cut()) is not None:
            self.frames.append(frame)

    def _cut(self) -> Frame | None:
        if len(self.buffer) < 5:
            return None
        (length,) = struct.unpack_from("!I", self.buffer, 1)
        if len(self.buffer) < length + 1:
            return None
        frame = Frame(self.buffer[:1], self.buffer[5 : length + 1])
        self.buffer = self.buffer[length + 1 :]
        return frame

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return False
        except OSError:
            data = b""
        if not data:
            self.is_closed = True
            return False
        self.buffer += data
        return True


class Differential:
    """A server, and a proxy in front of it with a pool of four connections."""

    def __init__(self, server: EmbeddedPostgres, proxy: RunningProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.admin: psycopg.Connection[Any] = psycopg.connect(
            f"host=127.0.0.1 port={server.port} user=postgres dbname=rules", autocommit=True
        )

    def direct(self, **startup: str) -> Peer:
        return Peer(self.server.port, **startup)

    def through(self, **startup: str) -> Peer:
        return Peer(self.proxy.port, **startup)

    def sql(self, text: str) -> None:
        """Run SQL at the server itself."""
        self.admin.execute(text.encode())

    def row(self, text: str) -> tuple[Any, ...]:
        """The first row of a query at the server itself."""
        row = self.admin.execute(text.encode()).fetchone()
        assert row is not None
        return tuple(row)

    def same(self, script: Script, before: str = "") -> list[str]:
        """Play a script on both; assert that the traces are the same, and return it."""
        traces: list[list[str]] = []
        for port in (self.server.port, self.proxy.port):
            if before:
                self.sql(before)
            with Peer(port) as peer:
                peer.play(script)
                if not peer.is_closed:
                    # Whatever a script does, the connection is in step at its end.
                    peer.play([query("ROLLBACK"), READY, query("SELECT 'in step'"), READY])
                traces.append(peer.trace())
        if traces[1] != traces[0]:
            raise AssertionError(difference(traces[0], traces[1]))
        return traces[0]

    def usable(self) -> None:
        """A new client is served: nothing of the last one is in its way."""
        with self.through() as peer:
            assert peer.value("SELECT 'usable'") == "usable"

    def close(self) -> None:
        self.admin.close()


class Elsewhere:
    """While it lasts, `peer` is served by another connection than before."""

    def __init__(self, both: Differential, peer: Peer) -> None:
        self.both = both
        self.before = peer.pid()
        self.peer = peer
        self.others: list[Peer] = []

    def __enter__(self) -> "Elsewhere":
        for _ in range(3):
            other = self.both.through()
            self.others.append(other)
            other.ask(query("BEGIN"))
            if other.pid() == self.before:
                return self
        raise AssertionError("the connection could not be taken")

    def __exit__(self, *_: object) -> None:
        for other in self.others:
            other.socket.close()

    def after(self) -> None:
        """Make sure that it really was another one."""
        assert self.peer.pid() != self.before


def make_differential(
    workspace: Workspace,
    primary: EmbeddedPostgres,
    standby: EmbeddedStandby,
    name: str,
    prepare: Callable[[RunningProxy], None] | None = None,
    **sections: Any,
) -> Iterator[Differential]:
    """
    For a fixture: database `rules` with one table, and a proxy in front.

    prepare  changes the proxy's directory before it starts, e.g. puts plugins there
    """
    with psycopg.connect(
        f"host=127.0.0.1 port={primary.port} user=postgres dbname=postgres", autocommit=True
    ) as admin:
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = 'rules'").fetchone():
            admin.execute("CREATE DATABASE rules")
    with psycopg.connect(
        f"host=127.0.0.1 port={primary.port} user=postgres dbname=rules", autocommit=True
    ) as admin:
        admin.execute(
            "CREATE TABLE IF NOT EXISTS item (id int PRIMARY KEY, label text);"
            "INSERT INTO item VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')"
            " ON CONFLICT DO NOTHING"
        )
    factory = ProxyFactory(
        workspace,
        {
            "auth": {"method": "trust"},
            "pool": {"size": 4, "connect_timeout": "3s", "wait_timeout": "5s"},
            "routing": {"reads": "primary", "check_interval": "500ms"},
            "monitor": {"user": "postgres", "database": "postgres"},
            "node": [
                {"name": "pg1", "host": "127.0.0.1", "port": primary.port},
                {"name": "pg2", "host": "127.0.0.1", "port": standby.port},
            ],
            "database": [{"name": "*"}],
        },
        name,
    )
    try:
        running = factory(start=False, **sections)
        if prepare is not None:
            prepare(running)
        differential = Differential(primary, running.start())
        try:
            yield differential
        finally:
            differential.close()
    finally:
        factory.close()


def difference(direct: Sequence[str], proxied: Sequence[str]) -> str:
    """Where two traces part, with what came before."""
    at = 0
    while at < min(len(direct), len(proxied)) and direct[at] == proxied[at]:
        at += 1
    before = "".join(f"\n    both      {line}" for line in direct[max(0, at - 4) : at])
    server = "".join(f"\n    server    {line}" for line in direct[at : at + 4])
    proxy = "".join(f"\n    proxy     {line}" for line in proxied[at : at + 4])
    return f"the traces part at frame {at}:{before}{server}{proxy}"


def sqlstates(trace: Sequence[str]) -> list[str]:
    """The SQLSTATEs of the errors in a trace, in order."""
    found = [re.search(r"\\x00C([0-9A-Z]{5})", line) for line in trace if line.startswith("E ")]
    return [match.group(1) for match in found if match is not None]
