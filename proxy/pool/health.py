"""
Ask the nodes how they are: reachable, primary or standby, how far behind.

One task and one asyncpg connection for each node, never on a client's path. What is found goes
into `Nodes`, which tells the rest. A check is due every `check_interval`, at once when somebody
has seen a sign of trouble (`look_again`), and at shorter intervals while a node is down. Knows
nothing of pools.
"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Final, final

import asyncpg  # type: ignore[import-untyped]
import structlog

from proxy.pool.nodes import Nodes
from proxy.routing.node import LAG_UNKNOWN, ROLE_PRIMARY, ROLE_STANDBY, Node
from proxy.session.ports import Clock
from proxy.settings import model

Spawn = Callable[[Coroutine[Any, Any, Any], str], asyncio.Task[Any]]

FIRST_RETRY_S: Final = 0.2
"""A node that is down is asked again after this, then twice as long each time up to the interval."""

LOGIN_REFUSED: Final = ("28", "3D", "42", "0L", "0P", "53")
"""Classes of SQLSTATE that only a server which is up and takes connections answers to a login."""

REFUSED_INTERVAL_S: Final = 10.0
"""Shortest interval of checks while the login is refused: each leaves a line in the server's log."""

SHORTEST_INTERVAL_S: Final = 0.05

QUESTION: Final = """
SELECT in_recovery,
       (CASE WHEN in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END
        - '0/0'::pg_lsn)::int8 AS position,
       (CASE WHEN in_recovery THEN pg_last_wal_receive_lsn() END - '0/0'::pg_lsn)::int8 AS received,
       CASE WHEN in_recovery THEN NULL
            ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline,
       EXISTS (SELECT FROM pg_stat_wal_receiver) AS is_receiving
  FROM (SELECT pg_is_in_recovery() AS in_recovery) AS state
"""
"""One round trip. CASE keeps the functions that a standby or a primary refuses from being run."""

_log = structlog.get_logger("headgate.health")


@final
class Login:
    """How the monitor logs in. The password is in no repr."""

    __slots__ = ("database", "password", "user")

    def __init__(self, user: str, password: str, database: str) -> None:
        self.user = user
        self.password = password
        self.database = database


@final
class HealthMonitor:
    """
    The checks of all nodes.

    `password_of` gives the clear password of a user where one is known, else "": for the case that
    no login is configured and one that clients use is borrowed (`suggest_login`).
    """

    def __init__(
        self,
        nodes: Nodes,
        settings: model.Settings,
        clock: Clock,
        spawn: Spawn,
        password_of: Callable[[str], str] | None = None,
    ) -> None:
        self.nodes = nodes
        self.settings = settings
        self.clock = clock
        self._spawn = spawn
        self._password_of = password_of
        self._probes: dict[str, _Probe] = {}
        self._borrowed: Login | None = None
        self._checked = asyncio.Event()
        self._primary_position = -1
        self._primary_timeline = 0

    def start(self) -> None:
        """Begin to check all nodes, at once."""
        for node in self.settings.node:
            self._add(node)

    async def stop(self) -> None:
        """End all checks and close their connections."""
        probes = list(self._probes.values())
        self._probes.clear()
        for probe in probes:
            await probe.stop()

    async def reconfigure(self, settings: model.Settings) -> None:
        """A reload: check the nodes that there are now, as they are configured now."""
        self.settings = settings
        self._borrowed = None
        probes = list(self._probes.values())
        self._probes.clear()
        for probe in probes:
            await probe.stop()
        self.start()

    async def wait_checked(self, timeout_s: float) -> bool:
        """Wait until every node was asked at least once; False: the time is over."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.nodes.has_checked_all():
                    self._checked.clear()
                    await self._checked.wait()
        except TimeoutError:
            return False
        return True

    def look_again(self, name: str) -> None:
        """Check a node now; several calls while a check is due are one."""
        probe = self._probes.get(name)
        if probe is not None:
            probe.wake.set()

    def suggest_login(self, user: str, database: str) -> None:
        """
        A client's login to a server has worked. Where no login is configured for the monitor, it
        tries this one: its role and lag are worth more than knowing only that a node answers.
        """
        if self._borrowed is None and not self._has_configured_login():
            password = self._password_of(user) if self._password_of is not None else ""
            self._borrowed = Login(user, password, database)
            for probe in self._probes.values():
                probe.wake.set()

    def login(self) -> Login:
        """Who the monitor is: as configured, the first database's user, borrowed, or postgres."""
        monitor = self.settings.monitor
        if monitor.user:
            return Login(monitor.user, monitor.password, monitor.database)
        for database in self.settings.database:
            if database.user:
                return Login(database.user, database.password, monitor.database)
        if self._borrowed is not None:
            return self._borrowed
        return Login("postgres", monitor.password, monitor.database)

    def note_observation(self, node: Node, row: asyncpg.Record) -> None:
        """Write down what a node answered to QUESTION."""
        now_s = self.clock.now_us() / 1e6
        if not row["in_recovery"]:
            timeline = int(row["timeline"], 16)
            if timeline >= self._primary_timeline:
                self._primary_timeline = timeline
                self._primary_position = row["position"]
            self.nodes.observed(node, now_s, ROLE_PRIMARY, 0, timeline)
        else:
            self.nodes.observed(node, now_s, ROLE_STANDBY, self._lag_bytes(row), 0)
        self._checked.set()

    def note_failure(self, node: Node, error: BaseException) -> None:
        """Write down why a node could not be asked."""
        now_s = self.clock.now_us() / 1e6
        reason = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            reason = f"no answer within {self.settings.pool.connect_timeout:g} s"
        if isinstance(error, asyncpg.PostgresError):
            sqlstate = error.sqlstate or ""
            if sqlstate[:2] == "53" and node.is_observed:
                # No place left for the monitor says nothing new about the node.
                node.last_error = reason
                return
            if sqlstate[:2] in LOGIN_REFUSED:
                self.nodes.reachable(node, now_s, f"the monitor cannot log in: {reason}")
                self._checked.set()
                return
        self.nodes.failed(node, now_s, reason)
        self._checked.set()

    def _lag_bytes(self, row: asyncpg.Record) -> int:
        position = row["position"]
        if position is None:
            return LAG_UNKNOWN
        if self._primary_position >= 0:
            return max(0, int(self._primary_position) - int(position))
        # No primary among the nodes: what it has received and not replayed is all that can be
        # known, and only while it still receives.
        if row["is_receiving"] and row["received"] is not None:
            return max(0, int(row["received"]) - int(position))
        return LAG_UNKNOWN

    def _has_configured_login(self) -> bool:
        if self.settings.monitor.user:
            return True
        return any(database.user for database in self.settings.database)

    def _add(self, settings: model.Node) -> None:
        node = self.nodes.by_name.get(settings.name)
        if node is not None:
            probe = _Probe(self, node, settings)
            self._probes[settings.name] = probe
            probe.task = self._spawn(probe.run(), f"health of node {settings.name}")


@final
class _Probe:
    """The checks of one node: a task, a connection, and a bell to be woken by."""

    def __init__(self, monitor: HealthMonitor, node: Node, settings: model.Node) -> None:
        self._monitor = monitor
        self._node = node
        self._settings = settings
        self._connection: asyncpg.Connection | None = None
        self._user = ""
        self.wake = asyncio.Event()
        self.task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Check for ever."""
        retry_s = FIRST_RETRY_S
        try:
            while True:
                self.wake.clear()
                try:
                    await self._check()
                except Exception:
                    # A fault of ours must not leave the node unwatched.
                    _log.exception("health check failed", node=self._node.name)
                pause_s = self._monitor.settings.routing.check_interval
                if self._node.is_up:
                    retry_s = FIRST_RETRY_S
                    if not self._node.is_observed:
                        pause_s = max(pause_s, REFUSED_INTERVAL_S)
                else:
                    pause_s = min(pause_s, retry_s)
                    retry_s *= 2
                # Many signs of trouble at once are looked into once.
                await asyncio.sleep(SHORTEST_INTERVAL_S)
                await self._rest(pause_s)
        finally:
            self._drop()

    async def stop(self) -> None:
        """End the checks."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def _check(self) -> None:
        login = self._monitor.login()
        if not self._node.is_up or login.user != self._user:
            # Somebody could not connect: an old connection that still works proves nothing.
            self._drop()
        had_connection = self._connection is not None
        answer = await self._ask(login)
        if isinstance(answer, Exception) and had_connection:
            # The old connection may have been ended by an administrator: only a fresh one counts.
            answer = await self._ask(login)
        if isinstance(answer, Exception):
            self._monitor.note_failure(self._node, answer)
        else:
            self._monitor.note_observation(self._node, answer)

    async def _ask(self, login: Login) -> asyncpg.Record | Exception:
        """Ask once: the answer, or the error instead of raising it."""
        try:
            async with asyncio.timeout(self._monitor.settings.pool.connect_timeout):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._connect(login)
                    self._user = login.user
                return await self._connection.fetchrow(QUESTION)
        except Exception as error:
            # What calls itself a server can make asyncpg raise anything.
            self._drop()
            return error

    async def _connect(self, login: Login) -> asyncpg.Connection:
        return await asyncpg.connect(
            host=self._settings.host,
            port=self._settings.port,
            user=login.user,
            # asyncpg takes nothing but a plain str, and a password may be a settings Secret.
            password=str(login.password) or None,
            database=login.database,
            ssl=tls_of(self._settings.tls),
            direct_tls=self._settings.tls.negotiation == "direct",
            timeout=self._monitor.settings.pool.connect_timeout,
            statement_cache_size=0,
            server_settings={
                "application_name": "headgate monitor",
                "search_path": "pg_catalog",
            },
        )

    def _drop(self) -> None:
        connection = self._connection
        self._connection = None
        if connection is not None and not connection.is_closed():
            connection.terminate()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        except TimeoutError:
            return


def tls_of(tls: model.NodeTls) -> ssl.SSLContext | str:
    """libpq's sslmode as asyncpg takes it: a word, or a context where there are files to load."""
    if tls.mode in ("disable", "prefer"):
        return tls.mode
    context = ssl.create_default_context(cafile=str(tls.ca) if tls.ca is not None else None)
    context.set_alpn_protocols(["postgresql"])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.mode == "verify-full"
    if tls.mode == "require" and tls.ca is None:
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        context.load_cert_chain(str(tls.cert), str(tls.key) if tls.key is not None else None)
    return context
