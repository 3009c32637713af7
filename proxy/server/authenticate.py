"""
The methods of authentication towards clients: trust, password, md5, scram-sha-256(-PLUS), cert.

Rule 31: an unknown user, an expired one and a wrong password get the same dialogue, the same error
and the same time. So an unknown user gets a mock secret, whose salt is as stable as a real one's, and
where auth_query is asked for some users only, the others wait as long as an answer takes.
Knows the dialogue after the startup packet; which method applies is `AuthRules`.
"""

import asyncio
import hashlib
import hmac
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, final

from proxy.auth import md5, scram, verify
from proxy.auth.userstore import Credentials, FoundSecret, UserStore, secret_kind
from proxy.errors import ProtocolViolation, Refusal, Refused
from proxy.observe.counters import Counters
from proxy.protocol import backend, frontend, tags
from proxy.server.identity import PasswordPrompt
from proxy.server.inbox import Inbox
from proxy.server.negotiate import Peer
from proxy.session.context import ClientContext
from proxy.session.ports import Wire

MAX_DISGUISE_S: Final = 0.05
"""Longest wait that hides whether auth_query was asked."""

MAX_DERIVED: Final = 10_000
_NONCE_BYTES: Final = 18

TRUST: Final = "trust"
REJECT: Final = "reject"
PASSWORD: Final = "password"
MD5: Final = "md5"
SCRAM: Final = "scram-sha-256"
CERT: Final = "cert"


@final
class AuthChoice:
    """
    How one client must prove who it is.

    method             one of this module's constants
    user_map           which user map to read a certificate's name with; "": they must be the same
    needs_certificate  a verified client certificate is demanded besides the method
    checks_name        and its name must be that of the user
    """

    __slots__ = ("checks_name", "method", "needs_certificate", "user_map")

    def __init__(
        self,
        method: str,
        user_map: str = "",
        needs_certificate: bool = False,
        checks_name: bool = False,
    ) -> None:
        self.method = method
        self.user_map = user_map
        self.needs_certificate = needs_certificate or method == CERT
        self.checks_name = checks_name or method == CERT


class AuthRules(ABC):
    """Which method applies to whom: `auth.method`, or an HBA file."""

    @abstractmethod
    def choose(self, peer: Peer, context: ClientContext) -> AuthChoice | None:
        """The first rule that matches; None: there is none, and the client is refused."""

    @abstractmethod
    def maps(self, user_map: str, system_name: str, user: str) -> bool:
        """Tell whether a certificate's name may log in as a user."""


@final
class OneMethod(AuthRules):
    """`auth.method` for everybody."""

    __slots__ = ("_choice",)

    def __init__(self, method: str) -> None:
        self._choice = AuthChoice(method)

    def choose(self, peer: Peer, context: ClientContext) -> AuthChoice | None:
        """Choose the one method."""
        return self._choice

    def maps(self, user_map: str, system_name: str, user: str) -> bool:
        """Names must be the same."""
        return system_name == user


@final
class Dialogue:
    """A connection during its login: what is sent, and the client's next message."""

    __slots__ = ("inbox", "wire")

    def __init__(self, inbox: Inbox, wire: Wire) -> None:
        self.inbox = inbox
        self.wire = wire

    async def ask(self, request: bytes, kind: str) -> bytes:
        """Send a request, and read the PasswordMessage or SASL response that answers it."""
        self.wire.write(request)
        tag, body = await self.inbox.read_message()
        if tag != tags.PASSWORD:
            raise ProtocolViolation(f"expected {kind} response, got message type {tag}")
        return body


@final
class Authenticator:
    """
    All methods, for all clients.

    rules                 which method applies
    users                 the secrets
    allows_cleartext      a clear password may be asked for without TLS
    """

    __slots__ = (
        "_counters",
        "_derived",
        "_lookup_s",
        "_mock_seed",
        "_now_s",
        "_random_bytes",
        "_unix_time_s",
        "allows_cleartext",
        "rules",
        "users",
    )

    def __init__(
        self,
        rules: AuthRules,
        users: UserStore,
        counters: Counters,
        allows_cleartext: bool,
        now_s: Callable[[], float],
        unix_time_s: Callable[[], float],
        mock_seed: bytes,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.rules = rules
        self.users = users
        self.allows_cleartext = allows_cleartext
        self._counters = counters
        self._now_s = now_s
        self._unix_time_s = unix_time_s
        self._mock_seed = mock_seed
        self._random_bytes = random_bytes
        self._lookup_s = 0.0
        # user -> clear password it was derived from, as a digest, and the SCRAM secret
        self._derived: dict[str, tuple[bytes, scram.ScramSecret]] = {}

    def attempt(self, dialogue: Dialogue, peer: Peer, context: ClientContext) -> "Attempt":
        """Begin one client's authentication."""
        return Attempt(self, dialogue, peer, context)

    async def prepare(self) -> None:
        """
        Derive the SCRAM secrets of all clear passwords in the users file, beside the loop: the first
        login of such a user then takes no longer than any other.
        """
        for user in self.users.file_users():
            text = self.users.file_secret(user)
            if text is not None and secret_kind(text) == "clear":
                await self.scram_secret(user, text)

    # -- for Attempt

    async def find(self, user: str, database: str) -> FoundSecret | None:
        """A user's secret, unless it has expired; takes as long whether it was known or not."""
        started_s = self._now_s()
        known = self.users.cached(user, started_s)
        found = await self.users.find(user, database, started_s)
        if self.users.lookup is not None:
            if known is None:
                took_s = min(self._now_s() - started_s, MAX_DISGUISE_S)
                self._lookup_s += (took_s - self._lookup_s) / 8
            else:
                await asyncio.sleep(self._lookup_s)
        if found is not None and found.is_expired(self._unix_time_s()):
            self._counters.count("password_expired")
            return None
        return found

    async def find_again(self, user: str, database: str) -> FoundSecret | None:
        """A user's secret as it is on the server now, if that is where it came from."""
        found = await self.users.find_again(user, database, self._now_s())
        if found is not None and found.is_expired(self._unix_time_s()):
            return None
        return found

    async def scram_secret(self, user: str, text: str) -> scram.ScramSecret:
        """The SCRAM secret of a user's secret, which may be a clear password."""
        if secret_kind(text) == "scram":
            return verify.Secret.parse(text).scram_secret or self.mock_secret(user)
        digest = hmac.digest(self._mock_seed, text.encode(), "sha256")
        held = self._derived.get(user)
        if held is not None and hmac.compare_digest(held[0], digest):
            return held[1]
        # The mock secret's salt, so that nothing changes for an observer when a user comes to be.
        salt = self.mock_secret(user).salt
        built = await asyncio.to_thread(scram.build_secret, text, salt)
        if len(self._derived) >= MAX_DERIVED:
            self._derived.clear()
        self._derived[user] = (digest, built)
        return built

    def mock_secret(self, user: str) -> scram.ScramSecret:
        """A SCRAM secret that no password opens, always the same for the same user."""
        return scram.mock_secret(user, self._mock_seed)

    def random_bytes(self, size: int) -> bytes:
        """Random bytes for salts and nonces."""
        return self._random_bytes(size)


@final
class Attempt(PasswordPrompt):
    """One client's authentication."""

    __slots__ = ("_context", "_dialogue", "_owner", "_password", "_peer")

    def __init__(
        self, owner: Authenticator, dialogue: Dialogue, peer: Peer, context: ClientContext
    ) -> None:
        self._owner = owner
        self._dialogue = dialogue
        self._peer = peer
        self._context = context
        self._password: str | None = None

    async def ask(self) -> str | None:
        """Ask for the clear password, once; None: not without TLS."""
        if self._password is not None:
            return self._password
        if not (self._peer.is_tls or self._peer.is_unix or self._owner.allows_cleartext):
            return None
        body = await self._dialogue.ask(backend.authentication_cleartext_password(), "password")
        self._password = frontend.PasswordMessage.decode(body).password.decode(
            "utf-8", "surrogateescape"
        )
        return self._password

    async def run(self) -> Credentials:
        """
        Go through the method that applies; answers what was proven. Raises Refused with PostgreSQL's
        SQLSTATE and words, ProtocolViolation, PeerLeft.
        """
        context = self._context
        choice = self._owner.rules.choose(self._peer, context)
        if choice is None or choice.method == REJECT:
            raise Refused(self._no_rule(choice))
        if choice.needs_certificate:
            self._check_certificate(choice)
        if choice.method in (TRUST, CERT):
            return Credentials()
        found = await self._owner.find(context.user, context.database)
        credentials = await self._prove(choice.method, found)
        if credentials is None:
            self._owner.users.forget_answer(context.user)
            raise Refused(
                Refusal("28P01", f'password authentication failed for user "{context.user}"')
            )
        self._owner.users.prove(context.user, credentials)
        return credentials

    async def _prove(self, method: str, found: FoundSecret | None) -> Credentials | None:
        """None: the client did not prove it."""
        if method == PASSWORD or self._password is not None:
            return await self._clear(found)
        kind = self._owner.users.typical_kind if found is None else secret_kind(found.text)
        # As PostgreSQL: method md5 means SCRAM for those whose secret is a SCRAM secret.
        if method == MD5 and kind != "scram":
            return await self._md5(found)
        return await self._scram(found)

    # -- password

    async def _clear(self, found: FoundSecret | None) -> Credentials | None:
        password = await self.ask()
        if password is None:
            raise Refused(
                Refusal(
                    "28000",
                    "this connection is not encrypted, and the method needs a clear password",
                    hint="Connect with TLS (sslmode=require).",
                )
            )
        if password == "":
            raise Refused(Refusal("28P01", "empty password returned by client"))
        if await self._matches(found, password):
            return Credentials(password=password)
        if found is not None and found.is_looked_up:
            # Rule 33: it may have been changed since.
            context = self._context
            newer = await self._owner.find_again(context.user, context.database)
            if newer is not None and await self._matches(newer, password):
                return Credentials(password=password)
        return None

    async def _matches(self, found: FoundSecret | None, password: str) -> bool:
        user = self._context.user
        if found is None:
            if self._owner.users.typical_kind == "scram":
                mock = verify.Secret.parse(self._owner.mock_secret(user).format())
                await asyncio.to_thread(verify.verify_cleartext, mock, user, password)
            return False
        secret = verify.Secret.parse(found.text)
        if secret_kind(found.text) != "scram":
            return verify.verify_cleartext(secret, user, password)
        # 4096 rounds of HMAC are milliseconds: not on the loop.
        return await asyncio.to_thread(verify.verify_cleartext, secret, user, password)

    # -- md5

    async def _md5(self, found: FoundSecret | None) -> Credentials | None:
        salt = self._owner.random_bytes(4)
        body = await self._dialogue.ask(backend.authentication_md5_password(salt), "password")
        response = frontend.PasswordMessage.decode(body).password
        if response == b"":
            raise Refused(Refusal("28P01", "empty password returned by client"))
        if self._md5_matches(found, salt, response):
            return Credentials()
        if found is not None and found.is_looked_up:
            context = self._context
            newer = await self._owner.find_again(context.user, context.database)
            if newer is not None and self._md5_matches(newer, salt, response):
                return Credentials()
        return None

    def _md5_matches(self, found: FoundSecret | None, salt: bytes, response: bytes) -> bool:
        user = self._context.user
        text = "md5" + "0" * 32 if found is None else found.text
        kind = secret_kind(text)
        if kind == "scram":
            return False
        secret = text if kind == "md5" else md5.build_secret(user, text)
        is_right = md5.verify(secret, salt, response)
        return is_right and found is not None

    # -- SCRAM

    async def _scram(self, found: FoundSecret | None) -> Credentials | None:
        owner = self._owner
        user = self._context.user
        usable = found is not None and secret_kind(found.text) != "md5"
        if found is not None and usable:
            secret = await owner.scram_secret(user, found.text)
        else:
            secret = owner.mock_secret(user)
        binding = self._peer.certificate_hash if self._peer.is_tls else b""
        mechanisms = [scram.MECHANISM]
        if binding:
            mechanisms.insert(0, scram.MECHANISM_PLUS)
        body = await self._dialogue.ask(backend.authentication_sasl(mechanisms), "SASL")
        initial = frontend.SASLInitialResponse.decode(body)
        if initial.mechanism not in mechanisms:
            raise ProtocolViolation("client selected an invalid SASL authentication mechanism")
        first = initial.response
        if first is None:
            # RFC 4422: a client may wait for an empty challenge before its first message.
            first = await self._dialogue.ask(backend.authentication_sasl_continue(b""), "SASL")
        server = scram.ScramServer(
            secret,
            owner.random_bytes(_NONCE_BYTES),
            binding,
            self._peer.is_tls,
            initial.mechanism,
        )
        challenge = server.first(first)
        answer = await self._dialogue.ask(backend.authentication_sasl_continue(challenge), "SASL")
        final = server.final(answer)
        if not final or not usable or found is None:
            return None
        self._dialogue.wire.write(backend.authentication_sasl_final(final))
        if secret_kind(found.text) == "scram":
            return Credentials(client_key=server.client_key, server_key=secret.server_key)
        return Credentials()

    # -- certificates

    def _check_certificate(self, choice: AuthChoice) -> None:
        peer = self._peer
        user = self._context.user
        if not peer.has_certificate:
            raise Refused(Refusal("28000", "connection requires a valid client certificate"))
        if not choice.checks_name:
            return
        if not peer.common_name or not self._owner.rules.maps(
            choice.user_map, peer.common_name, user
        ):
            raise Refused(Refusal("28000", f'certificate authentication failed for user "{user}"'))

    def _no_rule(self, choice: AuthChoice | None) -> Refusal:
        context = self._context
        where = f'host "{self._peer.addr or "[local]"}"'
        who = f'user "{context.user}", database "{context.database}"'
        how = "SSL encryption" if self._peer.is_tls else "no encryption"
        if choice is None:
            return Refusal("28000", f"no pg_hba.conf entry for {where}, {who}, {how}")
        return Refusal("28000", f"pg_hba.conf rejects connection for {where}, {who}, {how}")


def new_mock_seed(material: bytes) -> bytes:
    """
    A seed for mock secrets: the same in all worker processes of one proxy that are given the same
    material, or the salts of an unknown user would differ from worker to worker.
    """
    return hashlib.sha256(b"headgate mock authentication\x00" + material).digest()
