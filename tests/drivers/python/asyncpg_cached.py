"""The checklist in asyncpg, with its statement cache as it is by default."""

import asyncio
import io
from typing import Any

import asyncpg  # type: ignore[import-untyped]

from tests.drivers.python import report
from tests.drivers.python.report import NotSupported, show


async def connect() -> Any:
    return await asyncpg.connect(
        host=report.HOST,
        port=report.PORT,
        user=report.USER,
        password=report.PASSWORD,
        database=report.DATABASE,
        timeout=10,
    )


class Connected:
    """`async with`: a connection that is closed at the end."""

    async def __aenter__(self) -> Any:
        self._connection = await connect()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()


async def sqlstate(connection: Any, sql: str) -> str:
    try:
        await connection.fetch(sql)
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    return "no error"


async def step_connect() -> str:
    async with Connected() as c:
        return show(await c.fetchval("SELECT current_user"))


async def step_simple() -> str:
    async with Connected() as c:
        return show(*await c.fetchrow("SELECT 1, 'two'"))


async def step_parameters() -> str:
    async with Connected() as c:
        sql = "SELECT $1::int + 1, $2::text || '!', NOT $3::bool"
        return show(*await c.fetchrow(sql, 41, "text", True))


async def step_types() -> str:
    async with Connected() as c:
        return report.show_types(await c.fetchrow(report.TYPES_QUERY))


async def step_nulls() -> str:
    async with Connected() as c:
        sql = "SELECT NULL::int, $1::text, $2::int IS NULL"
        return show(*await c.fetchrow(sql, None, None))


async def step_prepared() -> str:
    total = 0
    connections = [await connect() for _ in range(report.CONNECTIONS)]
    for _ in range(report.ROUNDS):
        for number, c in enumerate(connections):
            for statement in range(report.STATEMENTS):
                total += await c.fetchval(f"SELECT $1::int + {statement}", number)
    for c in connections:
        await c.close()
    return show(total)


class Undo(Exception):
    """Rolls a transaction back."""


async def step_transaction() -> str:
    async with Connected() as c:
        await c.execute("CREATE TABLE transactions (n int)")
        async with c.transaction():
            await c.execute("INSERT INTO transactions VALUES (1)")
            try:
                async with c.transaction():
                    await c.execute("INSERT INTO transactions VALUES (2)")
                    raise Undo
            except Undo:
                pass
            await c.execute("INSERT INTO transactions VALUES ($1)", 3)
        first = await c.fetchval("SELECT count(*) FROM transactions")
        try:
            async with c.transaction(isolation="serializable"):
                await c.execute("INSERT INTO transactions VALUES (4)")
                raise Undo
        except Undo:
            pass
        return show(first, await c.fetchval("SELECT count(*) FROM transactions"))


async def step_errors() -> str:
    async with Connected() as c:
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
        assert await c.fetchval("SELECT 1") == 1
        return " ".join(states)


async def step_copy_in() -> str:
    async with Connected() as c:
        await c.execute("CREATE TABLE copied (n int, t text)")
        records = [(number, "binary") for number in range(1, 501)]
        await c.copy_records_to_table("copied", records=records)
        lines = "".join(f"{number}\ttext\n" for number in range(501, 1001))
        await c.copy_to_table("copied", source=io.BytesIO(lines.encode()))
        return show(*await c.fetchrow("SELECT count(*), sum(n) FROM copied"))


async def step_copy_out() -> str:
    async with Connected() as c:
        target = io.BytesIO()
        await c.copy_from_query("SELECT generate_series(1, $1::int)", 1000, output=target)
        data = target.getvalue()
        return show(data.count(b"\n"), len(data))


async def step_copy_error() -> str:
    async with Connected() as c:
        await c.execute("CREATE TABLE copied_badly (n int)")
        state = "no error"
        try:
            await c.copy_to_table("copied_badly", source=io.BytesIO(b"1\nnot a number\n3\n"))
        except asyncpg.PostgresError as error:
            state = str(error.sqlstate)
        return show(state, await c.fetchval("SELECT 1"))


async def step_notify() -> str:
    async with Connected() as listener, Connected() as sender:
        heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

        def hear(_connection: Any, _pid: int, channel: str, payload: str) -> None:
            heard.put_nowait((channel, payload))

        await listener.add_listener("checklist_channel", hear)
        async with sender.transaction():
            await sender.execute("NOTIFY checklist_channel, 'payload'")
        heard_now = await asyncio.wait_for(heard.get(), 10)
        await listener.remove_listener("checklist_channel", hear)
        return show(*heard_now)


async def step_cancel() -> str:
    async with Connected() as c:
        state = "no error"
        try:
            # A time-out of asyncpg's is a CancelRequest.
            await c.fetch("SELECT pg_sleep(20)", timeout=0.3)
        except TimeoutError:
            state = "57014"
        return show(state, await c.fetchval("SELECT 1"))


async def step_cursor() -> str:
    count = total = 0
    async with Connected() as c, c.transaction():
        cursor = await c.cursor("SELECT generate_series(1, 100)")
        while rows := await cursor.fetch(7):
            count += len(rows)
            total += sum(row[0] for row in rows)
        async for row in c.cursor("SELECT generate_series(1, $1::int)", 100, prefetch=7):
            count += 1
            total += row[0]
    return show(count // 2, total // 2)


async def step_pipeline() -> str:
    async with Connected() as c:
        await c.execute("CREATE TABLE piped (n int)")
        rows = [(1,), (2,), (3,)]
        numbers = await c.fetchmany("INSERT INTO piped VALUES ($1) RETURNING n", rows)
        state = "no error"
        try:
            await c.executemany("INSERT INTO piped VALUES (1 / $1::int)", [(1,), (0,), (1,)])
        except asyncpg.PostgresError as error:
            state = str(error.sqlstate)
        count = await c.fetchval("SELECT count(*) FROM piped")
        assert count == 3, count
        return show(",".join(str(row[0]) for row in numbers), state, count + 1)


async def step_large_row() -> str:
    async with Connected() as c:
        return show(len(await c.fetchval("SELECT repeat('x', 8000000)")))


async def step_large_result() -> str:
    async with Connected() as c:
        rows = await c.fetch("SELECT generate_series(1, 50000)")
        return show(sum(row[0] for row in rows))


async def step_notice() -> str:
    heard: list[str] = []
    async with Connected() as c:
        c.add_log_listener(lambda _connection, message: heard.append(message.message))
        await c.execute(report.NOTICE)
        await c.fetch("SELECT 1")
        await asyncio.sleep(0)
    return show(*heard)


async def step_unicode() -> str:
    async with Connected() as c:
        return show(*await c.fetchrow("SELECT $1::text, char_length($1)", report.UNICODE))


async def step_settings() -> str:
    async with Connected() as c:
        await c.execute("SET statement_timeout = '54321ms'")
        await c.execute("SET application_name = 'checklist'")
        async with c.transaction():
            timeout = await c.fetchval("SHOW statement_timeout")
        name = await c.fetchval("SHOW application_name")
        await c.execute("RESET statement_timeout")
        return show(timeout, name, await c.fetchval("SHOW statement_timeout"))


async def step_session() -> str:
    async with Connected() as c:
        await c.execute("CREATE TEMPORARY TABLE mine (n int)")
        await c.execute("INSERT INTO mine VALUES (1)")
        await c.execute("SELECT pg_advisory_lock(4711)")
        count = await c.fetchval("SELECT count(*) FROM mine")
        unlocked = await c.fetchval("SELECT pg_advisory_unlock(4711)")
        await c.execute("DROP TABLE mine")
        return show(count, unlocked)


async def step_multi() -> str:
    raise NotSupported("execute() gives the last command's tag, no rows")


async def step_reconnect() -> str:
    c = await connect()
    state = await sqlstate(c, report.TERMINATE)
    closed = c.is_closed()
    async with Connected() as again:
        return show(state, closed, await again.fetchval("SELECT 1"))


if __name__ == "__main__":
    report.run_async({n[5:]: step for n, step in globals().items() if n.startswith("step_")})
