"""
The first packets of a client, on the raw socket: encrypt or not, cancel, or start.

Theory of operation. A client sends SSLRequest or GSSENCRequest (each at most once), each answered
by one byte, and then a CancelRequest or its StartupMessage; or begins TLS at once ("direct TLS",
told by the first byte). All reads here take whole packets and nothing behind them. What follows
the choice of encryption (the StartupMessage over TLS, authentication) is `login_client`.
Knows nothing of users or sessions.
"""

from typing import Final, final

from proxy.errors import NotThisProtocol, ProtocolViolation, Refusal
from proxy.observe.counters import Counters
from proxy.protocol import backend, startup, tags
from proxy.server.cancel import CancelRegistry
from proxy.server.rawsocket import AT_END, RawSocket
from proxy.server.tls import ServerTls

TLS_HANDSHAKE: Final = 0x16
"""First byte of a TLS record of a handshake; as a length it would be far beyond any startup packet."""


@final
class Peer:
    """
    Who is at the other end of a client's connection, and how it is protected.

    addr              IP address, "" for a Unix socket
    port              TCP port, 0 for a Unix socket
    certificate_hash  channel binding data of the certificate that the proxy has shown; b"": none
    common_name       of the client's verified certificate, "" without one
    """

    __slots__ = (
        "addr",
        "certificate_hash",
        "common_name",
        "has_certificate",
        "is_tls",
        "is_unix",
        "port",
        "tls_version",
    )

    def __init__(self, addr: str, port: int, is_unix: bool) -> None:
        self.addr = addr
        self.port = port
        self.is_unix = is_unix
        self.is_tls = False
        self.tls_version = ""
        self.certificate_hash = b""
        self.common_name = ""
        self.has_certificate = False


@final
class Negotiated:
    """
    What was agreed.

    starts_tls  the next byte from the client belongs to a TLS handshake
    is_direct   it began with TLS, so it must name the protocol by ALPN
    packet      without TLS: its StartupMessage, whole
    """

    __slots__ = ("is_direct", "packet", "starts_tls")

    def __init__(self, starts_tls: bool, is_direct: bool, packet: bytes) -> None:
        self.starts_tls = starts_tls
        self.is_direct = is_direct
        self.packet = packet


async def negotiate(
    raw: RawSocket,
    tls: ServerTls,
    peer: Peer,
    cancels: CancelRegistry,
    counters: Counters,
) -> Negotiated | None:
    """
    Go through the first packets. None: the connection is done with, and the caller closes it.
    Raises EOFError, OSError when the client leaves. The caller limits the time.
    """
    offers_tls = tls.context is not None and not peer.is_unix
    first = await raw.peek()
    if first == AT_END:
        counters.count("client_left_before_startup")
        return None
    if first == TLS_HANDSHAKE:
        if offers_tls:
            return Negotiated(True, True, b"")
        counters.count("direct_tls_not_offered")
        return None
    try:
        return await _exchange(raw, tls, offers_tls, peer, cancels, counters)
    except NotThisProtocol:
        counters.count("startup_violation")
        return None
    except ProtocolViolation as violation:
        counters.count("startup_violation")
        await _refuse(raw, counters, Refusal(violation.sqlstate, violation.message))
        return None


async def _exchange(
    raw: RawSocket,
    tls: ServerTls,
    offers_tls: bool,
    peer: Peer,
    cancels: CancelRegistry,
    counters: Counters,
) -> Negotiated | None:
    tls_asked = False
    gss_asked = False
    while True:
        packet = await _read_packet(raw)
        code = int.from_bytes(packet[4:8], "big")
        if code == tags.CANCEL_REQUEST:
            request = startup.decode_first(packet)
            if isinstance(request, startup.CancelRequest):
                await cancels.handle(request.process_id, request.secret_key)
            return None
        if code == tags.SSL_REQUEST and not tls_asked:
            tls_asked = True
            _check_nothing_behind(raw, "SSL request")
            await raw.write(b"S" if offers_tls else b"N")
            if offers_tls:
                return Negotiated(True, False, b"")
        elif code == tags.GSSENC_REQUEST and not gss_asked:
            gss_asked = True
            _check_nothing_behind(raw, "GSSAPI encryption request")
            await raw.write(b"N")
        elif tls.is_required and not peer.is_unix:
            counters.count("tls_required")
            await _refuse(
                raw,
                counters,
                Refusal(
                    "28000",
                    f'connection from host "{peer.addr}" refused: no encryption',
                    hint="This server takes TLS connections only; connect with sslmode=require.",
                ),
            )
            return None
        else:
            # Also a second SSLRequest: the login calls it an unsupported protocol version.
            return Negotiated(False, False, packet)


async def _read_packet(raw: RawSocket) -> bytes:
    head = await raw.read_exactly(4)
    length = int.from_bytes(head, "big")
    startup.check_length(length)
    return head + await raw.read_exactly(length - 4)


def _check_nothing_behind(raw: RawSocket, request: str) -> None:
    # SAFETY: what stands behind the request in clear would be taken for what the client said
    # inside the encryption (CVE-2021-23222). No client sends before it has its answer.
    if raw.has_pending():
        raise ProtocolViolation(f"received unencrypted data after {request}")


async def _refuse(raw: RawSocket, counters: Counters, refusal: Refusal) -> None:
    counters.refused(refusal.sqlstate)
    refusal.severity = "FATAL"
    await raw.write(backend.error_response(refusal))
