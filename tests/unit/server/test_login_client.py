"""A client's login: what a startup packet says, in which order is asked, and how it is refused."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.errors import Refusal
from proxy.hooks.codec import attributes_of
from proxy.server.identity import Identity, LoginHooks, PasswordPrompt
from proxy.server.tls import NO_TLS, ServerTls
from proxy.session.context import ClientContext
from tests.unit.server.guests import Entrance
from tests.unit.server.peers import (
    Door,
    RawClient,
    error_of,
    message,
    open_door,
    packet,
    raw_client,
    startup_packet,
)

OK = (b"R", b"\0\0\0\0")


@contextlib.asynccontextmanager
async def client_of(
    entrance: Entrance, tls: ServerTls = NO_TLS, login_timeout_s: float = 5.0
) -> AsyncIterator[tuple[RawClient, Door]]:
    """A raw client in front of an entrance."""
    async with open_door(entrance, tls=tls, login_timeout_s=login_timeout_s) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            yield client, door


async def greeting(client: RawClient) -> list[bytes]:
    tags: list[bytes] = []
    while not tags or tags[-1] != b"Z":
        tags.append((await client.message())[0])
    return tags


async def test_a_trusted_client_comes_in() -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, door):
        client.send(startup_packet(user="alice", application_name="psql"))
        assert await client.message() == OK
        assert await greeting(client) == [b"S", b"S", b"S", b"K", b"Z"]
        context = entrance.clients[0].context
        assert (context.user, context.database, context.identity) == ("alice",) * 3
        assert context.application_name == "psql"
        assert attributes_of(context) == {
            "application_name": "psql",
            "client_addr": "127.0.0.1",
            "tls": "false",
            "user": "alice",
            "roles": "",
        }
        assert entrance.clients[0].settings == {"application_name": "psql"}
        assert entrance.clients[0].protocol_minor == 0
        assert entrance.admission.inside == ["w0-1"]
        assert door.counters.by_cause == {}


async def test_settings_come_from_the_packet_before_options() -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, _):
        client.send(
            startup_packet(
                user="alice",
                database="app",
                options=r"-c work_mem=1MB --search_path=a\ b -c DateStyle=German",
                work_mem="2MB",
                headgate__branch="dev",
            )
        )
        assert await client.message() == OK
        await greeting(client)
    client_side = entrance.clients[0]
    assert client_side.context.branch == "dev"
    assert client_side.settings == {
        "work_mem": "2MB",
        "search_path": "a b",
        "DateStyle": "German",
    }
    assert client_side.context.startup == {
        **client_side.settings,
        "user": "alice",
        "database": "app",
    }


async def test_a_branch_may_stand_in_options() -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="alice", options="-c headgate.branch=dev"))
        assert await client.message() == OK
    assert entrance.clients[0].context.branch == "dev"
    assert entrance.clients[0].settings == {}


async def test_long_names_are_cut_as_the_server_cuts_them() -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="u" * 80, database="é" * 40))
        assert await client.message() == OK
    context = entrance.clients[0].context
    assert context.user == "u" * 63
    assert context.database == "é" * 31


@pytest.mark.parametrize(
    ("protocol", "options", "announced", "minor"),
    [
        (0x30000, [], None, 0),
        (0x30001, [], None, 0),
        (0x30002, [], None, 2),
        (0x30003, [], (0x30002, []), 2),
        (0x3270F, ["_pq_.x"], (0x30002, ["_pq_.x"]), 2),
        (0x30000, ["_pq_.a", "_pq_.b"], (0x30000, ["_pq_.a", "_pq_.b"]), 0),
    ],
)
async def test_rule_30_negotiation(
    protocol: int, options: list[str], announced: tuple[int, list[str]] | None, minor: int
) -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, _):
        body = b"user\0alice\0" + b"".join(name.encode() + b"\0on\0" for name in options) + b"\0"
        client.send(packet(protocol, body))
        if announced is not None:
            tag, answer = await client.message()
            assert tag == b"v"
            names = b"".join(name.encode() + b"\0" for name in announced[1])
            count = len(announced[1]).to_bytes(4, "big")
            assert answer == announced[0].to_bytes(4, "big") + count + names
        assert await client.message() == OK
        await greeting(client)
    assert entrance.clients[0].protocol_minor == minor
    assert entrance.clients[0].settings == {}


@pytest.mark.parametrize(
    ("first", "sqlstate", "words"),
    [
        (packet(0x20000, b"x" * 40), "0A000", "unsupported frontend protocol 2.0"),
        (packet(0x40000, b"user\0a\0\0"), "0A000", "unsupported frontend protocol 4.0"),
        (startup_packet(database="app"), "28000", "no PostgreSQL user name"),
        (startup_packet(user=""), "28000", "no PostgreSQL user name"),
        (packet(0x30000, b"user\0alice\0"), "08P01", "invalid startup packet layout"),
        (packet(0x30000, b"user\0alice\0\0x"), "08P01", "invalid startup packet layout"),
        (packet(0x30000, b"user\0\xff\xfe\0\0"), "22021", "invalid byte sequence"),
        (startup_packet(user="a", options="--novalue"), "42601", "requires a value"),
        (startup_packet(user="a", replication="true"), "0A000", "replication"),
        (startup_packet(user="a", replication="database"), "0A000", "replication"),
    ],
)
async def test_startup_packets_that_are_refused(first: bytes, sqlstate: str, words: str) -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, door):
        client.send(first)
        fields = error_of(await client.to_end())
        assert (fields["S"], fields["V"], fields["C"]) == ("FATAL", "FATAL", sqlstate)
        assert words in fields["M"]
        assert door.counters.sqlstates == {sqlstate: 1}
    assert entrance.clients == []
    assert entrance.admission.inside == []


@pytest.mark.parametrize("value", ["", "false", "off", "no", "0", "F"])
async def test_no_replication_is_no_replication(value: str) -> None:
    entrance = Entrance("trust")
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="a", replication=value))
        assert await client.message() == OK
    assert entrance.clients[0].settings == {}


@pytest.mark.parametrize(("code", "version"), [(80877103, "1234.5679"), (80877104, "1234.5680")])
async def test_rule_28_a_second_encryption_request(code: int, version: str) -> None:
    async with client_of(Entrance("trust")) as (client, _):
        client.send(packet(code))
        assert await client.read(1) == b"N"
        client.send(packet(code))
        fields = error_of(await client.to_end())
    assert fields["C"] == "0A000"
    assert fields["M"] == (f"unsupported frontend protocol {version}: server supports 3.0 to 3.2")


async def test_a_cancel_request_over_tls(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    class Session:
        cancelled = 0

        def cancel(self) -> None:
            self.cancelled += 1

    session = Session()
    async with client_of(Entrance("trust"), tls=server_tls) as (client, door):
        key = door.cancels.register(session, 0)
        client.send(packet(80877103))
        assert await client.read(1) == b"S"
        await client.start_tls(client_context())
        client.send(packet(80877102, key.process_id.to_bytes(4, "big") + key.secret_key))
        assert await client.to_end() == b""
        assert session.cancelled == 1
        assert door.counters.by_cause == {}


async def test_too_many_clients() -> None:
    entrance = Entrance("trust")
    entrance.admission.full = True
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="a"))
        fields = error_of(await client.to_end())
    assert (fields["S"], fields["C"]) == ("FATAL", "53300")
    assert fields["M"] == "sorry, too many clients already"


async def test_rule_31_an_unknown_database_is_told_after_authentication_only() -> None:
    entrance = Entrance("password", users={"a": "right"})
    entrance.admission.refusal = Refusal("3D000", 'database "nowhere" does not exist')
    for password, sqlstate in ((b"wrong", "28P01"), (b"right", "3D000")):
        async with client_of(entrance) as (client, _):
            client.send(startup_packet(user="a", database="nowhere"))
            assert await client.message() == (b"R", b"\0\0\0\3")
            client.send(message(b"p", password + b"\0"))
            assert error_of(await client.to_end())["C"] == sqlstate
    assert entrance.admission.inside == []


async def test_a_login_that_takes_too_long() -> None:
    entrance = Entrance("password", users={"a": "right"})
    async with client_of(entrance, login_timeout_s=0.1) as (client, door):
        client.send(startup_packet(user="a"))
        assert await client.message() == (b"R", b"\0\0\0\3")
        fields = error_of(await client.to_end())
        assert (fields["S"], fields["C"]) == ("FATAL", "57014")
        assert fields["M"] == "canceling authentication due to timeout"
        assert door.counters.by_cause == {"login_timeout": 1}
    assert entrance.admission.inside == []


async def test_a_client_that_leaves_in_its_login_is_counted_out() -> None:
    entrance = Entrance("password", users={"a": "right"})
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            client.send(startup_packet(user="a"))
            await client.message()
        for connection in door.connections:
            await connection.lost.wait()
        for task in list(door.tasks._running):
            await task
        assert door.counters.by_cause == {"client_left_in_login": 1}
    assert entrance.admission.inside == []


async def test_rule_6_an_oversized_message_before_authentication() -> None:
    entrance = Entrance("password", users={"a": "right"})
    async with client_of(entrance) as (client, door):
        client.send(startup_packet(user="a"))
        await client.message()
        client.send(b"p" + (65_537).to_bytes(4, "big"))
        assert error_of(await client.to_end())["C"] == "08P01"
        assert door.counters.by_cause == {"login_violation": 1}


async def test_rule_6_a_client_that_leaves_inside_tls_is_told_nothing(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    entrance = Entrance("trust")
    async with open_door(entrance, tls=server_tls) as door:
        entrance.door = door
        async with raw_client(door.port, tls=client_context(alpn="postgresql")) as client:
            client.send(b"X\0\0\0\4")
            assert await client.to_end() == b""
        assert door.counters.by_cause == {"login_violation": 1}
    assert entrance.admission.inside == []


async def test_failures_of_an_address_are_limited() -> None:
    entrance = Entrance("password", users={"a": "right"}, max_failures=2)
    for _ in range(2):
        async with client_of(entrance) as (client, _):
            client.send(startup_packet(user="a"))
            await client.message()
            client.send(message(b"p", b"wrong\0"))
            assert error_of(await client.to_end())["C"] == "28P01"
    async with client_of(entrance) as (client, door):
        client.send(startup_packet(user="a"))
        fields = error_of(await client.to_end())
        assert fields["C"] == "28000"
        assert fields["M"] == "too many failed logins from this address"
        assert fields["H"] == "Try again in 30 s."
        assert door.counters.by_cause == {"too_many_failed_logins": 1}
    entrance.now_s += 31
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="a"))
        await client.message()
        client.send(message(b"p", b"right\0"))
        assert await client.message() == OK


class Hooks(LoginHooks):
    """Answers what a test says, and notes the order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.on_connect_answer: Refusal | None = None
        self.answer: Identity | Refusal | None = None
        self.asks = False
        self.password: str | None = None

    async def on_connect(self, context: ClientContext) -> Refusal | None:
        self.calls.append(f"on_connect {context.user}")
        return self.on_connect_answer

    async def authenticate(
        self, context: ClientContext, prompt: PasswordPrompt
    ) -> Identity | Refusal | None:
        self.calls.append("authenticate")
        if self.asks:
            self.password = await prompt.ask()
            assert await prompt.ask() == self.password
        return self.answer


async def test_on_connect_refuses_before_authentication() -> None:
    hooks = Hooks()
    hooks.on_connect_answer = Refusal("42000", "not from here")
    entrance = Entrance("password", users={"a": "x"}, hooks=hooks)
    async with client_of(entrance) as (client, door):
        client.send(startup_packet(user="a"))
        fields = error_of(await client.to_end())
        assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "42000", "not from here")
        assert door.counters.by_cause == {"refused_by_plugin": 1}
    assert hooks.calls == ["on_connect a"]


async def test_an_identity_takes_the_place_of_the_method() -> None:
    hooks = Hooks()
    hooks.answer = Identity(
        "17", "alice@example", ["reader", "eu"], "t1", {"team": "x", "tls": "y"}
    )
    entrance = Entrance("scram-sha-256", hooks=hooks)
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="a"))
        assert await client.message() == OK
    context = entrance.clients[0].context
    assert context.user == "a"
    assert context.identity == "alice@example"
    assert context.roles == ["reader", "eu"]
    assert context.tenant_id == "t1"
    attributes = attributes_of(context)
    assert attributes["roles"] == "reader,eu"
    assert attributes["team"] == "x"
    # What the proxy knows itself is not for a claim to say.
    assert attributes["tls"] == "false"
    assert entrance.clients[0].credentials.is_empty()


async def test_a_denied_client_is_told_and_counted() -> None:
    hooks = Hooks()
    hooks.answer = Refusal("28000", "token expired")
    entrance = Entrance("trust", hooks=hooks, max_failures=1)
    async with client_of(entrance) as (client, door):
        client.send(startup_packet(user="a"))
        fields = error_of(await client.to_end())
        assert (fields["S"], fields["C"], fields["M"]) == ("FATAL", "28000", "token expired")
        assert door.counters.by_cause == {"denied_by_plugin": 1, "authentication_failed": 1}
    assert entrance.limiter.retry_after_s("127.0.0.1", entrance.now_s) > 0


@pytest.mark.parametrize(("password", "is_right"), [(b"right", True), (b"wrong", False)])
async def test_a_hook_that_asks_and_defers_leaves_the_password_to_the_method(
    password: bytes, is_right: bool
) -> None:
    hooks = Hooks()
    hooks.asks = True
    entrance = Entrance("scram-sha-256", users={"a": "right"}, hooks=hooks)
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="a"))
        assert await client.message() == (b"R", b"\0\0\0\3")
        client.send(message(b"p", password + b"\0"))
        if is_right:
            assert await client.message() == OK
        else:
            assert error_of(await client.to_end())["C"] == "28P01"
    assert hooks.password == password.decode()


async def test_a_hook_gets_no_password_without_tls() -> None:
    hooks = Hooks()
    hooks.asks = True
    entrance = Entrance("trust", hooks=hooks, allows_cleartext=False)
    async with client_of(entrance) as (client, _):
        client.send(startup_packet(user="a"))
        assert await client.message() == OK
    assert hooks.password is None
    assert hooks.calls == ["on_connect a", "authenticate"]
