"""Rules 20 to 23: what is true of a transaction, and what one client leaves to the next."""

from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.system import wait_until
from tests.system.differential import (
    CLOSED,
    READY,
    SYNC,
    Differential,
    Until,
    bind,
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


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    yield from make_differential(workspace, primary, standby, "rules-transactions")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(["BEGIN", "SELECT 1", "COMMIT", "SELECT 2"], id="plain"),
        pytest.param(["BEGIN", "SELECT 1/0", "SELECT 1", "COMMIT"], id="failed"),
        pytest.param(["BEGIN", "SELECT 1/0", "ROLLBACK"], id="rolled back"),
        pytest.param(["BEGIN", "COMMIT AND CHAIN", "SELECT 1", "ROLLBACK AND CHAIN", "SELECT 2",
                      "END"], id="chained"),
        pytest.param(["BEGIN ISOLATION LEVEL SERIALIZABLE", "COMMIT AND CHAIN",
                      "SHOW transaction_isolation", "ROLLBACK", "SHOW transaction_isolation"],
                     id="chained with its characteristics"),
        pytest.param(["BEGIN", "SELECT 1/0", "COMMIT AND CHAIN", "SELECT 1", "ROLLBACK"],
                     id="a failed one chained"),
        pytest.param(["BEGIN", "SAVEPOINT s", "SELECT 1/0", "ROLLBACK TO s", "SELECT 1", "COMMIT"],
                     id="savepoint"),
        pytest.param(["BEGIN", "SAVEPOINT s", "SELECT 1/0", "RELEASE s", "ROLLBACK"],
                     id="savepoint of a failed one"),
        pytest.param(["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "SAVEPOINT s", "ROLLBACK TO s"],
                     id="without one"),
        pytest.param(["BEGIN", "BEGIN", "COMMIT"], id="twice"),
        pytest.param(["BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2", "ROLLBACK"], id="in one Query"),
        pytest.param(["SELECT 1; BEGIN; SELECT 2", "SELECT 3", "ROLLBACK"], id="begun in a Query"),
        pytest.param(["/* BEGIN */ SELECT 1", "-- COMMIT", "SELECT 'BEGIN'"], id="not at all"),
        pytest.param(["BEGIN", "PREPARE TRANSACTION 'no'", "SELECT 1"], id="two phases"),
        pytest.param(["DO $$ BEGIN PERFORM 1; COMMIT; PERFORM 2; END $$", "SELECT 1"], id="in a DO"),
        pytest.param(["BEGIN", "DO $$ BEGIN COMMIT; END $$", "ROLLBACK"], id="in a DO, refused"),
        pytest.param(["START TRANSACTION READ ONLY", "CREATE TABLE nope ()", "ABORT"], id="read"),
        pytest.param(["SELECT 1; ROLLBACK; SELECT 2"], id="ROLLBACK of an implicit one"),
    ],
)  # fmt: skip
def test_rule_21_and_23_transactions(both, script):
    steps: list[bytes | Until] = []
    for text in script:
        steps += [query(text), READY]
    simple = both.same(steps)
    at_once = both.same([b"".join(query(text) for text in script), ready(len(script))])
    assert at_once == simple
    if not any(";" in text and not text.startswith("DO") for text in script):
        both.same([b"".join(run(text) + SYNC for text in script), ready(len(script))])
        both.same([b"".join(run(text) for text in script) + SYNC, READY])


@pytest.mark.parametrize("end", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "ROLLBACK TO s"])
def test_rule_21_and_23_a_connection_is_kept_until_the_server_says_that_it_is_over(both, end):
    with both.through() as peer, both.through() as other:
        peer.ask(query("BEGIN"))
        peer.ask(query("SAVEPOINT s"))
        pid = peer.pid()
        assert peer.ask(query(end))[-1].body == b"T"
        for _ in range(5):
            assert other.pid() != pid
            assert other.frames[-1].body == b"I"
        assert peer.pid() == pid
        assert peer.ask(query("COMMIT"))[-1].body == b"I"
        assert other.pid() == pid


def test_rule_23_commit_of_a_failed_transaction_answers_rollback(both):
    trace = both.same([query("BEGIN"), READY, query("SELECT 1/0"), READY, query("COMMIT"), READY])
    assert "C b'ROLLBACK\\x00'" in trace


@pytest.mark.parametrize(
    "text",
    ["", " ", ";", ";;;", "-- nothing", "/* nothing */", "SELECT 1; SELECT 2", "SELECT 1;;SELECT 2",
     "SELECT 1; SELECT 1/0; SELECT 3", "SELECT 1; SELEC 2", "INSERT INTO item VALUES (970);"
     " SELECT 1/0", "VALUES (1); VALUES (2); VALUES (3)", "SELECT 1; ; -- end",
     "SET application_name = 'x'; SHOW application_name; RESET application_name"],
    ids=repr,
)  # fmt: skip
def test_rule_22_several_statements_are_one_implicit_transaction(both, text):
    both.same([query(text), READY, query("SELECT count(*) FROM item WHERE id = 970"), READY])
    both.same([query("BEGIN"), READY, query(text), READY, query("ROLLBACK"), READY])


def test_rule_20_settings_of_one_client_are_not_the_next_ones(both):
    both.sql("CREATE SCHEMA IF NOT EXISTS secret; CREATE SCHEMA IF NOT EXISTS other")
    changes = [
        "SET search_path = secret", "SET work_mem = '77MB'", "SET ROLE pg_monitor",
        "SET application_name = 'mine'", "SET TimeZone = 'Asia/Tokyo'", "SET DateStyle = 'German'",
        "SELECT set_config('my.own', 'value', false)", "SET extra_float_digits = 0",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    ]  # fmt: skip
    looks = [
        "SHOW search_path", "SHOW work_mem", "SELECT current_user", "SHOW application_name",
        "SHOW TimeZone", "SHOW DateStyle", "SELECT coalesce(current_setting('my.own', true), '')",
        "SHOW extra_float_digits", "SHOW default_transaction_read_only",
    ]  # fmt: skip
    with both.direct() as direct:
        expected = [b"".join(f.body for f in direct.ask(query(look))) for look in looks]
    with both.through() as changing:
        for change in changes:
            changing.ask(query(change))
        for _ in range(4):
            with both.through() as peer:
                found = [b"".join(f.body for f in peer.ask(query(look))) for look in looks]
                # Of a setting of one's own nothing is left but an empty value, as after a RESET.
                assert found == expected


def test_rule_20_temporary_tables_locks_cursors_and_listens_stay_with_their_client(both):
    with both.through() as peer:
        peer.ask(query("CREATE TEMP TABLE mine AS SELECT 1 AS a"))
        peer.ask(query("SELECT pg_advisory_lock(4711)"))
        peer.ask(query("LISTEN mine"))
        peer.ask(query("DECLARE c CURSOR WITH HOLD FOR SELECT 'held'"))
        peer.ask(query("PREPARE q AS SELECT 'prepared'"))
        assert peer.value("SELECT a FROM mine") == "1"
        assert peer.value("FETCH c") == "held"
        assert peer.value("EXECUTE q") == "prepared"
        for _ in range(5):
            with both.through() as other:
                for text, state in (
                    ("SELECT * FROM mine", "42P01"),
                    ("FETCH c", "34000"),
                    ("EXECUTE q", "26000"),
                ):
                    errors = [f.fields["C"] for f in other.ask(query(text)) if f.tag == b"E"]
                    assert errors == [state]
                assert other.value("SELECT pg_try_advisory_lock(4711)") == "f"
                assert other.value("SELECT count(*) FROM pg_listening_channels()") == "0"
        assert peer.value("SELECT a FROM mine") == "1"
    wait_until(lambda: both.row("SELECT pg_try_advisory_xact_lock(4711)") == (True,))
    for _ in range(8):
        with both.through() as other:
            assert other.value("SELECT pg_try_advisory_xact_lock(4711)") == "t"
            assert other.value("SELECT to_regclass('pg_temp.mine') IS NULL") == "t"
            assert other.value("SELECT count(*) FROM pg_cursors") == "0"
            assert other.value("SELECT count(*) FROM pg_prepared_statements WHERE from_sql") == "0"
            assert other.value("SELECT count(*) FROM pg_listening_channels()") == "0"


def test_rule_20_the_end_of_a_result_is_never_the_next_clients(both):
    for _ in range(5):
        with both.through() as leaving:
            leaving.send(query("SELECT i FROM generate_series(1, 200000) i"))
            leaving.socket.recv(10)
        with both.through() as peer:
            assert peer.value("SELECT 'mine'") == "mine"


def test_rule_22_statement_mode_refuses_transaction_blocks(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    for both in make_differential(
        workspace, primary, standby, "rules-statement-mode", pool={"mode": "statement", "size": 2}
    ):
        with both.through() as peer:
            assert peer.value("SELECT 1; SELECT 'two'; SELECT 3"[:8]) == "1"
            peer.send(query("BEGIN"))
            peer.wait(CLOSED)
            errors = [frame.fields for frame in peer.frames if frame.tag == b"E"]
            assert [(e["S"], e["C"]) for e in errors] == [("FATAL", "08P01")]
        for _ in range(3):
            both.usable()


def test_rule_08_a_failed_transaction_describes_what_has_no_rows(both):
    text = "SET TRANSACTION READ ONLY"
    trace = both.same(
        [
            query("BEGIN"),
            READY,
            parse("s", text) + parse("", text) + SYNC,
            READY,
            execute("nobody") + SYNC,
            READY,
            describe("S") + describe("S", "s") + SYNC,
            READY,
            parse("t", text) + SYNC,
            READY,
            describe("S", "s") + SYNC,
            READY,
        ]
    )
    assert sqlstates(trace) == ["34000", "25P02"]


def test_rule_20_session_mode_keeps_one_connection_and_cleans_it(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    for both in make_differential(
        workspace, primary, standby, "rules-session-mode", pool={"mode": "session", "size": 2}
    ):
        with both.through() as peer:
            pids = {peer.pid() for _ in range(3)}
            assert len(pids) == 1
            peer.ask(query("SET work_mem = '99MB'"))
            peer.ask(query("CREATE TEMP TABLE mine ()"))
            peer.ask(query("PREPARE q AS SELECT 1"))
            peer.ask(parse("named", "SELECT 5") + SYNC)
            assert peer.value("SHOW work_mem") == "99MB"
        for _ in range(4):
            with both.through() as other:
                assert other.value("SHOW work_mem") != "99MB"
                assert other.value("SELECT to_regclass('pg_temp.mine') IS NULL") == "t"
                frames = other.ask(bind("named") + execute() + SYNC)
                assert sqlstates([frame.normal() for frame in frames]) == ["26000"]
        both.same([query("BEGIN"), READY, parse("a", "SELECT 1") + SYNC, READY, message(b"X", b""),
                   CLOSED])  # fmt: skip
