"""A proxy's entrance in one process: logs clients in as configured, and greets them itself."""

from collections.abc import Callable

from proxy.auth.failures import FailureLimiter
from proxy.auth.userstore import FoundSecret, SecretLookup, UserStore
from proxy.errors import Refusal
from proxy.protocol import backend, tags
from proxy.server.authenticate import AuthChoice, Authenticator, AuthRules, OneMethod
from proxy.server.identity import LoginHooks, NoLoginHooks
from proxy.server.inbox import LoginConnection
from proxy.server.login_client import Admission, LoggedInClient, LoginServices, login_client
from proxy.server.negotiate import Peer
from proxy.session.context import ClientContext
from tests.unit.server.peers import Door, ended


class Gatekeeper(Admission):
    """Counts, and refuses what a test says."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.full = False
        self.refusal: Refusal | None = None

    def enter(self, context: ClientContext) -> Refusal | None:
        if self.full:
            return Refusal("53300", "sorry, too many clients already")
        self.inside.append(context.client_id)
        return None

    def admit(self, context: ClientContext) -> Refusal | None:
        return self.refusal

    def leave(self, context: ClientContext) -> None:
        self.inside.remove(context.client_id)


class Directory(SecretLookup):
    """auth_query over a dictionary; counts how often it is asked."""

    def __init__(self, secrets: dict[str, str]) -> None:
        self.secrets = secrets
        self.valid_until_s = 0.0
        self.asked: list[tuple[str, str]] = []

    async def look_up(self, user: str, database: str) -> FoundSecret | None:
        self.asked.append((user, database))
        text = self.secrets.get(user)
        return None if text is None else FoundSecret(text, self.valid_until_s, True)


class Entrance:
    """Everything that login_client needs, and what came of it."""

    def __init__(
        self,
        method: str = "scram-sha-256",
        users: dict[str, str] | None = None,
        lookup: SecretLookup | None = None,
        hooks: LoginHooks | None = None,
        rules: AuthRules | None = None,
        max_failures: int = 0,
        allows_cleartext: bool = True,
    ) -> None:
        self.now_s = 1000.0
        self.users = UserStore(users or {}, lookup, 60.0)
        self.admission = Gatekeeper()
        self.limiter = FailureLimiter(max_failures)
        self.clients: list[LoggedInClient] = []
        self.rules = rules or OneMethod(method)
        self.hooks = hooks or NoLoginHooks()
        self.allows_cleartext = allows_cleartext
        self.door: Door | None = None
        self._numbers = iter(range(1, 100_000))

    def _clock(self) -> Callable[[], float]:
        return lambda: self.now_s

    def services(self, door: Door) -> LoginServices:
        authenticator = Authenticator(
            self.rules,
            self.users,
            door.counters,
            self.allows_cleartext,
            self._clock(),
            lambda: 1_700_000_000.0,
            b"seed of this test",
        )
        return LoginServices(
            authenticator,
            self.admission,
            self.hooks,
            self.limiter,
            door.cancels,
            door.counters,
            lambda: f"w0-{next(self._numbers)}",
            self._clock(),
            lambda: 1_700_000_000.0,
        )

    async def __call__(self, connection: LoginConnection, peer: Peer, deadline: float) -> None:
        assert self.door is not None
        assert connection.inbox is not None
        services = self.services(self.door)
        client = await login_client(connection.inbox, connection.wire, peer, services, deadline)
        if client is None:
            return
        self.clients.append(client)
        wire = connection.wire
        wire.write(backend.parameter_status(b"server_version", b"15.0"))
        wire.write(backend.parameter_status(b"client_encoding", b"UTF8"))
        wire.write(backend.parameter_status(b"standard_conforming_strings", b"on"))
        wire.write(backend.backend_key_data(7, b"keys"))
        wire.write(backend.ready_for_query(tags.STATUS_IDLE))
        await ended(connection)


class MappedCertificates(AuthRules):
    """Demands certificates, and maps their names by a dictionary."""

    def __init__(self, names: dict[str, str], choice: AuthChoice | None) -> None:
        self._names = names
        self._choice = choice

    def choose(self, peer: Peer, context: ClientContext) -> AuthChoice | None:
        return self._choice

    def maps(self, user_map: str, system_name: str, user: str) -> bool:
        return self._names.get(system_name) == user
