"""The checklist in pg8000, which speaks the protocol in Python and flushes every message."""

import io
from typing import Any

import pg8000.dbapi

from tests.drivers.python import report
from tests.drivers.python.dbapi import Adapter, Steps


class Pg8000(Adapter):
    error = pg8000.dbapi.Error

    def connect(self) -> Any:
        connection = pg8000.dbapi.connect(
            user=report.USER,
            host=report.HOST,
            port=report.PORT,
            password=report.PASSWORD,
            database=report.DATABASE,
            timeout=30,
        )
        connection.autocommit = True
        return connection

    def sqlstate(self, error: Exception) -> str:
        details = error.args[0]
        return str(details["C"]) if isinstance(details, dict) else type(error).__name__

    def is_closed(self, connection: Any) -> bool:
        try:
            connection.cursor().execute("SELECT 1")
        except (pg8000.dbapi.Error, OSError):
            return True
        return False

    def copy_in(self, connection: Any, sql: str, data: str) -> None:
        connection.cursor().execute(sql, stream=io.BytesIO(data.encode()))

    def copy_out(self, connection: Any, sql: str) -> bytes:
        target = io.BytesIO()
        connection.cursor().execute(sql, stream=target)
        return target.getvalue()

    def notifications(self, connection: Any) -> list[tuple[str, str]]:
        for _ in range(100):
            self.run(connection, "SELECT pg_sleep(0.05)")
            if connection.notifications:
                break
        return [(channel, payload) for _pid, channel, payload in connection.notifications]

    def notices(self, connection: Any) -> list[str]:
        return [notice[b"M"].decode() for notice in connection.notices]


if __name__ == "__main__":
    report.run(Steps(Pg8000()).all())
