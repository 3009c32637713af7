"""Which statements need not be judged, and what ends that."""

import pytest

from proxy.hooks.points import (
    AUTHORIZE,
    BLOCKED,
    CACHE_GET,
    CACHE_SET,
    ON_CONNECT,
    POST_QUERY,
    PRE_QUERY,
    ROUTE,
)
from proxy.session.clearance import NEVER, Clearance
from proxy.sql.classify import PgClassifier
from proxy.sql.statement import StatementFacts
from tests.unit.hooks.fakes import (
    FakeSubscriber,
    Setup,
    chains_of,
    client_of,
    facts_of,
    unknown_facts_of,
)


def deletes_only(facts, client):
    return facts.kind == "delete"


def filtered(hook: int = PRE_QUERY) -> FakeSubscriber:
    return FakeSubscriber(hook, BLOCKED, filtered=True, matching=deletes_only)


def judged(setup: Setup, facts: StatementFacts, text: bytes = b"") -> Clearance | None:
    """Judge a statement with these very facts; what is known of it then."""
    inspection = setup.inspection("select 1")
    inspection.facts = facts
    inspection.client = setup.client
    if text and text != facts.text:
        inspection.raw_text = text
    setup.pipeline.judge(inspection)
    setup.pipeline.finished(inspection, None)
    return setup.pipeline.clearance(facts, setup.client)


def test_what_every_filter_keeps_out_is_clear_for_any_text_of_its_shape() -> None:
    guard, router = filtered(), filtered(ROUTE)
    setup = Setup(guard, router)
    assert setup.pipeline.clears
    facts = facts_of("select 1")
    assert setup.pipeline.clearance(facts, setup.client) is None
    found = judged(setup, facts)
    assert found is not None
    assert found.text == b""
    before = guard.stats.filtered
    found.use()
    assert (guard.stats.filtered, router.stats.filtered) == (before + 1, 1)
    assert guard.payloads == router.payloads == []


def test_what_a_filter_lets_in_is_never_clear() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY, None, filtered=True, matching=deletes_only))
    assert judged(setup, facts_of("delete from t")) is NEVER


def test_a_pure_answer_is_clear_for_its_own_text() -> None:
    pure = FakeSubscriber(PRE_QUERY, None, pure=True)
    setup = Setup(pure)
    facts = facts_of("select 1")
    found = judged(setup, facts)
    assert found is not None
    assert found.text == b"select 1"
    found.use()
    assert pure.stats.memoized == 1
    assert pure.stats.decisions == {"continue": 2}
    assert len(pure.payloads) == 1


def test_texts_that_differ_each_time_are_not_looked_up_again() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY, None, pure=True))
    facts = PgClassifier().exact(b"SELECT 1").statements[0]
    assert judged(setup, facts, b"SELECT 1") is not NEVER
    assert judged(setup, facts, b"SELECT 2") is NEVER
    assert judged(setup, facts, b"SELECT 3") is NEVER


def test_the_same_text_once_more_changes_nothing() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY, None, pure=True), filtered())
    facts = facts_of("select 1")
    found = judged(setup, facts)
    assert found is not None
    assert judged(setup, facts) is found


def test_a_refusal_is_not_clear() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY, BLOCKED, pure=True))
    assert judged(setup, facts_of("select 1")) is None


def test_a_pure_answer_that_does_something_is_not_clear() -> None:
    setup = Setup(FakeSubscriber(ROUTE, b'{"action":"primary"}', pure=True), filtered())
    facts = facts_of("select 1")
    inspection = setup.inspection("select 1")
    inspection.facts = facts
    setup.pipeline.judge(inspection)
    setup.pipeline.route(inspection)
    assert judged(setup, facts) is None


@pytest.mark.parametrize("hook", [POST_QUERY, CACHE_GET, CACHE_SET])
def test_who_must_see_every_statement_does(hook: int) -> None:
    assert not Setup(filtered(), FakeSubscriber(hook)).pipeline.clears


def test_where_nobody_asks_nothing_is_looked_up() -> None:
    assert not Setup().pipeline.clears
    assert not Setup(FakeSubscriber(ON_CONNECT)).pipeline.clears


def test_who_has_no_filter_sees_every_statement() -> None:
    assert not Setup(filtered(), FakeSubscriber(AUTHORIZE)).pipeline.clears


def test_chance_is_asked_each_time() -> None:
    sampled = FakeSubscriber(PRE_QUERY, None, pure=True, matching=deletes_only)
    assert judged(Setup(sampled), facts_of("select 1")) is None


def test_another_kind_of_client_is_judged_anew() -> None:
    setup = Setup(filtered())
    facts = facts_of("select 1")
    assert judged(setup, facts) is not None
    assert setup.pipeline.clearance(facts, client_of("alice")) is not None
    assert setup.pipeline.clearance(facts, client_of("bob")) is None
    reader = client_of("alice")
    reader.roles = ["reader"]
    assert setup.pipeline.clearance(facts, reader) is None
    elsewhere = client_of("alice")
    elsewhere.database = "other"
    assert setup.pipeline.clearance(facts, elsewhere) is None


def test_a_reload_ends_all_clearances() -> None:
    setup = Setup(filtered())
    facts = facts_of("select 1")
    assert judged(setup, facts) is not None
    setup.pipeline.install(chains_of(filtered(), number=2))
    assert setup.pipeline.clearance(facts, setup.client) is None
    setup.pipeline.install(chains_of(FakeSubscriber(PRE_QUERY), number=3))
    assert not setup.pipeline.clears


def test_what_is_not_known_is_never_remembered() -> None:
    setup = Setup(filtered())
    assert judged(setup, unknown_facts_of("select 1")) is None
    classifier = PgClassifier()
    for text in (b"EXECUTE q", b"PREPARE q AS SELECT 1"):
        assert judged(setup, classifier.exact(text).statements[0]) is None


def test_tables_are_bounded(monkeypatch) -> None:
    setup = Setup(filtered())
    clearances = setup.pipeline._clearances
    for number in range(5_000):
        clearances.learn(facts_of(f"select {number}"), b"", setup.client)
        assert len(setup.client.clearances) <= 4_096
    for number in range(5_000):
        clearances.table_of(client_of(f"user{number}"))
    assert len(clearances._by_client) <= 4_096
