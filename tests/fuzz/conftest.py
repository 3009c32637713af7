"""One proxy for all fuzz tests of a process."""

from collections.abc import Iterator

import pytest

from proxy.demo.cluster import EmbeddedPostgres
from proxy.demo.workspace import Workspace
from tests.support.sessions import few_connections
from tests.support.system import RunningProxy


@pytest.fixture(scope="session")
def gate(workspace: Workspace, primary: EmbeddedPostgres) -> Iterator[RunningProxy]:
    factory = few_connections(workspace, primary, None, "fuzz", 4)
    proxy = factory(
        auth={"method": "trust", "login_timeout": "5s", "max_failures_per_minute": 0},
        pool={"size": 4, "query_timeout": "3s", "wait_timeout": "3s"},
        listen={"max_message": "1MiB"},
        log={"level": "info", "format": "json"},
    )
    # Known once, clients are greeted at once: those that close their side early, too.
    proxy.connect().close()
    yield proxy
    factory.close()


@pytest.fixture(scope="session")
def scram_gate(
    workspace: Workspace, primary: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProxy]:
    users = tmp_path_factory.mktemp("fuzz") / "users.txt"
    users.write_text('"postgres" "a password"\n')
    factory = few_connections(workspace, primary, None, "fuzz-scram", 2)
    yield factory(
        auth={
            "method": "scram-sha-256",
            "users_file": str(users),
            "login_timeout": "5s",
            "max_failures_per_minute": 0,
        },
        log={"level": "info", "format": "json"},
    )
    factory.close()
