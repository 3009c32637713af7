"""The checklist in psycopg 3 on asyncio, with statements prepared at their fifth use."""

import asyncio
from typing import Any

import psycopg

from tests.drivers.python import report
from tests.drivers.python.report import show

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def connect(autocommit: bool = True) -> Connection:
    return await psycopg.AsyncConnection.connect(
        host=report.HOST,
        port=report.PORT,
        user=report.USER,
        password=report.PASSWORD,
        dbname=report.DATABASE,
        connect_timeout=10,
        autocommit=autocommit,
        prepare_threshold=1,
    )


async def one(connection: Connection, sql: str, parameters: Any = None) -> tuple[Any, ...]:
    row = await (await connection.execute(sql.encode(), parameters)).fetchone()
    assert row is not None
    return row


async def sqlstate(connection: Connection, sql: str) -> str:
    try:
        await connection.execute(sql.encode())
    except psycopg.Error as error:
        return str(error.sqlstate)
    return "no error"


async def step_connect() -> str:
    async with await connect() as c:
        return show(*await one(c, "SELECT current_user"))


async def step_simple() -> str:
    async with await connect() as c:
        return show(*await one(c, "SELECT 1, 'two'"))


async def step_parameters() -> str:
    async with await connect() as c:
        sql = "SELECT %s::int + 1, %s::text || '!', NOT %s::bool"
        return show(*await one(c, sql, (41, "text", True)))


async def step_types() -> str:
    async with await connect() as c:
        return report.show_types(await one(c, report.TYPES_QUERY))


async def step_nulls() -> str:
    async with await connect() as c:
        return show(*await one(c, "SELECT NULL::int, %s::text, %s::int IS NULL", (None, None)))


async def step_prepared() -> str:
    async def work(number: int) -> int:
        total = 0
        async with await connect() as c:
            for _ in range(report.ROUNDS):
                for statement in range(report.STATEMENTS):
                    total += (await one(c, f"SELECT %s::int + {statement}", (number,)))[0]
        return total

    return show(sum(await asyncio.gather(*map(work, range(report.CONNECTIONS)))))


async def step_transaction() -> str:
    async with await connect() as c:
        await c.execute("CREATE TABLE transactions (n int)")
        async with c.transaction():
            await c.execute("INSERT INTO transactions VALUES (1)")
            async with c.transaction() as inner:
                await c.execute("INSERT INTO transactions VALUES (2)")
                raise psycopg.Rollback(inner)
            await c.execute("INSERT INTO transactions VALUES (3)")
        first = (await one(c, "SELECT count(*) FROM transactions"))[0]
        async with c.transaction():
            await c.execute("INSERT INTO transactions VALUES (4)")
            raise psycopg.Rollback
        return show(first, *await one(c, "SELECT count(*) FROM transactions"))


async def step_errors() -> str:
    async with await connect() as c:
        await c.execute("CREATE TABLE unique_numbers (n int PRIMARY KEY)")
        await c.execute("INSERT INTO unique_numbers VALUES (1)")
        states = [
            await sqlstate(c, "SELECT 1 / 0"),
            await sqlstate(c, "SELEC 1"),
            await sqlstate(c, "SELECT * FROM no_such_table"),
            await sqlstate(c, "INSERT INTO unique_numbers VALUES (1)"),
        ]
        await c.execute("BEGIN")
        await sqlstate(c, "SELECT 1 / 0")
        states.append(await sqlstate(c, "SELECT 1"))
        await c.execute("ROLLBACK")
        return " ".join(states)


async def step_copy_in() -> str:
    async with await connect() as c:
        await c.execute("CREATE TABLE copied (n int, t text)")
        async with c.cursor().copy("COPY copied FROM STDIN") as copy:
            for number in range(1, 1001):
                await copy.write_row((number, "text"))
        return show(*await one(c, "SELECT count(*), sum(n) FROM copied"))


async def step_copy_out() -> str:
    sql = "COPY (SELECT generate_series(1, 1000)) TO STDOUT"
    async with await connect() as c, c.cursor().copy(sql) as copy:
        data = b"".join([bytes(piece) async for piece in copy])
        return show(data.count(b"\n"), len(data))


async def step_copy_error() -> str:
    async with await connect() as c:
        await c.execute("CREATE TABLE copied_badly (n int)")
        state = "no error"
        try:
            async with c.cursor().copy("COPY copied_badly FROM STDIN") as copy:
                for line in ("1\n", "not a number\n", "3\n"):
                    await copy.write(line)
        except psycopg.Error as error:
            state = str(error.sqlstate)
        return show(state, *await one(c, "SELECT 1"))


async def step_notify() -> str:
    async with await connect() as listener, await connect() as sender:
        await listener.execute("LISTEN checklist_channel")
        async with sender.transaction():
            await sender.execute("NOTIFY checklist_channel, 'payload'")
        async for notice in listener.notifies(timeout=10, stop_after=1):
            return show(notice.channel, notice.payload)
    return "nothing came"


async def step_cancel() -> str:
    async with await connect() as c:
        task = asyncio.create_task(sqlstate(c, "SELECT pg_sleep(20)"))
        await asyncio.sleep(0.3)
        await c.cancel_safe()
        return show(await task, *await one(c, "SELECT 1"))


async def step_cursor() -> str:
    count = total = 0
    async with await connect(autocommit=False) as c, c.cursor("seven") as cursor:
        await cursor.execute("SELECT generate_series(1, 100)")
        while rows := await cursor.fetchmany(7):
            count += len(rows)
            total += sum(row[0] for row in rows)
    return show(count, total)


async def step_pipeline() -> str:
    async with await connect() as c:
        async with c.pipeline():
            cursors = [await c.execute("SELECT %s::int", (number,)) for number in (1, 2, 3)]
            numbers = [await cursor.fetchone() for cursor in cursors]
        state = "no error"
        try:
            async with c.pipeline():
                await c.execute("SELECT 1")
                await c.execute("SELECT 1 / %s", (0,))
                await c.execute("SELECT 3")
        except psycopg.Error as error:
            state = str(error.sqlstate)
        shown = ",".join(show(*row) for row in numbers if row)
        return show(shown, state, *await one(c, "SELECT 4"))


async def step_large_row() -> str:
    async with await connect() as c:
        return show(len((await one(c, "SELECT repeat('x', 8000000)"))[0]))


async def step_large_result() -> str:
    total = 0
    async with await connect() as c:
        async for row in c.cursor().stream("SELECT generate_series(1, 50000)"):
            total += row[0]
    return show(total)


async def step_notice() -> str:
    heard: list[str] = []
    async with await connect() as c:
        c.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        await c.execute(report.NOTICE)
    return show(*heard)


async def step_unicode() -> str:
    async with await connect() as c:
        return show(*await one(c, "SELECT %s::text, char_length(%s)", (report.UNICODE,) * 2))


async def step_settings() -> str:
    async with await connect() as c:
        await c.execute("SET statement_timeout = '54321ms'")
        await c.execute("SET application_name = 'checklist'")
        async with c.transaction():
            timeout = (await one(c, "SHOW statement_timeout"))[0]
        name = (await one(c, "SHOW application_name"))[0]
        await c.execute("RESET statement_timeout")
        return show(timeout, name, *await one(c, "SHOW statement_timeout"))


async def step_session() -> str:
    async with await connect() as c:
        await c.execute("CREATE TEMPORARY TABLE mine (n int)")
        await c.execute("INSERT INTO mine VALUES (1)")
        await c.execute("SELECT pg_advisory_lock(4711)")
        count = (await one(c, "SELECT count(*) FROM mine"))[0]
        unlocked = (await one(c, "SELECT pg_advisory_unlock(4711)"))[0]
        await c.execute("DROP TABLE mine")
        return show(count, unlocked)


async def step_multi() -> str:
    async with await connect() as c:
        cursor = await c.execute("SELECT 1; SELECT 2")
        first = await cursor.fetchone()
        cursor.nextset()
        second = await cursor.fetchone()
        assert first is not None
        assert second is not None
        return show(*first, *second)


async def step_reconnect() -> str:
    c = await connect()
    state = await sqlstate(c, report.TERMINATE)
    broken = c.broken
    await c.close()
    async with await connect() as again:
        return show(state, broken, *await one(again, "SELECT 1"))


if __name__ == "__main__":
    report.run_async({n[5:]: step for n, step in globals().items() if n.startswith("step_")})
