"""
The gate: plugins in their order, and what their answers do to a statement.

Theory of operation. A statement goes through five stages:

    authorize -> pre_query -> rewrite -> authorize again -> cache_get      (and `route` later)

- Within a stage the subscribers are asked in order. Block, deny, cached and hit end the chain. A
  rewrite does not: the text is classified again and the next subscriber sees the new one.
- If the text was changed, authorize is asked again with the new one, before anything is answered:
  a rewrite or a cached answer never reaches what the identity may not touch.
- cache_get is for plain reads outside a transaction. On the extended protocol it is asked at the
  execution, where the parameters are known, and not at Parse.
- At phase `execute` a changed text is reported like any other (`is_rewritten`): the session either
  prepares it anew unseen or refuses the statement.
- All plugins together have BUDGET_US for one statement; who comes after that is not called, and
  failed. Calls that wait on worker threads have limits of their own and do not count.
- Who may block or deny gets a text whole, or the statement is refused. Who can neither decide nor
  fail closed only looks on, and gets a text that is too long cut and flagged.

What an answer does is in `decisions`. Where only pre_query is asked and nobody is told of outcomes, as
most often, plain statements take a short way (`judge_at_once`), by the same rules.

A statement keeps the chains that it came in with to its outcome. Knows no WebAssembly, no socket,
no clock; how long a call took is in `Subscriber.last_us`.
"""

from typing import Final, final

from proxy.errors import PluginFailed, Refusal
from proxy.hooks import answers, codec, points
from proxy.hooks.answers import Answer
from proxy.hooks.clearing import UNKNOWN_KIND, Clearances
from proxy.hooks.decisions import (
    END_OF_ALL,
    END_OF_CHAIN,
    NEXT,
    WAITING,
    Decisions,
)
from proxy.hooks.outcomes import OutcomeQueue
from proxy.hooks.plan import Plan, Seat
from proxy.hooks.points import EMPTY_CHAINS, NOT_SAID, Completion, HookChains
from proxy.hooks.refused import RefusedStatements
from proxy.hooks.rowset import ResultCache
from proxy.observe.counters import Counters
from proxy.session.clearance import Clearance
from proxy.session.context import ClientContext
from proxy.session.inspection import (
    PHASE_STATEMENT,
    VERDICT_ALLOW,
    VERDICT_ANSWER,
    Inspection,
)
from proxy.session.ports import Classifier, Waiter
from proxy.sql.statement import StatementFacts

BUDGET_US: Final = 20_000

UNKNOWN_SQL: Final = (
    "the proxy cannot tell what this statement does, and is configured to refuse such statements"
)

SHORT_BYTES: Final = 256
"""Longest answer that is known again without being read."""

AUTHORIZE: Final = 0
PRE_QUERY: Final = 1
REWRITE: Final = 2
AUTHORIZE_AGAIN: Final = 3
CACHE_GET: Final = 4
DONE: Final = 5
ROUTE: Final = 6


@final
class HookPipeline(Decisions):
    """The Gate of a process: one for all its sessions."""

    def __init__(
        self,
        classifier: Classifier,
        counters: Counters,
        outcomes: OutcomeQueue,
        request_prefix: bytes,
        budget_us: int = BUDGET_US,
        refused: RefusedStatements | None = None,
    ) -> None:
        super().__init__(classifier, counters, refused)
        self.judges = False
        self.routes = False
        self.observes = False
        self.wants_parameters = False
        self.captures = False
        self.caches = False
        self.clears = False
        self.judges_at_once = False
        self.outcomes = outcomes
        self._prefix = request_prefix
        self._context = codec.context_opening(request_prefix)
        self._budget_us = budget_us
        self._requests = 0
        self._made = b""
        self._made_for = -1
        self._made_of: StatementFacts | None = None
        self._nobody: list[Seat] = []
        self._plan = Plan(EMPTY_CHAINS, None)
        self._clearances = Clearances(self._plan)

    @property
    def chains(self) -> HookChains:
        """The chains that new statements get."""
        return self._plan.chains

    def install(self, chains: HookChains) -> HookChains:
        """Exchange the chains for all new statements; the old ones, to be retired, come back."""
        old = self._plan
        plan = Plan(chains, old)
        self._plan = plan
        self._clearances = Clearances(plan)
        self.clears = self._clearances.may_clear
        self.routes = len(plan.route) > 0
        self.observes = plan.observes
        self.captures = plan.captures
        caches = len(plan.cache_get) > 0
        if caches != self.caches and self.cache is not None:
            # While nobody asks for what is cached, writes are not told to the cache either.
            self.cache.clear()
        self.caches = caches
        self.wants_parameters = plan.wants_parameters
        self.judges_at_once = plan.is_at_once
        self._look()
        return old.chains

    def configure(self, budget_us: int, refuses_unknown: bool, cache: ResultCache | None) -> None:
        """Go by the operator's settings, from the next statement on."""
        self._budget_us = budget_us
        self.refuses_unknown = refuses_unknown
        if cache is not None and cache is not self.cache:
            cache.clear()
        self.cache = cache
        self._look()

    def _look(self) -> None:
        """Whether statements have to be shown here at all."""
        self.judges = (
            self._plan.is_judging
            or self.routes
            or self.observes
            or self.captures
            or self.refuses_unknown
        )

    def next_request(self) -> int:
        """A number for a request, unique in this process."""
        self._requests += 1
        return self._requests

    # --- Gate ----------------------------------------------------------------------------------

    def clearance(self, facts: StatementFacts, client: ClientContext) -> Clearance | None:
        """See Gate."""
        return self._clearances.find(facts, client)

    def judge(self, inspection: Inspection) -> bool:
        """Take the chains of now for this statement, and run the stages."""
        plan = self._enter(inspection)
        if self.refuses_unknown and inspection.facts.kind == UNKNOWN_KIND:
            self._refuse_unknown(inspection)
            return True
        if not plan.is_judging:
            return True
        if not self.clears:
            return self._walk(
                plan, inspection, CACHE_GET if inspection.is_judged else plan.first, 0
            )
        facts = inspection.facts
        text = inspection.raw_text or facts.text
        is_decided = self._walk(plan, inspection, plan.first, 0)
        if is_decided and inspection.verdict == VERDICT_ALLOW and not inspection.is_rewritten:
            self._clearances.learn(facts, text, inspection.client)
        return is_decided

    def judge_at_once(
        self,
        facts: StatementFacts,
        raw_text: bytes,
        client: ClientContext,
        is_extended: bool,
        phase: int,
    ) -> Inspection | None:
        """See Gate."""
        # PERF: the walk in short, for those who say what is said as a rule: with no object for the
        # statement, and its envelope written where the guest reads it. Whatever is not so plain goes
        # on in the walk itself, from the seat where it is met.
        plan = self._plan
        seats = plan.pre_query
        text = raw_text or facts.text
        self._requests += 1
        number = self._requests
        inspection: Inspection | None = None
        effect = NEXT
        index = 0
        spent_us = 0
        asked = len(seats)
        if not facts.is_read_only and (self.cache is not None or facts.kind == UNKNOWN_KIND):
            # The result cache is told of each write behind its end, by the object; and what is
            # unknown, which never counts as a read, has rules of its own.
            asked = 0
        while index < asked:
            seat = seats[index]
            subscriber = seat.subscriber
            stats = seat.stats
            memo = seat.memo
            try:
                is_meant = subscriber.matches(facts, client)
            except Exception:
                break
            if not is_meant:
                stats.filtered += 1
                index += 1
                continue
            if memo is not None:
                known = memo.find(text, client)
                if known is seat.default:
                    stats.memoized += 1
                    stats.decided(seat.default.word)
                    index += 1
                    continue
                if known is not None:
                    break
            if spent_us > self._budget_us:
                break
            answer: Answer | None = seat.default
            is_failed = False
            try:
                given = codec.say_statement(
                    subscriber, facts, raw_text, client, self._context, number, is_extended, phase
                )
                if given is not None and given != seat.default_words:
                    if given is NOT_SAID:
                        break
                    answer = answers.decode(seat.hook, given)
                    if answer is seat.default and len(given) < SHORT_BYTES:
                        seat.default_words = given
            except PluginFailed:
                is_failed = True
            except Exception:
                subscriber.answer_failed("host")
                is_failed = True
            index += 1
            if asked > 1:
                spent_us += subscriber.said_us()
            if is_failed or answer is not seat.default:
                inspection = self._inspection(
                    plan, facts, raw_text, client, is_extended, phase, number
                )
                inspection.spent_us = spent_us
                if is_failed:
                    effect = self._failed(seat, inspection)
                else:
                    effect = self._follow(seat, inspection, answer)
                break
            stats.decided(seat.default.word)
            if memo is not None:
                memo.remember(text, client, seat.default)
        if inspection is None and index < len(seats):
            inspection = self._inspection(plan, facts, raw_text, client, is_extended, phase, number)
            inspection.spent_us = spent_us
        if inspection is not None:
            if self.refuses_unknown and facts.kind == UNKNOWN_KIND:
                self._refuse_unknown(inspection)
                return inspection
            self._go_on(plan, inspection, PRE_QUERY, index, effect)
            if inspection.verdict != VERDICT_ALLOW or inspection.is_rewritten:
                return inspection
        if self.clears:
            self._clearances.learn(facts, text, client)
        return inspection

    def _inspection(
        self,
        plan: Plan,
        facts: StatementFacts,
        raw_text: bytes,
        client: ClientContext,
        is_extended: bool,
        phase: int,
        number: int,
    ) -> Inspection:
        """The object for a statement of `judge_at_once` that turns out to need one."""
        inspection = Inspection(facts, client, is_extended, phase, False, None)
        inspection.raw_text = raw_text
        inspection.request_id = number
        plan.chains.enter()
        inspection.chains = plan
        return inspection

    def route(self, inspection: Inspection) -> bool:
        """Ask `route` of the chains that judged the statement."""
        held = inspection.chains
        plan = held if isinstance(held, Plan) else self._enter(inspection)
        if not plan.route:
            return True
        return self._walk(plan, inspection, ROUTE, 0)

    def finished(self, inspection: Inspection, result: bytes | None) -> None:
        """Hand the statement to whom is told afterwards; the chains are left when they were."""
        plan = inspection.chains
        if not isinstance(plan, Plan):
            return
        inspection.chains = None
        if self.cache is not None and not inspection.facts.is_read_only:
            self.cache.written(inspection)
        if inspection.is_judged and result is None:
            plan.chains.leave()
            return
        if not inspection.cache_key or not plan.captures:
            result = None
        if plan.observes or result is not None:
            if inspection.raw_text:
                self._make_exact(inspection)
            self.outcomes.put(plan.chains, inspection, result)
        else:
            plan.chains.leave()

    def _refuse_unknown(self, inspection: Inspection) -> None:
        self._counters.blocked += 1
        self._refuse(None, inspection, Refusal("42000", UNKNOWN_SQL))

    def _enter(self, inspection: Inspection) -> Plan:
        plan = self._plan
        plan.chains.enter()
        inspection.chains = plan
        self._requests += 1
        inspection.request_id = self._requests
        return plan

    # --- the walk ------------------------------------------------------------------------------

    def _walk(self, plan: Plan, inspection: Inspection, stage: int, index: int) -> bool:
        """
        Go on from a seat of a stage to the end. False: a worker thread has the statement now, and
        `resume` goes on with the answer.
        """
        while stage != DONE:
            seats = self._seats_at(plan, inspection, stage)
            while index < len(seats):
                index += 1
                effect = self._visit(plan, seats[index - 1], inspection, stage, index)
                if effect == WAITING:
                    return False
                if effect == END_OF_ALL:
                    return True
                if effect == END_OF_CHAIN:
                    break
            index = 0
            stage = self._after(plan, stage, inspection)
        return True

    def resume(
        self,
        plan: Plan,
        inspection: Inspection,
        stage: int,
        index: int,
        given: bytes | None,
        failed_cause: str,
    ) -> None:
        """A worker thread has answered for the seat before `index`."""
        # While it worked, the client may have gone and the statement with it.
        if inspection.chains is plan:
            seat = self._seats_at(plan, inspection, stage)[index - 1]
            if failed_cause:
                effect = self._failed(seat, inspection)
            else:
                effect = self._take(seat, inspection, given)
            is_decided = self._go_on(plan, inspection, stage, index, effect)
            if is_decided and isinstance(inspection.waiter, Waiter):
                inspection.waiter.on_judged(inspection)
        plan.chains.leave()

    def _go_on(
        self, plan: Plan, inspection: Inspection, stage: int, index: int, effect: int
    ) -> bool:
        """The walk behind a seat that has had its say."""
        if effect == NEXT:
            return self._walk(plan, inspection, stage, index)
        if effect == END_OF_CHAIN:
            return self._walk(plan, inspection, self._after(plan, stage, inspection), 0)
        return effect == END_OF_ALL

    def _seats_at(self, plan: Plan, inspection: Inspection, stage: int) -> list[Seat]:
        if stage == PRE_QUERY:
            return plan.pre_query
        if stage == AUTHORIZE:
            return plan.authorize
        if stage == REWRITE:
            return plan.rewrite
        if stage == AUTHORIZE_AGAIN:
            return plan.authorize if inspection.is_rewritten else self._nobody
        if stage == ROUTE:
            return plan.route
        if not inspection.facts.is_read_only or inspection.in_transaction:
            return self._nobody
        if inspection.is_extended and inspection.phase == PHASE_STATEMENT:
            return self._nobody
        return plan.cache_get

    def _after(self, plan: Plan, stage: int, inspection: Inspection) -> int:
        """The stage that follows; an answer that is there waits for the second authorize only."""
        if stage == ROUTE:
            return DONE
        if inspection.answer is not None:
            if stage < AUTHORIZE_AGAIN and inspection.is_rewritten:
                return AUTHORIZE_AGAIN
            inspection.verdict = VERDICT_ANSWER
            return DONE
        if stage == PRE_QUERY and plan.ends_at_pre_query:
            return DONE
        return stage + 1

    def _visit(self, plan: Plan, seat: Seat, inspection: Inspection, stage: int, index: int) -> int:
        """Let one subscriber have its say, unless its filter, memo or limits say it for it."""
        subscriber = seat.subscriber
        try:
            is_meant = subscriber.matches(inspection.facts, inspection.client)
        except Exception:
            # A filter that breaks must not let a statement past a plugin that guards.
            subscriber.answer_failed("host")
            return self._failed(seat, inspection)
        if not is_meant:
            seat.stats.filtered += 1
            return NEXT
        if seat.memo is not None and inspection.facts.kind != UNKNOWN_KIND:
            known = seat.memo.find(inspection.raw_text or inspection.facts.text, inspection.client)
            if known is not None:
                seat.stats.memoized += 1
                return self._apply(seat, inspection, known)
        if inspection.spent_us > self._budget_us:
            seat.stats.failed("budget")
            return self._failed(seat, inspection)
        payload = self._envelope(seat, inspection)
        if len(payload) > seat.limit_bytes:
            if inspection.raw_text:
                self._make_exact(inspection)
            if not seat.is_watching:
                return self._too_long(seat, inspection, len(payload))
            payload = codec.cut_envelope(
                inspection, self._prefix, seat.wants_parameters, seat.limit_bytes
            )
            if not payload:
                seat.stats.failed("input")
                return NEXT
        if seat.is_slow:
            return self._ask_slowly(plan, seat, inspection, stage, index, payload)
        try:
            given = subscriber.call(payload)
        except PluginFailed:
            inspection.spent_us += subscriber.last_us
            return self._failed(seat, inspection)
        except Exception:
            # A defect of the host: nothing that is not an answer may pass for one.
            subscriber.answer_failed("host")
            return self._failed(seat, inspection)
        inspection.spent_us += subscriber.last_us
        return self._take(seat, inspection, given)

    def _ask_slowly(
        self,
        plan: Plan,
        seat: Seat,
        inspection: Inspection,
        stage: int,
        index: int,
        payload: bytes,
    ) -> int:
        """Give a call to a worker thread; its time is not the loop's and not of the budget."""
        if inspection.waiter is None:
            seat.stats.failed("nobody_waits")
            return self._failed(seat, inspection)
        # Held once more: the statement may be over before the thread is done with the instance.
        plan.chains.enter()
        try:
            seat.subscriber.call_slow(payload, _Pending(self, plan, inspection, stage, index))
        except Exception:
            plan.chains.leave()
            seat.subscriber.answer_failed("host")
            return self._failed(seat, inspection)
        return WAITING

    def _envelope(self, seat: Seat, inspection: Inspection) -> bytes:
        """The input; one that says nothing of its own is made once for all of a statement."""
        is_authorize = seat.hook == points.AUTHORIZE
        if is_authorize or seat.wants_parameters:
            return codec.statement_envelope(
                inspection, self._prefix, seat.wants_parameters, is_authorize
            )
        if self._made_for != inspection.request_id or self._made_of is not inspection.facts:
            self._made = codec.statement_envelope(inspection, self._prefix, False, False)
            self._made_for = inspection.request_id
            self._made_of = inspection.facts
        return self._made


@final
class _Pending(Completion):
    """Where a statement goes on when a worker thread has answered."""

    def __init__(
        self,
        pipeline: HookPipeline,
        plan: Plan,
        inspection: Inspection,
        stage: int,
        index: int,
    ) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self._inspection = inspection
        self._stage = stage
        self._index = index

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """Go on behind the seat that was asked."""
        self._pipeline.resume(
            self._plan, self._inspection, self._stage, self._index, answer, failed_cause
        )
