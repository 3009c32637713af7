"""
Pools, nodes and monitor of one worker process, tied together and to the event loop.

`PoolService` is what the rest of the program starts and stops. `LoopErrands` opens connections
through the dialer in tasks and brings their results back to the broker, whatever happens to them.
"""

import asyncio
from collections.abc import Callable
from typing import Final, final

import structlog

from proxy.errors import BackendLost, Refusal
from proxy.observe.counters import Counters
from proxy.pool import upkeep
from proxy.pool.assignment import Slot
from proxy.pool.broker import PoolBroker
from proxy.pool.dialer import Dialer
from proxy.pool.errands import Errands
from proxy.pool.health import HealthMonitor, Spawn
from proxy.pool.nodes import Nodes, NodesWatcher
from proxy.pool.plan import plan_of
from proxy.routing.node import ROLE_NAMES, Node
from proxy.session.link import BackendLink
from proxy.session.ports import Clock
from proxy.settings.model import Settings

TICK_S: Final = 0.1
REAP_EVERY_TICKS: Final = 10

_log = structlog.get_logger("headgate.pool")


@final
class LoopErrands(Errands):
    """The broker's errands as tasks. `broker` is set once it is made."""

    broker: PoolBroker

    def __init__(
        self, dialer: Dialer, monitor: HealthMonitor, spawn: Spawn, connect_timeout_s: float
    ) -> None:
        self._dialer = dialer
        self._monitor = monitor
        self._spawn = spawn
        self.connect_timeout_s = connect_timeout_s

    def open(self, slot: Slot) -> None:
        """Open a connection in a task."""
        self._spawn(self._open(slot), "open a server connection")

    def cancel(self, slot: Slot) -> None:
        """Cancel what runs on a connection, in a task."""
        # Taken now: a client that left in the middle of an exchange has its connection closed next.
        self._spawn(self._cancel(slot, slot.link), "cancel on a server connection")

    def flush_soon(self) -> None:
        """Have the broker keep its promises when the current callback is over."""
        asyncio.get_running_loop().call_soon(self.broker.flush)

    def look_again(self, node: str) -> None:
        """Wake the monitor."""
        self._monitor.look_again(node)

    async def _open(self, slot: Slot) -> None:
        pool = slot.pool
        try:
            async with asyncio.timeout(self.connect_timeout_s):
                link = await self._dialer.open(pool.node.name, pool.database, pool.user)
        except BackendLost as error:
            self.broker.on_open_failed(slot, error.refusal)
            _log.warning(
                "server connection failed",
                node=pool.node.name,
                database=pool.database,
                user=pool.user,
                sqlstate=error.refusal.sqlstate,
                reason=error.refusal.message,
            )
        except TimeoutError:
            self.broker.on_open_failed(slot, _no_answer(pool.node.name, self.connect_timeout_s))
        except BaseException:
            # Whatever it was, the slot's place must become free again.
            self.broker.on_open_failed(
                slot, Refusal("XX000", "internal error while connecting to the server")
            )
            raise
        else:
            if link.is_closed:
                self.broker.on_open_failed(slot, _ended_at_once(pool.node.name))
                return
            self.broker.on_opened(slot, link)
            self._monitor.suggest_login(pool.user, pool.database)

    async def _cancel(self, slot: Slot, link: BackendLink | None) -> None:
        is_certain = False
        try:
            if link is not None:
                async with asyncio.timeout(self.connect_timeout_s):
                    await self._dialer.cancel(link)
            is_certain = True
        except (BackendLost, TimeoutError) as error:
            _log.warning("cancel request failed", node=slot.pool.node.name, reason=str(error))
        finally:
            self.broker.on_cancel_done(slot, is_certain)


@final
class PoolService:
    """
    The pools of one worker process.

    broker   for sessions (`session.ports.Broker`), and for the shell: `on_link_closed`
    nodes    states of the nodes
    monitor  checks them
    """

    def __init__(
        self,
        settings: Settings,
        dialer: Dialer,
        counters: Counters,
        clock: Clock,
        spawn: Spawn,
        seed: int,
        worker_index: int = 0,
        workers: int = 1,
        password_of: Callable[[str], str] | None = None,
    ) -> None:
        self._settings = settings
        self._spawn = spawn
        self._worker_index = worker_index
        self._workers = workers
        self._ticker: asyncio.Task[None] | None = None
        self._ticked = asyncio.Event()
        plan = plan_of(settings, worker_index, workers)
        self.nodes = Nodes(plan.policy.max_lag_bytes)
        self.monitor = HealthMonitor(self.nodes, settings, clock, spawn, password_of)
        self._errands = LoopErrands(dialer, self.monitor, spawn, plan.connect_timeout_s)
        self.broker = PoolBroker(plan, self.nodes, counters, clock, self._errands, seed)
        self._errands.broker = self.broker
        self.nodes.watch(_NodeLog())

    async def start(self) -> bool:
        """Check the nodes once, then begin to serve; False: not all were asked to the end."""
        self.monitor.start()
        upkeep.warm(self.broker)
        self._ticker = self._spawn(self._tick(), "upkeep of the pools")
        return await self.monitor.wait_checked(self._settings.pool.connect_timeout)

    async def stop(self) -> None:
        """Stop the upkeep and the monitor, and close every connection."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        await self.monitor.stop()
        for pool in list(self.broker.registry.pools.values()):
            for slot in list(pool.slots):
                self.broker.close_slot(slot, "the proxy stops")

    async def reconfigure(self, settings: Settings) -> None:
        """A reload. The dialer must know the new nodes already."""
        places = {node.name: (node.host, node.port) for node in settings.node}
        for node in self._settings.node:
            if places.get(node.name) != (node.host, node.port):
                # Another server under the old name: its connections must not be mixed up.
                self.nodes.remove(node.name)
        self._settings = settings
        plan = plan_of(settings, self._worker_index, self._workers)
        self._errands.connect_timeout_s = plan.connect_timeout_s
        upkeep.reconfigure(self.broker, plan)
        await self.monitor.reconfigure(settings)

    def stats(self) -> list[upkeep.PoolReport]:
        """The state of every pool, for SHOW POOLS and /metrics."""
        return upkeep.reports(self.broker)

    async def pause(self, database: str = "") -> None:
        """PAUSE: hand out no connection; return when none of this database is in use any more."""
        upkeep.pause(self.broker, database)
        while upkeep.in_use(self.broker, database) > 0:
            self._ticked.clear()
            await self._ticked.wait()

    def resume(self, database: str = "") -> None:
        """RESUME: end a pause, or what a kill left behind."""
        upkeep.resume(self.broker, database)

    def reconnect(self, database: str = "") -> None:
        """RECONNECT: make every connection anew as soon as it is free."""
        upkeep.reconnect(self.broker, database)

    def vacate(self, database: str) -> None:
        """Close what rests in a database on the server, for who needs it for himself."""
        upkeep.vacate(self.broker, database)

    def kill(self, database: str) -> None:
        """KILL: end every connection now, and pause."""
        upkeep.kill(self.broker, database)

    async def _tick(self) -> None:
        ticks = 0
        while True:
            await asyncio.sleep(TICK_S)
            ticks += 1
            try:
                self.broker.tick()
                if ticks % REAP_EVERY_TICKS == 0:
                    upkeep.reap(self.broker)
            except Exception:
                # A session that fails in its callback must not end the upkeep of all others.
                _log.exception("upkeep of the pools failed")
            self._ticked.set()


@final
class _NodeLog(NodesWatcher):
    """One line in the log for each change of a node."""

    def on_node_changed(self, node: Node) -> None:
        """Log what the node is now."""
        _log.info(
            "node changed",
            node=node.name,
            is_up=node.is_up,
            role=ROLE_NAMES[node.role],
            lag_bytes=node.lag_bytes,
            error=node.last_error,
        )


def _no_answer(node: str, timeout_s: float) -> Refusal:
    return Refusal("08006", f'server node "{node}" did not answer within {timeout_s:g} s')


def _ended_at_once(node: str) -> Refusal:
    return Refusal("08006", f'server node "{node}" closed the connection after the login')
