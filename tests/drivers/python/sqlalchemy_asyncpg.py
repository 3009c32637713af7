"""The checklist in SQLAlchemy over asyncpg: its dialect prepares everything, and caches it."""

import asyncio
from typing import Any

import sqlalchemy
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.drivers.python import report
from tests.drivers.python.report import NotSupported, show

ENGINE = create_async_engine(
    sqlalchemy.URL.create(
        "postgresql+asyncpg",
        username=report.USER,
        password=report.PASSWORD,
        host=report.HOST,
        port=report.PORT,
        database=report.DATABASE,
    ),
    pool_size=report.CONNECTIONS,
    isolation_level="AUTOCOMMIT",
)
TRANSACTIONAL = ENGINE.execution_options(isolation_level="READ COMMITTED")


async def one(connection: Any, sql: str, **parameters: Any) -> Any:
    return (await connection.execute(text(sql), parameters)).one()


async def sqlstate(connection: Any, sql: str) -> str:
    try:
        await connection.execute(text(sql))
    except sqlalchemy.exc.DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None))
    return "no error"


async def step_connect() -> str:
    async with ENGINE.connect() as c:
        return show(*await one(c, "SELECT current_user"))


async def step_simple() -> str:
    async with ENGINE.connect() as c:
        return show(*await one(c, "SELECT 1, 'two'"))


async def step_parameters() -> str:
    async with ENGINE.connect() as c:
        sql = "SELECT cast(:a AS int) + 1, cast(:b AS text) || '!', NOT cast(:c AS bool)"
        return show(*await one(c, sql, a=41, b="text", c=True))


async def step_types() -> str:
    async with ENGINE.connect() as c:
        return report.show_types((await c.exec_driver_sql(report.TYPES_QUERY)).one())


async def step_nulls() -> str:
    async with ENGINE.connect() as c:
        sql = "SELECT cast(NULL AS int), cast(:a AS text), cast(:b AS int) IS NULL"
        return show(*await one(c, sql, a=None, b=None))


async def step_prepared() -> str:
    async def work(number: int) -> int:
        total = 0
        async with ENGINE.connect() as c:
            for _ in range(report.ROUNDS):
                for statement in range(report.STATEMENTS):
                    sql = f"SELECT cast(:n AS int) + {statement}"
                    total += (await one(c, sql, n=number))[0]
        return total

    return show(sum(await asyncio.gather(*map(work, range(report.CONNECTIONS)))))


async def step_transaction() -> str:
    async with TRANSACTIONAL.begin() as c:
        await c.execute(text("CREATE TABLE transactions (n int)"))
        await c.execute(text("INSERT INTO transactions VALUES (1)"))
        inner = await c.begin_nested()
        await c.execute(text("INSERT INTO transactions VALUES (2)"))
        await inner.rollback()
        await c.execute(text("INSERT INTO transactions VALUES (3)"))
    async with TRANSACTIONAL.connect() as c:
        first = (await one(c, "SELECT count(*) FROM transactions"))[0]
        await c.execute(text("INSERT INTO transactions VALUES (4)"))
        await c.rollback()
        return show(first, *await one(c, "SELECT count(*) FROM transactions"))


async def step_errors() -> str:
    async with ENGINE.connect() as c:
        await c.execute(text("CREATE TABLE unique_numbers (n int PRIMARY KEY)"))
        await c.execute(text("INSERT INTO unique_numbers VALUES (1)"))
        states = [
            await sqlstate(c, "SELECT 1 / 0"),
            await sqlstate(c, "SELEC 1"),
            await sqlstate(c, "SELECT * FROM no_such_table"),
            await sqlstate(c, "INSERT INTO unique_numbers VALUES (1)"),
        ]
    async with TRANSACTIONAL.connect() as c:
        await sqlstate(c, "SELECT 1 / 0")
        states.append(await sqlstate(c, "SELECT 1"))
        await c.rollback()
        assert await one(c, "SELECT 1") == (1,)
    return " ".join(states)


async def step_copy_in() -> str:
    # Not COPY, but what SQLAlchemy has for many rows.
    async with TRANSACTIONAL.begin() as c:
        await c.execute(text("CREATE TABLE copied (n int, t text)"))
        rows = [{"n": n, "t": "text"} for n in range(1, 1001)]
        await c.execute(text("INSERT INTO copied VALUES (:n, :t)"), rows)
    async with ENGINE.connect() as c:
        return show(*await one(c, "SELECT count(*), sum(n) FROM copied"))


async def step_copy_out() -> str:
    raise NotSupported("no interface for it")


step_copy_error = step_notify = step_notice = step_multi = step_copy_out


async def step_cancel() -> str:
    async with ENGINE.connect() as c:
        await c.execute(text("SET statement_timeout = '300ms'"))
        state = await sqlstate(c, "SELECT pg_sleep(20)")
        await c.execute(text("RESET statement_timeout"))
        return show(state, *await one(c, "SELECT 1"))


async def step_cursor() -> str:
    async with TRANSACTIONAL.connect() as c:
        sql = text("SELECT generate_series(1, 100)")
        rows = await c.stream(sql, execution_options={"max_row_buffer": 7})
        numbers = [row[0] async for row in rows]
        return show(len(numbers), sum(numbers))


async def step_pipeline() -> str:
    async with ENGINE.connect() as c:
        await c.execute(text("CREATE TABLE piped (n int)"))
        await c.execute(text("INSERT INTO piped VALUES (:n)"), [{"n": n} for n in (1, 2, 3)])
        numbers = (await c.execute(text("SELECT n FROM piped ORDER BY n"))).scalars().all()
        state = await sqlstate(c, "SELECT 1 / 0")
        return show(",".join(map(str, numbers)), state, *await one(c, "SELECT 4"))


async def step_large_row() -> str:
    async with ENGINE.connect() as c:
        return show(len((await one(c, "SELECT repeat('x', 8000000)"))[0]))


async def step_large_result() -> str:
    async with ENGINE.connect() as c:
        return show(sum((await c.execute(text("SELECT generate_series(1, 50000)"))).scalars()))


async def step_unicode() -> str:
    async with ENGINE.connect() as c:
        sql = "SELECT cast(:a AS text), char_length(cast(:a AS text))"
        return show(*await one(c, sql, a=report.UNICODE))


async def step_settings() -> str:
    async with ENGINE.connect() as c:
        await c.execute(text("SET statement_timeout = '54321ms'"))
        await c.execute(text("SET application_name = 'checklist'"))
        timeout = (await one(c, "SHOW statement_timeout"))[0]
        name = (await one(c, "SHOW application_name"))[0]
        await c.execute(text("RESET statement_timeout"))
        return show(timeout, name, *await one(c, "SHOW statement_timeout"))


async def step_session() -> str:
    async with ENGINE.connect() as c:
        await c.execute(text("CREATE TEMPORARY TABLE mine (n int)"))
        await c.execute(text("INSERT INTO mine VALUES (1)"))
        await c.execute(text("SELECT pg_advisory_lock(4711)"))
        count = (await one(c, "SELECT count(*) FROM mine"))[0]
        unlocked = (await one(c, "SELECT pg_advisory_unlock(4711)"))[0]
        await c.execute(text("DROP TABLE mine"))
        return show(count, unlocked)


async def step_reconnect() -> str:
    async with ENGINE.connect() as c:
        state = await sqlstate(c, report.TERMINATE)
        invalidated = c.invalidated
    async with ENGINE.connect() as c:
        return show(state, invalidated, *await one(c, "SELECT 1"))


if __name__ == "__main__":
    report.run_async({n[5:]: step for n, step in globals().items() if n.startswith("step_")})
