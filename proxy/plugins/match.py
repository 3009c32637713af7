"""
The host-side filter of a manifest's `[match]`: what does not match never enters the module.

A filter must not become a way around a plugin: where the proxy cannot know what a statement is or
touches, it matches.
"""

import random
import re
from dataclasses import dataclass
from fnmatch import translate
from typing import Final, final

from proxy.session.context import ClientContext
from proxy.sql.statement import StatementFacts

KINDS: Final = frozenset(
    (
        "select", "insert", "update", "delete", "merge", "copy", "ddl", "set", "transaction",
        "call", "do", "explain", "prepare", "execute", "declare", "fetch", "listen", "notify",
        "lock", "utility", "empty", "function_call", "unknown",
    )
)  # fmt: skip

# Kinds that may touch tables which their text does not show.
_OPAQUE_KINDS: Final = frozenset(
    ("unknown", "do", "call", "execute", "fetch", "function_call", "utility")
)
_CACHE_ENTRIES: Final = 4096


@dataclass(frozen=True, slots=True)
class MatchRules:
    """`[match]` as written: kinds by name, the others as shell patterns; empty means any."""

    kinds: tuple[str, ...] = ()
    databases: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    sample: float = 1.0

    def is_empty(self) -> bool:
        """Whether everything matches."""
        return self == MatchRules()


def _compile(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    return re.compile("|".join(translate(pattern.lower()) for pattern in patterns))


@final
class Matcher:
    """Compiled `[match]` rules with small caches, since the same few tables come again."""

    __slots__ = (
        "_by_client",
        "_by_tables",
        "_databases",
        "_kinds",
        "_random",
        "_sample",
        "_short_tables",
        "_tables",
        "_users",
    )

    def __init__(self, rules: MatchRules) -> None:
        self._kinds = frozenset(rules.kinds) | {"unknown"} if rules.kinds else None
        self._databases = _compile(rules.databases)
        self._users = _compile(rules.users)
        self._tables = _compile(rules.tables)
        # "orders" in a text may be any schema's: compare it with the patterns' last part.
        self._short_tables = _compile(tuple(p.rpartition(".")[2] for p in rules.tables))
        self._sample = rules.sample
        self._by_tables: dict[tuple[str, ...], bool] = {}
        self._by_client: dict[tuple[str, str], bool] = {}
        self._random = random.Random()

    @property
    def is_sampled(self) -> bool:
        """Whether chance has a say too."""
        return self._sample < 1.0

    def matches(self, facts: StatementFacts, client: ClientContext) -> bool:
        """Whether the statement is the plugin's business."""
        # All that it does, not only the gravest: a MERGE may delete.
        if self._kinds is not None and self._kinds.isdisjoint(facts.kinds):
            return False
        if (self._databases is not None or self._users is not None) and not self._client(client):
            return False
        if self._tables is not None and not self._touches(facts):
            return False
        return self._sample >= 1.0 or self._random.random() < self._sample

    def _client(self, client: ClientContext) -> bool:
        key = (client.database, client.identity or client.user)
        known = self._by_client.get(key)
        if known is None:
            database, user = key
            known = (
                self._databases is None or self._databases.match(database.lower()) is not None
            ) and (
                self._users is None
                or self._users.match(user.lower()) is not None
                or self._users.match(client.user.lower()) is not None
            )
            if len(self._by_client) >= _CACHE_ENTRIES:
                self._by_client.clear()
            self._by_client[key] = known
        return known

    def _touches(self, facts: StatementFacts) -> bool:
        if facts.kind in _OPAQUE_KINDS:
            return True
        tables = facts.tables
        known = self._by_tables.get(tables)
        if known is None:
            known = any(self._is_named(table.lower()) for table in tables)
            if len(self._by_tables) >= _CACHE_ENTRIES:
                self._by_tables.clear()
            self._by_tables[tables] = known
        return known

    def _is_named(self, table: str) -> bool:
        if self._tables is None or self._short_tables is None:
            return True
        if self._tables.match(table) is not None:
            return True
        schema, _, short = table.rpartition(".")
        if schema:
            # A pattern without a schema means the table in any schema.
            return self._tables.match(short) is not None
        return self._short_tables.match(short) is not None
