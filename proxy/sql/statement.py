"""
Facts about SQL text: what one statement is, and what one Query or Parse text holds.

Plain objects, no parsing here (that is `sql.classify`) and no input or output.
"""

from typing import Final, final

# What a statement does to the transaction it runs in.
CONTROL_NONE: Final = 0
CONTROL_BEGIN: Final = 1
CONTROL_COMMIT: Final = 2  # also END, and PREPARE TRANSACTION
CONTROL_ROLLBACK: Final = 3  # also ABORT
CONTROL_SAVEPOINT: Final = 4
CONTROL_ROLLBACK_TO: Final = 5
CONTROL_RELEASE: Final = 6

# Which prepared-statement command it is; `prepared_name` then names the statement.
PREPARED_NONE: Final = 0
PREPARED_PREPARE: Final = 1
PREPARED_EXECUTE: Final = 2
PREPARED_DEALLOCATE: Final = 3  # prepared_name "" = DEALLOCATE ALL
PREPARED_DISCARD_ALL: Final = 4


# What a statement visibly does with sequences, as its server session remembers them.
SEQUENCE_CALLS: Final = 1  # nextval
SEQUENCE_SETS: Final = 2  # setval
SEQUENCE_READS: Final = 4  # currval, lastval
SEQUENCE_EXECUTES: Final = 8  # what the prepared statement does that it runs
SEQUENCE_DISCARDS: Final = 16

_ROW_KINDS: Final = ("select", "insert", "update", "delete", "merge")


LEXING_SETTINGS: Final = ("standard_conforming_strings", "client_encoding")
"""Settings that decide how a server reads the texts that come after them (rule 37)."""


@final
class Effects:
    """
    What a statement may do to its session's settings, as far as its text tells.

    sets       names that it sets beyond its transaction, lower case. Custom settings (with a dot)
               are shown by no catalogue: these texts are where their names are known from
    locals     names that it sets for its transaction
    resets     names that it brings back to their defaults; "*" is all
    is_opaque  it may set anything, unseen: it runs a function of the user's, DO, CALL, EXECUTE, or
               is not known at all
    loads      it is LOAD, whose library stays with the server process
    """

    __slots__ = ("is_opaque", "loads", "locals", "resets", "sets")

    def __init__(
        self,
        sets: tuple[str, ...] = (),
        locals_: tuple[str, ...] = (),
        resets: tuple[str, ...] = (),
        is_opaque: bool = False,
        loads: bool = False,
    ) -> None:
        self.sets = sets
        self.locals = locals_
        self.resets = resets
        self.is_opaque = is_opaque
        self.loads = loads

    def may_change(self, name: str) -> bool:
        """Whether a setting may have another value afterwards."""
        return (
            self.is_opaque
            or name in self.sets
            or name in self.locals
            or name in self.resets
            or "*" in self.resets
        )


OPAQUE: Final = Effects(is_opaque=True)
"""Of a statement that nothing is known of."""


@final
class NamedSequence:
    """
    A sequence as currval is called with it.

    name       of the sequence, or with `column` of the table that it belongs to
    parameter  number of the parameter that names it, 0 = none
    Neither: the one that lastval means.
    """

    __slots__ = ("column", "name", "parameter")

    def __init__(self, name: str = "", column: str = "", parameter: int = 0) -> None:
        self.name = name
        self.column = column
        self.parameter = parameter


SEQUENCE_LAST: Final = NamedSequence()
"""The one that nextval was called with last, whichever that is."""


@final
class SequenceUse:
    """
    What a statement visibly does with sequences.

    bits        SEQUENCE_*
    named       whose value in this session is read or set
    is_certain  no other's is
    """

    __slots__ = ("bits", "is_certain", "named")

    def __init__(self, bits: int, named: tuple[NamedSequence, ...], is_certain: bool) -> None:
        self.bits = bits
        self.named = named
        self.is_certain = is_certain


@final
class StatementFacts:
    """
    One SQL statement, as the hooks and the router see it. Never changed after it is made.

    text            the statement's own text (of a Query with several: its slice), bytes as the
                    client sent them
    kind            select, insert, update, delete, merge, copy, ddl, set, transaction, call, do,
                    explain, prepare, execute, declare, fetch, listen, notify, lock, utility, empty,
                    function_call, unknown. A wrapper has the kind of what it would run:
                    EXPLAIN ANALYZE DELETE, PREPARE x AS DELETE, COPY (DELETE ... RETURNING) TO and
                    DECLARE c CURSOR FOR SELECT are delete, delete, delete and select, so that a
                    filter on kinds cannot be walked around. A query that writes in a WITH clause
                    has the kind of the write; of several the gravest of delete, update, merge,
                    insert; SELECT INTO is ddl
    kinds           every kind it has, sorted: kind, its wrappers, all writes in it, what a MERGE or
                    ON CONFLICT does besides. What filters on kinds shall look here
    is_read_only    True only for what is surely a plain read (protocol rule 38)
    tables          as written, schema-qualified where the text is; also those of CTEs' bodies and
                    sub-selects; without CTE names; sorted, unique
    normalized      constants replaced by $n; the raw text where kind is unknown
    fingerprint     16 hex digits, "" where kind is unknown
    control         CONTROL_*: what it does to the transaction
    leaves_state    it may leave something behind in the server session beyond a transaction
                    (SET, temporary table, LISTEN, advisory lock, user function, DO, unknown ...),
                    so that the session must be looked at before another client may have it
    prepared        PREPARED_*, with prepared_name
    effects         on the session's settings, None = surely none
    sequences       what it visibly does with sequences, None = nothing
    database        that nobody else may be connected to while it runs, "" = none
    head, tail      JSON fragments for the plugins' envelope, without braces:
                    head  "query":...,"normalized":...,"tables":[...],"is_read_only":...
                    tail  "kind":...,"fingerprint":...
    """

    __slots__ = (
        "control",
        "database",
        "effects",
        "fingerprint",
        "head",
        "head_rest",
        "is_read_only",
        "kind",
        "kinds",
        "leaves_state",
        "normalized",
        "prepared",
        "prepared_name",
        "sequences",
        "tables",
        "tail",
        "text",
    )

    def __init__(
        self,
        text: bytes,
        kind: str,
        is_read_only: bool,
        tables: tuple[str, ...],
        normalized: str,
        fingerprint: str,
        control: int,
        leaves_state: bool,
        prepared: int,
        prepared_name: str,
        head: bytes,
        tail: bytes,
        kinds: tuple[str, ...] = (),
        effects: Effects | None = OPAQUE,
        sequences: SequenceUse | None = None,
        database: str = "",
    ) -> None:
        self.text = text
        self.sequences = sequences
        self.database = database
        self.effects = effects
        self.kind = kind
        self.kinds = kinds if kinds else (kind,)
        self.is_read_only = is_read_only
        self.tables = tables
        self.normalized = normalized
        self.fingerprint = fingerprint
        self.control = control
        self.leaves_state = leaves_state
        self.prepared = prepared
        self.prepared_name = prepared_name
        self.head = head
        self.head_rest = b""  # the head behind its "query", once somebody asked
        self.tail = tail


@final
class TextFacts:
    """
    What one Query or Parse text holds: its statements and their sums.

    statements      in order; empty for an empty text; one of kind unknown for what the parser
                    does not know
    is_read_only    there is a statement, and all are plain reads without transaction control
    leaves_state    any of them may leave state behind
    has_control     any of them is transaction control
    has_effects     any of them may change a setting
    sequences       SEQUENCE_*: what any of them does with sequences
    databases       that they need for themselves
    is_plain        exactly one statement, no control, no prepared-statement command, no sequence
                    and nothing left behind
    is_express      plain, and nothing but rows in and out, without any wrapper: the case that takes the
                    shortest way (`session.express`)
    """

    __slots__ = (
        "databases",
        "has_control",
        "has_effects",
        "is_express",
        "is_plain",
        "is_read_only",
        "leaves_state",
        "sequences",
        "statements",
    )

    def __init__(self, statements: tuple[StatementFacts, ...]) -> None:
        self.statements = statements
        read_only = len(statements) > 0
        leaves_state = False
        has_control = False
        has_effects = False
        sequences = 0
        databases: tuple[str, ...] = ()
        plain = len(statements) == 1
        for facts in statements:
            if not facts.is_read_only or facts.control != CONTROL_NONE:
                read_only = False
            if facts.leaves_state:
                leaves_state = True
            if facts.control != CONTROL_NONE:
                has_control = True
            if facts.prepared != PREPARED_NONE:
                plain = False
            if facts.effects is not None:
                has_effects = True
            if facts.sequences is not None:
                sequences |= facts.sequences.bits
            if facts.database:
                databases = (*databases, facts.database)
        self.sequences = sequences
        self.databases = databases
        self.is_read_only = read_only
        self.leaves_state = leaves_state
        self.has_control = has_control
        self.has_effects = has_effects
        self.is_plain = plain and not leaves_state and not has_control and sequences == 0
        self.is_express = self.is_plain and not has_effects and _moves_rows(statements[0])


def _moves_rows(facts: StatementFacts) -> bool:
    """Whether all that a statement does is a row command's."""
    for kind in facts.kinds:
        if kind not in _ROW_KINDS:
            return False
    return True
