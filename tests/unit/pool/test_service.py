"""The pools on a real event loop, with a dialer of the test's own."""

import asyncio
import gc
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from proxy.errors import BackendLost, Refusal
from proxy.observe.counters import Counters
from proxy.pool.assignment import SLOT_CLOSED, Slot
from proxy.pool.dialer import Dialer
from proxy.pool.health import HealthMonitor
from proxy.pool.service import LoopErrands, PoolService
from proxy.routing.node import ROLE_PRIMARY
from proxy.routing.route import WRITE
from proxy.session.link import BackendLink
from proxy.settings.model import Node, Pool, Settings
from tests.unit.pool.fakes import FakeClock, FakeWaiter, FakeWire

SETTINGS = Settings(node=(Node(name="pg1", port=1),), pool=Pool(size=2, connect_timeout=0.2))


class FakeDialer(Dialer):
    """Opens at once, unless told what to raise or to wait for."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.is_deaf = False
        self.is_closing = False
        self.opened: list[tuple[str, str, str]] = []
        self.cancelled: list[BackendLink] = []

    async def open(self, node: str, database: str, user: str) -> BackendLink:
        self.opened.append((node, database, user))
        await self._behave()
        link = BackendLink(FakeWire(), database, user, node, 1, b"", {}, 0.0)
        link.is_closed = self.is_closing
        return link

    async def cancel(self, link: BackendLink) -> None:
        self.cancelled.append(link)
        await self._behave()

    async def _behave(self) -> None:
        if self.is_deaf:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error


class Waiter(FakeWaiter):
    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()

    def on_backend(self, link: BackendLink) -> None:
        super().on_backend(link)
        self.called.set()

    def on_no_backend(self, refusal: Refusal) -> None:
        super().on_no_backend(refusal)
        self.called.set()


class World:
    """A service whose one node is well, without a monitor: nothing leaves this process."""

    def __init__(self) -> None:
        self.dialer = FakeDialer()
        self.clock = FakeClock()
        self.tasks: list[asyncio.Task[Any]] = []
        self.service = PoolService(
            SETTINGS, self.dialer, Counters(), self.clock, self.spawn, seed=1
        )
        node = self.service.nodes.by_name["pg1"]
        self.service.nodes.observed(node, 0.0, ROLE_PRIMARY, 0, 1)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.append(task)
        return task

    async def settle(self) -> None:
        """Until no task of the service is under way."""
        while self.tasks:
            await asyncio.gather(self.tasks.pop(), return_exceptions=True)
        await asyncio.sleep(0)

    async def client(self) -> Waiter:
        waiter = Waiter()
        link = self.service.broker.acquire(waiter, "app", "alice", WRITE)
        if link is not None:
            waiter.on_backend(link)
        await waiter.called.wait()
        return waiter


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.service.stop()
    gc.collect()


async def test_a_connection_is_opened_where_and_as_who_it_should_be(world: World) -> None:
    waiter = await world.client()
    assert world.dialer.opened == [("pg1", "app", "alice")]
    world.service.broker.release(waiter.link)
    [report] = world.service.stats()
    assert (report.sv_idle, report.counters.logins) == (1, 1)
    await world.service.stop()
    assert waiter.link.is_closed
    assert world.service.stats()[0].sv_idle == 0


async def test_the_servers_word_reaches_the_client(world: World) -> None:
    world.dialer.error = BackendLost(Refusal("3D000", 'database "app" does not exist'))
    assert (await world.client()).refusal.sqlstate == "3D000"


async def test_a_node_that_does_not_answer_is_given_up_in_connect_timeout(world: World) -> None:
    world.dialer.is_deaf = True
    waiter = Waiter()
    world.service.broker.acquire(waiter, "app", "alice", WRITE)
    world.clock.seconds += 0.3
    await waiter.called.wait()
    assert waiter.refusal.sqlstate == "57P03"
    node = world.service.nodes.by_name["pg1"]
    assert not node.is_up
    assert "did not answer within 0.2 s" in node.last_error


async def test_a_connection_that_ends_at_once_counts_as_a_failure(world: World) -> None:
    world.dialer.is_closing = True
    waiter = Waiter()
    world.service.broker.acquire(waiter, "app", "alice", WRITE)
    await world.settle()
    assert "closed the connection" in world.service.nodes.by_name["pg1"].last_error


async def test_whatever_a_dialer_raises_the_place_becomes_free(world: World) -> None:
    world.dialer.error = RuntimeError("a fault of ours")
    waiter = await world.client()
    assert waiter.refusal.sqlstate == "XX000"
    assert "a fault of ours" not in waiter.refusal.message
    assert world.service.stats()[0].sv_opening == 0
    assert isinstance(world.tasks.pop().exception(), RuntimeError)  # for the log


async def test_a_cancelled_opening_frees_its_place(world: World) -> None:
    world.dialer.is_deaf = True
    world.service.broker.acquire(Waiter(), "app", "alice", WRITE)
    await asyncio.sleep(0)
    world.tasks[-1].cancel()
    await world.settle()
    assert world.service.stats()[0].sv_opening == 0


async def test_a_cancel_is_sent_and_the_connection_reused_after_it(world: World) -> None:
    waiter = await world.client()
    world.service.broker.cancel(waiter.link)
    await world.settle()
    assert world.dialer.cancelled == [waiter.link]
    world.service.broker.release(waiter.link)
    assert (await world.client()).link is waiter.link


async def test_a_cancel_is_sent_for_a_connection_that_is_closed_at_once(world: World) -> None:
    waiter = await world.client()
    world.service.broker.cancel(waiter.link)
    world.service.broker.discard(waiter.link, "client left in the middle of an exchange")
    await world.settle()
    assert world.dialer.cancelled == [waiter.link]


@pytest.mark.parametrize("is_deaf", [True, False])
async def test_a_cancel_of_unknown_fate_ends_the_connection(world: World, is_deaf: bool) -> None:
    waiter = await world.client()
    slot = waiter.link.pool
    world.dialer.is_deaf = is_deaf
    world.dialer.error = BackendLost(Refusal("08006", "cut"))
    world.service.broker.cancel(waiter.link)
    world.service.broker.release(waiter.link)
    await world.settle()
    assert waiter.link.is_closed
    assert isinstance(slot, Slot)
    assert slot.state == SLOT_CLOSED


async def test_pause_returns_when_nothing_is_in_use(world: World) -> None:
    waiter = await world.client()
    assert await world.service.start()  # it has asked, though nothing listens on port 1
    world.service.nodes.observed(world.service.nodes.by_name["pg1"], 0.0, ROLE_PRIMARY, 0, 1)
    pausing = asyncio.ensure_future(world.service.pause("app"))
    await asyncio.sleep(0)
    assert not pausing.done()
    world.service.broker.release(waiter.link)
    await pausing
    world.service.resume("app")
    world.service.reconnect("app")
    world.service.kill("app")


async def test_the_ticks_refuse_who_waits_too_long(world: World) -> None:
    await world.service.start()
    world.dialer.is_deaf = True
    waiter = Waiter()
    world.service.broker.acquire(waiter, "app", "alice", WRITE)
    world.clock.seconds += 60.0
    await waiter.called.wait()
    assert waiter.refusal.sqlstate in ("53300", "57P03")


async def test_a_reload_reaches_nodes_pools_and_monitor(world: World) -> None:
    await world.client()
    settings = Settings(
        node=(Node(name="pg1", port=1), Node(name="pg2", port=1)),
        pool=Pool(size=7, connect_timeout=0.1),
    )
    await world.service.reconfigure(settings)
    assert list(world.service.nodes.by_name) == ["pg1", "pg2"]
    assert world.service.broker.plan.size == 7
    assert await world.service.monitor.wait_checked(5.0)


async def test_a_node_that_moved_is_another_node(world: World) -> None:
    idle, used = await world.client(), await world.client()
    world.service.broker.release(idle.link)
    await world.service.reconfigure(Settings(node=(Node(name="pg1", port=2),)))
    assert [idle.link.is_closed, used.link.is_closed] == [True, False]
    world.service.broker.release(used.link)
    assert used.link.is_closed
    world.service.nodes.observed(world.service.nodes.by_name["pg1"], 0.0, ROLE_PRIMARY, 0, 1)
    assert not (await world.client()).link.is_closed


async def test_errands_wake_the_monitor() -> None:
    world = World()
    monitor = HealthMonitor(world.service.nodes, SETTINGS, world.clock, world.spawn)
    errands = LoopErrands(world.dialer, monitor, world.spawn, 1.0)
    errands.look_again("nobody")
    errands.look_again("pg1")
    await monitor.stop()
