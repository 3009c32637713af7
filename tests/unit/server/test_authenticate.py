"""The methods: right and wrong proofs, unknown users alike, what is learned for the servers."""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable

import pytest

from proxy.auth import md5, scram
from proxy.auth.userstore import Credentials, FoundSecret, UserStore
from proxy.observe.counters import Counters
from proxy.server.authenticate import AuthChoice, Authenticator, OneMethod, new_mock_seed
from proxy.server.tls import NO_TLS, ServerTls
from tests.unit.server.guests import Directory, Entrance, MappedCertificates
from tests.unit.server.peers import (
    RawClient,
    error_of,
    message,
    open_door,
    packet,
    raw_client,
    startup_packet,
)

SALT = b"0123456789abcdef"
STORED = scram.build_secret("right", SALT, 4096).format()
FAILED = 'password authentication failed for user "{}"'


async def log_in_with_password(client: RawClient, user: str, password: bytes) -> dict[str, str]:
    """The error's fields, or none when it was right."""
    client.send(startup_packet(user=user))
    assert await client.message() == (b"R", b"\0\0\0\3")
    client.send(message(b"p", password + b"\0"))
    return await outcome(client)


async def log_in_with_md5(client: RawClient, user: str, password: str) -> dict[str, str]:
    client.send(startup_packet(user=user))
    tag, body = await client.message()
    assert (tag, body[:4], len(body)) == (b"R", b"\0\0\0\5", 8)
    inner = hashlib.md5(password.encode() + user.encode()).hexdigest().encode()
    answer = b"md5" + hashlib.md5(inner + body[4:]).hexdigest().encode()
    client.send(message(b"p", answer + b"\0"))
    return await outcome(client)


class Dance:
    """The client's side of SCRAM, with what the server offered."""

    def __init__(self, client: RawClient, user: str) -> None:
        self.client = client
        self.user = user
        self.challenge = b""
        self.mechanisms: list[bytes] = []

    async def begin(self) -> list[bytes]:
        self.client.send(startup_packet(user=self.user))
        tag, body = await self.client.message()
        assert (tag, body[:4]) == (b"R", b"\0\0\0\x0a")
        self.mechanisms = body[4:].rstrip(b"\0").split(b"\0")
        return self.mechanisms

    async def go_on(self, scram_client: scram.ScramClient) -> dict[str, str]:
        first = scram_client.first()
        self.client.send(
            message(b"p", scram_client.mechanism + b"\0" + len(first).to_bytes(4, "big") + first)
        )
        tag, body = await self.client.message()
        assert (tag, body[:4]) == (b"R", b"\0\0\0\x0b"), body
        self.challenge = body[4:]
        self.client.send(message(b"p", scram_client.final(self.challenge)))
        tag, body = await self.client.message()
        if tag == b"R":
            assert body[:4] == b"\0\0\0\x0c"
            assert scram_client.verify(body[4:])
            return await outcome(self.client)
        return error_of(message(tag, body))


async def log_in_with_scram(
    client: RawClient, user: str, password: str, binding: bytes = b""
) -> tuple[dict[str, str], bytes]:
    dance = Dance(client, user)
    mechanisms = await dance.begin()
    scram_client = scram.ScramClient(
        user, b"n" * 18, mechanisms, password, channel_binding_data=binding
    )
    fields = await dance.go_on(scram_client)
    return fields, dance.challenge


async def outcome(client: RawClient) -> dict[str, str]:
    tag, body = await client.message()
    if (tag, body) == (b"R", b"\0\0\0\0"):
        return {}
    return error_of(message(tag, body))


@pytest.mark.parametrize("secret", ["right", md5.build_secret("a", "right"), STORED])
async def test_password_against_every_kind_of_secret(secret: str) -> None:
    entrance = Entrance("password", users={"a": secret})
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            assert await log_in_with_password(client, "a", b"right") == {}
        for user, wrong in (("a", b"wrong"), ("nobody", b"right")):
            async with raw_client(door.port) as client:
                fields = await log_in_with_password(client, user, wrong)
                assert (fields["C"], fields["M"]) == ("28P01", FAILED.format(user))
        async with raw_client(door.port) as client:
            fields = await log_in_with_password(client, "a", b"")
            assert fields["M"] == "empty password returned by client"
    assert entrance.clients[0].credentials.equals(Credentials(password="right"))


async def test_a_clear_password_is_not_asked_for_without_tls() -> None:
    entrance = Entrance("password", users={"a": "right"}, allows_cleartext=False)
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        client.send(startup_packet(user="a"))
        fields = error_of(await client.to_end())
        assert fields["C"] == "28000"
        assert "not encrypted" in fields["M"]


@pytest.mark.parametrize("secret", ["right", md5.build_secret("a", "right")])
async def test_md5(secret: str) -> None:
    entrance = Entrance("md5", users={"a": secret})
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            assert await log_in_with_md5(client, "a", "right") == {}
        for user, password in (("a", "wrong"), ("nobody", "right")):
            async with raw_client(door.port) as client:
                fields = await log_in_with_md5(client, user, password)
                assert (fields["C"], fields["M"]) == ("28P01", FAILED.format(user))


async def test_md5_means_scram_for_those_with_a_scram_secret() -> None:
    entrance = Entrance("md5", users={"a": STORED})
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        assert (await log_in_with_scram(client, "a", "right"))[0] == {}


async def test_the_hash_of_an_unknown_user_opens_nothing() -> None:
    # The mock hash is known to everybody who reads the source.
    entrance = Entrance("md5", users={"a": "right"})
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        client.send(startup_packet(user="nobody"))
        _, body = await client.message()
        answer = b"md5" + hashlib.md5(b"0" * 32 + body[4:]).hexdigest().encode()
        client.send(message(b"p", answer + b"\0"))
        assert (await outcome(client))["C"] == "28P01"


@pytest.mark.parametrize("secret", ["right", STORED])
async def test_rule_32_scram(secret: str) -> None:
    entrance = Entrance("scram-sha-256", users={"a": secret})
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            assert (await log_in_with_scram(client, "a", "right"))[0] == {}
        async with raw_client(door.port) as client:
            fields, _ = await log_in_with_scram(client, "a", "wrong")
            assert (fields["C"], fields["M"]) == ("28P01", FAILED.format("a"))


async def test_scram_pass_through_learns_keys_of_the_servers_own_secret() -> None:
    entrance = Entrance("scram-sha-256", lookup=Directory({"a": STORED}))
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        assert (await log_in_with_scram(client, "a", "right"))[0] == {}
    learned = entrance.users.credentials("a")
    assert learned.password == ""
    assert len(learned.client_key) == 32
    # With the keys alone one can log in where the same secret is stored.
    server = scram.ScramServer(scram.ScramSecret.parse(STORED), b"s" * 18, b"", False)
    proof = scram.ScramClient(
        "a", b"c" * 18, [scram.MECHANISM], "", learned.client_key, learned.server_key
    )
    final = server.final(proof.final(server.first(proof.first())))
    assert final
    assert proof.verify(final)


async def test_rule_31_an_unknown_user_looks_like_a_known_one_at_every_try() -> None:
    entrance = Entrance("scram-sha-256", users={"a": "right"})
    seen = []
    async with open_door(entrance) as door:
        entrance.door = door
        for user in ("a", "nobody", "nobody"):
            async with raw_client(door.port) as client:
                fields, challenge = await log_in_with_scram(client, user, "wrong")
                assert (fields["C"], fields["M"]) == ("28P01", FAILED.format(user))
                parts = dict(part.split(b"=", 1) for part in challenge.split(b","))
                seen.append((parts[b"s"], parts[b"i"], len(parts[b"r"])))
    known, unknown, unknown_again = seen
    assert known[1:] == unknown[1:]
    assert len(known[0]) == len(unknown[0])
    assert unknown == unknown_again
    assert known[0] != unknown[0]


async def test_rule_31_an_unknown_user_costs_as_much_as_a_wrong_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    derived: list[int] = []
    derive = hashlib.pbkdf2_hmac

    def counted(name: str, password: bytes, salt: bytes, iterations: int) -> bytes:
        derived.append(iterations)
        return derive(name, password, salt, iterations)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    entrance = Entrance("password", users={"a": STORED})
    async with open_door(entrance) as door:
        entrance.door = door
        for user in ("a", "nobody"):
            async with raw_client(door.port) as client:
                fields = await log_in_with_password(client, user, b"wrong")
                assert (fields["C"], fields["M"]) == ("28P01", FAILED.format(user))
    known, unknown = derived
    assert known == unknown


async def test_rule_31_who_is_known_already_waits_as_long_as_who_is_asked_for() -> None:
    class Slow(Directory):
        async def look_up(self, user: str, database: str) -> FoundSecret | None:
            await asyncio.sleep(0.05)
            return await super().look_up(user, database)

    users = UserStore({}, Slow({"a": "right"}), 60.0)
    authenticator = Authenticator(
        OneMethod("password"), users, Counters(), True, time.monotonic, time.time, b"seed"
    )
    assert await authenticator.find("a", "app") is not None
    for _ in range(20):
        assert await authenticator.find("nobody", "app") is None
    started_s = time.monotonic()
    assert await authenticator.find("a", "app") is not None
    assert time.monotonic() - started_s > 0.03


async def test_an_md5_secret_cannot_be_used_with_scram() -> None:
    entrance = Entrance("scram-sha-256", users={"a": md5.build_secret("a", "right")})
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        fields, _ = await log_in_with_scram(client, "a", "right")
        assert fields["C"] == "28P01"


async def test_a_damaged_scram_secret_opens_nothing() -> None:
    entrance = Entrance("scram-sha-256", users={"a": "SCRAM-SHA-256$4096:broken"})
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        fields, _ = await log_in_with_scram(client, "a", "SCRAM-SHA-256$4096:broken")
        assert fields["C"] == "28P01"


async def encrypted(client: RawClient, context: ssl.SSLContext) -> None:
    client.send(packet(80877103))
    assert await client.read(1) == b"S"
    await client.start_tls(context)


async def test_rule_32_channel_binding(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    entrance = Entrance("scram-sha-256", users={"a": "right"})
    async with open_door(entrance, tls=server_tls) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            await encrypted(client, client_context())
            dance = Dance(client, "a")
            assert await dance.begin() == [scram.MECHANISM_PLUS, scram.MECHANISM]
            binding = server_tls.certificate_hash
            bound = scram.ScramClient(
                "a", b"n" * 18, dance.mechanisms, "right", channel_binding_data=binding
            )
            assert bound.mechanism == scram.MECHANISM_PLUS
            assert await dance.go_on(bound) == {}
        async with raw_client(door.port) as client:
            # Without binding it works too: the client may not be able to.
            await encrypted(client, client_context())
            assert (await log_in_with_scram(client, "a", "right"))[0] == {}
        async with raw_client(door.port) as client:
            # Somebody else's certificate: another end of the TLS connection.
            await encrypted(client, client_context())
            dance = Dance(client, "a")
            mechanisms = await dance.begin()
            other = scram.ScramClient(
                "a", b"n" * 18, mechanisms, "right", channel_binding_data=b"x" * 32
            )
            assert (await dance.go_on(other))["C"] == "28000"
        async with raw_client(door.port) as client:
            # The flag y: PLUS was taken out of the offer on the way.
            await encrypted(client, client_context())
            dance = Dance(client, "a")
            await dance.begin()
            first = b"y,,n=,r=abcdefgh"
            client.send(
                message(b"p", scram.MECHANISM + b"\0" + len(first).to_bytes(4, "big") + first)
            )
            assert error_of(await client.to_end())["M"] == (
                "SCRAM channel binding negotiation error"
            )


@pytest.mark.parametrize(
    ("answer", "sqlstate", "words"),
    [
        (message(b"p", b"PLAIN\0\xff\xff\xff\xff"), "08P01", "invalid SASL authentication"),
        (message(b"p", b"SCRAM-SHA-256-PLUS\0\0\0\0\0"), "08P01", "invalid SASL authentication"),
        (message(b"p", b"SCRAM-SHA-256\0\0\0\0\4abc"), "08P01", "insufficient data"),
        (message(b"p", b"SCRAM-SHA-256\0\0\0\0\3abc"), "08P01", "malformed SCRAM message"),
        (message(b"Q", b"SELECT 1\0"), "08P01", "expected SASL response, got message type 81"),
    ],
)
async def test_senseless_sasl_answers(answer: bytes, sqlstate: str, words: str) -> None:
    entrance = Entrance("scram-sha-256", users={"a": "right"})
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        client.send(startup_packet(user="a"))
        await client.message()
        client.send(answer)
        fields = error_of(await client.to_end())
        assert (fields["S"], fields["C"]) == ("FATAL", sqlstate)
        assert words in fields["M"]


async def test_a_client_may_wait_for_an_empty_challenge() -> None:
    entrance = Entrance("scram-sha-256", users={"a": "right"})
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        client.send(startup_packet(user="a"))
        await client.message()
        client.send(message(b"p", b"SCRAM-SHA-256\0\xff\xff\xff\xff"))
        assert await client.message() == (b"R", b"\0\0\0\x0b")
        scram_client = scram.ScramClient("a", b"n" * 18, [scram.MECHANISM], "right")
        client.send(message(b"p", scram_client.first()))
        _, body = await client.message()
        client.send(message(b"p", scram_client.final(body[4:])))
        _, body = await client.message()
        assert scram_client.verify(body[4:])


async def test_rule_33_a_rotated_password_is_fetched_once_again() -> None:
    directory = Directory({"a": "old"})
    entrance = Entrance("password", lookup=directory)
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            assert await log_in_with_password(client, "a", b"old") == {}
        directory.secrets["a"] = "new"
        async with raw_client(door.port) as client:
            assert await log_in_with_password(client, "a", b"new") == {}
        assert len(directory.asked) == 2
        async with raw_client(door.port) as client:
            assert (await log_in_with_password(client, "a", b"old"))["C"] == "28P01"
        assert len(directory.asked) == 3
    assert entrance.users.credentials("a").password == "new"


async def test_rule_33_with_scram_the_next_attempt_is_right() -> None:
    directory = Directory({"a": STORED})
    entrance = Entrance("scram-sha-256", lookup=directory)
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            assert (await log_in_with_scram(client, "a", "right"))[0] == {}
        directory.secrets["a"] = scram.build_secret("new", SALT[::-1], 4096).format()
        async with raw_client(door.port) as client:
            assert (await log_in_with_scram(client, "a", "new"))[0]["C"] == "28P01"
        async with raw_client(door.port) as client:
            assert (await log_in_with_scram(client, "a", "new"))[0] == {}


async def test_rule_33_with_md5_the_same_answer_is_checked_again() -> None:
    directory = Directory({"a": md5.build_secret("a", "old")})
    entrance = Entrance("md5", lookup=directory)
    async with open_door(entrance) as door:
        entrance.door = door
        async with raw_client(door.port) as client:
            assert await log_in_with_md5(client, "a", "old") == {}
        directory.secrets["a"] = md5.build_secret("a", "new")
        async with raw_client(door.port) as client:
            assert await log_in_with_md5(client, "a", "new") == {}


@pytest.mark.parametrize(("valid_until_s", "works"), [(1_699_999_999.0, False), (2e9, True)])
async def test_an_expired_password_is_a_wrong_one(valid_until_s: float, works: bool) -> None:
    directory = Directory({"a": "right"})
    directory.valid_until_s = valid_until_s
    entrance = Entrance("password", lookup=directory)
    async with open_door(entrance) as door, raw_client(door.port) as client:
        entrance.door = door
        fields = await log_in_with_password(client, "a", b"right")
        assert fields == {} if works else fields["M"] == FAILED.format("a")


async def certificate_login(
    entrance: Entrance, tls: ServerTls, context: ssl.SSLContext, user: str
) -> dict[str, str]:
    async with open_door(entrance, tls=tls) as door, raw_client(door.port) as client:
        entrance.door = door
        if tls is not NO_TLS:
            await encrypted(client, context)
        client.send(startup_packet(user=user))
        return await outcome(client)


async def test_certificates(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    shown = client_context(with_certificate=True)
    assert await certificate_login(Entrance("cert"), server_tls, shown, "cert_user") == {}
    fields = await certificate_login(Entrance("cert"), server_tls, shown, "root")
    assert (fields["C"], fields["M"]) == (
        "28000",
        'certificate authentication failed for user "root"',
    )
    fields = await certificate_login(Entrance("cert"), server_tls, client_context(), "cert_user")
    assert (fields["C"], fields["M"]) == (
        "28000",
        "connection requires a valid client certificate",
    )
    mapped = Entrance(rules=MappedCertificates({"cert_user": "root"}, AuthChoice("cert", "m")))
    assert await certificate_login(mapped, server_tls, shown, "root") == {}
    assert (await certificate_login(mapped, server_tls, shown, "cert_user"))["C"] == "28000"


async def test_a_certificate_besides_a_method(
    server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    choice = AuthChoice("trust", needs_certificate=True)
    rules = MappedCertificates({}, choice)
    shown = client_context(with_certificate=True)
    assert await certificate_login(Entrance(rules=rules), server_tls, shown, "x") == {}
    fields = await certificate_login(Entrance(rules=rules), server_tls, client_context(), "x")
    assert fields["C"] == "28000"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (None, 'no pg_hba.conf entry for host "127.0.0.1", user "a", database "a", no encryption'),
        (AuthChoice("reject"), "pg_hba.conf rejects connection for host"),
    ],
)
async def test_no_rule(choice: AuthChoice | None, words: str) -> None:
    entrance = Entrance(rules=MappedCertificates({}, choice))
    fields = await certificate_login(entrance, NO_TLS, ssl.create_default_context(), "a")
    assert fields["C"] == "28000"
    assert fields["M"].startswith(words)


def test_names_must_be_the_same_without_a_map() -> None:
    rules = OneMethod("cert")
    assert rules.maps("", "alice", "alice")
    assert not rules.maps("", "alice", "Alice")


def test_workers_with_the_same_material_mock_alike() -> None:
    assert new_mock_seed(b"x") == new_mock_seed(b"x") != new_mock_seed(b"y")


async def test_derived_secrets_are_made_beforehand_and_anew_when_the_password_changes() -> None:
    entrance = Entrance("scram-sha-256", users={"a": "right", "b": STORED})
    async with open_door(entrance) as door:
        authenticator = entrance.services(door).authenticator
        await authenticator.prepare()
        made = await authenticator.scram_secret("a", "right")
        assert await authenticator.scram_secret("a", "right") is made
        assert made.salt == authenticator.mock_secret("a").salt
        assert scram.verify_password(made, "right")
        changed = await authenticator.scram_secret("a", "other")
        assert scram.verify_password(changed, "other")
