"""What the operator's settings do to the pipeline, whichever plugins there are."""

from proxy.hooks import points
from proxy.hooks.pipeline import HookPipeline
from proxy.hooks.points import CACHE_GET, PRE_QUERY
from proxy.session.inspection import VERDICT_ALLOW, VERDICT_REFUSE
from tests.unit.hooks.fakes import FakeCache, FakeSubscriber, Setup, chains_of


def refusing(setup: Setup) -> HookPipeline:
    setup.pipeline.configure(20_000, True, None)
    return setup.pipeline


def test_unknown_sql_is_refused_before_any_plugin_is_asked() -> None:
    asked = FakeSubscriber(PRE_QUERY)
    setup = Setup(asked)
    refusing(setup)
    inspection = setup.judge("unknown text")
    assert inspection.facts.kind == "unknown"
    assert inspection.verdict == VERDICT_REFUSE
    assert inspection.refusal is not None
    assert inspection.refusal.sqlstate == "42000"
    assert "cannot tell" in inspection.refusal.message
    assert asked.payloads == []
    assert setup.counters.blocked == 1
    setup.pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 0
    assert setup.judge("select 1").verdict == VERDICT_ALLOW


def test_unknown_sql_is_refused_without_plugins_too_and_not_unless_asked_for() -> None:
    setup = Setup()
    assert setup.judge("unknown text").verdict == VERDICT_ALLOW
    pipeline = refusing(setup)
    assert pipeline.judges
    assert setup.judge("unknown text").verdict == VERDICT_REFUSE
    pipeline.install(chains_of())
    assert pipeline.judges
    pipeline.configure(20_000, False, None)
    assert not pipeline.judges
    assert setup.judge("unknown text").verdict == VERDICT_ALLOW


def test_a_rewrite_to_unknown_sql_is_a_failed_call_when_that_is_refused() -> None:
    answer = b'{"action":"rewrite","value":"unknown text"}'
    setup = Setup(FakeSubscriber(PRE_QUERY, answer, closed=True))
    refusing(setup)
    inspection = setup.judge("select 1")
    assert inspection.verdict == VERDICT_REFUSE
    assert inspection.refusal is not None
    assert inspection.refusal.sqlstate == "58000"


def test_the_budget_is_the_operators() -> None:
    setup = Setup(*(FakeSubscriber(PRE_QUERY, cost_us=600, closed=True) for _ in range(3)))
    assert setup.judge().verdict == VERDICT_ALLOW
    setup.pipeline.configure(1_000, False, None)
    assert setup.judge().verdict == VERDICT_REFUSE


def test_a_cache_that_writes_were_not_told_to_starts_empty() -> None:
    cache = FakeCache()
    setup = Setup()
    setup.pipeline.configure(20_000, False, cache)
    assert cache.cleared == 1
    setup.pipeline.configure(20_000, False, cache)
    assert cache.cleared == 1
    setup.pipeline.install(chains_of(FakeSubscriber(CACHE_GET)))
    assert cache.cleared == 2
    setup.pipeline.install(chains_of(FakeSubscriber(CACHE_GET)))
    assert cache.cleared == 2
    setup.pipeline.install(points.EMPTY_CHAINS)
    assert cache.cleared == 3
