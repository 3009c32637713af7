"""What `--connect` makes of the servers' answers; the real ones are in tests/system."""

import asyncio
import ssl
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest

from proxy.cli.check import ADVICE, FAILED, OK
from proxy.cli.servers import ask_servers, tls_of
from proxy.settings.kinds import Secret
from proxy.settings.model import Monitor, Node, NodeTls, Pool, Settings
from tests.support.certificates import Certificates

MIB = 1 << 20


class Servers:
    """In place of asyncpg: an answer, or an error, for each host."""

    def __init__(self) -> None:
        self.answers: dict[str, dict[str, Any] | Exception] = {}
        self.asked: list[dict[str, Any]] = []
        self.open_count = 0

    async def connect(self, **arguments: Any) -> "Servers.Connection":
        self.asked.append(arguments)
        answer = self.answers.get(arguments["host"])
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        self.open_count += 1
        return Servers.Connection(self, answer)

    class Connection:
        def __init__(self, servers: "Servers", answer: dict[str, Any]) -> None:
            self.servers = servers
            self.answer = answer

        async def fetchrow(self, _: str) -> dict[str, Any]:
            return self.answer

        def terminate(self) -> None:
            self.servers.open_count -= 1


def answer(position_bytes: int | None, is_standby: bool) -> dict[str, Any]:
    return {"version": "18.1", "is_standby": is_standby, "position": position_bytes}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    fake = Servers()
    monkeypatch.setattr("proxy.cli.servers.asyncpg.connect", fake.connect)
    return fake


def settings_for(*nodes: Node, connect_timeout: float = 5.0) -> Settings:
    return Settings(
        node=nodes,
        monitor=Monitor(user="mon", password=Secret("hush"), database="db"),
        pool=Pool(connect_timeout=connect_timeout),
    )


async def test_roles_versions_and_lag(servers: Servers) -> None:
    servers.answers["p"] = answer(100 * MIB, False)
    servers.answers["near"] = answer(99 * MIB, True)
    servers.answers["far"] = answer(10 * MIB, True)
    servers.answers["empty"] = answer(None, True)
    lines = await ask_servers(
        settings_for(*(Node(name=name, host=name) for name in ("near", "p", "far", "empty")))
    )
    assert [(line.subject, line.state) for line in lines] == [
        ("node near", OK),
        ("node p", OK),
        ("node far", ADVICE),
        ("node empty", ADVICE),
    ]
    assert lines[0].text == "near:5432: PostgreSQL 18.1, standby, 1MiB behind"
    assert lines[1].text == "p:5432: PostgreSQL 18.1, primary"
    assert "90MiB behind: above routing.max_lag, so it serves no reads" in lines[2].text
    assert servers.open_count == 0
    assert {(asked["user"], asked["password"], asked["database"]) for asked in servers.asked} == {
        ("mon", "hush", "db")
    }


async def test_a_role_that_is_not_the_files_and_no_primary(servers: Servers) -> None:
    servers.answers["a"] = answer(1, True)
    lines = await ask_servers(settings_for(Node(name="a", host="a", role="primary")))
    assert [line.state for line in lines] == [FAILED, FAILED]
    assert "standby, but the file says primary" in lines[0].text
    assert lines[1].text == "none of them is a primary: writes have nowhere to go"


async def test_servers_that_do_not_answer(servers: Servers) -> None:
    servers.answers["refused"] = ConnectionRefusedError("refused")
    wrong = asyncpg.InvalidPasswordError("password authentication failed")
    servers.answers["password"] = wrong
    servers.answers["tls"] = ssl.SSLError("bad certificate")
    servers.answers["odd"] = asyncpg.InterfaceError("")
    names = ("refused", "password", "tls", "odd", "silent")
    nodes = (Node(name=name, host=name) for name in names)
    lines = await ask_servers(settings_for(*nodes, connect_timeout=0.05))
    assert {line.state for line in lines} == {FAILED}
    texts = [line.text for line in lines]
    assert texts[0] == "refused:5432: refused"
    assert texts[1] == "password:5432: user 'mon': 28P01 password authentication failed"
    assert "bad certificate" in texts[2]
    assert texts[3] == "odd:5432: InterfaceError"
    assert texts[4] == "silent:5432: no answer within 0.05 s"
    assert not any("hush" in text for text in texts)


def test_tls_modes(certificates: Certificates) -> None:
    cert, key = certificates.issue("client")
    assert tls_of(NodeTls(mode="disable")) is False
    assert tls_of(NodeTls(mode="prefer")) == "prefer"
    seen = {}
    for name, tls in {
        "require": NodeTls(mode="require"),
        "require with ca": NodeTls(mode="require", ca=cert),
        "verify-ca": NodeTls(mode="verify-ca", ca=cert),
        "verify-full": NodeTls(mode="verify-full", cert=cert, key=key),
    }.items():
        context = tls_of(tls)
        assert isinstance(context, ssl.SSLContext)
        seen[name] = (context.verify_mode == ssl.CERT_REQUIRED, context.check_hostname)
    assert seen == {
        "require": (False, False),
        "require with ca": (True, False),
        "verify-ca": (True, False),
        "verify-full": (True, True),
    }
