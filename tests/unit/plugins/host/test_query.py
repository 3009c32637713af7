"""SQL for plugins: conversions here; against a server in the system tests."""

import asyncio
import datetime
import decimal

import pytest

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    TIMED_OUT,
    TOO_LARGE,
    UNAVAILABLE,
    HostFault,
)
from proxy.plugins.host.query import PgQueryRunner, _as_json, _as_parameter
from proxy.settings.model import Node
from proxy.settings.plugin_model import PluginQuery


def code_of(error):
    return error.value.code


async def run(runner, sql, parameters=()):
    with pytest.raises(HostFault) as caught:
        await asyncio.to_thread(runner.run, "p", sql, list(parameters))
    return caught.value.code


async def test_refused_before_any_server_is_asked():
    loop = asyncio.get_running_loop()
    off = PgQueryRunner(PluginQuery(), lambda: Node(name="pg1", host="127.0.0.1", port=1), loop)
    assert await run(off, "SELECT 1") == UNAVAILABLE
    on = PgQueryRunner(PluginQuery(user="u"), lambda: None, loop)
    assert await run(on, "SELECT 1") == UNAVAILABLE
    assert await run(on, "x" * 70_000) == TOO_LARGE
    assert await run(on, "SELECT\0 1") == BAD_ARGUMENT


async def test_no_server():
    loop = asyncio.get_running_loop()
    runner = PgQueryRunner(
        PluginQuery(user="u"), lambda: Node(name="pg1", host="127.0.0.1", port=1), loop
    )
    assert await run(runner, "SELECT 1") == UNAVAILABLE
    await runner.close()


async def test_a_server_that_says_nothing():
    writers = []
    silent = await asyncio.start_server(lambda _, writer: writers.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    runner = PgQueryRunner(
        PluginQuery(user="u", timeout=0.1),
        lambda: Node(name="pg1", host="127.0.0.1", port=port),
        asyncio.get_running_loop(),
    )
    assert await run(runner, "SELECT 1") == TIMED_OUT
    await runner.close()
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    silent.close()
    await silent.wait_closed()


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (None, "int4", None),
        ("7", "int8", 7),
        (7, "text", "7"),
        ({"a": 1}, "jsonb", '{"a": 1}'),
        ("1.5", "numeric", decimal.Decimal("1.5")),
        ("1.5", "float8", 1.5),
        ("2026-01-02", "date", datetime.date(2026, 1, 2)),
        ("x", "bytea", b"x"),
        ("x", "text", "x"),
    ],
)
def test_parameters(value, kind, expected):
    assert _as_parameter(value, kind) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (5, 5),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (b"\x01", "\\x01"),
        ([1, b"a"], [1, "\\x61"]),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (decimal.Decimal("1.50"), "1.50"),
    ],
)
def test_values(value, expected):
    assert _as_json(value) == expected
