"""The checklist in SQLAlchemy over psycopg, with its pool of connections."""

from typing import Any

import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, Table, Text, func, select, text

from tests.drivers.python import report
from tests.drivers.python.report import NotSupported, show

ENGINE = sqlalchemy.create_engine(
    sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=report.USER,
        password=report.PASSWORD,
        host=report.HOST,
        port=report.PORT,
        database=report.DATABASE,
    ),
    pool_size=report.CONNECTIONS,
    pool_pre_ping=True,
)
METADATA = MetaData()
COPIED = Table("copied", METADATA, Column("n", Integer), Column("t", Text))
UNIQUE = Table("unique_numbers", METADATA, Column("n", Integer, primary_key=True))


def connect() -> Any:
    return ENGINE.connect().execution_options(isolation_level="AUTOCOMMIT")


def one(connection: Any, sql: str, **parameters: Any) -> Any:
    return connection.execute(text(sql), parameters).one()


def sqlstate(connection: Any, sql: str) -> str:
    try:
        connection.execute(text(sql))
    except sqlalchemy.exc.DBAPIError as error:
        return str(getattr(error.orig, "sqlstate", None))
    return "no error"


def step_connect() -> str:
    with connect() as c:
        return show(*one(c, "SELECT current_user"))


def step_simple() -> str:
    with connect() as c:
        return show(*one(c, "SELECT 1, 'two'"))


def step_parameters() -> str:
    with connect() as c:
        sql = "SELECT cast(:a AS int) + 1, cast(:b AS text) || '!', NOT cast(:c AS bool)"
        return show(*one(c, sql, a=41, b="text", c=True))


def step_types() -> str:
    with connect() as c:
        return report.show_types(c.exec_driver_sql(report.TYPES_QUERY).one())


def step_nulls() -> str:
    with connect() as c:
        sql = "SELECT cast(NULL AS int), cast(:a AS text), cast(:b AS int) IS NULL"
        return show(*one(c, sql, a=None, b=None))


def step_prepared() -> str:
    total = 0
    connections = [connect() for _ in range(report.CONNECTIONS)]
    for _ in range(report.ROUNDS):
        for number, c in enumerate(connections):
            for statement in range(report.STATEMENTS):
                total += one(c, f"SELECT cast(:n AS int) + {statement}", n=number)[0]
    for c in connections:
        c.close()
    return show(total)


def step_transaction() -> str:
    table = Table("transactions", MetaData(), Column("n", Integer))
    count = select(func.count()).select_from(table)
    with ENGINE.begin() as c:
        table.create(c)
        c.execute(table.insert(), [{"n": 1}])
        inner = c.begin_nested()
        c.execute(table.insert(), [{"n": 2}])
        inner.rollback()
        c.execute(table.insert(), [{"n": 3}])
    with ENGINE.connect() as c:
        first = c.execute(count).scalar_one()
        c.execute(table.insert(), [{"n": 4}])
        c.rollback()
        return show(first, c.execute(count).scalar_one())


def step_errors() -> str:
    with connect() as c:
        METADATA.create_all(c)
        c.execute(UNIQUE.insert(), [{"n": 1}])
        states = [
            sqlstate(c, "SELECT 1 / 0"),
            sqlstate(c, "SELEC 1"),
            sqlstate(c, "SELECT * FROM no_such_table"),
            sqlstate(c, "INSERT INTO unique_numbers VALUES (1)"),
        ]
    with ENGINE.connect() as c:
        sqlstate(c, "SELECT 1 / 0")
        states.append(sqlstate(c, "SELECT 1"))
        c.rollback()
        assert one(c, "SELECT 1") == (1,)
    return " ".join(states)


def step_copy_in() -> str:
    # Not COPY, but what SQLAlchemy has for many rows.
    with ENGINE.begin() as c:
        METADATA.create_all(c)
        c.execute(COPIED.insert(), [{"n": n, "t": "text"} for n in range(1, 1001)])
    with connect() as c:
        return show(*c.execute(select(func.count(), func.sum(COPIED.c.n))).one())


def step_copy_out() -> str:
    raise NotSupported("no interface for COPY")


step_copy_error = step_notify = step_copy_out


def step_cancel() -> str:
    with connect() as c:
        c.exec_driver_sql("SET statement_timeout = '300ms'")
        state = sqlstate(c, "SELECT pg_sleep(20)")
        c.exec_driver_sql("RESET statement_timeout")
        return show(state, *one(c, "SELECT 1"))


def step_cursor() -> str:
    with ENGINE.connect() as c:
        streaming = c.execution_options(stream_results=True, max_row_buffer=7)
        numbers = list(streaming.execute(text("SELECT generate_series(1, 100)")).scalars())
        return show(len(numbers), sum(numbers))


def step_pipeline() -> str:
    table = Table("piped", MetaData(), Column("n", Integer, primary_key=True))
    with ENGINE.begin() as c:
        table.create(c)
        insert = table.insert().returning(table.c.n, sort_by_parameter_order=True)
        numbers = c.execute(insert, [{"n": 1}, {"n": 2}, {"n": 3}]).scalars().all()
    with connect() as c:
        state = sqlstate(c, "SELECT 1 / 0")
        return show(",".join(map(str, numbers)), state, *one(c, "SELECT 4"))


def step_large_row() -> str:
    with connect() as c:
        return show(len(one(c, "SELECT repeat('x', 8000000)")[0]))


def step_large_result() -> str:
    with connect() as c:
        return show(sum(c.execute(text("SELECT generate_series(1, 50000)")).scalars()))


def step_notice() -> str:
    heard: list[str] = []
    with connect() as c:
        driver = c.connection.driver_connection
        driver.add_notice_handler(lambda notice: heard.append(notice.message_primary))
        c.exec_driver_sql(report.NOTICE)
    return show(*heard)


def step_unicode() -> str:
    with connect() as c:
        sql = "SELECT cast(:a AS text), char_length(cast(:a AS text))"
        return show(*one(c, sql, a=report.UNICODE))


def step_settings() -> str:
    with connect() as c:
        c.exec_driver_sql("SET statement_timeout = '54321ms'")
        c.exec_driver_sql("SET application_name = 'checklist'")
        timeout = one(c, "SHOW statement_timeout")[0]
        name = one(c, "SHOW application_name")[0]
        c.exec_driver_sql("RESET statement_timeout")
        return show(timeout, name, *one(c, "SHOW statement_timeout"))


def step_session() -> str:
    with connect() as c:
        c.exec_driver_sql("CREATE TEMPORARY TABLE mine (n int)")
        c.exec_driver_sql("INSERT INTO mine VALUES (1)")
        c.exec_driver_sql("SELECT pg_advisory_lock(4711)")
        count = one(c, "SELECT count(*) FROM mine")[0]
        unlocked = one(c, "SELECT pg_advisory_unlock(4711)")[0]
        c.exec_driver_sql("DROP TABLE mine")
        return show(count, unlocked)


def step_multi() -> str:
    raise NotSupported("no interface for several results")


def step_reconnect() -> str:
    with connect() as c:
        state = sqlstate(c, report.TERMINATE)
        invalidated = c.invalidated
    with connect() as c:
        return show(state, invalidated, *one(c, "SELECT 1"))


if __name__ == "__main__":
    report.run({name[5:]: step for name, step in globals().items() if name.startswith("step_")})
