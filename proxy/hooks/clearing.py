"""
Which statements no plugin has to be asked about, found out once and remembered.

A plan whose every seat has a filter that goes by the statement and the client alone, or remembers
the answers of a `pure` plugin, may clear statements; `session.clearance` is what it gives. One
table of clearances belongs to one plan and one kind of client (database, user, identity), so a
reload, another role or another tenant starts with an empty one.
"""

from typing import Final, final

from proxy.hooks import answers
from proxy.hooks.memo import identity_of
from proxy.hooks.plan import Plan, Seat
from proxy.observe.counters import HookStats
from proxy.session.clearance import NEVER, Clearance
from proxy.session.context import ClientContext
from proxy.sql.statement import PREPARED_NONE, StatementFacts

MAX_CLIENTS: Final = 4096
MAX_STATEMENTS: Final = 4096

UNKNOWN_KIND: Final = "unknown"
"""
Never remembered: by its session's settings and encoding, one text is of this kind for one client
and a plain statement for another, and what was right for that one is not for this.
"""


@final
class Clearances:
    """All clearances of one plan."""

    def __init__(self, plan: Plan) -> None:
        self.number = plan.number
        self._seats: list[Seat] = plan.authorize + plan.pre_query + plan.rewrite + plan.route
        self._by_client: dict[tuple[str, str, str], dict[StatementFacts, Clearance]] = {}
        # Who observes is told of every statement, and the result cache of every write.
        may_clear = len(self._seats) > 0 and not (plan.observes or plan.captures or plan.cache_get)
        for seat in self._seats:
            if seat.memo is None and not seat.subscriber.is_filtered:
                may_clear = False
        self.may_clear = may_clear

    def table_of(self, client: ClientContext) -> dict[StatementFacts, Clearance]:
        """What is known for clients of this kind; the client keeps it at hand."""
        key = (client.database, client.user, identity_of(client))
        table = self._by_client.get(key)
        if table is None:
            if len(self._by_client) >= MAX_CLIENTS:
                self._by_client.clear()
            table = {}
            self._by_client[key] = table
        client.clearances = table
        client.cleared_by = self.number
        return table

    def find(self, facts: StatementFacts, client: ClientContext) -> Clearance | None:
        """The clearance for a statement, NEVER, or None when nothing is known yet."""
        if client.cleared_by == self.number:
            return client.clearances.get(facts)
        return self.table_of(client).get(facts)

    def learn(self, facts: StatementFacts, text: bytes, client: ClientContext) -> None:
        """A statement has passed; remember it if the next one like it need not be asked about."""
        table = self.table_of(client)
        known = table.get(facts)
        if known is not None:
            if known.text and known.text != text:
                # Texts with these facts differ each time: looking them up would only cost.
                table[facts] = NEVER
            return
        if facts.kind == UNKNOWN_KIND or facts.prepared != PREPARED_NONE:
            # What an EXECUTE runs is not in its text.
            return
        found = self._judge(facts, text, client)
        if found is not None:
            if len(table) >= MAX_STATEMENTS:
                table.clear()
            table[facts] = found

    def _judge(self, facts: StatementFacts, text: bytes, client: ClientContext) -> Clearance | None:
        filtered: list[HookStats] = []
        remembered: list[tuple[HookStats, str]] = []
        for seat in self._seats:
            subscriber = seat.subscriber
            try:
                is_meant = subscriber.matches(facts, client)
            except Exception:
                # A filter that breaks: the gate has counted it, and shall again each time.
                return None
            if not is_meant:
                if subscriber.is_filtered:
                    filtered.append(seat.stats)
                    continue
                return None
            if seat.memo is None:
                return NEVER
            answer = seat.memo.find(text, client)
            if answer is None or answer.action != answers.PASS:
                return None
            remembered.append((seat.stats, answer.word))
        return Clearance(text if remembered else b"", filtered, remembered)
