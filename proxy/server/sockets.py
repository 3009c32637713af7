"""
Options of TCP connections, towards clients and towards servers.

A peer whose machine is gone sends nothing, not even an end. The system's own patience is two
hours, for which a client would keep its place, and a statement its client waiting.
"""

import socket
from typing import Final

IDLE_S: Final = 60
INTERVAL_S: Final = 10
PROBES: Final = 6

# Where a system does not have one of them, its own value stands.
_PROBING: Final = (("TCP_KEEPIDLE", IDLE_S), ("TCP_KEEPINTVL", INTERVAL_S), ("TCP_KEEPCNT", PROBES))


def tune(connection: socket.socket) -> None:
    """Send small messages at once, and notice a machine that is gone within two minutes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBING:
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
