"""An embedded primary and standby: started, replicating, restarted after a kill, leaving nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby, bundled_bin_dir, processes_below
from proxy.demo.workspace import Workspace
from tests.support.ports import take_port
from tests.support.system import REPOSITORY, wait_until


def test_standby_streams_what_the_primary_writes(
    primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> None:
    primary.execute("CREATE TABLE cluster_test AS SELECT 42 AS answer")
    standby.wait_until_caught_up()
    assert standby.execute("SELECT answer, pg_is_in_recovery() FROM cluster_test") == [(42, True)]
    assert primary.execute("SELECT pg_is_in_recovery()") == [(False,)]
    primary.execute("DROP TABLE cluster_test")


def test_promoted_standby_takes_writes_and_a_killed_primary_comes_back(
    own_cluster: tuple[EmbeddedPostgres, EmbeddedStandby],
) -> None:
    primary, standby = own_cluster
    primary.kill()
    assert not primary.is_running
    standby.promote()
    standby.execute("CREATE TABLE written_here AS SELECT 1")
    primary.start()
    assert primary.execute("SELECT 1") == [(1,)]


def test_version_16_is_there_too(workspace: Workspace) -> None:
    server = EmbeddedPostgres(workspace, "pg16", take_port(), bin_dir=bundled_bin_dir(16))
    server.start()
    assert server.version.startswith("16.")
    assert server.execute("SELECT current_setting('server_version_num')::int / 10000") == [(16,)]
    server.stop()


def test_unknown_bundled_version_is_refused() -> None:
    with pytest.raises(ValueError, match="no bundled PostgreSQL 9"):
        bundled_bin_dir(9)


def test_server_that_cannot_start_shows_its_log(workspace: Workspace) -> None:
    server = EmbeddedPostgres(
        workspace, "broken", take_port(), settings={"shared_buffers": "no number"}
    )
    with pytest.raises(RuntimeError, match=r"did not start.*\n.*shared_buffers"):
        server.start()


def test_killed_owner_leaves_no_server_and_no_directory(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from proxy.demo.workspace import Workspace\n"
        "from proxy.demo.cluster import EmbeddedPostgres\n"
        "space = Workspace()\n"
        f"server = EmbeddedPostgres(space, 'orphan', {take_port()})\n"
        "server.start()\n"
        "print(space.path, server.process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    ) as owner:
        assert owner.stdout is not None
        path, pid = owner.stdout.readline().split()
        assert int(pid) in processes_below(owner.pid)
        owner.kill()
    wait_until(lambda: not Path(path).exists(), 15, "the directory is gone")
    wait_until(lambda: not _runs(int(pid)), 15, "the server is gone")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
