"""Rules 26, 27, 34 and 40: what comes at any time, servers that end, what is tried again, cancels."""

import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby, processes_below
from proxy.demo.workspace import Workspace
from tests.support.system import wait_until
from tests.system.differential import (
    CLOSED,
    FLUSH,
    READY,
    SYNC,
    Differential,
    Elsewhere,
    Frame,
    Peer,
    Until,
    bind,
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
    yield from make_differential(workspace, primary, standby, "rules-out-of-band")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([query("DO $$ BEGIN RAISE NOTICE 'one'; RAISE WARNING 'two'; END $$"), READY],
                     id="notices"),
        pytest.param([run("DO $$ BEGIN RAISE NOTICE 'one'; END $$") + run("SELECT 1") + SYNC,
                      READY], id="notices, extended"),
        pytest.param([query("DROP TABLE IF EXISTS nowhere"), READY], id="notice of a command"),
        pytest.param([query("SET client_min_messages = debug1"), READY, query("SELECT 1"), READY,
                      query("RESET client_min_messages"), READY], id="debug messages"),
        pytest.param([query("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German, DMY'"), READY,
                      query("RESET ALL"), READY], id="ParameterStatus"),
        pytest.param([query("BEGIN; SET LOCAL application_name = 'local'"), READY,
                      query("ROLLBACK"), READY], id="ParameterStatus of a rollback"),
        pytest.param([run("SET application_name = 'x'") + run("SHOW application_name") + SYNC,
                      READY], id="ParameterStatus, extended"),
        pytest.param([query("LISTEN here; NOTIFY here, 'payload'"), READY, query("UNLISTEN *"),
                      READY], id="notification of one's own"),
        pytest.param([query("LISTEN here"), READY, query("BEGIN; NOTIFY here"), READY,
                      query("SELECT 1"), READY, query("COMMIT"), READY], id="at the commit"),
        pytest.param([query("LISTEN here"), READY, run("NOTIFY here, 'a'") + SYNC, READY,
                      query("UNLISTEN here; NOTIFY here"), READY], id="notification, extended"),
    ],
)  # fmt: skip
def test_rule_26_what_comes_at_any_time(both, script):
    both.same(script)


def test_rule_26_a_notification_reaches_an_idle_client(both):
    with both.through() as peer:
        peer.ask(query("LISTEN news"))
        pid = peer.pid()
        for number in range(3):
            both.sql(f"NOTIFY news, 'item {number}'")
            (frame,) = peer.wait(Until(b"A"))
            assert frame.body[4:] == b"news\0item %d\0" % number
        assert peer.pid() == pid
        peer.ask(query("UNLISTEN *"))
        with both.through() as other:
            both.sql("NOTIFY news, 'too late'")
            assert other.value("SELECT 1") == "1"
        assert peer.value("SELECT 1") == "1"
        assert not [frame for frame in peer.frames[-3:] if frame.tag == b"A"]


def kill_9(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def terminator(both: Differential) -> Callable[[int], None]:
    def terminate(pid: int) -> None:
        assert both.row(f"SELECT pg_terminate_backend({pid})") == (True,)

    return terminate


def serving(both: Differential, text: str) -> int:
    """Wait until a server process is at this text, or in a transaction after it; its id."""
    like = text.replace("'", "''")

    def pids() -> list[int]:
        rows = both.admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = 'rules' AND state <> 'idle'"
            f" AND query LIKE '%{like}%' AND pid <> pg_backend_pid()".encode()
        ).fetchall()
        return [row[0] for row in rows]

    wait_until(pids, what=f"a process at {text}")
    (pid,) = pids()
    return pid


def is_gone(both: Differential, pid: int) -> bool:
    return both.row(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == (0,)


def test_rule_26_a_fatal_on_an_idle_connection_is_not_shown_to_the_next_client(both):
    with both.through() as peer:
        for _ in range(6):
            pid = peer.pid()
            terminator(both)(pid)
            wait_until(partial(is_gone, both, pid))
            assert peer.pid() != pid
        assert not [frame for frame in peer.frames if frame.tag in (b"E", b"N")]


def test_rule_26_a_fatal_of_a_pinned_connection_ends_its_client(both):
    with both.through() as peer:
        peer.ask(query("CREATE TEMP TABLE pinned ()"))
        pid = peer.pid()
        terminator(both)(pid)
        peer.wait(CLOSED)
        (error,) = [frame for frame in peer.frames if frame.tag == b"E"]
        assert (error.fields["S"], error.fields["C"]) == ("FATAL", "57P01")
    both.usable()


@pytest.mark.parametrize(
    ("start", "until", "text"),
    [
        pytest.param(query("BEGIN"), READY, "BEGIN", id="idle in a transaction"),
        pytest.param(run("SELECT 'open'") + FLUSH, Until(b"C"), "SELECT 'open'", id="open group"),
        pytest.param(query("INSERT INTO item SELECT 990, pg_sleep(60)::text"), None, "INSERT",
                     id="writing"),
        pytest.param(query("BEGIN; SELECT pg_sleep(60)"), None, "pg_sleep", id="in a statement"),
        pytest.param(query("COPY item FROM STDIN"), Until(b"G"), "COPY", id="in a COPY"),
    ],
)  # fmt: skip
def test_rule_26_a_terminated_connection_ends_its_client_as_postgresql_does(
    both, start, until, text
):
    traces: list[list[str]] = []
    for port in (both.server.port, both.proxy.port):
        with Peer(port) as peer:
            peer.send(start)
            if until is not None:
                peer.wait(until)
            terminator(both)(serving(both, text))
            peer.wait(CLOSED)
            # Where in a COPY it was is a context that the proxy does not repeat.
            traces.append([line.split("\\x00W")[0].rstrip("'") for line in peer.trace()])
    assert traces[1] == traces[0]
    assert sqlstates(traces[1]) == ["57P01"]
    both.usable()
    assert both.row("SELECT count(*) FROM item WHERE id = 990") == (0,)


@pytest.mark.parametrize("first", [
    pytest.param(b"X\0\0\0\4", id="a client that leaves while it connects"),
    pytest.param(b"\0\0\0\x09\0\3\0\0\0", id="no user"),
    pytest.param(b"\0\0\0\x0c\0\3\0\0user", id="no end"),
    pytest.param(b"\0\0\0\x0d\x04\xd2\x16\x2e\0\0\0\1k", id="a cancel request with half a key"),
])  # fmt: skip
def test_rule_6_what_is_no_first_packet_is_told_what_postgresql_tells(both, first):
    told: list[str] = []
    for port in (both.server.port, both.proxy.port):
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as peer:
            peer.sendall(first)
            data = b""
            while received := peer.recv(4096):
                data += received
            told.append(Frame(data[:1], data[5:]).normal())
    assert told[1] == told[0]


@pytest.mark.parametrize("startup", [
    pytest.param({"application_name": "x" * 64}, id="cut"),
    pytest.param({"application_name": "é" * 40}, id="cut between letters"),
    pytest.param({"application_name": "x" * 63}, id="not cut"),
    pytest.param({"client_min_messages": "warning", "application_name": "x" * 64}, id="unwanted"),
    pytest.param({"application_name": "x" * 64, "client_min_messages": "warning"}, id="too late"),
])  # fmt: skip
def test_rule_26_a_name_that_is_cut_is_said_at_each_login(both, startup):
    told: list[list[str]] = []
    for port in (both.server.port, both.proxy.port, both.proxy.port):
        with Peer(port, **startup) as peer:
            greeting = [frame.normal() for frame in peer.greeting]
            told.append(greeting[: greeting.index(next(x for x in greeting if x[0] == "S"))])
    assert told[1] == told[0]
    assert told[2] == told[0]


def test_rule_26_and_40_a_server_that_crashes_is_left_and_taken_again(
    own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby], workspace: Workspace
) -> None:
    primary, standby = own_cluster
    for both in make_differential(workspace, primary, standby, "rules-crash"):
        with both.through() as writing, both.through() as idle, both.through() as inside:
            idle.ask(parse("kept", "SELECT 'kept'") + SYNC)
            inside.ask(query("BEGIN"))
            writing.send(query("INSERT INTO item SELECT 991, pg_sleep(60)::text"))
            pid = serving(both, "INSERT%pg_sleep")
            # The server kills all its processes when one of them ends like this.
            kill_9(pid)
            writing.wait(CLOSED)
            errors = [frame.fields for frame in writing.frames if frame.tag == b"E"]
            assert len(errors) == 1
            assert errors[0]["S"] == "FATAL"
            assert errors[0]["C"] in ("08006", "57P02")
            inside.wait(CLOSED)
            assert [f.fields["S"] for f in inside.frames if f.tag == b"E"] == ["FATAL"]
            deadline = time.monotonic() + 20

            def answers() -> bool:
                frames = idle.ask(bind("kept") + execute() + SYNC)
                return any(frame.tag == b"D" for frame in frames)

            while not answers():
                assert time.monotonic() < deadline
                assert not idle.is_closed
        both.usable()


@pytest.mark.parametrize("extended", [False, True])
def test_rule_40_a_read_that_nothing_was_seen_of_is_tried_again(both, extended):
    text = "SELECT count(*) FROM item AS waiting WHERE id < 5"
    data = run(text) + SYNC if extended else query(text)
    with both.direct() as locking, both.through() as peer:
        locking.ask(query("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE"))
        peer.send(data)
        pid = serving(both, "AS waiting")
        terminator(both)(pid)
        wait_until(partial(is_gone, both, pid))
        assert serving(both, "AS waiting") != pid
        locking.ask(query("ROLLBACK"))
        frames = peer.wait(READY)
        assert [frame.values for frame in frames if frame.tag == b"D"] == [[b"4"]]
        assert not [frame for frame in frames if frame.tag == b"E"]


def test_rule_40_a_read_is_tried_again_once_only(both):
    with both.direct() as locking, both.through() as peer:
        locking.ask(query("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE"))
        peer.send(query("SELECT count(*) FROM item AS unlucky"))
        for _ in range(2):
            pid = serving(both, "AS unlucky")
            terminator(both)(pid)
            wait_until(partial(is_gone, both, pid))
        peer.wait(CLOSED)
        assert sqlstates(peer.trace()) == ["57P01"]
    both.usable()


def test_rule_40_a_read_that_was_seen_in_part_is_not_tried_again(both):
    with both.through() as peer:
        # In the select list, so that the server sends the first row before it has made the last.
        peer.send(query("SELECT generate_series(1, 50000000)"))
        peer.wait(Until(b"D"))
        terminator(both)(serving(both, "generate_series"))
        peer.wait(CLOSED)
        assert [frame.tag for frame in peer.frames].count(b"T") == 1
        # The error comes between two rows, or not at all.
        assert sqlstates([frame.normal() for frame in peer.frames[-1:]]) in ([], ["57P01"])
    both.usable()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (query("INSERT INTO item SELECT 992, pg_sleep(30)::text"), "pg_sleep(30)"),
        (run("INSERT INTO item SELECT 992, pg_sleep(31)::text") + SYNC, "pg_sleep(31)"),
        (query("SELECT pg_sleep(32)"), "pg_sleep(32)"),
        (query("BEGIN READ ONLY; SELECT pg_sleep(33)"), "pg_sleep(33)"),
    ],
)
def test_rule_40_what_may_have_done_something_is_never_tried_again(both, data, text):
    with both.through() as peer:
        peer.send(data)
        terminator(both)(serving(both, text))
        peer.wait(CLOSED)
        assert sqlstates(peer.trace()) == ["57P01"]
    assert both.row("SELECT count(*) FROM item WHERE id = 992") == (0,)


def cancel(port: int, key: bytes) -> bytes:
    """Send a CancelRequest; what is answered until the connection is closed."""
    request = struct.pack("!II", len(key) + 8, 80877102) + key
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(100):
            answer += data
    return answer


def test_rule_34_a_cancel_hits_what_its_client_runs_now_and_nothing_else(both):
    with both.through() as peer, both.through() as other:
        assert peer.key[4:] != other.key[4:]
        for seconds in (61, 62):
            with Elsewhere(both, peer):
                other.send(query("BEGIN"))
                other.send(query(f"SELECT 'other', pg_sleep({seconds - 60})"))
                peer.send(query(f"SELECT 'mine', pg_sleep({seconds})"))
                serving(both, f"mine', pg_sleep({seconds})")
                for wrong in (other.key[:4] + peer.key[4:], peer.key[:4] + b"none"):
                    assert cancel(both.proxy.port, wrong) == b""
                assert peer.quiet(0.3)
                assert cancel(both.proxy.port, peer.key) == b""
                assert sqlstates([frame.normal() for frame in peer.wait(READY)]) == ["57014"]
                other.wait(Until(b"Z", 2))
                other.ask(query("COMMIT"))
        assert sqlstates(other.trace()) == []
        assert peer.value("SELECT 'in step'") == "in step"


def test_rule_34_a_cancel_that_comes_late_hits_nobody(both):
    with both.through() as peer, both.through() as other:
        for _ in range(20):
            peer.send(query("SELECT 1"))
            cancelling = threading.Thread(target=cancel, args=(both.proxy.port, peer.key))
            cancelling.start()
            peer.wait(READY)
            assert other.value("SELECT 'mine', pg_sleep(0.02)") == "mine"
            cancelling.join()
        assert peer.value("SELECT 'in step'") == "in step"


def test_rule_27_an_error_in_each_of_many_pipelined_groups(both):
    groups = b"".join(
        run(f"SELECT {number} / ({number} % 3)") + SYNC + query(f"SELECT {number}")
        for number in range(150)
    )
    both.same([groups, ready(300)])


def test_rule_40_reads_do_not_notice_the_crash_of_a_standby(
    own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby], proxy_for: Any
) -> None:
    """Of one kill every process of the standby dies, and says so to whom it serves."""
    primary, standby = own_cluster
    primary.execute("CREATE TABLE item AS SELECT generate_series(1, 500) AS id")
    standby.wait_until_caught_up()
    proxy = proxy_for(primary, standby)()
    stop = threading.Event()

    def read() -> int:
        count = 0
        with proxy.connect() as client:
            while not stop.is_set():
                assert client.execute("SELECT count(*) FROM item AS crashing").fetchone() == (500,)
                count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read) for _ in range(8)]
        serving_now = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%FROM item AS crashing'"
        wait_until(lambda: len(standby.execute(serving_now)) >= 4)
        retried = 0.0
        for _ in range(5):
            # Now and then nobody is being served in that moment, and nothing has to be tried again.
            if not retried:
                kill_9(standby.execute(serving_now)[0][0])
                time.sleep(1.0)
                wait_until(lambda: standby_serves(standby, serving_now), 20)
                retried = proxy.metrics().value("headgate_events_total", cause="retried_after_loss")
        stop.set()
        assert retried
        assert min(reader.result(20) for reader in readers) > 0
    assert proxy.metrics().value("headgate_errors_total") == 0


def standby_serves(standby: EmbeddedStandby, serving_now: str) -> bool:
    try:
        return len(standby.execute(serving_now)) > 0
    except psycopg.OperationalError:
        return False  # it comes back from its crash


def stop_and_go(server: EmbeddedPostgres, number: signal.Signals) -> None:
    assert server.process is not None
    for pid in processes_below(server.process.pid):
        os.kill(pid, number)


def test_reads_leave_a_node_that_hangs_and_writes_end_by_the_query_timeout(
    own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby], proxy_for: Any
) -> None:
    """A machine that hangs, or is gone, ends no connection and takes no cancel request."""
    primary, standby = own_cluster
    primary.execute("CREATE TABLE item AS SELECT generate_series(1, 500) AS id")
    standby.wait_until_caught_up()
    limits = {"connect_timeout": "500ms", "query_timeout": "1s"}
    proxy = proxy_for(primary, standby)(pool=limits)
    with proxy.connect() as reading, proxy.connect() as writing:
        count = "SELECT count(*) FROM item"
        assert reading.execute(count).fetchone() == (500,)
        stop_and_go(standby, signal.SIGSTOP)
        try:
            assert reading.execute(count).fetchone() == (500,)
        finally:
            stop_and_go(standby, signal.SIGCONT)
        assert proxy.metrics().value("headgate_events_total", cause="retried_after_loss") == 1
        writing.execute("INSERT INTO item VALUES (0)")
        stop_and_go(primary, signal.SIGSTOP)
        try:
            with pytest.raises(psycopg.errors.QueryCanceled, match="query timeout"):
                writing.execute("INSERT INTO item VALUES (0)")
            wait_until(
                lambda: not proxy.metrics().value("headgate_pool_server_connections", node="pg1")
            )
        finally:
            stop_and_go(primary, signal.SIGCONT)
