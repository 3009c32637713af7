"""
Which database a statement needs for itself: PostgreSQL refuses it while anybody is connected to it.
"""

from typing import Any, Final

_DEFAULT_TEMPLATE: Final = "template1"


def needed_database(name: str, body: dict[str, Any]) -> str:
    """The database that DROP, RENAME, a copy or a move is about; "" for any other statement."""
    if name == "DropdbStmt":
        return str(body.get("dbname", ""))
    if name == "RenameStmt" and body.get("renameType") == "OBJECT_DATABASE":
        return str(body.get("subname", ""))
    if name == "CreatedbStmt":
        template = _option(body, "template")
        value = template.get("String", {}).get("sval") if template is not None else None
        return str(value or _DEFAULT_TEMPLATE)
    if name == "AlterDatabaseStmt" and _option(body, "tablespace") is not None:
        return str(body.get("dbname", ""))
    return ""


def _option(body: dict[str, Any], name: str) -> dict[str, Any] | None:
    for item in body.get("options", []):
        element = item.get("DefElem", {})
        if element.get("defname") == name:
            value: dict[str, Any] = element.get("arg", {})
            return value
    return None
