"""The monitor against real servers, and what it makes of answers and errors."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.pool.health import HealthMonitor, tls_of
from proxy.pool.nodes import Nodes, NodesWatcher, role_of_word
from proxy.routing.node import (
    LAG_UNKNOWN,
    ROLE_PRIMARY,
    ROLE_STANDBY,
    ROLE_UNKNOWN,
    Node,
)
from proxy.settings import model
from proxy.settings.kinds import Secret
from tests.support.certificates import Certificates
from tests.support.ports import take_port
from tests.support.system import TlsPostgres
from tests.unit.pool.fakes import FakeClock


class Bell(NodesWatcher):
    """Rings at each change of a node."""

    def __init__(self) -> None:
        self.rung = asyncio.Event()

    def on_node_changed(self, node: Node) -> None:
        self.rung.set()


class Checkup:
    """A monitor over some nodes, with its tasks."""

    def __init__(
        self,
        *configured: model.Node,
        monitor: model.Monitor | None = None,
        databases: tuple[model.Database, ...] = (),
        interval_s: float = 60.0,
    ) -> None:
        self.settings = model.Settings(
            node=configured,
            monitor=monitor or model.Monitor(),
            database=databases,
            routing=model.Routing(check_interval=interval_s),
            pool=model.Pool(connect_timeout=5.0),
        )
        self.nodes = Nodes(1 << 20)
        for node in configured:
            self.nodes.add(node.name, role_of_word(node.role), 1, 0.0)
        self.bell = Bell()
        self.nodes.watch(self.bell)
        self.tasks: list[asyncio.Task[Any]] = []
        self.monitor = HealthMonitor(
            self.nodes, self.settings, FakeClock(), self.spawn, lambda user: f"secret of {user}"
        )

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self.tasks.append(task)
        return task

    def node(self, name: str) -> Node:
        return self.nodes.by_name[name]

    async def until(self, *state: tuple[str, bool, int]) -> None:
        """Wait until each (node, is_up, role) is so."""
        while any(
            (self.node(name).is_up, self.node(name).role) != (is_up, role)
            for name, is_up, role in state
        ):
            self.bell.rung.clear()
            await self.bell.rung.wait()


@pytest.fixture
async def checkups() -> AsyncIterator[list[Checkup]]:
    made: list[Checkup] = []
    yield made
    for checkup in made:
        await checkup.monitor.stop()
        assert all(task.done() for task in checkup.tasks)


def at(name: str, server: EmbeddedPostgres, **more: Any) -> model.Node:
    return model.Node(name=name, host="127.0.0.1", port=server.port, **more)


async def test_rule_39_roles_and_lag_of_real_servers(
    primary: EmbeddedPostgres, standby: EmbeddedStandby, checkups: list[Checkup]
) -> None:
    silent = model.Node(name="nobody", port=take_port())
    checkup = Checkup(at("pg1", primary), at("pg2", standby), silent)
    checkups.append(checkup)
    checkup.monitor.start()
    assert await checkup.monitor.wait_checked(10.0)
    pg1, pg2, nobody = (checkup.node(name) for name in ("pg1", "pg2", "nobody"))
    assert (pg1.is_up, pg1.role, pg1.timeline, pg1.is_observed) == (True, ROLE_PRIMARY, 1, True)
    assert (pg2.is_up, pg2.role) == (True, ROLE_STANDBY)
    assert 0 <= pg2.lag_bytes < 1 << 24
    assert (nobody.is_up, nobody.role) == (False, ROLE_UNKNOWN)
    assert nobody.last_error


async def test_a_node_that_dies_and_returns_and_is_promoted(
    own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby], checkups: list[Checkup]
) -> None:
    primary, standby = own_cluster
    checkup = Checkup(at("pg1", primary), at("pg2", standby))
    checkups.append(checkup)
    checkup.monitor.start()
    await checkup.until(("pg1", True, ROLE_PRIMARY), ("pg2", True, ROLE_STANDBY))
    primary.kill()
    checkup.monitor.look_again("pg1")
    await checkup.until(("pg1", False, ROLE_UNKNOWN))
    standby.promote()
    checkup.monitor.look_again("pg2")
    while checkup.node("pg2").role != ROLE_PRIMARY:
        checkup.monitor.look_again("pg2")
        await asyncio.sleep(0.05)
    assert checkup.node("pg2").timeline == 2
    primary.start()
    await checkup.until(("pg1", True, ROLE_PRIMARY))
    assert checkup.node("pg1").timeline == 1


async def test_a_connection_that_an_administrator_ended_is_not_a_dead_node(
    primary: EmbeddedPostgres, checkups: list[Checkup]
) -> None:
    checkup = Checkup(at("pg1", primary))
    checkups.append(checkup)
    checkup.monitor.start()
    await checkup.monitor.wait_checked(10.0)
    asked = asyncio.Event()
    note = checkup.monitor.note_observation
    failures: list[BaseException] = []

    def note_observation(node: Node, row: asyncpg.Record) -> None:
        note(node, row)
        asked.set()

    def note_failure(node: Node, error: BaseException) -> None:
        failures.append(error)
        asked.set()

    checkup.monitor.note_observation = note_observation  # type: ignore[method-assign]
    checkup.monitor.note_failure = note_failure  # type: ignore[method-assign]
    await asyncio.to_thread(
        primary.execute,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'headgate monitor'",
    )
    checkup.monitor.look_again("pg1")
    await asked.wait()
    assert (checkup.node("pg1").is_up, failures) == (True, [])


async def test_a_login_that_is_refused_shows_that_the_node_is_up(
    primary: EmbeddedPostgres, checkups: list[Checkup]
) -> None:
    checkup = Checkup(
        at("pg1", primary), monitor=model.Monitor(user="nobody_of_this_name"), interval_s=0.05
    )
    checkups.append(checkup)
    checkup.monitor.start()
    assert await checkup.monitor.wait_checked(10.0)
    node = checkup.node("pg1")
    assert (node.is_up, node.role, node.is_observed) == (True, ROLE_UNKNOWN, False)
    assert "the monitor cannot log in" in node.last_error


async def test_a_deaf_server_is_given_up_in_connect_timeout(checkups: list[Checkup]) -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    checkup = Checkup(model.Node(name="deaf", port=port, tls=model.NodeTls(mode="disable")))
    checkup.monitor.settings = model.Settings(
        node=checkup.settings.node, pool=model.Pool(connect_timeout=0.2)
    )
    checkups.append(checkup)
    checkup.monitor.start()
    assert await checkup.monitor.wait_checked(10.0)
    assert checkup.node("deaf").last_error
    server.close()


async def test_what_is_no_postgresql_is_down(checkups: list[Checkup]) -> None:
    async def answer_nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer_nonsense, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for mode in ("disable", "prefer"):
        tls = model.NodeTls(mode="disable" if mode == "disable" else "prefer")
        checkup = Checkup(model.Node(name="web", port=port, tls=tls))
        checkups.append(checkup)
        checkup.monitor.start()
        assert await checkup.monitor.wait_checked(10.0)
        assert not checkup.node("web").is_up
    server.close()


@pytest.mark.parametrize("user", ["tls_user", "cert_user"])
async def test_a_server_with_tls(
    tls_postgres: TlsPostgres, checkups: list[Checkup], certificates: Certificates, user: str
) -> None:
    cert, key = certificates.client if user == "cert_user" else (None, None)
    tls = model.NodeTls(mode="verify-ca", ca=certificates.ca, cert=cert, key=key)
    login = model.Monitor(user=user, password=Secret("tls-secret"))
    checkup = Checkup(at("tls", tls_postgres, tls=tls), monitor=login)
    checkups.append(checkup)
    checkup.monitor.start()
    assert await checkup.monitor.wait_checked(10.0)
    assert (checkup.node("tls").last_error, checkup.node("tls").role) == ("", ROLE_PRIMARY)


def test_who_the_monitor_is() -> None:
    own = model.Monitor(user="watch", password=Secret("w"), database="ops")
    service = model.Database(name="app", user="svc", password=Secret("s"))
    checkup = Checkup(monitor=own, databases=(service,))
    login = checkup.monitor.login()
    assert (login.user, login.password, login.database) == ("watch", "w", "ops")
    checkup = Checkup(databases=(model.Database(name="x"), service))
    checkup.monitor.suggest_login("alice", "app")
    login = checkup.monitor.login()
    assert (login.user, login.password, login.database) == ("svc", "s", "postgres")
    checkup = Checkup()
    assert checkup.monitor.login().user == "postgres"
    checkup.monitor.suggest_login("alice", "app")
    checkup.monitor.suggest_login("bob", "app")
    login = checkup.monitor.login()
    assert (login.user, login.password, login.database) == ("alice", "secret of alice", "app")
    assert "secret" not in repr(login)


def row(**values: Any) -> dict[str, Any]:
    return {
        "in_recovery": True,
        "position": 1000,
        "received": 1000,
        "timeline": None,
        "is_receiving": True,
        **values,
    }


def test_lag_is_the_distance_to_the_last_primarys_position() -> None:
    checkup = Checkup(model.Node(name="pg1"), model.Node(name="pg2"))
    note = checkup.monitor.note_observation
    standby = checkup.node("pg2")
    note(standby, row(received=1500))
    assert standby.lag_bytes == 500
    note(standby, row(is_receiving=False))
    assert standby.lag_bytes == LAG_UNKNOWN
    note(checkup.node("pg1"), row(in_recovery=False, position=9000, timeline="0000000A"))
    assert checkup.node("pg1").timeline == 10
    note(standby, row())
    assert standby.lag_bytes == 8000
    note(standby, row(position=9500))
    assert standby.lag_bytes == 0
    note(standby, row(position=None))
    assert standby.lag_bytes == LAG_UNKNOWN
    # An old primary that came back on an older timeline measures nobody.
    note(checkup.node("pg1"), row(in_recovery=False, position=99_999, timeline="00000009"))
    note(standby, row())
    assert standby.lag_bytes == 8000


def test_a_full_server_says_nothing_new_and_a_starting_one_is_down() -> None:
    checkup = Checkup(model.Node(name="pg1"))
    node = checkup.node("pg1")
    full = asyncpg.TooManyConnectionsError("sorry, too many clients already")
    checkup.monitor.note_failure(node, full)
    assert (node.is_up, node.role) == (True, ROLE_UNKNOWN)
    checkup.monitor.note_observation(node, row(in_recovery=False, timeline="00000001"))
    checkup.monitor.note_failure(node, full)
    assert (node.is_up, node.role) == (True, ROLE_PRIMARY)
    assert "too many clients" in node.last_error
    checkup.monitor.note_failure(node, asyncpg.CannotConnectNowError("starting up"))
    assert not node.is_up
    checkup.monitor.note_failure(node, TimeoutError())
    assert node.last_error == "no answer within 5 s"
    checkup.monitor.note_failure(node, OSError())
    assert node.last_error == "OSError"


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_tls_modes_that_need_no_files(mode: Any) -> None:
    assert tls_of(model.NodeTls(mode=mode)) == mode


def test_tls_modes_as_libpq_has_them(certificates: Certificates) -> None:
    require = tls_of(model.NodeTls(mode="require"))
    assert isinstance(require, ssl.SSLContext)
    assert (require.verify_mode, require.check_hostname) == (ssl.CERT_NONE, False)
    authority = tls_of(model.NodeTls(mode="verify-ca", ca=certificates.ca))
    assert isinstance(authority, ssl.SSLContext)
    assert (authority.verify_mode, authority.check_hostname) == (ssl.CERT_REQUIRED, False)
    full = tls_of(model.NodeTls(mode="verify-full", ca=certificates.ca))
    assert isinstance(full, ssl.SSLContext)
    assert (full.verify_mode, full.check_hostname) == (ssl.CERT_REQUIRED, True)
