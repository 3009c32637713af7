"""
Random sessions that leave behind whatever a session can leave, each under a marker of its own.

Every session begins by looking at what is there: anything that carries a marker, or differs from a
fresh connection, was left by somebody else.
"""

import random
import struct
import threading
import time
from collections.abc import Callable

from proxy.protocol import frontend
from tests.support.wire import Message, RawClient, message, rows, sqlstates

CUSTOM = ("leak.a", "leak.b", "leak.dyn0", "leak.dyn1", "leak.fn")

LOOK = (
    "SELECT 'setting ' || name || '=' || setting FROM pg_settings WHERE source = 'session'"
    " AND name NOT LIKE 'transaction%'"
    " UNION ALL SELECT 'custom ' || n || '=' || current_setting(n, true)"
    f" FROM unnest('{{{','.join(CUSTOM)}}}'::text[]) n WHERE current_setting(n, true) <> ''"
    " UNION ALL SELECT 'user ' || current_user || '/' || session_user"
    " WHERE current_user <> 'postgres' OR session_user <> 'postgres'"
    " UNION ALL SELECT 'temporary ' || oid::regclass::text FROM pg_class"
    " WHERE relnamespace = pg_my_temp_schema()"
    " UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = pg_my_temp_schema()"
    " UNION ALL SELECT 'lock ' || objid FROM pg_locks WHERE locktype = 'advisory'"
    " AND pid = pg_backend_pid()"
    " UNION ALL SELECT 'cursor ' || name FROM pg_cursors WHERE is_holdable"
    " UNION ALL SELECT 'channel ' || c FROM pg_listening_channels() c"
    " UNION ALL SELECT 'prepared ' || name FROM pg_prepared_statements WHERE from_sql"
    " UNION ALL SELECT 'isolation ' || current_setting('transaction_isolation')"
    " WHERE current_setting('transaction_isolation') <> 'read committed'"
)
"""What a fresh session finds nothing of; superuser's eyes."""

OBJECTS = (
    "DROP FUNCTION IF EXISTS leak_set, leak_named; DROP TABLE IF EXISTS leak_rows;"
    "DROP ROLE IF EXISTS leak_role;"
    "CREATE ROLE leak_role; CREATE TABLE leak_rows (x text);"
    "CREATE FUNCTION leak_set(text, text) RETURNS text LANGUAGE sql"
    " AS $$SELECT set_config($1, $2, false)$$;"
    "CREATE FUNCTION leak_named(text) RETURNS text LANGUAGE plpgsql"
    " AS $$BEGIN RETURN set_config('leak.fn', $1, false); END$$"
)
"""What the sessions use."""

Step = Callable[["LeakySession"], None]


class LeakySession:
    """One session; `problems` names what it should not have seen."""

    def __init__(self, port: int, marker: str, dice: random.Random) -> None:
        self.port = port
        self.marker = marker
        self.dice = dice
        self.problems: list[str] = []
        self.settings: dict[str, str] = {}
        self.is_over = False

    def run(self, steps: int) -> None:
        """Log in, look, do random things, leave in one of the ways to leave."""
        with RawClient(self.port, timeout_s=20.0) as client:
            self.client = client
            parameters: dict[str, str] = {}
            if self.dice.random() < 0.3:
                parameters["application_name"] = self.settings["application_name"] = self.marker
            if self.dice.random() < 0.2:
                parameters["options"] = "-c work_mem=3MB"
                self.settings["work_mem"] = "3072"
            greeting = client.login(**parameters)
            if sqlstates(greeting):
                self.problems.append(f"login: {sqlstates(greeting)}")
                return
            self._look()
            for _ in range(steps):
                if self.is_over or self.problems:
                    return
                self.dice.choice(STEPS)(self)
            if not self.is_over:
                self.own_values()
                if self.dice.random() < 0.7:
                    client.send(message(b"X"))

    def ask(self, sql: str) -> list[Message]:
        """Run a Query; a notification of another's channel is a problem."""
        found = self.client.query(sql)
        for tag, body in found:
            if tag == b"A" and self.marker.encode() not in body:
                self.problems.append(f"notification {body!r}")
        return found

    def _look(self) -> None:
        own = {f"setting {name}={value}" for name, value in self.settings.items()}
        for row in rows(self.ask(LOOK)):
            found = (row[0] or b"").decode()
            if found not in own:
                self.problems.append(f"left behind: {found}")

    def own_values(self) -> None:
        """What the session has set is what it sees, wherever it runs."""
        answer = self.ask(
            "ROLLBACK; SELECT current_setting('application_name'), '" + self.marker + "'"
        )
        if sqlstates(answer) == ["57014"]:
            return  # its own statement_timeout
        found = rows(answer)
        wanted = self.settings.get("application_name", "")
        if len(found) != 1 or found[0][1] != self.marker.encode():
            self.problems.append(f"another's result: {answer!r}")
        elif found[0][0] != wanted.encode():
            self.problems.append(f"application_name is {found[0][0]!r}, not {wanted!r}")

    # -- ways to leave

    def leave(self) -> None:
        """Cut the connection, whatever is under way."""
        if self.dice.random() < 0.5:
            # A reset in place of an orderly end.
            self.client.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))
        self.client.close()
        self.is_over = True


def _sql(*texts: str) -> list[Step]:
    def step(text: str) -> Step:
        return lambda session: _run(session, text)

    return [step(text) for text in texts]


def _run(session: LeakySession, text: str) -> None:
    session.ask(text.replace("$M", session.marker))


def _application_name(session: LeakySession) -> None:
    if not sqlstates(session.ask(f"ROLLBACK; SET application_name = '{session.marker}'")):
        session.settings["application_name"] = session.marker


def _failed_set(session: LeakySession) -> None:
    session.ask("ROLLBACK; BEGIN; SET application_name = 'failed'; SELECT 1/0")
    session.ask("ROLLBACK")


def _prepared(session: LeakySession) -> None:
    session.client.send(
        frontend.Parse(b"same_name", f"SELECT '{session.marker}'".encode(), []).encode()
        + frontend.Bind(b"", b"same_name", [], [], []).encode()
        + frontend.Execute(b"", 0).encode()
        + frontend.SYNC
    )
    answer = session.client.until_ready()
    found = rows(answer)
    if found and found != [[session.marker.encode()]]:
        session.problems.append(f"another's statement: {found!r}")


def _leave_in_result(session: LeakySession) -> None:
    text = f"SELECT '{session.marker}' || repeat('x', 500) FROM generate_series(1, 50000)"
    session.client.send(frontend.encode_query(text.encode()))
    session.client.receive()
    session.leave()


def _leave_while_running(session: LeakySession) -> None:
    session.client.send(frontend.encode_query(b"SET work_mem = '2MB'; SELECT pg_sleep(5)"))
    session.leave()


def _leave_in_copy(session: LeakySession) -> None:
    session.client.send(frontend.encode_query(b"COPY leak_rows FROM STDIN"))
    session.client.receive()
    session.client.send(message(b"d", session.marker.encode() + b"\n"))
    if session.dice.random() < 0.5:
        session.client.send(b"d\x00\x00\x10\x00half a message")
    session.leave()


def _failed_copy(session: LeakySession) -> None:
    session.ask("ROLLBACK")
    session.client.send(
        frontend.encode_query(b"COPY leak_rows FROM STDIN")
        + message(b"d", b"one\ttwo\tthree\n") * 20
        + message(b"c")
    )
    session.client.until_ready()


def _copy_fail(session: LeakySession) -> None:
    session.ask("ROLLBACK")
    session.client.send(frontend.encode_query(b"COPY leak_rows FROM STDIN"))
    session.client.send(message(b"d", b"x\n") + message(b"f", b"no more\0"))
    session.client.until_ready()


def _leave_in_pipeline(session: LeakySession) -> None:
    session.client.send(
        frontend.Parse(b"", b"SELECT set_config('leak.a', 'pipeline', false)", []).encode()
        + frontend.Bind(b"", b"", [], [], []).encode()
        + frontend.Execute(b"", 0).encode()
        + (frontend.FLUSH if session.dice.random() < 0.5 else b"")
    )
    session.leave()


def _cancelled(session: LeakySession) -> None:
    session.client.send(frontend.encode_query(b"SET leak.b = 'cancelled'; SELECT pg_sleep(5)"))
    process_id, secret = session.client.key
    with RawClient(session.port) as canceller:
        body = (80877102).to_bytes(4, "big") + process_id.to_bytes(4, "big") + secret
        # Until it hits: the request may come before the statement.
        canceller.send((len(body) + 4).to_bytes(4, "big") + body)
        canceller.until_closed()
    session.client.socket.settimeout(0.5)
    try:
        session.client.until_ready()
    except TimeoutError:
        session.leave()
        return
    session.client.socket.settimeout(20.0)


STEPS: list[Step] = [
    *_sql(
        "SET work_mem = '8MB'; SET statement_timeout = '60s'",
        "SET leak.a = '$M'",
        "SELECT set_config('leak.b', '$M', false)",
        "SELECT leak_set('leak.dyn' || 0, '$M')",
        "SELECT leak_named('$M')",
        "DO $$BEGIN EXECUTE 'SET leak.dy' || 'n1 = ''$M'''; END$$",
        "SET search_path = '$M', public",
        "SET ROLE leak_role",
        "SET SESSION AUTHORIZATION leak_role",
        "SET TIME ZONE 'Asia/Tokyo'; SET DateStyle = 'German'",
        "SET standard_conforming_strings = off; SET client_encoding = 'SJIS'",
        "SET default_transaction_isolation = 'serializable'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "CREATE TEMP TABLE t_$M AS SELECT '$M' AS m",
        "CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS 'SELECT ''$M'''",
        "SELECT pg_try_advisory_lock(hashtext('$M'))",
        "BEGIN; SELECT pg_try_advisory_lock_shared(1, hashtext('$M')); COMMIT",
        "LISTEN c_$M; NOTIFY c_$M, '$M'",
        "PREPARE p_$M AS SELECT '$M'; EXECUTE p_$M",
        "BEGIN; DECLARE c_$M CURSOR WITH HOLD FOR SELECT '$M'; COMMIT",
        "BEGIN; SET leak.a = '$M'; CREATE TEMP TABLE t_$M (x int)",
        "BEGIN; SAVEPOINT s; SET leak.a = '$M'; ROLLBACK TO s",
        "SELECT 1/0",
        "BEGIN; INSERT INTO leak_rows VALUES ('$M')",
        "COMMIT",
        "ROLLBACK",
        "RESET work_mem; RESET leak.a",
        "SET statement_timeout = 1",
        "SELECT '$M' FROM generate_series(1, 1000)",
    ),
    _application_name,
    _failed_set,
    _prepared,
    _prepared,
    _leave_in_result,
    _leave_while_running,
    _leave_in_copy,
    _failed_copy,
    _copy_fail,
    _leave_in_pipeline,
    _cancelled,
]


THREADS = 3
"""How many sessions there are at a time: fewer than server connections, for they pin."""


def run_sessions(port: int, seed: int, seconds: float) -> tuple[int, list[str]]:
    """Run random sessions on several threads; how many there were, and what they should not see."""
    deadline_s = time.monotonic() + seconds
    problems: list[str] = []
    counts = [0] * THREADS

    def work(thread: int) -> None:
        while time.monotonic() < deadline_s and not problems:
            counts[thread] += 1
            number = f"m{thread}_{counts[thread]}"
            session = LeakySession(port, number, random.Random(f"{seed}/{number}"))
            try:
                session.run(session.dice.randrange(7))
            except Exception as error:
                session.problems.append(repr(error))
            problems.extend(f"{number} (seed {seed}): {each}" for each in session.problems)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 60)
    return sum(counts), problems
