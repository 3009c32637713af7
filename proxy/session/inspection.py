"""
One statement on its way past the hooks, and one exchange's outcome afterwards.

An `Inspection` is made by the session for every statement while any statement hook is
subscribed, changed by the gate, and read by the session. It belongs to one statement: the plugin
generations that judged it first (`chains`) judge it to the end and are told its outcome.
"""

from typing import Final, final

from proxy.errors import Refusal
from proxy.routing.route import Route
from proxy.session.context import ClientContext
from proxy.sql.statement import StatementFacts

VERDICT_ALLOW: Final = 0
VERDICT_REFUSE: Final = 1
VERDICT_ANSWER: Final = 2

PHASE_STATEMENT: Final = 0
PHASE_EXECUTE: Final = 1


@final
class RowSet:
    """
    Rows that a plugin or the result cache answers with.

    columns  (name, type OID) pairs; OID 25 (text) where the plugin named none
    rows     each as long as columns; values in PostgreSQL's text format, None = NULL
    is_raw   values are in the formats that the client asks for, and are not converted
    """

    __slots__ = ("columns", "is_raw", "rows")

    def __init__(self, columns: list[tuple[str, int]], rows: list[list[bytes | None]]) -> None:
        self.columns = columns
        self.rows = rows
        self.is_raw = False


@final
class Outcome:
    """
    How one statement went, for `post_query`, logs and counters.

    target_node     node name, "" when no server was asked
    elapsed_us      from the moment its exchange was complete at the proxy to its last reply
    response_bytes  bytes sent to the client for it
    rows            from the command tag, or of the plugin's own answer
    sqlstate        "" on success
    error           the message of the error, "" on success
    """

    __slots__ = (
        "elapsed_us",
        "error",
        "response_bytes",
        "rows",
        "sqlstate",
        "success",
        "target_node",
    )

    def __init__(self) -> None:
        self.success = True
        self.target_node = ""
        self.elapsed_us = 0
        self.response_bytes = 0
        self.rows = 0
        self.sqlstate = ""
        self.error = ""


@final
class Inspection:
    """
    A statement before the gate.

    In: facts, client, is_extended, phase, in_transaction, parameters (bind values in text form
    where the client sent text, raw bytes where binary; None where there are none), is_judged
    (its text was judged at Parse in the same group: only the cache is asked now), settings_key
    (all settings of the session that a result may depend on), may_cache (its result may be taken from
    the result cache: nothing in its exchange has written before it, and nothing of its session but
    settings can change what it sees), bind_key (formats of parameters and results, types of
    parameters, as far as not usual), all three only while the gate caches; raw_text (the statement's own text
    where `facts` are those of another one that differs in constants only; b"" where they are exact:
    made so before a plugin is called, and not for those that nobody looks at), target (the statement
    that an SQL EXECUTE runs, a `session.exchange.Prepared`; `facts` are then those of its text).
    Out: verdict; refusal with VERDICT_REFUSE; answer with VERDICT_ANSWER; facts, is_rewritten with
    the final text; route after Gate.route; cache_key when the result shall be offered to the cache.
    """

    __slots__ = (
        "answer",
        "bind_key",
        "cache_epoch",
        "cache_key",
        "cache_max_age_ms",
        "chains",
        "client",
        "facts",
        "in_transaction",
        "is_extended",
        "is_judged",
        "is_rewritten",
        "may_cache",
        "outcome",
        "parameters",
        "phase",
        "raw_text",
        "refusal",
        "request_id",
        "route",
        "settings_key",
        "spent_us",
        "target",
        "verdict",
        "waiter",
    )

    def __init__(
        self,
        facts: StatementFacts,
        client: ClientContext,
        is_extended: bool,
        phase: int,
        in_transaction: bool,
        parameters: list[bytes | None] | None,
    ) -> None:
        self.facts = facts
        self.client = client
        self.is_extended = is_extended
        self.phase = phase
        self.in_transaction = in_transaction
        self.parameters = parameters
        self.request_id = 0
        self.is_judged = False
        self.raw_text = b""
        self.settings_key = b""
        self.bind_key = b""
        self.may_cache = False
        self.target: object | None = None
        self.chains: object | None = None
        self.waiter: object | None = None
        self.verdict = VERDICT_ALLOW
        self.refusal: Refusal | None = None
        self.answer: RowSet | None = None
        self.is_rewritten = False
        self.route: Route | None = None
        self.cache_epoch = 0  # the cache's own: when it was looked up
        self.cache_key = ""
        self.cache_max_age_ms = 0
        self.spent_us = 0
        self.outcome: Outcome | None = None
