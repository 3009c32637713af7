"""
Test cases of a plugin: a JSON file beside its module, and what its calls must do.

    [{"name": "drops are blocked", "hook": "pre_query", "sql": "DROP TABLE t",
      "user": "alice", "database": "app", "roles": [],
      "expect": {"action": "block", "value": "dropping is not allowed"}}]

`input` in place of `sql` gives the hook's input as it is. Every key of `expect` must be in the
answer with that value; `action` may also be "failed", "filtered" or "default".
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.plugins.author.harness import Called, Harness, default_client
from proxy.plugins.manifest import parse_hook

_KEYS = frozenset(("name", "hook", "sql", "input", "user", "database", "roles", "expect"))


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what is expected of it."""

    name: str
    hook: int
    sql: str
    input: bytes | None
    user: str
    database: str
    roles: tuple[str, ...]
    expect: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """How a case went; `problem` is "" if it held."""

    case: Case
    called: Called
    problem: str


def read_cases(path: Path) -> list[Case]:
    """Read a file of cases; raises ValueError with the place of what is wrong."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(data, list):
        raise ValueError(f"{path}: expected a list of cases")
    return [_case(path, number, item) for number, item in enumerate(data, 1)]


def _case(path: Path, number: int, item: Any) -> Case:
    where = f"{path}: case {number}"
    if not isinstance(item, dict):
        raise ValueError(f"{where}: expected an object")
    unknown = set(item) - _KEYS
    if unknown:
        raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    hook = parse_hook(str(item.get("hook", "pre_query")))
    if hook is None:
        raise ValueError(f"{where}: unknown hook {item['hook']!r}")
    expect = item.get("expect")
    if not isinstance(expect, dict) or not expect:
        raise ValueError(f"{where}: expect is missing")
    given = item.get("input")
    return Case(
        name=str(item.get("name", f"case {number}")),
        hook=hook,
        sql=str(item.get("sql", "SELECT 1")),
        input=json.dumps(given).encode() if given is not None else None,
        user=str(item.get("user", "alice")),
        database=str(item.get("database", "app")),
        roles=tuple(str(role) for role in item.get("roles", [])),
        expect=expect,
    )


async def run_case(harness: Harness, case: Case) -> Result:
    """Call the plugin, and compare."""
    if case.input is not None:
        called = await harness.call_raw(case.hook, case.input)
    else:
        client = default_client(case.user, case.database, case.roles)
        called = await harness.call(case.hook, case.sql, client)
    return Result(case, called, _compare(case.expect, called))


def _compare(expect: dict[str, Any], called: Called) -> str:
    answer = called.answer if isinstance(called.answer, dict) else {}
    for key, value in expect.items():
        if key == "action":
            if value != called.action:
                more = f" ({called.cause}: {called.message})" if called.cause else ""
                return f"action is {called.action!r}{more}; expected {value!r}"
        elif key == "cause":
            if value != called.cause:
                return f"cause is {called.cause!r}; expected {value!r}"
        elif key not in answer:
            return f"the answer has no {key!r}; expected {value!r}"
        elif answer[key] != value:
            return f"{key} is {answer[key]!r}; expected {value!r}"
    return ""
