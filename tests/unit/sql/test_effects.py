"""What texts do to their session's settings."""

import pytest

from proxy.sql.classify import PgClassifier
from proxy.sql.effects import ConfigCalls, effects_of
from proxy.sql.statement import OPAQUE, Effects

CLASSIFIER = PgClassifier()


def effects(sql: str) -> Effects | None:
    return CLASSIFIER.facts(sql.encode()).statements[0].effects


def known(sql: str) -> Effects:
    found = effects(sql)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SET a.b = 'x'", "a.b"),
        ('SET "A"."B" TO 1', "a.b"),
        ("SET NAMES 'SJIS'", "client_encoding"),
        ("SET SCHEMA 's'", "search_path"),
        ("SET ROLE bob", "role"),
        ("SET TIME ZONE 'UTC'", "timezone"),
        ("SET work_mem FROM CURRENT", "work_mem"),
        ('SET U&"standard\\005fconforming_strings" = off', "standard_conforming_strings"),
        ("SELECT set_config('App.Tenant', $1, false)", "app.tenant"),
        ("SELECT pg_catalog.set_config('a.b', 'x', false::bool) FROM t", "a.b"),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "default_transaction_read_only"),
        ("DO $$BEGIN SET app.x = 1; END$$", "app.x"),
        ("DO $$BEGIN PERFORM set_config ('app.x', '1', false); END$$", "app.x"),
        ("EXPLAIN ANALYZE SELECT set_config('a.b', 'x', false)", "a.b"),
    ],
)
def test_names_that_are_set_for_the_session(sql: str, name: str) -> None:
    assert name in known(sql).sets


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL a.b = 'x'",
        "SELECT set_config('a.b', 'x', true)",
        "SELECT set_config('a.b','','t')",
    ],
)
def test_what_is_set_for_the_transaction_leaves_nothing(sql: str) -> None:
    found = known(sql)
    assert found.locals == ("a.b",)
    assert not found.sets
    assert not found.is_opaque
    assert not CLASSIFIER.facts(sql.encode()).leaves_state


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("RESET a.b", "a.b"),
        ("SET work_mem TO DEFAULT", "work_mem"),
        ("RESET ALL", "*"),
        ("DISCARD ALL", "*"),
        ("RESET ROLE", "role"),
    ],
)
def test_resets(sql: str, name: str) -> None:
    assert known(sql).resets == (name,)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT my_function()",
        "SELECT set_config($1, $2, false)",
        "SELECT set_config('a' || '.b', 'x', true)",
        "SELECT query_to_xml('SELECT 1', true, true, '')",
        "UPDATE pg_settings SET setting = 'x' WHERE name = 'work_mem'",
        "CALL p()",
        "DO 'BEGIN END'",
        "EXECUTE s",
        "CREATE TABLE t AS EXECUTE s",
        "CREATE EXTENSION x",
        "SELECT 1 OPERATOR(public.+) 1",
        "this is not SQL",
    ],
)
def test_code_that_nobody_has_seen_may_set_anything(sql: str) -> None:
    found = known(sql)
    assert found.is_opaque
    assert found.may_change("standard_conforming_strings")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "BEGIN",
        "INSERT INTO t VALUES (now())",
        "SELECT pg_advisory_lock(1)",
        "DISCARD TEMP",
        "PREPARE s AS SELECT f()",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT set_config(1)'",
        "LISTEN c",
    ],
)
def test_most_statements_touch_no_setting(sql: str) -> None:
    assert effects(sql) is None


def test_load_is_told_apart() -> None:
    assert known("/* x */ LOAD 'auto_explain'").loads
    assert not known("SET a.b = 1").loads


def test_names_in_constants_are_not_shared_by_shape() -> None:
    classifier = PgClassifier()
    for name in ("app.t1", "app.t2", "app.other"):
        sql = f"SELECT set_config('{name}', 'v', false)".encode()
        for facts in (classifier.facts(sql), classifier.exact(sql)):
            found = facts.statements[0].effects
            assert found is not None
            assert found.sets == (name,)


def test_fetch_may_change_how_the_next_text_is_read() -> None:
    found = known("FETCH 1 FROM c")
    assert found.may_change("standard_conforming_strings")
    assert not found.may_change("work_mem")
    assert not found.may_change("a.b")


@pytest.mark.parametrize("sql", ["SET TRANSACTION READ ONLY", "SET TRANSACTION SNAPSHOT 'x'"])
def test_characteristics_of_one_transaction_leave_nothing(sql: str) -> None:
    found = known(sql)
    assert (found.sets, found.locals, found.resets, found.is_opaque) == ((), (), (), False)


def test_a_local_flag_that_is_not_known_counts_for_the_session() -> None:
    assert known("SELECT set_config('a.b', 'x', $1)").sets == ("a.b",)


def test_the_language_of_a_body_is_no_body() -> None:
    found = known("DO $$BEGIN SET a.b = 1; END$$ LANGUAGE plpgsql")
    assert found.sets == ("a.b",)
    assert known("DO LANGUAGE 'set a.b = 1' 'x'").sets == ()


def test_a_kind_of_set_that_is_not_known_may_do_anything() -> None:
    chain: list[tuple[str, dict[str, object]]] = [("VariableSetStmt", {"kind": "VAR_NEW"})]
    assert effects_of(chain, ConfigCalls(), False, False) is OPAQUE
