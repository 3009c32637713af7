"""Who gets in: the right host, no foreign page, and the token where there is one."""

import pytest
import structlog

from proxy.admin.guard import Guard, check_host, host_name, is_loopback
from proxy.admin.problems import AdminProblem
from proxy.observe.counters import Counters
from proxy.server.worker import Worker
from proxy.settings.kinds import Secret
from proxy.settings.model import Admin, Settings
from tests.unit.admin.conftest import Call

TOKEN = "correct-horse"


def with_token(worker: Worker) -> None:
    settings = worker.settings
    worker.settings = Settings(
        admin=Admin(token=Secret(TOKEN)), node=settings.node, plugins=settings.plugins
    )


@pytest.mark.parametrize(
    "host", ["127.0.0.1:9632", "localhost", "LOCALHOST:1", "[::1]:9632", "127.3.4.5"]
)
async def test_names_of_this_machine(call: Call, host: str) -> None:
    assert (await call("GET", "/health/live", host=host)).status == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:9632", "", "10.0.0.1"])
async def test_a_name_that_was_rebound(call: Call, host: str) -> None:
    reply = await call("GET", "/api/status", host=host)
    assert reply.status == 421
    assert reply.json["error"]["what"] == "wrong host"


def test_other_addresses_are_the_tokens_business() -> None:
    check_host("proxy.example:9632", "0.0.0.0")
    check_host("admin.example", "admin.example")
    with pytest.raises(AdminProblem):
        check_host("proxy.example", "127.0.0.1")
    assert host_name("[fe80::1]:80") == "fe80::1"
    assert not is_loopback("0.0.0.0")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
async def test_a_foreign_page_changes_nothing(call: Call, headers: dict[str, str]) -> None:
    reply = await call("POST", "/api/pools/pause", **headers)
    assert reply.status == 403
    assert (await call("GET", "/api/pools", **headers)).status == 200


async def test_the_same_origin_may(call: Call) -> None:
    headers = {"origin": "http://127.0.0.1:9632", "sec_fetch_site": "same-origin"}
    assert (await call("POST", "/api/pools/reconnect", **headers)).status == 200


async def test_a_form_is_no_json(call: Call) -> None:
    reply = await call(
        "POST", "/api/pools/pause", b"a=b", content_type="application/x-www-form-urlencoded"
    )
    assert reply.status == 415


async def test_the_token_is_asked_for(worker: Worker, call: Call) -> None:
    with_token(worker)
    refused = await call("GET", "/api/status")
    assert refused.status == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")
    assert (await call("GET", "/api/status", authorization="Bearer wrong")).status == 401
    assert (await call("GET", "/api/status", authorization=f"Basic {TOKEN}")).status == 401
    assert (await call("GET", "/api/status", authorization=f"Bearer {TOKEN}x")).status == 401
    assert (await call("GET", "/api/status", authorization=f"Bearer {TOKEN}")).status == 200
    assert (await call("GET", "/nowhere")).status == 401
    assert worker.counters.by_cause["admin_refused"] == 5
    assert TOKEN.encode() not in refused.body


@pytest.mark.parametrize("path", ["/", "/metrics", "/health/live", "/schema"])
async def test_open_paths_need_none(worker: Worker, call: Call, path: str) -> None:
    with_token(worker)
    assert (await call("GET", path)).status == 200


async def test_every_answer_is_kept_from_being_embedded(call: Call) -> None:
    for path in ("/", "/api/status", "/nowhere"):
        reply = await call("GET", path)
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]


async def test_a_defect_is_an_answer_without_a_traceback() -> None:
    async def broken(scope: object, receive: object, send: object) -> None:
        raise RuntimeError("secret detail")

    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    guard = Guard(broken, Admin, Counters())
    scope = {
        "type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")],
    }  # fmt: skip
    with structlog.testing.capture_logs() as logs:
        await guard(scope, None, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 500
    assert b"secret" not in bytes(sent[1]["body"])  # type: ignore[call-overload]
    assert logs[0]["event"] == "admin request failed"


async def test_other_scopes_are_ignored() -> None:
    async def never(scope: object, receive: object, send: object) -> None:
        raise AssertionError

    await Guard(never, Admin, Counters())({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
