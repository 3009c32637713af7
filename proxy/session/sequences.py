"""
What a server connection knows of sequences: currval and lastval, for the client whose turn it is.

A server session remembers what nextval gave it; the next client of the connection must not see it
(rule 20), and it is in no catalogue. So before a statement that reads it (`sql.sequences`), on a
connection that others have used before,

    outside a transaction   DISCARD SEQUENCES: then PostgreSQL's own 55000 is the answer, and the
                            client keeps its connection from now on (the pin "sequence")
    in a transaction        the server is asked whether this very transaction has used the sequence:
                            it has a lock on it then. If so the value is the client's own, and nothing
                            is pinned; if not, as above

A client that has called nextval outside a transaction, in text that shows it, finds its connection
again while nobody else has used it: it is given to others last. For the first few calls only: who
never asks for a value afterwards calls nextval at no other cost than any statement.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.errors import Refusal
from proxy.protocol import backend, tags
from proxy.session import namespace
from proxy.session.answering import decode_bind
from proxy.session.exchange import END_CUT, END_FLUSH, Batch, Exchange, Message
from proxy.session.intake import Intake
from proxy.session.link import BackendLink
from proxy.session.state import SessionState, quote_bytes
from proxy.session.users import InternalQuery
from proxy.sql.statement import (
    PREPARED_EXECUTE,
    SEQUENCE_CALLS,
    SEQUENCE_DISCARDS,
    SEQUENCE_LAST,
    SEQUENCE_READS,
    SEQUENCE_SETS,
    NamedSequence,
    SequenceUse,
    TextFacts,
)

if TYPE_CHECKING:
    from proxy.session.conversation import Conversation

MAX_UNREAD: Final = 8
"""Calls of nextval outside a transaction after which a client that never read is taken for an ORM."""

CURRVAL_OID: Final = 1575
LASTVAL_OID: Final = 2559

_DISCARD: Final = b"DISCARD SEQUENCES"

# nextval and setval hold this lock to the end of the transaction, and nothing else takes it.
_IS_LOCKED: Final = (
    b"EXISTS (SELECT FROM pg_catalog.pg_locks"
    b" WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
    b" AND locktype OPERATOR(pg_catalog.=) 'relation'"
    b" AND mode OPERATOR(pg_catalog.=) 'RowExclusiveLock' AND granted"
    b" AND relation OPERATOR(pg_catalog.=) ANY (%b))"
)
_ANY_SEQUENCE: Final = (
    b"SELECT oid FROM pg_catalog.pg_class WHERE relkind OPERATOR(pg_catalog.=) 'S'"
)
_BY_NAME: Final = b"SELECT pg_catalog.to_regclass(%b)::pg_catalog.oid"
# pg_get_serial_sequence, without its errors: 1259 is pg_class.
_BY_COLUMN: Final = (
    b"SELECT objid FROM pg_catalog.pg_depend JOIN pg_catalog.pg_attribute"
    b" ON attrelid OPERATOR(pg_catalog.=) refobjid AND attnum OPERATOR(pg_catalog.=) refobjsubid"
    b" WHERE classid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid"
    b" AND refclassid OPERATOR(pg_catalog.=) 1259::pg_catalog.oid"
    b" AND deptype OPERATOR(pg_catalog.=) ANY ('{a,i}'::pg_catalog.\"char\"[])"
    b" AND refobjid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%b)"
    b" AND attname OPERATOR(pg_catalog.=) %b"
)


def of_function_call(batch: Batch, message: Message) -> int:
    """SEQUENCE_* of a FunctionCall."""
    body = batch.data[message.start + 5 : message.start + 9]
    oid = int.from_bytes(body, "big")
    return SEQUENCE_READS if oid == CURRVAL_OID or oid == LASTVAL_OID else 0


def undefined() -> Refusal:
    """What PostgreSQL answers to who has not called nextval in its session."""
    return Refusal(
        "55000",
        "currval is not yet defined in this session",
        hint="In one pipeline, read a sequence before any Flush, or use RETURNING.",
    )


@final
class Reading:
    """
    What a batch reads and calls.

    message   the first one that does
    leads     nothing is executed before it
    named     the sequences that are read or set, as expressions; is_certain: no others are
    uses      the facts that it comes from
    """

    __slots__ = ("bits", "is_certain", "leads", "message", "named", "uses")

    def __init__(self) -> None:
        self.bits = 0
        self.message: Message | None = None
        self.leads = True
        self.named: list[bytes] = []
        self.is_certain = True
        self.uses: list[SequenceUse] = []

    def add(self, use: SequenceUse, batch: Batch, message: Message) -> None:
        """Note one statement's use."""
        self.bits |= use.bits
        self.uses.append(use)
        if self.message is None:
            self.message = message
        if not use.is_certain:
            self.is_certain = False
        for named in use.named:
            expression = _expression(named, batch, message)
            if expression:
                self.named.append(expression)
            else:
                self.is_certain = False


def reading_of(batch: Batch, intake: Intake) -> Reading:
    """What a batch does with sequences."""
    reading = Reading()
    has_executed = False
    is_open = batch.end == END_FLUSH or batch.end == END_CUT
    for message in batch.messages:
        tag = message.tag
        prepared = message.prepared
        facts: TextFacts | None = None
        if message.refusal is not None:
            break
        if tag == tags.QUERY:
            facts = batch.facts
        elif prepared is not None and (tag == tags.BIND or (tag == tags.PARSE and is_open)):
            facts = prepared.sql_facts
        elif tag == tags.FUNCTION_CALL and of_function_call(batch, message):
            reading.add(SequenceUse(SEQUENCE_READS, (), False), batch, message)
        if facts is None:
            continue
        for statement in facts.statements:
            had = reading.bits
            use = statement.sequences
            if use is not None:
                reading.add(use, batch, message)
            if statement.prepared == PREPARED_EXECUTE:
                for target in namespace.candidates(statement.prepared_name, intake, []):
                    for inner in target.sql_facts.statements:
                        if inner.sequences is not None:
                            bits = inner.sequences.bits
                            reading.add(SequenceUse(bits, (), False), batch, message)
            if (reading.bits & ~had) & SEQUENCE_READS and has_executed:
                reading.leads = False
            has_executed = True
    return reading


def _expression(named: NamedSequence, batch: Batch, message: Message) -> bytes:
    """A query for the sequence's OID; b"" if it cannot be known here."""
    if named is SEQUENCE_LAST:
        return _ANY_SEQUENCE
    name: bytes | None
    if named.parameter:
        name = _parameter(named.parameter, batch, message)
    else:
        name = named.name.encode()
    if not name or not name.isascii():
        return b""
    if not named.column:
        return _BY_NAME % quote_bytes(name)
    return _BY_COLUMN % (quote_bytes(name), quote_bytes(named.column.encode()))


def _parameter(number: int, batch: Batch, message: Message) -> bytes | None:
    """The text of a Bind's parameter; None where it is in no Bind, or binary."""
    bind = decode_bind(batch, message) if message.tag == tags.BIND else None
    if bind is None or number > len(bind.parameters):
        return None
    formats = bind.parameter_formats
    if formats and formats[number - 1 if number <= len(formats) else 0] != 0:
        return None
    return bind.parameters[number - 1]


def look_at_sequences(session: "Conversation", exchange: Exchange, link: BackendLink) -> bool:
    """See to it that a batch reads values of its own client; True: the server is asked first."""
    if link.status == tags.STATUS_FAILED:
        return False
    state = session.state
    reading = reading_of(exchange.batches[-1], session.intake)
    message = reading.message
    reads = (reading.bits & SEQUENCE_READS) != 0
    if message is None:
        return False
    is_outside = link.status == tags.STATUS_IDLE
    if is_outside and reads and reading.leads and link.exchange is not exchange:
        _keep_for(state, exchange)
    if link.sequences_since == link.turn:
        return False
    if not reads and not reading.bits & SEQUENCE_SETS:
        # Of nextval alone: what it gives is looked for again only if nobody else's is there.
        calls = is_outside and (reading.bits & SEQUENCE_CALLS) != 0
        if not calls or state.sequence_calls >= MAX_UNREAD:
            return False
    if link.exchange is exchange:
        # In a pipeline without an end: a query of the proxy's would commit what was done in it.
        for use in reading.uses:
            if use is not exchange.proven:
                message.refusal = undefined()
        return False
    query = SequenceQuery(session, exchange, message, reading)
    query.run(link, is_outside)
    return True


def _keep_for(state: SessionState, exchange: Exchange) -> None:
    """The client reads sequences: it keeps its connection, once it was looked at."""
    if not state.reads_sequences:
        state.reads_sequences = True
        exchange.leaves_state = True


@final
class SequenceQuery(InternalQuery):
    """Ask whose values a connection knows, and have it forget those of others."""

    __slots__ = ("_asks", "_exchange", "_fields", "_is_own", "_message", "_reading", "_session")

    def __init__(
        self, session: "Conversation", exchange: Exchange, message: Message, reading: Reading
    ) -> None:
        self._session = session
        self._exchange = exchange
        self._message = message
        self._reading = reading
        self._asks = False
        self._is_own = False
        self._fields: dict[str, str] | None = None

    def run(self, link: BackendLink, is_outside: bool) -> None:
        """Ask, where the transaction may have used the sequences itself; else forget."""
        reading = self._reading
        if is_outside or not reading.is_certain:
            self._forget(link)
            return
        self._asks = True
        conditions = b" AND ".join([_IS_LOCKED % named for named in reading.named])
        link.run_internal(b"SELECT WHERE " + conditions, self)

    def _forget(self, link: BackendLink) -> None:
        self._asks = False
        if self._reading.bits & SEQUENCE_READS and self._reading.leads:
            _keep_for(self._session.state, self._exchange)
        link.run_internal(_DISCARD, self)

    def on_row(self, values: list[bytes | None]) -> None:
        """The transaction has used all of them."""
        self._is_own = True

    def on_columns(self, body: bytes) -> None:
        """Of no interest."""

    def on_error(self, fields: dict[str, str]) -> None:
        """Cancelled, perhaps: then the statement is, too."""
        self._fields = fields

    def on_done(self, link: BackendLink, status: int) -> None:
        """Forget what is not the client's own; go on with the batch."""
        fields = self._fields
        if fields is not None:
            self._message.refusal = Refusal(
                backend.sqlstate_of(fields), backend.message_of(fields), fields.get("D", "")
            )
        elif self._asks and not self._is_own:
            self._forget(link)
            return
        elif self._asks:
            # Known for this batch, and for what it only prepares.
            self._exchange.proven = self._reading.uses[0]
            self._exchange.sequences = 0
        else:
            link.sequences_since = link.turn
        self._session.on_settings_applied(link, None)


def regainable(state: SessionState) -> BackendLink | None:
    """The connection where the client has called nextval last, if nobody has had it since."""
    link = state.sequence_link
    state.sequence_link = None
    if link is None or link.turn != state.sequence_turn + 1:
        return None
    return link


def ended(state: SessionState, exchange: Exchange, link: BackendLink) -> None:
    """An exchange that did something with sequences is over."""
    bits = exchange.sequences
    if exchange.is_failed:
        return
    if bits & SEQUENCE_DISCARDS:
        if not bits & SEQUENCE_READS:
            state.reads_sequences = False
            link.sequences_since = link.turn
    elif bits & (SEQUENCE_CALLS | SEQUENCE_SETS) and not exchange.in_transaction:
        if state.sequence_calls < MAX_UNREAD and link.sequences_since == link.turn:
            state.sequence_calls += 1
            state.sequence_link = link
            state.sequence_turn = link.turn
