"""
`headgate serve`: the file and the options to settings, and those to the server.
"""

import os
from pathlib import Path

import typer

from proxy.errors import SettingsError
from proxy.settings.load import load

EXIT_BAD_CONFIGURATION = 2


def run(config: Path, workers: int | None) -> int:
    """Load the configuration and serve until told to stop; gives the exit code."""
    try:
        settings = load(config, os.environ)
    except SettingsError as error:
        report(error)
        return EXIT_BAD_CONFIGURATION
    # Only now: compiling a message about a wrong port must not wait for wasmtime.
    from proxy.server.lifecycle import serve

    try:
        return serve(settings, config.absolute(), workers or settings.server.workers)
    except SettingsError as error:
        # What shows only when it is used, such as an address that is taken.
        report(error)
        return EXIT_BAD_CONFIGURATION


def report(error: SettingsError) -> None:
    """Print the problems of a configuration, one a line, to standard error."""
    for problem in error.problems:
        typer.echo(problem, err=True)
