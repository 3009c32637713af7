"""Accepting: sockets and their errors, limits, time-outs, nothing left open."""

import asyncio
import contextlib
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.server.inbox import LoginConnection
from proxy.server.listener import open_tcp_sockets, open_unix_socket, remove_unix_socket
from proxy.server.negotiate import Peer
from proxy.server.tls import ServerTls
from tests.unit.server.peers import (
    ended,
    error_of,
    message,
    open_door,
    packet,
    raw_client,
    startup_packet,
    until,
)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def greet(connection: LoginConnection, peer: Peer, deadline: float) -> None:
    assert connection.inbox is not None
    await connection.inbox.read_first()
    connection.wire.write(message(b"Z", b"U" if peer.is_unix else b"T"))
    await ended(connection)


async def test_clients_come_over_tcp_and_unix(tmp_path: Path) -> None:
    async with open_door(greet, unix_dir=tmp_path) as door:
        async with raw_client(door.port) as client:
            client.send(startup_packet(user="a"))
            assert await client.message() == (b"Z", b"T")
        path = tmp_path / f".s.PGSQL.{door.port}"
        assert path.stat().st_mode & 0o777 == 0o777
        async with raw_client(0, path=path) as client:
            client.send(startup_packet(user="a"))
            assert await client.message() == (b"Z", b"U")
    remove_unix_socket(tmp_path, door.port)
    remove_unix_socket(tmp_path, door.port)
    assert not path.exists()


async def test_tls_is_not_offered_on_a_unix_socket(tmp_path: Path, server_tls: ServerTls) -> None:
    async with (
        open_door(greet, unix_dir=tmp_path, tls=server_tls) as door,
        raw_client(0, path=tmp_path / f".s.PGSQL.{door.port}") as client,
    ):
        client.send(packet(80877103))
        assert await client.read(1) == b"N"


@pytest.mark.parametrize("sent", [b"", b"\0\0\0", startup_packet(user="slow")[:-1]])
async def test_a_slow_client_is_closed_after_the_login_timeout(sent: bytes) -> None:
    async with open_door(greet, login_timeout_s=0.05) as door, raw_client(door.port) as client:
        client.send(sent)
        assert await client.to_end() == b""
        assert door.counters.by_cause == {"login_timeout": 1}
        assert door.listener.pending == 0


@pytest.mark.parametrize("sent", [b"", b"this is no ClientHello" * 10])
async def test_a_failed_tls_handshake_leaves_no_descriptor(
    server_tls: ServerTls, sent: bytes
) -> None:
    async with open_door(greet, tls=server_tls, login_timeout_s=0.1) as door:
        before = 0
        for attempt in range(5):
            async with raw_client(door.port) as client:
                client.send(packet(80877103))
                assert await client.read(1) == b"S"
                client.send(sent)
                await client.to_end()
            await until(lambda: door.listener.pending == 0 and len(door.tasks) == 0)
            if attempt == 0:
                before = descriptors()  # the loop has opened what it needs itself
        await until(lambda: descriptors() <= before)
        assert door.counters.by_cause == {"tls_handshake_failed": 5}


async def test_too_many_logins_under_way() -> None:
    async with open_door(greet, max_pending=1) as door, raw_client(door.port) as first:
        first.send(startup_packet(user="a"))
        await first.message()
        async with raw_client(door.port) as second:
            fields = error_of(await second.to_end())
        assert (fields["S"], fields["C"]) == ("FATAL", "53300")
        assert door.counters.by_cause == {"too_many_pending_logins": 1}


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors_top(), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def descriptors_top() -> int:
    return max(int(name) for name in os.listdir("/proc/self/fd"))


async def test_without_descriptors_it_waits_and_then_goes_on() -> None:
    async with open_door(greet) as door:
        # Takes all numbers below the highest one, so that the limit leaves none.
        client = socket.socket()
        client.setblocking(False)
        fillers = [os.dup(0) for _ in range(8)]
        with no_more_descriptors():
            gaps = []
            with contextlib.suppress(OSError):
                while True:
                    gaps.append(os.dup(0))
            with contextlib.suppress(BlockingIOError):
                client.connect(("127.0.0.1", door.port))
            await until(lambda: door.counters.by_cause.get("accept_no_resources"))
            for gap in gaps:
                os.close(gap)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(client, startup_packet(user="patient"))
        async with asyncio.timeout(10):
            assert await loop.sock_recv(client, 100) == message(b"Z", b"T")
        for filler in fillers:
            os.close(filler)
        client.close()


async def test_stopping_keeps_who_is_there_and_takes_nobody_else() -> None:
    async with open_door(greet) as door, raw_client(door.port) as client:
        client.send(startup_packet(user="a"))
        await client.message()
        door.listener.stop()
        door.listener.stop()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", door.port)
        assert door.listener.pending == 1


def test_an_address_in_use_is_named() -> None:
    first = open_tcp_sockets(["127.0.0.1"], 0, 1, reuse_port=False)
    port = first[0].getsockname()[1]
    try:
        with pytest.raises(SettingsError, match=f"127.0.0.1:{port}.*another server"):
            open_tcp_sockets(["127.0.0.1"], port, 1, reuse_port=False)
    finally:
        first[0].close()


def test_an_address_of_elsewhere_is_named() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1"):
        open_tcp_sockets(["127.0.0.1", "192.0.2.1"], 0, 1, reuse_port=False)
    with pytest.raises(SettingsError, match=r"listen\.host.*no-such-host\.invalid"):
        open_tcp_sockets(["no-such-host.invalid"], 0, 1, reuse_port=False)


def test_workers_share_a_port() -> None:
    first = open_tcp_sockets(["127.0.0.1"], 0, 1, reuse_port=True)
    port = first[0].getsockname()[1]
    second = open_tcp_sockets(["127.0.0.1"], port, 1, reuse_port=True)
    for listening in first + second:
        assert not listening.getblocking()
        listening.close()


def test_the_same_address_twice_is_one_socket() -> None:
    sockets = open_tcp_sockets(["127.0.0.1", "127.0.0.1"], 0, 1, reuse_port=False)
    assert len(sockets) == 1
    sockets[0].close()


def test_a_dead_unix_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    first = open_unix_socket(tmp_path, 6432, 0o770, 1)
    with pytest.raises(SettingsError, match="another server"):
        open_unix_socket(tmp_path, 6432, 0o770, 1)
    first.close()
    second = open_unix_socket(tmp_path, 6432, 0o700, 1)
    assert (tmp_path / ".s.PGSQL.6432").stat().st_mode & 0o777 == 0o700
    second.close()


def test_a_file_in_the_place_of_the_socket_is_kept(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.6432"
    path.write_text("precious")
    with pytest.raises(SettingsError, match="not a socket"):
        open_unix_socket(tmp_path, 6432, 0o770, 1)
    assert path.read_text() == "precious"


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        open_unix_socket(tmp_path / "nowhere", 6432, 0o770, 1)
