"""
The units of a conversation: messages, batches, exchanges, and the replies that are owed.

A *batch* is what may be judged and sent together: extended-protocol messages up to a Sync or
Flush, or one Query or FunctionCall. An *exchange* is everything that ends in one ReadyForQuery:
one batch as a rule, more when the client uses Flush. An exchange ends in exactly one of
`Session.on_exchange_done` or the end of the session.

A *step* is one reply that the server owes for one message of an exchange. Most exchanges need no
steps: their replies are forwarded as they come. Steps exist where the proxy put messages in, left
messages out, or makes a server's error into its own.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.errors import Refusal
from proxy.protocol import tags
from proxy.session.inspection import Inspection, RowSet
from proxy.sql.statement import SequenceUse, StatementFacts, TextFacts

if TYPE_CHECKING:
    from proxy.session.namespace import Effect, Renaming

# How a batch ends.
END_SYNC: Final = 0
END_QUERY: Final = 1
END_FUNCTION_CALL: Final = 2
END_FLUSH: Final = 3
END_CUT: Final = 4  # too long to wait for its end; sent as far as it is there

# What happens to a reply.
STEP_FORWARD: Final = 0  # to the client
STEP_DROP: Final = 1  # the client did not ask: swallow exactly this one
STEP_INVENT: Final = 2  # the server was not asked: `data` goes to the client in its turn
STEP_FAIL: Final = 3  # the server was made to fail: `data` goes out in place of its error


@final
class Prepared:
    """
    A statement that a client has prepared, or its unnamed statement.

    text      what the client sent
    facts     facts on `text`
    sql       what the server gets: `text`, or what a plugin made of it at Parse
    sql_facts facts on `sql`
    tail      the rest of its Parse: number and OIDs of the parameter types
    types     the same with all of them, as the client was told; b"" where it was not
    key       identifies it on a server connection: sql, tail, planning settings
    is_named  False for the unnamed statement
    is_foreign  made by SQL PREPARE: it has the client's name on the server too
    is_special  foreign, or a command on prepared statements whose text names one (rule 11)
    judged_in the exchange whose Parse was judged, until its first execution there
    judged_as its inspection at Parse
    planning  settings it was parsed under, as far as they matter (rules 10 and 37)
    group     number of the Sync group that brought its Parse
    is_raw    parsed while the parser here could not be trusted (rule 37): judged as raw text for good
    answer    a plugin's answer at Parse, for the executions in the same exchange
    is_described  the client has asked what columns it has, and may rely on them
    columns   what it was told of them when it described the statement; see `session.columns`
    """

    __slots__ = (
        "answer",
        "columns",
        "facts",
        "group",
        "is_described",
        "is_foreign",
        "is_named",
        "is_raw",
        "is_special",
        "judged_as",
        "judged_in",
        "key",
        "planning",
        "sql",
        "sql_facts",
        "tail",
        "text",
        "types",
    )

    def __init__(
        self, text: bytes, facts: TextFacts, tail: bytes, planning: bytes, is_named: bool
    ) -> None:
        self.text = text
        self.facts = facts
        self.sql = text
        self.sql_facts = facts
        self.tail = tail
        self.types = b""
        self.is_named = is_named
        self.is_raw = False
        self.is_foreign = False
        self.is_special = False
        self.is_described = False
        self.columns = b""
        self.planning = planning
        self.group = 0
        self.judged_in: Exchange | None = None
        self.judged_as: Inspection | None = None
        self.answer: RowSet | None = None
        self.key = text + b"\x00" + tail + planning if is_named else b""

    def under(self, planning: bytes) -> "Prepared":
        """The same statement, to be prepared under other settings."""
        # By its key too: who prepares this text now may get other types than the client was told of.
        other = Prepared(self.text, self.facts, self.parse_tail(), planning, self.is_named)
        other.types = self.types
        if self.sql is not self.text:
            other.rewritten(self.sql, self.sql_facts, planning)
        other.is_raw = self.is_raw
        other.is_special = self.is_special
        other.is_described = self.is_described
        other.columns = self.columns
        other.answer = self.answer
        return other

    def parse_tail(self) -> bytes:
        """
        The parameter types for a Parse on one more connection.

        A server settles them once, and so the client may send values by what it was told then.
        """
        return self.types or self.tail

    def rewritten(self, sql: bytes, facts: TextFacts, planning: bytes) -> None:
        """Take another text for the server; this is a mutating operation."""
        self.sql = sql
        self.sql_facts = facts
        if self.is_named:
            self.key = sql + b"\x00" + self.tail + planning


@final
class Message:
    """
    One frontend message of a batch: `data[start:end]` of its batch.

    name         statement or portal name it defines, uses or closes
    is_statement Describe and Close: of a statement, not a portal
    is_duplicate Parse of a name that is taken
    prepared     the statement it defines or uses
    previous     Parse, Close, Query: what `name` meant before, to be restored if it never ran
    inspection   of the statement it brings (Query with one statement, Parse) or executes (Bind)
    others       all of its inspections: of an SQL EXECUTE several where it is not known which PREPARE
                 it runs, of several statements in one Parse, which no server takes, all
    refusal      an error that the proxy answers in its place
    answer       bytes that the proxy answers in its place
    replacement  frame to send instead, b"" for the original one
    """

    __slots__ = (
        "answer",
        "end",
        "inspection",
        "is_duplicate",
        "is_statement",
        "name",
        "others",
        "prepared",
        "previous",
        "refusal",
        "replacement",
        "start",
        "tag",
    )

    def __init__(self, tag: int, start: int, end: int) -> None:
        self.tag = tag
        self.start = start
        self.end = end
        self.name = b""
        self.is_statement = False
        self.is_duplicate = False
        self.prepared: Prepared | None = None
        self.previous: Prepared | None = None
        self.inspection: Inspection | None = None
        self.others: list[Inspection] | None = None
        self.refusal: Refusal | None = None
        self.answer: bytes | None = None
        self.replacement = b""


@final
class AnsweredPortal:
    """A portal whose rows the server is not asked for, with Bind's result formats."""

    __slots__ = ("answer", "formats")

    def __init__(self, answer: RowSet, formats: list[int]) -> None:
        self.answer = answer
        self.formats = formats


@final
class Batch:
    """
    Messages that are judged and sent together.

    facts      the text's of a Query, as the server gets it
    is_raw     it must be judged as raw text (rule 37)
    judged     its statements as the client sent them, once they were judged
    overrides  other statements for names that it executes, because a plugin changed their texts
    steps_end  how many steps its exchange had when it was sent
    """

    __slots__ = ("data", "end", "facts", "is_raw", "judged", "messages", "overrides", "steps_end")

    def __init__(self, data: bytes, messages: list[Message], end: int) -> None:
        self.data = data
        self.messages = messages
        self.end = end
        self.facts: TextFacts | None = None
        self.judged: tuple[StatementFacts, ...] | None = None
        self.overrides: dict[bytes, Prepared] | None = None
        self.is_raw = False
        self.steps_end = 0


@final
class Step:
    """One owed reply; see STEP_*. Undo: what to take back if the server never got to it."""

    __slots__ = ("data", "kind", "message", "server_key")

    def __init__(self, kind: int, data: bytes, message: Message | None, server_key: bytes) -> None:
        self.kind = kind
        self.data = data
        self.message = message
        self.server_key = server_key


FORWARD: Final = Step(STEP_FORWARD, b"", None, b"")
DROP: Final = Step(STEP_DROP, b"", None, b"")
BOUND: Final = Step(STEP_FORWARD, b"", None, b"")
"""Bind's own: its reply is one BindComplete and nothing before it."""


@final
class Exchange:
    """
    Everything up to one ReadyForQuery.

    started_us     when its first batch was complete
    is_open        the client owes it a Sync
    is_failed      an error was sent; what follows up to the Sync is skipped
    owes_sync      the client's Sync was not sent on yet: behind a COPY IN it would count for nothing,
                   or the proxy owes one of its own
    misfit         a message that is no part of a COPY came in the middle of it: its type, 0 = none.
                   It waits until the COPY has failed, for it may have failed before
    replies        messages that are answered so far, while there are no steps
    commands       commands that are complete; commands_sent: those that were asked for
    effects        what they do to the names of statements, where they do anything
    dropped        names on the server connection that they deallocate
    gone           names that they deallocate, b"" = all, as far as they were sent
    answered       portals whose rows come from a plugin or the cache
    renaming       names that were replaced in texts sent, to be put back in an error
    sent           something of it went to a server
    forwarded      bytes that went to the client for it
    rows, sqlstate, error   of its last statement
    statements     all inspections, in order; `running` those with an execution, in order of it
    steps, at      owed replies and the one that comes next; None: all are forwarded
    changes_schema something in it may change the schema
    stale_error    the ErrorResponse for which it is run again with statements prepared anew
    is_read        its route allowed a standby; it may be tried again elsewhere
    is_misplaced   a standby could not serve it: it is run again on the primary
    is_cancelled   a CancelRequest came before its last batch was sent
    is_cleared     no plugin has anything to say on its last batch
    only_reads     the first `looked_at` of `statements` are plain reads
    sequences      SEQUENCE_*: what its texts do with sequences; proven: a use of the client's own
                   values, as far as is known
    databases      that its texts need for themselves
    is_partial     it is long, and what was answered first is not here any more
    """

    __slots__ = (
        "answered",
        "at",
        "batches",
        "capture",
        "captured_bytes",
        "changes_schema",
        "commands",
        "commands_sent",
        "completions",
        "copy_in",
        "databases",
        "dropped",
        "effects",
        "error",
        "forwarded",
        "gone",
        "in_transaction",
        "is_cancelled",
        "is_cleared",
        "is_failed",
        "is_misplaced",
        "is_open",
        "is_partial",
        "is_read",
        "is_retrying",
        "is_timed_out",
        "leaves_state",
        "looked_at",
        "may_unpin",
        "misfit",
        "node",
        "only_reads",
        "owes_sync",
        "proven",
        "renaming",
        "replies",
        "retries",
        "running",
        "sent",
        "sequences",
        "sqlstate",
        "stale_error",
        "started_us",
        "statements",
        "steps",
    )

    def __init__(self, started_us: int) -> None:
        self.started_us = started_us
        self.batches: list[Batch] = []
        self.is_open = False
        self.is_failed = False
        self.sent = False
        self.forwarded = 0
        self.sqlstate = ""
        self.error = ""
        self.statements: list[Inspection] = []
        self.running: list[Inspection] = []
        self.completions = 0
        self.steps: list[Step] | None = None
        self.at = 0
        self.is_read = False
        self.leaves_state = False
        self.changes_schema = False
        self.in_transaction = False
        self.copy_in = False
        self.misfit = 0
        self.owes_sync = False
        self.replies = 0
        self.commands = 0
        self.commands_sent = 0
        self.effects: list[Effect] | None = None
        self.gone: list[bytes] | None = None
        self.dropped: list[bytes] | None = None
        self.answered: dict[bytes, AnsweredPortal] | None = None
        self.renaming: Renaming | None = None
        self.node = ""
        self.retries = 0
        self.is_retrying = False
        self.is_misplaced = False
        self.stale_error = b""
        self.is_timed_out = False
        self.is_cleared = False
        self.is_cancelled = False
        self.may_unpin = False
        self.only_reads = True
        self.looked_at = 0
        self.capture: list[bytes] | None = None
        self.captured_bytes = 0
        self.is_partial = False
        self.sequences = 0
        self.proven: SequenceUse | None = None
        self.databases: tuple[str, ...] = ()

    def forget_answered(self) -> None:
        """Let go of batches that are answered: a pipeline may have no end."""
        batches = self.batches
        done = 0
        if not self.sent:
            done = len(batches)
        while done < len(batches) and batches[done].steps_end <= self.at:
            done += 1
        if done == 0:
            return
        self.is_partial = True
        self.batches = batches[done:]
        steps = self.steps
        gone = batches[done - 1].steps_end
        if steps is not None and gone > 0:
            renaming = self.renaming
            if renaming is not None:
                for step in steps[:gone]:
                    renaming.texts.pop(step, None)
            self.steps = steps[gone:]
            self.at -= gone
            for batch in self.batches:
                batch.steps_end -= gone

    def restart(self) -> None:
        """It is run again from the start, unseen by the client."""
        self.steps = None
        self.gone = None
        self.at = 0
        self.replies = 0
        self.commands = 0


def note_types(exchange: Exchange, body: bytes) -> None:
    """A ParameterDescription: the types that a client is told of a statement's parameters."""
    steps = exchange.steps
    message: Message | None = None
    if steps is None:
        messages = exchange.batches[-1].messages
        if exchange.replies < len(messages):
            message = messages[exchange.replies]
    elif exchange.at < len(steps):
        # What is invented waits for a Parse or a Bind only: in front of a Describe it went out before.
        message = steps[exchange.at].message
    if message is None or message.tag != tags.DESCRIBE or message.prepared is None:
        return  # of a hostile server
    if len(body) >= 2 and len(body) == 2 + 4 * int.from_bytes(body[:2], "big"):
        message.prepared.types = body
