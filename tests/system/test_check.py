"""`headgate check` against real servers, as an operator runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from tests.support.ports import take_port
from tests.support.system import REPOSITORY


def check(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "proxy", "check", "--config", str(config), *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


@pytest.fixture
def config(tmp_path: Path, primary: EmbeddedPostgres, standby: EmbeddedStandby) -> Path:
    path = tmp_path / "headgate.toml"
    path.write_text(
        f"""
[auth]
method = "trust"
[monitor]
user = "postgres"
[[node]]
name = "one"
port = {primary.port}
[[node]]
name = "two"
port = {standby.port}
role = "standby"
"""
    )
    return path


def test_roles_versions_and_lag_of_real_servers(config: Path) -> None:
    done = check(config, "--connect")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert "PostgreSQL 18" in lines["node one"]
    assert ", primary" in lines["node one"]
    assert ", standby, " in lines["node two"]
    assert lines["node two"].rstrip().endswith("behind")


def test_a_wrong_role_and_a_server_that_is_not_there(config: Path) -> None:
    text = config.read_text().replace('"standby"', '"primary"')
    config.write_text(f'{text}[[node]]\nname = "gone"\nport = {take_port()}\n')
    assert check(config).returncode == 0
    done = check(config, "--connect")
    assert done.returncode == 2
    assert "node two" in done.stderr
    assert "the file says primary" in done.stderr
    assert "node gone" in done.stderr
    assert "Connect call failed" in done.stderr
    assert "Traceback" not in done.stderr
