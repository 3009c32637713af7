"""What plugins answer besides a block, to the byte: rows, other texts, routes; on both protocols."""

import struct
from collections.abc import Iterator
from functools import partial

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.rule_plugin import Rules, put_rules
from tests.support.system import RunningProxy, wait_until
from tests.system.differential import (
    FLUSH,
    SYNC,
    Differential,
    Frame,
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

ROWS = {
    "columns": [{"name": "n", "oid": 23}, {"name": "t"}, {"name": "b", "oid": 16}],
    "rows": [["7", "seven", "t"], ["-1", None, "f"]],
}
ARRAY = {"columns": [{"name": "n", "oid": 1007}], "rows": [["{1}"]]}
EMPTY = {"columns": [{"name": "n"}], "rows": []}
PRE_QUERY: Rules = [
    ("answer rows", {"action": "cached", "data": ROWS}),
    ("answer array", {"action": "cached", "data": ARRAY}),
    ("answer nothing", {"action": "cached", "data": EMPTY}),
    ("rewrite me", {"action": "rewrite", "value": "SELECT 'rewritten'"}),
    ("rewrite parameter", {"action": "rewrite", "value": "SELECT $1::int * 100"}),
    ("rewrite into two", {"action": "rewrite", "value": "SELECT 1; SELECT 2"}),
    ("rewrite into nonsense", {"action": "rewrite", "value": "SELEC nonsense"}),
]
ROUTE: Rules = [
    ("to the standby", {"action": "standby"}),
    ("to the primary", {"action": "primary"}),
    ("to node pg2", {"action": "node", "target": "pg2"}),
    ("to node nowhere", {"action": "node", "target": "nowhere"}),
    ("to branch dev", {"action": "branch", "target": "dev"}),
    ("to nobody", {"action": "block", "reason": "not today"}),
]


def put_answers(running: RunningProxy) -> None:
    put_rules(
        running, "answers", {"pre_query": PRE_QUERY, "route": ROUTE},
        ("query.block", "query.rewrite", "query.answer", "route.decide"), spies=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    yield from make_differential(
        workspace, primary, standby, "rules-answers", put_answers, plugins={"watch": False},
        branches={"dev": {"database": "postgres", "nodes": ["pg1"]}},
    )  # fmt: skip


def is_loaded(running: RunningProxy, name: str) -> bool:
    status, body = running.api("GET", f"/api/plugins/{name}")
    return status == 200 and body["status"] == "active"


def tags(frames: list[Frame]) -> bytes:
    return b"".join(frame.tag for frame in frames)


def rows(frames: list[Frame]) -> list[list[bytes | None]]:
    return [frame.values for frame in frames if frame.tag == b"D"]


def codes(frames: list[Frame]) -> list[str]:
    return sqlstates([frame.normal() for frame in frames])


TEXT_ROWS = [[b"7", b"seven", b"t"], [b"-1", None, b"f"]]


def described(frame: Frame) -> list[tuple[bytes, int, int, int]]:
    """Name, type, size and format of each column."""
    (count,) = struct.unpack_from("!H", frame.body)
    found = []
    pos = 2
    for _ in range(count):
        end = frame.body.index(0, pos)
        oid, size, _, code = struct.unpack_from("!IhiH", frame.body, end + 7)
        found.append((frame.body[pos:end], oid, size, code))
        pos = end + 19
    return found


def test_rows_by_the_simple_protocol(both):
    with both.through() as peer:
        frames = peer.ask(query("SELECT 'answer rows'"))
        assert tags(frames) == b"TDDCZ"
        assert rows(frames) == TEXT_ROWS
        assert described(frames[0]) == [(b"n", 23, 4, 0), (b"t", 25, -1, 0), (b"b", 16, 1, 0)]
        assert frames[3].body == b"SELECT 2\0"
        assert tags(peer.ask(query("SELECT 'answer nothing'"))) == b"TCZ"
        assert rows(peer.ask(query("SELECT 'answer array'"))) == [[b"{1}"]]


def test_rows_among_other_statements_stay_in_their_place(both):
    with both.through() as peer:
        frames = peer.ask(query("SELECT 1; SELECT 'answer rows'; SELECT 3"))
        assert tags(frames) == b"TDCTDDCTDCZ"
        assert rows(frames) == [[b"1"], *TEXT_ROWS, [b"3"]]
        frames = peer.ask(query("SELECT 'answer rows'; SELECT 1/0"))
        assert codes(frames) == ["22012"]
        frames = peer.ask(query("BEGIN; SELECT 'answer rows'"))
        assert frames[-1].body == b"T"
        frames = peer.ask(query("SELECT 'answer rows'"))
        assert (rows(frames), frames[-1].body) == (TEXT_ROWS, b"T")
        peer.ask(query("SELECT 1/0"))
        assert peer.ask(query("SELECT 'in the failed one'"))[-1].body == b"E"


def test_rows_by_the_extended_protocol(both):
    with both.through() as peer:
        frames = peer.ask(run("SELECT 'answer rows'") + SYNC)
        assert tags(frames) == b"12TDDCZ"
        assert rows(frames) == TEXT_ROWS
        peer.ask(parse("named", "SELECT 'answer rows'") + SYNC)
        for _ in range(2):
            assert tags(peer.ask(describe("S", "named") + SYNC)) in (b"tTZ", b"EZ")
            frames = peer.ask(bind("named") + describe("P") + execute() + SYNC)
            assert tags(frames) == b"2TDDCZ"
            assert rows(frames) == TEXT_ROWS
        # Bind, Describe and Execute come one by one, each with its Flush.
        peer.send(parse("", "SELECT 'answer rows'") + describe("S") + FLUSH)
        peer.wait(Until(b"T"))
        frames = peer.ask(bind() + execute() + SYNC)
        assert tags(frames) == b"2DDCZ"
        assert tags(peer.ask(close("S", "named") + SYNC)) == b"3Z"


def test_rows_message_by_message(both):
    with both.through() as peer:
        for data, until in (
            (parse("", "SELECT 'answer rows'") + FLUSH, Until(b"1")),
            (bind(portal="p") + FLUSH, Until(b"2")),
            (describe("P", "p") + FLUSH, Until(b"T")),
            (execute("p") + FLUSH, Until(b"C")),
        ):
            peer.send(data)
            peer.wait(until)
        assert tags(peer.frames) == b"12TDDC"
        # The same portal name again, of a statement that the server runs.
        frames = peer.ask(close("P", "p") + parse("", "SELECT 1") + bind(portal="p")
                          + execute("p") + SYNC)  # fmt: skip
        assert tags(frames) == b"312DCZ"


def test_rows_in_binary(both):
    with both.through() as peer:
        data = parse("", "SELECT 'answer rows'") + bind(results=[1]) + describe("P") + execute()
        frames = peer.ask(data + SYNC)
        assert described(frames[2]) == [(b"n", 23, 4, 1), (b"t", 25, -1, 1), (b"b", 16, 1, 1)]
        assert rows(frames) == [
            [b"\0\0\0\x07", b"seven", b"\x01"],
            [b"\xff\xff\xff\xff", None, b"\0"],
        ]
        data = parse("", "SELECT 'answer rows'") + bind(results=[1, 0, 0]) + execute() + SYNC
        assert rows(peer.ask(data))[0] == [b"\0\0\0\x07", b"seven", b"t"]
        # A type that cannot be sent in binary is refused, never sent wrongly.
        data = parse("", "SELECT 'answer array'") + bind(results=[1]) + execute() + SYNC
        frames = peer.ask(data)
        assert codes(frames) == ["0A000"]
        assert peer.value("SELECT 'in step'") == "in step"


def test_rows_in_a_pipeline(both):
    with both.through() as peer:
        frames = peer.ask(
            run("SELECT 1") + run("SELECT 'answer rows'") + run("SELECT 3") + SYNC
            + run("SELECT 'answer rows'") + run("SELECT 1/0") + SYNC
            + run("SELECT 'answer rows'") + query("SELECT 4"),
            ready(3),
        )  # fmt: skip
        assert tags(frames) == (
            b"12TDC" b"12TDDC" b"12TDCZ" b"12TDDC" b"1EZ" b"12TDDC" b"TDCZ"
        )  # fmt: skip
        assert rows(frames)[:4] == [[b"1"], *TEXT_ROWS, [b"3"]]


def test_another_text_by_the_simple_protocol(both):
    with both.through() as peer:
        assert rows(peer.ask(query("SELECT 'rewrite me'"))) == [[b"rewritten"]]
        frames = peer.ask(query("SELECT 1; SELECT 'rewrite me'; SELECT 3"))
        assert rows(frames) == [[b"1"], [b"rewritten"], [b"3"]]
        # One statement stands for one: anything else is a failed call of the plugin.
        assert codes(peer.ask(query("SELECT 'rewrite into two'"))) == ["58000"]
        assert codes(peer.ask(query("SELECT 'rewrite into nonsense'"))) == ["42601"]
        frames = peer.ask(query("BEGIN; SELECT 'rewrite me'"))
        assert (rows(frames), frames[-1].body) == ([[b"rewritten"]], b"T")


def test_another_text_by_the_extended_protocol(both):
    with both.through() as peer:
        assert rows(peer.ask(run("SELECT 'rewrite me'") + SYNC)) == [[b"rewritten"]]
        peer.ask(parse("named", "SELECT 'rewrite me'") + SYNC)
        for _ in range(2):
            assert rows(peer.ask(bind("named") + execute() + SYNC)) == [[b"rewritten"]]
            assert rows(peer.ask(query("EXECUTE named"))) == [[b"rewritten"]]
            frames = peer.ask(describe("S", "named") + SYNC)
            assert described(frames[1])[0][1] == 25
        data = parse("p", "SELECT $1::int /* rewrite parameter */") + bind("p", [b"5"]) + execute()
        assert rows(peer.ask(data + SYNC)) == [[b"500"]]
        assert rows(peer.ask(bind("p", [b"6"]) + execute() + SYNC)) == [[b"600"]]
        frames = peer.ask(run("SELECT 1") + run("SELECT 'rewrite me'") + run("SELECT 3") + SYNC)
        assert rows(frames) == [[b"1"], [b"rewritten"], [b"3"]]
        assert codes(peer.ask(run("SELECT 'rewrite into nonsense'") + SYNC)) == ["42601"]
        assert codes(peer.ask(run("SELECT 'rewrite into two'") + SYNC)) == ["58000"]


def test_another_text_for_sql_prepare(both):
    with both.through() as peer:
        # The PREPARE itself is rewritten, and then there is nothing to EXECUTE.
        assert rows(peer.ask(query("PREPARE q AS SELECT 'rewrite me'"))) == [[b"rewritten"]]
        assert codes(peer.ask(query("EXECUTE q"))) == ["26000"]


def test_a_statement_from_before_is_prepared_again_unseen(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    for both in make_differential(
        workspace, primary, standby, "rules-answers-late", plugins={"watch": True}
    ):
        with both.through() as peer:
            peer.ask(parse("named", "SELECT 'rewrite me'") + SYNC)
            peer.ask(parse("rows", "SELECT 'answer rows'") + SYNC)
            peer.ask(query("PREPARE q AS SELECT 'rewrite me'"))
            assert rows(peer.ask(bind("named") + execute() + SYNC)) == [[b"rewrite me"]]
            put_answers(both.proxy)
            wait_until(partial(is_loaded, both.proxy, "answers"))
            for _ in range(2):
                frames = peer.ask(bind("named") + describe("P") + execute() + SYNC)
                assert tags(frames) == b"2TDCZ"
                assert rows(frames) == [[b"rewritten"]]
                assert rows(peer.ask(query("EXECUTE named"))) == [[b"rewritten"]]
                assert rows(peer.ask(bind("rows") + execute() + SYNC)) == TEXT_ROWS
                # What SQL has prepared cannot be another text any more: an error, not ignored.
                assert codes(peer.ask(query("EXECUTE q"))) == ["0A000"]
                assert codes(peer.ask(bind("q") + execute() + SYNC)) == ["0A000"]
            assert peer.value("SELECT 'in step'") == "in step"


@pytest.mark.parametrize("extended", [False, True])
def test_routes(both, extended):
    def ask(text: str) -> list[Frame]:
        frames: list[Frame] = peer.ask(run(text) + SYNC if extended else query(text))
        return frames

    with both.through() as peer:
        where = "SELECT pg_is_in_recovery() /* {} */"
        assert rows(ask(where.format("to the standby"))) == [[b"t"]]
        assert rows(ask(where.format("to the primary"))) == [[b"f"]]
        assert rows(ask(where.format("to node pg2"))) == [[b"t"]]
        assert rows(ask(where.format("by default"))) == [[b"f"]]
        assert rows(ask("SELECT current_database() /* to branch dev */")) == [[b"postgres"]]
        frames = ask(where.format("to nobody"))
        assert codes(frames) == ["42000"]
        assert b"not today" in frames[0].body
        assert codes(ask(where.format("to node nowhere"))) != []
        # A write on a standby is the standby's own error.
        assert codes(ask("CREATE TABLE nope () /* to the standby */")) == ["25006"]
        assert peer.value("SELECT 'in step'") == "in step"
        # Inside a transaction there is nothing to choose.
        peer.ask(query("BEGIN; SELECT 1"))
        assert rows(ask(where.format("to the standby"))) == [[b"f"]]
        peer.ask(query("COMMIT"))
