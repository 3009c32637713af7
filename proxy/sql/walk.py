"""
Walk one statement's parse tree and collect what matters: relations, functions, writes, keys.

The tree is plain JSON (dicts, lists, strings, numbers) as PostgreSQL's parser prints it. The walk
keeps its own stack, so no depth of a tree can exhaust Python's. It does not judge: `reading` does.

What cannot be known without the server's catalogue, and is taken for harmless here: a view or rule
over a volatile function, an unlogged table, an operator, cast or domain of the user's, a trigger,
a function of the user's that overloads a built-in name or shadows it through search_path, and one
called in attribute notation on a whole row (SELECT t.f FROM t). All of them need DDL first, the
reads among them run in a session that cannot write, and nothing that is known to write is in them.
"""

from typing import Any, Final, final

from proxy.sql.builtins import PLAIN_READ, STATELESS
from proxy.sql.effects import ConfigCalls
from proxy.sql.kinds import MERGE_COMMANDS, READ_KEYS, WRITING_STATEMENTS
from proxy.sql.sequences import FUNCTIONS as SEQUENCE_FUNCTIONS
from proxy.sql.sequences import SequenceCalls

# Volatile in the catalogue, because their answer changes while a server runs, and yet plain reads:
# they have no effect, and ask about the very node that answers. Whoever wants to know where a read
# goes asks pg_is_in_recovery(); sending that to the primary would answer another question.
_ABOUT_THE_NODE: Final = frozenset(
    {
        "pg_is_in_recovery",
        "pg_last_wal_receive_lsn",
        "pg_last_wal_replay_lsn",
        "pg_last_xact_replay_timestamp",
    }
)
READS: Final = PLAIN_READ | _ABOUT_THE_NODE

# Built-ins that leave locks or a seed in the session, and touch no setting.
_LEAVES_OTHERS: Final = frozenset(
    (
        "pg_advisory_lock",
        "pg_advisory_lock_shared",
        "pg_advisory_unlock",
        "pg_advisory_unlock_all",
        "pg_advisory_unlock_shared",
        "pg_try_advisory_lock",
        "pg_try_advisory_lock_shared",
        "setseed",
    )
)

# Fields of the composite values that drivers' catalogue queries take apart.
_FIELDS_OF_BUILTINS: Final = frozenset(("n", "x"))
_SAMPLING_METHODS: Final = frozenset(("bernoulli", "system"))


@final
class Scope:
    """
    The WITH clause of one query level: names visible from here outward.

    Of `names` (in order of appearance) only those before `limit` are visible: without RECURSIVE a
    WITH query sees its elder siblings, and a table that has its own name is the real table.
    """

    __slots__ = ("limit", "names", "outer")

    def __init__(self, names: dict[str, int], limit: int, outer: "Scope | None") -> None:
        self.names = names
        self.limit = limit
        self.outer = outer


def is_query_name(scope: Scope | None, name: str) -> bool:
    """Whether an unqualified name in FROM means a WITH query."""
    while scope is not None:
        position = scope.names.get(name)
        if position is not None and position < scope.limit:
            return True
        scope = scope.outer
    return False


def written_name(parts: list[str]) -> str:
    """A qualified name; a part is quoted if it could be taken for two parts."""
    return ".".join(
        '"' + part.replace('"', '""') + '"' if "." in part or '"' in part else part
        for part in parts
    )


def strings(nodes: object) -> list[str]:
    """The texts of a list of String nodes; other nodes are left out."""
    found: list[str] = []
    if isinstance(nodes, list):
        for node in nodes:
            value = node.get("String") if isinstance(node, dict) else None
            if isinstance(value, dict):
                found.append(value.get("sval", ""))
    return found


@final
class Findings:
    """
    What one statement's tree holds.

    tables               relations, as written
    written              kinds of what changes rows anywhere in it: insert, update, delete, merge
    merged               kinds of what a MERGE or an ON CONFLICT clause does besides
    creates_table        SELECT ... INTO
    has_only_read_keys   no part of the grammar that a plain read cannot have
    has_only_plain_calls every function is a built-in that is not volatile
    has_unknown_calls    a function that is not a built-in, or leaves something in the session
    has_foreign_calls    a function of which nothing is known: it may run any code
    config_calls         the calls of set_config
    sequence_calls       the calls of nextval and its like
    has_temporary        temporary relations, or anything in a schema pg_temp
    executes             name of the prepared statement that an EXECUTE in it runs, else None
    """

    __slots__ = (
        "config_calls",
        "creates_table",
        "executes",
        "has_foreign_calls",
        "has_only_plain_calls",
        "has_only_read_keys",
        "has_temporary",
        "has_unknown_calls",
        "merged",
        "sequence_calls",
        "tables",
        "written",
    )

    def __init__(self) -> None:
        self.tables: set[str] = set()
        self.written: set[str] = set()
        self.merged: set[str] = set()
        self.creates_table = False
        self.has_only_read_keys = True
        self.has_only_plain_calls = True
        self.has_unknown_calls = False
        self.has_foreign_calls = False
        self.config_calls = ConfigCalls()
        self.sequence_calls = SequenceCalls()
        self.has_temporary = False
        self.executes: str | None = None

    def add_relation(self, node: dict[str, Any], scope: Scope | None, in_from: bool) -> None:
        """Note a RangeVar. Only in FROM can it be a WITH query: targets are always relations."""
        name = node.get("relname", "")
        schema = node.get("schemaname", "")
        if node.get("relpersistence") == "t" or schema.startswith("pg_temp"):
            self.has_temporary = True
        if in_from and not schema and is_query_name(scope, name):
            return
        parts = [part for part in (node.get("catalogname", ""), schema, name) if part]
        self.tables.add(written_name(parts))

    def add_call(self, parts: list[str], call: dict[str, Any] | None = None) -> None:
        """Note a function that is called by this name; None: not in the usual notation."""
        if len(parts) == 2 and parts[0] == "pg_catalog":
            name = parts[1]
        else:
            name = ".".join(parts)
        if name in READS:
            return
        self.has_only_plain_calls = False
        if name in SEQUENCE_FUNCTIONS:
            self.sequence_calls.note(name, call)
        if name not in STATELESS:
            self.has_unknown_calls = True
            if name not in _LEAVES_OTHERS:
                self.has_foreign_calls = True

    def add_set_config(self, call: dict[str, Any]) -> None:
        """Note a call of set_config; for the transaction only, it leaves nothing behind."""
        self.has_only_plain_calls = False
        self.config_calls.note(call)
        if not self.config_calls.only_for_transaction():
            self.has_unknown_calls = True

    def add_operator(self, parts: list[str]) -> None:
        """Note an operator. Those written without a schema are taken for PostgreSQL's own."""
        if len(parts) > 1 and parts[0] != "pg_catalog":
            self.has_only_plain_calls = False
            self.has_unknown_calls = True
            self.has_foreign_calls = True

    def _add_attribute_notation(self, key: str, node: dict[str, Any]) -> None:
        """
        Note functions called like fields: (1::int8).pg_advisory_lock takes a lock.

        A column reference can do so on a whole row only, and no built-in function with a name of
        another pattern takes one and is volatile.
        """
        if key == "A_Indirection":
            for name in strings(node.get("indirection")):
                if name not in _FIELDS_OF_BUILTINS:
                    self.add_call([name])
        else:
            fields = strings(node.get("fields"))
            if len(fields) > 1 and fields[-1].startswith("pg_"):
                self.add_call([fields[-1]])

    def note(self, key: str, value: dict[str, Any]) -> None:
        """Note what a node of this type says by itself; its children come later."""
        if key in ("ColumnRef", "A_Indirection"):
            self._add_attribute_notation(key, value)
        elif key == "String":
            if value.get("sval", "").startswith("pg_temp"):
                self.has_temporary = True
        elif key in ("FuncCall", "funccall"):
            parts = strings(value.get("funcname"))
            if parts in (["set_config"], ["pg_catalog", "set_config"]):
                self.add_set_config(value)
            else:
                self.add_call(parts, value)
        elif key == "A_Expr":
            self.add_operator(strings(value.get("name")))
        elif key == "SubLink":
            self.add_operator(strings(value.get("operName")))
        elif key == "SortBy":
            self.add_operator(strings(value.get("useOp")))
        elif key == "RangeTableSample":
            if not _SAMPLING_METHODS.issuperset(strings(value.get("method"))):
                self.add_call(["tablesample", *strings(value.get("method"))])
        elif key == "ExecuteStmt":
            self.executes = value.get("name", "")
        elif key == "intoClause":
            self.creates_table = True
        elif key in WRITING_STATEMENTS:
            self.written.add(WRITING_STATEMENTS[key])
        elif key == "MergeWhenClause":
            command = MERGE_COMMANDS.get(value.get("commandType", ""))
            if command is not None:
                self.merged.add(command)
        elif key == "onConflictClause" and value.get("action") == "ONCONFLICT_UPDATE":
            self.merged.add("update")


# Only these keys have something to say in `Findings.note`.
_NOTED: Final = frozenset(
    (
        "A_Expr",
        "A_Indirection",
        "ColumnRef",
        "ExecuteStmt",
        "FuncCall",
        "MergeWhenClause",
        "RangeTableSample",
        "SortBy",
        "String",
        "SubLink",
        "funccall",
        "intoClause",
        "onConflictClause",
        *WRITING_STATEMENTS,
    )
)

# Nothing below these says anything. A WITH clause is entered apart from its siblings.
_LEAVES: Final = frozenset(("A_Const", "A_Star", "ParamRef", "withClause"))


def walk(statement: dict[str, Any]) -> Findings:
    """Collect the findings of one statement, given as its one-key node."""
    found = Findings()
    stack: list[tuple[Any, Scope | None]] = [(statement, None)]
    while stack:
        node, scope = stack.pop()
        if "withClause" in node:
            scope = _enter(node["withClause"], scope, stack, found)
        for key, value in node.items():
            if key not in READ_KEYS:
                found.has_only_read_keys = False
            shape = type(value)
            if shape is dict:
                if key in _LEAVES:
                    continue
                if key in _NOTED:
                    found.note(key, value)
                if "relname" in value:
                    found.add_relation(value, scope, key == "RangeVar")
                else:
                    stack.append((value, scope))
            elif shape is list and key != "lockedRels":
                # Every item of a list is a node; of a long list most are constants.
                stack.extend([(item, scope) for item in value if "A_Const" not in item])
    return found


def _enter(
    with_clause: dict[str, Any],
    outer: Scope | None,
    stack: list[tuple[Any, Scope | None]],
    found: Findings,
) -> Scope:
    """Put the queries of a WITH clause on the stack; give back the scope of what follows it."""
    for key in with_clause:
        if key not in READ_KEYS:
            found.has_only_read_keys = False
    queries = with_clause.get("ctes", [])
    names: dict[str, int] = {}
    for position, query in enumerate(queries):
        names.setdefault(query.get("CommonTableExpr", {}).get("ctename", ""), position)
    recursive = bool(with_clause.get("recursive"))
    for position, query in enumerate(queries):
        limit = len(queries) if recursive else position
        stack.append((query, Scope(names, limit, outer)))
    return Scope(names, len(queries), outer)
