"""
What the plugins' answers do to a statement: the part of the gate that asks nobody.

- An answer that its plugin lacks the permission for is a failed call, and so is one that cannot be
  followed. A failed call means what the subscriber's `fails_closed` says: refused with 58000, or as
  if the plugin were not there.
- A rewritten text holds exactly one statement: an inspection is one statement, and a second one
  in it would run unjudged. What the parser does not know counts as one of kind unknown.

`pipeline` asks in order, and goes by what is answered here.
"""

from typing import Final

from proxy.errors import Refusal
from proxy.hooks import answers, points
from proxy.hooks.answers import Answer
from proxy.hooks.clearing import UNKNOWN_KIND
from proxy.hooks.plan import Seat
from proxy.hooks.refused import RefusedStatements
from proxy.hooks.rowset import ResultCache
from proxy.observe.counters import Counters
from proxy.routing.route import ROUTE_BRANCH, ROUTE_NODE, ROUTE_PRIMARY, ROUTE_STANDBY, Route
from proxy.session.inspection import VERDICT_REFUSE, Inspection
from proxy.session.ports import Classifier, Gate
from proxy.sql.analyse import with_text

# What an answer means for the chain that it was given in.
NEXT: Final = 0
END_OF_CHAIN: Final = 1
END_OF_ALL: Final = 2
WAITING: Final = 3
FORBIDDEN: Final = 4  # the plugin has no permission for this answer
UNFIT: Final = 5  # the answer is understood and cannot be followed


class Decisions(Gate):
    """The part of the gate behind the plugins' answers."""

    def __init__(
        self, classifier: Classifier, counters: Counters, refused: RefusedStatements | None
    ) -> None:
        self.cache: ResultCache | None = None
        self.refuses_unknown = False
        self.refused = refused
        self._classifier = classifier
        self._counters = counters

    def _take(self, seat: Seat, inspection: Inspection, given: bytes | None) -> int:
        """Understand an answer, and follow it."""
        answer: Answer | None = seat.default
        if given is not None:
            answer = answers.decode(seat.hook, given)
        return self._follow(seat, inspection, answer)

    def _follow(self, seat: Seat, inspection: Inspection, answer: Answer | None) -> int:
        """Do what an answer says, remember it for a pure plugin; None is not understood."""
        if answer is None:
            seat.subscriber.answer_failed("bad_answer")
            return self._failed(seat, inspection)
        facts = inspection.facts
        text = inspection.raw_text or facts.text
        effect = self._apply(seat, inspection, answer)
        if effect == FORBIDDEN:
            seat.subscriber.answer_failed("permission")
            return self._failed(seat, inspection)
        if effect == UNFIT:
            seat.subscriber.answer_failed("bad_answer")
            return self._failed(seat, inspection)
        if seat.memo is not None and facts.kind != UNKNOWN_KIND:
            seat.memo.remember(text, inspection.client, answer)
        return effect

    def _apply(self, seat: Seat, inspection: Inspection, answer: Answer) -> int:
        """Do what an answer says, if its plugin may say so."""
        # PERF: who says the default, the usual case, in few words or many, has seen the very text in
        # its envelope, and nobody looks at the facts.
        if inspection.raw_text and answer is not seat.default:
            self._make_exact(inspection)
        action = answer.action
        if action == answers.PASS:
            effect = NEXT
        elif action == answers.BLOCK:
            effect = self._block(seat, inspection, answer)
        elif action == answers.NEW_TEXT:
            effect = self._rewrite(seat, inspection, answer)
        elif action == answers.ROWS:
            effect = FORBIDDEN
            if seat.may_answer and (seat.hook == points.PRE_QUERY or seat.may_read_cache):
                inspection.answer = answer.rows
                effect = END_OF_CHAIN
        elif action == answers.KEY:
            effect = self._look_up(seat, inspection, answer)
        else:
            effect = self._send_to(seat, inspection, answer)
        if effect <= END_OF_ALL:
            seat.stats.decided(answer.word)
        return effect

    def _block(self, seat: Seat, inspection: Inspection, answer: Answer) -> int:
        if seat.may_deny:
            sqlstate, what = "42501", "permission denied by plugin"
        elif seat.may_block:
            sqlstate, what = "42000", "Query blocked by plugin"
        else:
            return FORBIDDEN
        refusal = Refusal(
            answer.sqlstate or sqlstate, f"{what}: {answer.text}", answer.detail, answer.hint
        )
        self._counters.blocked += 1
        self._refuse(seat, inspection, refusal)
        return END_OF_ALL

    def _rewrite(self, seat: Seat, inspection: Inspection, answer: Answer) -> int:
        if not seat.may_rewrite:
            return FORBIDDEN
        text = answer.text.encode()
        if text == inspection.facts.text:
            return NEXT
        found = self._classifier.exact(text)
        if len(found.statements) != 1:
            return UNFIT
        if self.refuses_unknown and found.statements[0].kind == UNKNOWN_KIND:
            return UNFIT
        inspection.facts = found.statements[0]
        inspection.is_rewritten = True
        return NEXT

    def _look_up(self, seat: Seat, inspection: Inspection, answer: Answer) -> int:
        """A key of the proxy's own result cache: rows from there, or a place to fill."""
        cache = self.cache
        if not seat.may_read_cache:
            return FORBIDDEN
        if cache is None or not inspection.may_cache:
            return NEXT
        if inspection.is_extended and inspection.parameters is None:
            return NEXT
        rows = cache.lookup(inspection, answer.text, answer.millis)
        if rows is None:
            inspection.cache_key = answer.text
            inspection.cache_max_age_ms = answer.millis
        else:
            inspection.answer = rows
        return END_OF_CHAIN

    def _send_to(self, seat: Seat, inspection: Inspection, answer: Answer) -> int:
        if not seat.may_route:
            return FORBIDDEN
        kind = ROUTE_PRIMARY
        if answer.action == answers.TO_STANDBY:
            kind = ROUTE_STANDBY
        elif answer.action == answers.TO_NODE:
            kind = ROUTE_NODE
        elif answer.action == answers.TO_BRANCH:
            kind = ROUTE_BRANCH
        is_read = inspection.facts.is_read_only and not inspection.in_transaction
        inspection.route = Route(kind, answer.text, is_read)
        return END_OF_CHAIN

    # --- refusals ------------------------------------------------------------------------------

    def _failed(self, seat: Seat, inspection: Inspection) -> int:
        """A call failed, and is counted: the hook's failure rule."""
        if not seat.fails_closed:
            return NEXT
        refusal = Refusal("58000", f'plugin "{seat.subscriber.plugin}" failed')
        self._refuse(seat, inspection, refusal)
        return END_OF_ALL

    def _too_long(self, seat: Seat, inspection: Inspection, size: int) -> int:
        """A text that a plugin must see whole, and cannot: who guards refuses it."""
        seat.stats.failed("input")
        if not (seat.fails_closed or seat.may_block or seat.may_deny):
            return NEXT
        self._refuse(
            seat,
            inspection,
            Refusal(
                "54000",
                f'statement is too long for plugin "{seat.subscriber.plugin}"',
                f"Its description has {size} bytes, the plugin takes {seat.limit_bytes}.",
                "Send long values as parameters or by COPY, or raise the plugin's input limit.",
            ),
        )
        return END_OF_ALL

    def _refuse(self, seat: Seat | None, inspection: Inspection, refusal: Refusal) -> None:
        if inspection.raw_text:
            self._make_exact(inspection)
        if self.refused is not None:
            plugin = "" if seat is None else seat.subscriber.plugin
            hook = "" if seat is None else points.HOOK_NAMES[seat.hook]
            self.refused.add(inspection, plugin, hook, refusal)
        inspection.verdict = VERDICT_REFUSE
        inspection.refusal = refusal
        inspection.answer = None

    def _make_exact(self, inspection: Inspection) -> None:
        """The facts of the very text, now that somebody looks at it."""
        inspection.facts = with_text(inspection.facts, inspection.raw_text)
        inspection.raw_text = b""
