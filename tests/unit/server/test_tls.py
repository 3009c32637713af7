"""TLS contexts from settings, and channel binding data of certificates."""

import datetime
import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from proxy.errors import SettingsError
from proxy.server.tls import NO_TLS, end_point_hash, make_node_tls, make_server_tls
from proxy.settings.model import ListenTls, NodeTls
from tests.support.certificates import Certificates


def certificate(key: Any, algorithm: hashes.HashAlgorithm | None) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, algorithm)  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [(hashes.SHA256(), "sha256"), (hashes.SHA384(), "sha384"), (hashes.SHA512(), "sha512")],
)
def test_rule_32_the_binding_uses_the_signatures_own_hash(
    algorithm: hashes.HashAlgorithm, digest: str
) -> None:
    made = certificate(ec.generate_private_key(ec.SECP256R1()), algorithm)
    der = made.public_bytes(serialization.Encoding.DER)
    assert end_point_hash(made) == hashlib.new(digest, der).digest()


def test_a_signature_without_a_hash_has_no_binding() -> None:
    assert end_point_hash(certificate(ed25519.Ed25519PrivateKey.generate(), None)) == b""


def test_no_tls_where_there_is_none(certificates: Certificates) -> None:
    cert, key = certificates.server
    assert make_server_tls(ListenTls()) is NO_TLS
    assert make_server_tls(ListenTls(mode="disable", cert=cert, key=key)) is NO_TLS
    with pytest.raises(SettingsError, match=r"listen\.tls\.cert"):
        make_server_tls(ListenTls(mode="require"))


def test_what_is_offered_to_clients(certificates: Certificates) -> None:
    cert, key = certificates.server
    made = make_server_tls(ListenTls(mode="require", cert=cert, key=key, min_version="1.3"))
    assert made.is_required
    assert made.context is not None
    assert made.context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert made.context.verify_mode is ssl.CERT_NONE
    assert made.context.num_tickets == 0
    der = x509.load_pem_x509_certificate(cert.read_bytes()).public_bytes(serialization.Encoding.DER)
    assert made.certificate_hash == hashlib.sha256(der).digest()
    asking = make_server_tls(ListenTls(cert=cert, key=key, client_ca=certificates.ca))
    assert asking.context is not None
    assert asking.context.verify_mode is ssl.CERT_OPTIONAL
    assert asking.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert not asking.is_required


def test_unusable_files_are_named_with_what_was_expected(
    certificates: Certificates, tmp_path: Path
) -> None:
    cert, key = certificates.server
    _, other_key = certificates.client
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    locked = tmp_path / "locked.key"
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    locked.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"phrase"),
        )
    )
    for settings, words in (
        (ListenTls(cert=rubbish, key=key), "listen.tls.cert"),
        (ListenTls(cert=cert, key=other_key), "listen.tls.cert"),
        (ListenTls(cert=cert, key=tmp_path / "missing.key"), "No such file"),
        (ListenTls(cert=cert, key=locked), "pass phrase"),
        (ListenTls(cert=cert, key=key, client_ca=rubbish), "listen.tls.client_ca"),
    ):
        with pytest.raises(SettingsError) as caught:
            make_server_tls(settings)
        assert words in caught.value.problems[0]
        assert "expected" in caught.value.problems[0]


@pytest.mark.parametrize(
    ("mode", "with_ca", "verifies", "checks_name"),
    [
        ("prefer", False, False, False),
        ("require", False, False, False),
        ("require", True, True, False),
        ("verify-ca", True, True, False),
        ("verify-ca", False, True, False),
        ("verify-full", True, True, True),
    ],
)
def test_what_is_asked_of_servers(
    certificates: Certificates, mode: Any, with_ca: bool, verifies: bool, checks_name: bool
) -> None:
    context = make_node_tls(NodeTls(mode=mode, ca=certificates.ca if with_ca else None))
    assert context is not None
    assert (context.verify_mode is ssl.CERT_REQUIRED) == verifies
    assert context.check_hostname == checks_name
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_disabled_towards_a_server() -> None:
    assert make_node_tls(NodeTls(mode="disable")) is None
