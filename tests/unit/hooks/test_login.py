"""Connect, authenticate, disconnect, metrics and custom calls."""

import asyncio
import json

import pytest

from proxy.errors import PluginFailed, Refusal
from proxy.hooks.answers import Login
from proxy.hooks.login import ConnectionHooks, PluginCalls
from proxy.hooks.points import (
    AUTHENTICATE,
    BLOCKED,
    CUSTOM_HOOK,
    METRICS,
    ON_CONNECT,
    ON_DISCONNECT,
)
from tests.unit.hooks.fakes import ALL_PERMISSIONS, FakeSubscriber, Setup

TRAP = PluginFailed("fake", "trap", "unreachable")
SUCCESS = b'{"action":"success","identity":{"username":"alice","roles":["r"]}}'
DENIED = b'{"action":"denied","message":"bad token"}'


async def no_password() -> str | None:
    return None


async def connect(*subscribers: FakeSubscriber) -> Refusal | None:
    setup = Setup(*subscribers)
    refusal = await ConnectionHooks(setup.pipeline, "p-").on_connect(setup.client)
    assert setup.chains.in_flight == 0
    return refusal


async def authenticate(*subscribers: FakeSubscriber) -> Login | Refusal | None:
    setup = Setup(*subscribers)
    login = await ConnectionHooks(setup.pipeline).authenticate(setup.client, no_password)
    assert setup.chains.in_flight == 0
    return login


async def test_nobody_subscribed() -> None:
    assert await connect() is None
    assert await authenticate() is None


async def test_connect_continues_down_the_chain() -> None:
    first, second = FakeSubscriber(ON_CONNECT), FakeSubscriber(ON_CONNECT)
    assert await connect(first, second) is None
    seen = json.loads(second.payloads[0])
    assert seen["request_id"] == "p-1"
    assert seen["client_id"] == "w0-17"
    assert seen["startup"] == {}


async def test_connect_blocks() -> None:
    second = FakeSubscriber(ON_CONNECT)
    answer = b'{"action":"block","value":"not from here","hint":"vpn"}'
    refusal = await connect(FakeSubscriber(ON_CONNECT, answer), second)
    assert refusal is not None
    assert (refusal.severity, refusal.sqlstate) == ("FATAL", "28000")
    assert refusal.message == "Connection refused by plugin: not from here"
    assert refusal.hint == "vpn"
    assert not second.payloads
    assert await connect(FakeSubscriber(ON_CONNECT, BLOCKED)) is not None


@pytest.mark.parametrize("answer", [TRAP, b"rubbish", RuntimeError("host")])
async def test_connect_fails_by_its_rule(answer: bytes | Exception) -> None:
    assert await connect(FakeSubscriber(ON_CONNECT, answer)) is None
    refusal = await connect(FakeSubscriber(ON_CONNECT, answer, name="gate", closed=True))
    assert refusal is not None
    assert (refusal.sqlstate, refusal.message) == ("58000", 'plugin "gate" failed')
    assert refusal.severity == "FATAL"


async def test_connect_block_needs_conn_deny() -> None:
    poor = FakeSubscriber(ON_CONNECT, BLOCKED, permissions=ALL_PERMISSIONS - {"conn.deny"})
    assert await connect(poor) is None
    assert poor.stats.errors == {"permission": 1}


async def test_connect_input_limit() -> None:
    small = FakeSubscriber(ON_CONNECT, limit=10, closed=True)
    assert await connect(small) is not None
    assert small.stats.errors == {"input": 1}


async def test_the_first_that_does_not_defer_authenticates() -> None:
    deferring = FakeSubscriber(AUTHENTICATE, b'{"action":"defer"}')
    after = FakeSubscriber(AUTHENTICATE, DENIED)
    login = await authenticate(deferring, FakeSubscriber(AUTHENTICATE, SUCCESS), after)
    assert isinstance(login, Login)
    assert (login.username, login.roles) == ("alice", ["r"])
    assert not after.payloads
    assert deferring.stats.decisions == {"defer": 1}


async def test_all_defer() -> None:
    assert await authenticate(FakeSubscriber(AUTHENTICATE)) is None


async def test_denied() -> None:
    plugin = FakeSubscriber(AUTHENTICATE, DENIED)
    refusal = await authenticate(plugin)
    assert isinstance(refusal, Refusal)
    assert (refusal.severity, refusal.sqlstate) == ("FATAL", "28000")
    assert refusal.message == "bad token"
    assert plugin.stats.decisions == {"denied": 1}


@pytest.mark.parametrize("answer", [TRAP, b"rubbish"])
async def test_authenticate_fails_closed(answer: bytes | Exception) -> None:
    refusal = await authenticate(FakeSubscriber(AUTHENTICATE, answer, closed=True))
    assert isinstance(refusal, Refusal)
    assert refusal.sqlstate == "58000"
    # An operator may have said on_error = "open": the configured method then decides.
    assert await authenticate(FakeSubscriber(AUTHENTICATE, answer)) is None


@pytest.mark.parametrize("answer", [SUCCESS, DENIED])
async def test_deciding_needs_auth_decide(answer: bytes) -> None:
    poor = FakeSubscriber(
        AUTHENTICATE, answer, permissions=ALL_PERMISSIONS - {"auth.decide"}, closed=True
    )
    refusal = await authenticate(poor)
    assert isinstance(refusal, Refusal)
    assert refusal.sqlstate == "58000"
    assert poor.stats.errors == {"permission": 1}


async def test_the_password_is_for_who_is_granted_it() -> None:
    asked = 0

    async def ask() -> str | None:
        nonlocal asked
        asked += 1
        return "geheim"

    poor = FakeSubscriber(AUTHENTICATE, permissions=frozenset({"auth.decide"}))
    setup = Setup(poor)
    await ConnectionHooks(setup.pipeline).authenticate(setup.client, ask)
    assert asked == 0
    assert json.loads(poor.payloads[0])["password"] is None
    rich = FakeSubscriber(AUTHENTICATE)
    setup = Setup(rich)
    await ConnectionHooks(setup.pipeline).authenticate(setup.client, ask)
    assert asked == 1
    assert json.loads(rich.payloads[0])["password"] == "geheim"


async def test_calls_on_worker_threads() -> None:
    slow = FakeSubscriber(AUTHENTICATE, slow=True)
    setup = Setup(slow)
    task = asyncio.ensure_future(
        ConnectionHooks(setup.pipeline).authenticate(setup.client, no_password)
    )
    await slow.is_called.wait()
    slow.waiting[0].on_answer(SUCCESS, "")
    login = await task
    assert isinstance(login, Login)
    assert setup.chains.in_flight == 0


async def test_a_worker_thread_that_fails() -> None:
    slow = FakeSubscriber(AUTHENTICATE, slow=True, closed=True)
    setup = Setup(slow)
    task = asyncio.ensure_future(
        ConnectionHooks(setup.pipeline).authenticate(setup.client, no_password)
    )
    await slow.is_called.wait()
    slow.waiting[0].on_answer(None, "timeout")
    assert isinstance(await task, Refusal)


async def test_a_client_that_left_during_a_slow_call() -> None:
    slow = FakeSubscriber(AUTHENTICATE, slow=True)
    setup = Setup(slow)
    task = asyncio.ensure_future(
        ConnectionHooks(setup.pipeline).authenticate(setup.client, no_password)
    )
    await slow.is_called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # The thread still runs in the generation's instance.
    assert setup.chains.in_flight == 1
    slow.waiting[0].on_answer(SUCCESS, "")
    assert setup.chains.in_flight == 0


async def test_a_slow_call_that_cannot_be_made() -> None:
    slow = FakeSubscriber(AUTHENTICATE, RuntimeError("no threads"), slow=True, closed=True)
    assert isinstance(await authenticate(slow), Refusal)
    assert slow.stats.errors == {"host": 1}


async def test_disconnect_tells_everybody() -> None:
    trapping = FakeSubscriber(ON_DISCONNECT, TRAP)
    broken = FakeSubscriber(ON_DISCONNECT, RuntimeError("host"))
    tiny = FakeSubscriber(ON_DISCONNECT, limit=3)
    slow = FakeSubscriber(ON_DISCONNECT, slow=True)
    last = FakeSubscriber(ON_DISCONNECT)
    setup = Setup(trapping, broken, tiny, slow, last)
    ConnectionHooks(setup.pipeline).on_disconnect(setup.client, 5, 6, 7, 8)
    seen = json.loads(last.payloads[0])
    assert (seen["duration_us"], seen["queries"]) == (5, 6)
    assert (seen["bytes_received"], seen["bytes_sent"]) == (7, 8)
    assert tiny.stats.errors == {"input": 1}
    assert broken.stats.errors == {"host": 1}
    assert setup.chains.in_flight == 1
    slow.waiting[0].on_answer(None, "")
    assert setup.chains.in_flight == 0


def test_disconnect_without_subscribers() -> None:
    setup = Setup()
    ConnectionHooks(setup.pipeline).on_disconnect(setup.client, 0, 0, 0, 0)
    assert setup.pipeline.next_request() == 1


SAMPLES = b'[{"name":"hits","type":"counter","value":1}]'


async def test_metrics_at_most_once_a_second() -> None:
    good = FakeSubscriber(METRICS, SAMPLES, name="good")
    others = [
        FakeSubscriber(METRICS, b"rubbish", name="bad"),
        FakeSubscriber(METRICS, TRAP, name="trap"),
        FakeSubscriber(METRICS, SAMPLES, name="poor", permissions=frozenset()),
        FakeSubscriber(METRICS, name="none", permissions=frozenset()),
    ]
    now_s = 0.0
    setup = Setup(good, *others)
    calls = PluginCalls(setup.pipeline, lambda: now_s)
    found = await calls.metrics()
    assert sorted(found) == ["good", "none"]
    assert found["good"][0].name == "hits"
    assert found["none"] == []
    assert others[0].stats.errors == {"bad_answer": 1}
    assert others[2].stats.errors == {"permission": 1}
    now_s = 0.9
    assert await calls.metrics() is found
    assert len(good.payloads) == 1
    now_s = 1.0
    await calls.metrics()
    assert len(good.payloads) == 2
    assert setup.chains.in_flight == 0


async def test_custom_calls() -> None:
    echo = FakeSubscriber(CUSTOM_HOOK, lambda payload: payload, name="echo")
    silent = FakeSubscriber(CUSTOM_HOOK, name="silent")
    bad = FakeSubscriber(CUSTOM_HOOK, b"rubbish", name="bad")
    trap = FakeSubscriber(CUSTOM_HOOK, TRAP, name="trap")
    setup = Setup(echo, silent, bad, trap)
    calls = PluginCalls(setup.pipeline, lambda: 0.0)
    assert await calls.custom("echo", b'{"a":1}') == b'{"a":1}'
    assert await calls.custom("silent", b"{}") == b"null"
    with pytest.raises(PluginFailed, match="bad"):
        await calls.custom("bad", b"{}")
    with pytest.raises(PluginFailed):
        await calls.custom("trap", b"{}")
    with pytest.raises(LookupError, match="'other'"):
        await calls.custom("other", b"{}")
    assert setup.chains.in_flight == 0
