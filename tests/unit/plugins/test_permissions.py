"""Names, ABI 0 names, and what is negotiated."""

import pytest

from proxy.hooks.points import (
    AUTHENTICATE,
    AUTHORIZE,
    CACHE_GET,
    CACHE_SET,
    METRICS,
    ON_CONNECT,
    POST_QUERY,
    PRE_QUERY,
    REWRITE,
    ROUTE,
)
from proxy.plugins.permissions import (
    is_refused,
    legacy_wishes,
    negotiate,
    parse,
    parse_legacy,
)


def test_native_names_are_exact():
    assert parse("query.block") == "query.block"
    assert parse("Query.Block") is None
    assert parse("kv_read") is None


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("kv_read", "kv.read"),
        ("KV_WRITE", "kv.write"),
        ("query_execute", "db.query"),
        ("query", "db.query"),
        ("http", "http.fetch"),
        ("cryptography", "crypto"),
        ("metrics", "metrics"),
        ("config_read", "config"),
        ("whatever", None),
        ("network", None),
    ],
)
def test_legacy_names(name, ours):
    assert parse_legacy(name) == ours


def test_files_and_sockets_are_refused():
    assert is_refused("filesystem_read")
    assert is_refused("Network")
    assert not is_refused("kv_read")


def test_legacy_plugins_ask_by_what_they_declare_and_import():
    assert legacy_wishes([PRE_QUERY], []) == {"query.block", "query.rewrite", "query.answer"}
    assert legacy_wishes([ROUTE, AUTHENTICATE], []) == {"route.decide", "auth.decide"}
    assert legacy_wishes([REWRITE, AUTHORIZE, ON_CONNECT], []) == {
        "query.rewrite",
        "authz.decide",
        "conn.deny",
    }
    assert legacy_wishes([CACHE_GET, CACHE_SET, METRICS], []) == {
        "cache.read",
        "query.answer",
        "cache.write",
        "metrics",
    }
    assert legacy_wishes([POST_QUERY], ["kv_get", "kv_set", "sha256_hex"]) == {
        "kv.read",
        "kv.write",
        "crypto",
    }


def test_negotiation_is_the_intersection():
    effective, missing = negotiate(frozenset(("log", "kv.read")), ("log", "clock"))
    assert effective == {"log"}
    assert missing == {"kv.read"}
