"""What the codec and the SCRAM client say of bytes, compared with what real servers say of them."""

import hashlib
import os
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.auth import md5, scram
from proxy.demo.cluster import EmbeddedPostgres
from proxy.errors import ProtocolViolation
from proxy.protocol import backend, frontend, startup, tags
from proxy.protocol.backend import AuthenticationRequest
from tests.support.certificates import Certificates
from tests.support.system import TlsPostgres

opened: list["Wire"] = []


@pytest.fixture(autouse=True)
def close_all() -> Iterator[None]:
    """Leave no connection open, however a test ends."""
    yield
    while opened:
        opened.pop().close()


class Wire:
    """A blocking connection to a server, message by message."""

    def __init__(self, port: int) -> None:
        self.sock: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.received = b""
        opened.append(self)

    def close(self) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def exactly(self, size: int) -> bytes:
        while len(self.received) < size:
            data = self.sock.recv(65_536)
            if not data:
                raise EOFError
            self.received += data
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    def message(self) -> tuple[int, bytes]:
        head = self.exactly(5)
        return head[0], self.exactly(int.from_bytes(head[1:5], "big") - 4)

    def until(self, tag: int) -> bytes:
        """The next message of a type, whatever comes before."""
        found, body = self.message()
        while found != tag:
            assert found != tags.ERROR_RESPONSE, backend.error_fields(body)
            found, body = self.message()
        return body

    def start_tls(self, ca: Path) -> bytes:
        """Ask for TLS; answers the certificate as it came."""
        self.send(startup.SSLRequest().encode())
        assert self.exactly(1) == b"S"
        context = ssl.create_default_context(cafile=str(ca))
        context.check_hostname = False
        wrapped = context.wrap_socket(self.sock)
        self.sock = wrapped
        certificate = wrapped.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate


def begin(port: int, user: str, **more: str) -> Wire:
    """Connect, and send a StartupMessage."""
    wire = Wire(port)
    parameters = {"user": user, "database": "postgres", **more}
    wire.send(startup.StartupMessage.build(tags.PROTOCOL_3_2, parameters).encode())
    return wire


def verdict(wire: Wire) -> tuple[str, str]:
    """SQLSTATE and message of the error that comes next, or ("", "") for ReadyForQuery."""
    tag, body = wire.message()
    while tag not in (tags.ERROR_RESPONSE, tags.READY_FOR_QUERY):
        tag, body = wire.message()
    if tag == tags.READY_FOR_QUERY:
        return "", ""
    fields = backend.error_fields(body)
    return backend.sqlstate_of(fields), backend.message_of(fields)


# -- the first packet

FIRST_PACKETS = [
    b"\0\3\0\0",
    b"\0\3\0\0\0",
    b"\0\3\0\0user\0postgres\0",
    b"\0\3\0\0user\0postgres\0odd\0\0\0x",
    b"\0\3\0\0user\0postgres\0\0x",
    b"\0\3\0\0user\0\0\0",
    b"\0\3\0\0user",
    b"\0\4\0\0user\0postgres\0\0",
    b"\0\3\0\0user\0nobody\0user\0postgres\0\0",
    b"\0\3\0\0user\0postgres\0database\0postgres\0\0",
]


@pytest.mark.parametrize("body", FIRST_PACKETS)
def test_first_packets(primary: EmbeddedPostgres, body: bytes) -> None:
    packet = (len(body) + 4).to_bytes(4, "big") + body
    wire = Wire(primary.port)
    wire.send(packet)
    theirs = verdict(wire)
    ours = ("", "")
    try:
        startup.decode_first(packet)
    except ProtocolViolation as violation:
        ours = (violation.sqlstate, violation.message)
    assert ours == theirs


@pytest.mark.parametrize(
    "options",
    [
        "-c work_mem=5MB",
        "-cwork_mem=5MB",
        "--work_mem=5MB",
        "--work-mem=5MB",
        "-S 5MB",
        r"-c application_name=a\ b\\c",
        "-e -s -O",
        "-ec work_mem=5MB",
        "-fs -fi -fo -fb -ft -fn -fm -fh",
        "-tpa -tpl -te",
        "-n -T -j",
        "--",
        "-c work_mem=5MB --",
        "nonsense",
        "-",
        "\\",
        "-c",
        "-c work_mem",
        "--work_mem",
        "-q",
        "-fx",
        "-tx",
        "-- x",
        "-c work_mem=5MB x",
    ],
)
def test_options(primary: EmbeddedPostgres, options: str) -> None:
    wire = begin(primary.port, "postgres", options=options)
    theirs = verdict(wire)
    ours = ("", "")
    settings: list[tuple[str, str]] = []
    try:
        settings = startup.parse_options(options)
    except ProtocolViolation as violation:
        ours = (violation.sqlstate, violation.message)
    assert ours == theirs
    if theirs == ("", ""):
        # What was unfolded has the same effect.
        folded = values_of(primary, options, [name for name, _ in settings])
        unfolded = values_of(primary, "", [name for name, _ in settings], dict(settings))
        assert folded == unfolded


def values_of(
    server: EmbeddedPostgres,
    options: str,
    names: list[str],
    parameters: dict[str, str] | None = None,
) -> list[bytes | None]:
    """What settings are in a session with these options and startup parameters."""
    wire = begin(server.port, "postgres", options=options, **(parameters or {}))
    wire.until(tags.READY_FOR_QUERY)
    found: list[bytes | None] = []
    for name in names:
        wire.send(frontend.Query(b"SHOW " + name.encode()).encode())
        found += backend.data_row_values(wire.until(tags.DATA_ROW))
        wire.until(tags.READY_FOR_QUERY)
    return found


# -- messages


@pytest.mark.parametrize(
    ("tag", "body"),
    [
        (tags.QUERY, b"SELECT 1"),
        (tags.QUERY, b"SELECT 1\0; SELECT 2\0"),
        (tags.PARSE, b"\0SELECT 1\0"),
        (tags.PARSE, b"\0SELECT 1\0\0\1"),
        (tags.PARSE, b"\0SELECT 1\0\0\0x"),
        (tags.BIND, b"\0\0\0\2\0\0\0\0\0\1\0\0\0\1x\0\0"),
        (tags.BIND, b"\0\0\0\0\0\1\xff\xff\xff\xfe\0\0"),
        (tags.BIND, b"\0\0\0\0\0\1\0\0\0\7ab\0\0"),
        (tags.BIND, b"\0\0\0\0\0\1\xff\xff\xff\xff\0\0x"),
        (tags.DESCRIBE, b""),
        (tags.DESCRIBE, b"X\0"),
        (tags.DESCRIBE, b"Sname"),
        (tags.CLOSE, b"X\0"),
        (tags.CLOSE, b"S\0x"),
        (tags.EXECUTE, b"\0\0\0\0"),
        (tags.EXECUTE, b"\0\0\0\0\0x"),
        (tags.FUNCTION_CALL, b"\0\0\0"),
        (tags.SYNC, b"x"),
        (tags.FLUSH, b"x"),
    ],
)
def test_malformed_messages(primary: EmbeddedPostgres, tag: int, body: bytes) -> None:
    wire = begin(primary.port, "postgres")
    wire.until(tags.READY_FOR_QUERY)
    if tag == tags.BIND:
        wire.send(frontend.Parse(b"", b"SELECT $1::text", []).encode())
    whole = bytes((tag,)) + (len(body) + 4).to_bytes(4, "big") + body
    wire.send(whole + frontend.SYNC)
    theirs = verdict(wire)
    assert theirs[0] == "08P01"
    with pytest.raises(ProtocolViolation) as caught:
        decode(tag, body)
    assert (caught.value.sqlstate, caught.value.message) == theirs


def decode(tag: int, body: bytes) -> object:
    """Decode a frontend message of any of these types."""
    if tag == tags.QUERY:
        return frontend.Query.decode(body)
    if tag == tags.PARSE:
        return frontend.Parse.decode(body)
    if tag == tags.BIND:
        return frontend.Bind.decode(body)
    if tag == tags.DESCRIBE:
        return frontend.Describe.decode(body)
    if tag == tags.CLOSE:
        return frontend.Close.decode(body)
    if tag == tags.EXECUTE:
        return frontend.Execute.decode(body)
    if tag == tags.FUNCTION_CALL:
        return frontend.FunctionCall.decode(body)
    if tag == tags.SYNC:
        return frontend.Sync.decode(body)
    return frontend.Flush.decode(body)


# -- logins


def log_in(
    wire: Wire,
    password: str = "",
    keys: tuple[bytes, bytes] = (b"", b""),
    binding: bytes = b"",
) -> scram.ScramClient | None:
    """Go through SCRAM; answers the client's side, None when the server refuses."""
    request = AuthenticationRequest.decode(wire.until(tags.AUTHENTICATION))
    assert request.code == backend.AUTH_SASL
    client = scram.ScramClient(
        "",
        os.urandom(18),
        backend.sasl_mechanisms(request.data),
        password,
        keys[0],
        keys[1],
        binding,
    )
    wire.send(frontend.SASLInitialResponse(client.mechanism, client.first()).encode())
    request = AuthenticationRequest.decode(wire.until(tags.AUTHENTICATION))
    assert request.code == backend.AUTH_SASL_CONTINUE
    wire.send(frontend.SASLResponse(client.final(request.data)).encode())
    tag, body = wire.message()
    if tag == tags.ERROR_RESPONSE:
        return None
    request = AuthenticationRequest.decode(body)
    assert request.code == backend.AUTH_SASL_FINAL
    assert client.verify(request.data)
    assert AuthenticationRequest.decode(wire.until(tags.AUTHENTICATION)).code == backend.AUTH_OK
    return client


def test_scram_login_with_a_password_and_then_with_its_keys(tls_postgres: TlsPostgres) -> None:
    wire = begin(tls_postgres.port, "scram_user")
    first = log_in(wire, "scram-secret")
    assert first is not None
    wire = begin(tls_postgres.port, "scram_user")
    second = log_in(wire, "", (first.client_key, first.server_key))
    assert second is not None
    assert (second.salt, second.iterations) == (first.salt, first.iterations)


def test_scram_login_with_a_wrong_password(tls_postgres: TlsPostgres) -> None:
    wire = begin(tls_postgres.port, "scram_user")
    assert log_in(wire, "wrong") is None


@pytest.mark.parametrize("is_right", [True, False])
def test_scram_plus_login(
    tls_postgres: TlsPostgres, certificates: Certificates, is_right: bool
) -> None:
    wire = Wire(tls_postgres.port)
    binding = hashlib.sha256(wire.start_tls(certificates.ca)).digest()
    if not is_right:
        binding = bytes(32)
    message = startup.StartupMessage.build(tags.PROTOCOL_3_0, {"user": "tls_user"})
    wire.send(message.encode())
    client = log_in(wire, "tls-secret", binding=binding)
    assert (client is not None) is is_right
    if client is not None:
        assert client.mechanism == scram.MECHANISM_PLUS


PASSWORDS = [
    "IX\u00adpa\u00a0ss",
    "\u2168\ufb01",
    "a\ue000",
    "\u0627\u0031",
    "\u0627a\u0628",
    "\u0627\u0031\u0628",
    "\U0001f600",
    "a\u200b b",
    "tab\tbell\x07",
    "\u00ad",
    "\u1e9b\u0323",
    "\U0002f868",
]


def test_passwords_are_prepared_as_the_server_does(tls_postgres: TlsPostgres) -> None:
    for number, password in enumerate(PASSWORDS):
        role = f"prepared_{number}"
        tls_postgres.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
        wire = begin(tls_postgres.port, role)
        assert log_in(wire, password) is not None, ascii(password)


def test_stored_secrets_are_understood(tls_postgres: TlsPostgres) -> None:
    rows = tls_postgres.execute(
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('scram_user', 'md5_user')"
    )
    stored = dict(rows)
    secret = scram.ScramSecret.parse(stored["scram_user"])
    assert secret.format() == stored["scram_user"]
    assert scram.verify_password(secret, "scram-secret")
    assert md5.build_secret("md5_user", "md5-secret") == stored["md5_user"]


def test_md5_login(tls_postgres: TlsPostgres) -> None:
    wire = begin(tls_postgres.port, "md5_user")
    request = AuthenticationRequest.decode(wire.until(tags.AUTHENTICATION))
    assert request.code == backend.AUTH_MD5_PASSWORD
    answer = md5.response(md5.build_secret("md5_user", "md5-secret"), request.data)
    wire.send(frontend.PasswordMessage(answer).encode())
    request = AuthenticationRequest.decode(wire.until(tags.AUTHENTICATION))
    assert request.code == backend.AUTH_OK


# -- what servers send


def test_keys_and_versions(primary: EmbeddedPostgres, tls_postgres: TlsPostgres) -> None:
    wire = begin(primary.port, "postgres")
    key = backend.BackendKeyData.decode(wire.until(tags.BACKEND_KEY_DATA))
    assert len(key.secret_key) == 32
    wire = begin(tls_postgres.port, "scram_user", **{"_pq_.unheard_of": "1"})
    answer = backend.NegotiateProtocolVersion.decode(wire.until(tags.NEGOTIATE_PROTOCOL_VERSION))
    assert (answer.newest_minor, answer.unrecognized) == (0, [b"_pq_.unheard_of"])


def test_results(primary: EmbeddedPostgres) -> None:
    wire = begin(primary.port, "postgres")
    wire.until(tags.READY_FOR_QUERY)
    wire.send(frontend.encode_query(b"SELECT 1 AS one, NULL::text AS nothing, 'x'::name"))
    body = wire.until(tags.ROW_DESCRIPTION)
    columns = backend.columns_of(body)
    assert [(column.name, column.type_oid, column.type_size) for column in columns] == [
        (b"one", 23, 4),
        (b"nothing", 25, -1),
        (b"name", 19, 64),
    ]
    assert backend.encode_columns(columns)[5:] == body
    assert (
        backend.row_description(
            [(column.name, column.type_oid, column.type_size, column.format) for column in columns]
        )[5:]
        == body
    )
    body = wire.until(tags.DATA_ROW)
    assert backend.data_row_values(body) == [b"1", None, b"x"]
    assert backend.data_row([b"1", None, b"x"])[5:] == body
    tag = backend.command_tag_of(wire.until(tags.COMMAND_COMPLETE))
    assert (tag, backend.rows_of_tag(tag)) == (b"SELECT 1", 1)
    wire.until(tags.READY_FOR_QUERY)
