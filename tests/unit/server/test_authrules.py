"""From [auth] to rules: files read and named when they are wrong, and the rules at work."""

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.server.authrules import make_auth_rules
from proxy.server.negotiate import Peer
from proxy.server.tls import ServerTls
from proxy.session.context import ClientContext
from proxy.settings.model import Auth
from tests.unit.server.guests import Entrance
from tests.unit.server.peers import error_of, open_door, packet, raw_client, startup_packet


def client(user: str, database: str = "app") -> ClientContext:
    context = ClientContext("w0-1", "", False, 0.0)
    context.user = user
    context.database = database
    return context


def test_one_method_for_all() -> None:
    rules = make_auth_rules(Auth(method="md5"))
    choice = rules.choose(Peer("192.0.2.1", 1, False), client("a"))
    assert choice is not None
    assert (choice.method, choice.needs_certificate) == ("md5", False)
    assert rules.maps("", "a", "a")
    assert not rules.maps("", "a", "b")


def test_a_user_map_without_an_hba_file(tmp_path: Path) -> None:
    path = tmp_path / "ident.conf"
    path.write_text("m cert_name alice\n")
    rules = make_auth_rules(Auth(method="cert", user_map_file=path))
    choice = rules.choose(Peer("192.0.2.1", 1, False), client("alice"))
    assert choice is not None
    assert choice.needs_certificate
    assert choice.checks_name
    assert rules.maps(choice.user_map, "cert_name", "alice")
    # The file says all there is: a name does not map to itself besides.
    assert not rules.maps(choice.user_map, "alice", "alice")


def test_an_hba_file_goes_before_the_method(tmp_path: Path) -> None:
    hba = tmp_path / "hba.conf"
    hba.write_text("local all all trust\nhostssl all all all cert map=m\n")
    ident = tmp_path / "ident.conf"
    ident.write_text("m cert_name alice\n")
    rules = make_auth_rules(Auth(method="md5", hba_file=hba, user_map_file=ident))
    unix = rules.choose(Peer("", 0, True), client("a"))
    assert unix is not None
    assert unix.method == "trust"
    assert rules.choose(Peer("192.0.2.1", 1, False), client("a")) is None
    encrypted = Peer("192.0.2.1", 1, False)
    encrypted.is_tls = True
    choice = rules.choose(encrypted, client("alice"))
    assert choice is not None
    assert (choice.method, choice.user_map) == ("cert", "m")
    assert rules.maps("m", "cert_name", "alice")
    assert not rules.maps("other", "cert_name", "alice")
    assert rules.maps("", "alice", "alice")


@pytest.mark.parametrize("key", ["hba_file", "user_map_file"])
def test_wrong_files_are_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "rules.conf"
    for content, words in (
        (b"\nlocal all all peer magic\n", f"{path}:2: auth.{key}: "),
        (b"\xff\xfe", f"auth.{key}: cannot read {path}: it is not UTF-8"),
    ):
        path.write_bytes(content)
        with pytest.raises(SettingsError) as caught:
            make_auth_rules(Auth(**{key: path}))  # type: ignore[arg-type]
        assert caught.value.problems[0].startswith(words)
    path.unlink()
    with pytest.raises(SettingsError, match="No such file"):
        make_auth_rules(Auth(**{key: path}))  # type: ignore[arg-type]


def test_an_empty_hba_file_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "hba.conf"
    path.write_text("# nothing\n")
    with pytest.raises(SettingsError, match="nobody could log in"):
        make_auth_rules(Auth(hba_file=path))


async def test_the_rules_at_work(
    tmp_path: Path, server_tls: ServerTls, client_context: Callable[..., ssl.SSLContext]
) -> None:
    hba = tmp_path / "hba.conf"
    hba.write_text(
        "host all mallory all reject\n"
        "hostssl all all 127.0.0.0/8 trust clientcert=verify-full\n"
        "hostnossl app all 127.0.0.0/8 trust\n"
    )
    rules = make_auth_rules(Auth(hba_file=hba))

    async def knock(user: str, database: str, context: ssl.SSLContext | None) -> str:
        entrance = Entrance(rules=rules)
        async with open_door(entrance, tls=server_tls) as door, raw_client(door.port) as peer:
            entrance.door = door
            if context is not None:
                peer.send(packet(80877103))
                assert await peer.read(1) == b"S"
                await peer.start_tls(context)
            peer.send(startup_packet(user=user, database=database))
            tag, body = await peer.message()
            if tag == b"R":
                return "in"
            whole = tag + (len(body) + 4).to_bytes(4, "big") + body
            return error_of(whole)["M"]

    shown = client_context(with_certificate=True)
    assert await knock("alice", "app", None) == "in"
    assert await knock("alice", "other", None) == (
        'no pg_hba.conf entry for host "127.0.0.1", user "alice", database "other", no encryption'
    )
    assert (await knock("mallory", "app", None)).startswith("pg_hba.conf rejects connection")
    assert await knock("cert_user", "other", shown) == "in"
    assert "certificate authentication failed" in await knock("alice", "other", shown)
    assert "valid client certificate" in await knock("cert_user", "app", client_context())
