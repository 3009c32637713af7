"""
Replacing plugins under traffic: every statement is judged by exactly one generation, and nothing
that is wrong with a new version touches the one that runs.
"""

import asyncio
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.plugins.signature import generate_key, parse_private_key, sign
from tests.support.rule_plugin import Spy, manifest_text, put_rules, rule_wat, write_plugin
from tests.support.system import ProxyFactory, RunningProxy, wait_until

API_RELOADS = 180
WATCHED_RELOADS = 24
MARK = "SELECT 'mark', 'mark'"


def put_generation(running: RunningProxy, number: int) -> None:
    """A version that stamps every statement, at two hooks, with its own number."""
    first = f"SELECT 'g{number}' AS a, 'half' AS b"
    put_rules(
        running,
        "gen",
        {
            "pre_query": [
                (
                    "0 AS bench",
                    {"action": "rewrite", "value": f"SELECT {number + 1} AS bench, 0 AS b"},
                ),
                ("'mark'", {"action": "rewrite", "value": first}),
            ],
            "rewrite": [
                (
                    f"SELECT {number + 1} AS bench",
                    {
                        "action": "rewrite",
                        "value": f"SELECT {number + 1} AS bench, {number + 1} AS b",
                    },
                ),
                (
                    first,
                    {"action": "rewrite", "value": f"SELECT 'g{number}' AS a, 'g{number}' AS b"},
                ),
                ("half", {"action": "rewrite", "value": "SELECT 'two' AS a, 'generations' AS b"}),
            ],
        },
        ("query.rewrite",),
        version=f"1.0.{number}",
        spies=False,
    )


class Traffic:
    """Clients that check every answer."""

    def __init__(self, running: RunningProxy) -> None:
        self.running = running
        self.is_over = asyncio.Event()
        self.statements = 0
        self.judgements = 0
        self.seen: set[str] = set()

    def take(self, row: Any) -> None:
        left, right = row
        assert left == right, f"two generations for one statement: {row}"
        assert left.startswith("g"), f"not judged: {row}"
        self.seen.add(left)
        self.statements += 1

    async def by_psycopg(self, **how: Any) -> None:
        async with await psycopg.AsyncConnection.connect(
            self.running.dsn(), autocommit=True
        ) as connection:
            # What libpq prepares by itself is a group of its own.
            self.judgements += how.get("prepare") is True
            while not self.is_over.is_set():
                cursor = await connection.execute(MARK, **how)
                self.take(await cursor.fetchone())
                self.judgements += 1

    async def in_transactions(self) -> None:
        async with await psycopg.AsyncConnection.connect(self.running.dsn()) as connection:
            while not self.is_over.is_set():
                async with connection.transaction():
                    for _ in range(3):
                        cursor = await connection.execute(MARK, binary=True)
                        self.take(await cursor.fetchone())
                        self.judgements += 1

    async def by_asyncpg(self) -> None:
        """A named statement, prepared once: its text is judged anew at each execution."""
        connection = await asyncpg.connect(self.running.url())
        try:
            statement = await connection.prepare(MARK)
            self.judgements += 1
            while not self.is_over.is_set():
                self.take(await statement.fetchrow())
                self.judgements += 1
        finally:
            await connection.close()


def reload_by_api(running: RunningProxy, number: int) -> None:
    put_generation(running, number)
    status, body = running.api("POST", "/api/plugins/gen/reload")
    assert status == 200, body


def version_of(running: RunningProxy) -> str:
    return str(running.api("GET", "/api/plugins/gen")[1]["version"])


@pytest.mark.timeout(180)
async def test_hundreds_of_replacements_and_not_one_unjudged_statement(
    proxy: ProxyFactory,
) -> None:
    running = proxy(start=False, plugins={})
    put_generation(running, 0)
    running.start()
    traffic = Traffic(running)
    clients = [
        asyncio.create_task(client)
        for client in (
            traffic.by_psycopg(),
            traffic.by_psycopg(binary=True, prepare=False),
            traffic.by_psycopg(prepare=True),
            traffic.in_transactions(),
            traffic.by_asyncpg(),
            traffic.by_asyncpg(),
        )
    ]
    before = (0, 0)
    number = 0
    for round_number in range(API_RELOADS):
        number += 1
        await asyncio.to_thread(reload_by_api, running, number)
        if round_number == API_RELOADS // 2:
            before = running.resident_bytes(), running.descriptor_count()
        assert all(not client.done() for client in clients), [c for c in clients if c.done()]
    for _ in range(WATCHED_RELOADS):
        number += 1
        put_generation(running, number)
        version = f"1.0.{number}"
        await asyncio.to_thread(wait_until, lambda: version_of(running) == version)  # noqa: B023
    after = running.resident_bytes(), running.descriptor_count()
    traffic.is_over.set()
    await asyncio.gather(*clients)

    assert len(traffic.seen) > API_RELOADS // 2
    plugin = running.api("GET", "/api/plugins/gen")[1]
    assert plugin["generation"] >= API_RELOADS + WATCHED_RELOADS
    assert plugin["load_failures"] == 0
    wait_until(lambda: not running.api("GET", "/api/plugins/gen")[1]["draining"])
    metrics = running.metrics()
    for hook in ("pre_query", "rewrite"):
        labels = {"plugin": "gen", "hook": hook}
        assert metrics.value("headgate_hook_errors_total", **labels) == 0
        rewritten = metrics.value("headgate_hook_decisions_total", action="rewrite", **labels)
        assert rewritten == traffic.judgements, traffic.statements
    assert metrics.value("headgate_plugin_drain_timeouts_total", plugin="gen") == 0
    assert after[0] - before[0] < 16 * 1024 * 1024, before
    assert abs(after[1] - before[1]) <= 4, before


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_does_not_notice(
    proxy: ProxyFactory, primary: EmbeddedPostgres, tmp_path: Path, mode: str
) -> None:
    running = proxy(start=False, plugins={})
    put_generation(running, 0)
    running.start()
    script = tmp_path / "mark.sql"
    # What was not judged makes a division by zero, and pgbench counts it as failed.
    script.write_text(
        "SELECT 0 AS bench, 1 AS b \\gset\nSELECT 1 / (:bench > 0 AND :bench = :b)::int;\n"
    )
    command = [
        *(str(primary.bin_dir / "pgbench"), "-n", "-M", mode, "-c", "6", "-j", "2", "-T", "5"),
        *("-f", str(script), running.dsn()),
    ]
    with ThreadPoolExecutor(1) as threads:
        ran = threads.submit(
            subprocess.run, command, capture_output=True, text=True, timeout=60, check=False
        )
        number = 0
        while not ran.done():
            number += 1
            reload_by_api(running, number)
        found = ran.result()
    assert found.returncode == 0, found.stderr
    assert "number of failed transactions: 0" in found.stdout
    assert number > 20
    hooks = running.api("GET", "/api/plugins/gen")[1]["hook_stats"]
    assert {hook: stats["errors"] for hook, stats in hooks.items()} == {
        "pre_query": {},
        "rewrite": {},
    }


def test_a_broken_new_version_leaves_the_old_one(proxy: ProxyFactory) -> None:
    running = proxy(start=False, plugins={})
    put_generation(running, 1)
    running.start()
    good = (running.plugin_dir / "gen.wasm").read_bytes()
    manifest = (running.plugin_dir / "gen.toml").read_text()
    broken: list[tuple[bytes, str, str]] = [
        (b"", manifest, "module"),
        (good[: len(good) // 2], manifest, "compile"),
        (b"\0asm\x01\0\0\0" + b"\xff" * 64, manifest, "compile"),
        (b"\0asm\x01\0\0\0" + bytes(9 * 1024 * 1024), manifest, "module"),
        (good, "name = ", "manifest"),
        (good, manifest + "\nsurprise = 1\n", "manifest"),
        (good, manifest.replace("pre_query", "post_query"), "module"),
        (good, manifest.replace("query.rewrite", "query.rewrote"), "manifest"),
    ]
    with running.connect() as client:
        for number, (module, text, _) in enumerate(broken):
            (running.plugin_dir / "gen.toml").write_text(text)
            (running.plugin_dir / "gen.wasm").write_bytes(module)
            status, body = running.api("POST", "/api/plugins/gen/reload")
            assert status == 422, (number, body)
            assert "gen" in str(body["error"]["why"]), body
            assert client.execute(MARK).fetchone() == ("g1", "g1")
            plugin = running.api("GET", "/api/plugins/gen")[1]
            assert plugin["status"] == "active"
            assert plugin["generation"] == 1
            assert plugin["error"], number
        failures = running.metrics().value("headgate_plugin_load_failures_total", plugin="gen")
        # The watch may have looked at some of them as well.
        assert failures >= len(broken)
        running.log_contains("gen")
        put_generation(running, 2)
        wait_until(lambda: client.execute(MARK).fetchone() == ("g2", "g2"), what="generation 2")
        assert running.api("GET", "/api/plugins/gen")[1]["error"] in (None, "")


def test_half_written_files_wait_until_they_are_whole(proxy: ProxyFactory) -> None:
    """A writer without rename: the module first, in pieces, its manifest last."""
    running = proxy(start=False, plugins={})
    put_generation(running, 1)
    running.start()
    good = (running.plugin_dir / "gen.wasm").read_bytes()
    late = running.plugin_dir / "late.wasm"
    with running.connect() as client:
        with late.open("wb", buffering=0) as file:
            for at in range(0, len(good), 200):
                file.write(good[at : at + 200])
                assert client.execute(MARK).fetchone() == ("g1", "g1")
        wait_until(lambda: running.api("GET", "/api/plugins/late")[0] == 200, what="late is seen")
        plugin = running.api("GET", "/api/plugins/late")[1]
        assert plugin["status"] == "failed"
        assert "late.toml" in plugin["error"]
        (running.plugin_dir / "late.toml").write_text(
            (running.plugin_dir / "gen.toml").read_text().replace('"gen"', '"late"')
        )
        wait_until(
            lambda: running.api("GET", "/api/plugins/late")[1]["status"] == "active",
            what="late is active",
        )
        assert client.execute(MARK).fetchone() == ("g1", "g1")


def test_a_removed_file_takes_its_plugin_along(proxy: ProxyFactory) -> None:
    running = proxy(start=False, plugins={})
    put_generation(running, 1)
    running.start()
    with running.connect() as client:
        assert client.execute(MARK).fetchone() == ("g1", "g1")
        (running.plugin_dir / "gen.wasm").unlink()
        wait_until(lambda: client.execute(MARK).fetchone() == ("mark", "mark"), what="it is gone")
    assert running.api("GET", "/api/plugins/gen")[0] == 404


def test_a_statement_that_runs_keeps_the_old_generation(proxy: ProxyFactory) -> None:
    running = proxy(start=False, plugins={"drain_timeout": "200ms", "drain_poll": "20ms"})
    hooks = {"pre_query": (), "post_query": ()}
    put_rules(running, "held", hooks)
    running.start()
    spy = Spy(running, "held")
    with running.connect() as client, ThreadPoolExecutor(1) as threads:
        sleeping = threads.submit(client.execute, "SELECT pg_sleep(1.5)")
        wait_until(lambda: spy.fired("pre_query") == 1)
        put_rules(running, "held", hooks, version="1.1.0")
        assert running.api("POST", "/api/plugins/held/reload")[0] == 200
        plugin = running.api("GET", "/api/plugins/held")[1]
        assert plugin["version"] == "1.1.0"
        assert plugin["draining"] == 1
        running.log_contains("drain")
        wait_until(
            lambda: running.metrics().value(
                "headgate_plugin_drain_timeouts_total", plugin="held"
            ) == 1,
            what="the drain's time-out",
        )  # fmt: skip
        sleeping.result(timeout=10)
        wait_until(lambda: not running.api("GET", "/api/plugins/held")[1]["draining"])
        wait_until(lambda: spy.fired("post_query") == 1)


# --- trust -----------------------------------------------------------------------------------------


def signed(directory: Path, key: Any, version: str) -> None:
    now = datetime.now(UTC)
    rules: dict[str, Any] = {"pre_query": [("forbidden", {"action": "block", "value": "signed"})]}
    write_plugin(
        directory, "guard", rule_wat(rules, spies=False),
        manifest_text("guard", ["pre_query"], ["query.block"], version=version),
    )  # fmt: skip
    content = sign(
        key, "guard", version, 1, (directory / "guard.wasm").read_bytes(),
        (directory / "guard.toml").read_bytes(), now - timedelta(hours=1), now + timedelta(hours=1),
    )  # fmt: skip
    (directory / "guard.sig").write_bytes(content)


@pytest.mark.timeout(120)
def test_no_byte_of_signature_manifest_or_module_can_be_changed(
    proxy: ProxyFactory, tmp_path: Path
) -> None:
    private, public, _ = generate_key()
    key = parse_private_key(private, "test")
    root = tmp_path / "root"
    root.mkdir()
    (root / "me.pub").write_bytes(public)
    running = proxy(start=False, plugins={"trust_root": str(root), "watch": False})
    signed(running.plugin_dir, key, "1.0.0")
    running.start()
    assert running.api("GET", "/api/plugins/guard")[1]["is_signed"] is True
    tried = 0
    with running.connect() as client:
        for name, step in (("guard.sig", 1), ("guard.toml", 1), ("guard.wasm", 7)):
            path = running.plugin_dir / name
            good = path.read_bytes()
            for at in range(0, len(good), step):
                altered = bytearray(good)
                altered[at] ^= 1 << (at % 7)
                path.write_bytes(altered)
                status, body = running.api("POST", "/api/plugins/guard/reload")
                assert status == 422, (name, at, bytes(good[at : at + 1]), body)
                tried += 1
            path.write_bytes(good)
        plugin = running.api("GET", "/api/plugins/guard")[1]
        assert (plugin["status"], plugin["generation"]) == ("active", 1)
        with pytest.raises(psycopg.Error, match="blocked by plugin: signed"):
            client.execute("SELECT 'forbidden'")
        assert tried > 500
        assert running.api("POST", "/api/plugins/guard/reload")[0] == 200
        # Another key, a lower version, no signature: refused as well.
        other = parse_private_key(generate_key()[0], "other")
        signed(running.plugin_dir, other, "1.0.1")
        assert running.api("POST", "/api/plugins/guard/reload")[0] == 422
        signed(running.plugin_dir, key, "0.9.0")
        assert running.api("POST", "/api/plugins/guard/reload")[0] == 422
        signed(running.plugin_dir, key, "1.0.1")
        (running.plugin_dir / "guard.sig").unlink()
        assert running.api("POST", "/api/plugins/guard/reload")[0] == 422
        with pytest.raises(psycopg.Error, match="blocked by plugin: signed"):
            client.execute("SELECT 'forbidden'")
