"""Both legs notice a machine that is gone."""

import socket

from proxy.server.sockets import IDLE_S, INTERVAL_S, PROBES, tune


def test_gone_machines_are_noticed_within_two_minutes() -> None:
    with socket.socket() as connection:
        tune(connection)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        for name, value in (("KEEPIDLE", IDLE_S), ("KEEPINTVL", INTERVAL_S), ("KEEPCNT", PROBES)):
            option = getattr(socket, f"TCP_{name}", None)
            assert option is None or connection.getsockopt(socket.IPPROTO_TCP, option) == value
    assert IDLE_S + INTERVAL_S * PROBES <= 120
