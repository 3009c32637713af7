"""Run the steps of one program and print what came out, a JSON object a line."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

HOST = os.environ.get("PGHOST", "127.0.0.1")
PORT = int(os.environ.get("PGPORT", "5432"))
USER = os.environ.get("PGUSER", "driver")
PASSWORD = os.environ.get("PGPASSWORD", "")
DATABASE = os.environ.get("PGDATABASE", "postgres")

TYPES_QUERY = (
    "SELECT true, 7::int2, 70000::int4, 7000000000::int8, 1.5::float8, 12345.678::numeric,"
    " 'text'::text, '\\x00ff'::bytea, date '2024-02-29', timestamp '2024-02-29 12:34:56.789',"
    " timestamptz '2024-02-29 12:34:56+00', '6ecd8c99-4036-403d-bf84-cf8400f67836'::uuid,"
    " '{\"a\": [1, null]}'::jsonb, ARRAY[1, 2, NULL]::int4[], interval '1 day 02:03:04',"
    " 'a'::char(3), inet '10.0.0.1', point(1, 2), int4range(1, 5)"
)
UNICODE = "Žluťoučký 🐘 日本語"
NOTICE = "DO $$ BEGIN RAISE NOTICE 'hello from the server'; END $$"
TERMINATE = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)"
ROUNDS = 3
STATEMENTS = 6
CONNECTIONS = 10


class NotSupported(Exception):
    """The driver has no interface for this step."""


def show(*values: object) -> str:
    """Join values the same way in every program."""
    return "|".join(_show(value) for value in values)


def show_types(row: Any) -> str:
    """Join values as the driver gave them, with their Python types."""
    return " ".join(f"{type(value).__name__}:{value!r}" for value in row)


def run(steps: Mapping[str, Callable[[], str]]) -> None:
    """Run steps that block."""
    for name, step in steps.items():
        try:
            _say(name, step())
        except NotSupported as reason:
            _skip(name, str(reason))
        except Exception as error:
            _say(name, _failure(error))


def run_async(steps: Mapping[str, Callable[[], Awaitable[str]]]) -> None:
    """Run steps that await."""

    async def main() -> None:
        for name, step in steps.items():
            try:
                async with asyncio.timeout(30):
                    _say(name, await step())
            except NotSupported as reason:
                _skip(name, str(reason))
            except Exception as error:
                _say(name, _failure(error))

    asyncio.run(main())


def _show(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return str(int(value))
    return str(value)


def _failure(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {error}"


def _say(step: str, value: str) -> None:
    print(json.dumps({"step": step, "value": value}, ensure_ascii=False), flush=True)


def _skip(step: str, reason: str) -> None:
    print(json.dumps({"step": step, "skip": reason}), flush=True)
