"""
One worker process: everything that serves clients, made, started, reloaded and stopped.

The only place that knows all parts. It ties them together and holds no logic of its own beyond
the life of a client's connection and the sweep for time-outs.
"""

import asyncio
import hmac
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

import structlog

from proxy.auth.failures import FailureLimiter
from proxy.auth.userstore import UserStore
from proxy.errors import PluginFailed, Refusal, SettingsError
from proxy.hooks.login import ConnectionHooks
from proxy.hooks.outcomes import OutcomeQueue
from proxy.hooks.pipeline import HookPipeline
from proxy.hooks.refused import RefusedStatements
from proxy.hooks.result_cache import LocalResultCache
from proxy.hooks.write_marks import WriteMarks
from proxy.observe.counters import Counters
from proxy.observe.totals import DatabaseTotals
from proxy.plugins.host.make import make_services
from proxy.plugins.manager import PluginManager
from proxy.plugins.pulse import PULSE
from proxy.pool.plan import plan_of, share
from proxy.pool.service import PoolService
from proxy.routing.node import ROLE_PRIMARY
from proxy.server.admission import CONSOLE_DATABASES, ClientLimits
from proxy.server.auth_query import AuthQuery
from proxy.server.authenticate import Authenticator, new_mock_seed
from proxy.server.authrules import make_auth_rules
from proxy.server.backend import BackendConnection
from proxy.server.cancel import CancelRegistry
from proxy.server.census import Census
from proxy.server.clock import MonotonicClock, monotonic_s, unix_time_s
from proxy.server.control import ControlServer, Siblings
from proxy.server.dial import ServerDialer
from proxy.server.frontend import FrontendConnection
from proxy.server.inbox import LoginConnection
from proxy.server.listener import (
    Listener,
    open_tcp_sockets,
    open_unix_socket,
    remove_unix_socket,
)
from proxy.server.login_client import LoggedInClient, LoginServices, login_client
from proxy.server.login_hooks import PluginLoginHooks
from proxy.server.negotiate import Peer
from proxy.server.place import Place
from proxy.server.scheduler import LoopScheduler
from proxy.server.sweep import sweep
from proxy.server.tasks import Tasks
from proxy.server.tls import ServerTls, make_server_tls
from proxy.session.context import ClientContext
from proxy.session.link import BackendLink
from proxy.session.session import Session
from proxy.session.tuning import (
    POOL_SESSION,
    POOL_STATEMENT,
    POOL_TRANSACTION,
    CancelKey,
    SessionTuning,
    Welcomes,
)
from proxy.settings.model import Listen, Node, Settings
from proxy.settings.plugin_model import Plugins
from proxy.settings.users import read_users
from proxy.sql.classify import PgClassifier

if TYPE_CHECKING:
    from proxy.admin.side import AdminSide

SWEEP_S: Final = 0.25
"""How often sessions are looked at for time-outs; they are as exact as this."""

MAX_WELCOMES: Final = 1000
MAX_CAPTURE_BYTES: Final = 1024 * 1024
MAX_PENDING_LOGINS: Final = 10_000

_MODES: Final = {
    "session": POOL_SESSION,
    "transaction": POOL_TRANSACTION,
    "statement": POOL_STATEMENT,
}

_log = structlog.get_logger("headgate.worker")


@final
class Worker:
    """
    One process's proxy.

    counters, pools, pipeline, classifier, connections   for the admin side to read
    place                                                among several; None: there is only this one
    """

    def __init__(
        self,
        settings: Settings,
        config_path: Path,
        index: int,
        workers: int,
        place: Place | None = None,
    ) -> None:
        self.settings = settings
        self.config_path = config_path
        self.index = index
        self.workers = workers
        self.place = place
        self._lookup: AuthQuery | None = None
        self.cache: LocalResultCache | None = None
        self.is_draining = False
        self.is_ready = False
        self._is_cut_off = False
        self.started_at_s = unix_time_s()
        self.clock = MonotonicClock()
        self.counters = Counters()
        self.totals = DatabaseTotals()
        self.tasks = Tasks(self.counters)
        self.classifier = PgClassifier()
        prefix = f"w{index}-".encode()
        self.outcomes = OutcomeQueue(
            LoopScheduler(self.clock), self.counters, prefix, settings.plugins.outcome_queue
        )
        self.refused = RefusedStatements(unix_time_s)
        self.pipeline = HookPipeline(
            self.classifier, self.counters, self.outcomes, prefix, refused=self.refused
        )
        self.users = UserStore(_users_of(settings), None, settings.auth.query_cache)
        self.users.lookup = self._make_lookup(settings)
        self.dialer = ServerDialer(
            settings, self.users, self._new_backend, self.counters, monotonic_s
        )
        self.pools = PoolService(
            settings,
            self.dialer,
            self.counters,
            self.clock,
            self.tasks.spawn,
            secrets.randbits(32),
            index,
            workers,
        )
        self.siblings: Siblings | None = None
        self._control: ControlServer | None = None
        census: Census | None = None
        kv_path: Path | None = None
        self._mock_secret = secrets.token_bytes(32)
        if place is not None:
            order = place.order
            census = Census(order.directory, index, workers)
            kv_path = order.directory / "kv"
            self._mock_secret = order.secret
            self.siblings = Siblings(order.directory, index, workers, self.tasks)
            if order.incarnation:
                self.counters.by_cause["worker_replaced"] = order.incarnation
        self.limits = ClientLimits(settings, plan_of(settings, index, workers), census)
        self.cancels = CancelRegistry(
            self.counters,
            index,
            self.siblings,
            workers=workers,
            # Not the same use as the other one of this secret, so not the same key.
            shared=hmac.digest(self._mock_secret, b"cancel keys", "sha256"),
        )
        self.limiter = FailureLimiter(share(settings.auth.max_failures_per_minute, index, workers))
        self.welcomes = Welcomes(MAX_WELCOMES)
        self.connections: dict[FrontendConnection, None] = {}
        self.tls: ServerTls = make_server_tls(settings.listen.tls)
        self._contexts: dict[FrontendConnection, ClientContext] = {}
        self._tunings: dict[str, SessionTuning] = {}
        # Once, and not an object for each client.
        self._frontend_closed = self._on_frontend_closed
        self._console_keys: dict[FrontendConnection, CancelKey] = {}
        self._next_client = 0
        self._listener: Listener | None = None
        self.admin: AdminSide | None = None
        writes_path = None if place is None else place.order.directory / "writes"
        self._write_marks = WriteMarks(writes_path, index, workers)
        self._configure_hooks(settings.plugins)
        self.plugins = PluginManager(
            settings,
            self.pipeline,
            self.counters,
            make_services(
                settings, asyncio.get_running_loop(), self._primary_node, kv_path=kv_path
            ),
            self._primary_node,
        )
        self.connection_hooks = ConnectionHooks(self.pipeline, prefix.decode())
        self.login_hooks = PluginLoginHooks(self.connection_hooks)
        self._services = self._make_services()

    def _configure_hooks(self, plugins: Plugins) -> None:
        """What the operator says of statements and results, whichever plugins there are."""
        if plugins.result_cache == 0:
            self.cache = None
        elif self.cache is None:
            self.cache = LocalResultCache(
                plugins.result_cache, self.clock.now_us, self._write_marks
            )
        else:
            self.cache.resize(plugins.result_cache)
        self.outcomes.cache = self.cache
        self.pipeline.configure(
            plugins.limits.statement_ms * 1000, plugins.unknown_sql == "refuse", self.cache
        )

    def _make_services(self) -> LoginServices:
        auth = self.settings.auth
        authenticator = Authenticator(
            make_auth_rules(auth),
            self.users,
            self.counters,
            auth.allow_cleartext_without_tls,
            monotonic_s,
            unix_time_s,
            new_mock_seed(_mock_material(self.settings, self._mock_secret)),
        )
        return LoginServices(
            authenticator,
            self.limits,
            self.login_hooks,
            self.limiter,
            self.cancels,
            self.counters,
            self._client_id,
            monotonic_s,
            unix_time_s,
        )

    def _make_lookup(self, settings: Settings) -> AuthQuery | None:
        if not settings.auth.query:
            return None
        self._lookup = AuthQuery(settings, self.users, self._nodes_by_role, self.counters)
        return self._lookup

    def _nodes_by_role(self) -> list[Node]:
        """The nodes as secrets are asked of them: the primary first, what is down last."""
        known = self.pools.nodes.by_name
        return sorted(
            self.settings.node,
            key=lambda node: (
                node.name not in known or not known[node.name].is_up,
                node.name not in known or known[node.name].role != ROLE_PRIMARY,
            ),
        )

    def _primary_node(self) -> Node | None:
        """Where SQL of plugins goes; None: no primary is known now."""
        known = self.pools.nodes.by_name
        for node in self.settings.node:
            state = known.get(node.name)
            if state is not None and state.is_up and state.role == ROLE_PRIMARY:
                return node
        return None

    # -- start and stop

    async def start(self) -> None:
        """Check the nodes, then listen. Raises SettingsError when an address cannot be had."""
        settings = self.settings
        await self._services.authenticator.prepare()
        try:
            await self.plugins.start()
        except PluginFailed as failed:
            raise SettingsError([f"{self.config_path}: plugins: {failed}"]) from None
        complete = await self.pools.start()
        if not complete:
            _log.warning("some nodes did not answer yet; serving all the same")
        listener = Listener(
            self.tasks,
            self.counters,
            self.cancels,
            self._new_frontend,
            self._on_client,
            lambda: self.tls,
            lambda: self.settings.auth.login_timeout,
            lambda: MAX_PENDING_LOGINS,
        )
        if self.place is None:
            listener.start(_open_sockets(settings.listen))
        # Not before: where another server listens on the Unix socket, `stop` must leave it alone.
        self._listener = listener
        self.tasks.spawn(self._sweep(), "time-outs")
        self.admin = _admin_side(self)
        await self.admin.start()
        if self.place is not None:
            fleet = self.admin.fleet
            self._control = ControlServer(
                self.place.order.directory, self.index, self.cancels, fleet.handle
            )
            await self._control.start()
            if self.place.order.incarnation:
                await fleet.catch_up()
            # Last: its clients have waited for a worker that is complete.
            listener.start(self.place.sockets)
        self.is_ready = True

    async def stop(self) -> None:
        """Drain: no new clients, idle ones are sent away, the others get until drain_timeout."""
        self.is_draining = True
        self.is_ready = False
        if self._listener is not None:
            self._listener.stop()
            listen = self.settings.listen
            if listen.unix_socket_dir is not None and self.place is None:
                remove_unix_socket(listen.unix_socket_dir, listen.port)
        for connection in list(self.connections):
            if connection.session is not None:
                connection.session.drain()
            elif connection.other is not None:
                connection.other.drain()
        deadline_s = monotonic_s() + self.settings.server.drain_timeout
        while not self._is_cut_off and self.connections and monotonic_s() < deadline_s:  # noqa: ASYNC110
            # Not an event: whoever leaves would have to know of it, and this runs once.
            await asyncio.sleep(0.05)
        if self.connections:
            _log.warning("clients cut off at the end of the drain", clients=len(self.connections))
            for connection in list(self.connections):
                if connection.session is not None:
                    connection.session.fatal(
                        Refusal("57P01", "terminating connection due to administrator command")
                    )
                elif connection.other is not None:
                    connection.other.on_frontend_lost()
                    connection.wire.abort()
            await asyncio.sleep(0.05)
        self.outcomes.flush()
        await self.plugins.stop()
        await self.pools.stop()
        if self.admin is not None:
            await self.admin.stop()
        if self._control is not None:
            await self._control.stop()
        await self.tasks.cancel_all()

    def cut_off(self) -> None:
        """End the drain now."""
        self._is_cut_off = True

    async def apply(self, settings: Settings) -> None:
        """Take new settings. Raises SettingsError before anything has changed."""
        tls = make_server_tls(settings.listen.tls)
        entries = _users_of(settings)
        make_auth_rules(settings.auth)
        self.dialer.apply(settings)
        self.tls = tls
        self.settings = settings
        self._tunings.clear()
        lookup, self._lookup = self._lookup, None
        self.users.replace(entries, self._make_lookup(settings), settings.auth.query_cache)
        if lookup is not None:
            await lookup.close()
        self.limiter.max_per_minute = settings.auth.max_failures_per_minute
        self.limiter.max_per_minute = share(
            settings.auth.max_failures_per_minute, self.index, self.workers
        )
        self.limits.apply(settings, plan_of(settings, self.index, self.workers))
        await self.pools.reconfigure(settings)
        self._configure_hooks(settings.plugins)
        await self.plugins.apply(settings)
        self.welcomes.clear()
        services = self._make_services()
        self._services = services
        await services.authenticator.prepare()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            nodes = self.pools.nodes.by_name.values()
            now_us = self.clock.now_us()
            sweep(self.connections, self.settings.pool, nodes, now_us, self._vacate)
            PULSE.look(now_us * 1000)

    def _vacate(self, database: str) -> None:
        """Have no worker keep an idle connection to a database that a statement waits for."""
        if self.admin is not None:
            ask = self.admin.fleet.ask({"do": "vacate", "database": database})
            self.tasks.spawn(ask, "leave a database")

    # -- connections

    def _client_id(self) -> str:
        self._next_client += 1
        return f"w{self.index}-{self._next_client}"

    def _new_backend(self) -> BackendConnection:
        return BackendConnection(self._on_backend_closed)

    def _on_backend_closed(self, link: BackendLink) -> None:
        self.pools.broker.on_link_closed(link)

    def _new_frontend(self) -> FrontendConnection:
        return FrontendConnection(self._frontend_closed)

    def _on_frontend_closed(self, connection: FrontendConnection) -> None:
        self.connections.pop(connection, None)
        context = self._contexts.pop(connection, None)
        if context is None:
            return
        key = self._console_keys.pop(connection, None)
        if key is not None:
            self.cancels.unregister(key)
        self.counters.clients_active -= 1
        self.limits.leave(context)
        session = connection.session
        if session is not None:
            self.cancels.unregister(session.key)
            if self.cache is not None:
                self.cache.left(context.client_id)
            self.totals.add(
                context.database,
                session.queries,
                session.received_bytes,
                session.sent_bytes,
                session.transactions,
                session.query_us,
                session.transaction_us,
            )
            self.connection_hooks.on_disconnect(
                context,
                int((unix_time_s() - context.connected_at) * 1e6),
                session.queries,
                session.received_bytes,
                session.sent_bytes,
            )
            _log.debug(
                "client left",
                client=context.client_id,
                user=context.user,
                database=context.database,
                queries=session.queries,
            )

    async def _on_client(self, made: LoginConnection, peer: Peer, deadline: float) -> None:
        """From a made connection to its session."""
        if not isinstance(made, FrontendConnection) or made.inbox is None:
            return
        client = await login_client(made.inbox, made.wire, peer, self._services, deadline)
        if client is None:
            return
        if self.is_draining or made.inbox.is_ended:
            self.limits.leave(client.context)
            made.wire.close()
            return
        context = client.context
        self.users.prove(context.user, client.credentials)
        self.counters.clients_active += 1
        self.counters.clients_total += 1
        self.connections[made] = None
        # Not the client itself: what it proved itself with must not stay for as long as it does.
        self._contexts[made] = context
        if context.database in CONSOLE_DATABASES:
            self._begin_console(made, client)
            return
        session = Session(
            context,
            made.wire,
            self.pipeline,
            self.pools.broker,
            self.classifier,
            self.clock,
            self.counters,
            self._tuning(context.database),
            self.welcomes,
            client.settings,
        )
        session.key = self.cancels.register(session, client.protocol_minor)
        session.keys = self.cancels
        made.begin(session)

    def _begin_console(self, made: FrontendConnection, client: LoggedInClient) -> None:
        if self.admin is None:
            made.wire.close()
            return
        console = self.admin.console_session(client.context, made.wire)
        key = self.cancels.register(console, client.protocol_minor)
        self._console_keys[made] = key
        console.start(key)
        made.begin_other(console)

    def _tuning(self, database: str) -> SessionTuning:
        """One for all clients of a database that the file names, and one for the others."""
        pool = self.settings.pool
        mode = pool.mode
        name = ""
        for known in self.settings.database:
            if known.name == database:
                name = database
                mode = known.pool_mode or mode
        found = self._tunings.get(name)
        if found is not None:
            return found
        tuning = SessionTuning(
            _MODES[mode],
            self.settings.listen.max_message,
            max(1, pool.max_prepared_statements),
            MAX_CAPTURE_BYTES,
        )
        self._tunings[name] = tuning
        return tuning


def _admin_side(worker: Worker) -> "AdminSide":
    # The admin side stands above the worker and reads it: it is brought in where it is started.
    from proxy.admin.peers import ControlPeers
    from proxy.admin.side import AdminSide

    side = AdminSide(worker)
    if worker.siblings is not None:
        side.fleet.peers = ControlPeers(worker.siblings)
    return side


def _open_sockets(listen: Listen) -> list[socket.socket]:
    sockets = open_tcp_sockets(listen.host, listen.port, listen.backlog, reuse_port=False)
    if listen.unix_socket_dir is not None:
        mode = int(listen.unix_socket_mode, 8)
        try:
            sockets.append(
                open_unix_socket(listen.unix_socket_dir, listen.port, mode, listen.backlog)
            )
        except BaseException:
            for listening in sockets:
                listening.close()
            raise
    return sockets


def _mock_material(settings: Settings, secret: bytes) -> bytes:
    """
    What the salts of unknown users come from: a secret, or they could be told from real ones by
    computing them; and where there is one that lasts, the same after a restart, or they could be
    told by their change.
    """
    key = settings.listen.tls.key
    try:
        return secret if key is None else key.read_bytes()
    except OSError:
        return secret


def _users_of(settings: Settings) -> dict[str, str]:
    if settings.auth.users_file is None:
        return {}
    return dict(read_users(settings.auth.users_file))
