"""
Rule 27: whatever a server says, only the client that it says it to is concerned.

A relay stands between the proxy and PostgreSQL; a marker in a statement makes it speak in the
server's place.
"""

import random
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.chaos import ChaosRelay, Oddity
from tests.support.fuzzing import FUZZ_SECONDS, assert_well, for_some_time, mutated
from tests.support.sessions import few_connections, one
from tests.support.system import RunningProxy, wait_until
from tests.support.wire import RawClient, message, sqlstates

READY = message(b"Z", b"I")
ROW = message(b"T", b"\0\1a\0" + bytes(6) + b"\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0")
VALUE = message(b"D", b"\0\1\0\0\0\1x")


@pytest.fixture(scope="module")
def relay(primary: EmbeddedPostgres) -> Iterator[ChaosRelay]:
    with ChaosRelay(primary.port) as relay:
        yield relay


@pytest.fixture(scope="module")
def gate(workspace: Workspace, relay: ChaosRelay) -> Iterator[RunningProxy]:
    class Behind:
        """The server, through the relay."""

        port = relay.port

    factory = few_connections(workspace, Behind(), None, "hostile", 3)  # type: ignore[arg-type]
    yield factory(
        pool={"size": 3, "query_timeout": "1s", "wait_timeout": "5s"},
        log={"level": "info", "format": "json"},
    )
    factory.close()


ODDITIES = {
    "length-0": Oddity(b"D\0\0\0\0"),
    "length-3": Oddity(b"T\0\0\0\3"),
    "length-negative": Oddity(b"E\xff\xff\xff\xff"),
    "length-huge": Oddity(b"T\x7f\xff\xff\xff"),
    "row-without-end": Oddity(b"D\x7f\xff\xff\xff" + bytes(1000)),
    "unknown-type": Oddity(message(b"?", b"x") + READY),
    "authentication": Oddity(message(b"R", b"\0\0\0\3")),
    "copy-both": Oddity(message(b"W", b"\0\0\0") + READY),
    "ready-twice": Oddity(READY + READY),
    "ready-malformed": Oddity(message(b"Z", b"")),
    "ready-with-odd-status": Oddity(message(b"Z", b"?")),
    "error-without-fields": Oddity(message(b"E", b"\0") + READY),
    "error-empty": Oddity(message(b"E", b"") + READY),
    "error-without-sqlstate": Oddity(message(b"E", b"SERROR\0Mhm\0\0") + READY),
    "error-endless-field": Oddity(message(b"E", b"M" + b"x" * 5000) + READY),
    "fatal": Oddity(message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mgo\0\0")),
    "fatal-then-more": Oddity(message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mgo\0\0") + VALUE + READY),
    "parameter-malformed": Oddity(message(b"S", b"no end") + READY),
    "parameter-empty": Oddity(message(b"S", b"") + READY),
    "notification-malformed": Oddity(message(b"A", b"\0") + READY),
    "completion-out-of-order": Oddity(message(b"1") + message(b"2") + message(b"3") + READY),
    "rows-without-description": Oddity(VALUE * 3 + message(b"C", b"SELECT 3\0") + READY),
    "copy-in-nobody-asked-for": Oddity(message(b"G", b"\0\0\0") + READY),
    "nothing-then-close": Oddity(b""),
    "half-a-message": Oddity(ROW + VALUE[:7]),
    "hangs": Oddity(b"", "hang"),
    "hangs-in-a-row": Oddity(ROW + VALUE[:7], "hang"),
    "endless-notices": Oddity(message(b"N", b"SNOTICE\0C00000\0Mx\0\0") * 100, "endless"),
    "endless-rows": Oddity(ROW + VALUE * 1000, "endless"),
    "more-behind-the-end": Oddity(
        ROW + VALUE + message(b"C", b"SELECT 1\0") + READY + VALUE + READY
    ),
    "ready-once-more": Oddity(ROW + VALUE + message(b"C", b"SELECT 1\0") + READY + READY),
}


def provoke(gate: RunningProxy, relay: ChaosRelay, oddity: Oddity, sql: str) -> list[str]:
    """Have a server say it to one client, who goes away; the SQLSTATEs it was told."""
    relay.oddities = {b"hostile": oddity}
    told: list[str] = []
    with RawClient(gate.port, timeout_s=5.0) as client:
        client.login()
        try:
            told = sqlstates(client.query(sql)[-2000:]) if oddity.then != "endless" else []
            if oddity.then == "endless":
                from proxy.protocol import frontend

                client.send(frontend.encode_query(sql.encode()))
                for _ in range(2000):
                    if client.receive() is None:
                        break
        except (TimeoutError, ConnectionError):
            pass
    relay.oddities = {}
    return told


def assert_others_are_well(gate: RunningProxy, relay: ChaosRelay) -> None:
    with gate.connect() as first, gate.connect(autocommit=False) as second:
        for number in range(6):
            assert one(first, f"SELECT 'a{number}'") == f"a{number}"
            assert one(second, f"SELECT 'b{number}'") == f"b{number}"


TEXTS = ("SELECT 'hostile'", "BEGIN; SELECT 'hostile'", "SET work_mem = '1MB' /* hostile */")


@pytest.mark.parametrize("name", ODDITIES)
def test_rule_27_one_client_is_concerned(gate: RunningProxy, relay: ChaosRelay, name: str) -> None:
    sql = TEXTS[list(ODDITIES).index(name) % len(TEXTS)]
    with gate.connect() as other:
        assert one(other, "SELECT 'before'") == "before"
        for state in provoke(gate, relay, ODDITIES[name], sql):
            assert len(state) == 5 or name.startswith("error")
        assert one(other, "SELECT 'after'") == "after"
    assert_others_are_well(gate, relay)
    # An exception would end that connection only, too.
    assert_well(gate)


def test_memory_stays_bounded_under_an_endless_server(
    gate: RunningProxy, relay: ChaosRelay
) -> None:
    before = gate.resident_bytes()
    relay.oddities = {b"hostile": Oddity(b"N\x0f\xff\xff\xff" + bytes(60_000), "endless")}
    with RawClient(gate.port, timeout_s=20.0) as client:
        client.login()
        from proxy.protocol import frontend

        client.send(frontend.encode_query(b"SELECT 'hostile'"))
        client.until_closed()
    relay.oddities = {}
    # A reply may be 256 MiB long, and is not kept.
    wait_until(lambda: gate.resident_bytes() < before + 100 * 2**20, 10)
    assert_others_are_well(gate, relay)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"X",
        message(b"E", b"SFATAL\0C53300\0Mtoo many\0\0"),
        message(b"R", b"\0\0\0\x63"),
        message(b"R", b"\0\0\0\x0aNOTHING\0\0"),
        message(b"R", b"\0\0\0\0") + message(b"K", b"") + READY,
        message(b"R", b"\0\0\0\0") + READY,
        message(b"v", b"\0\0\0\0"),
        b"R\x7f\xff\xff\xff",
    ],
)
def test_rule_27_hostile_logins(
    workspace: Workspace, primary: EmbeddedPostgres, answer: bytes
) -> None:
    with ChaosRelay(primary.port) as relay:

        class Behind:
            """The server, through the relay."""

            port = relay.port

        factory = few_connections(workspace, Behind(), None, f"login-{abs(hash(answer))}", 2)  # type: ignore[arg-type]
        try:
            gate = factory(
                pool={"size": 2, "connect_timeout": "1s", "wait_timeout": "2s"},
                monitor={"user": "postgres", "database": "template1"},
            )
            relay.oddities = {b"database\0postgres\0": Oddity(answer, "close")}
            with RawClient(gate.port, timeout_s=15.0) as client:
                found = client.login()
                assert found, "no answer at all"
                states = sqlstates(found)
                if not states:
                    # Without BackendKeyData there is no way to cancel, and nothing else is amiss.
                    assert answer == message(b"R", b"\0\0\0\0") + READY
                else:
                    assert len(states) == 1
                    assert states[0][:2] in ("08", "28", "53", "57", "0A"), found
            relay.oddities = {}
            wait_until(lambda: _serves(gate), 15)
        finally:
            factory.close()


def _serves(gate: RunningProxy) -> bool:
    try:
        with gate.connect() as client:
            return bool(one(client, "SELECT true"))
    except Exception:
        return False


@pytest.mark.fuzz
def test_hostile_for_long(gate: RunningProxy, relay: ChaosRelay) -> None:
    def once(dice: random.Random) -> None:
        oddity = dice.choice(list(ODDITIES.values()))
        answer = mutated(oddity.answer or ROW, dice)
        provoke(gate, relay, Oddity(answer, dice.choice(("close", "pass"))), dice.choice(TEXTS))
        assert_others_are_well(gate, relay)

    assert FUZZ_SECONDS > 0
    for_some_time(gate, once)


def test_the_proxy_is_well_afterwards(gate: RunningProxy) -> None:
    assert_well(gate)
