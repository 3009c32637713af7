"""
From one statement's parse tree to what it is: kind, read or write, control, state left behind.

The rules of `StatementFacts` are written here, on top of `walk` (what is in the tree) and `kinds`
(what things are called). Nothing here knows text, caches or the parser.
"""

from typing import Any, Final, final

from proxy.sql.databases import needed_database
from proxy.sql.effects import SETTINGS_VIEW, effects_of
from proxy.sql.kinds import (
    LEAVES_STATE,
    OBJECTS_OF_RELATION,
    RELATION_OBJECTS,
    SHOW_OF_NODE,
    STATEMENT_KINDS,
    STORES_ONLY,
    WRITING_KINDS,
)
from proxy.sql.sequences import sequence_use
from proxy.sql.statement import (
    CONTROL_BEGIN,
    CONTROL_COMMIT,
    CONTROL_NONE,
    CONTROL_RELEASE,
    CONTROL_ROLLBACK,
    CONTROL_ROLLBACK_TO,
    CONTROL_SAVEPOINT,
    OPAQUE,
    PREPARED_DEALLOCATE,
    PREPARED_DISCARD_ALL,
    PREPARED_EXECUTE,
    PREPARED_NONE,
    PREPARED_PREPARE,
    Effects,
    SequenceUse,
)
from proxy.sql.walk import Findings, strings, walk, written_name

# COMMIT PREPARED and ROLLBACK PREPARED are not here: they end another session's transaction.
_CONTROLS: Final[dict[str, int]] = {
    "TRANS_STMT_BEGIN": CONTROL_BEGIN,
    "TRANS_STMT_START": CONTROL_BEGIN,
    "TRANS_STMT_COMMIT": CONTROL_COMMIT,
    "TRANS_STMT_PREPARE": CONTROL_COMMIT,
    "TRANS_STMT_ROLLBACK": CONTROL_ROLLBACK,
    "TRANS_STMT_SAVEPOINT": CONTROL_SAVEPOINT,
    "TRANS_STMT_ROLLBACK_TO": CONTROL_ROLLBACK_TO,
    "TRANS_STMT_RELEASE": CONTROL_RELEASE,
}

_WRAPPERS: Final = frozenset(("CopyStmt", "DeclareCursorStmt", "ExplainStmt", "PrepareStmt"))

# nodes/parsenodes.h: CURSOR_OPT_HOLD.
_CURSOR_OPT_HOLD: Final = 0x0020


@final
class Reading:
    """
    What one statement is; fields as in StatementFacts.

    names_in_constants  a fact was taken from the value of a constant: the name that set_config or
                        currval is called with, a database
    """

    __slots__ = (
        "control",
        "database",
        "effects",
        "is_read_only",
        "kind",
        "kinds",
        "leaves_state",
        "names_in_constants",
        "prepared",
        "prepared_name",
        "sequences",
        "tables",
    )

    def __init__(self) -> None:
        self.kind = "unknown"
        self.kinds: tuple[str, ...] = ("unknown",)
        self.is_read_only = False
        self.leaves_state = True
        self.effects: Effects | None = OPAQUE
        self.sequences: SequenceUse | None = None
        self.database = ""
        self.names_in_constants = False
        self.control = CONTROL_NONE
        self.prepared = PREPARED_NONE
        self.prepared_name = ""
        self.tables: tuple[str, ...] = ()


def read(statement: dict[str, Any]) -> Reading | None:
    """Read one statement, given as its one-key node; None for one that is not known here."""
    ((name, body),) = statement.items()
    found = walk(statement)
    # The statement and, inside wrappers, what they would run; the last is the one that counts.
    chain: list[tuple[str, dict[str, Any]]] = [(name, body)]
    while True:
        core, core_body = chain[-1]
        if core not in STATEMENT_KINDS:
            return None
        if core not in _WRAPPERS or "query" not in core_body:
            break
        if core == "ExplainStmt" and not _explain_runs(core_body):
            break
        ((inner, inner_body),) = core_body["query"].items()
        chain.append((inner, inner_body))
    reading = Reading()
    reading.kinds, reading.kind = _kinds(chain, found)
    reading.tables = tuple(sorted(found.tables | _named_relations(name, body)))
    reading.is_read_only = _is_read_only(name, body, found)
    reading.leaves_state = _leaves_state(chain, found)
    runs_code = found.executes is not None or (
        found.has_foreign_calls and chain[-1][0] not in STORES_ONLY
    )
    reading.effects = effects_of(chain, found.config_calls, runs_code, _writes_settings(found))
    if chain[-1][0] not in STORES_ONLY:
        reading.sequences = sequence_use(chain, found.sequence_calls, found.executes is not None)
    reading.database = needed_database(name, body)
    reading.names_in_constants = (
        found.config_calls.are_any() or found.sequence_calls.takes_names() or reading.database != ""
    )
    _read_commands(reading, name, body, found)
    return reading


def _kinds(chain: list[tuple[str, dict[str, Any]]], found: Findings) -> tuple[tuple[str, ...], str]:
    """All kinds of a statement and the one that names it: the gravest of what it writes."""
    core = chain[-1][0]
    kind = STATEMENT_KINDS[core]
    kinds = {STATEMENT_KINDS[name] for name, _ in chain}
    if core == "ExplainStmt" or core in STORES_ONLY:
        return tuple(sorted(kinds)), kind
    kinds |= found.written | found.merged
    if found.creates_table:
        kind = "ddl"
        kinds.add(kind)
    elif kind != "ddl":
        for written in WRITING_KINDS:
            if written in found.written:
                kind = written
                break
    return tuple(sorted(kinds)), kind


def _explain_runs(body: dict[str, Any]) -> bool:
    """
    Whether EXPLAIN executes its statement. Only a word that surely says no is a no.

    Numbers are not looked at, so that no fact depends on the digits of a text: ANALYZE 0 counts as
    ANALYZE. Of several options PostgreSQL takes the last; here any of them is enough.
    """
    for item in body.get("options", []):
        option = item.get("DefElem", {})
        if option.get("defname", "").lower() in ("analyze", "analyse"):
            value = option.get("arg")
            if not isinstance(value, dict):
                return True
            word = value.get("String", {}).get("sval", "")
            if word.lower() not in ("false", "off"):
                return True
    return False


def _is_read_only(name: str, body: dict[str, Any], found: Findings) -> bool:
    """Protocol rule 38."""
    if found.has_temporary or found.executes is not None:
        return False
    if name == "ExplainStmt" and not _explain_runs(body):
        # Planning calls functions that are declared stable or immutable: only ours are trusted.
        return not found.has_unknown_calls
    if name == "VariableShowStmt" and body.get("name", "all") in SHOW_OF_NODE:
        return False
    return found.has_only_read_keys and found.has_only_plain_calls


def _leaves_state(chain: list[tuple[str, dict[str, Any]]], found: Findings) -> bool:
    """Whether anything of the statement may outlive its transaction in the server session."""
    if found.has_temporary or found.executes is not None:
        return True
    for name, body in chain:
        if name in LEAVES_STATE:
            return True
        if name == "VariableSetStmt" and not _is_set_for_transaction(body):
            return True
        if name == "DeclareCursorStmt" and body.get("options", 0) & _CURSOR_OPT_HOLD:
            return True
    if _writes_settings(found):
        return True
    return found.has_unknown_calls and chain[-1][0] not in STORES_ONLY


def _writes_settings(found: Findings) -> bool:
    return bool(found.written) and not found.tables.isdisjoint(SETTINGS_VIEW)


def _is_set_for_transaction(body: dict[str, Any]) -> bool:
    """SET LOCAL and SET TRANSACTION; not SET SESSION CHARACTERISTICS, which is written alike."""
    if body.get("is_local"):
        return True
    return body.get("kind") == "VAR_SET_MULTI" and body.get("name") in (
        "TRANSACTION",
        "TRANSACTION SNAPSHOT",
    )


def _read_commands(reading: Reading, name: str, body: dict[str, Any], found: Findings) -> None:
    """Transaction control, and the commands of prepared statements and cursors."""
    if name == "TransactionStmt":
        reading.control = _CONTROLS.get(body.get("kind", ""), CONTROL_NONE)
    elif name == "PrepareStmt":
        reading.prepared = PREPARED_PREPARE
        reading.prepared_name = body.get("name", "")
    elif name == "DeallocateStmt":
        reading.prepared = PREPARED_DEALLOCATE
        reading.prepared_name = "" if body.get("isall") else body.get("name", "")
    elif name == "DiscardStmt":
        if body.get("target", "DISCARD_ALL") == "DISCARD_ALL":
            reading.prepared = PREPARED_DISCARD_ALL
    elif found.executes is not None:
        # Also EXPLAIN EXECUTE and CREATE TABLE AS EXECUTE need the statement where they run.
        reading.prepared = PREPARED_EXECUTE
        reading.prepared_name = found.executes


def _named_relations(name: str, body: dict[str, Any]) -> set[str]:
    """Relations that DROP, COMMENT and SECURITY LABEL name by lists of strings."""
    if name == "DropStmt":
        objects = body.get("objects", [])
        object_type = body.get("removeType", "")
    elif name in ("CommentStmt", "SecLabelStmt"):
        objects = [body.get("object")]
        object_type = body.get("objtype", "")
    else:
        return set()
    owned = object_type in OBJECTS_OF_RELATION
    if not owned and object_type not in RELATION_OBJECTS:
        return set()
    found: set[str] = set()
    for item in objects:
        parts = strings(item.get("List", {}).get("items")) if isinstance(item, dict) else []
        if owned:
            parts = parts[:-1]
        if parts:
            found.add(written_name(parts))
    return found
