"""
Ports that no other test process takes at the same moment.

Asking the kernel for a free port and closing it again is a race between parallel workers.
Here a port is held by a lock on a file for as long as this process lives, and ports lie
below the range that the kernel gives to outgoing connections.
"""

import fcntl
import os
import socket
import tempfile
from pathlib import Path

_FIRST_PORT = 15_000
_LAST_PORT = 31_000
_held: dict[int, int] = {}


def take_port() -> int:
    """Take a free TCP port of 127.0.0.1, for this process, until it ends."""
    directory = Path(tempfile.gettempdir()) / f"headgate-test-ports-{os.geteuid()}"
    directory.mkdir(exist_ok=True)
    span = _LAST_PORT - _FIRST_PORT
    # Workers start at different places, so that they seldom meet.
    start = (os.getpid() * 61 + len(_held)) % span
    for step in range(span):
        port = _FIRST_PORT + (start + step) % span
        if port in _held:
            continue
        descriptor = os.open(directory / f"{port}.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        if _is_free(port):
            _held[port] = descriptor
            return port
        os.close(descriptor)
    raise RuntimeError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # A listener that has just ended leaves connections in TIME_WAIT, which are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
