"""
A login to a server: from the StartupMessage that the proxy sends to the first ReadyForQuery.

The server is not trusted more than needed: with SCRAM its signature is verified, a clear password
is shown only where nobody can listen, every message is bounded, and what makes no sense ends the
connection. Errors carry the server's own SQLSTATE, because a client will be told it. Knows neither
sockets nor nodes.
"""

import asyncio
import secrets
from collections.abc import Callable
from typing import Final, final

from proxy.auth import md5, scram
from proxy.auth.userstore import Credentials
from proxy.errors import BackendLost, ProtocolViolation, Refusal
from proxy.protocol import backend, frontend, startup, tags
from proxy.server.inbox import Inbox, PeerLeft
from proxy.session.ports import Wire

PROTOCOL_3_0: Final = tags.PROTOCOL_3_0
PROTOCOL_3_2: Final = tags.PROTOCOL_3_2

MAX_LOGIN_MESSAGES: Final = 1000
"""A server sends about 20 parameters and a few notices; an endless stream is not a login."""

_NONCE_BYTES: Final = 18


@final
class ServerSecurity:
    """
    How the connection to the server is protected.

    is_private        nobody can listen: TLS, or a Unix socket
    certificate_hash  channel binding data of the server's certificate; b"" without TLS
    """

    __slots__ = ("certificate_hash", "is_private", "is_tls")

    def __init__(self, is_tls: bool, is_private: bool, certificate_hash: bytes) -> None:
        self.is_tls = is_tls
        self.is_private = is_private
        self.certificate_hash = certificate_hash


@final
class BackendLogin:
    """
    A login that is done; the inbox may hold more behind it.

    parameters  the server's ParameterStatus values
    protocol    version that is spoken, 196608 or 196610
    """

    __slots__ = ("parameters", "process_id", "protocol", "secret_key")

    def __init__(self, protocol: int) -> None:
        self.parameters: dict[bytes, bytes] = {}
        self.process_id = 0
        self.secret_key = b""
        self.protocol = protocol


@final
class VersionRefused(Exception):
    """The server does not know the protocol version: try again with 3.0."""


async def login_backend(
    inbox: Inbox,
    wire: Wire,
    *,
    node: str,
    database: str,
    user: str,
    credentials: Credentials,
    settings: dict[str, str],
    security: ServerSecurity,
    protocol: int = PROTOCOL_3_2,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
) -> BackendLogin:
    """
    Log in to a server. Raises BackendLost, and VersionRefused before anything secret was sent. The
    caller limits the time and closes the connection on any exception.
    """
    login = _Login(inbox, wire, node, user, credentials, security, protocol, random_bytes)
    message = startup.StartupMessage.build(
        protocol, {"user": user, "database": database, **settings}
    )
    wire.write(message.encode())
    try:
        return await login.run()
    except PeerLeft:
        raise BackendLost(
            Refusal("08006", f'server "{node}" closed the connection during login')
        ) from None
    except ProtocolViolation as violation:
        raise BackendLost(
            Refusal(
                "08P01",
                f'server "{node}" broke the protocol during login: {violation.message}',
            )
        ) from None


@final
class _Login:
    """One login under way."""

    __slots__ = (
        "_asked",
        "_credentials",
        "_inbox",
        "_node",
        "_random_bytes",
        "_result",
        "_scram",
        "_scram_is_verified",
        "_security",
        "_user",
        "_wire",
    )

    def __init__(
        self,
        inbox: Inbox,
        wire: Wire,
        node: str,
        user: str,
        credentials: Credentials,
        security: ServerSecurity,
        protocol: int,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._inbox = inbox
        self._wire = wire
        self._node = node
        self._user = user
        self._credentials = credentials
        self._security = security
        self._random_bytes = random_bytes
        self._scram: scram.ScramClient | None = None
        self._scram_is_verified = False
        self._asked = False
        self._result = BackendLogin(protocol)

    async def run(self) -> BackendLogin:
        """Answer the server's messages until it is ready."""
        is_authenticated = False
        for _ in range(MAX_LOGIN_MESSAGES):
            tag, body = await self._inbox.read_message()
            if tag == tags.ERROR_RESPONSE:
                raise self._refused(body)
            if tag == tags.NOTICE_RESPONSE:
                continue
            if not is_authenticated:
                if tag == tags.AUTHENTICATION:
                    is_authenticated = await self._on_authentication(body)
                elif tag == tags.NEGOTIATE_PROTOCOL_VERSION and not self._asked:
                    self._on_version(body)
                else:
                    raise ProtocolViolation(f"message type {tag} before authentication was done")
            elif tag == tags.PARAMETER_STATUS:
                name, value = backend.parameter_of(body)
                self._result.parameters[name] = value
            elif tag == tags.BACKEND_KEY_DATA:
                key = backend.BackendKeyData.decode(body)
                self._result.process_id = key.process_id
                self._result.secret_key = key.secret_key
            elif tag == tags.READY_FOR_QUERY:
                if body != b"I":
                    raise ProtocolViolation("not idle after login")
                return self._result
            elif tag != tags.NOTIFICATION_RESPONSE:
                raise ProtocolViolation(f"message type {tag} during login")
        raise ProtocolViolation("too many messages during login")

    def _refused(self, body: bytes) -> Exception:
        fields = backend.error_fields(body)
        sqlstate = backend.sqlstate_of(fields)
        refusal = Refusal(
            sqlstate,
            backend.message_of(fields),
            detail=fields.get("D", ""),
            hint=fields.get("H", ""),
            severity="FATAL",
        )
        if (
            not self._asked
            and self._result.protocol != PROTOCOL_3_0
            and sqlstate in ("0A000", "08P01", "XX000")
            and "protocol" in refusal.message
        ):
            # Poolers and servers before 9.3.21 refuse a minor version instead of negotiating.
            return VersionRefused()
        return BackendLost(refusal)

    def _on_version(self, body: bytes) -> None:
        answer = backend.NegotiateProtocolVersion.decode(body)
        # PostgreSQL sends the whole version number, the documentation says the minor one.
        minor = answer.newest_minor & 0xFFFF
        asked_minor = self._result.protocol & 0xFFFF
        if minor > asked_minor or minor == 1:
            raise ProtocolViolation(f"offered protocol version 3.{minor}, which was not asked for")
        self._result.protocol = PROTOCOL_3_0 + minor

    async def _on_authentication(self, body: bytes) -> bool:
        """Answer one Authentication message; True: it was AuthenticationOk."""
        request = backend.AuthenticationRequest.decode(body)
        code = request.code
        if code == backend.AUTH_OK:
            if self._scram is not None and not self._scram_is_verified:
                # SAFETY: a false server could skip the proof that it knows the password.
                raise ProtocolViolation("ended SCRAM without its signature")
            return True
        self._asked = True
        if code == backend.AUTH_CLEARTEXT_PASSWORD:
            self._send_clear()
        elif code == backend.AUTH_MD5_PASSWORD:
            self._send_md5(request.data)
        elif code == backend.AUTH_SASL:
            self._begin_scram(backend.sasl_mechanisms(request.data))
        elif code == backend.AUTH_SASL_CONTINUE and self._scram is not None:
            # 4096 rounds of HMAC and more, as the server says: not on the loop.
            answer = await asyncio.to_thread(self._scram.final, request.data)
            self._wire.write(frontend.SASLResponse(answer).encode())
        elif code == backend.AUTH_SASL_FINAL and self._scram is not None:
            if not self._scram.verify(request.data):
                raise self._lost("08006", "did not prove that it knows the password")
            self._scram_is_verified = True
        else:
            raise self._lost(
                "08004", f"asks for an authentication method that is not supported (code {code})"
            )
        return False

    def _send_clear(self) -> None:
        password = self._credentials.password
        if password == "":
            raise self._lost("28P01", "asks for a clear password, and none is known")
        if not self._security.is_private:
            # Rule 32: whoever asks for less than it could is not given it.
            raise self._lost(
                "28000", "asks for a clear password on a connection without TLS, which is refused"
            )
        self._wire.write(frontend.PasswordMessage(password.encode()).encode())

    def _send_md5(self, salt: bytes) -> None:
        credentials = self._credentials
        if credentials.password != "":
            secret = md5.build_secret(self._user, credentials.password)
        elif credentials.md5_secret != "":
            secret = credentials.md5_secret
        else:
            raise self._lost("28P01", "asks for an md5 password, and none is known")
        self._wire.write(frontend.PasswordMessage(md5.response(secret, salt)).encode())

    def _begin_scram(self, mechanisms: list[bytes]) -> None:
        if self._scram is not None:
            raise ProtocolViolation("began SASL twice")
        credentials = self._credentials
        if credentials.password == "" and credentials.client_key == b"":
            raise self._lost(
                "28P01", f'asks for a password, and none is known for user "{self._user}"'
            )
        # Keys are good for one salt only: a password, where there is one, goes before them.
        has_password = credentials.password != ""
        client = scram.ScramClient(
            "",
            self._random_bytes(_NONCE_BYTES),
            mechanisms,
            credentials.password,
            b"" if has_password else credentials.client_key,
            b"" if has_password else credentials.server_key,
            self._security.certificate_hash,
        )
        self._scram = client
        self._wire.write(frontend.SASLInitialResponse(client.mechanism, client.first()).encode())

    def _lost(self, sqlstate: str, what: str) -> BackendLost:
        hint = ""
        if sqlstate == "28P01":
            hint = (
                "Give the user a password in users_file or [[database]], or let clients log in "
                "with SCRAM and the server's own secrets (auth.query)."
            )
        return BackendLost(
            Refusal(sqlstate, f'server "{self._node}" {what}', hint=hint, severity="FATAL")
        )
