"""DROP, RENAME and copies of a database that the pools have idle connections to."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.sessions import few_connections, one
from tests.support.system import RunningProxy

WORKERS = 2


@pytest.fixture(scope="module")
def gate(workspace: Workspace, primary: EmbeddedPostgres) -> Iterator[RunningProxy]:
    factory = few_connections(workspace, primary, None, "session-databases")
    with tempfile.TemporaryDirectory(prefix="hg-", dir="/tmp") as scratch:
        yield factory(workers=WORKERS, environment={"TMPDIR": str(Path(scratch))})
        factory.close()


def fill(gate: RunningProxy, direct: "psycopg.Connection[tuple[object, ...]]", name: str) -> int:
    """Leave idle connections to a database in the pools of every worker."""
    for _ in range(12):
        with gate.connect(dbname=name) as client:
            client.execute("CREATE TABLE IF NOT EXISTS t ()")
    count = one(direct, "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", name)
    assert isinstance(count, int)
    return count


@pytest.mark.parametrize(
    ("sql", "end"),
    [
        ("DROP DATABASE {}", ""),
        ("ALTER DATABASE {} RENAME TO db_renamed", "DROP DATABASE db_renamed"),
        ("CREATE DATABASE db_copy TEMPLATE {}", "DROP DATABASE db_copy"),
    ],
)
def test_idle_connections_of_every_worker_give_way(
    gate: RunningProxy, primary: EmbeddedPostgres, sql: str, end: str
) -> None:
    name = f"db_{sql.split()[0].lower()}"
    with psycopg.connect(primary.dsn(), autocommit=True) as direct:
        direct.execute(f"CREATE DATABASE {name}")
        # A connection of each worker, with all but certainty.
        assert fill(gate, direct, name) >= WORKERS
        with gate.connect() as client:
            client.execute(sql.format(name))
        if end:
            with gate.connect() as client:
                client.execute(end)


def test_who_is_connected_is_in_the_way_as_ever(
    gate: RunningProxy, primary: EmbeddedPostgres
) -> None:
    with psycopg.connect(primary.dsn(), autocommit=True) as direct:
        direct.execute("CREATE DATABASE db_used")
        with gate.connect(dbname="db_used", autocommit=False) as user, gate.connect() as client:
            user.execute("CREATE TABLE t ()")
            with pytest.raises(psycopg.errors.ObjectInUse):
                client.execute("DROP DATABASE db_used")
            assert one(user, "SELECT count(*) FROM t") == 0
        with gate.connect() as client:
            client.execute("DROP DATABASE db_used")
