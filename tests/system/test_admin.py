"""The admin side of a running proxy: metrics, health, API, console."""

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from tests.support.system import ProxyFactory, RunningProxy, wait_until

TOKEN = "a-token-of-this-test"
ADMIN = {"console_users": ["postgres"], "stats_users": ["looker"]}


@pytest.fixture
def served(proxy: ProxyFactory) -> RunningProxy:
    return proxy(admin=ADMIN)


def console(served: RunningProxy, **more: Any) -> "psycopg.Connection[tuple[Any, ...]]":
    return served.connect(dbname="headgate", **more)


def test_metrics_count_what_happens(served: RunningProxy) -> None:
    with served.connect() as connection:
        connection.execute("SELECT 1")
        connection.execute("CREATE TEMP TABLE t (a int)")
        metrics = served.metrics()
        assert metrics.value("headgate_client_connections") == 1
        assert metrics.value("headgate_queries_total") >= 2
        assert metrics.value("headgate_query_duration_seconds_count") >= 2
        assert metrics.value("headgate_node_up", node="pg1", role="primary") == 1
        assert metrics.value("headgate_node_up", node="pg2", role="standby") == 1
        assert metrics.value("headgate_pool_size", node="pg1") == 20
        assert metrics.value("headgate_client_bytes_total", direction="out") > 0
    wait_until(lambda: served.metrics().value("headgate_client_connections") == 0)


def test_a_refused_statement_is_shown_with_its_reason(proxy: ProxyFactory) -> None:
    served = proxy(admin=ADMIN, examples=("no-drop",))
    with served.connect(application_name="tests") as connection:
        for sql in ("DROP TABLE a_table", "DELETE FROM a_table"):
            with pytest.raises(psycopg.Error):
                connection.execute(sql)
        connection.execute("SELECT 1")
    with console(served) as connection:
        shown = connection.execute("SHOW REFUSED").fetchall()
    assert [row[2:8] + row[9:] for row in shown] == [
        ("postgres", "postgres", "tests", "no-drop", "pre_query", "42000", sql)
        for sql in ("DELETE FROM a_table", "DROP TABLE a_table")
    ]
    assert shown[1][8] == "Query blocked by plugin: DROP is not allowed"
    status, body = served.api("GET", "/api/refused?limit=1")
    assert (status, body["total"], len(body["refused"])) == (200, 2, 1)


def test_health_and_draining(served: RunningProxy) -> None:
    assert served.api("GET", "/health/live") == (200, {"status": "alive"})
    status, body = served.api("GET", "/health/ready")
    assert (status, body["status"]) == (200, "ready")
    with served.connect(autocommit=False) as connection:
        connection.execute("SELECT 1")
        assert served.process is not None
        served.process.terminate()
        # The transaction keeps the drain going; probes see it.
        wait_until(lambda: served.api("GET", "/health/ready")[0] == 503)
        assert "draining" in served.api("GET", "/health/ready")[1]["reasons"][0]
    served.stop()


def test_the_token(proxy: ProxyFactory) -> None:
    served = proxy(admin={"token": TOKEN})
    assert served.api("GET", "/api/status")[0] == 401
    assert served.api("GET", "/api/status", token="wrong")[0] == 401
    assert served.api("GET", "/api/status", token=TOKEN)[0] == 200
    assert served.http("GET", "/metrics")[0] == 200
    assert TOKEN not in str(served.api("GET", "/api/config", token=TOKEN)[1])
    assert TOKEN not in served.log_text()


def test_pause_holds_clients_until_resume(served: RunningProxy) -> None:
    with served.connect() as connection, ThreadPoolExecutor(1) as threads:
        connection.execute("SELECT 1")
        assert served.api("POST", "/api/pools/pause?database=postgres&wait_s=5")[1]["in_use"] == 0
        waiting = threads.submit(lambda: connection.execute("SELECT 2").fetchone())
        wait_until(
            lambda: any(
                row["state"] == "waiting" for row in served.api("GET", "/api/clients")[1]["clients"]
            )
        )
        assert not waiting.done()
        assert served.api("POST", "/api/pools/resume?database=postgres")[0] == 200
        assert waiting.result(timeout=10) == (2,)
    served.log_contains('"action": "pause"')


def test_databases_are_closed_to_new_clients_and_clients_ended(served: RunningProxy) -> None:
    with (
        served.connect(application_name="ended") as ended,
        served.connect() as stays,
        console(served) as operator,
    ):
        operator.execute("DISABLE postgres")
        with pytest.raises(psycopg.OperationalError, match="not currently accepting"):
            served.connect()
        assert stays.execute("SELECT 1").fetchone() == (1,)
        cursor = operator.execute("SHOW CLIENTS")
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        clients = [dict(zip(names, row, strict=True)) for row in cursor]
        (number,) = [row["id"] for row in clients if row["application_name"] == "ended"]
        operator.execute(f"KILL_CLIENT {number}")
        with pytest.raises(psycopg.errors.AdminShutdown):
            ended.execute("SELECT 1")
        assert stays.execute("SELECT 1").fetchone() == (1,)
        operator.execute("RECONNECT postgres")
        operator.execute("WAIT_CLOSE postgres")
        operator.execute("ENABLE postgres")
        with served.connect() as again:
            assert again.execute("SELECT 1").fetchone() == (1,)


def test_console_by_every_psql(served: RunningProxy, primary: EmbeddedPostgres) -> None:
    found = {primary.bin_dir / "psql", *Path("/usr/lib/postgresql").glob("*/bin/psql")}
    for psql in found:
        for database in ("headgate", "pgbouncer"):
            shown = subprocess.run(
                [str(psql), "-X", "-At", served.dsn(dbname=database), "-c", "SHOW NODES"],
                capture_output=True, text=True, timeout=20, check=True,
            )  # fmt: skip
            assert [line.split("|")[0] for line in shown.stdout.splitlines()] == ["pg1", "pg2"]


def test_console_by_drivers(served: RunningProxy) -> None:
    with served.connect() as client, console(served) as connection:
        client.execute("SELECT 1")
        rows = connection.execute("SHOW CLIENTS").fetchall()
        assert [row[1:3] for row in rows] == [("postgres", "postgres")]
        with pytest.raises(psycopg.errors.SyntaxError):
            connection.execute("DROP TABLE x")
        assert connection.execute("SHOW VERSION", prepare=True).fetchone() is not None

    async def by_asyncpg() -> Any:
        made = await asyncpg.connect(served.url("pgbouncer"))
        try:
            await made.reset()
            return await made.fetch("SHOW DATABASES")
        finally:
            await made.close()

    assert asyncio.run(by_asyncpg())[0]["name"] == "*"


def test_console_rights(served: RunningProxy) -> None:
    with console(served, user="looker") as connection:
        connection.execute("SHOW POOLS")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("PAUSE")
    with pytest.raises(psycopg.OperationalError, match="not allowed"):
        console(served, user="stranger")


def test_console_shutdown_and_reload(served: RunningProxy) -> None:
    with console(served) as connection:
        served.write_config(pool={"size": 7})
        connection.execute("RELOAD")
        rows = dict(row[:2] for row in connection.execute("SHOW CONFIG").fetchall())
        assert rows["pool.size"] == "7"
        connection.execute("SHUTDOWN")
    assert served.process is not None
    assert served.process.wait(timeout=15) == 0
    served.stop()
