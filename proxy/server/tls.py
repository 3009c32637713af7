"""
TLS contexts for both legs, and what channel binding needs to know of a certificate.

Contexts are made from settings and never changed: a reload makes new ones, and connections that
are there keep theirs. Reads the PEM files; knows no sockets.
"""

import ssl
from pathlib import Path
from typing import Final, final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from proxy.errors import SettingsError
from proxy.settings.model import ListenTls, NodeTls

ALPN_POSTGRESQL: Final = "postgresql"
"""The protocol's name in IANA's registry of ALPN protocol ids."""


@final
class ServerTls:
    """
    TLS as the proxy offers it to clients.

    context           None: not offered
    is_required       clients without it are refused
    certificate_hash  tls-server-end-point channel binding data of the certificate; b"" when its
                      signature has no hash algorithm of its own (Ed25519), then no -PLUS is offered
    """

    __slots__ = ("certificate_hash", "context", "is_required")

    def __init__(
        self, context: ssl.SSLContext | None, is_required: bool, certificate_hash: bytes
    ) -> None:
        self.context = context
        self.is_required = is_required
        self.certificate_hash = certificate_hash


NO_TLS: Final = ServerTls(None, False, b"")


def make_server_tls(settings: ListenTls) -> ServerTls:
    """Make what `[listen.tls]` says. Raises SettingsError."""
    if settings.mode == "disable" or settings.cert is None:
        if settings.mode == "require":
            raise SettingsError(
                ["listen.tls.cert: mode = require needs a certificate; expected the path of one"]
            )
        return NO_TLS
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    if settings.min_version == "1.3":
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    # PostgreSQL resumes no sessions either: a ticket costs memory and a write for each client.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.set_alpn_protocols([ALPN_POSTGRESQL])
    _load_certificate(context, "listen.tls", settings.cert, settings.key)
    if settings.client_ca is not None:
        _load_authorities(context, "listen.tls.client_ca", settings.client_ca)
        # Asked for and verified when shown; whether there must be one is the login's business.
        context.verify_mode = ssl.CERT_OPTIONAL
    certificate = x509.load_pem_x509_certificate(settings.cert.read_bytes())
    return ServerTls(context, settings.mode == "require", end_point_hash(certificate))


def make_node_tls(settings: NodeTls) -> ssl.SSLContext | None:
    """Make what `[node.tls]` says; None: no TLS. Raises SettingsError."""
    if settings.mode == "disable":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    context.set_alpn_protocols([ALPN_POSTGRESQL])
    # libpq's sslmode: prefer and require encrypt and look at no certificate; but like libpq,
    # require with an authority's certificate is verify-ca.
    verifies = settings.mode in ("verify-ca", "verify-full") or (
        settings.mode == "require" and settings.ca is not None
    )
    context.check_hostname = settings.mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if verifies else ssl.CERT_NONE
    if verifies:
        if settings.ca is not None:
            _load_authorities(context, "node.tls.ca", settings.ca)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if settings.cert is not None:
        _load_certificate(context, "node.tls", settings.cert, settings.key)
    return context


def end_point_hash(certificate: x509.Certificate) -> bytes:
    """
    Make the tls-server-end-point binding of a certificate (RFC 5929, section 4.1): its hash with
    its signature's hash algorithm, but SHA-256 in place of MD5 and SHA-1. b"" where there is none.
    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return b""
    if algorithm is None:
        return b""
    if algorithm.name in ("md5", "sha1"):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def peer_end_point_hash(tls: ssl.SSLObject | ssl.SSLSocket) -> bytes:
    """Make the tls-server-end-point binding of the certificate that the peer has shown."""
    der = tls.getpeercert(binary_form=True)
    if not der:
        return b""
    try:
        return end_point_hash(x509.load_der_x509_certificate(der))
    except ValueError:
        return b""


def peer_common_name(tls: ssl.SSLObject | ssl.SSLSocket) -> str:
    """Tell the common name of the peer's verified certificate; "" without one or without a name."""
    if not tls.getpeercert():
        return ""  # none was shown, or none was verified
    der = tls.getpeercert(binary_form=True)
    if not der:
        return ""
    try:
        subject = x509.load_der_x509_certificate(der).subject
    except ValueError:
        return ""
    names = [str(name.value) for name in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    # SAFETY: which of several names counts is ambiguous, and a NUL in one hides what follows.
    if len(names) != 1 or "\x00" in names[0]:
        return ""
    return names[0]


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Renegotiation and compression are what PostgreSQL switches off too.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load_certificate(context: ssl.SSLContext, key: str, cert: Path, private: Path | None) -> None:
    try:
        # A pass phrase would be asked for on a terminal: answer that there is none.
        context.load_cert_chain(cert, private, password=_no_pass_phrase)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SettingsError(
            [
                f"{key}.cert: cannot use {cert} with the key {private or cert}: {_reason(error)}; "
                "expected a PEM certificate chain and its PEM private key without a pass phrase"
            ]
        ) from None


def _no_pass_phrase() -> str:
    raise ValueError("the key has a pass phrase")


def _load_authorities(context: ssl.SSLContext, key: str, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            [f"{key}: cannot use {path}: {_reason(error)}; expected PEM certificates"]
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not a PEM file that OpenSSL can read"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return str(error)
