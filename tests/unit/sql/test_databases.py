"""Which database a statement needs for itself."""

import pytest

from proxy.sql.classify import PgClassifier

CLASSIFIER = PgClassifier()


@pytest.mark.parametrize(
    ("sql", "databases"),
    [
        ("DROP DATABASE x", ("x",)),
        ('DROP DATABASE IF EXISTS "X y" WITH (FORCE)', ("X y",)),
        ("ALTER DATABASE x RENAME TO y", ("x",)),
        ("ALTER DATABASE x SET TABLESPACE t", ("x",)),
        ("CREATE DATABASE y TEMPLATE x", ("x",)),
        ("CREATE DATABASE y STRATEGY wal_log TEMPLATE 'x' OWNER o", ("x",)),
        ("CREATE DATABASE y", ("template1",)),
        ("CREATE DATABASE y TEMPLATE = DEFAULT", ("template1",)),
        ("DROP DATABASE x; DROP DATABASE y", ("x", "y")),
        ("ALTER DATABASE x OWNER TO o", ()),
        ("ALTER DATABASE x SET work_mem = '1MB'", ()),
        ("ALTER DATABASE x CONNECTION LIMIT 5", ()),
        ("ALTER TABLE x RENAME TO y", ()),
        ("DROP TABLE x", ()),
        ("SELECT 1", ()),
        ("DROP DATABASE is no SQL", ()),
    ],
)
def test_database_that_nobody_else_may_use(sql: str, databases: tuple[str, ...]) -> None:
    assert CLASSIFIER.facts(sql.encode()).databases == databases


def test_names_in_constants_are_those_of_the_very_text() -> None:
    for name in ("db1", "db2"):
        sql = f"CREATE DATABASE y TEMPLATE '{name}'"
        assert CLASSIFIER.facts(sql.encode()).databases == (name,)
