"""
A client's login: from its StartupMessage to AuthenticationOk, or to a FATAL error.

The order is PostgreSQL's with the hooks at the places of `plugins.md` 1.1: startup packet, limits,
on_connect, authenticate, the configured method, limits of the database and the user. What follows
(ParameterStatus, BackendKeyData, ReadyForQuery) needs a server's parameters and is the front end's
business. How a method works is `authenticate`; this file knows who is asked, and what is refused.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, final

import structlog

from proxy.auth.failures import FailureLimiter
from proxy.auth.userstore import Credentials
from proxy.errors import NotThisProtocol, ProtocolViolation, Refusal, Refused
from proxy.observe.counters import Counters
from proxy.protocol import backend, startup, tags
from proxy.server.authenticate import Authenticator, Dialogue
from proxy.server.cancel import CancelRegistry
from proxy.server.identity import Identity, LoginHooks, adopt_identity
from proxy.server.inbox import Inbox, PeerLeft
from proxy.server.negotiate import Peer
from proxy.session.context import ClientContext
from proxy.session.ports import Wire

NEWEST_MINOR: Final = 2
MAX_NAME_BYTES: Final = 63
"""PostgreSQL cuts longer user and database names (NAMEDATALEN - 1)."""

BRANCH_PARAMETER: Final = "headgate.branch"

_NOT_SETTINGS: Final = frozenset({"user", "database", "options", "replication", BRANCH_PARAMETER})
_log = structlog.get_logger("headgate.login")


class Admission(ABC):
    """Who may come in, besides proving who it is: limits, and databases that are served."""

    @abstractmethod
    def enter(self, context: ClientContext) -> Refusal | None:
        """Before authentication: count the client in, or refuse it (53300)."""

    @abstractmethod
    def admit(self, context: ClientContext) -> Refusal | None:
        """After authentication: refuse an unknown database (3D000), a full one or a full user."""

    @abstractmethod
    def leave(self, context: ClientContext) -> None:
        """
        Count a client out that `enter` let in. The login calls it when it fails; after that it is
        up to whoever serves the client.
        """


@final
class LoginServices:
    """
    What logins need of the rest of the program; one object for all of them.

    authenticator   the methods
    new_client_id   makes ClientContext.client_id
    now_s           a clock that only goes forward, for the rate limit
    unix_time_s     the time of day
    """

    __slots__ = (
        "admission",
        "authenticator",
        "cancels",
        "counters",
        "hooks",
        "limiter",
        "new_client_id",
        "now_s",
        "unix_time_s",
    )

    def __init__(
        self,
        authenticator: Authenticator,
        admission: Admission,
        hooks: LoginHooks,
        limiter: FailureLimiter,
        cancels: CancelRegistry,
        counters: Counters,
        new_client_id: Callable[[], str],
        now_s: Callable[[], float],
        unix_time_s: Callable[[], float],
    ) -> None:
        self.authenticator = authenticator
        self.admission = admission
        self.hooks = hooks
        self.limiter = limiter
        self.cancels = cancels
        self.counters = counters
        self.new_client_id = new_client_id
        self.now_s = now_s
        self.unix_time_s = unix_time_s


@final
class LoggedInClient:
    """
    A client that has been told AuthenticationOk, and nothing after it.

    settings        run-time parameters of its startup packet and `options`, for the server session
    credentials     what it proved itself with, where that is good for logins to servers
    protocol_minor  0 or 2: as what it is spoken to
    """

    __slots__ = ("context", "credentials", "protocol_minor", "settings")

    def __init__(
        self,
        context: ClientContext,
        settings: dict[str, str],
        credentials: Credentials,
        protocol_minor: int,
    ) -> None:
        self.context = context
        self.settings = settings
        self.credentials = credentials
        self.protocol_minor = protocol_minor


async def login_client(
    inbox: Inbox, wire: Wire, peer: Peer, services: LoginServices, deadline: float
) -> LoggedInClient | None:
    """
    Let a client log in by the loop's time `deadline`. None: it was told why not, counted, and its
    connection is closed. Raises nothing but what is a defect here.
    """
    if inbox.wire is None:
        inbox.wire = wire
    login = _Login(inbox, wire, peer, services)
    refusal: Refusal | None = None
    try:
        async with asyncio.timeout_at(deadline):
            return await login.run()
    except TimeoutError:
        services.counters.count("login_timeout")
        refusal = Refusal("57014", "canceling authentication due to timeout")
    except PeerLeft:
        services.counters.count("client_left_in_login")
    except NotThisProtocol:
        services.counters.count("login_violation")
    except ProtocolViolation as violation:
        services.counters.count("login_violation")
        refusal = Refusal(violation.sqlstate, violation.message)
    except Refused as refused:
        refusal = refused.refusal
    finally:
        if not login.is_done:
            login.give_up(refusal)
    return None


@final
class _Login:
    """One login under way."""

    __slots__ = (
        "_context",
        "_dialogue",
        "_has_entered",
        "_peer",
        "_services",
        "_wire",
        "is_done",
    )

    def __init__(self, inbox: Inbox, wire: Wire, peer: Peer, services: LoginServices) -> None:
        self._dialogue = Dialogue(inbox, wire)
        self._wire = wire
        self._peer = peer
        self._services = services
        self._context: ClientContext | None = None
        self._has_entered = False
        self.is_done = False

    async def run(self) -> LoggedInClient | None:
        """Go from the first packet to AuthenticationOk; None: it was a CancelRequest."""
        services = self._services
        first = startup.decode_first(await self._dialogue.inbox.read_first())
        if isinstance(first, startup.CancelRequest):
            # It came over TLS; in clear `negotiate` has seen to it.
            await services.cancels.handle(first.process_id, first.secret_key)
            self.is_done = True
            self._wire.close()
            return None
        if not isinstance(first, startup.StartupMessage):
            raise _unsupported_protocol(first)
        context, settings = self._read_startup(first)
        self._context = context
        self._settle_version(first)
        self._check(services.admission.enter(context))
        self._has_entered = True
        self._check(_replication_refusal(first))
        self._check(self._too_many_failures(), "too_many_failed_logins")
        self._check(await services.hooks.on_connect(context), "refused_by_plugin")
        credentials = await self._authenticate(context)
        self._check(services.admission.admit(context))
        self._wire.write(backend.authentication_ok())
        self.is_done = True
        _log.debug(
            "client logged in",
            client=context.client_id,
            user=context.user,
            database=context.database,
            addr=context.client_addr,
            tls=self._peer.tls_version,
        )
        return LoggedInClient(
            context, settings, credentials, 2 if _minor(first.protocol) >= NEWEST_MINOR else 0
        )

    def give_up(self, refusal: Refusal | None) -> None:
        """Tell the client, if there is something to tell and somebody to hear it, and close."""
        services = self._services
        if refusal is not None:
            refusal.severity = "FATAL"
            services.counters.refused(refusal.sqlstate)
            self._wire.write(backend.error_response(refusal))
            context = self._context
            _log.info(
                "client refused",
                addr=self._peer.addr,
                user="" if context is None else context.user,
                database="" if context is None else context.database,
                sqlstate=refusal.sqlstate,
                reason=refusal.message,
            )
        if self._context is not None and self._has_entered:
            services.admission.leave(self._context)
        self.is_done = True
        self._wire.close()

    def _check(self, refusal: Refusal | None, cause: str = "") -> None:
        if refusal is None:
            return
        self._services.counters.count(cause or f"login_refused_{refusal.sqlstate}")
        raise Refused(refusal)

    # -- the startup packet

    def _read_startup(
        self, message: startup.StartupMessage
    ) -> tuple[ClientContext, dict[str, str]]:
        peer = self._peer
        services = self._services
        context = ClientContext(
            services.new_client_id(), peer.addr, peer.is_tls, services.unix_time_s()
        )
        parameters = dict(message.parameters)
        context.user = _name(parameters["user"])
        context.database = _name(parameters.get("database", "")) or context.user
        context.identity = context.user
        # As PostgreSQL: `options` first, so that a parameter of the packet goes before it.
        settings = dict(startup.parse_options(parameters.get("options", "")))
        settings.update(
            {name: value for name, value in parameters.items() if name not in _NOT_SETTINGS}
        )
        context.branch = settings.pop(BRANCH_PARAMETER, "")
        context.branch = _shown(parameters.get(BRANCH_PARAMETER, context.branch))
        context.application_name = _shown(settings.get("application_name", ""))
        shown = {_shown(name): _shown(value) for name, value in settings.items()}
        context.startup = {**shown, "user": context.user, "database": context.database}
        return context, settings

    def _settle_version(self, message: startup.StartupMessage) -> None:
        """
        Tell a client that knows newer things what is known here (rule 30).

        The highest version that is spoken is named, as PostgreSQL 18 does: a client of 3.0 with an
        unknown option hears its own.
        """
        minor = _minor(message.protocol)
        if minor > NEWEST_MINOR or message.unknown_options:
            self._wire.write(
                backend.negotiate_protocol_version(
                    min(minor, NEWEST_MINOR),
                    [name.encode() for name in message.unknown_options],
                )
            )

    # -- who is it

    async def _authenticate(self, context: ClientContext) -> Credentials:
        services = self._services
        attempt = services.authenticator.attempt(self._dialogue, self._peer, context)
        try:
            answer = await services.hooks.authenticate(context, attempt)
            if isinstance(answer, Refusal):
                services.counters.count("denied_by_plugin")
                raise Refused(answer)
            if isinstance(answer, Identity):
                adopt_identity(context, answer)
                return Credentials()
            return await attempt.run()
        except Refused as refused:
            if refused.refusal.sqlstate.startswith("28"):
                services.counters.count("authentication_failed")
                services.limiter.failed(self._peer.addr, services.now_s())
            raise

    def _too_many_failures(self) -> Refusal | None:
        wait_s = self._services.limiter.retry_after_s(self._peer.addr, self._services.now_s())
        if wait_s <= 0.0:
            return None
        return Refusal(
            "28000",
            "too many failed logins from this address",
            hint=f"Try again in {max(1, round(wait_s))} s.",
        )


def _minor(protocol: int) -> int:
    return protocol & 0xFFFF


def _name(name: str) -> str:
    """Cut a user's or database's name as the server will; only UTF-8, because rules compare it."""
    try:
        data = name.encode()
    except UnicodeEncodeError:
        raise ProtocolViolation('invalid byte sequence for encoding "UTF8"', "22021") from None
    if len(data) <= MAX_NAME_BYTES:
        return name
    return data[:MAX_NAME_BYTES].decode("utf-8", "ignore")


def _shown(text: str) -> str:
    """A value of any encoding as text that every log, plugin and JSON can hold."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _unsupported_protocol(
    message: startup.SSLRequest | startup.GSSENCRequest,
) -> ProtocolViolation:
    """Encryption was asked for twice, or inside TLS: as PostgreSQL, read it as a version number."""
    code = tags.SSL_REQUEST if isinstance(message, startup.SSLRequest) else tags.GSSENC_REQUEST
    return ProtocolViolation(
        f"unsupported frontend protocol {code >> 16}.{code & 0xFFFF}: "
        f"server supports 3.0 to 3.{NEWEST_MINOR}",
        "0A000",
    )


def _replication_refusal(message: startup.StartupMessage) -> Refusal | None:
    value = message.parameters.get("replication", "")
    lowered = value.lower()
    if value == "" or (lowered and "false".startswith(lowered)) or lowered in ("off", "no", "0"):
        return None
    return Refusal(
        "0A000",
        "replication connections are not supported",
        hint="Connect to the server itself for streaming replication, pg_basebackup and the like.",
    )
