"""Every rule of the chain: order, ends, permissions, failures, limits, slow calls."""

import json

import pytest

from proxy.errors import PluginFailed
from proxy.hooks import points
from proxy.hooks.points import (
    AUTHORIZE,
    BLOCKED,
    CACHE_GET,
    CACHE_SET,
    EMPTY_CHAINS,
    POST_QUERY,
    PRE_QUERY,
    REWRITE,
    ROUTE,
    Drained,
    HookChains,
)
from proxy.routing.route import ROUTE_BRANCH, ROUTE_NODE, ROUTE_PRIMARY, ROUTE_STANDBY
from proxy.session.inspection import (
    PHASE_EXECUTE,
    VERDICT_ALLOW,
    VERDICT_ANSWER,
    VERDICT_REFUSE,
    Inspection,
    RowSet,
)
from tests.unit.hooks.fakes import (
    ALL_PERMISSIONS,
    FakeCache,
    FakeSubscriber,
    Setup,
    chains_of,
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


def test_without_plugins_every_flag_is_false() -> None:
    setup = Setup()
    pipeline = setup.pipeline
    assert not pipeline.judges
    assert not pipeline.routes
    assert not pipeline.observes
    assert not pipeline.captures
    assert not pipeline.wants_parameters
    inspection = setup.judge()
    assert inspection.verdict == VERDICT_ALLOW
    assert pipeline.route(inspection)
    pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 0


@pytest.mark.parametrize(
    ("hook", "flag"),
    [
        (AUTHORIZE, ""),
        (PRE_QUERY, ""),
        (REWRITE, ""),
        (CACHE_GET, ""),
        (ROUTE, "routes"),
        (POST_QUERY, "observes"),
        (CACHE_SET, "captures"),
    ],
)
def test_each_statement_hook_makes_the_session_inspect(hook: int, flag: str) -> None:
    pipeline = Setup(FakeSubscriber(hook)).pipeline
    assert pipeline.judges
    assert {name for name in ("routes", "observes", "captures") if getattr(pipeline, name)} == (
        {flag} if flag else set()
    )


@pytest.mark.parametrize("hook", [points.ON_CONNECT, points.METRICS, points.CUSTOM_HOOK])
def test_hooks_that_see_no_statement_cost_no_statement_anything(hook: int) -> None:
    assert not Setup(FakeSubscriber(hook)).pipeline.judges


def test_parameters_are_wanted_by_permission_alone() -> None:
    plain = frozenset({"query.block"})
    assert not Setup(FakeSubscriber(PRE_QUERY, permissions=plain)).pipeline.wants_parameters
    assert Setup(
        FakeSubscriber(POST_QUERY, permissions=frozenset({"query.params"}))
    ).pipeline.wants_parameters
    caching = Setup(FakeSubscriber(CACHE_GET, permissions=plain)).pipeline
    assert not caching.wants_parameters
    assert caching.caches


def test_install_gives_the_old_chains_back_and_is_one_exchange() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY))
    assert setup.pipeline.chains is setup.chains
    other = chains_of(number=2)
    assert setup.pipeline.install(other) is setup.chains
    assert setup.pipeline.chains is other
    assert not setup.pipeline.judges


def test_first_install_gives_back_the_empty_chains() -> None:
    setup = Setup()
    fresh = type(setup.pipeline)(setup.pipeline._classifier, setup.counters, setup.outcomes, b"")
    assert fresh.install(setup.chains) is EMPTY_CHAINS


class _Told(Drained):
    def __init__(self) -> None:
        self.chains: list[HookChains] = []

    def on_drained(self, chains: HookChains) -> None:
        self.chains.append(chains)


def test_a_statement_keeps_its_generation_and_drains_it() -> None:
    old = FakeSubscriber(PRE_QUERY)
    old_route = FakeSubscriber(ROUTE, b'{"action":"primary"}')
    new_route = FakeSubscriber(ROUTE, b'{"action":"standby"}')
    setup = Setup(old, old_route)
    inspection = setup.judge()
    told = _Told()
    setup.pipeline.install(chains_of(new_route, number=2)).retire(told)
    assert told.chains == []
    assert setup.pipeline.route(inspection)
    assert inspection.route is not None
    assert inspection.route.kind == ROUTE_PRIMARY
    assert not new_route.payloads
    setup.pipeline.finished(inspection, None)
    assert told.chains == [setup.chains]
    # A second report is none: nothing is left twice.
    setup.pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 0


def test_who_judges_is_asked_about_the_very_text() -> None:
    guard = FakeSubscriber(PRE_QUERY)
    setup = Setup(guard)
    inspection = setup.inspection(b"SELECT 1")
    inspection.raw_text = b"SELECT 2"
    assert setup.pipeline.clearance(inspection.facts, setup.client) is None
    assert setup.pipeline.judge(inspection)
    assert json.loads(guard.payloads[0])["query"] == "SELECT 2"


@pytest.mark.parametrize(
    ("guard", "is_exact"),
    [
        pytest.param(FakeSubscriber(PRE_QUERY), False, id="nobody decides"),
        pytest.param(FakeSubscriber(PRE_QUERY, pure=True), False, id="remembered"),
        pytest.param(FakeSubscriber(PRE_QUERY, block()), True, id="blocked"),
        pytest.param(FakeSubscriber(PRE_QUERY, TRAP, closed=True), True, id="failed"),
        pytest.param(FakeSubscriber(PRE_QUERY, limit=10), True, id="too long"),
    ],
)
def test_facts_are_of_the_very_text_as_soon_as_somebody_decides(
    guard: FakeSubscriber, is_exact: bool
) -> None:
    setup = Setup(guard)
    inspection = setup.inspection(b"SELECT 1")
    inspection.raw_text = b"SELECT 2"
    assert setup.pipeline.judge(inspection)
    assert inspection.facts.text == (b"SELECT 2" if is_exact else b"SELECT 1")
    assert inspection.raw_text == (b"" if is_exact else b"SELECT 2")
    for payload in guard.payloads:
        assert json.loads(payload)["query"] == "SELECT 2"


@pytest.mark.parametrize("answer", [None, block()])
def test_what_is_remembered_is_of_the_very_text(answer: bytes | None) -> None:
    guard = FakeSubscriber(PRE_QUERY, answer, pure=True)
    setup = Setup(guard)
    for text, calls in ((b"SELECT 2", 1), (b"SELECT 3", 2), (b"SELECT 2", 2), (b"SELECT 3", 2)):
        inspection = setup.inspection(b"SELECT 1")
        inspection.raw_text = text
        assert setup.pipeline.judge(inspection)
        assert len(guard.payloads) == calls
        if answer is not None:
            # Who is refused is shown with the text that was.
            assert inspection.verdict == VERDICT_REFUSE
            assert inspection.facts.text == text
    # The text that these facts are really of is another one.
    assert setup.pipeline.judge(setup.inspection(b"SELECT 1"))
    assert len(guard.payloads) == 3


def test_who_observes_is_told_of_the_very_text() -> None:
    """Facts of another text that differs in constants only are made exact before anyone looks."""
    setup = Setup(FakeSubscriber(POST_QUERY))
    inspection = setup.judge()
    inspection.raw_text = b"SELECT 2"
    setup.pipeline.finished(inspection, None)
    assert inspection.facts.text == b"SELECT 2"
    assert inspection.raw_text == b""


# --- continue, block, deny ----------------------------------------------------------------


@pytest.mark.parametrize("answer", [None, b'{"action":"continue"}', b'{ "action" : "continue" }'])
def test_continue_lets_pass_and_is_counted(answer: bytes | None) -> None:
    guard = FakeSubscriber(PRE_QUERY, answer)
    inspection = Setup(guard).judge()
    assert inspection.verdict == VERDICT_ALLOW
    assert inspection.refusal is None
    assert not inspection.is_rewritten
    assert guard.stats.decisions == {"continue": 1}


def test_block_ends_everything_with_42000() -> None:
    first = FakeSubscriber(PRE_QUERY, block("no drops"))
    second = FakeSubscriber(PRE_QUERY)
    third = FakeSubscriber(REWRITE)
    setup = Setup(first, second, third)
    inspection = setup.judge("drop table t")
    assert refusal_of(inspection) == ("42000", "Query blocked by plugin: no drops")
    assert not second.payloads
    assert not third.payloads
    assert first.stats.decisions == {"block": 1}
    assert setup.counters.blocked == 1


def test_block_carries_what_the_plugin_says() -> None:
    answer = block("no", sqlstate="P0001", hint="try later", detail="why not")
    inspection = Setup(FakeSubscriber(PRE_QUERY, answer)).judge()
    assert inspection.refusal is not None
    assert inspection.refusal.sqlstate == "P0001"
    assert inspection.refusal.hint == "try later"
    assert inspection.refusal.detail == "why not"
    assert inspection.refusal.severity == "ERROR"


def test_the_immediate_block_has_the_generic_reason() -> None:
    inspection = Setup(FakeSubscriber(PRE_QUERY, BLOCKED)).judge()
    assert refusal_of(inspection) == ("42000", "Query blocked by plugin: not allowed")


@pytest.mark.parametrize("sqlstate", ["00000", "01000", "02000", "4200", "42ooo", ""])
def test_a_block_with_a_wrong_sqlstate_is_a_failed_call(sqlstate: str) -> None:
    answer = block("no", sqlstate=sqlstate)
    closed = FakeSubscriber(PRE_QUERY, answer, name="guard", closed=True)
    assert refusal_of(Setup(closed).judge()) == ("58000", 'plugin "guard" failed')
    assert closed.stats.errors == {"bad_answer": 1}


def test_deny_is_42501() -> None:
    answer = b'{"action":"deny","value":"not your table"}'
    setup = Setup(FakeSubscriber(AUTHORIZE, answer), FakeSubscriber(PRE_QUERY))
    inspection = setup.judge()
    assert refusal_of(inspection) == ("42501", "permission denied by plugin: not your table")
    assert setup.counters.blocked == 1


def test_the_immediate_verdict_1_of_authorize_is_a_denial() -> None:
    assert refusal_of(Setup(FakeSubscriber(AUTHORIZE, BLOCKED)).judge())[0] == "42501"


def test_authorize_gets_the_roles() -> None:
    guard = FakeSubscriber(AUTHORIZE, b'{"action":"allow"}')
    setup = Setup(guard)
    setup.client.roles = ["reader", "eu"]
    setup.judge()
    assert json.loads(guard.payloads[0])["roles"] == ["reader", "eu"]


def test_order_of_the_stages() -> None:
    order: list[int] = []

    def note(hook: int) -> FakeSubscriber:
        def say(payload: bytes) -> None:
            order.append(hook)

        return FakeSubscriber(hook, say)

    hooks = [ROUTE, CACHE_GET, REWRITE, PRE_QUERY, AUTHORIZE]
    setup = Setup(*[note(hook) for hook in hooks])
    inspection = setup.judge()
    setup.pipeline.route(inspection)
    assert order == [AUTHORIZE, PRE_QUERY, REWRITE, CACHE_GET, ROUTE]


# --- rewrites -----------------------------------------------------------------------------


def test_a_rewrite_does_not_end_the_chain_and_the_next_sees_the_new_text() -> None:
    first = FakeSubscriber(PRE_QUERY, rewrite("delete from u"))
    second = FakeSubscriber(PRE_QUERY)
    third = FakeSubscriber(REWRITE, rewrite("select 3"))
    setup = Setup(first, second, third)
    inspection = setup.judge("select 1")
    seen = json.loads(second.payloads[0])
    assert (seen["query"], seen["kind"], seen["is_read_only"]) == ("delete from u", "delete", False)
    assert json.loads(third.payloads[0])["query"] == "delete from u"
    assert inspection.is_rewritten
    assert inspection.facts.text == b"select 3"
    assert inspection.verdict == VERDICT_ALLOW
    assert first.stats.decisions == {"rewrite": 1}


def test_a_rewrite_to_the_same_text_changes_nothing() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY, rewrite("select 1")))
    inspection = setup.inspection("select 1")
    before = inspection.facts
    assert setup.pipeline.judge(inspection)
    assert inspection.facts is before
    assert not inspection.is_rewritten


@pytest.mark.parametrize("text", ["select 1; drop table t", " ; "])
def test_a_rewritten_text_holds_exactly_one_statement(text: str) -> None:
    writer = FakeSubscriber(PRE_QUERY, rewrite(text), closed=True)
    setup = Setup(writer)
    inspection = setup.judge("select 1")
    assert refusal_of(inspection)[0] == "58000"
    assert inspection.facts.text == b"select 1"
    assert writer.stats.errors == {"bad_answer": 1}
    assert writer.stats.decisions == {}


def test_a_bad_rewrite_fails_open_at_the_rewrite_hook() -> None:
    setup = Setup(FakeSubscriber(REWRITE, rewrite("a; b")))
    inspection = setup.judge("select 1")
    assert inspection.verdict == VERDICT_ALLOW
    assert not inspection.is_rewritten


def test_authorize_is_asked_again_with_a_changed_text() -> None:
    def guard(payload: bytes) -> bytes | None:
        secret = "secret" in json.loads(payload)["query"]
        return b'{"action":"deny","value":"secret"}' if secret else None

    authorize = FakeSubscriber(AUTHORIZE, guard)
    setup = Setup(authorize, FakeSubscriber(REWRITE, rewrite("select * from secret")))
    assert refusal_of(setup.judge("select 1"))[0] == "42501"
    assert len(authorize.payloads) == 2


def test_authorize_is_asked_once_when_nothing_changed() -> None:
    authorize = FakeSubscriber(AUTHORIZE)
    Setup(authorize, FakeSubscriber(PRE_QUERY)).judge()
    assert len(authorize.payloads) == 1


def test_an_answer_to_a_changed_text_waits_for_the_second_authorize() -> None:
    def guard(payload: bytes) -> bytes | None:
        return BLOCKED if "secret" in json.loads(payload)["query"] else None

    rewriter = FakeSubscriber(PRE_QUERY, rewrite("select secret"))
    cached = FakeSubscriber(PRE_QUERY, CACHED)
    not_asked = FakeSubscriber(REWRITE)
    inspection = Setup(FakeSubscriber(AUTHORIZE, guard), rewriter, cached, not_asked).judge()
    assert refusal_of(inspection)[0] == "42501"
    allowed = Setup(FakeSubscriber(AUTHORIZE), rewriter, cached, not_asked).judge()
    assert allowed.verdict == VERDICT_ANSWER
    assert not not_asked.payloads


def test_a_changed_text_at_phase_execute_is_reported() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY, rewrite("select 2")))
    inspection = setup.inspection(is_extended=True, phase=PHASE_EXECUTE)
    assert setup.pipeline.judge(inspection)
    assert inspection.is_rewritten
    assert inspection.verdict == VERDICT_ALLOW


# --- answers from caches ------------------------------------------------------------------


def test_cached_ends_the_chain_with_rows() -> None:
    second = FakeSubscriber(PRE_QUERY)
    setup = Setup(FakeSubscriber(PRE_QUERY, CACHED), second, FakeSubscriber(CACHE_GET))
    inspection = setup.judge()
    assert inspection.verdict == VERDICT_ANSWER
    assert inspection.answer is not None
    assert inspection.answer.columns == [("a", 25)]
    assert inspection.answer.rows == [[b"1"], [None]]
    assert not second.payloads


def test_hit_answers_and_ends() -> None:
    second = FakeSubscriber(CACHE_GET)
    inspection = Setup(FakeSubscriber(CACHE_GET, HIT), second).judge()
    assert inspection.verdict == VERDICT_ANSWER
    assert not second.payloads


@pytest.mark.parametrize(
    ("text", "is_extended", "phase", "in_transaction", "asked"),
    [
        ("select 1", False, 0, False, True),
        ("select 1", True, PHASE_EXECUTE, False, True),
        ("select 1", True, 0, False, False),
        ("select 1", False, 0, True, False),
        ("delete from t", False, 0, False, False),
    ],
)
def test_cache_get_is_for_plain_reads_whose_parameters_are_known(
    text: str, is_extended: bool, phase: int, in_transaction: bool, asked: bool
) -> None:
    cache = FakeSubscriber(CACHE_GET, HIT)
    setup = Setup(cache)
    inspection = setup.inspection(
        text, is_extended=is_extended, phase=phase, in_transaction=in_transaction
    )
    assert setup.pipeline.judge(inspection)
    assert bool(cache.payloads) is asked
    assert inspection.verdict == (VERDICT_ANSWER if asked else VERDICT_ALLOW)


def test_a_key_that_the_result_cache_knows_is_answered() -> None:
    setup = Setup(FakeSubscriber(CACHE_GET, KEY))
    cache = FakeCache()
    cache.rows["k1"] = RowSet([("a", 25)], [])
    setup.pipeline.cache = cache
    inspection = setup.judge()
    assert inspection.verdict == VERDICT_ANSWER
    assert inspection.answer is cache.rows["k1"]
    assert inspection.cache_key == ""


def test_a_key_that_is_not_there_is_kept_to_be_filled() -> None:
    second = FakeSubscriber(CACHE_GET, HIT)
    setup = Setup(FakeSubscriber(CACHE_GET, KEY), second, FakeSubscriber(CACHE_SET))
    setup.pipeline.cache = FakeCache()
    inspection = setup.judge()
    assert inspection.verdict == VERDICT_ALLOW
    assert (inspection.cache_key, inspection.cache_max_age_ms) == ("k1", 5000)
    assert not second.payloads


def test_a_key_without_a_cache_or_without_known_parameters_is_a_miss() -> None:
    setup = Setup(FakeSubscriber(CACHE_GET, KEY))
    assert setup.judge().cache_key == ""
    setup.pipeline.cache = FakeCache()
    blind = setup.inspection(is_extended=True, phase=PHASE_EXECUTE)
    assert setup.pipeline.judge(blind)
    assert blind.cache_key == ""
    known = setup.inspection(is_extended=True, phase=PHASE_EXECUTE, parameters=[b"1"])
    assert setup.pipeline.judge(known)
    assert known.cache_key == "k1"


# --- route ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "target"),
    [
        (b'{"action":"primary"}', ROUTE_PRIMARY, ""),
        (b'{"action":"standby"}', ROUTE_STANDBY, ""),
        (b'{"action":"node","target":"pg2"}', ROUTE_NODE, "pg2"),
        (b'{"action":"branch","target":"dev"}', ROUTE_BRANCH, "dev"),
    ],
)
def test_the_first_route_that_is_not_default_counts(answer: bytes, kind: int, target: str) -> None:
    first = FakeSubscriber(ROUTE, b'{"action":"default"}')
    third = FakeSubscriber(ROUTE)
    setup = Setup(first, FakeSubscriber(ROUTE, answer), third)
    inspection = setup.judge()
    assert setup.pipeline.route(inspection)
    assert inspection.route is not None
    assert (inspection.route.kind, inspection.route.target) == (kind, target)
    assert inspection.route.read
    assert first.payloads
    assert not third.payloads


def test_a_routed_write_is_no_read() -> None:
    setup = Setup(FakeSubscriber(ROUTE, b'{"action":"standby"}'))
    inspection = setup.judge("delete from t")
    setup.pipeline.route(inspection)
    assert inspection.route is not None
    assert not inspection.route.read


def test_default_routes_leave_it_to_the_router() -> None:
    setup = Setup(FakeSubscriber(ROUTE), FakeSubscriber(ROUTE, TRAP))
    inspection = setup.judge()
    assert setup.pipeline.route(inspection)
    assert inspection.route is None
    assert inspection.verdict == VERDICT_ALLOW


def test_route_may_block() -> None:
    setup = Setup(FakeSubscriber(ROUTE, b'{"action":"block","reason":"no such place"}'))
    inspection = setup.judge()
    assert setup.pipeline.route(inspection)
    assert refusal_of(inspection) == ("42000", "Query blocked by plugin: no such place")


def test_route_of_a_statement_that_was_never_judged_takes_the_chains_of_now() -> None:
    setup = Setup(FakeSubscriber(ROUTE, b'{"action":"primary"}'))
    inspection = setup.inspection()
    assert setup.pipeline.route(inspection)
    assert inspection.route is not None
    assert setup.chains.in_flight == 1
    setup.pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 0


def test_a_write_empties_what_the_result_cache_has_of_its_tables() -> None:
    setup = Setup(FakeSubscriber(PRE_QUERY))
    cache = FakeCache()
    setup.pipeline.cache = cache
    for text in ("select 1", "delete from t"):
        inspection = setup.judge(text)
        setup.pipeline.finished(inspection, None)
    assert cache.writes == ["delete"]


def test_an_execution_that_was_judged_with_its_parse_is_asked_for_its_cache_only() -> None:
    guard = FakeSubscriber(PRE_QUERY)
    cache = FakeSubscriber(CACHE_GET)
    observer = FakeSubscriber(POST_QUERY)
    setup = Setup(guard, cache, observer)
    inspection = setup.inspection(is_extended=True, phase=PHASE_EXECUTE, parameters=[])
    inspection.is_judged = True
    assert setup.pipeline.judge(inspection)
    assert not guard.payloads
    assert cache.payloads
    setup.pipeline.finished(inspection, None)
    # Its Parse's inspection is the one that observers are told of.
    assert len(setup.outcomes) == 0
    assert setup.chains.in_flight == 0
