"""Server connections: addresses, TLS modes, time limits, second tries, cancel requests."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from proxy.auth.userstore import Credentials, FoundSecret, SecretLookup, UserStore
from proxy.errors import BackendLost, SettingsError
from proxy.observe.counters import Counters
from proxy.protocol import startup
from proxy.server.dial import ServerDialer
from proxy.session.link import BackendLink
from proxy.settings.kinds import Secret
from proxy.settings.model import Database, Node, NodeTls, Pool, Settings
from tests.support.certificates import Certificates
from tests.unit.server.peers import Connection, FakeWire, RawClient, ScriptedServer, message, until

AUTH_OK = message(b"R", b"\0\0\0\0")
WELCOME = AUTH_OK + message(b"K", b"\0\0\0\7keys") + message(b"Z", b"I")
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
Script = Callable[[RawClient], Awaitable[None]]


class Dialing:
    """A dialer to one node, and what it made."""

    def __init__(
        self,
        port: int,
        tls: NodeTls | None = None,
        host: str = "127.0.0.1",
        users: UserStore | None = None,
        databases: tuple[Database, ...] = (),
        connect_timeout_s: float = 5.0,
    ) -> None:
        self.made: list[Connection] = []
        self.counters = Counters()
        self.users = users or UserStore({"alice": "right"}, None, 60.0)
        self.settings = Settings(
            node=(Node(name="pg1", host=host, port=port, tls=tls or NodeTls(mode="disable")),),
            database=databases,
            pool=Pool(connect_timeout=connect_timeout_s),
        )
        self.dialer = ServerDialer(
            self.settings, self.users, self._make, self.counters, lambda: 123.0
        )

    def _make(self) -> Connection:
        connection = Connection()
        self.made.append(connection)
        return connection

    async def open(self, database: str = "app", user: str = "alice") -> BackendLink:
        return await self.dialer.open("pg1", database, user)

    async def lost(self, database: str = "app", user: str = "alice") -> tuple[str, str]:
        with pytest.raises(BackendLost) as caught:
            await self.open(database, user)
        for connection in self.made:
            if connection._wire is not None:
                await connection.lost.wait()
        return caught.value.refusal.sqlstate, caught.value.refusal.message

    async def close(self) -> None:
        for connection in self.made:
            if connection._wire is not None:
                connection.wire.abort()
                await connection.lost.wait()


async def read_startup(peer: RawClient) -> dict[str, str]:
    head = await peer.read(4)
    first = startup.decode_first(head + await peer.read(int.from_bytes(head, "big") - 4))
    assert isinstance(first, startup.StartupMessage)
    return first.parameters


async def trusting(peer: RawClient) -> None:
    await read_startup(peer)
    peer.send(WELCOME)
    await peer.to_end()


async def test_a_link_is_made_of_what_the_server_said() -> None:
    async with ScriptedServer(trusting) as server:
        dialing = Dialing(server.port)
        link = await dialing.open()
        assert (link.node, link.database, link.user) == ("pg1", "app", "alice")
        assert (link.process_id, link.secret_key, link.opened_at_s) == (7, b"keys", 123.0)
        assert dialing.made[0].link is link
        await dialing.close()


async def test_nobody_listens() -> None:
    async with ScriptedServer(trusting) as server:
        port = server.port
    dialing = Dialing(port)
    assert await dialing.lost() == (
        "08006",
        'could not connect to server "pg1": Connection refused',
    )
    assert dialing.counters.by_cause == {"connect_failed": 1}


async def test_a_name_that_does_not_exist() -> None:
    sqlstate, text = await Dialing(5432, host="no-such-host.invalid").lost()
    assert sqlstate == "08006"
    assert "no-such-host" not in text


async def test_a_node_that_is_not_configured() -> None:
    with pytest.raises(BackendLost) as caught:
        await Dialing(1).dialer.open("pg9", "app", "alice")
    assert caught.value.refusal.sqlstate == "08001"


@pytest.mark.parametrize("tls", [NodeTls(mode="disable"), NodeTls(mode="prefer")])
async def test_a_silent_server_costs_connect_timeout_and_no_more(tls: NodeTls) -> None:
    async def silent(peer: RawClient) -> None:
        await peer.to_end()

    async with ScriptedServer(silent) as server:
        dialing = Dialing(server.port, tls, connect_timeout_s=0.1)
        sqlstate, text = await dialing.lost()
        assert sqlstate == "08006"
        assert "within 0.1 s" in text
        assert dialing.counters.by_cause == {"connect_timeout": 1}


@pytest.mark.parametrize(
    ("answer", "mode", "sqlstate", "words"),
    [
        (b"N", "require", "08001", "does not support TLS"),
        (b"N", "verify-full", "08001", "does not support TLS"),
        (b"E", "prefer", "08P01", "neither yes nor no"),
        (b"Sx", "require", "08P01", "unencrypted data"),
        (b"Sx", "prefer", "08P01", "unencrypted data"),
        (b"", "prefer", "08006", "closed the connection"),
    ],
)
async def test_rule_28_answers_to_the_request_for_tls(
    answer: bytes, mode: str, sqlstate: str, words: str
) -> None:
    async def script(peer: RawClient) -> None:
        assert await peer.read(8) == SSL_REQUEST
        peer.send(answer)
        if answer:
            await peer.to_end()

    async with ScriptedServer(script) as server:
        found = await Dialing(server.port, NodeTls(mode=mode)).lost()  # type: ignore[arg-type]
    assert found[0] == sqlstate
    assert words in found[1]


async def test_prefer_goes_on_in_clear_when_the_server_has_no_tls() -> None:
    async def script(peer: RawClient) -> None:
        assert await peer.read(8) == SSL_REQUEST
        peer.send(b"N")
        await trusting(peer)

    async with ScriptedServer(script) as server:
        dialing = Dialing(server.port, NodeTls(mode="prefer"))
        await dialing.open()
        await dialing.close()


def tls_server(certificates: Certificates, name: str, then: Script) -> Script:
    """A server with a certificate for a name (and always for 127.0.0.1)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.issue(name))

    async def script(peer: RawClient) -> None:
        assert await peer.read(8) == SSL_REQUEST
        peer.send(b"S")
        await peer.writer.drain()
        await peer.writer.start_tls(context)
        await then(peer)

    return script


@pytest.mark.parametrize(
    ("mode", "host", "with_ca", "works"),
    [
        ("prefer", "localhost", False, True),
        ("require", "localhost", False, True),
        ("verify-ca", "localhost", True, True),
        ("verify-full", "127.0.0.1", True, True),
        ("verify-full", "localhost", True, False),
        ("verify-ca", "127.0.0.1", False, False),
        ("verify-full", "127.0.0.1", False, False),
    ],
)
async def test_tls_modes(
    certificates: Certificates, mode: str, host: str, with_ca: bool, works: bool
) -> None:
    ca = certificates.ca if with_ca else None
    script = tls_server(certificates, "db.internal", trusting)
    async with ScriptedServer(script) as server:
        tls = NodeTls(mode=mode, ca=ca)  # type: ignore[arg-type]
        dialing = Dialing(server.port, tls, host=host)
        if works:
            await dialing.open()
            await dialing.close()
        else:
            sqlstate, text = await dialing.lost()
            assert sqlstate == "08006"
            assert "certificate is not accepted" in text


@pytest.mark.parametrize("alpn", ["postgresql", "http/1.1", ""])
async def test_rule_29_direct_tls_wants_the_protocols_name_of_a_server(
    certificates: Certificates, alpn: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.issue("db.internal"))
    if alpn:
        context.set_alpn_protocols([alpn])

    async def script(peer: RawClient) -> None:
        await peer.writer.start_tls(context)
        await trusting(peer)

    async with ScriptedServer(script) as server:
        dialing = Dialing(server.port, NodeTls(mode="require", negotiation="direct"))
        if alpn == "postgresql":
            await dialing.open()
            await dialing.close()
        else:
            assert await dialing.lost() == (
                "08001",
                'server "pg1" took direct TLS without ALPN postgresql',
            )


async def test_require_with_an_authority_verifies_as_libpq_does(
    certificates: Certificates, tmp_path: Path
) -> None:
    strangers = Certificates(tmp_path)
    script = tls_server(certificates, "db.internal", trusting)
    async with ScriptedServer(script) as server:
        dialing = Dialing(server.port, NodeTls(mode="require", ca=strangers.ca))
        assert "certificate is not accepted" in (await dialing.lost())[1]


def test_unusable_certificates_are_a_problem_of_the_settings(tmp_path: Path) -> None:
    rubbish = tmp_path / "ca.crt"
    rubbish.write_text("this is no certificate")
    with pytest.raises(SettingsError, match=r'node "pg1": node.tls.ca.*ca\.crt'):
        Dialing(1, NodeTls(mode="verify-ca", ca=rubbish))


async def test_a_unix_socket(tmp_path: Path) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawClient(reader, writer)
        await trusting(peer)
        await peer.close()

    server = await asyncio.start_unix_server(script, str(tmp_path / ".s.PGSQL.5432"))
    # There is no TLS on a Unix socket, whatever is configured.
    dialing = Dialing(5432, NodeTls(mode="require"), host=str(tmp_path))
    await dialing.open()
    await dialing.close()
    server.close()
    await server.wait_closed()


async def test_a_server_that_refuses_3_2_is_asked_with_3_0_from_then_on() -> None:
    versions: list[int] = []

    async def script(peer: RawClient) -> None:
        head = await peer.read(8)
        versions.append(int.from_bytes(head[4:], "big"))
        await peer.read(int.from_bytes(head[:4], "big") - 8)
        if versions[-1] != 196608:
            peer.send(message(b"E", b"SFATAL\0C08P01\0Munsupported protocol\0\0"))
            return
        peer.send(WELCOME)
        await peer.to_end()

    async with ScriptedServer(script) as server:
        dialing = Dialing(server.port)
        await dialing.open()
        await dialing.open()
        await dialing.close()
    assert versions == [196610, 196608, 196608]


def password_server(seen: list[tuple[str, str]], right: Callable[[], str]) -> Script:
    async def script(peer: RawClient) -> None:
        parameters = await read_startup(peer)
        peer.send(message(b"R", b"\0\0\0\5salt"))
        _, body = await peer.message()
        seen.append((parameters["user"], body.decode()))
        from proxy.auth import md5

        expected = md5.response(md5.build_secret(parameters["user"], right()), b"salt")
        if body != expected + b"\0":
            text = "SFATAL\0C28P01\0Mpassword authentication failed\0\0"
            peer.send(message(b"E", text.encode()))
            return
        peer.send(WELCOME)
        await peer.to_end()

    return script


async def test_the_password_of_the_database_entry_is_used_for_its_user() -> None:
    seen: list[tuple[str, str]] = []
    entry = Database(name="app", user="service", password=Secret("right"))
    async with ScriptedServer(password_server(seen, lambda: "right")) as server:
        dialing = Dialing(server.port, databases=(entry,))
        await dialing.open("app", "service")
        await dialing.close()
    assert len(seen) == 1


async def test_rule_33_a_refused_login_is_tried_once_more_with_what_is_known_now() -> None:
    class Lookup(SecretLookup):
        current = "old"

        async def look_up(self, user: str, database: str) -> FoundSecret | None:
            return FoundSecret(self.current, 0.0, True)

    lookup = Lookup()
    users = UserStore({}, lookup, 60.0)
    await users.find("alice", "app", 0.0)
    lookup.current = "new"
    seen: list[tuple[str, str]] = []
    async with ScriptedServer(password_server(seen, lambda: "new")) as server:
        dialing = Dialing(server.port, users=users)
        await dialing.open()
        assert len(seen) == 2
        assert users.credentials("alice").password == "new"
        # Nothing newer: the server's own answer, and no third try.
        lookup.current = "wrong"
        users.forget("alice")
        await users.find("alice", "app", 0.0)
        with pytest.raises(BackendLost) as caught:
            await dialing.open()
        assert caught.value.refusal.sqlstate == "28P01"
        assert len(seen) == 3
        await dialing.close()


async def test_rule_33_keys_that_no_longer_fit_are_forgotten() -> None:
    users = UserStore({}, None, 60.0)
    users.prove("alice", Credentials(password="stale"))
    async with ScriptedServer(password_server([], lambda: "new")) as server:
        assert (await Dialing(server.port, users=users).lost())[0] == "28P01"
    assert users.credentials("alice").is_empty()


def link_for(port: int) -> BackendLink:
    return BackendLink(FakeWire(), "app", "alice", "pg1", 4242, b"k" * 32, {}, 0.0)


async def test_rule_34_a_cancel_waits_until_the_server_has_closed() -> None:
    requests: list[bytes] = []
    release = asyncio.Event()

    async def script(peer: RawClient) -> None:
        requests.append(await peer.read(12 + 32))
        await release.wait()

    async with ScriptedServer(script) as server:
        dialing = Dialing(server.port)
        cancelling = asyncio.ensure_future(dialing.dialer.cancel(link_for(server.port)))
        await until(lambda: requests)
        assert not cancelling.done()
        release.set()
        await cancelling
    request = startup.decode_first(requests[0])
    assert isinstance(request, startup.CancelRequest)
    assert (request.process_id, request.secret_key) == (4242, b"k" * 32)


async def test_a_cancel_goes_over_tls_where_the_node_has_it(certificates: Certificates) -> None:
    requests: list[bytes] = []

    async def take(peer: RawClient) -> None:
        requests.append(await peer.read(12 + 32))

    script = tls_server(certificates, "localhost", take)
    async with ScriptedServer(script) as server:
        tls = NodeTls(mode="verify-full", ca=certificates.ca)
        await Dialing(server.port, tls).dialer.cancel(link_for(server.port))
    assert len(requests) == 1


async def test_a_cancel_that_cannot_be_sent() -> None:
    async with ScriptedServer(trusting) as server:
        port = server.port
    with pytest.raises(BackendLost):
        await Dialing(port).dialer.cancel(link_for(port))


async def test_a_reload_changes_where_to_and_keeps_what_was_when_it_is_wrong(
    tmp_path: Path,
) -> None:
    rubbish = tmp_path / "ca.crt"
    rubbish.write_text("rubbish")
    async with ScriptedServer(trusting) as server:
        dialing = Dialing(server.port)
        wrong = Settings(
            node=(Node(name="pg1", port=1, tls=NodeTls(mode="verify-ca", ca=rubbish)),)
        )
        with pytest.raises(SettingsError):
            dialing.dialer.apply(wrong)
        await dialing.open()
        dialing.dialer.apply(Settings(node=(Node(name="pg2", port=server.port),)))
        with pytest.raises(BackendLost):
            await dialing.open()
        await dialing.close()
