"""The checklist in psycopg2."""

import io
import select
import threading
from collections.abc import Callable
from typing import Any

import psycopg2

from tests.drivers.python import report
from tests.drivers.python.dbapi import Adapter, Steps


class Psycopg2(Adapter):
    error = psycopg2.Error

    def connect(self) -> Any:
        connection = psycopg2.connect(
            host=report.HOST,
            port=report.PORT,
            user=report.USER,
            password=report.PASSWORD,
            dbname=report.DATABASE,
            connect_timeout=10,
        )
        connection.autocommit = True
        return connection

    def sqlstate(self, error: Any) -> str:
        return str(error.pgcode)

    def cancel(self, connection: Any, statement: Callable[[], str]) -> str:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        state = statement()
        timer.join()
        return state

    def copy_in(self, connection: Any, sql: str, data: str) -> None:
        connection.cursor().copy_expert(sql, io.StringIO(data))

    def copy_out(self, connection: Any, sql: str) -> bytes:
        target = io.BytesIO()
        connection.cursor().copy_expert(sql, target)
        return target.getvalue()

    def notifications(self, connection: Any) -> list[tuple[str, str]]:
        while not connection.notifies:
            assert select.select([connection], [], [], 10)[0], "no notification came"
            connection.poll()
        return [(notice.channel, notice.payload) for notice in connection.notifies]

    def notices(self, connection: Any) -> list[str]:
        return [text.split(":  ", 1)[1].strip() for text in connection.notices]

    def cursor_sums(self, connection: Any) -> tuple[int, int]:
        connection.autocommit = False
        cursor = connection.cursor("seven")
        cursor.itersize = 7
        cursor.execute("SELECT generate_series(1, 100)")
        numbers = [row[0] for row in cursor]
        cursor.close()
        connection.commit()
        connection.autocommit = True
        return len(numbers), sum(numbers)


if __name__ == "__main__":
    report.run(Steps(Psycopg2()).all())
