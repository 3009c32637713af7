"""Rules 1 to 6 and 35: framing and pipelines, each compared with a server's own trace."""

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.system import wait_until
from tests.system.differential import (
    CLOSED,
    FLUSH,
    READY,
    SYNC,
    TERMINATE,
    Differential,
    Peer,
    Script,
    Until,
    bind,
    close,
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


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    yield from make_differential(workspace, primary, standby, "rules-pipelining")


def test_rule_01_every_query_sync_and_function_call_is_answered_by_one_ready(both):
    both.same([query("SELECT 1") + SYNC + query("") + SYNC + SYNC + query(";;"), ready(6)])
    both.same([run("SELECT 1") + SYNC + run("SELECT 2") + SYNC + query("SELECT 3"), ready(3)])
    call = message(b"F", struct.pack("!IHHHiiH", 1397, 1, 1, 1, 4, -7, 1))  # int4abs
    both.same([call + SYNC + call + query("SELECT 1"), ready(4)])
    # Behind an error that needs no server, a Query is not answered and the Sync is.
    both.same([bind("nope") + query("SELECT 1") + SYNC + query("SELECT 2"), ready(2)])
    both.same([bind("nope") + FLUSH, Until(b"E"), SYNC + SYNC + call, ready(3)])


def test_rule_01_a_backend_is_kept_until_its_transaction_is_over(both):
    with both.through() as first, both.through() as second:
        first.ask(query("BEGIN"))
        held = first.pid()
        for _ in range(5):
            assert second.pid() != held
        assert first.pid() == held
        first.ask(query("COMMIT"))


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            [run("SELECT 1") + SYNC + run("SELECT 1/0") + run("SELECT 2") + SYNC + run("SELECT 3")
             + SYNC, ready(3)],
            id="one group of three fails",
        ),
        pytest.param(
            [parse("a", "SELECT 1") + parse("b", "SELEC") + parse("c", "SELECT 3") + SYNC
             + bind("a") + execute() + SYNC + bind("c") + execute() + SYNC + parse("c", "SELECT 4")
             + bind("c") + execute() + SYNC, ready(4)],
            id="a failed Parse takes what follows with it",
        ),
        pytest.param(
            [parse("a", "SELECT 1") + bind("a") + execute() + bind("nope") + close("S", "a") + SYNC
             + bind("a") + execute() + SYNC, ready(2)],
            id="a Close behind an error never ran",
        ),
        pytest.param(
            [parse("", "SELECT 1") + SYNC + parse("a", "SELEC") + close("S") + SYNC
             + bind() + execute() + SYNC, ready(3)],
            id="a Close of the unnamed statement behind an error never ran",
        ),
        pytest.param(
            [parse("", "SELECT 1") + SYNC + bind("nope") + parse("", "SELECT 2") + SYNC + bind()
             + execute() + SYNC, ready(3)],
            id="an unnamed Parse behind an error never ran",
        ),
        pytest.param(
            [parse("", "SELECT 1") + SYNC + parse("", "SELEC") + SYNC + bind() + execute() + SYNC,
             ready(3)],
            id="a failed unnamed Parse leaves none",
        ),
        pytest.param(
            [run("SELECT 1") + run("SELECT 1/0") + run("SELECT 3") + SYNC + bind() + execute()
             + SYNC, ready(2)],
            id="of three unnamed the second fails at its execution",
        ),
        pytest.param(
            [parse("n", "SELECT 0") + SYNC, READY,
             parse("", "SELEC") + bind("n") + execute() + SYNC + bind() + SYNC, ready(2)],
            id="a failed unnamed Parse before a named Bind",
        ),
        pytest.param(
            [run("SELECT 1/0") + SYNC + SYNC + run("SELECT 1") + SYNC, ready(3)],
            id="an empty group behind a failed one",
        ),
        pytest.param(
            [query("BEGIN") + run("SELECT 1/0") + SYNC + parse("f", "SELECT 1") + SYNC
             + run("SELECT 1") + SYNC + query("SELECT 2") + query("ROLLBACK") + bind("f") + SYNC,
             ready(7)],
            id="a failed transaction refuses Parse too",
        ),
        pytest.param(
            [parse("f", "SELECT 1") + SYNC, READY, query("BEGIN") + query("SELECT 1/0")
             + close("S", "f") + parse("f", "SELECT 1") + bind("f") + execute() + SYNC
             + query("ROLLBACK") + parse("f", "SELECT 1") + bind("f") + execute() + SYNC, ready(5)],
            id="a failed transaction refuses a Parse that the server has seen before",
        ),
        pytest.param(
            [parse("r", "ROLLBACK") + SYNC, READY, query("BEGIN") + query("SELECT 1/0")
             + bind("r") + execute() + SYNC, ready(3)],
            id="a prepared ROLLBACK ends a failed transaction",
        ),
    ],
)  # fmt: skip
def test_rule_02_an_error_takes_what_follows_to_the_sync_and_nothing_else(both, script):
    both.same(script)


def test_rule_03_nothing_is_committed_before_the_client_says_so(both):
    script: Script = [
        run("INSERT INTO item VALUES (900, 'x')") + parse("fresh", "SELECT count(*) FROM item")
        + bind("fresh") + execute() + run("SELECT 1/0") + SYNC,
        READY,
        query("SELECT count(*) FROM item WHERE id = 900"),
        READY,
    ]  # fmt: skip
    trace = both.same(script)
    assert sqlstates(trace) == ["22012"]
    assert any(line.startswith("D ") and "01\\x00\\x00\\x00\\x010" in line for line in trace)


@pytest.mark.parametrize(
    "change",
    [
        # int4abs(integer): a function may have changed the schema, and a role means other tables.
        pytest.param(message(b"F", struct.pack("!IHHHiiH", 1397, 1, 1, 1, 4, -7, 1)), id="call"),
        pytest.param(query("SET ROLE pg_monitor"), id="role"),
    ],
)
def test_rule_03_looking_at_columns_ends_no_transaction_of_a_pipelines(both, change):
    insert = "INSERT INTO item VALUES (901, 'x') RETURNING id"
    script: Script = [
        parse("a", insert) + describe("S", "a") + bind("a") + execute() + change,
        READY,
        bind("a", [b"one too many"]) + SYNC,
        READY,
        query("RESET ROLE"),
        READY,
        query("SELECT count(*) FROM item WHERE id = 901"),
        READY,
    ]
    trace = both.same(script, before="DELETE FROM item WHERE id = 901")
    assert sqlstates(trace) == ["08P01"]
    assert any(line.startswith("D ") and "01\\x00\\x00\\x00\\x010" in line for line in trace)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([parse("", "SELECT 1") + FLUSH, Until(b"1"), bind() + FLUSH, Until(b"2"),
                      describe("P") + FLUSH, Until(b"T"), execute() + FLUSH, Until(b"C"), SYNC,
                      READY], id="after each message"),
        pytest.param([parse("a", "SELECT $1::int") + describe("S", "a") + FLUSH, Until(b"T"),
                      bind("a", [b"7"]) + execute() + SYNC, READY], id="as libpq and asyncpg do"),
        pytest.param([parse("", "SELEC") + FLUSH, Until(b"E"), bind() + SYNC + query("SELECT 1"),
                      ready(2)], id="an error before the Sync is there"),
        pytest.param([FLUSH + SYNC + FLUSH + FLUSH + SYNC, ready(2)], id="with nothing to flush"),
        pytest.param([parse("a", "SELEC") + FLUSH, Until(b"E"), parse("b", "SELECT 1"), SYNC, READY,
                      parse("b", "SELECT 2") + bind("b") + execute() + SYNC, READY],
                     id="a Parse that comes behind an error never ran"),
        pytest.param([parse("k", "SELECT 1") + SYNC, READY, bind("k") + execute() + FLUSH,
                      Until(b"C"), bind("k") + execute() + SYNC, READY], id="of a known statement"),
        pytest.param([close("S", "none") + FLUSH, Until(b"3"), parse("", "SELECT 1") + bind()
                      + execute() + SYNC, READY], id="of what needs no server"),
        pytest.param([query("BEGIN"), READY, parse("a", "SELECT 77") + close("S", "a") + SYNC, READY,
                      parse("b", "SELECT 77") + FLUSH, Until(b"1"), close("S", "b") + FLUSH,
                      Until(b"3"), SYNC, READY], id="of what the connection has already"),
    ],
)  # fmt: skip
def test_rule_04_flush_is_honoured_at_once(both, script):
    both.same(script)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([run("SELECT 1") + query("SELECT 2"), READY], id="both run"),
        pytest.param([run("SELECT 1/0") + query("SELECT 2") + SYNC, READY], id="the first fails"),
        pytest.param([run("SELECT 1") + query("SELECT 1/0") + SYNC, ready(2)], id="the last fails"),
        pytest.param([run("INSERT INTO item VALUES (901)") + query("SELECT 1/0"), READY,
                      query("SELECT count(*) FROM item WHERE id = 901"), READY],
                     id="one implicit transaction"),
        pytest.param([parse("s", "SELECT 5") + query("SELECT 2") + bind("s") + execute() + SYNC,
                      ready(2)], id="a statement is prepared before it"),
        pytest.param([parse("", "SELECT 5") + query("SELECT 2") + bind() + execute() + SYNC,
                      ready(2)], id="it drops the unnamed statement"),
        pytest.param([parse("", "SELECT 5") + SYNC, READY, bind("nope") + query("SELECT 2") + SYNC
                      + bind() + execute() + SYNC, ready(2)],
                     id="a Query that was skipped drops nothing"),
        pytest.param([bind("nope") + message(b"F", struct.pack("!IHHH", 1, 0, 0, 0)) + SYNC, READY],
                     id="a FunctionCall is skipped"),
        pytest.param([run("SELECT 1") + query("COPY (SELECT 2) TO STDOUT"), READY], id="a COPY"),
    ],
)  # fmt: skip
def test_rule_04_a_query_behind_messages_without_sync_keeps_its_place(both, script):
    both.same(script)


def test_rule_04_a_function_call_behind_messages_without_sync_keeps_its_place(both):
    # int4abs(integer): OID 1397, one binary argument.
    call = message(b"F", struct.pack("!IHHHiiH", 1397, 1, 1, 1, 4, -7, 1))
    both.same([call, READY])
    both.same([run("SELECT 1") + call + run("SELECT 2") + SYNC, ready(2)])
    wrong = message(b"F", struct.pack("!IHHHH", 1, 0, 0, 0, 0)[:10])
    both.same([run("SELECT 1") + wrong + SYNC, ready(2)])


CHUNKED = (
    parse("c", "SELECT id, label FROM item WHERE id < $1") + describe("S", "c") + bind("c", [b"3"])
    + execute() + SYNC + query("SELECT 1; SELECT 'x' ; ") + run("SELECT 1/0") + close("S", "c")
    + SYNC + bind("c", [b"2"]) + describe("P") + execute() + close("S", "c") + SYNC
    + query("COPY pg_temp.none FROM STDIN") + copy_data(b"1\n") + SYNC + run("SELECT 'last'") + SYNC
)  # fmt: skip


@settings(max_examples=8)
@given(st.lists(st.integers(1, len(CHUNKED) - 1), max_size=40).map(sorted))
def test_rule_05_any_chunking_gives_the_same_output(both, cuts):
    pieces = [
        CHUNKED[start:end] for start, end in zip([0, *cuts], [*cuts, len(CHUNKED)], strict=True)
    ]
    traces = []
    for port, chunks in ((both.server.port, [CHUNKED]), (both.proxy.port, pieces)):
        with Peer(port) as peer:
            for chunk in chunks:
                peer.send(chunk)
            peer.wait(ready(6))
            traces.append(peer.trace())
    assert traces[1] == traces[0]


def test_rule_05_one_byte_at_a_time(both):
    both.same([*(bytes([byte]) for byte in CHUNKED), ready(6)])


def test_rule_05_ten_thousand_messages_in_one_pipeline(both):
    group = run("SELECT 1")
    both.same([group * 2_500 + SYNC, READY])
    named = parse("big", "SELECT $1::int") + SYNC
    rest = b"".join(bind("big", [b"%d" % number]) + execute() for number in range(5_000))
    both.same([named + rest + SYNC, ready(2)])
    with both.through() as peer:
        peer.send((group + SYNC) * 2_500)
        frames = peer.wait(ready(2_500))
        assert b"".join(frame.tag for frame in frames) == b"12TDCZ" * 2_500


def test_rule_05_a_pipeline_without_sync_is_answered_while_it_grows(both):
    """However the pieces end: what the client has sent so far runs, as at a server."""
    start = parse("go", "INSERT INTO item VALUES ($1, 'x') RETURNING id") + SYNC
    many = b"".join(
        bind("go", [b"%d" % number]) + describe("P") + execute() for number in range(5_000, 9_000)
    )
    pieces = [many + many[:7], Until(b"D", 500), many[7:9], many[9:], Until(b"E"), SYNC, READY]
    both.same([query("BEGIN") + start, ready(2), *pieces])


def test_rule_05_a_long_statement_behind_a_slow_one_is_read(both):
    text = "SELECT length('" + "x" * 600_000 + "')"
    both.same([query("SELECT pg_sleep(0.2)") + query(text) + run(text) + SYNC, ready(3)])


def test_rule_20_a_query_in_a_pipeline_spoils_no_statement_of_the_next_client(both):
    """PostgreSQL 18 does not end the pipeline's transaction at a Sync that comes alone behind it."""
    with both.through() as peer:
        peer.ask(run("INSERT INTO item VALUES (903, 'kept')") + query("SELECT 1"))
        assert [frame.tag for frame in peer.ask(SYNC)] == [b"Z"]
        with both.through() as other:
            for _ in range(4):
                assert other.value("SELECT 'fine'") == "fine"
    assert both.row("SELECT count(*) FROM item WHERE id = 903") == (1,)
    both.sql("DELETE FROM item WHERE id = 903")


@pytest.mark.parametrize("length", [0, 3, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFF, 0x40000000])
def test_rule_06_a_bad_length_is_fatal_for_this_client_only(both, length):
    before = both.proxy.resident_bytes()
    for tag in (b"Q", b"P", b"d", b"S", b"\x00"):
        with both.through() as peer:
            peer.send(tag + struct.pack("!I", length) + b"abc")
            peer.wait(CLOSED)
            assert [frame.tag for frame in peer.frames] == [b"E"]
            assert peer.frames[0].fields["S"] == "FATAL"
            assert peer.frames[0].fields["C"] == "08P01"
    assert both.proxy.resident_bytes() - before < 16 << 20
    both.usable()


def test_rule_06_a_bad_length_in_a_transaction_rolls_it_back(both):
    with both.through() as peer:
        peer.ask(query("BEGIN; INSERT INTO item VALUES (902, 'x')"))
        peer.send(b"Q\x00\x00\x00\x03")
        peer.wait(CLOSED)
    both.usable()
    assert both.row("SELECT count(*) FROM item WHERE id = 902") == (0,)
    wait_until(
        lambda: (
            both.row(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = 'rules' AND state LIKE 'idle in transaction%'"
            )
            == (0,)
        )
    )


@pytest.mark.parametrize(
    "packet",
    [
        struct.pack("!II", 10_001, 196608) + b"x" * 9_993,
        struct.pack("!II", 4, 196608),
        struct.pack("!II", 0x7FFFFFFF, 196608),
        struct.pack("!II", 0xFFFFFFFF, 196608),
    ],
)
def test_rule_06_a_bad_startup_packet_ends_the_connection(both, packet):
    with socket.create_connection(("127.0.0.1", both.proxy.port), timeout=10) as raw:
        raw.sendall(packet)
        answer = b""
        while data := raw.recv(65536):
            answer += data
    assert answer == b"" or (answer[:1] == b"E" and b"C08P01" in answer)
    both.usable()


@pytest.mark.parametrize(
    "text", ["SELECT 1\0; DROP TABLE item", "\0", "SELECT '\0'", "SELECT 1\0"], ids=repr
)
def test_rule_35_a_nul_in_a_query_is_refused_like_postgresql(both, text):
    trace = both.same([query(text), READY])
    assert sqlstates(trace) == ["08P01"]
    both.same([query("BEGIN"), READY, query(text), READY, query("SELECT 1"), READY])


def test_rule_35_a_nul_in_a_parse_is_refused(both):
    trace = both.same([parse("", "SELECT 1\0; DROP TABLE item") + bind() + execute() + SYNC, READY])
    assert sqlstates(trace) == ["08P01"]
    trace = both.same([parse("a\0b", "SELECT 1") + SYNC, READY])
    assert sqlstates(trace) == ["08P01"]


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([message(b"P", b"abc") + SYNC, READY], id="Parse without end"),
        pytest.param([message(b"P", b"\0SELECT 1\0\0\1") + SYNC, READY], id="Parse too short"),
        pytest.param([message(b"B", b"\0") + SYNC, READY], id="Bind too short"),
        pytest.param([parse("", "SELECT 1") + message(b"B", b"\0\0\0\1") + SYNC, READY],
                     id="Bind without its counts"),
        pytest.param([message(b"D", b"") + SYNC, READY], id="empty Describe"),
        pytest.param([message(b"D", b"X\0") + SYNC, READY], id="Describe of what"),
        pytest.param([message(b"C", b"X\0") + SYNC, READY], id="Close of what"),
        pytest.param([message(b"E", b"\0\0") + SYNC, READY], id="Execute too short"),
        pytest.param([message(b"D", b"Sabc") + SYNC, READY], id="Describe without end"),
        pytest.param([message(b"S", b"x") + SYNC, ready(2)], id="Sync with a body"),
        pytest.param([message(b"Q", b""), READY], id="Query without text"),
        pytest.param([message(b"Q", b"SELECT 1"), READY], id="Query without end"),
        pytest.param([message(b"F", b""), READY], id="empty FunctionCall"),
        pytest.param([message(b"d", b"abc") + message(b"c", b"") + message(b"f", b"\0") + SYNC,
                      READY], id="COPY messages outside of COPY"),
        pytest.param([SYNC + execute() + SYNC + describe("P") + SYNC + close("P") + SYNC, ready(4)],
                     id="portals that are not there"),
        pytest.param([bind() + SYNC, READY], id="Bind first of all"),
        pytest.param([execute() + parse("", "SELECT 1") + SYNC, READY], id="Execute first of all"),
    ],
)  # fmt: skip
def test_rule_27_malformed_messages_are_answered_like_postgresql(both, script):
    both.same(script)


@pytest.mark.parametrize("tag", [b"p", b"x", b"\x00", b"\xff", b"Z", b"1", b"R"])
def test_rule_27_unknown_message_types_are_fatal(both, tag):
    trace = both.same([message(tag, b"\0"), CLOSED])
    assert sqlstates(trace) == ["08P01"]
    both.same([query("BEGIN"), READY, message(tag, b"\0"), CLOSED])
    both.same([run("SELECT 1") + SYNC, READY, message(tag, b"")[:3], CLOSED])
    both.usable()


def test_rule_27_garbage_instead_of_messages(both):
    for garbage in (b"\xff" * 100, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256))):
        with both.through() as peer:
            peer.send(garbage)
            peer.wait(CLOSED)
            assert [frame.tag for frame in peer.frames] == [b"E"]
    both.usable()


def test_rule_27_goodbye_in_the_middle_of_everything(both):
    for script in (TERMINATE, run("SELECT 1") + TERMINATE, query("BEGIN") + TERMINATE):
        with both.through() as peer:
            peer.send(script)
            peer.wait(CLOSED)
            assert not [frame for frame in peer.frames if frame.tag == b"E"]
    both.usable()
