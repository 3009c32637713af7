"""The short form of the matrix, for every run of the tests: the drivers that are installed anyway."""

import importlib.util
import sys

import pytest

from tests.drivers import table, toolchains
from tests.drivers.checklist import EXPECTED, STEPS
from tests.drivers.conftest import LEFT_OUT, Places

PROGRAMS = {
    "psycopg_sync": "psycopg",
    "asyncpg_cached": "asyncpg",
    "psycopg2_plain": "psycopg2",
    "pg8000_plain": "pg8000",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("module", PROGRAMS)
def test_driver_does_through_the_proxy_what_it_shall(module: str, places: Places) -> None:
    package = PROGRAMS[module]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"the package {package!r} is not installed: pip install 'headgate[test]'")
    runnable = toolchains.python(module, sys.executable)
    steps = places.checklist(runnable, places.transaction.port)
    assert tuple(sorted(steps)) == tuple(sorted(STEPS))
    wrong = {
        step: value
        for step, value in steps.items()
        if not value.startswith(LEFT_OUT) and EXPECTED[step] not in (None, value)
    }
    assert wrong == {}


def test_table_of_drivers_is_that_of_the_checklist() -> None:
    document = table.DOCUMENT.read_text()
    assert document == table.replaced(document), "python -m tests.drivers.table writes it"
    for step in STEPS:
        assert f"`{step}`" in document
