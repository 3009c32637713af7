"""The workspace: what it hands over, runs, reports and removes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.demo.cluster import bundled_bin_dir
from proxy.demo.workspace import Workspace, server_account


def test_root_never_runs_a_server_itself() -> None:
    account = server_account()
    if os.geteuid() == 0:
        assert account is not None
        assert account.uid != 0
    else:
        assert account is None


def test_directory_is_gone_after_close_and_close_may_be_called_again() -> None:
    space = Workspace()
    private = space.make_private_directory("data")
    assert private.stat().st_mode & 0o777 == 0o700
    space.close()
    assert not space.path.exists()
    space.close()


def test_close_ends_what_was_spawned() -> None:
    with Workspace() as space:
        with (space.path / "log").open("wb") as log:
            process = space.spawn(["/bin/sh", "-c", "sleep 60"], log)
        assert process.poll() is None
    assert process.poll() is not None


def test_failing_program_is_reported_with_its_output() -> None:
    with Workspace() as space, pytest.raises(RuntimeError, match=r"exit code 3:\nno luck"):
        space.run(["/bin/sh", "-c", "echo no luck; exit 3"])


def test_program_that_hangs_is_given_up() -> None:
    with Workspace() as space, pytest.raises(subprocess.TimeoutExpired):
        space.run(["/bin/sh", "-c", "sleep 30"], timeout_s=0.05)


def test_programs_run_without_the_callers_pg_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    with Workspace() as space:
        assert space.run(["/bin/sh", "-c", 'echo "[$PGPORT]"']) == "[]\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers as somebody else")
def test_programs_that_the_servers_user_cannot_reach_are_copied_and_nothing_is_opened_up(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(bundled_bin_dir().parent, closed / "install", symlinks=True)
    with Workspace() as space:
        usable = space.readable_program_tree(closed / "install" / "bin")
        assert usable.is_relative_to(space.path)
        assert "PostgreSQL" in space.run([str(usable / "postgres"), "--version"])
        assert space.readable_program_tree(closed / "install" / "bin") == usable
    assert closed.stat().st_mode & 0o777 == 0o700


def test_workspace_leaves_a_long_temporary_directory_for_the_sake_of_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with Workspace() as space:
        assert len(str(space.path)) < 60
