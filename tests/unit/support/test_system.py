"""The tests' own tools: the TOML writer, merging, metrics, TLS server."""

import tomllib

import psycopg
import pytest

from tests.support.system import Metrics, TlsPostgres, merged, to_toml, wait_until


def test_toml_writer_round_trips_what_configurations_hold() -> None:
    document = {
        "listen": {"port": 1, "tls": {"mode": "allow"}, "host": ["a", 'b"\\']},
        "node": [{"name": "pg1", "weight": 1}, {"name": "pg2", "tls": {"ca": ""}}],
        "plugins": {"settings": {"no-drop": {"enabled": True, "config": {"tables": ["x"]}}}},
    }
    assert tomllib.loads(to_toml(document)) == document


def test_merge_lays_over_deeply_and_none_removes() -> None:
    base = {"pool": {"mode": "transaction", "size": 20}, "auth": {"method": "trust"}}
    assert merged(base, {"pool": {"size": 1}, "auth": None}) == {
        "pool": {"mode": "transaction", "size": 1}
    }


def test_metrics_sum_over_the_labels_not_named() -> None:
    metrics = Metrics('# TYPE x counter\nx_total{a="1",b="1"} 2\nx_total{a="1",b="2"} 3\n')
    assert metrics.value("x_total", a="1") == 5
    assert metrics.value("x_total", b="2") == 3
    assert metrics.value("y_total") == 0
    assert not metrics.has("y_total")


def test_wait_until_names_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match="the sky falls"):
        wait_until(lambda: False, 0.01, "the sky falls")


@pytest.mark.parametrize(
    ("user", "password"),
    [("scram_user", "scram-secret"), ("md5_user", "md5-secret"), ("tls_user", "tls-secret")],
)
def test_tls_server_authenticates_each_role(
    tls_postgres: TlsPostgres, user: str, password: str
) -> None:
    ca = str(tls_postgres.certificates.ca)
    dsn = tls_postgres.dsn(user=user, password=password, sslmode="verify-full", sslrootcert=ca)
    with psycopg.connect(dsn) as connection:
        assert connection.pgconn.ssl_in_use


def test_tls_server_takes_a_client_certificate(tls_postgres: TlsPostgres) -> None:
    cert, key = tls_postgres.certificates.client
    dsn = tls_postgres.dsn(user="cert_user", sslmode="require", sslcert=str(cert), sslkey=str(key))
    with psycopg.connect(dsn) as connection:
        assert connection.info.user == "cert_user"


def test_tls_only_role_is_refused_without_tls(tls_postgres: TlsPostgres) -> None:
    dsn = tls_postgres.dsn(user="tls_user", password="tls-secret", sslmode="disable")
    with pytest.raises(psycopg.OperationalError, match="pg_hba"):
        psycopg.connect(dsn)
