"""
Accept clients: listening sockets, the accept loop, and each client's way to its login.

Sockets are made by functions of their own, so that a parent process can make them before its
privileges or its workers are settled. Knows sockets and time limits, nothing of the protocol
beyond what `negotiate` answers.
"""

import asyncio
import contextlib
import errno
import os
import socket
import ssl
import stat
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final, cast, final

import structlog

from proxy.errors import Refusal, SettingsError
from proxy.observe.counters import Counters
from proxy.protocol import backend
from proxy.server.cancel import CancelRegistry
from proxy.server.inbox import LoginConnection
from proxy.server.negotiate import Negotiated, Peer, negotiate
from proxy.server.rawsocket import RawSocket
from proxy.server.sockets import tune
from proxy.server.tasks import Tasks
from proxy.server.tls import (
    ALPN_POSTGRESQL,
    ServerTls,
    peer_common_name,
)

ACCEPTS_PER_WAKE_UP: Final = 64
"""Accepted in one turn of the loop; then everybody else gets a turn."""

MAX_BACK_OFF_S: Final = 1.0
"""Longest pause after accept failed for want of descriptors or memory; the first is 50 ms."""

_NO_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = structlog.get_logger("headgate.listener")

OnClient = Callable[[LoginConnection, Peer, float], Coroutine[Any, Any, None]]
"""
Serve a client from its StartupMessage on: its connection (whose inbox has or gets that packet), who
it is, and the loop's time at which its login must be done.
"""


@final
class Listener:
    """
    The accept loop over some listening sockets.

    make_connection  makes a client's asyncio.Protocol, with its inbox
    on_client        goes on when the connection is made
    tls              what is offered at this moment
    login_timeout_s  from accepting to the end of the login, at this moment
    max_pending      clients that may be between accepting and the end of their login
    """

    __slots__ = (
        "_back_off_s",
        "_cancels",
        "_counters",
        "_login_timeout_s",
        "_loop",
        "_make_connection",
        "_max_pending",
        "_on_client",
        "_pending",
        "_retries",
        "_sockets",
        "_tasks",
        "_tls",
    )

    def __init__(
        self,
        tasks: Tasks,
        counters: Counters,
        cancels: CancelRegistry,
        make_connection: Callable[[], LoginConnection],
        on_client: OnClient,
        tls: Callable[[], ServerTls],
        login_timeout_s: Callable[[], float],
        max_pending: Callable[[], int],
    ) -> None:
        self._tasks = tasks
        self._counters = counters
        self._cancels = cancels
        self._make_connection = make_connection
        self._on_client = on_client
        self._tls = tls
        self._login_timeout_s = login_timeout_s
        self._max_pending = max_pending
        self._loop = asyncio.get_running_loop()
        self._sockets: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()
        self._back_off_s = 0.05
        self._pending = 0

    @property
    def pending(self) -> int:
        """Clients whose login is not done yet."""
        return self._pending

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """
        Accept from these listening sockets; they belong to the listener from now on, but the file
        of a Unix socket does not: see `remove_unix_socket`.
        """
        for listening in sockets:
            listening.setblocking(False)
            self._sockets.append(listening)
            self._loop.add_reader(listening, self._accept, listening)

    def stop(self) -> None:
        """Accept no more, close the listening sockets; clients that are there stay (idempotent)."""
        for retry in self._retries:
            retry.cancel()
        self._retries.clear()
        for listening in self._sockets:
            self._loop.remove_reader(listening)
            listening.close()
        self._sockets.clear()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_WAKE_UP):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _NO_RESOURCES:
                    self._back_off(listening, error)
                    return
                # The client left before it was accepted (ECONNABORTED and its kin).
                self._counters.count("accept_failed")
                continue
            self._back_off_s = 0.05
            self._greet(connection, address)

    def _back_off(self, listening: socket.socket, error: OSError) -> None:
        """Let the kernel's queue wait: accepting at once again would only turn in a circle."""
        self._counters.count("accept_no_resources")
        _log.warning("cannot accept clients", reason=error.strerror, pause_s=self._back_off_s)
        self._loop.remove_reader(listening)
        retry: asyncio.TimerHandle | None = None

        def again() -> None:
            if retry is not None:
                self._retries.discard(retry)
            self._loop.add_reader(listening, self._accept, listening)

        retry = self._loop.call_later(self._back_off_s, again)
        self._retries.add(retry)
        self._back_off_s = min(self._back_off_s * 2, MAX_BACK_OFF_S)

    def _greet(self, connection: socket.socket, address: object) -> None:
        peer = _peer_at(connection, address)
        if self._pending >= self._max_pending():
            self._counters.count("too_many_pending_logins")
            self._counters.refused("53300")
            connection.setblocking(False)
            refusal = Refusal("53300", "sorry, too many clients already", severity="FATAL")
            with contextlib.suppress(OSError):
                connection.send(backend.error_response(refusal))
            connection.close()
            return
        self._pending += 1
        self._tasks.spawn(self._serve(connection, peer), "client login")

    async def _serve(self, connection: socket.socket, peer: Peer) -> None:
        try:
            deadline = self._loop.time() + self._login_timeout_s()
            tls = self._tls()
            made = await self._negotiate(connection, peer, tls, deadline)
            if made is not None:
                await self._on_client(made, peer, deadline)
        finally:
            self._pending -= 1

    async def _negotiate(
        self, connection: socket.socket, peer: Peer, tls: ServerTls, deadline: float
    ) -> LoginConnection | None:
        """Make the client's connection; None: it is closed already."""
        raw = RawSocket(connection)
        negotiated: Negotiated | None = None
        try:
            if not peer.is_unix:
                tune(connection)
            async with asyncio.timeout_at(deadline):
                negotiated = await negotiate(raw, tls, peer, self._cancels, self._counters)
        except TimeoutError:
            # As PostgreSQL: a client that does not even say who it is is not told anything.
            self._counters.count("login_timeout")
        except (EOFError, OSError):
            self._counters.count("client_left_before_startup")
        finally:
            if negotiated is None:
                raw.close()
        if negotiated is None:
            return None
        return await self._make(raw.detach(), negotiated, peer, tls, deadline)

    async def _make(
        self,
        connection: socket.socket,
        negotiated: Negotiated,
        peer: Peer,
        tls: ServerTls,
        deadline: float,
    ) -> LoginConnection | None:
        made = self._make_connection()
        if negotiated.packet and made.inbox is not None:
            # Before the transport exists, so that nothing can come in front of it.
            made.inbox.feed(negotiated.packet)
        context = tls.context if negotiated.starts_tls else None
        remaining_s = max(0.1, deadline - self._loop.time())
        try:
            transport, _ = await self._loop.connect_accepted_socket(
                lambda: cast(asyncio.Protocol, made),
                connection,
                ssl=context,
                ssl_handshake_timeout=None if context is None else remaining_s,
            )
        except (ssl.SSLError, OSError, EOFError, TimeoutError) as error:
            # The loop has closed the socket; to close it here could close another's descriptor.
            self._counters.count("tls_handshake_failed")
            _log.debug("TLS handshake failed", client=peer.addr, reason=str(error))
            return None
        if context is not None and not self._check_tls(transport, negotiated, peer, tls):
            transport.abort()
            return None
        return made

    def _check_tls(
        self,
        transport: asyncio.Transport,
        negotiated: Negotiated,
        peer: Peer,
        tls: ServerTls,
    ) -> bool:
        """Note what TLS says about the peer; False: it must not go on."""
        session: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if session is None:
            return False
        peer.is_tls = True
        peer.tls_version = session.version() or ""
        peer.certificate_hash = tls.certificate_hash
        peer.has_certificate = bool(session.getpeercert())
        peer.common_name = peer_common_name(session)
        # Rule 29: without its name by ALPN, a direct handshake may be meant for another protocol
        # altogether (the ALPACA attack).
        if negotiated.is_direct and session.selected_alpn_protocol() != ALPN_POSTGRESQL:
            self._counters.count("direct_tls_without_alpn")
            _log.debug("direct TLS without ALPN postgresql", client=peer.addr)
            return False
        return True


def open_tcp_sockets(
    hosts: Sequence[str], port: int, backlog: int, *, reuse_port: bool
) -> list[socket.socket]:
    """
    Listen on every address of every host; "*" is all. `reuse_port`: other processes share the port.
    Raises SettingsError, then nothing is left open.
    """
    opened: list[socket.socket] = []
    bound: set[tuple[int, str]] = set()
    try:
        for host in hosts:
            problem: SettingsError | None = None
            works = False
            for family, address in _resolve(host, port):
                if (family, address[0]) not in bound:
                    try:
                        opened.append(_open_tcp_socket(family, address, backlog, reuse_port))
                    except SettingsError as error:
                        problem = error
                        continue
                    bound.add((family, address[0]))
                works = True
            # As PostgreSQL: of a name's addresses some may be missing here (::1 of localhost).
            if problem is not None and not works:
                raise problem
    except BaseException:
        for listening in opened:
            listening.close()
        raise
    return opened


def _open_tcp_socket(
    family: int, address: tuple[Any, ...], backlog: int, reuse_port: bool
) -> socket.socket:
    shown = f"{address[0]}:{address[1]}"
    try:
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise SettingsError([f"listen: cannot listen on {shown}: {error.strerror}"]) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # An IPv4 socket of its own listens on the same port.
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _bind(listening, address, shown)
        listening.listen(backlog)
        listening.setblocking(False)
    except BaseException:
        listening.close()
        raise
    return listening


def open_unix_socket(directory: Path, port: int, mode: int, backlog: int) -> socket.socket:
    """Listen on `.s.PGSQL.<port>` in a directory, as PostgreSQL does. Raises SettingsError."""
    path = directory / f".s.PGSQL.{port}"
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    # The socket must never be there with wider permissions than it is to have.
    former_mask = os.umask(0o777 & ~mode)
    try:
        _bind(listening, str(path), str(path))
    except BaseException:
        listening.close()
        raise
    finally:
        os.umask(former_mask)
    path.chmod(mode)
    listening.listen(backlog)
    listening.setblocking(False)
    return listening


def remove_unix_socket(directory: Path, port: int) -> None:
    """Remove the file of a Unix socket that nobody listens on any more (idempotent)."""
    with contextlib.suppress(OSError):
        (directory / f".s.PGSQL.{port}").unlink(missing_ok=True)


def _resolve(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    try:
        found = socket.getaddrinfo(
            None if host in ("*", "") else host,
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except OSError as error:
        raise SettingsError(
            [f'listen.host: "{host}" is not an address or name of this machine: {error.strerror}']
        ) from None
    return [(int(family), address) for family, _, _, _, address in found]


def _bind(listening: socket.socket, address: object, shown: str) -> None:
    try:
        listening.bind(cast(Any, address))
    except OSError as error:
        hint = "is another server, or another Headgate, running there?"
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            hint = "expected an address of this machine"
        raise SettingsError(
            [f"listen: cannot listen on {shown}: {error.strerror}; {hint}"]
        ) from None


def _remove_stale(path: Path) -> None:
    """Remove a socket that a dead process left; one that is answered, or another file, stays."""
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    if not is_socket:
        raise SettingsError([f"listen.unix_socket_dir: {path} exists and is not a socket"])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:
            return
    raise SettingsError([f"listen.unix_socket_dir: another server listens on {path}"])


def _peer_at(connection: socket.socket, address: object) -> Peer:
    if connection.family == socket.AF_UNIX or not isinstance(address, tuple):
        return Peer("", 0, is_unix=True)
    return Peer(str(address[0]), int(address[1]), is_unix=False)
