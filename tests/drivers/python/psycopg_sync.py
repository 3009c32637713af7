"""The checklist in psycopg 3, blocking, with statements prepared at their first use."""

import threading
from typing import Any

import psycopg

from tests.drivers.python import report
from tests.drivers.python.report import show

Connection = psycopg.Connection[tuple[Any, ...]]


def connect(autocommit: bool = True) -> Connection:
    return psycopg.connect(
        host=report.HOST,
        port=report.PORT,
        user=report.USER,
        password=report.PASSWORD,
        dbname=report.DATABASE,
        connect_timeout=10,
        autocommit=autocommit,
        prepare_threshold=0,
    )


def one(connection: Connection, sql: str, parameters: Any = None) -> tuple[Any, ...]:
    row = connection.execute(sql.encode(), parameters).fetchone()
    assert row is not None
    return row


def sqlstate(connection: Connection, sql: str) -> str:
    try:
        connection.execute(sql.encode())
    except psycopg.Error as error:
        return str(error.sqlstate)
    return "no error"


def step_connect() -> str:
    with connect() as c:
        return show(*one(c, "SELECT current_user"))


def step_simple() -> str:
    with connect() as c:
        return show(*one(c, "SELECT 1, 'two'"))


def step_parameters() -> str:
    with connect() as c:
        row = one(c, "SELECT %s::int + 1, %s::text || '!', NOT %s::bool", (41, "text", True))
        return show(*row)


def step_types() -> str:
    with connect() as c:
        text = report.show_types(one(c, report.TYPES_QUERY))
        cursor = c.cursor(binary=True)
        cursor.execute(report.TYPES_QUERY.encode())
        return text + " / " + report.show_types(cursor.fetchone())


def step_nulls() -> str:
    with connect() as c:
        return show(*one(c, "SELECT NULL::int, %s::text, %s::int IS NULL", (None, None)))


def step_prepared() -> str:
    total = 0
    connections = [connect() for _ in range(report.CONNECTIONS)]
    for _ in range(report.ROUNDS):
        for number, c in enumerate(connections):
            for statement in range(report.STATEMENTS):
                total += one(c, f"SELECT %s::int + {statement}", (number,))[0]
    for c in connections:
        c.close()
    return show(total)


def step_transaction() -> str:
    with connect() as c:
        c.execute("CREATE TABLE transactions (n int)")
        with c.transaction():
            c.execute("INSERT INTO transactions VALUES (1)")
            with c.transaction() as inner:
                c.execute("INSERT INTO transactions VALUES (2)")
                raise psycopg.Rollback(inner)
            c.execute("INSERT INTO transactions VALUES (3)")
        first = one(c, "SELECT count(*) FROM transactions")[0]
        with c.transaction():
            c.execute("INSERT INTO transactions VALUES (4)")
            raise psycopg.Rollback
        return show(first, *one(c, "SELECT count(*) FROM transactions"))


def step_errors() -> str:
    with connect() as c:
        c.execute("CREATE TABLE unique_numbers (n int PRIMARY KEY)")
        c.execute("INSERT INTO unique_numbers VALUES (1)")
        states = [
            sqlstate(c, "SELECT 1 / 0"),
            sqlstate(c, "SELEC 1"),
            sqlstate(c, "SELECT * FROM no_such_table"),
            sqlstate(c, "INSERT INTO unique_numbers VALUES (1)"),
        ]
        c.execute("BEGIN")
        sqlstate(c, "SELECT 1 / 0")
        states.append(sqlstate(c, "SELECT 1"))
        c.execute("ROLLBACK")
        assert one(c, "SELECT 1") == (1,)
        return " ".join(states)


def step_copy_in() -> str:
    with connect() as c:
        c.execute("CREATE TABLE copied (n int, t text)")
        with c.cursor().copy("COPY copied FROM STDIN") as copy:
            for number in range(1, 501):
                copy.write_row((number, "text"))
        with c.cursor().copy("COPY copied FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "text"])
            for number in range(501, 1001):
                copy.write_row((number, "binary"))
        return show(*one(c, "SELECT count(*), sum(n) FROM copied"))


def step_copy_out() -> str:
    with (
        connect() as c,
        c.cursor().copy("COPY (SELECT generate_series(1, 1000)) TO STDOUT") as copy,
    ):
        data = b"".join(bytes(piece) for piece in copy)
        return show(data.count(b"\n"), len(data))


def step_copy_error() -> str:
    with connect() as c:
        c.execute("CREATE TABLE copied_badly (n int)")
        try:
            with c.cursor().copy("COPY copied_badly FROM STDIN") as copy:
                for line in ("1\n", "not a number\n", "3\n"):
                    copy.write(line)
            state = "no error"
        except psycopg.Error as error:
            state = str(error.sqlstate)
        return show(state, *one(c, "SELECT 1"))


def step_notify() -> str:
    with connect() as listener, connect() as sender:
        listener.execute("LISTEN checklist_channel")
        with sender.transaction():
            sender.execute("NOTIFY checklist_channel, 'payload'")
        for notice in listener.notifies(timeout=10, stop_after=1):
            return show(notice.channel, notice.payload)
    return "nothing came"


def step_cancel() -> str:
    with connect() as c:
        timer = threading.Timer(0.3, c.cancel_safe)
        timer.start()
        state = sqlstate(c, "SELECT pg_sleep(20)")
        timer.join()
        return show(state, *one(c, "SELECT 1"))


def step_cursor() -> str:
    count = total = 0
    with connect(autocommit=False) as c, c.cursor("seven") as cursor:
        cursor.execute("SELECT generate_series(1, 100)")
        while rows := cursor.fetchmany(7):
            count += len(rows)
            total += sum(row[0] for row in rows)
    return show(count, total)


def step_pipeline() -> str:
    with connect() as c:
        with c.pipeline():
            cursors = [c.execute("SELECT %s::int", (number,)) for number in (1, 2, 3)]
            numbers = [cursor.fetchone() for cursor in cursors]
        state = "no error"
        try:
            with c.pipeline():
                c.execute("SELECT 1")
                c.execute("SELECT 1 / %s", (0,))
                c.execute("SELECT 3")
        except psycopg.Error as error:
            state = str(error.sqlstate)
        shown = ",".join(show(*row) for row in numbers if row)
        return show(shown, state, *one(c, "SELECT 4"))


def step_large_row() -> str:
    with connect() as c:
        return show(len(one(c, "SELECT repeat('x', 8000000)")[0]))


def step_large_result() -> str:
    with connect() as c:
        rows = c.execute("SELECT generate_series(1, 50000)").fetchall()
        return show(sum(row[0] for row in rows))


def step_notice() -> str:
    heard: list[str] = []
    with connect() as c:
        c.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
        c.execute(report.NOTICE)
    return show(*heard)


def step_unicode() -> str:
    with connect() as c:
        return show(*one(c, "SELECT %s::text, char_length(%s::text)", (report.UNICODE,) * 2))


def step_settings() -> str:
    with connect() as c:
        c.execute("SET statement_timeout = '54321ms'")
        c.execute("SET application_name = 'checklist'")
        with c.transaction():
            timeout = one(c, "SHOW statement_timeout")[0]
        name = one(c, "SHOW application_name")[0]
        c.execute("RESET statement_timeout")
        return show(timeout, name, *one(c, "SHOW statement_timeout"))


def step_session() -> str:
    with connect() as c:
        c.execute("CREATE TEMPORARY TABLE mine (n int)")
        c.execute("INSERT INTO mine VALUES (1)")
        c.execute("SELECT pg_advisory_lock(4711)")
        count = one(c, "SELECT count(*) FROM mine")[0]
        unlocked = one(c, "SELECT pg_advisory_unlock(4711)")[0]
        c.execute("DROP TABLE mine")
        return show(count, unlocked)


def step_multi() -> str:
    with connect() as c:
        # Of several statements psycopg prepares none, if it is told so.
        cursor = c.execute("SELECT 1; SELECT 2", prepare=False)
        first = cursor.fetchone()
        cursor.nextset()
        second = cursor.fetchone()
        assert first is not None
        assert second is not None
        return show(*first, *second)


def step_reconnect() -> str:
    c = connect()
    state = sqlstate(c, report.TERMINATE)
    broken = c.broken
    c.close()
    with connect() as again:
        return show(state, broken, *one(again, "SELECT 1"))


if __name__ == "__main__":
    report.run({name[5:]: step for name, step in globals().items() if name.startswith("step_")})
