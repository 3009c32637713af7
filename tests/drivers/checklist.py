"""
The list of things that every driver does, and what comes out where that can be said for all.

A program prints one JSON object a line: `{"step": …, "value": …}`, or `{"step": …, "skip": reason}`
for what its driver has no interface for. Steps with `None` depend on the driver (how it shows a
date, how it names a lost connection): there the value through the proxy must be the one that came
straight from PostgreSQL.
"""

from typing import Final

EXPECTED: Final[dict[str, str | None]] = {
    # Who the server says we are, after SCRAM.
    "connect": "driver",
    "simple": "1|two",
    "parameters": "42|text!|false",
    # One value of each common type, as the driver shows it.
    "types": None,
    "nulls": "null|null|true",
    # The same six statements, three times each, on ten connections.
    "prepared": "1260",
    # COMMIT with a savepoint rolled back, then ROLLBACK.
    "transaction": "2|2",
    # Division by zero, syntax, no such table, unique violation, failed transaction.
    "errors": "22012 42601 42P01 23505 25P02",
    "copy_in": "1000|500500",
    "copy_out": "1000|3893",
    # A bad line in the middle of COPY IN, and the next statement.
    "copy_error": "22P02|1",
    "notify": "checklist_channel|payload",
    "cancel": "57014|1",
    # Seven rows at a time.
    "cursor": "100|5050",
    # Several statements in one go, then with an error in their middle, then one more.
    "pipeline": "1,2,3|22012|4",
    "large_row": "8000000",
    "large_result": "1250025000",
    "notice": "hello from the server",
    "unicode": "Žluťoučký 🐘 日本語|15",
    # SET, then a transaction, then RESET.
    "settings": "54321ms|checklist|0",
    # A temporary table and a session's advisory lock, over several transactions.
    "session": "1|true",
    "multi": "1|2",
    # The server ends the connection in the middle of a statement; a new one works.
    "reconnect": None,
}

STEPS: Final = tuple(EXPECTED)
