"""The host-side filter: what is kept out, and what never is."""

import pytest

from proxy.plugins.match import Matcher, MatchRules
from proxy.session.context import ClientContext
from proxy.sql.statement import CONTROL_NONE, PREPARED_NONE, StatementFacts


def facts(kind="select", tables=()):
    return StatementFacts(
        b"x", kind, False, tables, "", "", CONTROL_NONE, False, PREPARED_NONE, "", b"", b""
    )


def client(database="app", user="alice", identity=""):
    found = ClientContext("c", "", False, 0.0)
    found.database, found.user, found.identity = database, user, identity
    return found


def matches(rules, *, kind="select", tables=(), who=None):
    return Matcher(rules).matches(facts(kind, tables), who or client())


def test_no_rules_match_everything():
    assert MatchRules().is_empty()
    assert matches(MatchRules())


@pytest.mark.parametrize(
    ("kind", "expected"), [("insert", True), ("ddl", True), ("select", False), ("unknown", True)]
)
def test_kinds(kind, expected):
    assert matches(MatchRules(kinds=("insert", "ddl")), kind=kind) is expected


def test_all_kinds_of_a_statement_count():
    merge = facts("merge")
    merge.kinds = ("delete", "merge")
    for kind, expected in (("merge", True), ("delete", True), ("insert", False)):
        assert Matcher(MatchRules(kinds=(kind,))).matches(merge, client()) is expected


def test_databases_and_users_are_patterns():
    rules = MatchRules(databases=("app*",), users=("al?ce", "bob"))
    assert matches(rules)
    assert matches(rules, who=client(database="APP_dev"))
    assert not matches(rules, who=client(database="other"))
    assert not matches(rules, who=client(user="eve"))
    assert matches(rules, who=client(user="eve", identity="bob"))


@pytest.mark.parametrize(
    ("patterns", "table", "expected"),
    [
        (("orders",), "orders", True),
        (("orders",), "public.orders", True),
        (("public.orders",), "orders", True),  # search_path may say public
        (("public.orders",), "sales.orders", False),
        (("Orders",), "orders", True),
        (("ord*",), "public.orders", True),
        (("orders",), "orders_old", False),
    ],
)
def test_tables(patterns, table, expected):
    matcher = Matcher(MatchRules(tables=patterns))
    for _ in range(2):  # the second time from the cache
        assert matcher.matches(facts("select", (table,)), client()) is expected


@pytest.mark.parametrize("kind", ["unknown", "do", "call", "execute", "function_call"])
def test_what_hides_its_tables_matches(kind):
    assert matches(MatchRules(tables=("orders",)), kind=kind)
    assert not matches(MatchRules(tables=("orders",)), kind="select")


def test_a_sample():
    never, always = Matcher(MatchRules(sample=0.0)), Matcher(MatchRules(sample=1.0))
    half = Matcher(MatchRules(sample=0.5))
    assert not any(never.matches(facts(), client()) for _ in range(50))
    assert all(always.matches(facts(), client()) for _ in range(50))
    assert 300 < sum(half.matches(facts(), client()) for _ in range(1000)) < 700


def test_the_caches_are_bounded():
    matcher = Matcher(MatchRules(tables=("a",), users=("a",)))
    for number in range(5000):
        matcher.matches(facts("select", (f"t{number}",)), client(user="a"))
        matcher.matches(facts(), client(user=f"u{number}"))
    assert len(matcher._by_tables) <= 4096
    assert len(matcher._by_client) <= 4096
