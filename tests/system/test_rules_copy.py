"""Rules 24 and 25: COPY both ways, its failures, and clients that leave in the middle."""

import struct
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.system import wait_until
from tests.system.differential import (
    CLOSED,
    COPY_DONE,
    FLUSH,
    READY,
    SYNC,
    Differential,
    Until,
    bind,
    copy_data,
    describe,
    execute,
    make_differential,
    message,
    parse,
    query,
    ready,
    run,
    sqlstates,
)

FAIL = message(b"f", b"changed my mind\0")
EMPTY = "TRUNCATE copied"
IN = "COPY copied FROM STDIN"
ROWS = copy_data(b"1\tone\n") + copy_data(b"2\ttwo\n")
BAD = copy_data(b"not a number\tx\n")
COUNT = [query("SELECT count(*), max(label) FROM copied"), READY]
UNNAMED = parse("", IN) + bind() + execute()


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    for differential in make_differential(workspace, primary, standby, "rules-copy"):
        differential.sql(
            "DROP TABLE IF EXISTS copied CASCADE;"
            "CREATE TABLE copied (id int, label text);"
            "CREATE VIEW copied_view AS SELECT * FROM copied;"
            "CREATE TABLE refusing (id int, label text);"
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE EXCEPTION 'no rows here'; END $$;"
            "CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON refusing"
            " FOR EACH STATEMENT EXECUTE FUNCTION refuse()"
        )
        yield differential


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([query(IN), Until(b"G"), ROWS + COPY_DONE, READY, *COUNT], id="simple"),
        pytest.param([query(IN) + ROWS + COPY_DONE, READY, *COUNT], id="simple, at once"),
        pytest.param([query(IN), Until(b"G"), FAIL, READY, *COUNT], id="simple, CopyFail"),
        pytest.param([query(IN), Until(b"G"), ROWS + FAIL + query("SELECT 1"), ready(2), *COUNT],
                     id="simple, CopyFail after rows"),
        pytest.param([query(IN), Until(b"G"), COPY_DONE, READY, *COUNT], id="simple, no rows"),
        pytest.param([query(IN), Until(b"G"), FLUSH + SYNC + ROWS + SYNC + FLUSH + COPY_DONE,
                      READY, *COUNT], id="simple, Flush and Sync are ignored"),
        pytest.param([query(f"SELECT 1; {IN}; SELECT 2; {IN}; SELECT 3"), Until(b"G"),
                      ROWS + COPY_DONE, Until(b"G"), ROWS + COPY_DONE, READY, *COUNT],
                     id="simple, among other statements"),
        pytest.param([query(f"{IN}; SELECT 1/0"), Until(b"G"), ROWS + COPY_DONE, READY, *COUNT],
                     id="simple, undone by what follows"),
        pytest.param([query(f"BEGIN; {IN}"), Until(b"G"), ROWS + COPY_DONE, READY, *COUNT,
                      query("ROLLBACK"), READY, *COUNT], id="simple, in a transaction"),
        pytest.param([UNNAMED + SYNC, Until(b"G"), ROWS + COPY_DONE + SYNC, READY, *COUNT],
                     id="extended"),
        pytest.param([UNNAMED + SYNC + ROWS + COPY_DONE + SYNC, READY, *COUNT],
                     id="extended, at once"),
        pytest.param([UNNAMED + FLUSH, Until(b"G"), ROWS + COPY_DONE + SYNC, READY, *COUNT],
                     id="extended, with Flush"),
        pytest.param([UNNAMED + FLUSH + SYNC + ROWS + COPY_DONE + SYNC, READY, *COUNT],
                     id="extended, with Flush and Sync"),
        pytest.param([UNNAMED + ROWS + COPY_DONE + SYNC, READY, *COUNT],
                     id="extended, without a Sync before the data"),
        pytest.param([UNNAMED + UNNAMED + SYNC, Until(b"G"), ROWS + COPY_DONE, CLOSED],
                     id="extended, two at once are a protocol error"),
        pytest.param([UNNAMED + FLUSH, Until(b"G"), ROWS + COPY_DONE + UNNAMED + FLUSH, Until(b"G"),
                      ROWS + COPY_DONE + SYNC, READY, *COUNT], id="extended, two with Flush"),
        pytest.param([UNNAMED + SYNC, Until(b"G"), ROWS + FAIL + SYNC, READY, *COUNT],
                     id="extended, CopyFail"),
        pytest.param([UNNAMED + SYNC, Until(b"G"), ROWS + COPY_DONE + run("SELECT 1") + SYNC
                      + run("SELECT 2") + SYNC, ready(2), *COUNT], id="extended, more behind it"),
        pytest.param([parse("c", IN) + SYNC, READY, bind("c") + execute() + SYNC, Until(b"G"),
                      ROWS + COPY_DONE + SYNC, READY, bind("c") + execute() + SYNC, Until(b"G"),
                      ROWS + FAIL + SYNC, READY, *COUNT], id="extended, named"),
        pytest.param([query("BEGIN"), READY, parse("", IN) + bind(portal="p") + SYNC, READY,
                      execute("p") + SYNC, Until(b"G"), ROWS + COPY_DONE + SYNC, READY,
                      query("COMMIT"), READY, *COUNT], id="extended, a portal of its own"),
        pytest.param([run("SELECT 1") + UNNAMED + SYNC, Until(b"G"), ROWS + COPY_DONE + SYNC, READY,
                      *COUNT], id="extended, behind a row"),
        pytest.param([run("INSERT INTO copied VALUES (9)") + query(IN), Until(b"G"), ROWS
                      + COPY_DONE, READY, *COUNT], id="simple, behind messages without Sync"),
        pytest.param([query("COPY copied FROM STDIN (FORMAT binary)"), Until(b"G"),
                      copy_data(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff") + COPY_DONE, READY],
                     id="simple, binary"),
    ],
)  # fmt: skip
def test_rule_24_copy_in(both, script):
    both.same(script, EMPTY)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([query(IN), Until(b"G"), BAD + ROWS, READY, ROWS + COPY_DONE, *COUNT],
                     id="simple"),
        pytest.param([query(IN) + BAD + ROWS + COPY_DONE + query("SELECT 1"), ready(2), *COUNT],
                     id="simple, at once"),
        pytest.param([query(IN), Until(b"G"), BAD + ROWS + FAIL, READY, *COUNT],
                     id="simple, with CopyFail behind it"),
        pytest.param([query("COPY nowhere FROM STDIN") + ROWS + COPY_DONE + query("SELECT 1"),
                      ready(2)], id="simple, no such table"),
        pytest.param([query(f"{IN}; SELECT 1"), Until(b"G"), BAD + COPY_DONE, READY, *COUNT],
                     id="simple, before another statement"),
        pytest.param([query("BEGIN"), READY, query(IN) + BAD + COPY_DONE, READY, query("SELECT 1"),
                      READY, query("ROLLBACK"), READY], id="simple, in a transaction"),
        pytest.param([UNNAMED + SYNC, Until(b"G"), BAD + ROWS, Until(b"E"), ROWS + COPY_DONE + SYNC,
                      READY, *COUNT], id="extended"),
        pytest.param([UNNAMED + SYNC, Until(b"G"), BAD + ROWS + COPY_DONE + SYNC
                      + run("SELECT 1") + SYNC, ready(2), *COUNT], id="extended, more behind it"),
        pytest.param([parse("", "COPY nowhere FROM STDIN") + bind() + execute() + SYNC + ROWS
                      + COPY_DONE + SYNC + run("SELECT 1") + SYNC, ready(3)],
                     id="extended, no such table"),
        pytest.param([parse("", "COPY copied_view FROM STDIN") + bind() + execute() + FLUSH,
                      Until(b"E"), ROWS + COPY_DONE + SYNC, READY], id="extended, a view, Flush"),
        pytest.param([parse("", "COPY refusing FROM STDIN") + bind() + execute() + FLUSH,
                      Until(b"E"), ROWS + COPY_DONE + SYNC, READY],
                     id="extended, a trigger, Flush"),
        pytest.param([query(IN), Until(b"G"), message(b"d", b""), copy_data(b"1"), COPY_DONE, READY,
                      *COUNT], id="simple, a row too short"),
    ],
)  # fmt: skip
def test_rule_24_copy_in_with_an_error_in_the_middle(both, script):
    assert sqlstates(both.same(script, EMPTY))


def test_rule_24_copy_that_fails_after_its_beginning_answers_each_sync(both):
    # The server may read the first Sync during the COPY (and ignore it) or behind its failure (and
    # answer it). Whichever it is, the proxy stays in step with both sides.
    for table in ("copied_view", "refusing"):
        copy = parse("", f"COPY {table} FROM STDIN") + bind() + execute()
        for _ in range(5):
            with both.through() as peer:
                peer.send(copy + SYNC)
                peer.wait(Until(b"E"))
                peer.send(ROWS + COPY_DONE + SYNC)
                peer.send(query("SELECT 'in step'"))
                frames = peer.wait(Until(b"D"))
                assert 1 <= sum(frame.tag == b"Z" for frame in frames) <= 2
                peer.wait(READY)
                assert peer.value("SELECT 'still'") == "still"
    both.usable()


@pytest.mark.parametrize("extended", [False, True])
def test_rule_24_half_a_copydata_never_reaches_the_next_statement(both, extended):
    start = UNNAMED + SYNC if extended else query(IN)
    piece = copy_data(b"3\t" + b"x" * 500_000 + b"\n")
    for cut in (4, 5, 6, 1000, 400_000):
        with both.through() as peer:
            peer.ask(start, Until(b"G"))
            # Enough rows before that the server reads, and fails, before the piece is whole.
            peer.send(BAD * 20_000 + piece[:cut])
            peer.wait(Until(b"E"))
            if not extended:
                peer.wait(READY)
            # Other clients may have that connection now.
            for _ in range(4):
                both.usable()
            peer.send(piece[cut:] + ROWS + COPY_DONE + (SYNC if extended else b""))
            if extended:
                peer.wait(READY)
            assert peer.value("SELECT 'in step'") == "in step"
    assert both.row("SELECT count(*) FROM copied WHERE id = 3") == (0,)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([query("COPY (SELECT generate_series(1, 5)) TO STDOUT"), READY], id="simple"),
        pytest.param([query("COPY (SELECT 1/(3 - i) FROM generate_series(1, 5) i) TO STDOUT"),
                      READY], id="simple, an error in the middle"),
        pytest.param([query("SELECT 1; COPY (SELECT 2) TO STDOUT; SELECT 3"), READY],
                     id="simple, among others"),
        pytest.param([query("COPY item TO STDOUT (FORMAT binary)"), READY], id="simple, binary"),
        pytest.param([parse("", "COPY (SELECT 1) TO STDOUT") + bind() + describe("P") + execute()
                      + SYNC, READY], id="extended"),
        pytest.param([run("COPY (SELECT 1/(3 - i) FROM generate_series(1, 5) i) TO STDOUT")
                      + run("SELECT 1") + SYNC + run("SELECT 2") + SYNC, ready(2)],
                     id="extended, an error in the middle"),
        pytest.param([run("COPY (SELECT 1) TO STDOUT") + run("COPY (SELECT 2) TO STDOUT") + FLUSH,
                      Until(b"C", 2), SYNC, READY], id="extended, two with Flush"),
        pytest.param([query("COPY (SELECT repeat('x', 100000) FROM generate_series(1, 50))"
                            " TO STDOUT"), READY], id="simple, large"),
    ],
)  # fmt: skip
def test_rule_24_copy_out(both, script):
    both.same(script)


def test_rule_24_a_message_that_does_not_belong_into_a_copy_is_answered_like_postgresql(both):
    trace = both.same([query(IN), Until(b"G"), query("SELECT 1"), CLOSED], EMPTY)
    assert sqlstates(trace)[0] == "08P01"
    both.usable()


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(parse("a", "SELECT 1") + copy_data(b""), id="cut"),
        pytest.param(parse("a", "SELECT 1") + FLUSH, id="with Flush"),
    ],
)
def test_rule_24_a_copy_is_undone_by_what_fails_in_its_group(both, begun):
    # What comes first could be served by a standby, and the COPY could not.
    failing = bind("", [b"7"]) + execute()
    script = [begun + bind("a") + execute() + UNNAMED + ROWS + COPY_DONE + failing + SYNC, READY]
    assert sqlstates(both.same([*script, *COUNT], EMPTY)) == ["08P01"]
    assert both.row("SELECT count(*) FROM copied") == (0,)


def test_rule_24_megabytes_of_copy(both):
    piece = copy_data(b"7\t" + b"y" * 20_000 + b"\n")
    both.same([query(IN), Until(b"G"), piece * 1_000, COPY_DONE, READY, *COUNT], EMPTY)
    both.sql(EMPTY)


def busy(both: Differential) -> int:
    count: int = both.row(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'rules'"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'"
    )[0]
    return count


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(query("SELECT pg_sleep(60)"), id="statement"),
        pytest.param(query("SELECT repeat('x', 100000) FROM generate_series(1, 100000)"),
                     id="result"),
        pytest.param(query("COPY (SELECT repeat('x', 100000) FROM generate_series(1, 100000))"
                           " TO STDOUT"), id="COPY out"),
        pytest.param(query(IN), id="COPY in"),
        pytest.param(UNNAMED + SYNC, id="COPY in, extended"),
        pytest.param(query(IN) + ROWS + copy_data(b"z" * 1000)[:500], id="half a CopyData"),
        pytest.param(query("BEGIN; INSERT INTO copied VALUES (13)"), id="transaction"),
        pytest.param(run("SELECT pg_sleep(60)") + FLUSH, id="open group"),
        pytest.param(run("INSERT INTO copied VALUES (13)") + run("SELECT 1")[:-3], id="half"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("says_goodbye", [False, True])
def test_rule_25_a_client_that_leaves_leaves_nothing(both, start, says_goodbye):
    peer = both.through()
    peer.send(start)
    wait_until(lambda: busy(both) > 0 or start.startswith(b"P"), 5)
    if says_goodbye:
        peer.send(message(b"X", b""))
    peer.socket.close()
    wait_until(lambda: busy(both) == 0, 10, "no server connection is busy")
    for _ in range(3):
        both.usable()
    assert both.row("SELECT count(*) FROM copied WHERE id = 13") == (0,)


def test_rule_25_a_half_closed_client_is_a_client_that_left(both):
    with both.through() as peer:
        peer.send(query("SELECT pg_sleep(60)"))
        wait_until(lambda: busy(both) > 0, 5)
        peer.socket.shutdown(1)
        peer.wait(CLOSED)
    wait_until(lambda: busy(both) == 0, 10)


def test_rule_25_a_reset_in_the_middle_of_a_row(both):
    peer = both.through()
    peer.send(query("SELECT repeat('x', 50000000)"))
    peer.socket.recv(100_000)
    peer.socket.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: a reset, not an end
    peer.socket.close()
    wait_until(lambda: busy(both) == 0, 10)
    for _ in range(4):
        both.usable()
