"""
What every fuzz test needs: a live proxy, bytes sent to it, and what it may do then.

Allowed outcomes: well-formed messages, then the end of the connection at the latest when the
client closes its side. Every ErrorResponse has severity, SQLSTATE and a message. The proxy stays
up, and its log has no error of its own.
"""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterator

from tests.support.system import RunningProxy
from tests.support.wire import Message, field, startup_packet

FUZZ_SECONDS = float(os.environ.get("HEADGATE_FUZZ_SECONDS", "60"))
"""How long each of the long tests runs."""

ANSWER_S = 10.0

LOGIN = startup_packet({"user": "postgres", "database": "postgres"})


def exchange(port: int, data: bytes, pieces: int = 1) -> bytes:
    """Send bytes, close the sending side, and give all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        step = max(1, len(data) // pieces)
        # Whoever has heard enough closes before it has read all.
        with contextlib.suppress(OSError):
            for start in range(0, len(data), step):
                connection.sendall(data[start : start + step])
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while True:
                part = connection.recv(65_536)
                if not part:
                    break
                received += part
        return received


def check_messages(data: bytes) -> list[Message]:
    """What the proxy sent is whole messages of a server's, and errors are complete."""
    found: list[Message] = []
    position = 0
    while position < len(data):
        if (
            not found
            and data[position : position + 1] in (b"N", b"S")
            and (len(data) == position + 1 or data[position + 1 : position + 5][:2] != b"\0\0")
        ):
            position += 1  # the answer to an SSLRequest or GSSENCRequest
            continue
        tag = data[position : position + 1]
        assert tag in b"123ACDEGHIKNRSTVZWcdnstv", (tag, data[:200])
        size = int.from_bytes(data[position + 1 : position + 5], "big")
        assert size >= 4, data[:200]
        if position + 1 + size > len(data):
            break  # cut off where the connection ended
        body = data[position + 5 : position + 1 + size]
        if tag == b"E":
            state = field(body, b"C")
            assert len(state) == 5, body
            assert field(body, b"S") in ("ERROR", "FATAL"), body
            assert field(body, b"M"), body
            assert state != "XX000", body
        found.append((tag, body))
        position += 1 + size
    return found


def assert_well(gate: RunningProxy) -> None:
    """The proxy serves, and has nothing to complain of in itself."""
    assert gate.process is not None
    assert gate.process.poll() is None, "the proxy has ended"
    with gate.connect() as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    log = gate.log_text()
    for word in ("Traceback", '"level": "error"', '"level": "critical"', "exception was never"):
        assert word not in log, log[max(0, log.index(word) - 2_000) : log.index(word) + 2_000]


def for_some_time(gate: RunningProxy, once: Callable[[random.Random], None]) -> None:
    """Repeat with other dice until the time is over; a failure names its seed."""
    deadline_s = time.monotonic() + FUZZ_SECONDS
    for seed in seeds():
        if time.monotonic() > deadline_s:
            break
        try:
            once(random.Random(seed))
        except AssertionError as failure:
            raise AssertionError(f"seed {seed}: {failure}") from failure
        if seed % 200 == 0:
            assert_well(gate)
    assert_well(gate)


def seeds() -> Iterator[int]:
    """Different ones in each run; HEADGATE_FUZZ_SEED begins with a given one."""
    seed = int(os.environ.get("HEADGATE_FUZZ_SEED", "0")) or random.randrange(10**9)
    while True:
        yield seed
        seed += 1


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The bytes, with a few of the usual mistakes."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        kind = dice.randrange(6)
        at = dice.randrange(len(changed) + 1)
        if kind == 0 and changed:
            changed[at % len(changed)] = dice.randrange(256)
        elif kind == 1:
            del changed[at : at + dice.randrange(1, 9)]
        elif kind == 2:
            changed[at:at] = dice.randbytes(dice.randrange(1, 9))
        elif kind == 3:
            changed[at : at + 4] = dice.choice(
                (b"\0\0\0\0", b"\0\0\0\3", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff")
            )
        elif kind == 4:
            end = min(len(changed), at + dice.randrange(1, 40))
            changed[at:at] = changed[at:end]
        else:
            del changed[at:]
    return bytes(changed)
