"""
From a statement's parse tree to what it does with its session's sequences: nextval, currval ...

A server session remembers what it got from which sequence, and from which one last. Calls in
functions, views, defaults and triggers are not in the text, and so not known here.
"""

from typing import Any, Final

from proxy.sql.effects import constant_text
from proxy.sql.statement import (
    SEQUENCE_CALLS,
    SEQUENCE_DISCARDS,
    SEQUENCE_EXECUTES,
    SEQUENCE_LAST,
    SEQUENCE_READS,
    SEQUENCE_SETS,
    NamedSequence,
    SequenceUse,
)

_BITS: Final = {
    "nextval": SEQUENCE_CALLS,
    "setval": SEQUENCE_SETS,
    "currval": SEQUENCE_READS,
    "lastval": SEQUENCE_READS,
}
FUNCTIONS: Final = frozenset(_BITS)

# What DISCARD forgets sequences with.
_FORGETTING: Final = frozenset(("DISCARD_ALL", "DISCARD_SEQUENCES"))


class SequenceCalls:
    """
    The calls in a statement.

    bits         SEQUENCE_*
    named        whose value is read or set, as far as is known
    is_certain   there is no other
    """

    __slots__ = ("bits", "is_certain", "named")

    def __init__(self) -> None:
        self.bits = 0
        self.named: list[NamedSequence] = []
        self.is_certain = True

    def note(self, function: str, call: dict[str, Any] | None) -> None:
        """Note one call; None: in attribute notation."""
        self.bits |= _BITS[function]
        if function == "nextval":
            return
        named = SEQUENCE_LAST if function == "lastval" else _named(call)
        if named is None:
            self.is_certain = False
        elif named not in self.named:
            self.named.append(named)

    def takes_names(self) -> bool:
        """Whether facts were taken from the values of constants, or from there being none."""
        return self.bits & ~SEQUENCE_CALLS != 0


def sequence_use(
    chain: list[tuple[str, dict[str, Any]]], calls: SequenceCalls, executes: bool
) -> SequenceUse | None:
    """What the statement (the last of `chain`, in its wrappers) does; None: nothing."""
    bits = calls.bits
    name, body = chain[-1]
    if name == "DiscardStmt" and body.get("target", "DISCARD_ALL") in _FORGETTING:
        bits |= SEQUENCE_DISCARDS
    if executes:
        bits |= SEQUENCE_EXECUTES
    if bits == 0:
        return None
    # A PREPARE reads at its EXECUTEs, when other sequences may be known.
    is_certain = calls.is_certain and chain[0][0] != "PrepareStmt"
    return SequenceUse(bits, tuple(calls.named), is_certain)


def unread_use(text: bytes) -> SequenceUse | None:
    """Of a text that the parser does not know."""
    lowered = text.lower()
    if b"currval" in lowered or b"lastval" in lowered:
        return SequenceUse(SEQUENCE_READS, (), False)
    return None


def _named(call: dict[str, Any] | None) -> NamedSequence | None:
    """The sequence that currval or setval is called with; None: not known."""
    args = call.get("args", []) if call is not None else []
    if not args:
        return None
    node = _without_casts(args[0])
    if "ParamRef" in node:
        return NamedSequence(parameter=node["ParamRef"].get("number", 0))
    inner = node.get("FuncCall")
    if isinstance(inner, dict):
        return _of_column(inner)
    name = constant_text(node)
    return None if name is None else NamedSequence(name)


def _of_column(call: dict[str, Any]) -> NamedSequence | None:
    """Of pg_get_serial_sequence('table', 'column')."""
    parts = [part.get("String", {}).get("sval", "") for part in call.get("funcname", [])]
    args = call.get("args", [])
    if parts[-1:] != ["pg_get_serial_sequence"] or parts[:-1] not in ([], ["pg_catalog"]):
        return None
    table, column = (constant_text(arg) for arg in args) if len(args) == 2 else (None, None)
    if table is None or column is None:
        return None
    return NamedSequence(table, column)


def _without_casts(node: dict[str, Any]) -> dict[str, Any]:
    while "TypeCast" in node:
        node = node["TypeCast"].get("arg", {})
    return node
