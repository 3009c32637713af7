"""Rules 7 and 36: results and texts of any size, in bounded memory, and no text is too much."""

import threading
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from tests.support.system import wait_until
from tests.system.differential import (
    COPY_DONE,
    READY,
    SYNC,
    Differential,
    Peer,
    Until,
    copy_data,
    make_differential,
    query,
    run,
    sqlstates,
)

MIB = 1 << 20
BOUND = 48 * MIB
"""What one connection may cost beside the sockets' own buffers."""


@pytest.fixture(scope="module")
def both(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[Differential]:
    yield from make_differential(workspace, primary, standby, "rules-sizes")


def drain(peer: Peer, both: Differential, end: bytes) -> tuple[int, int]:
    """Read to the end without keeping it: how much there was, and the proxy's largest memory."""
    total = peak = 0
    tail = b""
    while not tail.endswith(end):
        data = peer.socket.recv(MIB)
        assert data, "the connection has ended"
        total += len(data)
        tail = (tail + data)[-len(end) :]
        if total // (16 * MIB) != (total - len(data)) // (16 * MIB):
            peak = max(peak, both.proxy.resident_bytes())
    return total, peak


IDLE = b"Z\x00\x00\x00\x05I"


@pytest.mark.parametrize(
    ("sql", "size"),
    [
        ("SELECT repeat('x', 1000000) FROM generate_series(1, 200)", 200_000_000),
        ("SELECT repeat('x', 200000000)", 200_000_000),
        ("SELECT i FROM generate_series(1, 3000000) i", 33_000_000),
        ("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 200000)) TO STDOUT", 200_000_000),
    ],
)
def test_rule_07_a_result_is_as_large_as_it_likes_and_a_client_as_slow(both, sql, size):
    both.usable()
    before = both.proxy.resident_bytes()
    with both.through() as peer:
        peer.send(query(sql))
        peer.wait(Until(b"TH"))
        # Nobody reads now: what the sockets do not hold stays in the server.
        with both.through() as other:
            for _ in range(20):
                assert other.value("SELECT 'meanwhile'") == "meanwhile"
                assert both.proxy.resident_bytes() - before < BOUND
        total, peak = drain(peer, both, IDLE)
        assert total > size * 0.95
        assert peak - before < BOUND
    both.usable()


def test_rule_07_a_copy_is_as_large_as_it_likes_and_a_server_as_slow(both):
    both.sql("DROP TABLE IF EXISTS large; CREATE TABLE large (line text)")
    before = both.proxy.resident_bytes()
    piece = copy_data((b"x" * 999 + b"\n") * 1000)
    count = 150
    sent = threading.Event()
    with both.through() as peer, Peer(both.server.port) as holder:
        holder.ask(query("BEGIN; LOCK TABLE large"))
        peer.send(query("COPY large FROM STDIN"))

        def send() -> None:
            for _ in range(count):
                peer.socket.sendall(piece)
            peer.socket.sendall(COPY_DONE)
            sent.set()

        sender = threading.Thread(target=send)
        sender.start()
        try:
            # The server takes nothing: the client is held back, and so is the proxy's memory.
            wait_until(lambda: both.row("SELECT count(*) FROM pg_locks WHERE NOT granted")[0] == 1)
            assert not sent.wait(0.5)
            assert both.proxy.resident_bytes() - before < BOUND
        finally:
            holder.ask(query("COMMIT"))
            peer.socket.settimeout(60)
            frames = peer.wait(READY)
            sender.join()
        assert b"".join(frame.tag for frame in frames) == b"GCZ"
        assert both.proxy.resident_bytes() - before < BOUND
    assert both.row("SELECT count(*), sum(length(line)) FROM large") == (150_000, 149_850_000)


DEEP = {
    "sum": "SELECT " + "1+" * 24_000 + "1",
    "parentheses": "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "open": "SELECT " + "(" * 50_000,
    "not": "SELECT " + "NOT " * 30_000 + "true",
    "case": "SELECT " + "CASE WHEN true THEN " * 8_000 + "1" + " END" * 8_000,
    "array": "SELECT " + "ARRAY[" * 8_000 + "1" + "]" * 8_000,
    "select": "SELECT " + "(SELECT " * 5_000 + "1" + ")" * 5_000,
    "union": "SELECT 1" + " UNION ALL SELECT 1" * 3_000,
    "in": "SELECT 1 IN (" + ",".join(map(str, range(100_000))) + ")",
    # PostgreSQL itself takes a minute for 50,000 of these.
    "comment": "/*" * 2_000 + "*/" * 2_000 + "SELECT 1",
    "many": "SELECT 1;" * 3_000,
    "empty": ";" * 200_000,
    "identifier": 'SELECT 1 AS "' + "x" * 500_000 + '"',
    "dollar": "SELECT $a$" + "$" * 500_000 + "$a$",
    "unended": "SELECT '" + "'" * 400_001,
}


@pytest.mark.parametrize("kind", DEEP)
def test_rule_36_a_deep_or_long_text_is_answered_as_by_the_server(both, kind):
    text = DEEP[kind]
    script = [query(text), READY]
    if kind not in ("many", "empty"):
        script += [run(text) + SYNC, READY]
    with both.through() as other:
        before = both.proxy.pid
        trace = both.same(script)
        assert sqlstates(trace) in ([], ["54001"] * 2, ["42601"] * 2, ["54011"] * 2)
        assert both.proxy.pid == before
        # Whoever was connected before still is: the process has not died and come again.
        assert other.value("SELECT 'there'") == "there"


def test_rule_36_deep_texts_from_many_clients_at_once_stall_nobody(both):
    peers = [both.through() for _ in range(3)]
    try:
        for peer in peers:
            peer.send(query(DEEP["sum"]) + query(DEEP["open"]) + query(DEEP["in"]))
        for peer in peers:
            peer.wait(Until(b"Z", 3))
    finally:
        for peer in peers:
            peer.socket.close()
    both.usable()
