"""A server that asks for SCRAM, a proxy before it that does the same, and runs of programs."""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.drivers.toolchains import Runnable
from tests.support import system
from tests.support.ports import take_port
from tests.support.system import ProxyFactory, RunningProxy

USER = "driver"
PASSWORD = "driver-secret"
HBA = (
    "local all all trust",
    "host all postgres 127.0.0.1/32 trust",
    "host all all 127.0.0.1/32 scram-sha-256",
)
LEFT_OUT = "left out: "
RUN_TIMEOUT_S = 120.0
POOL_SIZE = 6
"""Fewer server connections than the checklist has clients, so that they are shared."""


class Places:
    """The server, and proxies before it; each run gets a database of its own."""

    def __init__(self, server: EmbeddedPostgres, transaction: RunningProxy, session: RunningProxy):
        self.server = server
        self.transaction = transaction
        self.session = session
        self._numbers = itertools.count(1)

    def new_database(self) -> str:
        """A database that nobody has used."""
        name = f"checklist_{next(self._numbers)}"
        self.server.execute(f"CREATE DATABASE {name} OWNER {USER}")
        return name

    def environment(self, port: int, database: str) -> dict[str, str]:
        """What libpq, and every program here, takes its login from."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGUSER": USER,
            "PGPASSWORD": PASSWORD,
            "PGDATABASE": database,
            "PGCONNECT_TIMEOUT": "10",
            "PGSSLMODE": "disable",
        }

    def run(
        self,
        runnable: Runnable,
        port: int,
        database: str,
        *,
        text: str | None = None,
        expected_exit_code: int | None = 0,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program at a port; AssertionError with what it said when it fails."""
        environment = {**os.environ, **self.environment(port, database), **runnable.environment}
        done = subprocess.run(
            runnable.command,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=RUN_TIMEOUT_S,
            check=False,
        )
        assert expected_exit_code in (None, done.returncode), (
            f"{runnable.command} ended with {done.returncode}:\n{done.stdout[-3000:]}\n"
            f"{done.stderr[-3000:]}"
        )
        return done

    def checklist(self, runnable: Runnable, port: int) -> dict[str, str]:
        """Run a program of the checklist; a step that was left out says so, and why."""
        done = self.run(runnable, port, self.new_database())
        steps: dict[str, str] = {}
        for line in done.stdout.splitlines():
            entry = json.loads(line)
            value = entry.get("value")
            steps[entry["step"]] = LEFT_OUT + entry["skip"] if value is None else value
        return steps


@pytest.fixture(scope="session")
def driver_server(workspace: Workspace) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL 18 that asks the role `driver` for SCRAM."""
    server = EmbeddedPostgres(workspace, "driver-server", take_port(), hba=HBA)
    system.live_logs[server.name] = server.log_path
    server.start()
    server.execute(f"CREATE ROLE {USER} LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    yield server
    server.stop(immediate=True)


@pytest.fixture(scope="session")
def places(workspace: Workspace, driver_server: EmbeddedPostgres) -> Iterator[Places]:
    """The server, and a proxy in each mode before it."""
    users = workspace.path / "driver-users.txt"
    users.write_text(f'"{USER}" "{PASSWORD}"\n')
    users.chmod(0o600)
    config = {
        "auth": {"method": "scram-sha-256", "users_file": str(users)},
        # Each run has a database, and so pools, of its own: idle for long, those of a whole
        # `make drivers` would be more connections than the server takes.
        "pool": {
            "size": POOL_SIZE,
            "connect_timeout": "5s",
            "wait_timeout": "20s",
            "idle_timeout": "1s",
        },
        "routing": {"check_interval": "500ms"},
        "monitor": {"user": "postgres", "database": "postgres"},
        "node": [{"name": "pg1", "host": "127.0.0.1", "port": driver_server.port}],
        "database": [{"name": "*"}],
        "log": {"format": "json", "level": "info"},
    }
    factory = ProxyFactory(workspace, config, "drivers")
    yield Places(driver_server, factory(), factory(pool={"mode": "session", "size": 40}))
    factory.close()
