"""
From a statement's parse tree to what it does to its session's settings.

The server tells of most settings itself (ParameterStatus, pg_settings). This is about what it does
not tell: custom settings, which no catalogue shows, and what a text further on in the same
pipeline will be read with.
"""

import re
from typing import Any, Final

from proxy.sql.statement import LEXING_SETTINGS, OPAQUE, Effects

_RUNS_CODE: Final = frozenset(
    ("AlterExtensionStmt", "CallStmt", "CreateExtensionStmt", "DoStmt", "ExecuteStmt")
)

# An UPDATE of this view is set_config.
SETTINGS_VIEW: Final = frozenset(("pg_settings", "pg_catalog.pg_settings"))

_CHARACTERISTICS: Final = {
    "transaction_isolation": "default_transaction_isolation",
    "transaction_read_only": "default_transaction_read_only",
    "transaction_deferrable": "default_transaction_deferrable",
}

# In the body of a DO: names that it sets, if it says them. Dynamic ones cannot be known.
_NAME_IN_BODY: Final = re.compile(
    r"set_config\s*\(\s*'([A-Za-z_][\w$]*\.[\w$.]+)'"
    r"|\bset\s+(?:session\s+)?([A-Za-z_][\w$]*\.[\w$.]+)\s*(?:=|to\b)",
    re.IGNORECASE,
)


class ConfigCalls:
    """
    The calls of set_config in a statement.

    session, local   constant names, lower case
    is_opaque        the name of one is not a constant
    """

    __slots__ = ("is_opaque", "local", "session")

    def __init__(self) -> None:
        self.session: list[str] = []
        self.local: list[str] = []
        self.is_opaque = False

    def note(self, call: dict[str, Any]) -> None:
        """Note one call."""
        args = call.get("args", [])
        name = constant_text(args[0]) if len(args) == 3 else None
        if name is None:
            self.is_opaque = True
        elif _is_true(args[2]):
            self.local.append(name.lower())
        else:
            self.session.append(name.lower())

    def only_for_transaction(self) -> bool:
        """Whether nothing of it outlives the transaction."""
        return not self.session and not self.is_opaque

    def are_any(self) -> bool:
        """Whether there is any call."""
        return bool(self.session or self.local) or self.is_opaque


def effects_of(
    chain: list[tuple[str, dict[str, Any]]],
    calls: ConfigCalls,
    runs_foreign_code: bool,
    writes_settings_view: bool,
) -> Effects | None:
    """What the statement (the last of `chain`, in its wrappers) may do to settings; None: nothing."""
    names = [name for name, _ in chain]
    name, body = chain[-1]
    if "PrepareStmt" in names:
        # Runs at its EXECUTEs, which are opaque.
        return None
    if name == "DoStmt":
        return Effects(sets=_names_in_body(body), is_opaque=True)
    if name in _RUNS_CODE or runs_foreign_code or calls.is_opaque or writes_settings_view:
        return Effects(tuple(calls.session), tuple(calls.local), is_opaque=True)
    if calls.are_any():
        return Effects(tuple(calls.session), tuple(calls.local))
    if name == "VariableSetStmt":
        return _of_set(body)
    if name == "DiscardStmt":
        is_all = body.get("target", "DISCARD_ALL") == "DISCARD_ALL"
        return Effects(resets=("*",)) if is_all else None
    if name == "LoadStmt":
        return Effects(loads=True)
    if name == "FetchStmt":
        # Its cursor was looked at when it was declared; what that calls, runs now.
        return Effects(locals_=LEXING_SETTINGS)
    return None


def _of_set(body: dict[str, Any]) -> Effects:
    name = body.get("name", "").lower()
    kind = body.get("kind", "")
    is_local = bool(body.get("is_local"))
    if kind == "VAR_RESET_ALL":
        return Effects(resets=("*",))
    if kind == "VAR_SET_MULTI":
        defaults = tuple(_CHARACTERISTICS.values())
        return Effects(sets=defaults) if name == "session characteristics" else Effects()
    if is_local:
        return Effects(locals_=(name,))
    if kind in ("VAR_RESET", "VAR_SET_DEFAULT"):
        return Effects(resets=(name,))
    if kind in ("VAR_SET_VALUE", "VAR_SET_CURRENT"):
        return Effects(sets=(name,))
    return OPAQUE


def _names_in_body(body: dict[str, Any]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for item in body.get("args", []):
        element = item.get("DefElem", {})
        if element.get("defname") == "as":
            text = element.get("arg", {}).get("String", {}).get("sval", "")
            for match in _NAME_IN_BODY.finditer(text):
                found[(match.group(1) or match.group(2)).lower()] = None
    return tuple(found)


def constant_text(node: dict[str, Any]) -> str | None:
    """The text of a string constant, whatever it is cast to; None: something else, or empty."""
    constant = _constant(node)
    value = constant.get("sval") if constant is not None else None
    text = value.get("sval", "") if isinstance(value, dict) else None
    return text or None


def _is_true(node: dict[str, Any]) -> bool:
    constant = _constant(node)
    if constant is None:
        return False
    value = constant.get("boolval")
    if isinstance(value, dict):
        return bool(value.get("boolval"))
    text = constant.get("sval")
    return isinstance(text, dict) and text.get("sval", "").lower() in ("t", "true", "on", "yes")


def _constant(node: dict[str, Any]) -> dict[str, Any] | None:
    while "TypeCast" in node:
        node = node["TypeCast"].get("arg", {})
    constant = node.get("A_Const")
    return constant if isinstance(constant, dict) else None
