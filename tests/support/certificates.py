"""Make the certificates that TLS tests need: an authority, a server, a client, and a stranger."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Certificates:
    """PEM files in a directory: an authority and what it signed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._authority_key = ec.generate_private_key(ec.SECP256R1())
        self._authority_name = _name("Headgate Test Authority")
        authority = (
            _builder(self._authority_name, self._authority_name, self._authority_key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._authority_key, hashes.SHA256())
        )
        self.ca = directory / "ca.crt"
        self.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        self.server = self.issue("localhost")
        self.client = self.issue("cert_user")

    def issue(self, common_name: str) -> tuple[Path, Path]:
        """Issue a certificate for a name, also valid for 127.0.0.1; the PEM files of it and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives: list[x509.GeneralName] = [
            x509.DNSName(common_name.replace("_", "-")),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = (
            _builder(_name(common_name), self._authority_name, key)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(self._authority_key, hashes.SHA256())
        )
        cert_path = self.directory / f"{common_name}.crt"
        key_path = self.directory / f"{common_name}.key"
        cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        key_path.chmod(0o600)  # libpq refuses a key that others can read
        return cert_path, key_path


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
    )
