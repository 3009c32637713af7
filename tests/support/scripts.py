"""
Random scripts: what a client may send to a server, in order and out of it.

A script is a list of turns. A turn is messages that are sent together, in pieces of some size; the
next one follows when everything has been answered that will be. Most of what is sent would work: a
pipeline dies at its first error. Left out is only what docs/sessions.md says to be different.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from proxy.protocol import frontend


class Turn(NamedTuple):
    """
    Messages that are sent together.

    piece    how many bytes are sent at a time; 0: all at once
    disturb  what the other client does before it; see `system.traces.Disturber`
    """

    messages: tuple[bytes, ...]
    piece: int = 0
    disturb: str = ""


DISTURBANCES: Final = ("hold", "let go", "settings", "names", "temp", "reset")

READS: Final = (
    "SELECT 1",
    "SELECT 'a', NULL, 2.5",
    "SELECT 1 WHERE false",
    "SELECT",
    "VALUES (1, 'x'), (2, 'y')",
    "SELECT n FROM generate_series(1, 5) AS n",
    "SELECT repeat('x', 3000) FROM generate_series(1, 4)",
    "SELECT * FROM note ORDER BY id",
    "SELECT id FROM note WHERE id < 3 ORDER BY id FOR UPDATE",
    "TABLE t",
    "SHOW work_mem",
    "SHOW application_name",
    "SHOW transaction_read_only",
    "SHOW transaction_isolation",
    "SELECT current_user, session_user",
    "SELECT current_setting('search_path'), current_setting('DateStyle')",
    "SELECT nullif(current_setting('app.x', true), '')",
    "SELECT '2024-01-02'::date",
    "SELECT n FROM where_am_i",
    "SELECT 'caf\u00e9'",
    "SELECT pg_try_advisory_lock(7), pg_advisory_unlock(7)",
    "EXPLAIN (COSTS OFF) SELECT 1",
)
PARAMETERISED: Final = (
    "SELECT $1::int",
    "SELECT $1::text, $2::int + 1",
    "SELECT label FROM note WHERE id = $1",
    "INSERT INTO note VALUES ($1, $2) RETURNING id",
)
WRITES: Final = (
    "INSERT INTO note VALUES (10, 'ten')",
    "INSERT INTO note SELECT n FROM generate_series(20, 22) AS n RETURNING id",
    "UPDATE note SET label = label || '!' WHERE id = 1 RETURNING label",
    "DELETE FROM note WHERE id = 2",
    "WITH gone AS (DELETE FROM note WHERE id = 3 RETURNING id) SELECT * FROM gone",
    "TRUNCATE note",
    "CREATE TEMP TABLE t (x int)",
    "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1 AS x",
    "CREATE TEMP TABLE t ON COMMIT DELETE ROWS AS SELECT 1 AS x",
    "INSERT INTO t VALUES (5)",
    "DROP TABLE t",
    "DROP TABLE IF EXISTS t",
    "SELECT 1 AS x INTO TEMP t",
    "LOCK TABLE note IN SHARE MODE",
    "DO $$BEGIN RAISE NOTICE 'hello'; END$$",
    "DO $$BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'P0777'; END$$",
    "DO $$BEGIN PERFORM set_config('work_mem', '5MB', false); END$$",
    "DO $$BEGIN COMMIT; END$$",
    "CALL commits()",
    "SELECT sets()",
    "SELECT fails()",
    "VACUUM note",
    "SELECT pg_advisory_lock(7)",
    "SELECT pg_advisory_unlock(7)",
    "SELECT pg_advisory_xact_lock(7)",
)
ERRORS: Final = (
    "SELECT 1/0",
    "SELECT * FROM nothing",
    "INSERT INTO note VALUES (1, 'again')",
    "SELECT 'x'::int",
    "SELECT count(*) FROM generate_series(1, 10) AS n WHERE 1 / (n - 7) > 2",
    "SELECT 1 / (n - 3) FROM generate_series(1, 5) AS n",
)
BROKEN: Final = (
    "SET nothing.like = ",
    "SELECT 'a\\b'",
    "SELEC 1",
    "SELECT (",
    "SELECT 'open",
    "SELECT $1 $2",
    "\x01",
)
EMPTY: Final = ("", ";", " ;; ", "-- nothing", "/* no */")
TRANSACTIONS: Final = (
    "BEGIN",
    "BEGIN READ ONLY",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "COMMIT",
    "END",
    "ROLLBACK",
    "ABORT",
    "COMMIT AND CHAIN",
    "ROLLBACK AND CHAIN",
    "SAVEPOINT s",
    "ROLLBACK TO s",
    "RELEASE s",
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL DEFERRED",
    "PREPARE TRANSACTION 'x'",
)
SETTINGS: Final = (
    "SET work_mem = '1MB'",
    "SET LOCAL work_mem = '2MB'",
    "RESET work_mem",
    "SET application_name = 'first'",
    "SET application_name TO DEFAULT",
    "SET LOCAL application_name = 'local'",
    "SET search_path = other, public",
    "SET LOCAL search_path = other",
    "SET DateStyle = 'German'",
    "SET LOCAL DateStyle = 'SQL'",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET ROLE fuzz_role",
    "SET LOCAL ROLE fuzz_role",
    "RESET ROLE",
    "SET SESSION AUTHORIZATION fuzz_role",
    "RESET SESSION AUTHORIZATION",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET default_transaction_isolation = 'serializable'",
    "SET app.x = 'mine'",
    "SET LOCAL app.x = 'local'",
    "RESET app.x",
    "SET standard_conforming_strings = off",
    "SET client_encoding = 'LATIN1'",
    "SET client_encoding = 'SJIS'",
    "SET nothing_like = 1",
    "SELECT set_config('work_mem', '3MB', false)",
    "SELECT set_config('DateStyle', 'Postgres', true)",
    "RESET ALL",
    "DISCARD ALL",
    "DISCARD TEMP",
    "DISCARD PLANS",
)
NAMES_IN_SQL: Final = (
    "PREPARE a AS SELECT 4",
    "PREPARE b (int) AS SELECT $1 + 1",
    "PREPARE b AS SELECT 1/0",
    "PREPARE a AS INSERT INTO note VALUES (30, 'thirty') RETURNING label",
    "EXECUTE a",
    'EXECUTE "a"',
    "EXECUTE b",
    "EXECUTE b (3)",
    "EXECUTE nobody",
    "DEALLOCATE a",
    "DEALLOCATE PREPARE b",
    "DEALLOCATE nobody",
    "DEALLOCATE ALL",
)
CURSORS: Final = (
    "DECLARE p CURSOR FOR SELECT n FROM generate_series(1, 6) AS n",
    "DECLARE p SCROLL CURSOR FOR SELECT id FROM note ORDER BY id",
    "DECLARE q CURSOR WITH HOLD FOR SELECT n FROM generate_series(1, 4) AS n",
    "DECLARE q BINARY CURSOR WITH HOLD FOR SELECT 1 / (n - 3) FROM generate_series(1, 4) AS n",
    "FETCH 2 FROM p",
    "FETCH ALL FROM p",
    "FETCH 1 FROM q",
    "MOVE 1 IN q",
    "FETCH BACKWARD 1 FROM p",
    "CLOSE p",
    "CLOSE q",
    "CLOSE ALL",
)
COPIES: Final = (
    "COPY note FROM STDIN",
    "COPY note (id, label) FROM STDIN WITH (FORMAT csv)",
    "COPY note FROM STDIN WITH (FORMAT binary)",
    "COPY t FROM STDIN",
    "COPY (SELECT n, 'x' FROM generate_series(1, 3) AS n) TO STDOUT",
    "COPY note TO STDOUT",
    "COPY (SELECT 1 / (n - 3) FROM generate_series(1, 4) AS n) TO STDOUT",
)
CHANNELS: Final = (
    "LISTEN news",
    "UNLISTEN news",
    "UNLISTEN *",
    "NOTIFY news, 'x'",
    "NOTIFY other",
    "SELECT pg_notify('news', 'y')",
    "SELECT count(*) FROM pg_listening_channels()",
)


def query(text: str) -> bytes:
    """One Query."""
    return frontend.encode_query(text.encode())


def parse(name: str, text: str, oids: tuple[int, ...] = ()) -> bytes:
    """One Parse."""
    return frontend.Parse(name.encode(), text.encode(), list(oids)).encode()


def bind(
    portal: str,
    name: str,
    parameter_formats: list[int],
    parameters: list[bytes | None],
    result_formats: list[int],
) -> bytes:
    """One Bind, which may be wrong: more formats than parameters."""
    return frontend.Bind(
        portal.encode(), name.encode(), parameter_formats, parameters, result_formats
    ).encode()


def describe(kind: str, name: str) -> bytes:
    """One Describe."""
    return frontend.Describe(ord(kind), name.encode()).encode()


def close(kind: str, name: str) -> bytes:
    """One Close."""
    return frontend.Close(ord(kind), name.encode()).encode()


def execute(portal: str, rows: int) -> bytes:
    """One Execute."""
    return frontend.Execute(portal.encode(), rows).encode()


def message(tag: bytes, body: bytes) -> bytes:
    """One message by hand."""
    return tag + (len(body) + 4).to_bytes(4, "big") + body


def call(oid: int, arguments: list[bytes | None], formats: list[int], result: int) -> bytes:
    """One FunctionCall."""
    body = oid.to_bytes(4, "big") + len(formats).to_bytes(2, "big")
    body += b"".join(code.to_bytes(2, "big") for code in formats)
    body += len(arguments).to_bytes(2, "big")
    for value in arguments:
        size = -1 if value is None else len(value)
        body += size.to_bytes(4, "big", signed=True) + (value or b"")
    return message(b"F", body + result.to_bytes(2, "big"))


def copy_data(data: bytes) -> bytes:
    """One CopyData."""
    return message(b"d", data)


INT4PL: Final = 177
NO_FUNCTION: Final = 4_000_000
COPY_BODIES: Final = (
    b"",
    b"101\tone",
    b"102\ttwo\n103\tthree\n",
    b"1\tagain\n",
    b"104,x\n",
    b"no\n",
)
COPY_ENDS: Final = (message(b"c", b""), message(b"f", b"enough\0"))
BINARY_COPY: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)

THEMES: Final = {
    "all": READS + WRITES + ERRORS + TRANSACTIONS + SETTINGS + NAMES_IN_SQL + CURSORS + COPIES
    + CHANNELS,
    "names": NAMES_IN_SQL + PARAMETERISED + READS[:3] + ERRORS[:1] + ("DISCARD ALL", "RESET ALL"),
    "cursors": CURSORS + READS[4:6] + WRITES[:2] + ERRORS[:1] + ("DISCARD ALL",),
    "settings": SETTINGS + READS + ("SELECT sets()", "SELECT 1/0", "SELECT fails()"),
    "copies": COPIES + WRITES[:6] + ("SELECT 1/0", "TABLE note", "CREATE TEMP TABLE t (x int)"),
    "state": (
        *(text for text in WRITES if " t" in text or "advisory" in text),
        *("TABLE t", "DISCARD TEMP", "DISCARD ALL", "SELECT 1/0"),
    ),
    "channels": (*CHANNELS, "SELECT 1/0", "DISCARD ALL"),
    "writes": WRITES + ERRORS + ("TABLE note",),
}  # fmt: skip
"""Texts that have to do with each other: of all texts, few would meet those that they belong to."""

BROKEN_FORMATS: Final[Sequence[list[int]]] = ([0, 1], [1, 1, 1], [2])
VALUES: Final[Sequence[list[bytes | None]]] = (
    [], [b"1"], [None], [b"x"], [b"50", b"fifty"], [b"a", b"2"], [b"\0\0\0\7"], [b"1", b"2", b"3"],
)  # fmt: skip
CALLS: Final = (
    call(INT4PL, [b"\0\0\0\1", b"\0\0\0\2"], [1], 1),
    call(INT4PL, [b"3", b"4"], [], 0),
    call(INT4PL, [b"3"], [], 0),
    call(INT4PL, [None, b"4"], [0, 0], 0),
    call(NO_FUNCTION, [], [], 0),
)


class Writer:
    """Writes one script; the same for the same dice."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.theme = THEMES[dice.choice(list(THEMES))]
        self.names = [""]
        self.portals = [""]

    def script(self) -> list[Turn]:
        turns = [self.turn() for _ in range(self.dice.randrange(1, 9))]
        return comparable(turns)

    def turn(self) -> Turn:
        dice = self.dice
        parts = self.some(1, 4, (self.queries, self.group, self.group, self.anything))
        disturb = dice.choice(DISTURBANCES) if self.now_and_then(0.5) else ""
        return Turn(tuple(parts), dice.choice((0, 0, 0, 1, 3, 7, 40)), disturb)

    # -- parts of a turn: several messages each

    def queries(self) -> bytes:
        texts = [self.text()]
        while self.now_and_then(0.3):
            texts.append(self.text())
        return query("; ".join(texts))

    def group(self) -> bytes:
        """What a driver may send up to a Sync."""
        ways = (self.run, self.run, self.named, self.named, self.again, self.again, self.copy)
        found = self.some(1, 5, ways)
        if self.now_and_then(0.2):
            found.insert(self.dice.randrange(len(found) + 1), self.stray())
        return b"".join(found) + frontend.SYNC

    def anything(self) -> bytes:
        ways = (self.stray, self.stray, self.run, self.queries, self.copy, self.named)
        return b"".join(self.some(1, 5, ways))

    def some(self, least: int, most: int, ways: Sequence[Callable[[], bytes]]) -> list[bytes]:
        return [self.dice.choice(ways)() for _ in range(self.dice.randint(least, most))]

    # -- what belongs together

    def run(self) -> bytes:
        portal = self.portal()
        described = describe("P", portal) if self.now_and_then(0.4) else b""
        return (
            parse("", self.text(), self.oids()) + self.bind(portal, "") + described
            + execute(portal, self.rows())
        )  # fmt: skip

    def named(self) -> bytes:
        name = self.dice.choice("abc")
        self.names.append(name)
        closed = close("S", name) if self.now_and_then(0.3) else b""
        described = describe("S", name) if self.now_and_then(0.4) else b""
        used = self.again(name) if self.now_and_then(0.6) else b""
        return closed + parse(name, self.named_text(name), self.oids()) + described + used

    def again(self, name: str | None = None) -> bytes:
        portal = self.portal()
        found = self.bind(portal, self.name() if name is None else name)
        found += execute(portal, self.rows())
        while self.now_and_then(0.2):
            found += execute(portal, self.rows())
        return found

    def copy(self) -> bytes:
        """A whole COPY FROM STDIN, now and then without its end."""
        text = self.dice.choice(COPIES[:2])
        found = query(text) if self.now_and_then(0.5) else self.run_text(text)
        for _ in range(self.dice.randrange(3)):
            found += copy_data(self.dice.choice(COPY_BODIES))
        return found + (b"" if self.now_and_then(0.1) else self.dice.choice(COPY_ENDS))

    def run_text(self, text: str) -> bytes:
        return parse("", text) + bind("", "", [], [], []) + execute("", 0)

    # -- single messages

    def stray(self) -> bytes:
        dice = self.dice
        kind = dice.randrange(10)
        if kind == 0:
            name = self.name()
            return parse(name, self.named_text(name))
        if kind == 1:
            return self.bind(self.portal(), self.name())
        if kind == 2:
            return execute(self.portal(), self.rows())
        if kind == 3:
            return describe("S", self.name())
        if kind == 4:
            return describe("P", self.portal())
        if kind == 5:
            return close("S", self.name())
        if kind == 6:
            return close("P", self.portal())
        if kind == 7:
            return dice.choice((frontend.SYNC, frontend.FLUSH))
        if kind == 8:
            return dice.choice((*COPY_ENDS, *map(copy_data, (*COPY_BODIES, BINARY_COPY))))
        return dice.choice(CALLS)

    def bind(self, portal: str, name: str) -> bytes:
        dice = self.dice
        if portal not in self.portals:
            self.portals.append(portal)
        values = dice.choice(VALUES) if self.now_and_then(0.25) else []
        if self.now_and_then(0.05):
            return bind(portal, name, dice.choice(BROKEN_FORMATS), values, [])
        result = dice.choice(BROKEN_FORMATS) if self.now_and_then(0.05) else dice.choice(([], [1]))
        return bind(portal, name, [], values, result)

    def text(self) -> str:
        if self.now_and_then(0.08):
            return self.dice.choice(EMPTY + BROKEN)
        return self.valid_text()

    def valid_text(self) -> str:
        kind = self.dice.random()
        if kind < 0.2:
            return self.dice.choice(TRANSACTIONS)
        if kind < 0.3:
            return self.dice.choice(READS[:6] + PARAMETERISED)
        return self.dice.choice(self.theme)

    def named_text(self, name: str) -> str:
        """What may be prepared: no EXECUTE of a command on names (docs/sessions.md)."""
        text = self.valid_text()
        return "SELECT 1" if name in ("a", "b") and text in NAMES_IN_SQL else text

    def name(self) -> str:
        return "nobody" if self.now_and_then(0.05) else self.dice.choice(self.names)

    def portal(self) -> str:
        if self.now_and_then(0.25):
            return self.dice.choice("pq")
        return self.dice.choice(self.portals)

    def oids(self) -> tuple[int, ...]:
        return self.dice.choice(((25,), (23, 25))) if self.now_and_then(0.1) else ()

    def rows(self) -> int:
        return self.dice.choice((0, 0, 0, 1, 2, 100))

    def now_and_then(self, share: float) -> bool:
        return self.dice.random() < share


UNKNOWN: Final = (b"standard_conforming_strings = off", b"'SJIS'")
"""What makes a session's texts unknown to the proxy."""


def comparable(script: list[Turn]) -> list[Turn]:
    """The same without what docs/sessions.md says to be different."""
    return without_executes(without_syncs_in_copies(script))


def without_executes(script: list[Turn]) -> list[Turn]:
    """
    The same without a Describe of a prepared EXECUTE, and without any where texts are unknown.

    Its columns are those of what it executes when it was parsed; here those of what it would execute.
    """
    everything = b"".join(message for turn in script for message in turn.messages)
    is_unknown = any(word in everything for word in UNKNOWN)
    executes: set[bytes] = set()
    found: list[Turn] = []
    for turn in script:
        kept: list[bytes] = []
        for frame in split(b"".join(turn.messages)):
            if frame[:1] == b"P":
                name, text = frame[5:].split(b"\0")[:2]
                if text.startswith(b"EXECUTE"):
                    executes.add(name)
            is_described = frame[:1] == b"D" and frame[5:6] == b"S" and frame[6:-1] in executes
            if not is_described and not (is_unknown and b"EXECUTE" in frame):
                kept.append(frame)
        if kept:
            found.append(turn._replace(messages=tuple(kept)))
    return found


def without_syncs_in_copies(script: list[Turn]) -> list[Turn]:
    """
    The same without Sync and Flush directly behind CopyData.

    A server drops them, but not if the COPY has failed: the proxy cannot know in time, and drops them.
    """
    in_data = False
    found: list[Turn] = []
    for turn in script:
        kept: list[bytes] = []
        for frame in split(b"".join(turn.messages)):
            if not (in_data and frame in (frontend.SYNC, frontend.FLUSH)):
                kept.append(frame)
                in_data = frame[:1] == b"d"
        if kept:
            found.append(turn._replace(messages=tuple(kept)))
    return found


def shorter(script: list[Turn]) -> list[list[Turn]]:
    """The same script with one thing less, in all ways; what leaves out most comes first."""
    found = [script[:at] + script[at + 1 :] for at in range(len(script) - 1, -1, -1)]
    for at, turn in enumerate(script):
        others = []
        if turn.disturb:
            others.append(turn._replace(disturb=""))
        if turn.piece:
            others.append(turn._replace(piece=0))
        frames = split(b"".join(turn.messages))
        for index in range(len(frames) - 1, -1, -1):
            if len(frames) > 1:
                others.append(turn._replace(messages=tuple(frames[:index] + frames[index + 1 :])))
        found.extend([*script[:at], other, *script[at + 1 :]] for other in others)
    return found


def split(data: bytes) -> list[bytes]:
    """Bytes as whole messages."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        found.append(data[at:end])
        at = end
    return found
