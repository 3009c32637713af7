"""Rules 8 to 14: prepared statements and portals, over several server connections."""

import zlib
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.system.differential import (
    FLUSH,
    READY,
    SYNC,
    Differential,
    Elsewhere,
    Peer,
    Until,
    bind,
    close,
    describe,
    execute,
    make_differential,
    parse,
    query,
    ready,
    run,
    sqlstates,
)


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    yield from make_differential(workspace, primary, standby, "rules-prepared")


def tags_of(peer: Peer, data: bytes) -> bytes:
    return b"".join(frame.tag for frame in peer.ask(data))


# Preparing goes in front of the query for the pid: a simple Query drops the unnamed statement.
WHERE_PID = "SELECT pg_backend_pid()"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (bind() + execute(), b"2DCZ"),
        (describe("S"), b"tTZ"),
        (bind() + describe("P") + execute(), b"2TDCZ"),
        (bind(), b"2Z"),
    ],
)
def test_rule_08_the_unnamed_statement_moves_with_its_client(both, message, expected):
    with both.through() as peer:
        # By the extended protocol and a name, so that the unnamed statement stays.
        peer.ask(parse("where", WHERE_PID) + bind("where") + execute() + SYNC)
        (row,) = [frame for frame in peer.ask(bind("where") + execute() + SYNC)
                  if frame.tag == b"D"]  # fmt: skip
        before = row.values[0]
        name = f"answer_{zlib.crc32(message)}"
        peer.ask(parse("", f"SELECT 42 AS {name}") + SYNC)
        with both.through() as other:
            other.ask(query("BEGIN"))
            holders = [other]
            while str(other.pid()).encode() != before:
                other = both.through()
                other.ask(query("BEGIN"))
                holders.append(other)
            # There the unnamed statement is another one, or none.
            frames = peer.ask(message + SYNC)
            assert b"".join(frame.tag for frame in frames) == expected
            assert all(name.encode() in frame.body for frame in frames if frame.tag == b"T")
            assert all(frame.values == [b"42"] for frame in frames if frame.tag == b"D")
            (row,) = [frame for frame in peer.ask(bind("where") + execute() + SYNC)
                      if frame.tag == b"D"]  # fmt: skip
            assert row.values[0] != before
            for holder in holders:
                holder.socket.close()


def test_rule_08_the_unnamed_statement_of_another_client_is_never_seen(both):
    with both.through() as first, both.through() as second:
        first.ask(parse("", "SELECT 'first'") + SYNC)
        frames = second.ask(bind() + execute() + SYNC)
        assert [frame.fields["C"] for frame in frames if frame.tag == b"E"] == ["26000"]
        second.ask(parse("", "SELECT 'second'") + SYNC)
        for peer, expected in ((first, b"first"), (second, b"second"), (first, b"first")):
            (row,) = [f for f in peer.ask(bind() + execute() + SYNC) if f.tag == b"D"]
            assert row.values == [expected]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([parse("", "SELECT 1") + SYNC + query("") + bind() + SYNC, ready(3)],
                     id="to the next simple Query"),
        pytest.param([parse("", "SELECT 1") + SYNC + parse("", "SELECT 2") + SYNC + bind()
                      + execute() + SYNC, ready(3)], id="to the next unnamed Parse"),
        pytest.param([parse("", "SELECT 1") + SYNC + query("BEGIN") + parse("", "SELECT 3") + SYNC
                      + bind() + execute() + SYNC + query("ROLLBACK") + bind() + SYNC, ready(6)],
                     id="in a transaction"),
        pytest.param([parse("", "SELECT 1") + SYNC + parse("", "SELEC") + SYNC + bind() + execute()
                      + SYNC, ready(3)], id="to the next unnamed Parse, which fails"),
        pytest.param([parse("", "SELECT $1::int + 1", [23]) + SYNC, READY, describe("S") + SYNC,
                      READY, bind("", [b"4"]) + execute() + SYNC, READY], id="with a parameter"),
        pytest.param([parse("", "") + describe("S") + bind() + describe("P") + execute() + SYNC,
                      READY], id="empty"),
        pytest.param([parse("", "SELECT 1") + close("S") + SYNC + bind() + SYNC, ready(2)],
                     id="to its Close"),
        pytest.param([parse("", "SELECT 1; SELECT 2") + SYNC + bind() + SYNC, ready(2)],
                     id="never two statements"),
    ],
)  # fmt: skip
def test_rule_08_the_unnamed_statement_lives_as_long_as_in_postgresql(both, script):
    both.same(script)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ([parse("a", "SELECT 1") + SYNC + parse("a", "SELECT 2") + SYNC + bind("a") + execute()
          + SYNC, ready(3)], ["42P05"]),
        ([parse("a", "SELECT 1") + parse("a", "SELECT 1") + SYNC, READY], ["42P05"]),
        ([bind("nope") + execute() + SYNC + describe("S", "nope") + SYNC + describe("S") + SYNC,
          ready(3)], ["26000", "26000", "26000"]),
        ([execute("nope") + SYNC + describe("P", "nope") + SYNC, ready(2)], ["34000", "34000"]),
        ([close("S", "nope") + close("P", "nope") + close("S") + close("P") + SYNC, READY], []),
        ([parse("a", "SELECT 1") + close("S", "a") + bind("a") + SYNC + parse("a", "SELECT 2")
          + bind("a") + execute() + SYNC, ready(2)], ["26000"]),
        ([query("BEGIN"), READY, bind("nope") + SYNC + query("SELECT 1") + query("ROLLBACK"),
          ready(3)], ["26000", "25P02"]),
        ([query("BEGIN"), READY, parse("a", "SELECT 1") + parse("a", "SELECT 1") + SYNC, READY,
          query("COMMIT"), READY], ["42P05"]),
        ([query("BEGIN"), READY, parse("a", "SELECT 1") + SYNC + query("SELECT 1/0")
          + parse("a", "SELECT 1") + SYNC + parse("a", "ROLLBACK") + SYNC + bind("a") + SYNC,
          ready(5), query("ROLLBACK"), READY], ["22012", "25P02", "42P05", "25P02"]),
        ([run("SELECT 1") + bind("nope") + run("SELECT 2") + SYNC, READY], ["26000"]),
    ],
)  # fmt: skip
def test_rule_09_names_that_are_taken_or_unknown(both, script, expected):
    assert sqlstates(both.same(script)) == expected


def test_rule_10_the_same_text_with_other_parameter_types_is_another_statement(both):
    both.same(
        [parse("a", "SELECT $1") + describe("S", "a") + SYNC, READY,
         parse("b", "SELECT $1", [23]) + describe("S", "b") + SYNC, READY,
         bind("a", [b"x"]) + execute() + SYNC, READY, bind("b", [b"5"]) + execute() + SYNC, READY]
    )  # fmt: skip


@pytest.mark.parametrize("as_whom", ["SET search_path = {}_side", "SET ROLE {}_side"])
def test_rule_10_the_same_text_under_another_search_path_is_another_statement(both, as_whom):
    """By its role, too: that is what $user in the path means."""
    both.sql(
        "DROP SCHEMA IF EXISTS left_side, right_side CASCADE;"
        "DROP ROLE IF EXISTS left_side, right_side; CREATE ROLE left_side; CREATE ROLE right_side;"
        "CREATE SCHEMA left_side AUTHORIZATION left_side;"
        "CREATE SCHEMA right_side AUTHORIZATION right_side;"
        # A server makes plans anew where the path is another one, but not for other columns.
        "CREATE TABLE left_side.here AS SELECT 'left' AS it;"
        "CREATE TABLE right_side.here AS SELECT 2 AS it;"
        "ALTER TABLE left_side.here OWNER TO left_side;"
        "ALTER TABLE right_side.here OWNER TO right_side"
    )
    values = {"left": b"left", "right": b"2"}
    clients = {side: both.through() for side in values}
    for side, peer in clients.items():
        peer.ask(query(as_whom.format(side)))
        peer.ask(parse("n", "SELECT it FROM here") + SYNC)
    for _ in range(3):
        for side, peer in clients.items():
            # In a transaction nothing can be tried again unseen.
            peer.ask(query("BEGIN"))
            for data in (
                bind("n") + execute() + SYNC,
                parse("", "SELECT it FROM here") + bind() + execute() + SYNC,
            ):
                assert [frame.values for frame in peer.ask(data) if frame.tag == b"D"] == [
                    [values[side]]
                ]
            peer.ask(query("COMMIT"))
    for peer in clients.values():
        peer.socket.close()


def test_rule_10_more_statements_than_a_connection_keeps(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    for both in make_differential(
        workspace, primary, standby, "rules-few", pool={"size": 1, "max_prepared_statements": 3}
    ):
        one_batch = b"".join(parse(f"s{n}", f"SELECT {n}") for n in range(10))
        runs = b"".join(bind(f"s{n}") + execute() for n in range(10))
        both.same([one_batch + runs + SYNC + runs + SYNC, ready(2)])
        with both.through() as peer:
            peer.ask(parse("one more", "SELECT 'one more'") + SYNC)
            count = int(peer.value("SELECT count(*) FROM pg_prepared_statements"))
            assert count <= 3
        with both.through() as peer:
            for name in ("b", "a", "other", "yet another"):
                peer.ask(parse(name, f"SELECT '{name}'") + SYNC)
            # There is no place for b, and a is the oldest; in a transaction no error stays unseen.
            peer.ask(query("BEGIN"))
            frames = peer.ask(query("EXECUTE a; EXECUTE b"))
            assert [frame.values for frame in frames if frame.tag == b"D"] == [[b"a"], [b"b"]]


def test_rule_10_named_statements_are_there_on_every_connection(both):
    with both.through() as peer:
        assert tags_of(peer, parse("a", "SELECT 7 AS seven") + SYNC) == b"1Z"
        with Elsewhere(both, peer) as elsewhere:
            assert tags_of(peer, bind("a") + execute() + SYNC) == b"2DCZ"
            assert tags_of(peer, describe("S", "a") + SYNC) == b"tTZ"
            elsewhere.after()
        with Elsewhere(both, peer) as elsewhere:
            assert tags_of(peer, describe("S", "a") + bind("a") + execute() + FLUSH + SYNC) == (
                b"tT2DCZ"
            )
            elsewhere.after()


def test_rule_12_prepared_statements_survive_a_rollback(both):
    both.same(
        [query("BEGIN"), READY, parse("a", "SELECT 1") + SYNC, READY, query("ROLLBACK"), READY,
         bind("a") + execute() + SYNC, READY]
    )  # fmt: skip
    both.same(
        [query("BEGIN"), READY, parse("a", "SELECT 1") + SYNC, READY, query("SELECT 1/0"), READY,
         query("ROLLBACK"), READY, parse("a", "SELECT 1") + SYNC, READY, bind("a") + execute()
         + SYNC, READY]
    )  # fmt: skip
    both.same(
        [query("BEGIN"), READY, parse("a", "SELECT 1") + SYNC, READY, close("S", "a") + SYNC, READY,
         query("ROLLBACK"), READY, bind("a") + SYNC, READY]
    )  # fmt: skip


def changed_table(both: Differential, name: str) -> None:
    both.sql(f"DROP TABLE IF EXISTS {name}; CREATE TABLE {name} AS SELECT 1 AS a")


# A read that fails is run again on the primary for other reasons as well.
@pytest.mark.parametrize("sql", ["SELECT * FROM changing", "SELECT * FROM changing FOR UPDATE"])
@pytest.mark.parametrize("other_client", [True, False])
def test_rule_13_a_statement_is_prepared_again_after_ddl(both, other_client, sql):
    changed_table(both, "changing")
    with both.through() as peer:
        peer.ask(parse("c", sql) + SYNC)
        peer.ask(bind("c") + execute() + SYNC)
        ddl = "ALTER TABLE changing ADD COLUMN b int DEFAULT 2"
        if other_client:
            both.sql(ddl)
        else:
            peer.ask(query(ddl))
        frames = peer.ask(bind("c") + describe("P") + execute() + SYNC)
        assert b"".join(frame.tag for frame in frames) == b"2TDCZ"
        (row,) = [frame for frame in frames if frame.tag == b"D"]
        assert row.values == [b"1", b"2"]


def test_rule_13_inside_a_transaction_the_error_is_the_clients(both):
    changed_table(both, "changing_inside")
    script = [
        parse("c", "SELECT * FROM changing_inside") + SYNC, READY, bind("c") + execute() + SYNC,
        READY, query("BEGIN"), READY, query("ALTER TABLE changing_inside ADD COLUMN b int"), READY,
        bind("c") + execute() + SYNC, READY, query("ROLLBACK"), READY,
        bind("c") + execute() + SYNC, READY,
    ]  # fmt: skip
    assert sqlstates(both.same(script)) == ["0A000"]


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize(
    ("ddl", "codes"),
    [
        ("ALTER TABLE {} ALTER COLUMN a TYPE text", ["0A000"]),
        ("ALTER TABLE {} ADD COLUMN b int", ["0A000"]),
        ("ALTER TABLE {} RENAME COLUMN a TO b", ["0A000"]),
        ("CREATE INDEX ON {} (a)", []),
        ("DROP TABLE {}", ["42P01"]),
    ],
)
def test_rule_13_columns_that_were_described_are_not_misread_elsewhere(
    both, ddl, codes, in_transaction
):
    """The new connection has never seen the old plan, and would answer with the new columns."""
    # A name of its own: a table made anew behind the proxy's back is another matter.
    table = f"described_{zlib.crc32(ddl.encode())}_{in_transaction:d}"
    changed_table(both, table)
    with both.through() as peer:
        told = peer.ask(parse("d", f"SELECT * FROM {table}") + describe("S", "d") + SYNC)
        assert b"".join(frame.tag for frame in told) == b"1tTZ"
        with Elsewhere(both, peer) as elsewhere:
            peer.ask(query(ddl.format(table)))
            if in_transaction:
                peer.ask(query("BEGIN"))
            frames = peer.ask(bind("d") + execute() + SYNC)
            assert sqlstates([frame.normal() for frame in frames]) == codes
            values = [frame.values for frame in frames if frame.tag == b"D"]
            assert values == ([] if codes else [[b"1"]])
            assert frames[-1].body == ((b"E" if codes else b"T") if in_transaction else b"I")
            peer.ask(query("ROLLBACK"))
            # Prepared anew, as drivers do then, it is a statement of now.
            again = peer.ask(parse("n", f"SELECT * FROM {table}") + describe("S", "n") + SYNC)
            if codes != ["42P01"]:
                assert sqlstates([frame.normal() for frame in again]) == []
                tags = b"".join(frame.tag for frame in peer.ask(bind("n") + execute() + SYNC))
                assert tags == b"2DCZ"
            elsewhere.after()
    both.usable()


def test_rule_13_a_write_whose_columns_have_changed_is_not_executed(both):
    changed_table(both, "described")
    with both.through() as peer:
        text = "INSERT INTO described VALUES (5) RETURNING *"
        peer.ask(parse("w", text) + describe("S", "w") + SYNC)
        with Elsewhere(both, peer):
            peer.ask(query("ALTER TABLE described ADD COLUMN b int"))
            frames = peer.ask(run("SELECT 1") + bind("w") + execute() + run("SELECT 2") + SYNC)
            assert b"".join(frame.tag for frame in frames) == b"12TDCEZ"
    assert both.row("SELECT count(*) FROM described") == (1,)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([query("BEGIN") + parse("", "SELECT * FROM generate_series(1, 5)")
                      + bind(portal="p") + execute("p", 2) + SYNC, ready(2), execute("p", 2) + SYNC,
                      READY, run("SELECT 'between'") + SYNC, READY, execute("p", 2) + SYNC, READY,
                      execute("p", 2) + SYNC, READY, query("COMMIT"), READY, execute("p") + SYNC,
                      READY], id="in a transaction"),
        pytest.param([parse("", "SELECT * FROM generate_series(1, 5)") + bind(portal="p")
                      + execute("p", 2) + execute("p", 2) + SYNC, READY, execute("p", 2) + SYNC,
                      READY], id="to the Sync outside one"),
        pytest.param([parse("", "SELECT * FROM generate_series(1, 5)") + bind() + execute("", 2)
                      + FLUSH, Until(b"s"), execute("", 2) + FLUSH, Until(b"s"), execute("", 2)
                      + FLUSH, Until(b"C"), SYNC, READY], id="over Flushes"),
        pytest.param([parse("g", "SELECT * FROM generate_series(1, 5)") + SYNC, READY, query("BEGIN"),
                      READY, bind("g", portal="p") + bind("g", portal="q") + execute("p", 1)
                      + execute("q", 3) + SYNC, READY, execute("p", 1) + close("P", "p")
                      + describe("P", "q") + SYNC, READY, execute("p") + SYNC, READY,
                      query("ROLLBACK"), READY], id="two of one statement"),
        pytest.param([query("BEGIN"), READY, query("DECLARE c CURSOR FOR SELECT 1"), READY,
                      describe("P", "c") + execute("c", 1) + SYNC, READY, query("CLOSE c"), READY,
                      bind("nope", portal="c") + SYNC, READY, query("COMMIT"), READY],
                     id="an SQL cursor is a portal"),
        pytest.param([query("BEGIN") + parse("", "SELECT 1") + bind(portal="p") + SYNC
                      + bind(portal="p") + SYNC, ready(3), query("ROLLBACK"), READY],
                     id="a name twice"),
        pytest.param([parse("", "INSERT INTO item VALUES (950) RETURNING id") + bind()
                      + execute("", 1) + SYNC, READY, query("DELETE FROM item WHERE id = 950"),
                      READY], id="of a write"),
    ],
)  # fmt: skip
def test_rule_14_portals(both, script):
    both.same(script)


def test_rule_14_a_suspended_portal_keeps_its_connection(both):
    with both.through() as peer, both.through() as other:
        peer.ask(query("BEGIN"))
        held = peer.pid()
        peer.ask(parse("", "SELECT * FROM generate_series(1, 9)") + bind(portal="p")
                 + execute("p", 3) + SYNC)  # fmt: skip
        for _ in range(4):
            assert other.pid() != held
        assert tags_of(peer, execute("p", 3) + SYNC) == b"DDDsZ"
        assert peer.pid() == held
