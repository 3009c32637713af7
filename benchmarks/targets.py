"""
What is measured: PostgreSQL itself, PgBouncer, and Headgate in several shapes.

Each target is something that listens on a port, with the processes whose time is counted.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from benchmarks import plugins
from proxy.demo.cluster import EmbeddedPostgres, processes_below
from proxy.demo.workspace import Workspace

POOL_SIZE: Final = 20
MAX_CLIENTS: Final = 12_000
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 20.0

_PGBOUNCER_INI = """\
[databases]
* = host=127.0.0.1 port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file = {directory}/users.txt
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = {max_clients}
ignore_startup_parameters = extra_float_digits
server_round_robin = 0
log_connections = 0
log_disconnections = 0
stats_period = 3600
{more}
"""

_HEADGATE_TOML = """\
[listen]
port = {port}
[admin]
port = {admin_port}
[auth]
method = "trust"
[pool]
mode = "transaction"
size = {pool_size}
max_client_connections = {max_clients}
[routing]
reads = "primary"
[monitor]
user = "postgres"
[[node]]
name = "pg1"
host = "127.0.0.1"
port = {server_port}
[[database]]
name = "*"
[log]
level = "warning"
"""


class Target:
    """Something that pgbench connects to."""

    def __init__(self, name: str, port: int, process: "subprocess.Popen[bytes] | None") -> None:
        self.name = name
        self.port = port
        self.process = process

    def stand_still(self) -> None:
        """Stop all of its processes: while others are measured, its clocks shall not disturb them."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        for pid in self.pids():
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def pids(self) -> list[int]:
        """List the processes whose processor time counts; none for the server itself."""
        return [] if self.process is None else processes_below(self.process.pid)


def start_server(workspace: Workspace) -> EmbeddedPostgres:
    """Start PostgreSQL 18 as it is worth measuring against."""
    server = EmbeddedPostgres(
        workspace,
        "postgres",
        free_port(),
        max_connections=300,
        settings={"shared_buffers": "256MB", "autovacuum": "off", "max_wal_size": "2GB"},
    )
    server.start()
    return server


def pgbouncer_program() -> str | None:
    """Find PgBouncer, which Debian puts where ordinary users do not look."""
    return shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")


def pgbouncer_version(program: str) -> tuple[int, int]:
    """Read PgBouncer's version."""
    text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"PgBouncer (\d+)\.(\d+)", text.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def start_pgbouncer(
    workspace: Workspace, place: Path, server: EmbeddedPostgres, program: str
) -> Target:
    """Start PgBouncer in transaction pooling, as the servers' user: it refuses root."""
    directory = place / "pgbouncer"
    directory.mkdir()
    workspace.give(directory)
    port = free_port()
    # Prepared statements in transaction pooling came with 1.21.
    has_prepared = pgbouncer_version(program) >= (1, 21)
    ini = directory / "pgbouncer.ini"
    ini.write_text(
        _PGBOUNCER_INI.format(
            server_port=server.port,
            port=port,
            directory=directory,
            pool_size=POOL_SIZE,
            max_clients=MAX_CLIENTS,
            more="max_prepared_statements = 200" if has_prepared else "",
        ).replace("* = host=127.0.0.1", "* = user=postgres host=127.0.0.1")
    )
    users = directory / "users.txt"
    users.write_text('"postgres" ""\n')
    for path in (ini, users):
        workspace.give(path)
    with (workspace.path / "pgbouncer.log").open("ab") as log:
        process = workspace.spawn([program, str(ini)], log)
    wait_for_port(port, workspace.path / "pgbouncer.log")
    return Target("pgbouncer", port, process)


def start_headgate(
    workspace: Workspace,
    place: Path,
    server: EmbeddedPostgres,
    name: str,
    tree: Path,
    variant: str = "",
) -> Target:
    """Start Headgate from a tree, compiled or not, with one plugin or none."""
    directory = place / name
    directory.mkdir()
    port = free_port()
    text = _HEADGATE_TOML.format(
        port=port,
        admin_port=free_port(),
        server_port=server.port,
        pool_size=POOL_SIZE,
        max_clients=MAX_CLIENTS,
    )
    if variant:
        (directory / "plugins").mkdir()
        plugins.write(directory / "plugins", variant)
        text += '[plugins]\ndir = "plugins"\nwatch = false\n'
        text += f"grants = {json.dumps(['query.block', 'conn.deny'])}\n"
    config = directory / "headgate.toml"
    config.write_text(text)
    with (directory / "log").open("ab") as log:
        process = workspace.spawn(
            [sys.executable, "-m", "proxy", "serve", "--config", str(config)],
            log,
            {**os.environ, "PYTHONPATH": str(tree)},
            as_account=False,
        )
    wait_for_port(port, directory / "log")
    return Target(name, port, process)


def wait_for_port(port: int, log_path: Path) -> None:
    """Wait until something listens; RuntimeError with the log when nothing does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            log = log_path.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"nothing listens on port {port}. The log:\n{log}")
        time.sleep(0.05)


def free_port() -> int:
    """Find a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
