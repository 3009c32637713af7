"""
The scripted tour: what the proxy promises, one step each, over a real driver.

Each step is a function that returns one line of what it saw, or raises StepFailed with what it
saw instead. The steps know the demo's data and plugins, and nothing of how the proxy works.
"""

import http.client
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import DiagnosticField, ExecStatus

from proxy.demo import sample
from proxy.demo.stack import DemoStack

REPLACED_VERSION = "9.9.9"
_TIMEOUT_S = 15.0
# pg_is_in_recovery() would tell as well, but PostgreSQL calls it volatile, and a statement with a
# volatile function is not a plain read.
_STANDBY = "current_setting('in_hot_standby')"


class StepFailed(Exception):
    """A step did not see what it should have seen."""


def run(stack: DemoStack, say: Callable[[str], None]) -> bool:
    """Run every step, also after one that failed; True if all held."""
    all_held = True
    for title, step in _STEPS:
        try:
            say(f"ok      {title}: {step(stack)}")
        except (StepFailed, psycopg.Error, OSError, http.client.HTTPException) as failure:
            all_held = False
            say(f"FAILED  {title}: {type(failure).__name__}: {failure}".rstrip())
    return all_held


def _read_on_standby(stack: DemoStack) -> str:
    with _connect(stack) as connection:
        row = connection.execute(f"SELECT {_STANDBY}, count(*) FROM orders").fetchone()
    _expect(row is not None and row[0] == "on", f"{_STANDBY}, count(*) is {row}")
    assert row is not None
    return f"counted {row[1]} orders on the standby"


def _write_on_primary(stack: DemoStack) -> str:
    with _connect(stack) as connection:
        row = connection.execute(
            "INSERT INTO orders (customer_id, product_id, quantity) VALUES (%s, %s, %s) "
            f"RETURNING id, {_STANDBY}",
            (1, 1, 3),
        ).fetchone()
        assert row is not None
        _expect(row[1] == "off", f"the write ran where {_STANDBY} is {row[1]}")

        def is_visible() -> bool:
            read = f"SELECT {_STANDBY} FROM orders WHERE id = %s"
            return connection.execute(read, (row[0],)).fetchone() == ("on",)

        _wait(is_visible, "the new order is visible on the standby")
    return f"order {row[0]} written on the primary, then read on the standby"


def _block_simple(stack: DemoStack) -> str:
    with _connect(stack) as connection:
        result = connection.pgconn.exec_(b"DROP TABLE orders")
        seen = _expect_blocked(result)
        _expect_works(connection)
    return seen


def _block_extended(stack: DemoStack) -> str:
    with _connect(stack) as connection:
        result = connection.pgconn.exec_params(b"DELETE FROM orders", [])
        seen = _expect_blocked(result)
        _expect_works(connection)
    return seen


def _block_in_transaction(stack: DemoStack) -> str:
    with _connect(stack) as connection:
        pgconn = connection.pgconn
        pgconn.exec_(b"BEGIN")
        pgconn.exec_(b"UPDATE orders SET quantity = 9 WHERE id = 1")
        _expect_blocked(pgconn.exec_(b"TRUNCATE orders"))
        after = pgconn.exec_(b"SELECT 1").error_field(DiagnosticField.SQLSTATE)
        _expect(after == b"25P02", f"the next statement got SQLSTATE {_text(after)}, not 25P02")
        ended = pgconn.exec_(b"COMMIT").command_status
        _expect(ended == b"ROLLBACK", f"COMMIT answered {_text(ended)}, not ROLLBACK")
    return "the transaction is failed (25P02), and COMMIT answers ROLLBACK"


def _rewrite(stack: DemoStack) -> str:
    probe = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    with _connect(stack) as connection:
        for binary in (False, True):  # without parameters: simple, then extended protocol
            row = connection.execute(probe, binary=binary).fetchone()
            _expect(row is not None, "no row")
            assert row is not None
            seen = str(row[0])
            _expect(seen != probe and "/*" in seen, f"the server got the text unchanged: {seen}")
    return f"the server got: {seen}"


def _route(stack: DemoStack) -> str:
    with _connect(stack) as connection:
        row = connection.execute(f"SELECT {_STANDBY}, count(*) FROM report_by_region").fetchone()
    _expect(row is not None and row[1] == 4, f"the report has {row}")
    _expect(row is not None and row[0] == "off", "the report ran on the standby")
    _wait(
        lambda: _metric_sum(stack, "pin-reports", "route") > 0, "pin-reports was asked for a route"
    )
    return "a read of report_by_region ran where pin-reports sends it, on the primary"


def _replace_under_traffic(stack: DemoStack) -> str:
    before = _plugin(stack, "no-drop")
    stop = threading.Event()
    traffic = [_Traffic(stack, stop) for _ in range(4)]
    for thread in traffic:
        thread.start()
    try:
        _wait(lambda: all(thread.blocked > 10 for thread in traffic), "traffic flows")
        stack.replace_example("no-drop", REPLACED_VERSION)
        _wait(
            lambda: str(_plugin(stack, "no-drop").get("version")) == REPLACED_VERSION,
            f"no-drop {REPLACED_VERSION} is active",
        )
        marks = [thread.blocked for thread in traffic]
        _wait(
            lambda: all(t.blocked > mark + 10 for t, mark in zip(traffic, marks, strict=True)),
            "traffic flows after the replacement",
        )
    finally:
        stop.set()
        for thread in traffic:
            thread.join()
    problems = [problem for thread in traffic for problem in thread.problems]
    _expect(not problems, f"{len(problems)} statements were not judged: {problems[:1]}")
    blocked = sum(thread.blocked for thread in traffic)
    passed = sum(thread.passed for thread in traffic)
    return (
        f"{before.get('version')} -> {REPLACED_VERSION} under 4 clients: "
        f"{blocked} of {blocked} bad statements blocked, {passed} of {passed} good ones answered"
    )


def _metrics(stack: DemoStack) -> str:
    calls = _metric_sum(stack, "no-drop", "pre_query")
    _expect(calls > 0, "no hook latency of no-drop's pre_query in /metrics")
    text = _http(stack, "/metrics").decode()
    series = sum(line.startswith("headgate_") for line in text.splitlines())
    return f"{series} series; the latency histogram of no-drop.pre_query counts {calls:.0f} calls"


_STEPS: list[tuple[str, Callable[[DemoStack], str]]] = [
    ("a read goes to the standby", _read_on_standby),
    ("a write goes to the primary", _write_on_primary),
    ("a bad statement is blocked, simple protocol", _block_simple),
    ("a bad statement is blocked, extended protocol", _block_extended),
    ("a block fails an open transaction", _block_in_transaction),
    ("a statement is rewritten", _rewrite),
    ("a statement is routed by a plugin", _route),
    ("a plugin is replaced under traffic", _replace_under_traffic),
    ("metrics are scraped", _metrics),
]


class _Traffic(threading.Thread):
    """A client that sends a statement to be blocked and one to be answered, in turn."""

    def __init__(self, stack: DemoStack, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self._stack = stack
        self._stop_requested = stop
        self.blocked = 0
        self.passed = 0
        self.problems: list[str] = []

    def run(self) -> None:
        try:
            with _connect(self._stack) as connection:
                while not self._stop_requested.is_set() and not self.problems:
                    self._turn(connection.pgconn)
        except psycopg.Error as error:
            self.problems.append(str(error))

    def _turn(self, pgconn: psycopg.pq.abc.PGconn) -> None:
        for result in (
            pgconn.exec_(b"DELETE FROM report_by_region"),
            pgconn.exec_params(b"TRUNCATE report_by_region", []),
        ):
            sqlstate = result.error_field(DiagnosticField.SQLSTATE)
            if sqlstate == b"42000":
                self.blocked += 1
            else:
                self.problems.append(f"not blocked: {_text(sqlstate)} {_message(result)}")
        result = pgconn.exec_(b"SELECT count(*) FROM report_by_region")
        if result.status == ExecStatus.TUPLES_OK and result.get_value(0, 0) == b"4":
            self.passed += 1
        else:
            self.problems.append(f"not answered: {_message(result)}")


def _connect(stack: DemoStack) -> "psycopg.Connection[tuple[Any, ...]]":
    return psycopg.connect(
        host="127.0.0.1",
        port=stack.port,
        dbname=sample.DATABASE,
        user=sample.USER,
        autocommit=True,
        connect_timeout=10,
        application_name="headgate-demo",
    )


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise StepFailed(otherwise)


def _expect_blocked(result: psycopg.pq.abc.PGresult) -> str:
    sqlstate = result.error_field(DiagnosticField.SQLSTATE)
    _expect(
        sqlstate == b"42000",
        f"status {ExecStatus(result.status).name}, SQLSTATE {_text(sqlstate)}: {_message(result)}",
    )
    return f"SQLSTATE 42000, {_text(result.error_field(DiagnosticField.MESSAGE_PRIMARY))}"


def _expect_works(connection: "psycopg.Connection[tuple[Any, ...]]") -> None:
    row = connection.execute("SELECT count(*) >= 5000 FROM orders").fetchone()
    _expect(row == (True,), f"after the block the orders are not there: {row}")


def _message(result: psycopg.pq.abc.PGresult) -> str:
    return result.error_message.decode(errors="replace").strip()


def _text(value: bytes | None) -> str:
    return "none" if value is None else value.decode(errors="replace")


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise StepFailed(f"not within {_TIMEOUT_S:.0f} s: {what}")
        time.sleep(0.05)


def _http(stack: DemoStack, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", stack.admin_port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        _expect(response.status == 200, f"GET {path} answered {response.status}")
        return body
    finally:
        connection.close()


def _plugin(stack: DemoStack, name: str) -> dict[str, Any]:
    answer = json.loads(_http(stack, f"/api/plugins/{name}"))
    _expect(isinstance(answer, dict), f"/api/plugins/{name} answered {answer!r}")
    found: dict[str, Any] = answer
    return found


def _metric_sum(stack: DemoStack, plugin: str, hook: str) -> float:
    """Sum the counts of the latency histogram of one plugin's hook."""
    total = 0.0
    for line in _http(stack, "/metrics").decode().splitlines():
        name, _, rest = line.partition("{")
        labels, _, value = rest.partition("} ")
        if (
            name.startswith("headgate_")
            and name.endswith("_count")
            and f'plugin="{plugin}"' in labels
            and f'hook="{hook}"' in labels
        ):
            total += float(value.split()[0])
    return total
