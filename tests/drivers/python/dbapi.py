"""
The checklist for drivers with the DB-API's interface; what differs is an `Adapter`'s.

Not a program: `psycopg2_plain`, `pg8000_plain` and `django_orm` are.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tests.drivers.python import report
from tests.drivers.python.report import NotSupported, show


class Adapter(ABC):
    """One driver. Connections are in autocommit; parameters are `%s`."""

    error: type[Exception]

    @abstractmethod
    def connect(self) -> Any:
        """A new connection, in autocommit."""

    @abstractmethod
    def sqlstate(self, error: Exception) -> str:
        """The SQLSTATE of the driver's error."""

    def is_closed(self, connection: Any) -> bool:
        """Whether the driver knows that the server has gone."""
        return bool(connection.closed)

    def cancel(self, connection: Any, statement: Callable[[], str]) -> str:
        """Run a statement and cancel it."""
        raise NotSupported("no interface for CancelRequest")

    def copy_in(self, connection: Any, sql: str, data: str) -> None:
        """COPY FROM STDIN."""
        raise NotSupported("no interface for COPY")

    def copy_out(self, connection: Any, sql: str) -> bytes:
        """COPY TO STDOUT."""
        raise NotSupported("no interface for COPY")

    def notifications(self, connection: Any) -> list[tuple[str, str]]:
        """Wait for notifications: channel and payload of each."""
        raise NotSupported("no interface for notifications")

    def notices(self, connection: Any) -> list[str]:
        """Messages of the notices so far."""
        raise NotSupported("no interface for notices")

    def cursor_sums(self, connection: Any) -> tuple[int, int]:
        """Read generate_series(1, 100) by a server-side cursor: how many, and their sum."""
        count = total = 0
        self.run(connection, "BEGIN")
        self.run(connection, "DECLARE seven CURSOR FOR SELECT generate_series(1, 100)")
        while rows := self.rows(connection, "FETCH 7 FROM seven"):
            count += len(rows)
            total += sum(row[0] for row in rows)
        self.run(connection, "COMMIT")
        return count, total

    def pipeline(self, connection: Any) -> list[object]:
        """Several executions in one call of the driver."""
        cursor = connection.cursor()
        self.run(connection, "CREATE TABLE piped (n int)")
        cursor.executemany("INSERT INTO piped VALUES (%s)", [(1,), (2,), (3,)])
        return [row[0] for row in self.rows(connection, "SELECT n FROM piped ORDER BY n")]

    def several(self, connection: Any) -> list[object]:
        """Two statements in one Query: their values."""
        raise NotSupported("no interface for several results")

    def run(self, connection: Any, sql: str, parameters: Any = None) -> None:
        """Execute without looking at rows."""
        cursor = connection.cursor()
        if parameters is None:
            cursor.execute(sql)
        else:
            cursor.execute(sql, parameters)
        cursor.close()

    def rows(self, connection: Any, sql: str, parameters: Any = None) -> list[Any]:
        """Execute and fetch all."""
        cursor = connection.cursor()
        if parameters is None:
            cursor.execute(sql)
        else:
            cursor.execute(sql, parameters)
        rows = list(cursor.fetchall())
        cursor.close()
        return rows


class Steps:
    """The steps, over one adapter."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    def all(self) -> dict[str, Callable[[], str]]:
        """The steps by name."""
        names = [name for name in type(self).__dict__ if name.startswith("step_")]
        return {name[5:]: self._connected(getattr(self, name)) for name in names}

    def _connected(self, step: Callable[[Any], str]) -> Callable[[], str]:
        def run() -> str:
            connection = self.adapter.connect()
            try:
                return step(connection)
            finally:
                connection.close()

        return run

    def _one(self, c: Any, sql: str, parameters: Any = None) -> Any:
        return self.adapter.rows(c, sql, parameters)[0]

    def _state(self, c: Any, sql: str) -> str:
        try:
            self.adapter.run(c, sql)
        except self.adapter.error as error:
            return self.adapter.sqlstate(error)
        return "no error"

    def step_connect(self, c: Any) -> str:
        return show(*self._one(c, "SELECT current_user"))

    def step_simple(self, c: Any) -> str:
        return show(*self._one(c, "SELECT 1, 'two'"))

    def step_parameters(self, c: Any) -> str:
        sql = "SELECT cast(%s AS int) + 1, cast(%s AS text) || '!', NOT cast(%s AS bool)"
        return show(*self._one(c, sql, (41, "text", True)))

    def step_types(self, c: Any) -> str:
        return report.show_types(
            bytes(value) if isinstance(value, memoryview) else value
            for value in self._one(c, report.TYPES_QUERY)
        )

    def step_nulls(self, c: Any) -> str:
        sql = "SELECT NULL::int, cast(%s AS text), cast(%s AS int) IS NULL"
        return show(*self._one(c, sql, (None, None)))

    def step_prepared(self, c: Any) -> str:
        total = 0
        connections = [c] + [self.adapter.connect() for _ in range(report.CONNECTIONS - 1)]
        for _ in range(report.ROUNDS):
            for number, connection in enumerate(connections):
                for statement in range(report.STATEMENTS):
                    sql = f"SELECT cast(%s AS int) + {statement}"
                    total += self._one(connection, sql, (number,))[0]
        for connection in connections[1:]:
            connection.close()
        return show(total)

    def step_transaction(self, c: Any) -> str:
        for sql in (
            "CREATE TABLE transactions (n int)",
            "BEGIN",
            "INSERT INTO transactions VALUES (1)",
            "SAVEPOINT inside",
            "INSERT INTO transactions VALUES (2)",
            "ROLLBACK TO SAVEPOINT inside",
            "INSERT INTO transactions VALUES (3)",
            "COMMIT",
        ):
            self.adapter.run(c, sql)
        first = self._one(c, "SELECT count(*) FROM transactions")[0]
        for sql in ("BEGIN", "INSERT INTO transactions VALUES (4)", "ROLLBACK"):
            self.adapter.run(c, sql)
        return show(first, *self._one(c, "SELECT count(*) FROM transactions"))

    def step_errors(self, c: Any) -> str:
        self.adapter.run(c, "CREATE TABLE unique_numbers (n int PRIMARY KEY)")
        self.adapter.run(c, "INSERT INTO unique_numbers VALUES (1)")
        states = [
            self._state(c, "SELECT 1 / 0"),
            self._state(c, "SELEC 1"),
            self._state(c, "SELECT * FROM no_such_table"),
            self._state(c, "INSERT INTO unique_numbers VALUES (1)"),
        ]
        self.adapter.run(c, "BEGIN")
        self._state(c, "SELECT 1 / 0")
        states.append(self._state(c, "SELECT 1"))
        self.adapter.run(c, "ROLLBACK")
        assert self._one(c, "SELECT 1")[0] == 1
        return " ".join(states)

    def step_copy_in(self, c: Any) -> str:
        self.adapter.run(c, "CREATE TABLE copied (n int, t text)")
        lines = "".join(f"{number}\ttext\n" for number in range(1, 1001))
        self.adapter.copy_in(c, "COPY copied FROM STDIN", lines)
        return show(*self._one(c, "SELECT count(*), sum(n) FROM copied"))

    def step_copy_out(self, c: Any) -> str:
        data = self.adapter.copy_out(c, "COPY (SELECT generate_series(1, 1000)) TO STDOUT")
        return show(data.count(b"\n"), len(data))

    def step_copy_error(self, c: Any) -> str:
        self.adapter.run(c, "CREATE TABLE copied_badly (n int)")
        state = "no error"
        try:
            self.adapter.copy_in(c, "COPY copied_badly FROM STDIN", "1\nnot a number\n3\n")
        except self.adapter.error as error:
            state = self.adapter.sqlstate(error)
        return show(state, *self._one(c, "SELECT 1"))

    def step_notify(self, c: Any) -> str:
        sender = self.adapter.connect()
        try:
            self.adapter.run(c, "LISTEN checklist_channel")
            for sql in ("BEGIN", "NOTIFY checklist_channel, 'payload'", "COMMIT"):
                self.adapter.run(sender, sql)
            return show(*self.adapter.notifications(c)[0])
        finally:
            sender.close()

    def step_cancel(self, c: Any) -> str:
        state = self.adapter.cancel(c, lambda: self._state(c, "SELECT pg_sleep(20)"))
        return show(state, *self._one(c, "SELECT 1"))

    def step_cursor(self, c: Any) -> str:
        return show(*self.adapter.cursor_sums(c))

    def step_pipeline(self, c: Any) -> str:
        numbers = ",".join(map(str, self.adapter.pipeline(c)))
        return show(numbers, self._state(c, "SELECT 1 / 0"), *self._one(c, "SELECT 4"))

    def step_large_row(self, c: Any) -> str:
        return show(len(self._one(c, "SELECT repeat('x', 8000000)")[0]))

    def step_large_result(self, c: Any) -> str:
        rows = self.adapter.rows(c, "SELECT generate_series(1, 50000)")
        return show(sum(row[0] for row in rows))

    def step_notice(self, c: Any) -> str:
        self.adapter.run(c, report.NOTICE)
        return show(*self.adapter.notices(c))

    def step_unicode(self, c: Any) -> str:
        sql = "SELECT cast(%s AS text), char_length(cast(%s AS text))"
        return show(*self._one(c, sql, (report.UNICODE,) * 2))

    def step_settings(self, c: Any) -> str:
        self.adapter.run(c, "SET statement_timeout = '54321ms'")
        self.adapter.run(c, "SET application_name = 'checklist'")
        self.adapter.run(c, "BEGIN")
        timeout = self._one(c, "SHOW statement_timeout")[0]
        self.adapter.run(c, "COMMIT")
        name = self._one(c, "SHOW application_name")[0]
        self.adapter.run(c, "RESET statement_timeout")
        return show(timeout, name, *self._one(c, "SHOW statement_timeout"))

    def step_session(self, c: Any) -> str:
        self.adapter.run(c, "CREATE TEMPORARY TABLE mine (n int)")
        self.adapter.run(c, "INSERT INTO mine VALUES (1)")
        self.adapter.run(c, "SELECT pg_advisory_lock(4711)")
        count = self._one(c, "SELECT count(*) FROM mine")[0]
        unlocked = self._one(c, "SELECT pg_advisory_unlock(4711)")[0]
        self.adapter.run(c, "DROP TABLE mine")
        return show(count, unlocked)

    def step_multi(self, c: Any) -> str:
        return show(*self.adapter.several(c))

    def step_reconnect(self, c: Any) -> str:
        doomed = self.adapter.connect()
        state = self._state(doomed, report.TERMINATE)
        closed = self.adapter.is_closed(doomed)
        return show(state, closed, *self._one(c, "SELECT 1"))
