"""
Checked traffic: transfers between accounts, and a marker in every result.

Each teller keeps a book of what it was told. Whatever is cut: the sum of all accounts stays, what
was committed is there once, and a result carries the teller's own marker.
"""

import contextlib
import random
import threading
import time

import psycopg

from tests.support.sessions import Connection

ACCOUNTS = 40
OPENING = 1000

TABLES = (
    "DROP TABLE IF EXISTS bank_journal; DROP TABLE IF EXISTS bank_accounts;"
    "CREATE TABLE bank_accounts (id int PRIMARY KEY, balance int NOT NULL);"
    f"INSERT INTO bank_accounts SELECT n, {OPENING} FROM generate_series(1, {ACCOUNTS}) n;"
    "CREATE TABLE bank_journal (teller text NOT NULL, number int NOT NULL)"
)

LOST = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,  # the end came between a result and its ReadyForQuery
    psycopg.Rollback,  # the end came during a rollback
)
"""What a teller may meet when lines are cut: it connects again."""


class Teller(threading.Thread):
    """One client; `problems` must be empty in the end."""

    def __init__(self, dsn: str, name: str, seed: int, deadline_s: float) -> None:
        super().__init__(name=name, daemon=True)
        self.dsn = dsn
        self.deadline_s = deadline_s
        self.dice = random.Random(f"{seed}/{name}")
        self.committed: list[int] = []
        self.unknown: list[int] = []
        self.problems: list[str] = []
        self.losses = 0
        self.checks = 0
        self._number = 0

    def run(self) -> None:
        while time.monotonic() < self.deadline_s and not self.problems:
            try:
                with psycopg.connect(self.dsn, autocommit=True, connect_timeout=10) as connection:
                    connection.execute("SET statement_timeout = '20s'")
                    while time.monotonic() < self.deadline_s and not self.problems:
                        self._turn(connection)
                        if self.dice.random() < 0.02:
                            break
            except LOST:
                self.losses += 1
                time.sleep(0.01)
            except Exception as error:
                self.problems.append(f"{self.name}: {error!r}")

    def _turn(self, connection: Connection) -> None:
        kind = self.dice.randrange(5)
        if kind < 2:
            self._transfer(connection)
        elif kind == 2:
            self._sum(connection)
        elif kind == 3:
            self._marker(connection)
        else:
            self._pipeline(connection)

    def _transfer(self, connection: Connection) -> None:
        self._number += 1
        number = self._number
        # Always in one order: no deadlocks.
        first, second = sorted(self.dice.sample(range(1, ACCOUNTS + 1), 2))
        amount = self.dice.randrange(-50, 50)
        is_asked = False
        try:
            with connection.transaction():
                for account, change in ((first, amount), (second, -amount)):
                    connection.execute(
                        "UPDATE bank_accounts SET balance = balance + %s WHERE id = %s",
                        (change, account),
                    )
                if self.dice.random() < 0.1:
                    raise psycopg.Rollback
                connection.execute("INSERT INTO bank_journal VALUES (%s, %s)", (self.name, number))
                is_asked = True
        except LOST:
            if is_asked:
                self.unknown.append(number)
            raise
        if is_asked:
            self.committed.append(number)

    def _sum(self, connection: Connection) -> None:
        row = connection.execute("SELECT sum(balance), count(*) FROM bank_accounts").fetchone()
        self.checks += 1
        if row != (ACCOUNTS * OPENING, ACCOUNTS):
            self.problems.append(f"{self.name}: the sum is {row}")

    def _marker(self, connection: Connection) -> None:
        marker = f"{self.name}/{self.dice.random()}"
        size = self.dice.choice((1, 1, 100, 20_000))
        found = connection.execute(
            "SELECT %s::text, repeat('x', %s) FROM generate_series(1, 3)", (marker, size)
        ).fetchall()
        self.checks += 1
        if found != [(marker, "x" * size)] * 3:
            self.problems.append(f"{self.name}: another's rows: {str(found)[:200]}")

    def _pipeline(self, connection: Connection) -> None:
        markers = [f"{self.name}/{self.dice.random()}" for _ in range(5)]
        with connection.pipeline():
            cursors = [connection.execute("SELECT %s::text", (each,)) for each in markers]
        self.checks += 1
        found = [cursor.fetchone() for cursor in cursors]
        if found != [(each,) for each in markers]:
            self.problems.append(f"{self.name}: another's rows: {found}")


class Noise(threading.Thread):
    """A client whose line duplicates bytes: what it gets means nothing, and it harms nobody."""

    def __init__(self, dsn: str, deadline_s: float) -> None:
        super().__init__(daemon=True)
        self.dsn = dsn
        self.deadline_s = deadline_s

    def run(self) -> None:
        while time.monotonic() < self.deadline_s:
            with (
                contextlib.suppress(Exception),
                psycopg.connect(self.dsn, autocommit=True, connect_timeout=3) as connection,
            ):
                connection.execute("SET statement_timeout = '2s'")
                for number in range(20):
                    connection.execute("SELECT %s::int, 'noise'", (number,), prepare=True)
            time.sleep(0.01)


def audit(connection: Connection, tellers: list[Teller]) -> list[str]:
    """Compare the books with the database."""
    problems = [each for teller in tellers for each in teller.problems]
    row = connection.execute("SELECT sum(balance) FROM bank_accounts").fetchone()
    if row != (ACCOUNTS * OPENING,):
        problems.append(f"the sum is {row}")
    written: dict[tuple[str, int], int] = {}
    for name, number, count in connection.execute(
        "SELECT teller, number, count(*) FROM bank_journal GROUP BY 1, 2"
    ):
        written[(name, number)] = count
    for teller in tellers:
        for number in teller.committed:
            if written.pop((teller.name, number), 0) != 1:
                problems.append(f"{teller.name}: {number} was committed and is not there once")
        for number in teller.unknown:
            if written.pop((teller.name, number), 0) > 1:
                problems.append(f"{teller.name}: {number} is there more than once")
    problems.extend(f"{name}: {number} was never asked for" for name, number in written)
    return problems
