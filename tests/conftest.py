"""Fixtures for all tests: servers and proxies; the report's header; logs when a test fails."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace
from proxy.protocol import backend
from tests.support import system
from tests.support.certificates import Certificates
from tests.support.ports import take_port
from tests.support.system import ProxyFactory, RunningProxy, TlsPostgres

hypothesis.settings.register_profile("fast", max_examples=60, deadline=None)
hypothesis.settings.register_profile("deep", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

IS_COMPILED = backend.__file__.endswith(".so")
_log_offsets = pytest.StashKey[dict[str, int]]()


def pytest_report_header() -> list[str]:
    """Say which build is tested, and against which servers."""
    build = "compiled by mypyc" if IS_COMPILED else "interpreted Python"
    debian = "with" if system.DEBIAN_BIN_DIR.exists() else "without"
    profile = os.environ.get("HYPOTHESIS_PROFILE", "fast")
    return [
        f"headgate: {build}, PostgreSQL 18 bundled, {debian} Debian's 15 with TLS, "
        f"hypothesis profile {profile}"
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs monkeypatching of compiled code when that is what runs."""
    if IS_COMPILED:
        skip = pytest.mark.skip(reason="does not apply to the compiled build")
        for item in items:
            if item.get_closest_marker("incompatible_with_compiled") is not None:
                item.add_marker(skip)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note how far the logs are, so that a failure shows only what this test caused."""
    item.stash[_log_offsets] = {
        name: path.stat().st_size for name, path in system.live_logs.items() if path.exists()
    }


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the servers and the proxies when a test fails."""
    report = yield
    if report.failed:
        offsets = item.stash.get(_log_offsets, {})
        for name, path in system.live_logs.items():
            if path.exists():
                text = path.read_bytes()[offsets.get(name, 0) :][-8_000:]
                if text:
                    report.sections.append((f"log of {name}", text.decode(errors="replace")))
    return report


@pytest.fixture(scope="session")
def workspace() -> Iterator[Workspace]:
    """A directory for servers and proxies that vanishes with this process."""
    with Workspace("headgate-test-") as space:
        yield space


@pytest.fixture(scope="session")
def primary(workspace: Workspace) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL 18 primary, one for the whole session: do not stop it."""
    server = EmbeddedPostgres(workspace, "primary", take_port(), max_connections=200)
    system.live_logs["primary"] = server.log_path
    server.start()
    yield server
    server.stop(immediate=True)


@pytest.fixture(scope="session")
def standby(primary: EmbeddedPostgres) -> Iterator[EmbeddedStandby]:
    """A streaming standby of `primary`, one for the whole session: do not stop it."""
    server = EmbeddedStandby(primary, "standby", take_port())
    system.live_logs["standby"] = server.log_path
    server.start()
    server.wait_until_caught_up()
    yield server
    server.stop(immediate=True)


@pytest.fixture
def own_cluster(workspace: Workspace) -> Iterator[tuple[EmbeddedPostgres, EmbeddedStandby]]:
    """A primary and a standby of this one test, which it may stop, kill and promote."""
    port = take_port()
    primary = EmbeddedPostgres(workspace, f"own-{port}", port)
    system.live_logs[primary.name] = primary.log_path
    primary.start()
    standby = EmbeddedStandby(primary, f"own-{port}-standby", take_port())
    system.live_logs[standby.name] = standby.log_path
    standby.start()
    standby.wait_until_caught_up()
    yield primary, standby
    for server in (standby, primary):
        server.stop(immediate=True)
        system.live_logs.pop(server.name, None)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a server's and a client's certificate."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def tls_postgres(workspace: Workspace, certificates: Certificates) -> Iterator[TlsPostgres]:
    """Debian's PostgreSQL with TLS, and a role for each authentication method."""
    if not system.DEBIAN_BIN_DIR.exists():
        message = f"needs PostgreSQL with TLS in {system.DEBIAN_BIN_DIR}: apt install postgresql-15"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    server = TlsPostgres(workspace, "tls-postgres", take_port(), certificates)
    system.live_logs["tls-postgres"] = server.log_path
    server.start()
    server.create_roles()
    yield server
    server.stop(immediate=True)


def _base_config(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> dict[str, Any]:
    return {
        "auth": {"method": "trust"},
        "pool": {"connect_timeout": "3s", "wait_timeout": "5s"},
        "routing": {"check_interval": "200ms"},
        "monitor": {"user": "postgres", "database": "postgres"},
        "node": [
            {"name": "pg1", "host": "127.0.0.1", "port": primary.port},
            {"name": "pg2", "host": "127.0.0.1", "port": standby.port},
        ],
        "database": [{"name": "*"}],
    }


@pytest.fixture
def proxy_for(workspace: Workspace, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Make a factory of proxies in front of servers of the test's own choice."""
    factories: list[ProxyFactory] = []

    def make(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> ProxyFactory:
        factory = ProxyFactory(workspace, _base_config(primary, standby), _slug(request))
        factories.append(factory)
        return factory

    yield make
    for factory in factories:
        factory.close()


@pytest.fixture
def proxy(
    workspace: Workspace,
    primary: EmbeddedPostgres,
    standby: EmbeddedStandby,
    request: pytest.FixtureRequest,
) -> Iterator[ProxyFactory]:
    """Start proxies of this test: `proxy(pool={"mode": "session"}, examples=("no-drop",))`."""
    factory = ProxyFactory(workspace, _base_config(primary, standby), _slug(request))
    yield factory
    factory.close()


@pytest.fixture(scope="session")
def shared_proxy(
    workspace: Workspace, primary: EmbeddedPostgres, standby: EmbeddedStandby
) -> Iterator[RunningProxy]:
    """One proxy with the tests' defaults and no plugins, for tests that change nothing of it."""
    factory = ProxyFactory(workspace, _base_config(primary, standby), "shared")
    yield factory()
    factory.close()


def _slug(request: pytest.FixtureRequest) -> str:
    name: str = request.node.name
    return "".join(letter if letter.isalnum() else "-" for letter in name)


@pytest.fixture
def example_plugins() -> Path:
    """The directory of the example plugins."""
    return system.EXAMPLES
