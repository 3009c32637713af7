"""Relations and WITH queries, functions in every clause, functions written like fields."""

import msgspec
import pytest
from pglast.parser import parse_sql_json

from proxy.sql.walk import Findings, Scope, is_query_name, walk, written_name


def found_in(text: str) -> Findings:
    (statement,) = msgspec.json.decode(parse_sql_json(text))["stmts"]
    return walk(statement["stmt"])


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("WITH a AS (SELECT 1) SELECT * FROM a", ""),
        ("WITH a AS (SELECT 1) SELECT * FROM s.a", "s.a"),
        # Without RECURSIVE its own name inside is the table's, and so is a later query's.
        ("WITH a AS (SELECT * FROM a) SELECT * FROM a", "a"),
        ("WITH RECURSIVE a AS (SELECT * FROM a) SELECT * FROM a", ""),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", "b"),
        ("WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b", ""),
        ("WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b", ""),
        # A name is visible in its own statement only.
        ("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) x, a", "a"),
        ("WITH a AS (SELECT 1) SELECT * FROM t WHERE x IN (SELECT y FROM a, u)", "t u"),
        ("WITH a AS (SELECT 1) SELECT 1 UNION SELECT * FROM a", ""),
        ("(WITH a AS (SELECT 1) TABLE a) UNION TABLE a", "a"),
        # A target is never a WITH query.
        ("WITH t AS (SELECT 1) DELETE FROM t", "t"),
        ("WITH t AS (SELECT 1) INSERT INTO t SELECT * FROM t", "t"),
        ("WITH t AS (SELECT 1) UPDATE t SET a = 1", "t"),
        ("WITH s AS (SELECT 1) MERGE INTO s USING s x ON true WHEN MATCHED THEN DELETE", "s"),
        ("WITH t AS (SELECT 1) SELECT * INTO t FROM t", "t"),
        ("SELECT * FROM t x FOR UPDATE OF x", "t"),
        ("SELECT * FROM a JOIN b USING (c) LEFT JOIN LATERAL (SELECT * FROM d) e ON true", "a b d"),
        ("SELECT * FROM ONLY a, ROWS FROM (f(1)) g", "a"),
        ("SELECT CASE WHEN EXISTS (SELECT 1 FROM a) THEN ARRAY(SELECT 1 FROM b) END", "a b"),
        ("SELECT 1 ORDER BY (SELECT 1 FROM a) LIMIT (SELECT 1 FROM b)", "a b"),
        ("INSERT INTO t VALUES ((SELECT 1 FROM a)) ON CONFLICT DO NOTHING", "a t"),
        ("UPDATE t SET (a, b) = (SELECT 1, 2 FROM u) RETURNING (SELECT 1 FROM v)", "t u v"),
    ],
)
def test_tables(text: str, tables: str) -> None:
    assert found_in(text).tables == set(tables.split())


@pytest.mark.parametrize(
    "text",
    [
        "SELECT f()",
        "SELECT a FROM t WHERE f()",
        "SELECT a FROM t GROUP BY f()",
        "SELECT a FROM t GROUP BY ROLLUP (f())",
        "SELECT 1 HAVING f()",
        "SELECT 1 ORDER BY f()",
        "SELECT 1 LIMIT f()",
        "SELECT 1 OFFSET f()",
        "SELECT DISTINCT ON (f()) 1",
        "SELECT * FROM f()",
        "SELECT * FROM ROWS FROM (f())",
        "SELECT * FROM a JOIN b ON f()",
        "SELECT * FROM LATERAL (SELECT f()) x",
        "SELECT * FROM t TABLESAMPLE system (f())",
        "SELECT * FROM t TABLESAMPLE system (1) REPEATABLE (f())",
        "SELECT sum(f()) FROM t",
        "SELECT sum(a) FILTER (WHERE f()) FROM t",
        "SELECT sum(a ORDER BY f()) FROM t",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY f()) FROM t",
        "SELECT sum(a) OVER (PARTITION BY f()) FROM t",
        "SELECT sum(a) OVER (ORDER BY a ROWS f() PRECEDING) FROM t",
        "SELECT 1 FROM t WINDOW w AS (ORDER BY f())",
        "SELECT CASE f() WHEN 1 THEN 2 END",
        "SELECT CASE WHEN true THEN f() ELSE 1 END",
        "SELECT COALESCE(1, f()), GREATEST(1, 2)",
        "SELECT NULLIF(1, f())",
        "SELECT ARRAY[f()]",
        "SELECT (ARRAY[1])[f()]",
        "SELECT ROW(f())",
        "SELECT (f()).length",
        "SELECT f()::int",
        "SELECT f() IS NULL, f() IS TRUE",
        "SELECT a IN (1, f()) FROM t",
        "SELECT a BETWEEN 1 AND f() FROM t",
        "SELECT a LIKE f() FROM t",
        'SELECT f() COLLATE "C"',
        "SELECT f() AT TIME ZONE 'UTC'",
        "SELECT -f(), NOT f()",
        "SELECT lower(x => f())",
        "SELECT concat(VARIADIC f())",
        "SELECT 1 = ANY (f())",
        "SELECT 1 = ANY (SELECT f())",
        "VALUES (f())",
        "SELECT 1 UNION SELECT f()",
        "WITH x AS (SELECT f()) SELECT 1",
        "SELECT xmlelement(name a, f())",
        "SELECT xmlforest(f() AS a)",
        "SELECT * FROM xmltable('a' PASSING f() COLUMNS c int PATH 'd' DEFAULT 1)",
        "SELECT * FROM xmltable('a' PASSING b COLUMNS c int PATH 'd' DEFAULT f())",
        "SELECT * FROM json_table(f(), '$' COLUMNS (a int))",
        "SELECT * FROM json_table('{}', '$' COLUMNS (a int DEFAULT f() ON EMPTY))",
        "SELECT json_value('{}', '$' PASSING f() AS x)",
        "SELECT json_value('{}', '$' DEFAULT f() ON ERROR)",
        "SELECT json_object('a': f())",
        "SELECT json_array(f())",
        "SELECT json_array(SELECT f())",
        "SELECT json_objectagg('a': f())",
        "SELECT f(f(1))",
        "SELECT lower(f())",
        "EXPLAIN ANALYZE SELECT f()",
        "COPY (SELECT f()) TO STDOUT",
        "INSERT INTO t VALUES (f())",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = f()",
        "UPDATE t SET a = f()",
        "UPDATE t SET a[f()] = 1",
        "DELETE FROM t WHERE f()",
        "DELETE FROM t RETURNING f()",
        "MERGE INTO t USING s ON f() WHEN MATCHED THEN DELETE",
        "MERGE INTO t USING s ON true WHEN MATCHED AND f() THEN DELETE",
        "CREATE TABLE t AS SELECT f()",
        "CREATE INDEX i ON t ((f(a)))",
        "EXECUTE x (f())",
        'SELECT U&"\\0066"()',
        'SELECT "f"()',
        "SELECT /* x */ f /* y */ ()",
    ],
)
def test_a_function_of_the_users_is_found_in_every_clause(text: str) -> None:
    found = found_in(text)
    assert found.has_unknown_calls
    assert not found.has_only_plain_calls
    builtin = found_in(text.replace("f()", "pg_backend_pid()"))
    if "f()" in text:
        assert not builtin.has_unknown_calls
        volatile = found_in(text.replace("f()", "nextval('s')"))
        assert not volatile.has_only_plain_calls
        assert not volatile.has_unknown_calls


def test_functions_written_like_fields() -> None:
    assert found_in("SELECT ('1'::bigint).pg_advisory_lock").has_unknown_calls
    assert not found_in("SELECT (a).pg_sleep FROM t").has_only_plain_calls
    assert found_in("SELECT (a).price FROM t").has_unknown_calls
    assert found_in("SELECT (a).length FROM t").has_only_plain_calls
    assert found_in("SELECT (a).* FROM t").has_only_plain_calls
    assert found_in("SELECT t.price FROM t").has_only_plain_calls
    assert found_in("SELECT s.t.pg_restore_attribute_stats FROM s.t").has_unknown_calls


def test_temporary_things() -> None:
    assert found_in("SELECT * FROM pg_temp.t").has_temporary
    assert found_in('SELECT * FROM "pg_temp_12".t').has_temporary
    assert found_in("SELECT 1::pg_temp.mytype").has_temporary
    assert found_in("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS ''").has_temporary
    assert found_in("DROP TABLE pg_temp.t").has_temporary
    assert not found_in("SELECT * FROM temp_orders").has_temporary
    assert not found_in("SELECT 'pg_temp.t'").has_temporary


def test_only_one_name_can_hide_another() -> None:
    outer = Scope({"a": 0}, 1, None)
    inner = Scope({"b": 0, "c": 1}, 1, outer)
    assert is_query_name(inner, "a")
    assert is_query_name(inner, "b")
    assert not is_query_name(inner, "c")
    assert not is_query_name(None, "a")


def test_written_name_is_never_ambiguous() -> None:
    assert written_name(["a", "b"]) == "a.b"
    assert written_name(["a.b"]) == '"a.b"'
    assert written_name(['a"b', "c"]) == '"a""b".c'


def test_a_part_of_a_with_clause_that_is_not_known_makes_a_write() -> None:
    for strange, reads in ((False, True), (True, False)):
        clause: dict[str, object] = {"ctes": []}
        if strange:
            clause["strange"] = 1
        assert walk({"SelectStmt": {"withClause": clause}}).has_only_read_keys == reads
