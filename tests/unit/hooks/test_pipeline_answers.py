"""The pipeline: what answers do, limits, slow plugins."""

import itertools
import json

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import (
    AUTHORIZE,
    BLOCKED,
    CACHE_GET,
    CACHE_SET,
    POST_QUERY,
    PRE_QUERY,
    REWRITE,
    ROUTE,
)
from proxy.session.inspection import (
    PHASE_EXECUTE,
    VERDICT_ALLOW,
    VERDICT_ANSWER,
    VERDICT_REFUSE,
    Inspection,
    Outcome,
)
from tests.unit.hooks.fakes import (
    ALL_PERMISSIONS,
    FakeSubscriber,
    FakeWaiter,
    Setup,
    chains_of,
    unknown_facts_of,
)

TRAP = PluginFailed("fake", "trap", "unreachable")
ROWS_JSON = b'{"columns":[{"name":"a"}],"rows":[["1"],[null]]}'
CACHED = b'{"action":"cached","data":%s}' % ROWS_JSON
HIT = b'{"action":"hit","data":%s}' % ROWS_JSON
KEY = b'{"action":"key","key":"k1","max_age_ms":5000}'


def rewrite(text: str) -> bytes:
    return json.dumps({"action": "rewrite", "value": text}).encode()


def block(reason: str = "no", **more: str) -> bytes:
    return json.dumps({"action": "block", "value": reason, **more}).encode()


def without(*permissions: str) -> frozenset[str]:
    return ALL_PERMISSIONS - frozenset(permissions)


def refusal_of(inspection: Inspection) -> tuple[str, str]:
    assert inspection.verdict == VERDICT_REFUSE
    assert inspection.refusal is not None
    assert inspection.answer is None
    return inspection.refusal.sqlstate, inspection.refusal.message


# --- installation ---------------------------------------------------------------------------


def test_route_and_judge_share_one_envelope() -> None:
    judge, route = FakeSubscriber(PRE_QUERY), FakeSubscriber(ROUTE)
    plain = frozenset({"query.block", "route.decide"})
    judge.permissions = route.permissions = plain
    setup = Setup(judge, route)
    inspection = setup.judge()
    setup.pipeline.route(inspection)
    assert judge.payloads[0] is route.payloads[0]
    setup.judge()
    assert judge.payloads[1] != judge.payloads[0]


# --- permissions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hook", "answer", "permission"),
    [
        (PRE_QUERY, block(), "query.block"),
        (PRE_QUERY, BLOCKED, "query.block"),
        (PRE_QUERY, rewrite("select 2"), "query.rewrite"),
        (PRE_QUERY, CACHED, "query.answer"),
        (REWRITE, rewrite("select 2"), "query.rewrite"),
        (CACHE_GET, HIT, "query.answer"),
        (CACHE_GET, HIT, "cache.read"),
        (CACHE_GET, KEY, "cache.read"),
        (AUTHORIZE, b'{"action":"deny","value":"no"}', "authz.decide"),
    ],
)
@pytest.mark.parametrize("closed", [False, True])
def test_an_answer_without_its_permission_is_a_failed_call(
    hook: int, answer: bytes, permission: str, closed: bool
) -> None:
    plugin = FakeSubscriber(
        hook, answer, name="poor", permissions=without(permission), closed=closed
    )
    inspection = Setup(plugin).judge()
    assert plugin.stats.errors == {"permission": 1}
    assert plugin.stats.decisions == {}
    if closed:
        assert refusal_of(inspection) == ("58000", 'plugin "poor" failed')
    else:
        assert inspection.verdict == VERDICT_ALLOW
        assert not inspection.is_rewritten
        assert inspection.answer is None


@pytest.mark.parametrize("action", ["primary", "standby", "node", "branch", "block"])
def test_a_route_without_route_decide_is_a_failed_call(action: str) -> None:
    answer = json.dumps({"action": action, "target": "x", "reason": "y"}).encode()
    plugin = FakeSubscriber(ROUTE, answer, permissions=without("route.decide", "query.block"))
    setup = Setup(plugin)
    inspection = setup.judge()
    assert setup.pipeline.route(inspection)
    assert inspection.route is None
    assert inspection.verdict == VERDICT_ALLOW
    assert plugin.stats.errors == {"permission": 1}


def test_parameters_are_there_only_with_the_permission() -> None:
    rich = FakeSubscriber(PRE_QUERY, permissions=frozenset({"query.params"}))
    poor = FakeSubscriber(PRE_QUERY, permissions=frozenset())
    setup = Setup(rich, poor)
    inspection = setup.inspection(
        is_extended=True, phase=PHASE_EXECUTE, parameters=[b"1", None, b"\0\xff"]
    )
    setup.pipeline.judge(inspection)
    assert json.loads(rich.payloads[0])["parameters"] == ["1", None, {"hex": "00ff"}]
    assert "parameters" not in json.loads(poor.payloads[0])


# --- failures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", [AUTHORIZE, PRE_QUERY, REWRITE, CACHE_GET])
@pytest.mark.parametrize(
    "answer", [TRAP, RuntimeError("host"), b"", b"no json", b'{"action":"explode"}', b'"\xff"']
)
def test_a_failed_call_follows_the_rule_of_its_hook(hook: int, answer: bytes | Exception) -> None:
    after = FakeSubscriber(hook)
    open_ = Setup(FakeSubscriber(hook, answer), after).judge()
    assert open_.verdict == VERDICT_ALLOW
    assert after.payloads
    failing = FakeSubscriber(hook, answer, name="shut", closed=True)
    closed = Setup(failing, FakeSubscriber(hook)).judge()
    assert refusal_of(closed) == ("58000", 'plugin "shut" failed')
    assert sum(failing.stats.errors.values()) == 1
    assert closed.refusal is not None
    assert closed.refusal.detail == closed.refusal.hint == ""


def test_a_filter_that_breaks_fails_like_a_call() -> None:
    def broken(*_: object) -> bool:
        raise ZeroDivisionError

    plugin = FakeSubscriber(PRE_QUERY, closed=True, matching=broken)
    assert refusal_of(Setup(plugin).judge())[0] == "58000"
    assert plugin.stats.errors == {"host": 1}


def test_filtered_statements_never_enter() -> None:
    plugin = FakeSubscriber(PRE_QUERY, BLOCKED, matching=lambda facts, _: facts.kind == "drop")
    setup = Setup(plugin)
    assert setup.judge("select 1").verdict == VERDICT_ALLOW
    assert setup.judge("drop table t").verdict == VERDICT_REFUSE
    assert plugin.stats.filtered == 1
    assert len(plugin.payloads) == 1


def test_the_time_of_all_plugins_together_is_limited() -> None:
    slow = FakeSubscriber(PRE_QUERY, cost_us=15_000)
    late_open = FakeSubscriber(PRE_QUERY, BLOCKED)
    late_closed = FakeSubscriber(REWRITE, name="late", closed=True)
    trapping = FakeSubscriber(PRE_QUERY, TRAP, cost_us=6_000)
    inspection = Setup(slow, trapping, late_open, late_closed).judge()
    assert not late_open.payloads
    assert late_open.stats.errors == {"budget": 1}
    assert refusal_of(inspection) == ("58000", 'plugin "late" failed')
    assert inspection.spent_us == 21_000


# --- long texts -------------------------------------------------------------------------------

LONG = "select '" + "x" * 2000 + "'"


@pytest.mark.parametrize(
    ("hook", "permissions"),
    [(PRE_QUERY, frozenset({"query.block"})), (AUTHORIZE, frozenset({"authz.decide"}))],
)
def test_who_may_block_gets_a_text_whole_or_it_is_refused(
    hook: int, permissions: frozenset[str]
) -> None:
    guard = FakeSubscriber(hook, name="guard", permissions=permissions, limit=1000)
    inspection = Setup(guard).judge(LONG)
    assert refusal_of(inspection) == ("54000", 'statement is too long for plugin "guard"')
    assert inspection.refusal is not None
    assert "takes 1000." in inspection.refusal.detail
    assert not guard.payloads
    assert guard.stats.errors == {"input": 1}


def test_who_fails_closed_does_not_miss_a_long_text_either() -> None:
    guard = FakeSubscriber(REWRITE, permissions=frozenset(), closed=True, limit=1000)
    assert refusal_of(Setup(guard).judge(LONG))[0] == "54000"


def test_who_may_rewrite_only_is_not_asked_about_half_a_text() -> None:
    writer = FakeSubscriber(REWRITE, permissions=frozenset({"query.rewrite"}), limit=1000)
    assert Setup(writer).judge(LONG).verdict == VERDICT_ALLOW
    assert not writer.payloads


def test_who_looks_on_gets_it_cut_and_flagged() -> None:
    watcher = FakeSubscriber(PRE_QUERY, permissions=frozenset({"log"}), limit=1000)
    assert Setup(watcher).judge(LONG).verdict == VERDICT_ALLOW
    seen = json.loads(watcher.payloads[0])
    assert len(watcher.payloads[0]) <= 1000
    assert seen["truncated"] is True
    assert LONG.startswith(seen["query"])
    assert seen["hook_context"]["identity"] == "alice"


def test_nothing_fits_into_nothing() -> None:
    watcher = FakeSubscriber(PRE_QUERY, permissions=frozenset(), limit=10)
    assert Setup(watcher).judge().verdict == VERDICT_ALLOW
    assert not watcher.payloads
    assert watcher.stats.errors == {"input": 1}


# --- pure plugins -----------------------------------------------------------------------------


def test_a_pure_plugin_is_asked_once_for_a_text_and_an_identity() -> None:
    plugin = FakeSubscriber(PRE_QUERY, BLOCKED, pure=True)
    setup = Setup(plugin)
    for _ in range(3):
        assert refusal_of(setup.judge("drop table t"))[0] == "42000"
    assert len(plugin.payloads) == 1
    assert plugin.stats.memoized == 2
    assert plugin.stats.decisions == {"block": 3}
    setup.judge("drop table u")
    setup.client.identity = "bob"
    setup.judge("drop table t")
    assert len(plugin.payloads) == 3


def test_failed_calls_are_not_remembered() -> None:
    answers = itertools.chain([b"rubbish"], itertools.repeat(BLOCKED))
    plugin = FakeSubscriber(PRE_QUERY, lambda _: next(answers), pure=True)
    setup = Setup(plugin)
    assert setup.judge().verdict == VERDICT_ALLOW
    assert setup.judge().verdict == VERDICT_REFUSE


def test_texts_of_kind_unknown_are_asked_about_each_time() -> None:
    def judge(payload: bytes) -> bytes | None:
        return BLOCKED if json.loads(payload)["kind"] == "unknown" else None

    plugin = FakeSubscriber(PRE_QUERY, judge, pure=True)
    setup = Setup(plugin)
    assert setup.judge("select 1").verdict == VERDICT_ALLOW
    for _ in range(2):
        inspection = setup.inspection("select 1")
        inspection.facts = unknown_facts_of("select 1")
        setup.pipeline.judge(inspection)
        assert inspection.verdict == VERDICT_REFUSE
    assert setup.judge("select 1").verdict == VERDICT_ALLOW
    assert len(plugin.payloads) == 3
    assert plugin.stats.memoized == 1


def test_what_a_plugin_remembers_lives_as_long_as_its_generation() -> None:
    plugin = FakeSubscriber(PRE_QUERY, pure=True)
    setup = Setup(plugin)
    setup.judge()
    setup.pipeline.install(chains_of(FakeSubscriber(PRE_QUERY), plugin, number=2))
    setup.judge()
    assert len(plugin.payloads) == 1
    newer = FakeSubscriber(PRE_QUERY, pure=True)
    setup.pipeline.install(chains_of(newer, number=3))
    setup.judge()
    assert len(newer.payloads) == 1


# --- slow plugins -----------------------------------------------------------------------------


def waiting_inspection(setup: Setup, text: str = "select 1") -> tuple[Inspection, FakeWaiter]:
    inspection = setup.inspection(text)
    waiter = FakeWaiter()
    inspection.waiter = waiter
    return inspection, waiter


@pytest.mark.parametrize("hook", [AUTHORIZE, PRE_QUERY, REWRITE, CACHE_GET])
def test_a_slow_plugin_holds_only_its_own_statement(hook: int) -> None:
    slow = FakeSubscriber(hook, slow=True)
    after = FakeSubscriber(hook)
    setup = Setup(slow, after)
    inspection, waiter = waiting_inspection(setup)
    assert setup.pipeline.judge(inspection) is False
    assert not after.payloads
    assert not waiter.judged
    slow.waiting[0].on_answer(None, "")
    assert waiter.judged == [inspection]
    assert after.payloads
    assert inspection.verdict == VERDICT_ALLOW
    setup.pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 0


def test_slow_plugins_in_a_row() -> None:
    first = FakeSubscriber(PRE_QUERY, slow=True)
    second = FakeSubscriber(PRE_QUERY, slow=True)
    setup = Setup(first, second)
    inspection, waiter = waiting_inspection(setup)
    assert setup.pipeline.judge(inspection) is False
    first.waiting[0].on_answer(rewrite("select 2"), "")
    assert not waiter.judged
    assert json.loads(second.payloads[0])["query"] == "select 2"
    second.waiting[0].on_answer(BLOCKED, "")
    assert waiter.judged == [inspection]
    assert refusal_of(inspection)[0] == "42000"


def test_a_slow_answer_ends_the_chain() -> None:
    slow = FakeSubscriber(PRE_QUERY, slow=True)
    after = FakeSubscriber(PRE_QUERY)
    setup = Setup(slow, after)
    inspection, waiter = waiting_inspection(setup)
    setup.pipeline.judge(inspection)
    slow.waiting[0].on_answer(CACHED, "")
    assert waiter.judged == [inspection]
    assert inspection.verdict == VERDICT_ANSWER
    assert not after.payloads


@pytest.mark.parametrize("closed", [False, True])
def test_a_slow_failure_follows_the_rule(closed: bool) -> None:
    slow = FakeSubscriber(PRE_QUERY, slow=True, closed=closed)
    setup = Setup(slow)
    inspection, waiter = waiting_inspection(setup)
    setup.pipeline.judge(inspection)
    slow.waiting[0].on_answer(None, "timeout")
    assert waiter.judged == [inspection]
    assert (inspection.verdict == VERDICT_REFUSE) is closed


def test_a_slow_route() -> None:
    slow = FakeSubscriber(ROUTE, slow=True)
    setup = Setup(slow)
    inspection, waiter = waiting_inspection(setup)
    assert setup.pipeline.judge(inspection)
    assert setup.pipeline.route(inspection) is False
    slow.waiting[0].on_answer(b'{"action":"primary"}', "")
    assert waiter.judged == [inspection]
    assert inspection.route is not None


def test_a_client_that_left_meanwhile_is_told_nothing_and_frees_its_chains() -> None:
    slow = FakeSubscriber(PRE_QUERY, slow=True)
    setup = Setup(slow)
    inspection, waiter = waiting_inspection(setup)
    setup.pipeline.judge(inspection)
    setup.pipeline.finished(inspection, None)
    # The worker still uses the generation's instance.
    assert setup.chains.in_flight == 1
    slow.waiting[0].on_answer(BLOCKED, "")
    assert not waiter.judged
    assert setup.chains.in_flight == 0


def test_nobody_waits_and_the_slow_plugin_fails() -> None:
    slow = FakeSubscriber(PRE_QUERY, slow=True, closed=True)
    assert refusal_of(Setup(slow).judge())[0] == "58000"
    assert slow.stats.errors == {"nobody_waits": 1}


def test_a_slow_call_that_cannot_be_made() -> None:
    slow = FakeSubscriber(PRE_QUERY, RuntimeError("no threads"), slow=True, closed=True)
    setup = Setup(slow)
    inspection, _ = waiting_inspection(setup)
    assert setup.pipeline.judge(inspection)
    assert refusal_of(inspection)[0] == "58000"
    assert slow.stats.errors == {"host": 1}
    assert setup.chains.in_flight == 1


def test_slow_calls_do_not_count_to_the_budget() -> None:
    slow = FakeSubscriber(PRE_QUERY, slow=True, cost_us=500_000)
    after = FakeSubscriber(PRE_QUERY)
    setup = Setup(slow, after)
    inspection, _ = waiting_inspection(setup)
    setup.pipeline.judge(inspection)
    slow.waiting[0].on_answer(None, "")
    assert after.payloads


# --- the end ----------------------------------------------------------------------------------


def test_observed_statements_leave_their_chains_when_they_were_told() -> None:
    observer = FakeSubscriber(POST_QUERY)
    setup = Setup(observer)
    inspection = setup.judge()
    inspection.outcome = Outcome()
    setup.pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 1
    assert not observer.payloads
    setup.scheduler.run()
    assert len(observer.payloads) == 1
    assert setup.chains.in_flight == 0


def test_results_are_kept_only_for_a_named_key() -> None:
    setter = FakeSubscriber(CACHE_SET)
    setup = Setup(setter)
    unnamed = setup.judge()
    setup.pipeline.finished(unnamed, b"rows")
    assert len(setup.outcomes) == 0
    named = setup.judge()
    named.cache_key = "k"
    setup.pipeline.finished(named, b"rows")
    assert len(setup.outcomes) == 1


def test_request_ids_are_unique() -> None:
    watcher = FakeSubscriber(PRE_QUERY)
    setup = Setup(watcher)
    for _ in range(5):
        setup.judge()
    ids = {json.loads(payload)["hook_context"]["request_id"] for payload in watcher.payloads}
    assert len(ids) == 5
    assert setup.pipeline.next_request() == 6
