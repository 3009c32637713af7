"""
`headgate check`: what the configuration says, and whether what it names is there.

The file, the users file, the HBA file and the user maps first; then the plugins it names, as the
plugin host would load them; with `--connect` each server, asked the same things as the health
monitor asks. A line for each, and exit code 2 if any of them keeps the proxy from working.
"""

import asyncio
import os
from pathlib import Path

import typer
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from proxy.cli.serve import EXIT_BAD_CONFIGURATION, report
from proxy.errors import SettingsError
from proxy.server.authrules import make_auth_rules
from proxy.settings.checks import advise
from proxy.settings.load import load
from proxy.settings.model import Settings
from proxy.settings.users import read_users

OK = "ok"
ADVICE = "advice"
FAILED = "failed"
_STYLES = {OK: "green", ADVICE: "yellow", FAILED: "bold red"}
# Wide enough for a sentence where the output is not a terminal, and columns would be cut.
_WIDTH_WITHOUT_TERMINAL = 200


class Line(Struct, frozen=True):
    """One thing that was looked at: what, how it is, and what to know or do about it."""

    subject: str
    state: str
    text: str


def run(config: Path, connect: bool) -> int:
    """Check everything, print it as a table, give the exit code."""
    try:
        settings = load(config, os.environ)
        lines = [Line(str(config), OK, _summary(settings))]
        lines += [Line("advice", ADVICE, text) for text in advise(settings)]
        lines += _users_lines(settings)
        lines += _rules_lines(settings)
    except SettingsError as error:
        report(error)
        return EXIT_BAD_CONFIGURATION
    lines += _plugin_lines(settings)
    if connect:
        from proxy.cli.servers import ask_servers

        lines += asyncio.run(ask_servers(settings))
    show(lines)
    if any(line.state == FAILED for line in lines):
        for line in lines:
            if line.state == FAILED:
                typer.echo(f"{line.subject}: {line.text}", err=True)
        return EXIT_BAD_CONFIGURATION
    return 0


def show(lines: list[Line]) -> None:
    """Print lines as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("checked", no_wrap=True)
    table.add_column("is")
    table.add_column("", overflow="fold")
    for line in lines:
        style = _STYLES[line.state]
        table.add_row(escape(line.subject), f"[{style}]{line.state}[/]", escape(line.text))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)
    console.print(table)


def _summary(settings: Settings) -> str:
    listen = settings.listen
    places = [f"{host}:{listen.port}" for host in listen.host]
    if listen.unix_socket_dir is not None:
        places.append(str(listen.unix_socket_dir))
    databases = ", ".join(database.name for database in settings.database)
    return (
        f"listens on {', '.join(places)}; {_count(len(settings.node), 'node')}; "
        f"databases {databases}; {settings.pool.mode} pooling; "
        f"authentication {settings.auth.method}"
    )


def _users_lines(settings: Settings) -> list[Line]:
    if settings.auth.users_file is None:
        return []
    users = read_users(settings.auth.users_file)
    subject = str(settings.auth.users_file)
    if not users and not settings.auth.query:
        return [Line(subject, ADVICE, "no users: nobody can log in")]
    return [Line(subject, OK, _count(len(users), "user"))]


def _rules_lines(settings: Settings) -> list[Line]:
    make_auth_rules(settings.auth)  # reads both files; SettingsError as `serve` has it
    files = (settings.auth.hba_file, settings.auth.user_map_file)
    return [Line(str(file), OK, "every line can be honoured") for file in files if file is not None]


def _plugin_lines(settings: Settings) -> list[Line]:
    if settings.plugins.dir is None:
        return [Line("plugins", OK, "off: plugins.dir is not set")]
    # Only now: a file with a mistake in it must not wait for wasmtime.
    from proxy.plugins.check import check_plugins

    found = check_plugins(settings)
    if not found:
        return [Line("plugins", ADVICE, f"no plugins in {settings.plugins.dir}")]
    return [Line(f"plugin {line.subject}", OK if line.ok else FAILED, line.text) for line in found]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
