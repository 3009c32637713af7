"""
One text to its statements' facts: the only file that calls PostgreSQL's parser for whole texts.

SAFETY: the text comes from a client. Only pglast's C level functions are used, which answer with an
exception where pglast.parse_sql crashes the process, and before them stand three bounds, each
measured: the size of the text, runs of operator characters (the scanner takes time quadratic in
them: 16 thousand repeated "/*" take 1.4 s, 250 thousand some minutes), and after the parser the
size of the tree. What is beyond a bound, or raises anything at all, is unknown, and unknown is a
write that may leave anything behind.
"""

import re
from typing import Any, Final, final

import msgspec
from pglast.parser import fingerprint, parse_sql_json

from proxy.sql.json_text import (
    MAX_TEXT_BYTES,
    head_fragment,
    query_fragment,
    rest_of,
    tail_fragment,
)
from proxy.sql.kinds import WRITING_STATEMENTS
from proxy.sql.normalize import is_filling, normalize
from proxy.sql.reading import Reading, read
from proxy.sql.sequences import unread_use
from proxy.sql.statement import StatementFacts, TextFacts

# The tree of a text of short constants is up to 50 times as long as the text. One of 256 KiB, some
# 5,000 constants, takes 25 ms from parser to facts; the same statement with other constants comes
# from the cache afterwards.
_MIN_TREE_BYTES: Final = 262_144
_TREE_BYTES_PER_TEXT_BYTE: Final = 4

# Sum over runs of operator characters of: length times places where the scanner starts again.
_MAX_OPERATOR_WORK: Final = 500_000
_FEW_OPERATORS: Final = 64
_OPERATOR_RUN: Final = re.compile(rb"[-~!@#^&|`?+*/%<>=]+")

# Statements in which every string is a constant: those that analyses by literal shape are of.
_ROWS: Final = frozenset(("SelectStmt", *WRITING_STATEMENTS))

# Each digit becomes another one: 0 1 2 ... 9 to 1 2 3 ... 8.
_OTHER_DIGITS: Final = bytes.maketrans(b"0123456789", b"1234567898")

_decode_tree: Final = msgspec.json.Decoder().decode


@final
class Analysis:
    """
    facts         of the text
    spans         start and end of each statement in the text, in bytes
    known         the parser knew it
    by_digits     a text of the same zeroed form has the same facts, but for text and head
    by_literals   so has a text of the same literal shape
    """

    __slots__ = ("by_digits", "by_literals", "facts", "known", "spans")

    def __init__(
        self,
        facts: TextFacts,
        spans: tuple[tuple[int, int], ...],
        known: bool,
        by_digits: bool,
        by_literals: bool,
    ) -> None:
        self.facts = facts
        self.spans = spans
        self.known = known
        self.by_digits = by_digits
        self.by_literals = by_literals


def analyse(text: bytes, max_text_bytes: int) -> Analysis:
    """Analyse a text. Never raises: what cannot be analysed is unknown."""
    analysis: Analysis | None = None
    if len(text) <= max_text_bytes and b"\0" not in text and not _is_slow_to_scan(text):
        max_tree_bytes = max(_MIN_TREE_BYTES, max_text_bytes * _TREE_BYTES_PER_TEXT_BYTE)
        try:
            analysis = _analyse(text, max_tree_bytes)
        except Exception:
            # Syntax errors are the common case; RecursionError, UnicodeDecodeError, MemoryError
            # and a tree that is not as expected all mean the same: not known.
            analysis = None
    if analysis is None:
        analysis = Analysis(unknown_facts(text), ((0, len(text)),), False, False, False)
    return analysis


def unknown_facts(text: bytes) -> TextFacts:
    """One statement of kind unknown."""
    if len(text) > MAX_TEXT_BYTES:
        shown = text[:MAX_TEXT_BYTES].decode("utf-8", "replace")
        normalized = ""
    else:
        shown = text.decode("utf-8", "replace")
        normalized = shown
    reading = Reading()
    reading.sequences = unread_use(text)
    return TextFacts((_facts(text, shown, reading, normalized, ""),))


def head_with_text(facts: StatementFacts, text: bytes) -> bytes:
    """The head of a statement that differs from `facts` in constants only."""
    return query_fragment(text.decode()) + rest_of_head(facts)


def rest_of_head(facts: StatementFacts) -> bytes:
    """
    The part of a head that statements share which differ in constants only: behind `"query":"..."`.
    """
    if not facts.head_rest:
        facts.head_rest = facts.head[rest_of(facts.head) :]
    return facts.head_rest


def with_text(facts: StatementFacts, text: bytes) -> StatementFacts:
    """The facts of a statement that differs from `facts` in constants only."""
    return StatementFacts(
        text,
        facts.kind,
        facts.is_read_only,
        facts.tables,
        facts.normalized,
        facts.fingerprint,
        facts.control,
        facts.leaves_state,
        facts.prepared,
        facts.prepared_name,
        head_with_text(facts, text),
        facts.tail,
        facts.kinds,
        facts.effects,
        facts.sequences,
        facts.database,
    )


def _facts(
    text: bytes, shown: str, reading: Reading, normalized: str, digest: str
) -> StatementFacts:
    return StatementFacts(
        text,
        reading.kind,
        reading.is_read_only,
        reading.tables,
        normalized,
        digest,
        reading.control,
        reading.leaves_state,
        reading.prepared,
        reading.prepared_name,
        head_fragment(shown, normalized, reading.tables, reading.is_read_only),
        tail_fragment(reading.kind, digest),
        reading.kinds,
        reading.effects,
        reading.sequences,
        reading.database,
    )


def _is_slow_to_scan(text: bytes) -> bool:
    """
    Whether the scanner would start again too often inside long runs of operator characters.

    It matches a whole run as an operator or a comment's start and then gives most of it back: at
    each plus or minus sign of a run of them, and at each nested start of a comment.
    """
    if text.count(b"+") + text.count(b"/*") <= _FEW_OPERATORS:
        return False
    work = 0
    for match in _OPERATOR_RUN.finditer(text):
        run = match.group()
        if len(run) > 1:
            work += len(run) * (2 * run.count(b"+") + run.count(b"/*"))
    return work > _MAX_OPERATOR_WORK


def _analyse(text: bytes, max_tree_bytes: int) -> Analysis | None:
    shown = text.decode()
    tree_text = parse_sql_json(shown)
    if len(tree_text) > max_tree_bytes:
        return None
    statements: list[dict[str, Any]] = _decode_tree(tree_text)["stmts"]
    if not statements:
        return Analysis(TextFacts(()), (), True, True, False)
    if len(statements) == 1:
        spans = [(0, len(text))]
    else:
        spans = _spans(text, statements)
    by_digits = True
    unicode_escapes = False
    names_in_constants = False
    facts: list[StatementFacts] = []
    for statement, (start, end) in zip(statements, spans, strict=True):
        reading = read(statement["stmt"])
        if reading is None:
            raise AssertionError("a statement of the grammar that the tables do not know")
        own_text = text if len(spans) == 1 else text[start:end]
        own_shown = shown if len(spans) == 1 else own_text.decode()
        normalized = normalize(own_shown)
        digest = fingerprint(own_shown)
        facts.append(_facts(own_text, own_shown, reading, normalized.text, digest))
        by_digits = by_digits and normalized.has_digits_in_constants_only
        unicode_escapes = unicode_escapes or normalized.has_unicode_escapes
        names_in_constants = names_in_constants or reading.names_in_constants
    if by_digits and names_in_constants and text.translate(_OTHER_DIGITS) != text:
        by_digits = False
    if by_digits:
        by_digits = _is_same_with_other_digits(text, facts, spans)
    by_literals = (
        len(statements) == 1
        and not unicode_escapes
        and not names_in_constants
        and not _ROWS.isdisjoint(statements[0]["stmt"])
    )
    return Analysis(TextFacts(tuple(facts)), tuple(spans), True, by_digits, by_literals)


def _spans(text: bytes, statements: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """
    Where each of several statements is. Raises ValueError if that leaves any token to nobody.

    Locations are PostgreSQL's own; the check is there so that no mistake in them could let a
    statement run that no hook has seen.
    """
    spans: list[tuple[int, int]] = []
    position = 0
    for statement in statements:
        start = statement.get("stmt_location", 0)
        length = statement.get("stmt_len", 0)
        end = start + length if length else len(text)
        if not position <= start < end <= len(text):
            raise ValueError("statements of a text overlap")
        if not is_filling(text[position:start].decode()):
            raise ValueError("text between statements")
        spans.append((start, end))
        position = end
    if not is_filling(text[position:].decode()):
        raise ValueError("text after the last statement")
    return spans


def _is_same_with_other_digits(
    text: bytes, facts: list[StatementFacts], spans: list[tuple[int, int]]
) -> bool:
    """Whether fingerprints stay when every digit changes: those of FETCH 5 or int[3] do not."""
    other = text.translate(_OTHER_DIGITS)
    if other == text:
        return True
    try:
        for statement, (start, end) in zip(facts, spans, strict=True):
            if fingerprint(other[start:end].decode()) != statement.fingerprint:
                return False
    except Exception:
        return False  # a number that is too long for an integer now, for instance
    return True
