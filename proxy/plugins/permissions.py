"""
What a plugin may do: the permissions' names, what each import and hook asks for, the negotiation.

Deny by default: effective = what the manifest asks for, as far as the operator grants it. Enforced
elsewhere, in three places: imports that are not granted are not linked (`module`), answers are
checked and fields left out (`hooks`).
"""

from collections.abc import Iterable
from typing import Final

from proxy.hooks.points import (
    AUTHENTICATE,
    AUTHORIZE,
    CACHE_GET,
    CACHE_SET,
    METRICS,
    ON_CONNECT,
    PRE_QUERY,
    REWRITE,
    ROUTE,
)
from proxy.settings.plugin_model import PERMISSIONS

KNOWN: Final = frozenset(PERMISSIONS)

_LEGACY_NAMES: Final = {
    "query_execute": "db.query",
    "query": "db.query",
    "cache_read": "cache.read",
    "cache_write": "cache.write",
    "http_fetch": "http.fetch",
    "http": "http.fetch",
    "crypto": "crypto",
    "cryptography": "crypto",
    "kv_read": "kv.read",
    "kv_write": "kv.write",
    "metrics": "metrics",
    "config_read": "config",
    "config": "config",
    "log": "log",
}
_LEGACY_REFUSED: Final = frozenset(
    ("network", "filesystem_read", "fs_read", "filesystem_write", "fs_write")
)

# An ABI 0 manifest has no words for answers and imports: declaring or importing is asking. The
# contract names the first three; the others are the same for hooks that such a module may have too.
_LEGACY_HOOKS: Final = {
    PRE_QUERY: ("query.block", "query.rewrite", "query.answer"),
    ROUTE: ("route.decide",),
    AUTHENTICATE: ("auth.decide",),
    REWRITE: ("query.rewrite",),
    AUTHORIZE: ("authz.decide",),
    ON_CONNECT: ("conn.deny",),
    CACHE_GET: ("cache.read", "query.answer"),
    CACHE_SET: ("cache.write",),
    METRICS: ("metrics",),
}
_LEGACY_IMPORTS: Final = {
    "kv_get": "kv.read",
    "kv_set": "kv.write",
    "kv_delete": "kv.write",
    "sha256_hex": "crypto",
}


def parse(name: str) -> str | None:
    """A permission of a native manifest or of the operator's file; None: there is no such."""
    return name if name in KNOWN else None


def parse_legacy(name: str) -> str | None:
    """
    A permission of an ABI 0 manifest in our words; None where we have none for it.

    Files and sockets are never given, and a plugin that asks for them would not work: the caller
    tells the two cases apart with `is_refused`.
    """
    lowered = name.strip().lower()
    return _LEGACY_NAMES.get(lowered) or (lowered if lowered in KNOWN else None)


def is_refused(name: str) -> bool:
    """Whether an ABI 0 permission is one that no plugin ever gets: files and sockets."""
    return name.strip().lower() in _LEGACY_REFUSED


def legacy_wishes(hooks: Iterable[int], env_imports: Iterable[str]) -> frozenset[str]:
    """What an ABI 0 plugin asks for by the hooks it declares and the `env` functions it imports."""
    wishes: set[str] = set()
    for hook in hooks:
        wishes.update(_LEGACY_HOOKS.get(hook, ()))
    for name in env_imports:
        if name in _LEGACY_IMPORTS:
            wishes.add(_LEGACY_IMPORTS[name])
    return frozenset(wishes)


def negotiate(
    wishes: frozenset[str], grants: Iterable[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """What a plugin gets, and what it asked for in vain."""
    effective = wishes & frozenset(grants)
    return effective, wishes - effective
