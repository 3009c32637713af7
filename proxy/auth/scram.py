"""
SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), both sides, as PostgreSQL speaks it.

    client                                             server
    first()   n,,n=,r=CLIENT                       ->  first(...)
    final()   <-  r=CLIENT SERVER,s=SALT,i=COUNT
              c=BINDING,r=CLIENT SERVER,p=PROOF    ->  final(...)
    verify()  <-  v=SIGNATURE

Malformed messages raise ProtocolViolation; a wrong proof or signature is an answer, no exception.
The server side learns the ClientKey from a right proof: with it, and the secret's ServerKey, the
client side can log in to another server that stores the same secret, without any password.
Knows no randomness and no sockets: nonces are arguments.
"""

import hashlib
import hmac
from typing import Final, final

from proxy.auth import saslprep
from proxy.auth.scram_message import (
    AttributeReader,
    check_text,
    count_of,
    decode_base64,
    encode_base64,
    is_printable,
    malformed,
    printable,
    saslname,
)
from proxy.errors import ProtocolViolation

MECHANISM: Final = b"SCRAM-SHA-256"
MECHANISM_PLUS: Final = b"SCRAM-SHA-256-PLUS"
SECRET_PREFIX: Final = "SCRAM-SHA-256$"

DEFAULT_ITERATIONS: Final = 4096
"""PostgreSQL's scram_iterations, and the least that RFC 7677 recommends."""
MAX_STORED_ITERATIONS: Final = 2_147_483_647
"""What PostgreSQL can store; there the client has the work."""
MAX_CLIENT_ITERATIONS: Final = 100_000
"""
The most that a server may ask of this client. Each login to it costs so much processor time, and
libpq, which has no limit, spends its own; a proxy would spend everybody's. 100,000 is pgjdbc's
limit too, and 24 times PostgreSQL's default.
"""

KEY_BYTES: Final = 32
SALT_BYTES: Final = 16
MAX_NONCE_BYTES: Final = 1024

_BINDING_TYPE: Final = b"tls-server-end-point"

# Where an exchange is.
_BEGUN: Final = 0
_CHALLENGED: Final = 1
_ANSWERED: Final = 2
_OVER: Final = 3


@final
class ScramSecret:
    """What PostgreSQL stores of a password: enough to check a client, not to be one."""

    __slots__ = ("iterations", "salt", "server_key", "stored_key")

    def __init__(self, iterations: int, salt: bytes, stored_key: bytes, server_key: bytes) -> None:
        self.iterations = iterations
        self.salt = salt
        self.stored_key = stored_key
        self.server_key = server_key

    @staticmethod
    def parse(text: str) -> "ScramSecret":
        """From `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`, as in pg_authid."""
        head, found, keys = text[len(SECRET_PREFIX) :].partition("$")
        count, found_salt, salt_text = head.partition(":")
        stored_text, found_key, server_text = keys.partition(":")
        if (
            text.startswith(SECRET_PREFIX)
            and found != ""
            and found_salt != ""
            and found_key != ""
            and text.isascii()
        ):
            iterations = count_of(count.encode("ascii"), MAX_STORED_ITERATIONS)
            salt = decode_base64(salt_text.encode("ascii"))
            stored_key = decode_base64(stored_text.encode("ascii"))
            server_key = decode_base64(server_text.encode("ascii"))
            if (
                iterations > 0
                and salt != b""
                and len(stored_key) == KEY_BYTES
                and len(server_key) == KEY_BYTES
            ):
                return ScramSecret(iterations, salt, stored_key, server_key)
        # SAFETY: the text is not shown; parts of it may be right.
        raise ProtocolViolation("invalid SCRAM secret", "XX000")

    def format(self) -> str:
        """As in pg_authid."""
        salt = encode_base64(self.salt).decode("ascii")
        stored_key = encode_base64(self.stored_key).decode("ascii")
        server_key = encode_base64(self.server_key).decode("ascii")
        return f"{SECRET_PREFIX}{self.iterations}:{salt}${stored_key}:{server_key}"

    def __repr__(self) -> str:
        return f"ScramSecret({self.iterations} iterations)"


def build_secret(password: str, salt: bytes, iterations: int = DEFAULT_ITERATIONS) -> ScramSecret:
    """The secret of a password. Takes milliseconds: not for the event loop."""
    salted = _salted_password(password, salt, iterations)
    return ScramSecret(iterations, salt, _hash(_client_key_of(salted)), _server_key_of(salted))


def mock_secret(user: str, seed: bytes, iterations: int = DEFAULT_ITERATIONS) -> ScramSecret:
    """
    A secret for a user that does not exist (rule 31).

    The same at every try, so that its salt tells nothing; with keys that come from no password,
    so that it lets nobody in even where a caller forgets that it is a mock.
    """
    name = user.encode("utf-8", "surrogateescape")
    return ScramSecret(
        iterations,
        _hmac(seed, b"salt\x00" + name)[:SALT_BYTES],
        _hmac(seed, b"StoredKey\x00" + name),
        _hmac(seed, b"ServerKey\x00" + name),
    )


def verify_password(secret: ScramSecret, password: str) -> bool:
    """Check a clear password. Takes milliseconds: not for the event loop."""
    salted = _salted_password(password, secret.salt, secret.iterations)
    return hmac.compare_digest(_server_key_of(salted), secret.server_key)


@final
class ScramServer:
    """
    The server's side of one exchange: `first`, then `final`.

    nonce       the server's part, as it is sent
    client_key  the ClientKey, after `final` found the proof right; b"" before
    """

    __slots__ = (
        "_auth_message",
        "_binding",
        "_client_nonce",
        "_gs2_header",
        "_mechanism",
        "_secret",
        "_state",
        "_tls",
        "client_key",
        "nonce",
    )

    def __init__(
        self,
        secret: ScramSecret,
        nonce: bytes,
        channel_binding_data: bytes,
        tls: bool,
        mechanism: bytes = b"",
    ) -> None:
        """
        Begin.

        nonce                 random bytes, 18 as PostgreSQL; sent in base64
        channel_binding_data  tls-server-end-point hash; b"": -PLUS was not offered
        tls                   the connection is encrypted
        mechanism             which one the client chose; b"": only its message tells
        """
        self._secret = secret
        self.nonce = encode_base64(nonce)
        self._binding = channel_binding_data
        self._tls = tls
        self._mechanism = mechanism
        self._state = _BEGUN
        self._gs2_header = b""
        self._client_nonce = b""
        self._auth_message = b""
        self.client_key = b""

    def first(self, initial_response: bytes) -> bytes:
        """Take the client-first-message; answers the server-first-message."""
        if self._state != _BEGUN:
            raise ProtocolViolation("invalid SCRAM exchange state")
        self._state = _OVER
        check_text(initial_response)
        reader = AttributeReader(initial_response)
        self._read_binding_flag(reader)
        authzid = reader.peek()
        if authzid == b"a":
            raise ProtocolViolation(
                "client uses authorization identity, but it is not supported", "0A000"
            )
        if authzid != b",":
            raise malformed(f'unexpected attribute "{printable(authzid)}" in client-first-message')
        reader.step()
        self._gs2_header = initial_response[: reader.pos]
        bare = initial_response[reader.pos :]
        if reader.peek() == b"m":
            raise ProtocolViolation("client requires an unsupported SCRAM extension", "0A000")
        # The name is ignored, as by PostgreSQL: the startup packet has it.
        reader.take(b"n")
        nonce = reader.take(b"r")
        if not is_printable(nonce):
            raise ProtocolViolation("non-printable characters in SCRAM nonce")
        if nonce == b"" or len(nonce) > MAX_NONCE_BYTES:
            raise malformed("the length of the nonce is out of bounds")
        while not reader.is_at_end():
            reader.take_any()
        self._client_nonce = nonce
        secret = self._secret
        challenge = b"".join(
            (
                b"r=",
                nonce,
                self.nonce,
                b",s=",
                encode_base64(secret.salt),
                b",i=",
                str(secret.iterations).encode("ascii"),
            )
        )
        self._auth_message = bare + b"," + challenge + b","
        self._state = _CHALLENGED
        return challenge

    def final(self, response: bytes) -> bytes:
        """Take the client-final-message; answers the server-final-message, b"" if the proof is wrong."""
        if self._state != _CHALLENGED:
            raise ProtocolViolation("invalid SCRAM exchange state")
        self._state = _OVER
        check_text(response)
        reader = AttributeReader(response)
        self._check_binding(reader.take(b"c"))
        nonce = reader.take(b"r")
        proof_at = reader.pos - 1
        attribute, value = reader.take_any()
        while attribute != b"p":
            proof_at = reader.pos - 1
            attribute, value = reader.take_any()
        proof = decode_base64(value)
        if len(proof) != KEY_BYTES:
            raise malformed("malformed proof in client-final-message")
        if not reader.is_at_end():
            raise malformed("garbage found at the end of client-final-message")
        if not hmac.compare_digest(nonce, self._client_nonce + self.nonce):
            raise ProtocolViolation("invalid SCRAM response: nonce does not match")
        auth_message = self._auth_message + response[:proof_at]
        secret = self._secret
        client_key = _xor(proof, _hmac(secret.stored_key, auth_message))
        if not hmac.compare_digest(_hash(client_key), secret.stored_key):
            return b""
        self.client_key = client_key
        return b"v=" + encode_base64(_hmac(secret.server_key, auth_message))

    def _read_binding_flag(self, reader: AttributeReader) -> None:
        """The gs2-cbind-flag and its comma: n, y, or p=type."""
        flag = reader.peek()
        if flag == b"n" or flag == b"y":
            if self._mechanism == MECHANISM_PLUS:
                raise malformed(
                    "the client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not "
                    "include channel binding data"
                )
            if flag == b"y" and self._binding != b"":
                # SAFETY: somebody between has taken -PLUS out of the offer (rule 32).
                raise ProtocolViolation("SCRAM channel binding negotiation error", "28000")
            reader.step()
            if reader.peek() != b",":
                raise malformed(f'comma expected, but found character "{printable(reader.peek())}"')
            reader.step()
        elif flag == b"p":
            if self._mechanism == MECHANISM:
                raise malformed(
                    "the client selected SCRAM-SHA-256 without channel binding, but the SCRAM "
                    "message includes channel binding data"
                )
            if not self._tls or self._binding == b"":
                raise ProtocolViolation(
                    "client requires SCRAM channel binding, but it is not supported"
                )
            kind = reader.take(b"p")
            if kind != _BINDING_TYPE:
                raise ProtocolViolation(
                    f'unsupported SCRAM channel-binding type "{printable(kind)}"'
                )
        else:
            raise malformed(f'unexpected channel-binding flag "{printable(flag)}"')

    def _check_binding(self, sent: bytes) -> None:
        header = self._gs2_header
        if header[0:1] == b"p":
            if not hmac.compare_digest(sent, encode_base64(header + self._binding)):
                # SAFETY: the client's TLS ends somewhere else than here.
                raise ProtocolViolation("SCRAM channel binding check failed", "28000")
        elif sent != encode_base64(header):
            raise ProtocolViolation(
                "unexpected SCRAM channel-binding attribute in client-final-message"
            )


@final
class ScramClient:
    """
    The client's side of one exchange: `first`, `final`, `verify`.

    mechanism   which one to ask for
    nonce       the client's part, as it is sent
    is_verified the server has proven that it knows the secret
    client_key, server_key, salt, iterations
                what the exchange was made with, after `final`: the keys are good for another login
                while salt and iterations stay the same
    """

    __slots__ = (
        "_auth_message",
        "_bare",
        "_binding_input",
        "_gs2_header",
        "_password",
        "_state",
        "client_key",
        "is_verified",
        "iterations",
        "mechanism",
        "nonce",
        "salt",
        "server_key",
    )

    def __init__(
        self,
        user: str,
        nonce: bytes,
        mechanisms: list[bytes],
        password: str = "",
        client_key: bytes = b"",
        server_key: bytes = b"",
        channel_binding_data: bytes = b"",
    ) -> None:
        """
        Begin, with a password, or else with both keys (then none is derived from a password).

        user                  PostgreSQL ignores it here, and libpq sends ""
        nonce                 random bytes, 18 as PostgreSQL; sent in base64
        mechanisms            what the server offers
        channel_binding_data  tls-server-end-point hash of the server's certificate; b"": no TLS
        """
        offers_plus = MECHANISM_PLUS in mechanisms
        if offers_plus and channel_binding_data != b"":
            self.mechanism = MECHANISM_PLUS
            self._gs2_header = b"p=" + _BINDING_TYPE + b",,"
            self._binding_input = self._gs2_header + channel_binding_data
        elif MECHANISM in mechanisms:
            self.mechanism = MECHANISM
            # "y" tells the server that -PLUS was not seen in its offer, so that it can object.
            self._gs2_header = b"y,," if channel_binding_data != b"" else b"n,,"
            self._binding_input = self._gs2_header
        else:
            raise ProtocolViolation(
                "none of the server's SASL authentication mechanisms are supported"
            )
        self.nonce = encode_base64(nonce)
        self._bare = b"n=" + saslname(user) + b",r="
        self._password = password
        self.client_key = client_key
        self.server_key = server_key
        self.salt = b""
        self.iterations = 0
        self.is_verified = False
        self._auth_message = b""
        self._state = _BEGUN

    def first(self) -> bytes:
        """The client-first-message."""
        if self._state != _BEGUN:
            raise ProtocolViolation("invalid SCRAM exchange state")
        self._state = _CHALLENGED
        return self._gs2_header + self._bare + self.nonce

    def final(self, server_first: bytes) -> bytes:
        """
        Take the server-first-message; answers the client-final-message.

        With a password this takes milliseconds for each 10,000 iterations: not for the event loop.
        """
        if self._state != _CHALLENGED:
            raise ProtocolViolation("invalid SCRAM exchange state")
        self._state = _OVER
        check_text(server_first)
        reader = AttributeReader(server_first)
        if reader.peek() == b"m":
            raise ProtocolViolation("server requires an unsupported SCRAM extension", "0A000")
        nonce = reader.take(b"r")
        if len(nonce) > MAX_NONCE_BYTES or not is_printable(nonce):
            raise malformed("invalid server nonce")
        # SAFETY: a server that adds nothing could replay what it once saw.
        if not nonce.startswith(self.nonce) or len(nonce) == len(self.nonce):
            raise ProtocolViolation("invalid SCRAM response: nonce does not match")
        salt = decode_base64(reader.take(b"s"))
        if salt == b"":
            raise malformed("invalid salt")
        iterations = count_of(reader.take(b"i"), MAX_CLIENT_ITERATIONS)
        if iterations < 1:
            raise malformed(f"iteration count is not a number from 1 to {MAX_CLIENT_ITERATIONS}")
        while not reader.is_at_end():
            reader.take_any()
        self.salt = salt
        self.iterations = iterations
        if self.client_key == b"":
            salted = _salted_password(self._password, salt, iterations)
            self.client_key = _client_key_of(salted)
            self.server_key = _server_key_of(salted)
        without_proof = b"c=" + encode_base64(self._binding_input) + b",r=" + nonce
        self._auth_message = b"".join(
            (self._bare, self.nonce, b",", server_first, b",", without_proof)
        )
        signature = _hmac(_hash(self.client_key), self._auth_message)
        self._state = _ANSWERED
        return without_proof + b",p=" + encode_base64(_xor(self.client_key, signature))

    def verify(self, server_final: bytes) -> bool:
        """Take the server-final-message: tell whether the server knows the secret (rule 32)."""
        if self._state != _ANSWERED:
            raise ProtocolViolation("invalid SCRAM exchange state")
        self._state = _OVER
        check_text(server_final)
        reader = AttributeReader(server_final)
        if reader.peek() == b"e":
            raise ProtocolViolation(
                "error received from server in SCRAM exchange: " + printable(reader.take(b"e")),
                "28P01",
            )
        signature = decode_base64(reader.take(b"v"))
        if len(signature) != KEY_BYTES:
            raise malformed("malformed server signature")
        while not reader.is_at_end():
            reader.take_any()
        expected = _hmac(self.server_key, self._auth_message)
        is_equal = hmac.compare_digest(signature, expected)
        # SAFETY: without a ServerKey anybody can compute what is expected.
        self.is_verified = is_equal and self.server_key != b""
        return self.is_verified


def _salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", saslprep.prepare(password), salt, iterations)


def _client_key_of(salted_password: bytes) -> bytes:
    return _hmac(salted_password, b"Client Key")


def _server_key_of(salted_password: bytes) -> bytes:
    return _hmac(salted_password, b"Server Key")


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(KEY_BYTES, "big")
