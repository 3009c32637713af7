"""
Every driver does the checklist straight at PostgreSQL and through the proxy, with the same results.

`make drivers` runs these; a language that is not on the machine is skipped with the reason.
"""

from collections.abc import Callable

import pytest

from tests.drivers import toolchains
from tests.drivers.checklist import EXPECTED, STEPS
from tests.drivers.conftest import LEFT_OUT, Places
from tests.drivers.toolchains import Runnable, Unavailable

pytestmark = pytest.mark.drivers

PROGRAMS: dict[str, Callable[[], Runnable]] = {
    "psycopg": lambda: toolchains.python("psycopg_sync"),
    "psycopg-async": lambda: toolchains.python("psycopg_async"),
    "psycopg2": lambda: toolchains.python("psycopg2_plain"),
    "asyncpg": lambda: toolchains.python("asyncpg_cached"),
    "pg8000": lambda: toolchains.python("pg8000_plain"),
    "sqlalchemy-psycopg": lambda: toolchains.python("sqlalchemy_core"),
    "sqlalchemy-asyncpg": lambda: toolchains.python("sqlalchemy_asyncpg"),
    "django": lambda: toolchains.python("django_orm"),
    "node-postgres": lambda: toolchains.node("node_postgres.js"),
    "postgres.js": lambda: toolchains.node("postgres_js.js"),
    "pgx": lambda: toolchains.go("pgx"),
    "lib-pq": lambda: toolchains.go("libpq"),
    "pgjdbc": lambda: toolchains.java("Checklist"),
    "tokio-postgres": lambda: toolchains.rust("checklist"),
}

# What a driver has no interface for. Everything else must be done.
NO_INTERFACE: dict[str, set[str]] = {
    "psycopg2": {"multi"},
    "asyncpg": {"multi"},
    "pg8000": {"cancel", "multi"},
    "sqlalchemy-psycopg": {"copy_out", "copy_error", "notify", "multi"},
    "sqlalchemy-asyncpg": {"copy_out", "copy_error", "notify", "notice", "multi"},
    "postgres.js": {"copy_error"},
    "lib-pq": {"copy_out", "pipeline"},
    "django": {"copy_out", "copy_error", "notify", "notice", "multi"},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_results_through_the_proxy(name: str, places: Places) -> None:
    try:
        runnable = PROGRAMS[name]()
    except Unavailable as reason:
        pytest.skip(str(reason))
    direct = places.checklist(runnable, places.server.port)
    assert sorted(direct) == sorted(STEPS)
    left_out = {step for step, value in direct.items() if value.startswith(LEFT_OUT)}
    assert left_out == NO_INTERFACE.get(name, set())
    for step, expected in EXPECTED.items():
        if step not in left_out and expected is not None:
            assert direct[step] == expected, f"{step}, straight at PostgreSQL"
    assert places.checklist(runnable, places.transaction.port) == direct
    assert places.checklist(runnable, places.session.port) == direct
