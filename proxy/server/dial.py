"""
Connect to a server: address, TLS, login; and carry a CancelRequest to it.

Implements `pool.dialer.Dialer`. Every way out is a BackendLost that says what failed, within
`pool.connect_timeout`. What happens on the connection afterwards is the link's.
"""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, cast, final

import structlog

from proxy.auth.userstore import Credentials, UserStore
from proxy.errors import BackendLost, Refusal, SettingsError
from proxy.observe.counters import Counters
from proxy.pool.dialer import Dialer
from proxy.protocol import startup, tags
from proxy.server.inbox import Inbox, LinkConnection
from proxy.server.login_backend import (
    PROTOCOL_3_0,
    PROTOCOL_3_2,
    BackendLogin,
    ServerSecurity,
    VersionRefused,
    login_backend,
)
from proxy.server.rawsocket import RawSocket
from proxy.server.sockets import tune
from proxy.server.tls import ALPN_POSTGRESQL, make_node_tls, peer_end_point_hash
from proxy.session.link import BackendLink
from proxy.settings.model import Database, Node, Settings

CANCEL_TIMEOUT_S: Final = 5.0
"""Longest wait for a server to close a connection that carried a CancelRequest."""

SSL_REQUEST: Final = b"\x00\x00\x00\x08" + tags.SSL_REQUEST.to_bytes(4, "big")

_log = structlog.get_logger("headgate.dial")


@final
class ServerDialer(Dialer):
    """
    Makes server connections, as the settings of the moment say.

    settings         what is configured now
    users            secrets, for users without a password in [[database]]
    make_connection  makes a server connection's asyncio.Protocol, with its inbox
    clock_s          the clock of BackendLink.opened_at_s
    """

    __slots__ = (
        "_clock_s",
        "_contexts",
        "_counters",
        "_make_connection",
        "_settings",
        "_users",
        "_versions",
    )

    def __init__(
        self,
        settings: Settings,
        users: UserStore,
        make_connection: Callable[[], LinkConnection],
        counters: Counters,
        clock_s: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._users = users
        self._make_connection = make_connection
        self._counters = counters
        self._clock_s = clock_s
        self._contexts = _contexts_of(settings)
        # node -> 3.0, for the servers that refused 3.2
        self._versions: dict[str, int] = {}

    def apply(self, settings: Settings) -> None:
        """Take new settings (a reload). Raises SettingsError, and then keeps the former ones."""
        self._contexts = _contexts_of(settings)
        self._settings = settings
        self._versions.clear()

    async def open(self, node: str, database: str, user: str) -> BackendLink:
        """Connect and log in; see `Dialer`."""
        target = self._node(node)
        timeout_s = self._settings.pool.connect_timeout
        try:
            async with asyncio.timeout(timeout_s):
                return await self._open(target, database, user)
        except TimeoutError:
            self._counters.count("connect_timeout")
            raise BackendLost(
                Refusal(
                    "08006",
                    f'server "{node}" did not take the connection within {timeout_s:g} s',
                    hint="Check that it runs and can be reached, or raise pool.connect_timeout.",
                )
            ) from None

    async def cancel(self, link: BackendLink) -> None:
        """Send a CancelRequest; see `Dialer`."""
        target = self._node(link.node)
        request = startup.CancelRequest(link.process_id, link.secret_key).encode()
        try:
            async with asyncio.timeout(CANCEL_TIMEOUT_S):
                raw, context = await self._connect_and_negotiate(target)
                if context is None:
                    await _send_and_wait(raw, request)
                else:
                    await _send_and_wait_tls(raw, context, target.host, request)
        except TimeoutError:
            raise BackendLost(
                Refusal("08006", f'server "{target.name}" did not take a cancel request in time')
            ) from None
        except (OSError, EOFError) as error:
            raise _unreachable(target, error) from None

    # -- login

    async def _open(self, node: Node, database: str, user: str) -> BackendLink:
        credentials, is_configured = self._credentials(database, user)
        try:
            return await self._log_in_any_version(node, database, user, credentials)
        except BackendLost as lost:
            if lost.refusal.sqlstate != "28P01" or is_configured:
                raise
            # Rule 33: the password may have been changed; ask for the secret once again.
            newer = await self._newer_credentials(database, user, credentials)
            if newer is None:
                raise
        return await self._log_in_any_version(node, database, user, newer)

    async def _newer_credentials(
        self, database: str, user: str, former: Credentials
    ) -> Credentials | None:
        self._users.forget(user)
        with contextlib.suppress(Exception):
            await self._users.find_again(user, database, self._clock_s())
        newer = self._users.credentials(user)
        return None if newer.is_empty() or newer.equals(former) else newer

    async def _log_in_any_version(
        self, node: Node, database: str, user: str, credentials: Credentials
    ) -> BackendLink:
        protocol = self._versions.get(node.name, PROTOCOL_3_2)
        try:
            return await self._log_in(node, database, user, credentials, protocol)
        except VersionRefused:
            self._versions[node.name] = PROTOCOL_3_0
            return await self._log_in(node, database, user, credentials, PROTOCOL_3_0)

    async def _log_in(
        self, node: Node, database: str, user: str, credentials: Credentials, protocol: int
    ) -> BackendLink:
        connection = self._make_connection()
        inbox = connection.inbox
        if inbox is None:
            inbox = Inbox()
        security = await self._make(node, connection)
        inbox.wire = connection.wire
        is_done = False
        try:
            login = await login_backend(
                inbox,
                connection.wire,
                node=node.name,
                database=database,
                user=user,
                credentials=credentials,
                settings={},
                security=security,
                protocol=protocol,
            )
            link = self._attach(connection, node, database, user, login)
            is_done = True
            return link
        finally:
            if not is_done:
                connection.wire.abort()

    def _attach(
        self,
        connection: LinkConnection,
        node: Node,
        database: str,
        user: str,
        login: BackendLogin,
    ) -> BackendLink:
        link = BackendLink(
            connection.wire,
            database,
            user,
            node.name,
            login.process_id,
            login.secret_key,
            login.parameters,
            self._clock_s(),
        )
        connection.attach(link)
        _log.debug("server connection opened", node=node.name, database=database, user=user)
        return link

    def _credentials(self, database: str, user: str) -> tuple[Credentials, bool]:
        """What to log in with, and whether it comes from [[database]]."""
        for entry in self._settings.database:
            if entry.user == user and entry.password and _serves(entry, database):
                return Credentials(password=str(entry.password)), True
        return self._users.credentials(user), False

    # -- connection

    async def _make(self, node: Node, connection: LinkConnection) -> ServerSecurity:
        """Connect, with TLS if the node's mode and the server say so."""
        loop = asyncio.get_running_loop()
        is_unix = node.host.startswith("/")
        try:
            raw, context = await self._connect_and_negotiate(node)
            transport, _ = await loop.create_connection(
                lambda: cast(asyncio.Protocol, connection),
                sock=raw.detach(),
                ssl=context,
                server_hostname=None if context is None else node.host,
            )
        except (OSError, EOFError) as error:
            self._counters.count("connect_failed")
            raise _unreachable(node, error) from None
        if context is None:
            return ServerSecurity(False, is_unix, b"")
        session: ssl.SSLObject = transport.get_extra_info("ssl_object")
        if node.tls.negotiation == "direct" and session.selected_alpn_protocol() != ALPN_POSTGRESQL:
            # As libpq: without the name it may not be PostgreSQL that answers (rule 29).
            transport.abort()
            raise _lost(node, "08001", "took direct TLS without ALPN postgresql")
        return ServerSecurity(True, True, peer_end_point_hash(session))

    async def _connect_and_negotiate(self, node: Node) -> tuple[RawSocket, ssl.SSLContext | None]:
        raw = await self._connect(node)
        try:
            return raw, await self._negotiate_tls(raw, node)
        except BaseException:
            raw.close()
            raise

    async def _connect(self, node: Node) -> RawSocket:
        """Connect to the first of the node's addresses that answers."""
        loop = asyncio.get_running_loop()
        if node.host.startswith("/"):
            path = f"{node.host}/.s.PGSQL.{node.port}"
            return await _connect_to(socket.AF_UNIX, path)
        found = await loop.getaddrinfo(node.host, node.port, type=socket.SOCK_STREAM)
        problem: OSError = OSError("the name has no address")
        for family, _, _, _, address in found:
            try:
                return await _connect_to(family, address)
            except OSError as error:
                problem = error
        raise problem

    async def _negotiate_tls(self, raw: RawSocket, node: Node) -> ssl.SSLContext | None:
        """Ask for TLS. None: the connection stays in clear, and may."""
        context = self._contexts[node.name]
        if context is None or node.host.startswith("/"):
            return None
        if node.tls.negotiation == "direct":
            return context
        await raw.write(SSL_REQUEST)
        answer = await raw.read_exactly(1)
        if answer == b"S":
            # SAFETY: anything in clear behind the answer did not come from the server alone
            # (CVE-2021-23222).
            if raw.has_pending():
                raise _lost(node, "08P01", "sent unencrypted data in front of the TLS handshake")
            return context
        if answer != b"N":
            # Never shown: what stands here in clear can be anybody's (CVE-2024-10977).
            raise _lost(node, "08P01", "answered the request for TLS with neither yes nor no")
        if node.tls.mode == "prefer":
            return None
        raise _lost(
            node,
            "08001",
            f"does not support TLS, but node.tls.mode is {node.tls.mode}",
        )

    def _node(self, name: str) -> Node:
        for node in self._settings.node:
            if node.name == name:
                return node
        raise BackendLost(Refusal("08001", f'there is no node "{name}" any more'))


async def _connect_to(family: int, address: object) -> RawSocket:
    loop = asyncio.get_running_loop()
    connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.setblocking(False)
    try:
        if family != socket.AF_UNIX:
            tune(connection)
        await loop.sock_connect(connection, cast(str, address))
    except BaseException:
        connection.close()
        raise
    return RawSocket(connection)


async def _send_and_wait(raw: RawSocket, request: bytes) -> None:
    """Send a CancelRequest and wait until the server closes: then it has been dealt with."""
    try:
        await raw.write(request)
        with contextlib.suppress(EOFError, ConnectionResetError):
            await raw.read_exactly(1)
    finally:
        raw.close()


async def _send_and_wait_tls(
    raw: RawSocket, context: ssl.SSLContext, host: str, request: bytes
) -> None:
    reader, writer = await asyncio.open_connection(
        sock=raw.detach(), ssl=context, server_hostname=host
    )
    try:
        writer.write(request)
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            await reader.read(1)
    finally:
        writer.transport.abort()


def _contexts_of(settings: Settings) -> dict[str, ssl.SSLContext | None]:
    contexts: dict[str, ssl.SSLContext | None] = {}
    problems: list[str] = []
    for node in settings.node:
        try:
            contexts[node.name] = make_node_tls(node.tls)
        except SettingsError as error:
            problems.extend(f'node "{node.name}": {problem}' for problem in error.problems)
    if problems:
        raise SettingsError(problems)
    return contexts


def _serves(entry: Database, database: str) -> bool:
    """Tell whether a [[database]] entry is about this name on the server."""
    if entry.dbname:
        return entry.dbname == database
    return entry.name in ("*", database)


def _lost(node: Node, sqlstate: str, what: str) -> BackendLost:
    return BackendLost(Refusal(sqlstate, f'server "{node.name}" {what}', severity="FATAL"))


def _unreachable(node: Node, error: Exception) -> BackendLost:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"its certificate is not accepted: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        reason = f"TLS failed: {error.reason}"
    elif isinstance(error, OSError):
        # asyncio puts the address into the text, which is no business of a client's.
        known = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if known else error.strerror or "it failed"
    else:
        reason = "it closed the connection"
    _log.warning(
        "server connection failed", node=node.name, host=node.host, port=node.port, reason=reason
    )
    return BackendLost(
        Refusal("08006", f'could not connect to server "{node.name}": {reason}', severity="FATAL")
    )
