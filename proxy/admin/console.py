"""
The admin console: commands in PgBouncer's style, behind the database names headgate and pgbouncer.

Only users of admin.console_users may change something, those of admin.stats_users may look. Knows
no protocol (`console_wire`); commands go to all worker processes through the `Desk`.
"""

import asyncio
import re
from typing import TYPE_CHECKING, Final, final

from proxy import __version__
from proxy.admin.console_result import INT8, TEXT, Result, Value, done
from proxy.admin.console_tables import TABLES
from proxy.admin.problems import AdminProblem
from proxy.errors import Refusal, Refused

if TYPE_CHECKING:
    from proxy.admin.desk import Desk
    from proxy.session.context import ClientContext
    from proxy.settings.model import Admin

PAUSE_LOOK_S: Final = 0.2

_TOKEN: Final = re.compile(
    r"""\s+ | --[^\n]* | /\*.*?\*/ | (?P<end>;) | "(?P<ident>(?:[^"]|"")+)" | '(?P<text>(?:[^']|'')*)'
    | (?P<word>[A-Za-z_*][A-Za-z0-9_.$*-]*) | (?P<number>\d+) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
# What drivers and pools send by themselves, and what means nothing here.
_IGNORED: Final = frozenset(
    {
        "begin",
        "commit",
        "rollback",
        "end",
        "start",
        "reset",
        "discard",
        "deallocate",
        "unlisten",
        "close",
    }
)
_IGNORED_SETTINGS: Final = frozenset(
    {
        *("application_name", "client_encoding", "datestyle", "timezone", "extra_float_digits"),
        *("standard_conforming_strings", "intervalstyle", "client_min_messages", "session"),
    }
)
_SQLSTATES: Final = {400: "42601", 404: "42704", 409: "55000", 422: "F0000", 503: "57P03"}


@final
class Operator:
    """A client of the console, and what it may do now: a reload can change that."""

    __slots__ = ("_admin", "address", "user")

    def __init__(self, context: "ClientContext", desk: "Desk") -> None:
        self.user = context.user
        self.address = context.client_addr
        self._admin = desk

    def _settings(self) -> "Admin":
        return self._admin.worker.settings.admin

    def may_change(self) -> bool:
        """Whether it may do everything."""
        return self.user in self._settings().console_users

    def may_show(self) -> bool:
        """Whether it may look."""
        return self.may_change() or self.user in self._settings().stats_users


@final
class Console:
    """Carries out commands. Every failure is a Refused with an SQLSTATE."""

    def __init__(self, desk: "Desk") -> None:
        self._desk = desk

    def parameters(self) -> dict[str, str]:
        """What a client is told at the start."""
        return {
            "server_version": f"{__version__}/headgate",
            "client_encoding": "UTF8",
            "server_encoding": "UTF8",
            "DateStyle": "ISO",
            "TimeZone": "GMT",
            "standard_conforming_strings": "on",
            "is_superuser": "on",
            "integer_datetimes": "on",
        }

    def split(self, text: str) -> list[str]:
        """The commands of one text, without the empty ones."""
        commands: list[str] = []
        start = 0
        has_words = False
        for found in _TOKEN.finditer(text):
            if found.lastgroup == "end":
                if has_words:
                    commands.append(text[start : found.start()])
                start = found.end()
                has_words = False
            elif found.lastgroup is not None:
                has_words = True
        if has_words:
            commands.append(text[start:])
        return commands

    def columns_of(self, text: str, operator: Operator) -> Result | None:
        """An empty result with the columns that a command will give; None: it gives no rows."""
        words = _words(text)
        self._check_may(words, operator)
        if words[:1] == ["show"]:
            columns, _ = TABLES[self._table(words)]
            return Result(columns, [], "SHOW")
        return _selected(words, is_described=True)

    async def run(self, text: str, operator: Operator, cancelled: asyncio.Event) -> Result:
        """Carry out one command. Raises Refused."""
        words = _words(text)
        self._check_may(words, operator)
        try:
            return await self._run(words, operator, cancelled)
        except AdminProblem as problem:
            raise Refused(
                Refusal(_SQLSTATES.get(problem.status, "XX000"), problem.why, hint=problem.hint)
            ) from None

    def _check_may(self, words: list[str], operator: Operator) -> None:
        if not operator.may_show():
            raise Refused(Refusal("42501", f'user "{operator.user}" may not use this any more'))
        is_harmless = words[:1] in (["show"], ["select"], ["set"]) or words[:1] == []
        if not is_harmless and words[0] not in _IGNORED and not operator.may_change():
            raise Refused(
                Refusal(
                    "42501",
                    f'user "{operator.user}" may only SHOW',
                    hint="admin.console_users names those who may do more.",
                )
            )

    async def _run(self, words: list[str], operator: Operator, cancelled: asyncio.Event) -> Result:
        name = words[0] if words else ""
        arguments = words[1:]
        if name == "show":
            columns, make = TABLES[self._table(words)]
            return Result(columns, await make(self._desk), "SHOW")
        selected = _selected(words)
        if selected is not None:
            return selected
        if name in _IGNORED or (
            name == "set" and arguments[:1] and arguments[0] in _IGNORED_SETTINGS
        ):
            return done(name.upper())
        if name in ("pause", "resume", "reconnect") and len(arguments) <= 1:
            return await self._pools(name, arguments, operator, cancelled)
        if name == "wait_close" and len(arguments) <= 1:
            return await self._pools(name, arguments, operator, cancelled)
        if name in ("kill", "disable", "enable") and len(arguments) == 1:
            return await self._pools(name, arguments, operator, cancelled)
        if name == "kill_client" and len(arguments) == 1:
            return await self._kill_client(arguments[0], operator)
        if name in ("reload", "shutdown") and not arguments:
            await self._change(operator, "", {"do": name})
            return done(name.upper())
        if name == "plugin":
            return await self._plugin(arguments, operator)
        if name == "suspend":
            raise Refused(
                Refusal(
                    "0A000",
                    "SUSPEND is not supported",
                    hint="PAUSE holds all statements.",
                )
            )
        if name == "set":
            raise Refused(
                Refusal(
                    "0A000",
                    "settings are changed in the configuration file",
                    hint="Edit it, then RELOAD.",
                )
            )
        raise Refused(
            Refusal("42601", f"unknown command: {' '.join(words)[:100]}", hint="Try SHOW HELP.")
        )

    def _table(self, words: list[str]) -> str:
        name = words[1] if len(words) > 1 else "help"
        if name not in TABLES or len(words) > 2:
            raise Refused(
                Refusal("42704", f"nothing to show: {' '.join(words[1:])[:100]}",
                        hint="Try SHOW HELP.")
            )  # fmt: skip
        return name

    async def _change(
        self, operator: Operator, target: str, request: dict[str, object]
    ) -> dict[str, object]:
        return await self._desk.change(operator.user, operator.address, target, request)

    async def _pools(
        self, name: str, arguments: list[str], operator: Operator, cancelled: asyncio.Event
    ) -> Result:
        database = arguments[0] if arguments else ""
        answer = await self._change(operator, database, {"do": name, "database": database})
        while name in ("pause", "wait_close") and answer.get("in_use"):
            # As PgBouncer, PAUSE returns when it has taken full effect; a cancel leaves it paused.
            try:
                async with asyncio.timeout(PAUSE_LOOK_S):
                    await cancelled.wait()
            except TimeoutError:
                pass
            else:
                raise Refused(
                    Refusal(
                        "57014",
                        "canceling the wait due to user request",
                        detail=f"{answer['in_use']} connections are still in use.",
                        hint="RESUME ends the pause." if name == "pause" else "",
                    )
                )
            answers = await self._desk.ask(name, database=database)
            answer = {"in_use": sum(int(each.get("in_use", 0)) for each in answers)}
        return done(name.upper())

    async def _kill_client(self, client: str, operator: Operator) -> Result:
        answer = await self._change(operator, client, {"do": "kill_client", "client": client})
        if not answer["killed"]:
            raise AdminProblem(404, f'client "{client}" is not here', "SHOW CLIENTS has the ids.")
        return done("KILL_CLIENT")

    async def _plugin(self, arguments: list[str], operator: Operator) -> Result:
        verb = arguments[0] if arguments else ""
        name = arguments[1] if len(arguments) == 2 else ""
        if verb == "reload" and len(arguments) == 1:
            await self._change(operator, "", {"do": "plugins_reload"})
        elif verb in ("reload", "enable", "disable", "unload") and name:
            await self._change(operator, name, {"do": f"plugin_{verb}", "name": name})
        else:
            raise Refused(
                Refusal(
                    "42601",
                    "PLUGIN needs RELOAD, ENABLE, DISABLE or UNLOAD, and a name",
                    hint='For example PLUGIN RELOAD "no-drop".',
                )
            )
        return done(f"PLUGIN {verb.upper()}")


def _selected(words: list[str], *, is_described: bool = False) -> Result | None:
    """The two queries that drivers and pools send to find out whether a connection works."""
    if words == ["select", "1"]:
        return Result([("?column?", INT8)], [] if is_described else [[1]], "SELECT 1")
    if words == ["select", "pg_advisory_unlock_all"]:
        rows: list[list[Value]] = [] if is_described else [[""]]
        return Result([("pg_advisory_unlock_all", TEXT)], rows, "SELECT 1")
    return None


def _words(text: str) -> list[str]:
    """
    The words of one command: the first two in lower case, names as they are written.

    PgBouncer's tools quote nothing, so a name keeps its case without quotes too.
    """
    words: list[str] = []
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        if kind is None or kind == "end":
            continue
        if kind == "other" and found.group() not in "=,":
            if words[:1] in (["set"], ["select"]) or (words and words[0] in _IGNORED):
                continue
            raise Refused(Refusal("42601", f'syntax error at or near "{found.group()}"'))
        if kind == "other":
            continue
        value = found.group(kind)
        if kind == "ident":
            value = value.replace('""', '"')
        elif kind == "text":
            value = value.replace("''", "'")
        is_keyword = kind == "word" and (
            not words or (len(words) == 1 and words[0] in ("show", "plugin", "set", "select"))
        )
        words.append(value.lower() if is_keyword else value)
    return words
