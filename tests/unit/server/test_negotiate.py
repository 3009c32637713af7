"""The first packets, through a real listener: what is answered, what is refused, what is closed."""

import asyncio
import ssl
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.observe.counters import Counters
from proxy.protocol import tags
from proxy.server.cancel import CancelRegistry
from proxy.server.inbox import LoginConnection
from proxy.server.negotiate import Peer, negotiate
from proxy.server.rawsocket import RawSocket
from proxy.server.tls import NO_TLS, ServerTls
from tests.unit.server.peers import (
    connected_pair,
    ended,
    error_of,
    message,
    open_door,
    packet,
    raw_client,
    startup_packet,
    until,
)

SSL_REQUEST = packet(tags.SSL_REQUEST)
GSSENC_REQUEST = packet(tags.GSSENC_REQUEST)


class Arrivals:
    """Notes who came in, and the first packet of each."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.packets: list[bytes] = []
        self.arrived = asyncio.Event()

    async def __call__(self, connection: LoginConnection, peer: Peer, deadline: float) -> None:
        assert deadline > asyncio.get_running_loop().time()
        assert connection.inbox is not None
        self.packets.append(await connection.inbox.read_first())
        self.peers.append(peer)
        connection.wire.write(message(b"Z", b"I"))
        self.arrived.set()
        await ended(connection)


async def test_a_startup_packet_in_clear_goes_straight_on() -> None:
    arrivals = Arrivals()
    async with open_door(arrivals) as door, raw_client(door.port) as client:
        client.send(startup_packet(user="alice"))
        assert await client.message() == (b"Z", b"I")
    assert arrivals.packets == [startup_packet(user="alice")]
    assert arrivals.peers[0].addr == "127.0.0.1"
    assert not arrivals.peers[0].is_tls


async def test_a_startup_packet_may_come_byte_by_byte() -> None:
    arrivals = Arrivals()
    async with open_door(arrivals) as door, raw_client(door.port) as client:
        for byte in SSL_REQUEST:
            client.send(bytes([byte]))
            await asyncio.sleep(0.001)
        assert await client.read(1) == b"N"
        for byte in startup_packet(user="bob"):
            client.send(bytes([byte]))
            await asyncio.sleep(0.001)
        assert await client.message() == (b"Z", b"I")
    assert arrivals.packets == [startup_packet(user="bob")]


async def test_what_is_sent_behind_the_startup_packet_is_not_lost() -> None:
    seen: list[tuple[int, bytes]] = []

    async def serve(connection: LoginConnection, peer: Peer, deadline: float) -> None:
        assert connection.inbox is not None
        await connection.inbox.read_first()
        seen.append(await connection.inbox.read_message())
        connection.wire.close()

    async with open_door(serve) as door, raw_client(door.port) as client:
        client.send(startup_packet(user="carol") + message(b"p", b"early\0"))
        await client.to_end()
    assert seen == [(ord("p"), b"early\0")]


async def test_rule_28_gss_is_answered_no_and_tls_by_what_is_configured(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    arrivals = Arrivals()
    async with open_door(arrivals, tls=server_tls) as door, raw_client(door.port) as client:
        client.send(GSSENC_REQUEST)
        assert await client.read(1) == b"N"
        client.send(SSL_REQUEST)
        assert await client.read(1) == b"S"
        await client.start_tls(client_context())
        client.send(startup_packet(user="dave"))
        assert await client.message() == (b"Z", b"I")
    peer = arrivals.peers[0]
    assert peer.is_tls
    assert peer.tls_version in ("TLSv1.2", "TLSv1.3")
    assert len(peer.certificate_hash) == 32
    assert not peer.has_certificate


@pytest.mark.parametrize("request_twice", [SSL_REQUEST, GSSENC_REQUEST])
async def test_rule_28_the_second_request_is_taken_for_a_version(request_twice: bytes) -> None:
    arrivals = Arrivals()
    async with open_door(arrivals) as door, raw_client(door.port) as client:
        client.send(request_twice)
        assert await client.read(1) == b"N"
        client.send(request_twice)
        await client.message()
    # It reaches the login, which refuses it with 0A000: see test_login_client.
    assert arrivals.packets == [request_twice]


@pytest.mark.parametrize("behind", [b"x", startup_packet(user="mallory")])
@pytest.mark.parametrize("first", [SSL_REQUEST, GSSENC_REQUEST])
async def test_rule_28_plaintext_behind_the_request_aborts(
    server_tls: ServerTls, first: bytes, behind: bytes
) -> None:
    arrivals = Arrivals()
    async with open_door(arrivals, tls=server_tls) as door, raw_client(door.port) as client:
        client.send(first + behind)
        fields = error_of(await client.to_end())
    assert (fields["S"], fields["C"]) == ("FATAL", "08P01")
    assert "unencrypted data" in fields["M"]
    assert arrivals.packets == []


async def test_rule_29_direct_tls_with_its_alpn(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    arrivals = Arrivals()
    context = client_context(alpn="postgresql", with_certificate=True)
    async with (
        open_door(arrivals, tls=server_tls) as door,
        raw_client(door.port, tls=context) as client,
    ):
        client.send(startup_packet(user="erin"))
        assert await client.message() == (b"Z", b"I")
    assert arrivals.peers[0].has_certificate
    assert arrivals.peers[0].common_name == "cert_user"


@pytest.mark.parametrize("alpn", ["", "http/1.1"])
async def test_rule_29_direct_tls_without_its_alpn_is_closed(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext], alpn: str
) -> None:
    arrivals = Arrivals()
    async with open_door(arrivals, tls=server_tls) as door:
        async with raw_client(door.port, tls=client_context(alpn=alpn)) as client:
            client.send(startup_packet(user="frank"))
            assert await client.to_end() == b""
        assert door.counters.by_cause["direct_tls_without_alpn"] == 1
    assert arrivals.packets == []


async def test_direct_tls_that_is_not_offered_is_closed() -> None:
    arrivals = Arrivals()
    async with open_door(arrivals) as door, raw_client(door.port) as client:
        client.send(b"\x16\x03\x01\x00\x05hello")
        assert await client.to_end() == b""
        assert door.counters.by_cause == {"direct_tls_not_offered": 1}


async def test_tls_required_refuses_clear_clients_but_not_their_cancels(
    server_tls: ServerTls,
) -> None:
    arrivals = Arrivals()
    required = ServerTls(server_tls.context, True, server_tls.certificate_hash)
    async with open_door(arrivals, tls=required) as door:
        async with raw_client(door.port) as client:
            client.send(startup_packet(user="grace"))
            fields = error_of(await client.to_end())
        assert (fields["S"], fields["C"]) == ("FATAL", "28000")
        assert "no encryption" in fields["M"]
        assert door.counters.sqlstates == {"28000": 1}
        async with raw_client(door.port) as client:
            client.send(packet(tags.CANCEL_REQUEST, b"\0\0\0\1" + b"keys"))
            assert await client.to_end() == b""
        assert door.counters.by_cause["cancel_wrong_key"] == 1


@pytest.mark.parametrize("head", [b"\0\0\0\7", b"\0\0\0\0", b"\0\0\x27\x11", b"GET ", b"\xff" * 4])
async def test_rule_6_a_senseless_length_is_fatal_at_once(head: bytes) -> None:
    arrivals = Arrivals()
    async with open_door(arrivals) as door, raw_client(door.port) as client:
        client.send(head)
        fields = error_of(await client.to_end())
        assert (fields["S"], fields["C"]) == ("FATAL", "08P01")
        assert door.counters.by_cause == {"startup_violation": 1}


@pytest.mark.parametrize(
    "head",
    [
        b"X\0\0\0\4",
        packet(tags.CANCEL_REQUEST, b"\0"),
        packet(tags.CANCEL_REQUEST, b"\0\0\0\1key"),
    ],
)
async def test_rule_6_who_waits_for_no_answer_gets_none(head: bytes) -> None:
    arrivals = Arrivals()
    async with open_door(arrivals) as door, raw_client(door.port) as client:
        client.send(head)
        assert await client.to_end() == b""
        assert door.counters.by_cause == {"startup_violation": 1}


async def test_rule_34_a_cancel_request_is_never_answered() -> None:
    class Session:
        cancelled = 0

        def cancel(self) -> None:
            self.cancelled += 1

    session = Session()
    async with open_door(Arrivals()) as door:
        key = door.cancels.register(session, 2)
        process_id = key.process_id.to_bytes(4, "big")
        for secret in (key.secret_key, b"wrong", b""):
            async with raw_client(door.port) as client:
                client.send(packet(tags.CANCEL_REQUEST, process_id + secret))
                answer = await client.to_end()
                # A packet that is no CancelRequest at all may be called so.
                assert answer == b"" or secret == b""
    assert session.cancelled == 1


async def test_a_client_that_leaves_at_any_point_leaves_nothing_behind() -> None:
    arrivals = Arrivals()
    whole = SSL_REQUEST + startup_packet(user="henry")[:-1]
    async with open_door(arrivals) as door:
        for size in range(len(whole)):
            async with raw_client(door.port) as client:
                client.send(whole[: min(size, 8)])
                if size > 8:
                    assert await client.read(1) == b"N"
                    client.send(whole[8:size])
        await until(lambda: not door.listener.pending and not len(door.tasks))
        assert set(door.counters.by_cause) == {"client_left_before_startup"}
    assert arrivals.packets == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=64))
async def test_any_first_bytes_end_cleanly(data: bytes) -> None:
    client, server = connected_pair()
    counters = Counters()
    try:
        client.sendall(data)
        client.shutdown(1)
        raw = RawSocket(server)
        try:
            done = await negotiate(
                raw, NO_TLS, Peer("192.0.2.1", 1, False), CancelRegistry(counters), counters
            )
        except EOFError:
            done = None
        assert done is None or data.find(done.packet) >= 0
    finally:
        client.close()
        server.close()
