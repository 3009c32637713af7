"""A login to a scripted server: every method, and every way in which a server can be hostile."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth import md5, scram
from proxy.auth.userstore import Credentials
from proxy.errors import BackendLost
from proxy.protocol import startup
from proxy.server.inbox import Inbox
from proxy.server.login_backend import (
    BackendLogin,
    ServerSecurity,
    VersionRefused,
    login_backend,
)
from tests.unit.server.peers import FakeWire, message

CLEAR = ServerSecurity(False, False, b"")
TLS = ServerSecurity(True, True, b"h" * 32)
AUTH_OK = message(b"R", b"\0\0\0\0")
READY = message(b"Z", b"I")
KEY = message(b"K", b"\0\0\0\7" + b"keys")
PASSWORD = Credentials(password="right")
SECRET = scram.build_secret("right", b"salt" * 4, 4096)


def error(sqlstate: str, text: str) -> bytes:
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{text}\0Hask somebody\0\0"
    return message(b"E", fields.encode())


def auth(code: int, data: bytes = b"") -> bytes:
    return message(b"R", code.to_bytes(4, "big") + data)


class Conversation(FakeWire):
    """A wire whose other end answers what is written, packet by packet."""

    def __init__(self, inbox: Inbox, answer: Callable[[bytes], bytes | None]) -> None:
        super().__init__()
        self.inbox = inbox
        self.answer = answer

    def write(self, data: bytes) -> None:
        super().write(data)
        reply = self.answer(data)
        if reply is None:
            self.inbox.end()
        else:
            self.inbox.feed(reply)


def log_in(
    answer: Callable[[bytes], bytes | None],
    credentials: Credentials = PASSWORD,
    security: ServerSecurity = CLEAR,
    protocol: int = 196610,
) -> Awaitable[BackendLogin]:
    inbox = Inbox()
    return login_backend(
        inbox,
        Conversation(inbox, answer),
        node="pg1",
        database="app",
        user="alice",
        credentials=credentials,
        settings={"application_name": "headgate"},
        security=security,
        protocol=protocol,
        random_bytes=lambda size: b"r" * size,
    )


def replies(*data: bytes | None) -> Callable[[bytes], bytes | None]:
    """Answer one write after the other."""
    left = iter(data)
    return lambda written: next(left)


async def refusal(
    answer: Callable[[bytes], bytes | None],
    credentials: Credentials = PASSWORD,
    security: ServerSecurity = CLEAR,
) -> tuple[str, str]:
    with pytest.raises(BackendLost) as caught:
        await log_in(answer, credentials, security)
    return caught.value.refusal.sqlstate, caught.value.refusal.message


async def test_a_server_that_trusts() -> None:
    written: list[bytes] = []

    def answer(data: bytes) -> bytes:
        written.append(data)
        status = message(b"S", b"server_version\00018.0\0") + message(b"N", b"SNOTICE\0\0")
        return AUTH_OK + status + message(b"A", b"\0\0\0\1c\0p\0") + KEY + READY + b"left"

    inbox = Inbox()
    login = await login_backend(
        inbox,
        Conversation(inbox, answer),
        node="pg1",
        database="app",
        user="alice",
        credentials=Credentials(),
        settings={"application_name": "headgate"},
        security=CLEAR,
    )
    assert login.parameters == {b"server_version": b"18.0"}
    assert (login.process_id, login.secret_key, login.protocol) == (7, b"keys", 196610)
    assert inbox.rest() == b"left"
    sent = startup.decode_first(written[0])
    assert isinstance(sent, startup.StartupMessage)
    assert sent.protocol == 196610
    assert sent.parameters == {
        "user": "alice",
        "database": "app",
        "application_name": "headgate",
    }


@pytest.mark.parametrize("version", [b"\0\3\0\0", b"\0\0\0\0"])
async def test_rule_30_an_older_server_negotiates_down(version: bytes) -> None:
    negotiate = message(b"v", version + b"\0\0\0\0")
    login = await log_in(replies(negotiate + AUTH_OK + KEY + READY))
    assert login.protocol == 196608


async def test_rule_30_a_server_cannot_negotiate_up() -> None:
    negotiate = message(b"v", b"\0\3\0\2" + b"\0\0\0\0")
    with pytest.raises(BackendLost, match=r"3\.2"):
        await log_in(replies(negotiate + AUTH_OK + KEY + READY), protocol=196608)


async def test_a_server_that_knows_only_its_own_version() -> None:
    with pytest.raises(VersionRefused):
        await log_in(replies(error("0A000", "unsupported frontend protocol 3.2")))
    with pytest.raises(VersionRefused):
        await log_in(replies(error("08P01", "unsupported protocol")))
    with pytest.raises(BackendLost):
        await log_in(replies(error("0A000", "unsupported frontend protocol 3.0")), protocol=196608)


async def test_long_cancel_keys() -> None:
    key = message(b"K", b"\0\0\0\7" + b"k" * 256)
    assert (await log_in(replies(AUTH_OK + key + READY))).secret_key == b"k" * 256
    too_long = message(b"K", b"\0\0\0\7" + b"k" * 257)
    assert (await refusal(replies(AUTH_OK + too_long + READY)))[0] == "08P01"


async def test_the_servers_own_sqlstate_is_kept() -> None:
    with pytest.raises(BackendLost) as caught:
        await log_in(replies(error("3D000", 'database "app" does not exist')))
    found = caught.value.refusal
    assert (found.sqlstate, found.message) == ("3D000", 'database "app" does not exist')
    assert (found.hint, found.severity) == ("ask somebody", "FATAL")
    after = replies(AUTH_OK + error("57P03", "the database system is starting up"))
    assert (await refusal(after))[0] == "57P03"


async def test_a_clear_password_only_where_nobody_listens() -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes:
        seen.append(data)
        return auth(3) if len(seen) == 1 else AUTH_OK + KEY + READY

    await log_in(answer, security=TLS)
    assert seen[1] == message(b"p", b"right\0")
    seen.clear()
    sqlstate, text = await refusal(answer)
    assert sqlstate == "28000"
    assert "without TLS" in text
    assert len(seen) == 1


@pytest.mark.parametrize(
    "credentials",
    [PASSWORD, Credentials(md5_secret=md5.build_secret("alice", "right"))],
)
async def test_md5(credentials: Credentials) -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes:
        seen.append(data)
        return auth(5, b"salt") if len(seen) == 1 else AUTH_OK + KEY + READY

    await log_in(answer, credentials)
    expected = md5.response(md5.build_secret("alice", "right"), b"salt")
    assert seen[1] == message(b"p", expected + b"\0")


class ScramScript:
    """A server's side of SCRAM for `log_in`."""

    def __init__(self, offer: list[bytes], binding: bytes = b"", spoil: str = "") -> None:
        self.offer = offer
        self.server = scram.ScramServer(SECRET, b"s" * 18, binding, bool(binding))
        self.spoil = spoil
        self.step = 0
        self.mechanism = b""

    def __call__(self, data: bytes) -> bytes:
        self.step += 1
        if self.step == 1:
            return auth(10, b"".join(name + b"\0" for name in self.offer) + b"\0")
        if self.step == 2:
            self.mechanism, _, rest = data[5:].partition(b"\0")
            return auth(11, self.server.first(rest[4:]))
        final = self.server.final(data[5:])
        if not final:
            return error("28P01", "password authentication failed")
        if self.spoil == "skip":
            return AUTH_OK + KEY + READY
        if self.spoil == "signature":
            final = b"v=" + b"A" * 43 + b"="
        return auth(12, final) + AUTH_OK + KEY + READY


async def test_rule_32_scram() -> None:
    script = ScramScript([scram.MECHANISM])
    await log_in(script)
    assert script.mechanism == scram.MECHANISM
    assert (await refusal(ScramScript([scram.MECHANISM]), Credentials(password="wrong")))[0] == (
        "28P01"
    )


async def test_scram_pass_through_with_keys_alone() -> None:
    probe = scram.ScramClient("", b"c" * 18, [scram.MECHANISM], "right")
    server = scram.ScramServer(SECRET, b"s" * 18, b"", False)
    server.final(probe.final(server.first(probe.first())))
    keys = Credentials(client_key=server.client_key, server_key=SECRET.server_key)
    await log_in(ScramScript([scram.MECHANISM]), keys)


async def test_rule_32_channel_binding_is_used_where_it_is_offered() -> None:
    both = [scram.MECHANISM_PLUS, scram.MECHANISM]
    script = ScramScript(both, binding=TLS.certificate_hash)
    await log_in(script, security=TLS)
    assert script.mechanism == scram.MECHANISM_PLUS
    # Without TLS the offer of -PLUS cannot be meant.
    script = ScramScript(both)
    await log_in(script)
    assert script.mechanism == scram.MECHANISM


@pytest.mark.parametrize(
    ("spoil", "sqlstate", "words"),
    [
        ("signature", "08006", "did not prove that it knows the password"),
        ("skip", "08P01", "ended SCRAM without its signature"),
    ],
)
async def test_rule_32_the_servers_signature_is_verified(
    spoil: str, sqlstate: str, words: str
) -> None:
    found = await refusal(ScramScript([scram.MECHANISM], spoil=spoil))
    assert found[0] == sqlstate
    assert words in found[1]


@pytest.mark.parametrize(
    "first", [b"", b"r=other,s=c2FsdA==,i=4096", b"r=x", b"r=cnJy,s=,i=1", b"\xff\xfe"]
)
async def test_a_senseless_challenge(first: bytes) -> None:
    offer = auth(10, scram.MECHANISM + b"\0\0")
    assert (await refusal(replies(offer, auth(11, first))))[0] == "08P01"


async def test_iterations_that_would_cost_hours_are_refused() -> None:
    seen: list[bytes] = []

    def answer(data: bytes) -> bytes:
        seen.append(data)
        if len(seen) == 1:
            return auth(10, scram.MECHANISM + b"\0\0")
        nonce = data.rpartition(b"r=")[2]
        return auth(11, b"r=" + nonce + b"more,s=c2FsdHNhbHQ=,i=2000000000")

    assert (await refusal(answer))[0] == "08P01"


@pytest.mark.parametrize(
    ("request_bytes", "sqlstate"),
    [(auth(3), "28P01"), (auth(5, b"salt"), "28P01"), (auth(10, b"SCRAM-SHA-256\0\0"), "28P01")],
)
async def test_without_credentials_the_error_says_what_to_do(
    request_bytes: bytes, sqlstate: str
) -> None:
    with pytest.raises(BackendLost) as caught:
        await log_in(replies(request_bytes), Credentials(), TLS)
    assert caught.value.refusal.sqlstate == sqlstate
    assert "users_file" in caught.value.refusal.hint


@pytest.mark.parametrize(
    "data",
    [
        auth(7),
        auth(11, b"x"),
        auth(12, b"x"),
        auth(10, b"OAUTHBEARER\0\0"),
        message(b"R", b""),
        message(b"R", b"\0\0"),
        auth(5, b"sal"),
        READY,
        KEY,
        message(b"T", b"\0\0"),
        AUTH_OK + message(b"Z", b""),
        AUTH_OK + message(b"Z", b"T"),
        AUTH_OK + message(b"D", b"\0\0"),
        AUTH_OK + AUTH_OK,
        AUTH_OK + message(b"K", b"\0"),
        message(b"v", b"\0"),
        message(b"v", b"\0\3\0\1\0\0\0\0"),
        message(b"N", b"SNOTICE\0\0") * 1001,
        b"E\x00\x00\x00\x03",
        b"R\xff\xff\xff\xff",
        message(b"E", b""),
        None,
    ],
)
async def test_rule_27_a_hostile_server_is_only_lost(data: bytes | None) -> None:
    sqlstate, text = await refusal(replies(data, data))
    assert sqlstate in ("08P01", "08004", "08006", "XX000")
    assert text


@given(
    data=st.binary(max_size=120),
    start=st.sampled_from([b"", AUTH_OK, auth(10, b"SCRAM-SHA-256\0\0")]),
)
async def test_rule_27_any_bytes_of_a_server_end_cleanly(data: bytes, start: bytes) -> None:
    inbox = Inbox()
    wire = FakeWire()
    inbox.feed(start + data)
    inbox.end()
    try:
        async with asyncio.timeout(5):
            await login_backend(
                inbox,
                wire,
                node="pg1",
                database="app",
                user="alice",
                credentials=PASSWORD,
                settings={},
                security=CLEAR,
            )
    except (BackendLost, VersionRefused):
        pass
