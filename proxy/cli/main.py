"""
The command `headgate`: its subcommands and their options, and nothing that they do.

What a subcommand needs is imported when it runs, so that `headgate check` does not wait for parts
that only `serve` uses.
"""

from pathlib import Path
from typing import Annotated

import typer

from proxy import __version__

app = typer.Typer(
    name="headgate",
    help="A PostgreSQL proxy that runs WebAssembly plugins on every statement.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", metavar="FILE", help="Configuration file, TOML."),
]


@app.command()
def serve(
    config: ConfigOption,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=1,
            max=256,
            help="Worker processes behind one port. [default: server.workers of the file]",
        ),
    ] = None,
) -> None:
    """Run the proxy. SIGTERM drains, SIGHUP reloads."""
    from proxy.cli.serve import run

    raise typer.Exit(run(config, workers))


@app.command()
def check(
    config: ConfigOption,
    connect: Annotated[
        bool, typer.Option("--connect", help="Ask the servers too: role, version, lag.")
    ] = False,
) -> None:
    """Check the configuration file, what it names, and with --connect the servers."""
    from proxy.cli.check import run

    raise typer.Exit(run(config, connect))


@app.command()
def demo(
    port: Annotated[
        int, typer.Option("--port", min=1, max=65535, help="Port of the proxy.")
    ] = 6432,
    admin_port: Annotated[
        int, typer.Option("--admin-port", min=1, max=65535, help="Port of the admin HTTP side.")
    ] = 9632,
    check: Annotated[
        bool, typer.Option("--check", help="Run a scripted tour and exit 0 if all of it held.")
    ] = False,
) -> None:
    """Start a PostgreSQL with a standby, example plugins and the proxy, to try it out."""
    try:
        from proxy.demo.tour import demo as run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "proxy":
            raise
        message = f"headgate demo needs {error.name}; install it: pip install 'headgate[demo]'"
        typer.echo(message, err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(run(port, admin_port, check))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(f"headgate {__version__}")


def whole() -> typer.Typer:
    """The commands with `headgate plugin …`, which needs the whole plugin platform."""
    from proxy.cli import plugin

    app.add_typer(plugin.app, name="plugin")
    return app


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    whole()(prog_name="headgate")
