import base64
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.auth import scram
from proxy.auth.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ScramClient,
    ScramSecret,
    ScramServer,
    build_secret,
    mock_secret,
    verify_password,
)
from proxy.errors import ProtocolViolation
from tests.support import strategies

SALT = b"0123456789abcdef"
FEW = 2
BINDING = b"\x5c" * 32
BOTH = [MECHANISM_PLUS, MECHANISM]
PLAIN = [MECHANISM]
NONCE = b"n" * 18


def server(
    password: str = "secret",
    binding: bytes = b"",
    tls: bool = False,
    mechanism: bytes = b"",
) -> ScramServer:
    """A server's side; few iterations, for speed."""
    return ScramServer(build_secret(password, SALT, FEW), b"s" * 18, binding, tls, mechanism)


def client(password: str = "secret", binding: bytes = b"") -> ScramClient:
    """A client's side towards a server that offers whatever it can."""
    return ScramClient("", NONCE, BOTH if binding else PLAIN, password, b"", b"", binding)


def violation(call: Callable[[bytes], object], message: bytes) -> ProtocolViolation:
    """The error that a message makes."""
    with pytest.raises(ProtocolViolation) as caught:
        call(message)
    return caught.value


# -- RFC 7677, section 3

RFC_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
RFC_CHALLENGE = (
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
)
RFC_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)
RFC_SIGNATURE = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_the_servers_side_of_rfc_7677() -> None:
    secret = build_secret("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    side = ScramServer(secret, b"", b"", False)
    side.nonce = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    assert side.first(RFC_FIRST) == RFC_CHALLENGE
    assert side.client_key == b""
    assert side.final(RFC_FINAL) == RFC_SIGNATURE
    assert len(side.client_key) == 32


def test_the_clients_side_of_rfc_7677() -> None:
    side = ScramClient("user", b"", PLAIN, "pencil")
    side.nonce = b"rOprNGfwEbeRWgbNEkqO"
    assert side.first() == RFC_FIRST
    assert side.final(RFC_CHALLENGE) == RFC_FINAL
    before = side.is_verified
    assert (before, side.verify(RFC_SIGNATURE), side.is_verified) == (False, True, True)
    assert side.iterations == 4096


# -- both sides


@given(strategies.passwords, st.binary(max_size=32), st.booleans())
@settings(max_examples=30)
def test_a_right_password_is_proven_to_both(password: str, binding: bytes, tls: bool) -> None:
    if not tls:
        binding = b""
    theirs = server(password, binding, tls)
    ours = client(password, binding)
    answer = ours.final(theirs.first(ours.first()))
    assert ours.verify(theirs.final(answer))
    assert theirs.client_key == ours.client_key
    assert theirs.nonce == base64.b64encode(b"s" * 18)


@given(strategies.passwords, strategies.passwords)
@settings(max_examples=30)
def test_a_wrong_password_is_an_answer_and_no_exception(right: str, wrong: str) -> None:
    theirs = server(right + "\x01")
    ours = client(wrong)
    answer = ours.final(theirs.first(ours.first()))
    assert theirs.final(answer) == b""
    assert theirs.client_key == b""


def test_keys_that_a_client_proved_open_the_next_server() -> None:
    secret = build_secret("secret", SALT, FEW)
    front = ScramServer(secret, b"1" * 18, b"", False)
    user = client()
    assert front.final(user.final(front.first(user.first()))) != b""
    behind = ScramServer(secret, b"2" * 18, b"", False)
    through = ScramClient("", NONCE, PLAIN, "", front.client_key, secret.server_key)
    assert through.verify(behind.final(through.final(behind.first(through.first()))))


def test_a_server_that_does_not_know_the_secret_is_found_out() -> None:
    theirs = server()
    ours = client()
    answer = ours.final(theirs.first(ours.first()))
    theirs.final(answer)
    assert not ours.verify(b"v=" + base64.b64encode(bytes(32)))
    assert not ours.is_verified


def test_without_a_server_key_no_server_is_believed() -> None:
    secret = build_secret("secret", SALT, FEW)
    known = client()
    known.first()
    known.final(b"r=" + known.nonce + b"x,s=" + base64.b64encode(SALT) + b",i=2")
    ours = ScramClient("", NONCE, PLAIN, "", known.client_key, b"")
    theirs = ScramServer(ScramSecret(FEW, SALT, secret.stored_key, b""), b"s" * 18, b"", False)
    assert not ours.verify(theirs.final(ours.final(theirs.first(ours.first()))))


def test_steps_out_of_order() -> None:
    ours = client()
    for early in (ours.final, ours.verify):
        assert "exchange state" in violation(early, b"x").message
    theirs = server()
    assert "exchange state" in violation(theirs.final, b"x").message
    challenge = theirs.first(ours.first())
    with pytest.raises(ProtocolViolation, match="exchange state"):
        ours.first()
    assert "exchange state" in violation(theirs.first, b"n,,n=,r=x").message
    answer = ours.final(challenge)
    assert "exchange state" in violation(ours.final, challenge).message
    final = theirs.final(answer)
    assert "exchange state" in violation(theirs.final, answer).message
    assert ours.verify(final)
    assert "exchange state" in violation(ours.verify, final).message


def test_after_a_malformed_message_an_exchange_is_over() -> None:
    theirs = server()
    violation(theirs.first, b"rubbish")
    assert "exchange state" in violation(theirs.first, b"n,,n=,r=x").message
    ours = client()
    ours.first()
    violation(ours.final, b"rubbish")
    assert "exchange state" in violation(ours.final, b"rubbish").message


@given(strategies.garbage, st.sampled_from([b"", b"n,,n=,r=", b"c=biws,r=", b"r=", b"v="]))
def test_garbage_raises_only_protocol_violation(data: bytes, lead: bytes) -> None:
    for message in (data, lead + data):
        fresh = server()
        begun = server()
        begun.first(b"n,,n=,r=abc")
        ours = client()
        ours.first()
        answered = client()
        answered.first()
        answered.final(b"r=" + answered.nonce + b"x,s=YQ==,i=1")
        for call in (fresh.first, begun.final, ours.final):
            try:
                call(message)
            except ProtocolViolation:
                continue
        try:
            is_verified = answered.verify(message)
        except ProtocolViolation:
            is_verified = False
        assert not is_verified
        assert begun.client_key == b""


# -- the client's first message


@pytest.mark.parametrize(
    ("message", "sqlstate", "reason"),
    [
        (b"", "08P01", "the message is empty"),
        (b"n,,n=,r=a\x00", "08P01", "message length does not match input length"),
        (b"x,,n=,r=a", "08P01", 'unexpected channel-binding flag "x"'),
        (b"n", "08P01", 'comma expected, but found character ""'),
        (b"nx,n=,r=a", "08P01", 'comma expected, but found character "x"'),
        (b"n,a=root,n=,r=a", "0A000", "authorization identity"),
        (b"n,b,n=,r=a", "08P01", 'unexpected attribute "b" in client-first-message'),
        (b"n,,m=x,n=,r=a", "0A000", "unsupported SCRAM extension"),
        (b"n,,r=a", "08P01", 'attribute "n" expected, but found "r"'),
        (b"n,,n=", "08P01", 'attribute "r" expected, but found ""'),
        (b"n,,n=,r=", "08P01", "the length of the nonce is out of bounds"),
        (b"n,,n=,r=" + b"a" * 1025, "08P01", "the length of the nonce is out of bounds"),
        (b"n,,n=,r=a b", "08P01", "non-printable characters in SCRAM nonce"),
        (b"n,,n=,r=a,1=x", "08P01", "attribute expected"),
        (b"p=tls-server-end-point,,n=,r=a", "08P01", "channel binding, but it is not supported"),
    ],
)
def test_rule_32_first_messages_that_are_refused(
    message: bytes, sqlstate: str, reason: str
) -> None:
    found = violation(server().first, message)
    assert reason in found.message
    assert found.sqlstate == sqlstate


def test_extensions_that_need_not_be_known_are_passed_over() -> None:
    challenge = server().first(b"n,,n=someone,r=abc,x=1,y=2")
    assert challenge.startswith(b"r=abc" + base64.b64encode(b"s" * 18) + b",s=")
    assert challenge.endswith(b",i=2")


# -- channel binding (rule 32)


def test_the_flag_y_is_refused_where_plus_was_offered() -> None:
    found = violation(server(binding=BINDING, tls=True).first, b"y,,n=,r=abc")
    assert found.sqlstate == "28000"
    assert found.message == "SCRAM channel binding negotiation error"


def test_the_flag_y_is_taken_where_plus_was_not_offered() -> None:
    theirs = server()
    ours = ScramClient("", NONCE, PLAIN, "secret", b"", b"", BINDING)
    assert ours.mechanism == MECHANISM
    first = ours.first()
    assert first.startswith(b"y,,")
    assert ours.verify(theirs.final(ours.final(theirs.first(first))))


def test_a_client_that_cannot_bind_is_taken_where_plus_was_offered() -> None:
    theirs = server(binding=BINDING, tls=True, mechanism=MECHANISM)
    ours = client()
    assert ours.verify(theirs.final(ours.final(theirs.first(ours.first()))))


def test_a_binding_to_another_certificate_is_refused() -> None:
    theirs = server(binding=BINDING, tls=True, mechanism=MECHANISM_PLUS)
    ours = client(binding=b"\x00" * 32)
    assert ours.mechanism == MECHANISM_PLUS
    answer = ours.final(theirs.first(ours.first()))
    found = violation(theirs.final, answer)
    assert found.sqlstate == "28000"
    assert found.message == "SCRAM channel binding check failed"
    assert theirs.client_key == b""


def test_a_binding_without_tls_is_refused_whatever_the_caller_has() -> None:
    found = violation(server(binding=BINDING, tls=False).first, b"p=tls-server-end-point,,n=,r=abc")
    assert "it is not supported" in found.message


def test_another_kind_of_binding_is_refused() -> None:
    found = violation(server(binding=BINDING, tls=True).first, b"p=tls-unique,,n=,r=abc")
    assert found.message == 'unsupported SCRAM channel-binding type "tls-unique"'


@pytest.mark.parametrize("flag", [b"n", b"y"])
def test_plus_demands_a_binding(flag: bytes) -> None:
    theirs = server(binding=BINDING, tls=True, mechanism=MECHANISM_PLUS)
    found = violation(theirs.first, flag + b",,n=,r=abc")
    assert "does not include channel binding data" in found.message


def test_without_plus_there_is_no_binding() -> None:
    theirs = server(binding=BINDING, tls=True, mechanism=MECHANISM)
    found = violation(theirs.first, b"p=tls-server-end-point,,n=,r=abc")
    assert "includes channel binding data" in found.message


def test_a_header_that_changes_between_messages_is_refused() -> None:
    theirs = server()
    theirs.first(b"n,,n=,r=abc")
    found = violation(theirs.final, b"c=eSws,r=abc,p=x")
    assert "unexpected SCRAM channel-binding attribute" in found.message


# -- the client's final message


def final_of(change: Callable[[bytes, bytes], bytes]) -> bytes:
    """A right final message (without proof, proof), changed."""
    theirs = server()
    ours = client()
    answer = ours.final(theirs.first(ours.first()))
    bare, _, proof = answer.rpartition(b",p=")
    return theirs.final(change(bare, proof))


def test_extensions_in_the_final_message_are_signed_too() -> None:
    # The proof does not cover what was put in on the way.
    assert final_of(lambda bare, proof: bare + b",x=1,p=" + proof) == b""
    assert final_of(lambda bare, proof: bare + b",p=" + proof) != b""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda bare, proof: bare, "attribute expected"),
        (lambda bare, proof: bare + b",p=" + proof[:-4], "malformed proof"),
        (lambda bare, proof: bare + b",p=" + proof[:-1], "malformed proof"),
        (lambda bare, proof: bare + b",p=" + proof + b",x=1", "garbage found at the end"),
        (lambda bare, proof: bare + b"x,p=" + proof, "nonce does not match"),
        (lambda bare, proof: bare[:-1] + b",p=" + proof, "nonce does not match"),
        (lambda bare, proof: bare[2:] + b",p=" + proof, 'attribute "c" expected'),
    ],
)
def test_final_messages_that_are_refused(
    change: Callable[[bytes, bytes], bytes], reason: str
) -> None:
    with pytest.raises(ProtocolViolation, match=reason):
        final_of(change)


@given(st.integers(0, 31), st.integers(1, 255))
@settings(max_examples=20)
def test_a_proof_changed_anywhere_is_wrong(place: int, difference: int) -> None:
    def change(bare: bytes, proof: bytes) -> bytes:
        raw = bytearray(base64.b64decode(proof))
        raw[place] ^= difference
        return bare + b",p=" + base64.b64encode(raw)

    assert final_of(change) == b""


# -- what a server sends


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"", "nonce does not match"),
        (b"x", 'attribute "s" expected'),
        (b"x,s=,i=1", "invalid salt"),
        (b"x,s=!!!,i=1", "invalid salt"),
        (b"x,s=YQ==", 'attribute "i" expected'),
        (b"x,s=YQ==,i=0", "iteration count is not a number from 1 to 100000"),
        (b"x,s=YQ==,i=-1", "iteration count"),
        (b"x,s=YQ==,i=x", "iteration count"),
        (b"x,s=YQ==,i=100001", "iteration count"),
        (b"x,s=YQ==,i=99999999999999999999", "iteration count"),
        (b"x,s=YQ==,i=1,2=x", "attribute expected"),
        (b"x y,s=YQ==,i=1", "invalid server nonce"),
        (b"x" * 1024 + b",s=YQ==,i=1", "invalid server nonce"),
    ],
)
def test_rule_32_challenges_that_are_refused(rest: bytes, reason: str) -> None:
    ours = client()
    ours.first()
    assert reason in violation(ours.final, b"r=" + ours.nonce + rest).message


def test_rule_32_a_challenge_for_somebody_else() -> None:
    ours = client()
    ours.first()
    found = violation(ours.final, b"r=" + b"x" * 40 + b",s=YQ==,i=1")
    assert found.message == "invalid SCRAM response: nonce does not match"


def test_a_server_that_demands_an_extension() -> None:
    ours = client()
    ours.first()
    assert violation(ours.final, b"m=x,r=" + ours.nonce + b"x,s=YQ==,i=1").sqlstate == "0A000"


def test_extensions_of_a_server_are_passed_over() -> None:
    ours = client()
    ours.first()
    ours.final(b"r=" + ours.nonce + b"x,s=YQ==,i=1,x=1,y=2")
    assert not ours.verify(b"v=" + base64.b64encode(bytes(32)) + b",x=1")


@pytest.mark.parametrize(
    ("message", "sqlstate", "reason"),
    [
        (
            b"e=invalid-proof",
            "28P01",
            "error received from server in SCRAM exchange: invalid-proof",
        ),
        (b"v=YQ==", "08P01", "malformed server signature"),
        (b"x=1", "08P01", 'attribute "v" expected'),
    ],
)
def test_signatures_that_are_none(message: bytes, sqlstate: str, reason: str) -> None:
    ours = client()
    ours.first()
    ours.final(b"r=" + ours.nonce + b"x,s=YQ==,i=1")
    found = violation(ours.verify, message)
    assert reason in found.message
    assert found.sqlstate == sqlstate
    assert not ours.is_verified


@pytest.mark.parametrize(
    ("offered", "binding", "mechanism"),
    [
        (BOTH, BINDING, MECHANISM_PLUS),
        ([MECHANISM_PLUS], BINDING, MECHANISM_PLUS),
        (BOTH, b"", MECHANISM),
        (PLAIN, BINDING, MECHANISM),
    ],
)
def test_which_mechanism_a_client_takes(
    offered: list[bytes], binding: bytes, mechanism: bytes
) -> None:
    assert ScramClient("", NONCE, offered, "x", b"", b"", binding).mechanism == mechanism


@pytest.mark.parametrize("offered", [[], [b"OAUTHBEARER"], [MECHANISM_PLUS]])
def test_no_mechanism_that_a_client_can(offered: list[bytes]) -> None:
    with pytest.raises(ProtocolViolation, match="none of the server's SASL"):
        ScramClient("", NONCE, offered, "x")


# -- secrets


def test_a_secret_as_postgresql_stores_it() -> None:
    text = (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    secret = ScramSecret.parse(text)
    assert secret.iterations == 4096
    assert secret.format() == text
    built = build_secret("pencil", secret.salt)
    assert built.format() == text


@given(
    st.integers(1, scram.MAX_STORED_ITERATIONS),
    st.binary(min_size=1, max_size=40),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
)
def test_a_secret_comes_back(
    iterations: int, salt: bytes, stored_key: bytes, server_key: bytes
) -> None:
    secret = ScramSecret(iterations, salt, stored_key, server_key)
    back = ScramSecret.parse(secret.format())
    assert (back.iterations, back.salt) == (iterations, salt)
    assert (back.stored_key, back.server_key) == (stored_key, server_key)
    assert repr(back) == f"ScramSecret({iterations} iterations)"


KEY = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "SCRAM-SHA-256$",
        "SCRAM-SHA-256$4096:YQ==",
        f"SCRAM-SHA-256$4096${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:YQ==${KEY}",
        f"SCRAM-SHA-256$0:YQ==${KEY}:{KEY}",
        f"SCRAM-SHA-256$2147483648:YQ==${KEY}:{KEY}",
        f"SCRAM-SHA-256$x:YQ==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:YQ=${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:YQ==$YQ==:{KEY}",
        f"SCRAM-SHA-256$4096:YQ==${KEY}:YQ==",
        f"SCRAM-SHA-256$4096:YQ==${KEY}:{KEY}:x",
        f"SCRAM-SHA-256$\u0664096:YQ==${KEY}:{KEY}",
        f"SCRAM-SHA-512$4096:YQ==${KEY}:{KEY}",
    ],
)
def test_what_is_no_secret(text: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        ScramSecret.parse(text)
    assert caught.value.message == "invalid SCRAM secret"


@given(strategies.garbage.map(lambda data: data.decode("utf-8", "replace")))
def test_garbage_is_no_secret(text: str) -> None:
    with pytest.raises(ProtocolViolation):
        ScramSecret.parse(scram.SECRET_PREFIX + text)


def test_a_mock_secret_stays_the_same_and_opens_for_nobody() -> None:
    seed = b"seed" * 8
    mock = mock_secret("nobody", seed)
    assert mock.format() == mock_secret("nobody", seed).format()
    assert len(mock.salt) == scram.SALT_BYTES
    assert mock.iterations == 4096
    assert mock_secret("somebody", seed).salt != mock.salt
    assert mock_secret("nobody", b"other").salt != mock.salt
    assert mock.stored_key != mock.server_key
    # Without a password that would fit, a client goes through the same dialogue and fails.
    mock = mock_secret("nobody", seed, FEW)
    theirs = ScramServer(mock, b"s" * 18, b"", False)
    ours = client("secret")
    assert theirs.final(ours.final(theirs.first(ours.first()))) == b""


@given(strategies.passwords)
@settings(max_examples=20)
def test_a_clear_password_is_checked_by_a_secret(password: str) -> None:
    secret = build_secret(password, SALT, FEW)
    assert verify_password(secret, password)
    assert not verify_password(secret, password + "\x01")


def test_passwords_are_prepared_before_they_are_hashed() -> None:
    assert verify_password(build_secret("\u2168", SALT, FEW), "IX")
    assert verify_password(build_secret("pa\u00a0ss", SALT, FEW), "pa ss")
