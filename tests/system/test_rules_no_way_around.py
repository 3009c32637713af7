"""
No way around the hooks: every way to run SQL, on both protocols, past a plugin that blocks a word.

Raw messages, so that each way is really the one that it says, and the answers are seen to the byte.
"""

import struct
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.rule_plugin import Rules, put_rules
from tests.support.system import RunningProxy, wait_until
from tests.system.differential import (
    COPY_DONE,
    FLUSH,
    READY,
    SYNC,
    Differential,
    Frame,
    Peer,
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

BLOCK: Rules = [("blockme", {"action": "block", "value": "not this"})]
MARK = "INSERT INTO marked VALUES ('blockme')"
FUNCTION_CALL = message(b"F", struct.pack("!IHHHiiH", 1397, 1, 1, 1, 4, -7, 1))  # int4abs


def put_gate(running: RunningProxy) -> None:
    put_rules(running, "gate", {"pre_query": BLOCK}, ("query.block",), spies=False)


@pytest.fixture(scope="module")
def gated_proxy(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    for both in make_differential(
        workspace, primary, standby, "rules-gate", put_gate, plugins={"watch": False}
    ):
        make_table(both)
        yield both


@pytest.fixture
def gated(gated_proxy: Differential) -> Differential:
    make_table(gated_proxy)
    return gated_proxy


def make_table(both: Differential) -> None:
    both.sql("DROP TABLE IF EXISTS marked; CREATE TABLE marked (it text)")


def codes(frames: list[Frame]) -> list[str]:
    return sqlstates([frame.normal() for frame in frames])


def tags(frames: list[Frame]) -> bytes:
    return b"".join(frame.tag for frame in frames)


def assert_blocked(both: Differential, peer: Peer, data: bytes, until: Until = READY) -> None:
    frames = peer.ask(data, until)
    errors = [frame for frame in frames if frame.tag == b"E"]
    assert [frame.fields["C"] for frame in errors] == ["42000"], tags(frames)
    assert errors[0].fields["M"] == "Query blocked by plugin: not this"
    assert errors[0].fields["S"] == "ERROR"
    if until is READY:
        assert frames[-1].body == b"I"
        assert both.row("SELECT count(*) FROM marked") == (0,)
        assert peer.value("SELECT 'in step'") == "in step"


@pytest.mark.parametrize(
    "text",
    [
        MARK,
        f"  \n\t/* a /* nested */ comment */ -- another\n {MARK}",
        f"{MARK.lower()}",
        f"SELECT 1; {MARK}",
        f"{MARK}; SELECT 1",
        f"INSERT INTO marked VALUES ('ok'); COMMIT; {MARK}",
        f"BEGIN; INSERT INTO marked VALUES ('ok'); COMMIT; {MARK}",
        "PREPARE p AS " + MARK,
        f"PREPARE p AS {MARK}; EXECUTE p",
        f"EXPLAIN ANALYZE {MARK}",
        f"EXPLAIN (ANALYZE, COSTS OFF) {MARK}",
        f"DO $$ BEGIN {MARK}; END $$",
        f"CREATE FUNCTION pg_temp.f() RETURNS void LANGUAGE sql AS $$ {MARK} $$",
        f"COPY ({MARK} RETURNING 1) TO STDOUT",
        "COPY (SELECT 'blockme') TO STDOUT",
        "COPY marked FROM PROGRAM 'echo blockme'",
        f"WITH x AS ({MARK} RETURNING 1) SELECT * FROM x",
        "BEGIN; DECLARE c CURSOR FOR SELECT 'blockme'; COMMIT",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 'blockme'",
        "CREATE TABLE pg_temp.x AS SELECT 'blockme'",
        "SELECT 'blockme' INTO pg_temp.x",
        "CREATE RULE r AS ON INSERT TO marked DO ALSO SELECT 'blockme'",
        "SELEC blockme",
        f"{MARK} SYNTAX OF THE FUTURE",
        "CALL blockme()",
        "SELECT U&'\\0062lockme', 'blockme'",
        "LISTEN blockme",
        "SET search_path = blockme",
        f"SELECT 1;;; /* */ ; {MARK} ;;",
        "SELECT '" + "x" * 60_000 + "blockme'",
    ],
    ids=lambda text: text[:60],
)
def test_a_text_is_judged_whichever_it_is(gated, text):
    with gated.through() as peer:
        assert_blocked(gated, peer, query(text))
        if ";" not in text or text.startswith(("DO", "CREATE")):
            assert_blocked(gated, peer, run(text) + SYNC)
            assert_blocked(gated, peer, parse("named", text) + SYNC)
            assert_blocked(gated, peer, parse("named", text) + FLUSH, Until(b"E"))
            assert tags(peer.ask(SYNC)) == b"Z"


def test_a_text_is_judged_where_the_parser_cannot_be_trusted(gated):
    with gated.through() as peer:
        peer.ask(query("SET standard_conforming_strings = off"))
        assert_blocked(gated, peer, query(r"SELECT '\'; SELECT 1 --', 'blockme'"))
        assert_blocked(gated, peer, query(MARK))
        assert_blocked(gated, peer, run(MARK) + SYNC)
    with gated.through(client_encoding="SJIS") as peer:
        assert_blocked(gated, peer, query(MARK))
        assert_blocked(gated, peer, run(MARK) + SYNC)


def test_nothing_runs_before_all_of_a_query_is_allowed(gated):
    with gated.through() as peer:
        frames = peer.ask(query(f"CREATE TABLE pg_temp.made (); SELECT 'seen'; COMMIT; {MARK}"))
        assert tags(frames) == b"EZ"
        assert peer.value("SELECT to_regclass('pg_temp.made') IS NULL") == "t"


def test_inside_a_transaction_a_block_is_an_error_like_any_other(gated):
    for data in (query(MARK), run(MARK) + SYNC, parse("n", MARK) + SYNC):
        with gated.through() as peer:
            peer.ask(query("BEGIN; INSERT INTO marked VALUES ('before')"))
            frames = peer.ask(data)
            assert codes(frames) == ["42000"]
            assert frames[-1].body == b"E"
            assert codes(peer.ask(query("SELECT 1"))) == ["25P02"]
            assert codes(peer.ask(run("SELECT 1") + SYNC)) == ["25P02"]
            frames = peer.ask(query("COMMIT"))
            assert frames[0].body == b"ROLLBACK\0"
            assert frames[-1].body == b"I"
    assert gated.row("SELECT count(*) FROM marked") == (0,)


def test_inside_a_transaction_a_savepoint_rescues_from_a_block(gated):
    with gated.through() as peer:
        peer.ask(query("BEGIN; SAVEPOINT s"))
        assert codes(peer.ask(query(MARK))) == ["42000"]
        assert tags(peer.ask(query("ROLLBACK TO s"))) == b"CZ"
        assert peer.value("SELECT 'rescued'") == "rescued"
        assert peer.ask(query("COMMIT"))[0].body == b"COMMIT\0"


def test_in_a_pipeline_what_came_before_stands_and_what_follows_is_skipped(gated):
    gated.sql("TRUNCATE marked")
    insert = "INSERT INTO marked VALUES ('{}')"
    with gated.through() as peer:
        data = (
            run(insert.format("first group")) + SYNC
            + run(insert.format("same group")) + run("SELECT 'seen'") + run(MARK)
            + run("SELECT 'skipped'") + SYNC
            + run(insert.format("next group")) + SYNC
        )  # fmt: skip
        frames = peer.ask(data, ready(3))
        # PostgreSQL rolls the implicit transaction of a group back when one of it fails.
        assert tags(frames) == b"12nCZ" + b"12nC" + b"12TDC" + b"EZ" + b"12nCZ"
        assert codes(frames) == ["42000"]
    rows = gated.admin.execute("SELECT it FROM marked ORDER BY it").fetchall()
    assert rows == [("first group",), ("next group",)]
    gated.sql("TRUNCATE marked")


def test_behind_messages_without_sync_a_query_is_judged(gated):
    with gated.through() as peer:
        assert_blocked(gated, peer, parse("ok", "SELECT 1") + query(MARK))
        frames = peer.ask(run("SELECT 1") + query(MARK))
        assert tags(frames) == b"12TDCEZ"
        frames = peer.ask(run(MARK) + query("SELECT 1") + SYNC)
        assert tags(frames) == b"EZ"


def test_behind_a_copy_that_fails_a_query_is_judged(gated):
    """A server that has given the COPY up takes any message, before that is known to the proxy."""
    with gated.through() as peer:
        peer.ask(query("COPY item FROM STDIN"), Until(b"G"))
        frames = peer.ask(copy_data(b"no number\n") + query(MARK), ready(2))
        assert codes(frames) == ["22P02", "42000"]
        assert gated.row("SELECT count(*) FROM marked") == (0,)


def test_rule_35_a_nul_hides_nothing(gated):
    with gated.through() as peer:
        assert codes(peer.ask(query(f"SELECT 1\0; {MARK}"))) == ["08P01"]
        assert codes(peer.ask(parse("", f"SELECT 1\0; {MARK}") + bind() + execute() + SYNC)) == [
            "08P01"
        ]
    assert gated.row("SELECT count(*) FROM marked") == (0,)


def test_a_reserved_name_runs_nothing(gated):
    with gated.through() as peer:
        peer.ask(parse("s", "SELECT 1") + bind("s") + execute() + SYNC)
        for number in range(1, 20):
            assert codes(peer.ask(query(f"EXECUTE headgate_{number}"))) == ["26000"]
            assert codes(peer.ask(query(f"EXPLAIN ANALYZE EXECUTE headgate_{number}"))) == ["26000"]
            assert codes(peer.ask(run(f"EXECUTE headgate_{number}") + SYNC)) == ["26000"]


class Late:
    """A proxy without plugins, until `arrive`."""

    def __init__(self, both: Differential) -> None:
        self.both = both

    def arrive(self, hook: Rules | None = None) -> None:
        rules = BLOCK if hook is None else hook
        put_rules(
            self.both.proxy, "late", {"pre_query": rules},
            ("query.block", "query.rewrite", "query.answer"), spies=False,
        )  # fmt: skip
        wait_until(lambda: self.status() == "active", what="the plugin")

    def leave(self) -> None:
        for suffix in (".wasm", ".toml"):
            (self.both.proxy.plugin_dir / f"late{suffix}").unlink(missing_ok=True)
        wait_until(lambda: self.status() == "", what="no plugin")

    def status(self) -> str:
        code, body = self.both.proxy.api("GET", "/api/plugins/late")
        return str(body["status"]) if code == 200 else ""


@pytest.fixture(scope="module")
def late_proxy(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    for both in make_differential(
        workspace, primary, standby, "rules-late", plugins={"watch": True}
    ):
        make_table(both)
        yield both


@pytest.fixture
def late(late_proxy: Differential) -> Iterator[Late]:
    made = Late(late_proxy)
    make_table(late_proxy)
    yield made
    made.leave()


def test_what_was_prepared_before_a_plugin_came_is_judged_at_each_execution(late):
    both = late.both
    with both.through() as peer, both.through() as pinned:
        peer.ask(parse("named", MARK) + SYNC)
        peer.ask(parse("marker", "SELECT $1 || 'blockme'") + SYNC)
        pinned.ask(query("PREPARE p AS " + MARK))
        pinned.ask(query("PREPARE harmless AS SELECT 1"))
        pinned.ask(parse("", MARK) + SYNC)
        late.arrive()
        for _ in range(2):
            assert_blocked(both, peer, bind("named") + execute() + SYNC)
            assert_blocked(both, peer, query("EXECUTE named"))
            assert_blocked(both, peer, run("EXECUTE named") + SYNC)
            assert_blocked(both, pinned, query("EXPLAIN ANALYZE EXECUTE p"))
            assert_blocked(both, pinned, query("SELECT 1; EXECUTE p"))
            assert_blocked(both, pinned, query("CREATE TABLE pg_temp.x AS EXECUTE p"))
            assert_blocked(both, pinned, run("EXECUTE p") + SYNC)
            assert_blocked(both, pinned, bind("p") + execute() + SYNC)
        # A PREPARE that fails changes nothing about what the name runs.
        assert codes(pinned.ask(query("PREPARE p AS SELECT 1"))) == ["42P05"]
        assert_blocked(both, pinned, query("EXECUTE p"))
        assert codes(pinned.ask(query("SELECT 1/0; DEALLOCATE p"))) == ["22012"]
        assert_blocked(both, pinned, query("EXECUTE p"))
        assert codes(pinned.ask(query("PREPARE p AS SELECT 1; EXECUTE p"))) == ["42000"]
        assert pinned.value("EXECUTE harmless") == "1"
        assert codes(pinned.ask(query("DEALLOCATE p"))) == []
        assert codes(pinned.ask(query("PREPARE p AS SELECT 2"))) == []
        assert pinned.value("EXECUTE p") == "2"


def test_the_unnamed_statement_from_before_a_plugin_came_is_judged(late):
    both = late.both
    with both.through() as peer:
        peer.ask(parse("", MARK) + SYNC)
        late.arrive()
        frames = peer.ask(bind() + execute() + SYNC)
        assert codes(frames) == ["42000"]
        peer.ask(query("BEGIN"))
        frames = peer.ask(bind() + execute() + SYNC)
        assert codes(frames) == ["26000"]


def test_what_a_function_prepared_is_judged(late):
    both = late.both
    both.sql(
        "CREATE OR REPLACE FUNCTION run_it(text) RETURNS void LANGUAGE plpgsql"
        " AS $$ BEGIN EXECUTE $1; END $$"
    )
    with both.through() as peer:
        peer.ask(query("SELECT run_it('PREPARE hidden AS INSERT INTO marked VALUES (''block' ||"
                       " 'me'')')"))  # fmt: skip
        late.arrive()
        assert_blocked(both, peer, query("EXECUTE hidden"))
        assert_blocked(both, peer, bind("hidden") + execute() + SYNC)


def test_an_open_cursor_of_before_is_read_on(late):
    both = late.both
    with both.through() as peer:
        peer.ask(query("BEGIN; DECLARE c CURSOR FOR SELECT 'blockme' FROM generate_series(1, 3)"))
        peer.ask(query("FETCH c"))
        late.arrive()
        # FETCH names no text; it is a statement of its own, and judged as that.
        assert codes(peer.ask(query("FETCH c"))) == []
        assert codes(peer.ask(query("FETCH c /* blockme */"))) == ["42000"]


def test_a_plugin_that_goes_takes_its_policy_with_it(late):
    both = late.both
    with both.through() as peer:
        peer.ask(parse("named", MARK) + SYNC)
        late.arrive()
        assert_blocked(both, peer, bind("named") + execute() + SYNC)
        late.leave()
        assert tags(peer.ask(bind("named") + execute() + SYNC)) == b"2CZ"
        assert both.row("SELECT count(*) FROM marked") == (1,)


def test_function_calls_are_judged(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    def put(running: RunningProxy) -> None:
        rules: Rules = [('"kind":"function_call"', {"action": "block", "value": "not this"})]
        put_rules(running, "calls", {"pre_query": rules}, ("query.block",), spies=False)

    for both in make_differential(
        workspace, primary, standby, "rules-calls", put, plugins={"watch": False}
    ):
        make_table(both)
        with both.through() as peer:
            assert_blocked(both, peer, FUNCTION_CALL)
            assert tags(peer.ask(run("SELECT 1") + FUNCTION_CALL)) == b"12TDCEZ"
            peer.ask(query("BEGIN"))
            assert peer.ask(FUNCTION_CALL)[-1].body == b"E"
            assert codes(peer.ask(query("SELECT 1"))) == ["25P02"]


DELETES = [
    "DELETE FROM marked", "/* x */ dElEtE\nFROM marked", "EXPLAIN ANALYZE DELETE FROM marked",
    "WITH gone AS (DELETE FROM marked RETURNING *) SELECT * FROM gone",
    "COPY (DELETE FROM marked RETURNING it) TO STDOUT", "PREPARE d AS DELETE FROM marked",
    "SELECT 1; DELETE FROM marked; SELECT 2", ";;DELETE FROM marked;",
    "MERGE INTO marked USING item ON true WHEN MATCHED THEN DELETE",
    "EXPLAIN (ANALYZE) WITH x AS (DELETE FROM marked RETURNING 1) SELECT 1",
]  # fmt: skip


def test_a_filter_on_kinds_is_not_walked_around(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    def put(running: RunningProxy) -> None:
        rules: Rules = [("", {"action": "block", "value": "not this"})]
        put_rules(
            running, "deletes", {"pre_query": rules}, ("query.block",), spies=False,
            more='[match]\nkinds = ["delete"]',
        )  # fmt: skip

    for both in make_differential(
        workspace, primary, standby, "rules-kinds", put, plugins={"watch": False}
    ):
        make_table(both)
        both.sql("INSERT INTO marked VALUES ('kept')")
        with both.through() as peer:
            for text in DELETES:
                assert codes(peer.ask(query(text))) == ["42000"], text
                if ";" not in text:
                    assert codes(peer.ask(run(text) + SYNC)) == ["42000"], text
            assert peer.value("SELECT it FROM marked") == "kept"
            assert tags(peer.ask(query("COPY marked FROM STDIN"), Until(b"G"))) == b"G"
            assert tags(peer.ask(copy_data(b"DELETE\n") + COPY_DONE)) == b"CZ"
            assert tags(peer.ask(describe("S") + SYNC)) == b"EZ"
