"""
Direct TLS towards a server. No PostgreSQL of the tests has both TLS and version 17, so the server is
another Headgate, which takes direct TLS with ALPN as PostgreSQL 17 does.
"""

from pathlib import Path

import psycopg
import pytest

from proxy.errors import SettingsError
from proxy.settings.load import load
from tests.support.certificates import Certificates


def test_rule_29_direct_tls_towards_a_server(proxy, certificates: Certificates) -> None:
    cert, key = certificates.server
    server = proxy(listen={"tls": {"mode": "require", "cert": str(cert), "key": str(key)}})
    node = {
        "name": "pg1",
        "host": "localhost",
        "port": server.port,
        "tls": {"mode": "verify-full", "ca": str(certificates.ca), "negotiation": "direct"},
    }
    front = proxy(node=[node])
    with psycopg.connect(front.dsn(), autocommit=True) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.execute("SELECT 1/0")


def test_direct_tls_is_refused_where_tls_may_be_missing(tmp_path: Path) -> None:
    config = tmp_path / "headgate.toml"
    config.write_text(
        '[auth]\nmethod = "trust"\n[[node]]\nname = "pg1"\n[node.tls]\nnegotiation = "direct"\n'
    )
    with pytest.raises(SettingsError) as raised:
        load(config, {})
    assert raised.value.problems == [
        f"{config}:6: node[0].tls.negotiation: direct TLS cannot be optional; "
        'expected node.tls.mode "require", "verify-ca" or "verify-full"; got "prefer"'
    ]
