"""The checklist in Django's ORM over psycopg, with server-side cursors as it has them."""

import importlib
from typing import Any

from tests.drivers.python import report
from tests.drivers.python.report import NotSupported, show

# Django has no type information, and its modules can be imported only when it is configured.
conf: Any = importlib.import_module("django.conf")
conf.settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": report.HOST,
            "PORT": report.PORT,
            "USER": report.USER,
            "PASSWORD": report.PASSWORD,
            "NAME": report.DATABASE,
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    USE_TZ=True,
)
importlib.import_module("django").setup()
db: Any = importlib.import_module("django.db")
aggregates: Any = importlib.import_module("django.db.models")
Group: Any = importlib.import_module("django.contrib.auth.models").Group
call_command: Any = importlib.import_module("django.core.management").call_command


def rows(sql: str, parameters: Any = None) -> list[Any]:
    with db.connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall())


def run(sql: str) -> None:
    with db.connection.cursor() as cursor:
        cursor.execute(sql)


def sqlstate(sql: str) -> str:
    try:
        run(sql)
    except db.DatabaseError as error:
        return str(getattr(error.__cause__, "sqlstate", None))
    return "no error"


def step_connect() -> str:
    call_command("migrate", verbosity=0)
    return show(*rows("SELECT current_user")[0])


def step_simple() -> str:
    return show(*rows("SELECT 1, 'two'")[0])


def step_parameters() -> str:
    sql = "SELECT %s::int + 1, %s::text || '!', NOT %s::bool"
    return show(*rows(sql, (41, "text", True))[0])


def step_types() -> str:
    return report.show_types(rows(report.TYPES_QUERY)[0])


def step_nulls() -> str:
    return show(*rows("SELECT NULL::int, %s::text, %s::int IS NULL", (None, None))[0])


def step_prepared() -> str:
    total = 0
    for number in range(report.CONNECTIONS):
        db.connection.close()
        for _ in range(report.ROUNDS):
            for statement in range(report.STATEMENTS):
                total += rows(f"SELECT %s::int + {statement}", (number,))[0][0]
    return show(total)


class Undo(Exception):
    """Rolls a transaction back."""


def step_transaction() -> str:
    with db.transaction.atomic():
        Group.objects.create(name="one")
        try:
            with db.transaction.atomic():
                Group.objects.create(name="two")
                raise Undo
        except Undo:
            pass
        Group.objects.create(name="three")
    first = Group.objects.count()
    try:
        with db.transaction.atomic():
            Group.objects.create(name="four")
            raise Undo
    except Undo:
        pass
    return show(first, Group.objects.count())


def step_errors() -> str:
    states = [
        sqlstate("SELECT 1 / 0"),
        sqlstate("SELEC 1"),
        sqlstate("SELECT * FROM no_such_table"),
    ]
    try:
        Group.objects.create(name="one")
    except db.IntegrityError as error:
        states.append(str(getattr(error.__cause__, "sqlstate", None)))
    db.connection.set_autocommit(False)
    sqlstate("SELECT 1 / 0")
    states.append(sqlstate("SELECT 1"))
    db.connection.rollback()
    db.connection.set_autocommit(True)
    assert rows("SELECT 1") == [(1,)]
    return " ".join(states)


def step_copy_in() -> str:
    # Not COPY, but what Django has for many rows.
    Group.objects.bulk_create([Group(name=f"many {n:04}") for n in range(1, 1001)])
    many = Group.objects.filter(name__startswith="many ")
    numbers = [int(group.name[5:]) for group in many.order_by("name")]
    return show(len(numbers), sum(numbers))


def step_copy_out() -> str:
    raise NotSupported("no interface for it")


step_copy_error = step_notify = step_notice = step_multi = step_copy_out


def step_cancel() -> str:
    run("SET statement_timeout = '300ms'")
    state = sqlstate("SELECT pg_sleep(20)")
    run("RESET statement_timeout")
    return show(state, *rows("SELECT 1")[0])


def step_cursor() -> str:
    many = Group.objects.filter(name__startswith="many ").order_by("name")[:100]
    numbers = [int(group.name[5:]) for group in many.iterator(chunk_size=7)]
    return show(len(numbers), sum(numbers))


def step_pipeline() -> str:
    made = Group.objects.bulk_create([Group(name=f"piped {n}") for n in (1, 2, 3)])
    numbers = ",".join(group.name[6:] for group in made)
    return show(numbers, sqlstate("SELECT 1 / 0"), *rows("SELECT 4")[0])


def step_large_row() -> str:
    return show(len(rows("SELECT repeat('x', 8000000)")[0][0]))


def step_large_result() -> str:
    return show(sum(row[0] for row in rows("SELECT generate_series(1, 50000)")))


def step_unicode() -> str:
    sql = "SELECT %s::text, char_length(%s::text)"
    return show(*rows(sql, (report.UNICODE,) * 2)[0])


def step_settings() -> str:
    run("SET statement_timeout = '54321ms'")
    run("SET application_name = 'checklist'")
    with db.transaction.atomic():
        timeout = rows("SHOW statement_timeout")[0][0]
    name = rows("SHOW application_name")[0][0]
    run("RESET statement_timeout")
    return show(timeout, name, *rows("SHOW statement_timeout")[0])


def step_session() -> str:
    run("CREATE TEMPORARY TABLE mine (n int)")
    run("INSERT INTO mine VALUES (1)")
    run("SELECT pg_advisory_lock(4711)")
    count = rows("SELECT count(*) FROM mine")[0][0]
    unlocked = rows("SELECT pg_advisory_unlock(4711)")[0][0]
    run("DROP TABLE mine")
    return show(count, unlocked)


def step_reconnect() -> str:
    state = sqlstate(report.TERMINATE)
    usable = db.connection.is_usable()
    db.connection.close()
    return show(state, usable, *rows("SELECT 1")[0])


if __name__ == "__main__":
    report.run({name[5:]: step for name, step in globals().items() if name.startswith("step_")})
