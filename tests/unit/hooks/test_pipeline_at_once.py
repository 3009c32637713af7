"""`HookPipeline.judge_at_once`: the short way of plain statements, by the rules of `judge`."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import PluginFailed
from proxy.hooks import codec
from proxy.hooks.points import (
    AUTHORIZE,
    BLOCKED,
    CACHE_GET,
    CACHE_SET,
    NOT_SAID,
    POST_QUERY,
    PRE_QUERY,
    REWRITE,
    ROUTE,
)
from proxy.hooks.refused import RefusedStatements
from proxy.session.context import ClientContext
from proxy.session.inspection import (
    PHASE_EXECUTE,
    PHASE_STATEMENT,
    VERDICT_ALLOW,
    VERDICT_REFUSE,
    Inspection,
)
from proxy.sql.statement import StatementFacts
from tests.unit.hooks.fakes import (
    ALL_PERMISSIONS,
    Answering,
    FakeCache,
    FakeSubscriber,
    Setup,
    facts_of,
    unknown_facts_of,
)

PLAIN = ALL_PERMISSIONS - {"query.params"}


class Told(FakeSubscriber):
    """A subscriber that is told in pieces; keeps them as one payload."""

    is_deaf = False

    def say(
        self,
        opening: bytes,
        text: bytes,
        rest: bytes,
        context: bytes,
        number: int,
        client: bytes,
        statement: bytes,
        ending: bytes,
    ) -> bytes | None:
        said = json.dumps(text.decode(), ensure_ascii=False).encode() if text else b""
        payload = b"".join(
            [opening, said, rest, context, b"%d" % number, client, statement, ending]
        )
        if self.is_deaf or len(payload) > self.input_limit_bytes:
            return NOT_SAID
        return self.call(payload)


def told(answer: Answering = None, **more: object) -> Told:
    return Told(PRE_QUERY, answer, **{"permissions": PLAIN, **more})  # type: ignore[arg-type]


def at_once(setup: Setup, text: str = "select 1", **more: object) -> Inspection | None:
    assert setup.pipeline.judges_at_once
    return setup.pipeline.judge_at_once(
        facts_of(text),
        more.get("raw_text", b""),  # type: ignore[arg-type]
        setup.client,
        bool(more.get("is_extended", False)),
        PHASE_EXECUTE if more.get("executes") else PHASE_STATEMENT,
    )


# -- when it may be used


def test_it_is_for_pre_query_alone() -> None:
    assert Setup(told()).pipeline.judges_at_once
    assert Setup(told(), told(name="b")).pipeline.judges_at_once
    assert not Setup().pipeline.judges_at_once
    assert not Setup(told(slow=True)).pipeline.judges_at_once
    assert not Setup(told(permissions=ALL_PERMISSIONS)).pipeline.judges_at_once


@pytest.mark.parametrize("hook", [AUTHORIZE, REWRITE, ROUTE, CACHE_GET, CACHE_SET, POST_QUERY])
def test_it_is_not_where_others_are_asked_or_told(hook: int) -> None:
    setup = Setup(told(), FakeSubscriber(hook, permissions=PLAIN))
    assert not setup.pipeline.judges_at_once
    assert not Setup(FakeSubscriber(hook, permissions=PLAIN)).pipeline.judges_at_once
    setup.pipeline.install(Setup(told()).chains)
    assert setup.pipeline.judges_at_once


# -- what it does


@pytest.mark.parametrize("answer", [None, b'{"action":"continue"}', b' {"action":"continue"}'])
def test_who_says_what_is_usual_needs_no_object(answer: bytes | None) -> None:
    guard = told(answer)
    setup = Setup(guard)
    assert at_once(setup) is None
    assert guard.stats.decisions == {"continue": 1}
    assert setup.chains.in_flight == 0
    assert json.loads(guard.payloads[0])["hook_context"]["request_id"] == "r-1"


@pytest.mark.parametrize("is_extended", [False, True])
@pytest.mark.parametrize("executes", [False, True])
@pytest.mark.parametrize("raw_text", [b"", b"select 2", 'select "ü"\n'.encode()])
def test_what_is_said_is_the_envelope(is_extended: bool, executes: bool, raw_text: bytes) -> None:
    guard = told()
    setup = Setup(guard)
    at_once(setup, is_extended=is_extended, executes=executes, raw_text=raw_text)
    inspection = setup.inspection(
        is_extended=is_extended, phase=PHASE_EXECUTE if executes else PHASE_STATEMENT
    )
    inspection.raw_text = raw_text
    inspection.request_id = 1
    assert guard.payloads == [codec.statement_envelope(inspection, b"r-", False, False)]


def test_an_answer_is_known_again_by_its_words() -> None:
    said: list[bytes] = []
    guard = told(lambda payload: said.pop(0), closed=True)
    setup = Setup(guard)
    usual_words = b'{"action":"continue","more":1}'
    for answer, is_passed in (
        (b"", False),
        (b"\x00not said", False),
        (usual_words, True),
        (bytes(bytearray(usual_words)), True),
        (usual_words[:-1] + b" }", True),
        (usual_words[:-1], False),
        (b'{"action":"block","value":"no"}', False),
        (b'{"action":"block","value":"no"}', False),
        (b'{"action":"continue"}' + b" " * 300, True),
        (b'{"action":"continue"}' + b" " * 300, True),
    ):
        said.append(answer)
        inspection = at_once(setup)
        assert (inspection is None or inspection.verdict == VERDICT_ALLOW) is is_passed
    assert guard.stats.decisions == {"continue": 5, "block": 2}
    assert guard.stats.errors == {"bad_answer": 3}


def test_a_refusal_is_decided() -> None:
    setup = Setup(told(BLOCKED))
    inspection = at_once(setup, raw_text=b"select 2")
    assert inspection is not None
    assert inspection.verdict == VERDICT_REFUSE
    assert inspection.refusal is not None
    assert inspection.refusal.sqlstate == "42000"
    assert inspection.facts.text == b"select 2"
    assert setup.chains.in_flight == 1
    setup.pipeline.finished(inspection, None)
    assert setup.chains.in_flight == 0


def test_a_defect_of_the_host_is_a_failed_call() -> None:
    guard = told(ValueError("no"), closed=True)
    inspection = at_once(Setup(guard))
    assert inspection is not None
    assert inspection.refusal is not None
    assert inspection.refusal.sqlstate == "58000"
    assert guard.stats.errors == {"host": 1}


def test_the_result_cache_is_told_of_writes() -> None:
    setup = Setup(told())
    cache = FakeCache()
    setup.pipeline.configure(20_000, False, cache)
    assert at_once(setup) is None
    inspection = at_once(setup, "update t")
    assert inspection is not None
    assert inspection.verdict == VERDICT_ALLOW
    setup.pipeline.finished(inspection, None)
    assert cache.writes == ["update"]


def test_what_passes_is_learned() -> None:
    guard = told(pure=True)
    setup = Setup(guard)
    facts = facts_of("select 1")
    for _ in range(2):
        assert setup.pipeline.judge_at_once(facts, b"", setup.client, False, 0) is None
    clearance = setup.pipeline.clearance(facts, setup.client)
    assert clearance is not None
    assert clearance.text == b"select 1"
    assert len(guard.payloads) == 1


# -- the same as `judge`


def _broken(facts: StatementFacts, client: ClientContext) -> bool:
    raise ValueError("a filter that breaks")


def _reads(facts: StatementFacts, client: ClientContext) -> bool:
    return facts.is_read_only


@dataclass
class Guard:
    """What one subscriber is like."""

    answer: Answering
    pure: bool
    closed: bool
    deaf: bool
    matching: Callable[[StatementFacts, ClientContext], bool] | None
    cost_us: int
    limit: int
    granted: frozenset[str]

    def make(self, number: int) -> Told:
        made = told(
            self.answer,
            pure=self.pure,
            closed=self.closed,
            filtered=self.matching is not None,
            matching=self.matching,
            cost_us=self.cost_us,
            limit=self.limit,
            permissions=self.granted,
            name=f"p{number}",
        )
        made.is_deaf = self.deaf
        return made


ANSWERS: list[Answering] = [
    None,
    b'{"action":"continue"}',
    b'{"action":"block","value":"no"}',
    b'{"action":"rewrite","value":"select 3"}',
    b'{"action":"rewrite","value":"select 1; select 2"}',
    b'{"action":"cached","data":{"columns":[{"name":"a"}],"rows":[["1"]]}}',
    b"rubbish",
    BLOCKED,
    ValueError("the host's"),
]
TRAP = PluginFailed("p", "trap", "unreachable")


def usual(
    answer: Answering = None,
    pure: bool = False,
    closed: bool = False,
    deaf: bool = False,
    matching: Callable[[StatementFacts, ClientContext], bool] | None = None,
    cost_us: int = 2,
) -> Guard:
    return Guard(answer, pure, closed, deaf, matching, cost_us, 65_536, PLAIN)


guards = st.builds(
    Guard,
    st.sampled_from([None, None, TRAP, *ANSWERS]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([False, False, True]),
    st.sampled_from([None, None, _reads, _broken]),
    st.sampled_from([2, 2, 30_000]),
    st.sampled_from([65_536, 65_536, 100]),
    st.sampled_from([PLAIN, frozenset({"log"})]),
)
statements = st.tuples(
    st.sampled_from(["select 1", "update t", "strange"]),
    st.sampled_from([b"", b"select 2", b"update u"]),
    st.booleans(),
)


def seen(setup: Setup, inspection: Inspection | None) -> tuple[object, ...]:
    """What a session goes by, behind the end of the statement."""
    if inspection is None:
        return (VERDICT_ALLOW, False, None, None, None)
    text = inspection.raw_text or inspection.facts.text
    setup.pipeline.finished(inspection, None)
    rows = None if inspection.answer is None else inspection.answer.rows
    refusal = inspection.refusal
    told_why = None if refusal is None else (refusal.sqlstate, refusal.message)
    is_odd = inspection.verdict != VERDICT_ALLOW or inspection.is_rewritten
    return (
        inspection.verdict,
        inspection.is_rewritten,
        told_why,
        rows,
        text if is_odd else None,
    )


@given(
    st.lists(guards, min_size=1, max_size=3),
    st.lists(statements, min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
@example([usual(pure=True)], [("select 1", b"", True)] * 3, True, False)
@example([usual(pure=True, answer=BLOCKED)], [("select 1", b"", True)] * 2, True, False)
@example([usual(cost_us=30_000), usual()], [("select 1", b"", True)], True, False)
@example([usual(cost_us=30_000), usual(closed=True)], [("select 1", b"", True)], True, False)
@example([usual(answer=TRAP), usual()], [("select 1", b"select 2", False)], True, False)
@example([usual(answer=TRAP, closed=True), usual()], [("select 1", b"", False)], True, False)
@example([usual(answer=ValueError("the host's"))], [("select 1", b"", False)], True, False)
@example([usual(matching=_broken, closed=True)], [("select 1", b"", False)], True, False)
@example([usual(matching=_reads), usual()], [("update t", b"", False)], False, False)
@example([usual(), usual(deaf=True)], [("select 1", b"", False)], True, False)
@example([usual()], [("strange", b"", False)], True, True)
def test_it_does_what_judge_does(
    chain: list[Guard],
    script: list[tuple[str, bytes, bool]],
    has_cache: bool,
    refuses_unknown: bool,
) -> None:
    outcomes = []
    for is_short in (False, True):
        subscribers = [guard.make(number) for number, guard in enumerate(chain)]
        setup = Setup(*subscribers)
        assert setup.pipeline.judges_at_once
        refused = RefusedStatements(lambda: 0.0)
        setup.pipeline.refused = refused
        cache = FakeCache() if has_cache else None
        setup.pipeline.configure(20_000, refuses_unknown, cache)
        shapes = {
            text: facts_of(text) if text != "strange" else unknown_facts_of(text)
            for text, _, _ in script
        }
        verdicts = []
        for text, raw_text, is_extended in script:
            if is_short:
                inspection = setup.pipeline.judge_at_once(
                    shapes[text], raw_text, setup.client, is_extended, PHASE_STATEMENT
                )
            else:
                inspection = Inspection(
                    shapes[text], setup.client, is_extended, PHASE_STATEMENT, False, None
                )
                inspection.raw_text = raw_text
                assert setup.pipeline.judge(inspection)
            verdicts.append(seen(setup, inspection))
        stats = [
            (one.stats.decisions, one.stats.errors, one.stats.filtered, one.stats.memoized)
            for one in subscribers
        ]
        outcomes.append(
            (
                verdicts,
                [one.payloads for one in subscribers],
                stats,
                setup.counters.blocked,
                refused.last(),
                None if cache is None else cache.writes,
            )
        )
        assert setup.chains.in_flight == 0
    assert outcomes[0] == outcomes[1]
