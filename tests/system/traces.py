"""
Random scripts (tests.support.scripts) played to a server and through a proxy, traces compared.

Nobody knows how many replies a random script has. So the server is asked first: a turn of it is over
when it has been silent for a moment, and then the proxy must have answered as much in its turn. What
the server has to say after that moment does no harm: the traces are compared whole.
"""

import contextlib
import re
import select
import time
from itertools import pairwise
from typing import Any, Final

import psycopg

from proxy.demo.cluster import EmbeddedPostgres
from tests.support.scripts import Turn, comparable, shorter, split
from tests.support.system import RunningProxy
from tests.system.differential import FLUSH, READY, SYNC, Peer, difference, message, parse, query

DIRECT: Final = "fuzz_direct"
PROXIED: Final = "fuzz_proxied"
"""Two databases, so that neither run is in the other's way: locks, rows, channels."""

SILENCE_S: Final = 0.002
LATE_S: Final = 5.0
SHORTEN_S: Final = 120.0
ASKS: Final = (SYNC, FLUSH)

SCHEMA: Final = """
CREATE TABLE note (id int PRIMARY KEY, label text);
CREATE TABLE where_am_i AS SELECT 'public'::text AS n;
CREATE SCHEMA other;
CREATE TABLE other.where_am_i AS SELECT 'other'::text AS n;
GRANT USAGE ON SCHEMA other TO PUBLIC;
GRANT SELECT ON ALL TABLES IN SCHEMA other TO PUBLIC;
GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;
CREATE FUNCTION sets() RETURNS int LANGUAGE plpgsql AS
  $$BEGIN SET work_mem = '6MB'; SET DateStyle = 'SQL'; RETURN 1; END$$;
CREATE FUNCTION fails() RETURNS int LANGUAGE plpgsql AS
  $$BEGIN RAISE NOTICE 'about to'; RETURN 1 / (SELECT count(*) FROM note WHERE false)::int; END$$;
CREATE PROCEDURE commits() LANGUAGE plpgsql AS
  $$BEGIN INSERT INTO note VALUES (40, 'forty'); COMMIT; END$$;
"""
ROWS: Final = (
    "TRUNCATE note; INSERT INTO note VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')"
)
# A COPY FROM STDIN that is under way takes the CopyFail, an unfinished pipeline the Sync; at any
# other time neither does anything to what follows.
ENDING: Final = (
    message(b"f", b"the end\0")
    + SYNC
    + query("ROLLBACK")
    + query("SHOW work_mem; SHOW DateStyle; SHOW search_path; SHOW role; SHOW application_name")
    + query("TABLE note")
    + query("SELECT pg_advisory_unlock_all()")
    + query("SELECT 'the end'")
)
SENT_AWAY: Final = "sent away"
NAME: Final = re.compile('"[ab]"')
WRONG_BIND: Final = "C08P01\\x00Mbind message "
UNPREPARED: Final = re.compile(r"\\x00C(42|3F000|0A000)")
"""What a server says of a statement that cannot be prepared, or has other columns, any more."""
TOO_LATE: Final = "must be called before any query"
"""
Not said where the Parse before it was not sent: the connection knows the statement already; and said
where one was put in, because the connection does not know it yet.
"""


class Disturber:
    """Another client of the proxy: server connections change hands, and not as they were."""

    ACTIONS: Final = {
        "hold": query("BEGIN"),
        "let go": query("COMMIT"),
        "settings": query("SET work_mem = '77MB'; SET DateStyle = 'SQL'; SET search_path = theirs"),
        "names": parse("a", "SELECT 'of another'") + parse("b", "SELECT 'another'") + FLUSH + SYNC,
        "temp": query("CREATE TEMP TABLE IF NOT EXISTS t (theirs int); DROP TABLE t"),
        "reset": query("DISCARD ALL"),
    }

    def __init__(self, port: int) -> None:
        self.peer = Peer(port, database=PROXIED)

    def act(self, action: str) -> None:
        if action:
            self.peer.ask(self.ACTIONS[action])

    def close(self) -> None:
        self.peer.socket.close()


class Comparison:
    """A server and a proxy in front of it, and what both make of a script."""

    def __init__(self, server: EmbeddedPostgres, proxy: RunningProxy) -> None:
        self.server = server
        self.proxy = proxy
        self.admins: list[psycopg.Connection[Any]] = []

    def prepare(self) -> None:
        """Make the databases anew."""
        with _admin(self.server, "postgres") as admin:
            admin.execute("DROP ROLE IF EXISTS fuzz_role")
            admin.execute("CREATE ROLE fuzz_role")
            for name in (DIRECT, PROXIED):
                admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
                admin.execute(f"CREATE DATABASE {name}".encode())
        for name in (DIRECT, PROXIED):
            self.admins.append(_admin(self.server, name))
            self.admins[-1].execute("SET lock_timeout = '5s'")
            self.admins[-1].execute(SCHEMA.encode())

    def same(self, script: list[Turn], late_s: float = LATE_S) -> bool:
        """
        Play a script on both; AssertionError where the traces part.

        False: there is nothing to compare, see `is_comparable`.
        """
        for admin in self.admins:
            admin.execute(ROWS.encode())
        with Peer(self.server.port, database=DIRECT) as peer:
            marks = [_settled(peer, turn) for turn in script]
            _end(peer)
            wanted = peer.trace()
        if not is_comparable(wanted) or words_lost(wanted):
            return False
        with (
            contextlib.closing(Disturber(self.proxy.port)) as other,
            Peer(self.proxy.port, database=PROXIED) as peer,
        ):
            fewer = 0
            for turn, mark in zip(script, marks, strict=True):
                other.act(turn.disturb)
                _send(peer, turn)
                if not _reaches(peer, mark - fewer, late_s):
                    fewer = len(wanted) - len(described(wanted, peer.trace()))
                if len(peer.frames) < mark - fewer and not peer.is_closed:
                    late = f"late: {len(peer.frames)} of {mark} frames have come"
                    raise AssertionError(_told(wanted, [*peer.trace(), late], script))
            _end(peer)
            found = peer.trace()
        if any(TOO_LATE in line for line in found):
            return False
        if not agree(normal(wanted), normal(found)):
            raise AssertionError(_told(wanted, found, script))
        return True

    def shortest(self, script: list[Turn], failure: AssertionError) -> AssertionError:
        """Leave out of a script whose traces part whatever it does so without."""
        deadline = time.monotonic() + SHORTEN_S
        found = True
        while found:
            found = False
            for other in shorter(script):
                if time.monotonic() > deadline:
                    return failure
                try:
                    self.same(comparable(other), 0.5)
                except AssertionError as again:
                    script, failure, found = other, again, True
                    break
        return failure

    def close(self) -> None:
        """End the connections of this object."""
        for admin in self.admins:
            admin.close()


def _admin(server: EmbeddedPostgres, database: str) -> psycopg.Connection[Any]:
    where = f"host=127.0.0.1 port={server.port} user=postgres dbname={database}"
    return psycopg.connect(where, autocommit=True)


def _send(peer: Peer, turn: Turn) -> None:
    data = b"".join(turn.messages)
    step = turn.piece or len(data) or 1
    for start in range(0, len(data), step):
        peer.send(data[start : start + step])


def _settled(peer: Peer, turn: Turn) -> int:
    """Play a turn to the server; how many frames have come when it is silent, if any must have."""
    data = b"".join(turn.messages)
    peer.send(data)
    while not peer.is_closed and select.select([peer.socket], [], [], SILENCE_S)[0]:
        peer.receive()
    # A server tells of an error at once; what nobody has asked for yet may come later.
    return (
        len(peer.frames) if turn.messages[-1][-5:] in ASKS or turn.messages[-1][:1] in b"QF" else 0
    )


def _reaches(peer: Peer, count: int, late_s: float) -> bool:
    """Whether so many frames come, or the end of the connection does."""
    deadline = time.monotonic() + late_s
    while len(peer.frames) < count and not peer.is_closed:
        if time.monotonic() > deadline:
            return False
        if select.select([peer.socket], [], [], 0.1)[0]:
            peer.receive()
    return True


def _end(peer: Peer) -> None:
    """Bring a connection back into step, and see that it is."""
    peer.send(ENDING)
    seen = len(peer.frames)
    while not peer.is_closed:
        peer.wait(READY)
        if any(b"the end" in frame.body for frame in peer.frames[seen:] if frame.tag == b"D"):
            break


def normal(trace: list[str]) -> list[str]:
    """A trace, with the one end that there is for messages in the middle of a COPY FROM STDIN."""
    for index, line in enumerate(trace):
        if "C08P01" in line and "during COPY from stdin" in line:
            return [*trace[:index], SENT_AWAY]
    return trace


def words_lost(trace: list[str]) -> int:
    """
    How many lines tell only that a connection has ended, and not why: 0 where that is told.

    Who closes a socket before all was read that came, takes back what the other side has not read
    of its last words (TCP). The proxy says itself then that its server has gone.
    """
    if trace[-1:] != ["closed"]:
        return 0
    last = trace[-2] if len(trace) > 1 else ""
    if "SFATAL" not in last:
        return 1
    return 2 if "C08006" in last else 0


def is_comparable(wanted: list[str]) -> bool:
    """
    Whether a server's trace is what the proxy's should be (docs/sessions.md).

    PostgreSQL 18 does not end the transaction of a pipeline with a Query in it where a Sync alone
    comes next, though it says so, and fails or loses what follows. The proxy ends it.
    """
    ends = any(pair == ("Z b'T'", "Z b'I'") for pair in pairwise(wanted))
    return not ends and not any(TOO_LATE in line for line in wanted)


def described(wanted: list[str], found: list[str]) -> list[str]:
    """
    A server's trace, with the proxy's error where a failed transaction describes a statement.

    It has to be prepared on the connection first, which such a transaction refuses (docs/sessions.md).
    """
    for at, mine in enumerate(found):
        if at < len(wanted) and wanted[at][0] == "t" and mine[0] == "E" and "C25P02" in mine:
            rest = wanted[at:]
            ends = [index for index, line in enumerate(rest) if line[0] == "Z"]
            wanted = [*wanted[:at], mine, *rest[min(ends, default=len(rest)) :]]
    return wanted


def agree(wanted: list[str], found: list[str]) -> bool:
    """Whether two traces are the same, but for a Parse or Bind that is wrong in two ways."""
    lost = words_lost(found)
    if lost and wanted[-1:] == [SENT_AWAY]:
        found = found[:-lost]
        wanted = wanted[: len(found)]
    wanted = described(wanted, found)
    return len(found) == len(wanted) and all(
        # The proxy looks at the name first, may tell of another one, and may have to parse before
        # a Bind (docs/sessions.md).
        NAME.sub('"c"', mine) == NAME.sub('"c"', theirs)
        or (
            mine[0] == theirs[0] == "E"
            and (
                "C42P05" in mine
                or "C25P02" in mine
                or (WRONG_BIND in theirs and UNPREPARED.search(mine) is not None)
            )
        )
        for theirs, mine in zip(wanted, found, strict=True)
    )


def _told(wanted: list[str], found: list[str], script: list[Turn]) -> str:
    return f"{difference(wanted, found)}\n{shown(script)}"


def shown(script: list[Turn]) -> str:
    """A script, message by message."""
    lines: list[str] = []
    for turn in script:
        lines.append(
            f"turn in pieces of {turn.piece or 'all'}, other client: {turn.disturb or '-'}"
        )
        for frame in split(b"".join(turn.messages)):
            lines.append(f"    {frame[:1].decode()} {frame[5:]!r}")
    return "\n".join(lines)
