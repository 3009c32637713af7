"""Console commands: how they are read, who may give them, and what they do."""

import asyncio
from collections.abc import Callable

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.console import Console, Operator
from proxy.admin.console_result import Result
from proxy.admin.console_tables import HELP, TABLES
from proxy.admin.side import AdminSide
from proxy.errors import Refused
from proxy.server.worker import Worker
from proxy.session.context import ClientContext
from tests.unit.admin.conftest import settings_for


def operator(side: AdminSide, user: str) -> Operator:
    context = ClientContext("w0-1", "127.0.0.1", False, 0.0)
    context.user = user
    return Operator(context, side.desk)


@pytest.fixture
def run(side: AdminSide) -> Callable[..., object]:
    console = Console(side.desk)

    async def one(text: str, user: str = "admin") -> Result:
        return await console.run(text, operator(side, user), asyncio.Event())

    return one


def records(result: Result) -> list[dict[str, object]]:
    names = [name for name, _ in result.columns]
    return [dict(zip(names, row, strict=True)) for row in result.rows]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SHOW POOLS", ["SHOW POOLS"]),
        (" ; ;\n", []),
        ("", []),
        ("show pools; show stats;", ["show pools", " show stats"]),
        ("PAUSE \"a;b\" ; RESUME 'c;d'", ['PAUSE "a;b" ', " RESUME 'c;d'"]),
        ("-- nothing; here\nSHOW /* ; */ HELP", ["-- nothing; here\nSHOW /* ; */ HELP"]),
        ("/* only a comment */", []),
    ],
)
def test_commands_are_cut(side_less: Console, text: str, expected: list[str]) -> None:
    assert side_less.split(text) == expected


@pytest.fixture
def side_less() -> Console:
    return Console(None)  # type: ignore[arg-type]


@given(st.text(max_size=40))
def test_any_text_can_be_cut(text: str) -> None:
    Console(None).split(text)  # type: ignore[arg-type]


async def test_every_table_fits_its_columns(run: Callable[..., object], probe: str) -> None:
    for name in TABLES:
        result = await run(f"SHOW {name}")  # type: ignore[misc]
        assert result.tag == "SHOW"
        assert all(len(row) == len(result.columns) for row in result.rows), name
        assert len(result.data_rows([])) == len(result.rows)


def test_help_names_every_table() -> None:
    text = " ".join(command for command, _ in HELP)
    words = set(text.replace("|", " ").lower().split())
    assert set(TABLES) <= words


async def test_nodes_and_config(run: Callable[..., object]) -> None:
    nodes = records(await run("show NODES;"))  # type: ignore[misc]
    assert [(n["name"], n["port"], n["state"]) for n in nodes] == [
        ("pg1", 5432, "down"), ("pg2", 5433, "down"),
    ]  # fmt: skip
    config = {row["key"]: row for row in records(await run("SHOW CONFIG"))}  # type: ignore[misc]
    assert config["pool.size"]["value"] == "20"
    assert config["listen.port"]["changeable"] == "no"
    assert config["node.pg2.port"]["value"] == "5433"


async def test_stats_are_of_all_clients_that_were_here(
    run: Callable[..., object], worker: Worker
) -> None:
    worker.totals.add("app", 10, 100, 1000, 5, 2000, 4000)
    row = records(await run("SHOW STATS"))[0]  # type: ignore[misc]
    assert (row["database"], row["total_query_count"], row["total_received"]) == ("app", 10, 100)
    assert (row["total_xact_count"], row["total_query_time"], row["total_xact_time"]) == (
        5, 2000, 4000,
    )  # fmt: skip
    assert (row["avg_query_time"], row["avg_xact_time"]) == (200, 800)


async def test_pause_and_resume(run: Callable[..., object], worker: Worker) -> None:
    registry = worker.pools.broker.registry
    with structlog.testing.capture_logs() as logs:
        assert (await run('PAUSE "App"')).tag == "PAUSE"  # type: ignore[misc]
    assert registry.is_paused("App")
    assert not registry.is_paused("app")
    assert logs[-1]["who"] == "admin"
    await run("resume App")  # type: ignore[misc]
    assert not registry.is_paused("App")
    await run("KILL app")  # type: ignore[misc]
    assert registry.is_paused("app")
    await run("RESUME")  # type: ignore[misc]
    assert (await run("RECONNECT app")).tag == "RECONNECT"  # type: ignore[misc]


async def test_disabled_databases_are_shown_and_told_to_workers_that_come(
    run: Callable[..., object], worker: Worker, side: AdminSide
) -> None:
    assert (await run("DISABLE app")).tag == "DISABLE"  # type: ignore[misc]
    context = ClientContext("c1", "127.0.0.1", False, 0.0)
    context.database = "app"
    refusal = worker.limits.admit(context)
    assert refusal is not None
    assert refusal.sqlstate == "55000"
    assert (await side.desk.here("standing"))["rows"] == [{"do": "disable", "database": "app"}]
    context.database = "other"
    assert worker.limits.admit(context) is None
    await run("ENABLE app")  # type: ignore[misc]
    context.database = "app"
    assert worker.limits.admit(context) is None
    assert (await side.desk.here("standing"))["rows"] == []


async def test_wait_close_returns_when_nothing_is_to_be_made_anew(
    run: Callable[..., object], worker: Worker
) -> None:
    broker = worker.pools.broker
    destination = broker.directory.find("app", "alice")
    assert destination is not None
    pool = broker.registry.pool_for(destination, worker.pools.nodes.by_name["pg1"], 0.0)
    slot = pool.begin_open()
    slot.is_stale = True
    waiting = asyncio.ensure_future(run("WAIT_CLOSE app"))  # type: ignore[call-overload]
    await asyncio.sleep(0)
    assert not waiting.done()
    pool.remove(slot)
    assert (await waiting).tag == "WAIT_CLOSE"


@pytest.mark.parametrize("text", ["PAUSE nix", "KILL nix", "RECONNECT nix", "DISABLE nix"])
async def test_a_database_that_is_not_there(
    run: Callable[..., object], worker: Worker, text: str
) -> None:
    plan = worker.pools.broker.plan
    plan.databases.pop("*")
    with pytest.raises(Refused) as raised:
        await run(text)  # type: ignore[misc]
    assert raised.value.refusal.sqlstate == "42704"
    assert not worker.pools.broker.registry.is_paused("nix")


async def test_a_pause_that_waits_can_be_cancelled(side: AdminSide, worker: Worker) -> None:
    broker = worker.pools.broker
    destination = broker.directory.find("app", "alice")
    assert destination is not None
    pool = broker.registry.pool_for(destination, worker.pools.nodes.by_name["pg1"], 0.0)
    pool.opening = 1
    cancelled = asyncio.Event()
    task = asyncio.ensure_future(
        Console(side.desk).run("PAUSE app", operator(side, "admin"), cancelled)
    )
    while not broker.registry.is_paused("app"):  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert not task.done()
    cancelled.set()
    with pytest.raises(Refused) as raised:
        await task
    assert raised.value.refusal.sqlstate == "57014"
    pool.opening = 0


async def test_plugins(run: Callable[..., object], probe: str, worker: Worker) -> None:
    assert (await run("PLUGIN DISABLE probe")).tag == "PLUGIN DISABLE"  # type: ignore[misc]
    assert worker.plugins.get("probe")["status"] == "disabled"
    await run('plugin enable "probe"')  # type: ignore[misc]
    await run("PLUGIN RELOAD probe")  # type: ignore[misc]
    await run("PLUGIN RELOAD")  # type: ignore[misc]
    assert worker.plugins.get("probe")["generation"] == 3
    with pytest.raises(Refused) as raised:
        await run("PLUGIN RELOAD nix")  # type: ignore[misc]
    assert raised.value.refusal.sqlstate == "42704"


@pytest.mark.parametrize(
    ("text", "sqlstate"),
    [
        ("DROP TABLE x", "42601"),
        ("SHOW nix", "42704"),
        ("SHOW POOLS extra", "42704"),
        ("PLUGIN", "42601"),
        ("PLUGIN EXPLODE probe", "42601"),
        ("SET pool_size = 3", "0A000"),
        ("KILL", "42601"),
        ("DISABLE", "42601"),
        ("KILL_CLIENT c99", "42704"),
        ("SUSPEND", "0A000"),
        ("RELOAD (", "42601"),
        ("SELECT version()", "42601"),
    ],
)
async def test_what_it_does_not_know(run: Callable[..., object], text: str, sqlstate: str) -> None:
    with pytest.raises(Refused) as raised:
        await run(text)  # type: ignore[misc]
    assert raised.value.refusal.sqlstate == sqlstate


@pytest.mark.parametrize(
    "text", ["BEGIN", "SET client_encoding TO 'UTF8'", "SET extra_float_digits = 3", "RESET ALL",
             "CLOSE ALL", "UNLISTEN *", "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY"],
)  # fmt: skip
async def test_what_drivers_send_by_themselves(run: Callable[..., object], text: str) -> None:
    assert (await run(text)).rows == []  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "PAUSE",
        "RESUME",
        "KILL app",
        "DISABLE app",
        "KILL_CLIENT c1",
        "RELOAD",
        "SHUTDOWN",
        "PLUGIN RELOAD",
        "anything",
    ],
)
async def test_who_may_look_may_not_change(run: Callable[..., object], text: str) -> None:
    with pytest.raises(Refused) as raised:
        await run(text, "looker")  # type: ignore[misc]
    assert raised.value.refusal.sqlstate == "42501"
    assert (await run("SHOW POOLS", "looker")).rows == []  # type: ignore[misc]


async def test_rights_end_with_a_reload(run: Callable[..., object], worker: Worker) -> None:
    assert (await run("SHOW VERSION", "admin")).rows  # type: ignore[misc]
    worker.settings = settings_for(worker.config_path.parent, console_users=("other",))
    with pytest.raises(Refused):
        await run("SHOW VERSION", "admin")  # type: ignore[misc]


async def test_columns_are_known_without_doing_it(side: AdminSide, worker: Worker) -> None:
    console = Console(side.desk)
    described = console.columns_of("SHOW LISTS", operator(side, "admin"))
    assert described is not None
    assert [name for name, _ in described.columns] == ["list", "items"]
    assert console.columns_of("PAUSE", operator(side, "admin")) is None
    assert not worker.pools.broker.registry.is_paused("app")
