"""The harness calls a plugin with what the proxy would give it."""

import json

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import (
    AUTHENTICATE,
    AUTHORIZE,
    CACHE_SET,
    CUSTOM_HOOK,
    HOOK_NAMES,
    METRICS,
    ON_CONNECT,
    POST_QUERY,
    PRE_QUERY,
    ROUTE,
)
from proxy.plugins.author.harness import Harness
from proxy.plugins.subscriber import PluginHook
from tests.support.wat import body_wat, manifest, put

ECHO = (
    "(i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32))"
    " (i64.extend_i32_u (local.get 1)))"
)


@pytest.mark.parametrize(
    ("hook", "name", "keys"),
    [
        (PRE_QUERY, "pre_query", {"query", "kind", "tables", "hook_context"}),
        (AUTHORIZE, "authorize", {"query", "roles"}),
        (CACHE_SET, "cache_set", {"query", "rows", "result_bytes"}),
        (AUTHENTICATE, "authenticate", {"username", "password"}),
        (ON_CONNECT, "on_connect", {"client_id", "startup"}),
        (METRICS, "metrics", set()),
    ],
)
async def test_envelopes(tmp_path, hook, name, keys):
    path = put(
        tmp_path, "p", body_wat("(i64.const 0)", hook=name),
        manifest("p", hooks=f'"{name}"', permissions=""),
    )  # fmt: skip
    async with Harness(path) as harness:
        assert harness.hooks() == [hook]
        assert keys <= set(json.loads(harness.envelope(hook, "SELECT a FROM t")))
        called = await harness.call(hook, "SELECT 1")
        assert not called.cause
        with pytest.raises(LookupError):
            harness.subscriber(ROUTE)


async def test_post_query_gets_context_and_outcome(tmp_path):
    path = put(
        tmp_path, "p", body_wat("(i64.const 0)", hook="post_query"),
        manifest("p", hooks='"post_query"'),
    )  # fmt: skip
    async with Harness(path) as harness:
        context, outcome = json.loads(harness.envelope(POST_QUERY, "SELECT 1"))
    assert context["query"] == "SELECT 1"
    assert outcome["success"] is True


@pytest.mark.parametrize(
    ("body", "answer", "action", "cause"),
    [
        ("(i64.const 0)", b"", "continue", ""),
        ("(i64.const 1)", b"", "block", ""),
        ("$answer", b'{"action":"block","value":"no"}', "block", ""),
        ("$answer", b"rubbish", "failed", "bad_answer"),
        ("$answer", b'{"action":"dance"}', "failed", "bad_answer"),
        ("unreachable", b"", "failed", "trap"),
    ],
)
async def test_actions(tmp_path, body, answer, action, cause):
    path = put(tmp_path, "p", body_wat(body, answer), manifest("p"))
    async with Harness(path) as harness:
        called = await harness.call(PRE_QUERY, "SELECT 1")
    assert (called.action, called.cause) == (action, cause)
    assert called.hook == "pre_query"


async def test_custom_hook_runs_on_its_thread_and_filters_filter(tmp_path):
    path = put(
        tmp_path, "p", body_wat(ECHO, hook="custom_hook"), manifest("p", hooks='"custom_hook"')
    )
    async with Harness(path) as harness:
        called = await harness.call(CUSTOM_HOOK, '{"a":1}')
        assert (called.action, called.answer) == ("answered", {"a": 1})
    path = put(
        tmp_path, "q", body_wat("(i64.const 1)"), manifest("q", more='[match]\nkinds=["ddl"]')
    )
    async with Harness(path) as harness:
        assert (await harness.call(PRE_QUERY, "SELECT 1")).action == "filtered"
        assert (await harness.call(PRE_QUERY, "DROP TABLE t")).action == "block"


async def test_grants_and_config_of_the_operator(tmp_path):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"), manifest("p", more="[config]\na = 1"))
    async with Harness(path, grants=(), config={"a": 2}) as harness:
        hook = harness.subscriber(PRE_QUERY)
        assert isinstance(hook, PluginHook)
        assert hook.permissions == frozenset()
        assert hook.owner.blueprint.config == {"a": 2}


async def test_a_plugin_that_does_not_load(tmp_path):
    path = put(tmp_path, "p", b"\0asm\x01\0\0\0\xff", manifest("p"))
    with pytest.raises(PluginFailed, match="not a valid module"):
        async with Harness(path):
            pass


@pytest.mark.parametrize(
    ("name", "answer", "word", "permission"),
    [
        ("on_connect", {"action": "block", "value": "x"}, "block", "conn.deny"),
        ("authorize", {"action": "deny", "value": "x"}, "deny", "authz.decide"),
        ("pre_query", {"action": "block", "value": "x"}, "block", "query.block"),
        ("pre_query", {"action": "rewrite", "value": "SELECT 2"}, "rewrite", "query.rewrite"),
        ("rewrite", {"action": "rewrite", "value": "SELECT 2"}, "rewrite", "query.rewrite"),
        ("route", {"action": "primary"}, "primary", "route.decide"),
        ("route", {"action": "block", "reason": "x"}, "block", "query.block"),
        ("cache_get", {"action": "key", "key": "k", "max_age_ms": 1}, "key", "cache.read"),
        ("cache_set", {"action": "store", "ttl_ms": 1}, "store", "cache.write"),
        ("authenticate", {"action": "denied", "message": "x"}, "denied", "auth.decide"),
        ("metrics", [{"name": "n", "type": "gauge", "value": 1}], "answered", "metrics"),
    ],
)
async def test_an_answer_without_its_permission_fails_as_in_the_proxy(
    tmp_path, name, answer, word, permission
):
    text = json.dumps(answer).encode()
    path = put(
        tmp_path, "p", body_wat("$answer", text, hook=name),
        manifest("p", hooks=f'"{name}"', permissions=f'"{permission}"'),
    )  # fmt: skip
    hook = HOOK_NAMES.index(name)
    async with Harness(path) as harness:
        assert (await harness.call(hook, "SELECT 1")).action == word
    async with Harness(path, grants=("log",)) as harness:
        called = await harness.call(hook, "SELECT 1")
        assert (called.action, called.cause) == ("failed", "permission")
        assert "which is not granted" in called.message


@pytest.mark.parametrize(
    ("name", "answer"),
    [("authenticate", b'{"action":"success"}'), ("metrics", b'[{"name":"n"}]')],
)
async def test_what_is_no_answer_of_a_hook(tmp_path, name, answer):
    path = put(
        tmp_path, "p", body_wat("$answer", answer, hook=name),
        manifest("p", hooks=f'"{name}"', permissions=""),
    )  # fmt: skip
    async with Harness(path) as harness:
        called = await harness.call(HOOK_NAMES.index(name), "SELECT 1")
        assert (called.action, called.cause) == ("failed", "bad_answer")
