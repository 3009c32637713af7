"""Rule 11: SQL and the protocol share the names of prepared statements."""

from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.system.differential import (
    FLUSH,
    READY,
    SYNC,
    Differential,
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

FOO = parse("foo", "SELECT $1::int + 1 AS answer") + SYNC
EXECUTE_FOO = bind("foo", [b"1"]) + execute() + SYNC


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    for differential in make_differential(workspace, primary, standby, "rules-namespace"):
        differential.sql(
            "CREATE OR REPLACE FUNCTION run_it(text) RETURNS void LANGUAGE plpgsql"
            " AS $$ BEGIN EXECUTE $1; END $$"
        )
        yield differential


@pytest.fixture
def apart(
    both: Differential, workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    """With connections of its own: what is done to them no other test shall meet."""
    yield from make_differential(workspace, primary, standby, "rules-vanished")


def each(*texts: str) -> list[bytes | Until]:
    steps: list[bytes | Until] = []
    for text in texts:
        steps += [query(text), READY]
    return steps


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(each("EXECUTE foo(41)", "EXECUTE foo(1)", "execute /* it */ \"foo\" (2)"),
                     id="EXECUTE"),
        pytest.param(each("EXECUTE foo(41); EXECUTE foo(42); SELECT 1"), id="EXECUTE twice"),
        pytest.param(each("EXPLAIN (COSTS OFF) EXECUTE foo(1)", "BEGIN",
                          "CREATE TEMP TABLE foo AS EXECUTE foo(6)", "SELECT * FROM foo",
                          "ROLLBACK"), id="EXPLAIN and CREATE TABLE AS"),
        pytest.param(each("EXECUTE foo", "EXECUTE foo('x')", "EXECUTE foo(1, 2)", "EXECUTE FOO(3)",
                          "EXECUTE \"FOO\"(3)", "EXECUTE bar"), id="EXECUTE that fails"),
        pytest.param(each("DEALLOCATE foo", "EXECUTE foo(1)", "DEALLOCATE foo"), id="DEALLOCATE"),
        pytest.param(each("DEALLOCATE PREPARE \"foo\""), id="DEALLOCATE PREPARE"),
        pytest.param(each("SELECT 1/0; DEALLOCATE foo", "EXECUTE foo(1)"),
                     id="a DEALLOCATE that never ran"),
        pytest.param(each("DEALLOCATE foo; SELECT 1/0", "EXECUTE foo(1)"),
                     id="a DEALLOCATE is not transactional"),
        pytest.param(each("BEGIN", "DEALLOCATE foo", "ROLLBACK", "EXECUTE foo(1)"),
                     id="a DEALLOCATE is not undone"),
        pytest.param(each("BEGIN", "SELECT 1/0", "DEALLOCATE foo", "EXECUTE foo(1)", "ROLLBACK",
                          "EXECUTE foo(1)"), id="in a failed transaction"),
        pytest.param(each("DEALLOCATE ALL", "EXECUTE foo(1)"), id="DEALLOCATE ALL"),
        pytest.param(each("DISCARD ALL", "EXECUTE foo(1)"), id="DISCARD ALL"),
        pytest.param(each("DISCARD PLANS", "EXECUTE foo(1)"), id="DISCARD PLANS"),
        pytest.param(each("PREPARE foo AS SELECT 'other'", "EXECUTE foo(1)"), id="PREPARE"),
        pytest.param(each("SELECT 1; PREPARE foo AS SELECT 2; SELECT 3", "EXECUTE foo(1)"),
                     id="PREPARE among others"),
        pytest.param(each("DEALLOCATE foo; PREPARE foo AS SELECT 'sql'; EXECUTE foo", "EXECUTE foo",
                          "DEALLOCATE foo"), id="from one to the other"),
        pytest.param(each("EXECUTE nothing", "DEALLOCATE nothing"), id="unknown"),
        pytest.param(each("EXECUTE headgate_1", "DEALLOCATE headgate_1"), id="the proxy's own"),
        pytest.param([run("EXECUTE foo(5)") + SYNC, READY], id="EXECUTE, extended"),
        pytest.param([parse("e", "EXECUTE foo(5)") + describe("S", "e") + SYNC + bind("e")
                      + describe("P") + execute() + SYNC, ready(2)], id="EXECUTE, named"),
        pytest.param([parse("e", "EXECUTE foo(5)") + SYNC + query("DEALLOCATE foo") + bind("e")
                      + execute() + SYNC, ready(3)], id="EXECUTE of what is gone, named"),
        pytest.param([run("DEALLOCATE foo") + SYNC, READY], id="DEALLOCATE, extended"),
        pytest.param([run("DEALLOCATE foo") + run("SELECT 1/0") + SYNC, READY],
                     id="DEALLOCATE before an error, extended"),
        pytest.param([run("SELECT 1/0") + run("DEALLOCATE foo") + SYNC, READY],
                     id="DEALLOCATE behind an error, extended"),
        pytest.param([run("DEALLOCATE foo") + FLUSH, Until(b"C"), run("SELECT 1/0") + SYNC, READY],
                     id="DEALLOCATE in an open group"),
        pytest.param([run("DEALLOCATE foo") + run("PREPARE foo AS SELECT 'sql'")
                      + run("EXECUTE foo") + SYNC, READY, *each("EXECUTE foo")],
                     id="from one to the other, extended"),
        pytest.param([run("DEALLOCATE ALL") + FLUSH, Until(b"C"),
                      run("PREPARE foo AS SELECT 'sql'") + SYNC, READY, *each("EXECUTE foo")],
                     id="from one to the other, in an open group"),
        pytest.param([run("DEALLOCATE foo") + parse("foo", "SELECT 2") + bind("foo") + execute()
                      + run("EXECUTE foo") + SYNC, READY], id="taken again in a pipeline"),
        pytest.param([parse("twin", "SELECT $1::int + 1 AS answer") + SYNC, READY, *each(
                      "DEALLOCATE foo; DEALLOCATE twin", "EXECUTE twin(1)")],
                     id="two names of one text"),
        pytest.param([parse("twin", "SELECT $1::int + 1 AS answer") + SYNC, READY,
                      run("DEALLOCATE foo") + run("EXECUTE twin(1)") + run("DEALLOCATE twin")
                      + SYNC, READY], id="two names of one text, in a pipeline"),
        pytest.param([run("EXECUTE foo(3)") + close("S", "foo") + SYNC, READY],
                     id="closed behind its use in a pipeline"),
        pytest.param([run("PREPARE p AS SELECT 3") + bind("p") + execute() + describe("S", "p")
                      + run("DEALLOCATE p") + bind("p") + SYNC, READY],
                     id="made in SQL and used in a pipeline"),
        pytest.param([run("DEALLOCATE ALL") + SYNC, READY], id="DEALLOCATE ALL, extended"),
        pytest.param([run("SELECT 1") + query("EXECUTE foo(7)"), READY],
                     id="EXECUTE behind messages without Sync"),
        pytest.param([run("PREPARE foo AS SELECT 1") + SYNC, READY], id="PREPARE, extended"),
    ],
)  # fmt: skip
def test_rule_11_sql_on_a_statement_of_the_protocol(both, script):
    both.same([FOO, READY, *script, EXECUTE_FOO, READY, close("S", "foo") + SYNC, READY])


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([bind("bar", [b"1"]) + describe("P") + execute() + SYNC, READY], id="Bind"),
        pytest.param([describe("S", "bar") + SYNC, READY], id="Describe"),
        pytest.param([close("S", "bar") + SYNC, READY, *each("EXECUTE bar(1)")], id="Close"),
        pytest.param([bind("nope") + close("S", "bar") + SYNC, READY, *each("EXECUTE bar(1)")],
                     id="a Close that never ran"),
        pytest.param([parse("bar", "SELECT 2") + SYNC, READY], id="Parse"),
        pytest.param(each("EXECUTE bar(1)", "DEALLOCATE bar", "EXECUTE bar(1)"), id="SQL"),
        pytest.param([*each("DEALLOCATE ALL"), bind("bar", [b"1"]) + SYNC, READY],
                     id="DEALLOCATE ALL"),
        pytest.param([*each("BEGIN", "DEALLOCATE bar", "SELECT 1/0", "ROLLBACK"),
                      bind("bar", [b"1"]) + SYNC, READY], id="in a transaction"),
        pytest.param([*each("DEALLOCATE bar"), parse("bar", "SELECT 2") + bind("bar") + execute()
                      + SYNC, READY], id="from one to the other"),
    ],
)  # fmt: skip
def test_rule_11_the_protocol_on_a_statement_of_sql(both, script):
    both.same([query("PREPARE bar(int) AS SELECT $1 + 10"), READY, *script])
    both.same([query("BEGIN; PREPARE bar(int) AS SELECT $1 + 10"), READY, *script])
    both.same([query("PREPARE bar AS SELEC; "), READY, *script])


@pytest.mark.parametrize(
    "script",
    [
        each("PREPARE p AS SELECT 'mine'", "EXECUTE p", "SELECT 1", "EXECUTE p", "DEALLOCATE p",
             "EXECUTE p"),
        each("BEGIN", "PREPARE p AS SELECT 1", "ROLLBACK", "EXECUTE p"),
        each("PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE p; EXECUTE p", "EXECUTE p"),
        each("PREPARE p AS SELECT 1/0", "EXECUTE p", "PREPARE p AS SELECT 2", "EXECUTE p"),
        each("SELECT run_it('PREPARE hidden AS SELECT 1')", "EXECUTE hidden", "DEALLOCATE hidden",
             "EXECUTE hidden"),
    ],
)  # fmt: skip
def test_rule_11_sql_prepare_works_in_transaction_pooling(both, script):
    both.same(script)


def test_rule_11_execute_works_on_whichever_connection(both):
    with both.through() as peer, both.through() as other:
        peer.ask(FOO)
        seen = set()
        holders: list[Peer] = []
        try:
            for _ in range(3):
                assert peer.value("EXECUTE foo(41)") == "42"
                seen.add(peer.pid())
                holders.append(both.through())
                holders[-1].ask(query("BEGIN; SELECT 1"))
        finally:
            for holder in holders:
                holder.socket.close()
        assert len(seen) > 1
        errors = [f.fields["C"] for f in other.ask(query("EXECUTE foo(1)")) if f.tag == b"E"]
        assert errors == ["26000"]


def test_rule_11_sql_prepare_pins_and_deallocate_unpins(both):
    with both.through() as peer, both.through() as other:
        peer.ask(query("PREPARE p AS SELECT 1"))
        pinned = peer.pid()
        for _ in range(3):
            assert other.pid() != pinned
            assert peer.pid() == pinned
        peer.ask(query("DEALLOCATE p"))
        with both.through() as third:
            third.ask(query("BEGIN"))
            other.ask(query("BEGIN"))
            assert pinned in {third.pid(), other.pid(), peer.pid()}


def test_rule_11_deallocate_all_of_one_client_takes_nothing_from_another(both):
    with both.through() as first, both.through() as second:
        for peer in (first, second):
            peer.ask(parse("same", "SELECT 'kept'") + bind("same") + execute() + SYNC)
        for command in ("DEALLOCATE ALL", "DISCARD ALL", "DEALLOCATE same"):
            first.ask(query(command))
            frames = second.ask(bind("same") + execute() + SYNC)
            assert [f.values for f in frames if f.tag == b"D"] == [[b"kept"]]
            frames = first.ask(bind("same") + SYNC)
            assert sqlstates([f.normal() for f in frames]) == ["26000"]
            first.ask(parse("same", "SELECT 'kept'") + SYNC)


def test_rule_11_a_statement_that_vanished_on_a_connection_is_prepared_again(apart):
    with apart.through() as first, apart.through() as second:
        second.ask(parse("same", "SELECT 'again'") + SYNC)
        for _ in range(4):
            first.ask(query("SELECT run_it('DEALLOCATE ALL')"))
            frames = second.ask(bind("same") + describe("P") + execute() + SYNC)
            assert [f.values for f in frames if f.tag == b"D"] == [[b"again"]]


def test_rule_11_names_of_the_proxys_own_cannot_be_taken(both):
    with both.through() as peer:
        frames = peer.ask(query("PREPARE headgate_1 AS SELECT 1"))
        assert sqlstates([f.normal() for f in frames]) == ["42939"]
        frames = peer.ask(parse("", "PREPARE headgate_1 AS SELECT 1") + SYNC)
        assert sqlstates([f.normal() for f in frames]) == ["42939"]
        # By the protocol the name is the client's own, and means nothing on the server.
        frames = peer.ask(parse("headgate_1", "SELECT 5") + bind("headgate_1") + execute() + SYNC)
        assert [f.values for f in frames if f.tag == b"D"] == [[b"5"]]


@pytest.mark.parametrize(
    "setting", ["standard_conforming_strings = off", "client_encoding = 'SJIS'"]
)
def test_rule_11_names_are_dropped_also_where_texts_may_be_read_in_another_way(both, setting):
    named = parse("a", "SELECT 1") + parse("b", "SELECT 2") + SYNC
    trace = both.same(
        [
            named,
            READY,
            query(f"SET {setting}"),
            READY,
            query("DEALLOCATE a"),
            READY,
            bind("a") + SYNC,
            READY,
            parse("a", "SELECT 3") + SYNC + query("DEALLOCATE ALL; BEGIN") + bind("b") + SYNC,
            ready(3),
            query("ROLLBACK"),
            READY,
            named,
            READY,
            parse("", "DISCARD ALL") + bind() + execute() + parse("a", "SELECT 4") + SYNC,
            READY,
            bind("a") + execute() + SYNC,
            READY,
            parse("", "PREPARE c AS SELECT 5") + bind() + execute() + parse("c", "SELECT 6") + SYNC,
            READY,
            query("EXECUTE c"),
            READY,
            parse("", "PREPARE a AS SELECT 7") + bind() + execute() + SYNC,
            READY,
            query("PREPARE a AS SELECT 7"),
            READY,
            parse("", "DEALLOCATE a") + bind() + execute() + SYNC,
            READY,
            bind("a") + SYNC,
            READY,
        ]
    )
    assert sqlstates(trace) == ["26000", "26000", "42P05", "42P05", "42P05", "26000"]


def test_rule_11_what_is_described_is_what_a_name_stands_for_there(both):
    group = parse("c", "EXECUTE b") + describe("S", "c") + parse("b", "SELECT 1") + SYNC
    both.same([group, READY])


@pytest.mark.parametrize(
    "behind",
    [
        pytest.param(query("SELECT label FROM item WHERE id = nowhere") + SYNC, id="Query"),
        pytest.param(execute() + run("SELECT label FROM item WHERE id = nowhere") + SYNC + SYNC,
                     id="extended"),
    ],
)  # fmt: skip
def test_rule_11_positions_in_errors_of_other_texts_are_as_they_are(both, behind):
    trace = both.same([FOO, READY, parse("", "EXECUTE foo(1)") + bind() + behind, ready(2)])
    assert "\\x00P35" in "".join(trace)
