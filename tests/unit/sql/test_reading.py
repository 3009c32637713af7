"""What statements are: one table for all facts, and what each rule rests on."""

import pytest

from proxy.sql.analyse import analyse
from proxy.sql.reading import read
from proxy.sql.statement import (
    CONTROL_BEGIN,
    CONTROL_COMMIT,
    CONTROL_NONE,
    CONTROL_RELEASE,
    CONTROL_ROLLBACK,
    CONTROL_ROLLBACK_TO,
    CONTROL_SAVEPOINT,
    PREPARED_DEALLOCATE,
    PREPARED_DISCARD_ALL,
    PREPARED_EXECUTE,
    PREPARED_NONE,
    PREPARED_PREPARE,
    StatementFacts,
    TextFacts,
)

READ, WRITE = True, False
LEAVES, CLEAN = True, False


def facts_of(text: str) -> TextFacts:
    return analyse(text.encode(), 65_536).facts


def one(text: str) -> StatementFacts:
    (facts,) = facts_of(text).statements
    return facts


# text, kind, read or write, tables, what it leaves
STATEMENTS = [
    # plain reads
    ("SELECT 1", "select", READ, "", CLEAN),
    ("select * from orders", "select", READ, "orders", CLEAN),
    ("SELECT * FROM Public.Orders o", "select", READ, "public.orders", CLEAN),
    ('SELECT * FROM "Public"."Orders"', "select", READ, "Public.Orders", CLEAN),
    ('SELECT * FROM "a.b"', "select", READ, '"a.b"', CLEAN),
    ("SELECT * FROM db.s.t", "select", READ, "db.s.t", CLEAN),
    ("TABLE t", "select", READ, "t", CLEAN),
    ("VALUES (1), (2)", "select", READ, "", CLEAN),
    ("(SELECT 1) UNION ALL (SELECT a FROM t) ORDER BY 1", "select", READ, "t", CLEAN),
    ("SELECT count(*), lower(a) FROM t GROUP BY 2 HAVING max(b) > 1", "select", READ, "t", CLEAN),
    ("SELECT pg_catalog.lower(a) FROM t", "select", READ, "t", CLEAN),
    ("SELECT row_number() OVER (PARTITION BY a ORDER BY b) FROM t", "select", READ, "t", CLEAN),
    ("SELECT now(), current_user, current_date", "select", READ, "", CLEAN),
    ('SELECT a::mood, b COLLATE "C", extract(year FROM c) FROM t', "select", READ, "t", CLEAN),
    ("SELECT (SELECT a FROM s WHERE s.x = t.x) FROM t", "select", READ, "s t", CLEAN),
    ("SELECT * FROM t TABLESAMPLE bernoulli (10)", "select", READ, "t", CLEAN),
    ("SELECT * FROM generate_series(1, 2) g", "select", READ, "", CLEAN),
    ("SELECT * FROM json_table('{}', '$' COLUMNS (a int)) j", "select", READ, "", CLEAN),
    ("SELECT a OPERATOR(pg_catalog.+) 1 FROM t", "select", READ, "t", CLEAN),
    ("SELECT current_setting('a')", "select", READ, "", CLEAN),
    ("SELECT (information_schema._pg_expandarray(a)).n FROM t", "select", READ, "t", CLEAN),
    ("SHOW search_path", "utility", READ, "", CLEAN),
    ("SHOW TRANSACTION ISOLATION LEVEL", "utility", READ, "", CLEAN),
    ("COPY t TO STDOUT", "copy", READ, "t", CLEAN),
    ("COPY s.t (a) TO STDOUT WITH (FORMAT csv)", "copy", READ, "s.t", CLEAN),
    ("COPY (SELECT a FROM t) TO STDOUT", "select", READ, "t", CLEAN),
    ("EXPLAIN SELECT * FROM t", "explain", READ, "t", CLEAN),
    ("EXPLAIN DELETE FROM t", "explain", READ, "t", CLEAN),
    ("EXPLAIN (ANALYZE off) DELETE FROM t", "explain", READ, "t", CLEAN),
    ("EXPLAIN (ANALYZE false) DELETE FROM t", "explain", READ, "t", CLEAN),
    ("EXPLAIN ANALYZE SELECT * FROM t", "select", READ, "t", CLEAN),
    ("EXPLAIN (ANALYZE, BUFFERS, FORMAT json) SELECT 1", "select", READ, "", CLEAN),
    # SELECTs that are not reads
    ("SELECT * FROM t FOR UPDATE", "select", WRITE, "t", CLEAN),
    ("SELECT * FROM t x FOR NO KEY UPDATE OF x", "select", WRITE, "t", CLEAN),
    ("SELECT * FROM t FOR SHARE", "select", WRITE, "t", CLEAN),
    ("SELECT * FROM t FOR KEY SHARE NOWAIT", "select", WRITE, "t", CLEAN),
    ("SELECT * FROM (SELECT * FROM t FOR UPDATE SKIP LOCKED) x", "select", WRITE, "t", CLEAN),
    ("SELECT 1 INTO t", "ddl", WRITE, "t", CLEAN),
    ("SELECT 1 INTO t UNION SELECT 2", "ddl", WRITE, "t", CLEAN),
    ("SELECT 1 INTO TEMP t", "ddl", WRITE, "t", LEAVES),
    ("SELECT nextval('s')", "select", WRITE, "", CLEAN),
    ("SELECT setval('s', 1)", "select", WRITE, "", CLEAN),
    ("SELECT currval('s'), lastval()", "select", WRITE, "", CLEAN),
    ("SELECT random()", "select", WRITE, "", CLEAN),
    ("SELECT pg_notify('a', 'b')", "select", WRITE, "", CLEAN),
    ("SELECT txid_current()", "select", WRITE, "", CLEAN),
    ("SELECT pg_current_xact_id()", "select", WRITE, "", CLEAN),
    ("SELECT lo_unlink(1)", "select", WRITE, "", CLEAN),
    ("SELECT pg_is_in_recovery()", "select", READ, "", CLEAN),
    ("SELECT pg_switch_wal()", "select", WRITE, "", CLEAN),
    ("SELECT pg_advisory_xact_lock(1)", "select", WRITE, "", CLEAN),
    ("SELECT pg_advisory_lock(1)", "select", WRITE, "", LEAVES),
    ("SELECT pg_catalog.pg_try_advisory_lock_shared(1)", "select", WRITE, "", LEAVES),
    ("SELECT pg_advisory_unlock_all()", "select", WRITE, "", LEAVES),
    ("SELECT set_config('a.b', 'c', true)", "select", WRITE, "", CLEAN),
    ("SELECT set_config('a.b', 'c', false)", "select", WRITE, "", LEAVES),
    ("SELECT setseed(0.5)", "select", WRITE, "", LEAVES),
    ("SELECT dblink('a', 'b')", "select", WRITE, "", LEAVES),
    ("SELECT my_function(a) FROM t", "select", WRITE, "t", LEAVES),
    ("SELECT public.lower(a) FROM t", "select", WRITE, "t", LEAVES),
    ("SELECT query_to_xml('DELETE FROM t', true, true, '')", "select", WRITE, "", LEAVES),
    ("SELECT table_to_xml('t', true, true, '')", "select", WRITE, "", CLEAN),
    ("SELECT * FROM pg_temp.t", "select", WRITE, "pg_temp.t", LEAVES),
    ("SELECT * FROM pg_temp_3.t", "select", WRITE, "pg_temp_3.t", LEAVES),
    ("SELECT pg_temp.f()", "select", WRITE, "", LEAVES),
    ("SELECT a OPERATOR(public.+) 1 FROM t", "select", WRITE, "t", LEAVES),
    ("SELECT * FROM t TABLESAMPLE mine (1)", "select", WRITE, "t", LEAVES),
    ("SELECT (1::bigint).pg_advisory_lock", "select", WRITE, "", LEAVES),
    ("SELECT t.pg_restore_relation_stats FROM t", "select", WRITE, "t", LEAVES),
    ("SHOW transaction_read_only", "utility", WRITE, "", CLEAN),
    ("SHOW ALL", "utility", WRITE, "", CLEAN),
    # writes inside of other things
    ("WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x", "delete", WRITE, "t", CLEAN),
    ("WITH x AS (UPDATE t SET a = 1 RETURNING *) SELECT 1", "update", WRITE, "t", CLEAN),
    ("WITH x AS (INSERT INTO t VALUES (1) RETURNING *) TABLE x", "insert", WRITE, "t", CLEAN),
    ("WITH x AS (DELETE FROM a) INSERT INTO b VALUES (1)", "delete", WRITE, "a b", CLEAN),
    ("EXPLAIN ANALYZE DELETE FROM t", "delete", WRITE, "t", CLEAN),
    ("EXPLAIN (VERBOSE, ANALYZE) DELETE FROM t", "delete", WRITE, "t", CLEAN),
    ("EXPLAIN (ANALYZE on) DELETE FROM t", "delete", WRITE, "t", CLEAN),
    ("EXPLAIN (ANALYZE 1) DELETE FROM t", "delete", WRITE, "t", CLEAN),
    ("EXPLAIN (ANALYZE off, ANALYZE) DELETE FROM t", "delete", WRITE, "t", CLEAN),
    ("explain analyse select my_function()", "select", WRITE, "", LEAVES),
    ("EXPLAIN SELECT my_function()", "explain", WRITE, "", LEAVES),
    ("EXPLAIN ANALYZE CREATE TABLE t AS SELECT 1", "ddl", WRITE, "t", CLEAN),
    ("PREPARE x AS DELETE FROM t", "delete", WRITE, "t", LEAVES),
    ("PREPARE x (int) AS SELECT * FROM t WHERE a = $1", "select", WRITE, "t", LEAVES),
    ("COPY (DELETE FROM t RETURNING *) TO STDOUT", "delete", WRITE, "t", CLEAN),
    ("COPY (SELECT nextval('s')) TO STDOUT", "select", WRITE, "", CLEAN),
    ("COPY t FROM STDIN", "copy", WRITE, "t", CLEAN),
    ("COPY t TO '/tmp/x'", "copy", WRITE, "t", CLEAN),
    ("COPY t TO PROGRAM 'cat'", "copy", WRITE, "t", CLEAN),
    ("COPY (SELECT 1) TO PROGRAM 'cat'", "select", WRITE, "", CLEAN),
    ("DECLARE c CURSOR FOR SELECT * FROM t", "select", WRITE, "t", CLEAN),
    ("DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t", "select", WRITE, "t", LEAVES),
    # rows
    ("INSERT INTO s.t VALUES (1)", "insert", WRITE, "s.t", CLEAN),
    ("INSERT INTO t SELECT * FROM u", "insert", WRITE, "t u", CLEAN),
    ("INSERT INTO t VALUES (my_uuid())", "insert", WRITE, "t", LEAVES),
    ("UPDATE t SET a = lower(b) FROM u", "update", WRITE, "t u", CLEAN),
    ("DELETE FROM t USING u WHERE t.a = u.a", "delete", WRITE, "t u", CLEAN),
    ("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", "merge", WRITE, "s t", CLEAN),
    ("UPDATE pg_settings SET setting = 'x'", "update", WRITE, "pg_settings", LEAVES),
    ("TRUNCATE a, s.b", "ddl", WRITE, "a s.b", CLEAN),
    # definitions
    ("CREATE TABLE s.t (a int REFERENCES u)", "ddl", WRITE, "s.t u", CLEAN),
    ("CREATE TEMP TABLE t (a int)", "ddl", WRITE, "t", LEAVES),
    ("CREATE TEMPORARY VIEW v AS SELECT * FROM t", "ddl", WRITE, "t v", LEAVES),
    ("CREATE TEMP SEQUENCE s", "ddl", WRITE, "s", LEAVES),
    ("CREATE TABLE pg_temp.t (a int)", "ddl", WRITE, "pg_temp.t", LEAVES),
    ("CREATE TYPE pg_temp.m AS ENUM ('a')", "ddl", WRITE, "", LEAVES),
    ("CREATE TEMP TABLE t AS SELECT 1", "ddl", WRITE, "t", LEAVES),
    ("CREATE TABLE t AS SELECT * FROM u", "ddl", WRITE, "t u", CLEAN),
    ("CREATE VIEW v AS SELECT f(a) FROM t", "ddl", WRITE, "t v", CLEAN),
    ("CREATE UNLOGGED TABLE t (a int)", "ddl", WRITE, "t", CLEAN),
    ("CREATE INDEX i ON t (a)", "ddl", WRITE, "t", CLEAN),
    ("CREATE EXTENSION hstore", "ddl", WRITE, "", LEAVES),
    (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM t'",
        "ddl",
        WRITE,
        "",
        CLEAN,
    ),
    (
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC DELETE FROM t; SELECT g(); END",
        "ddl",
        WRITE,
        "t",
        CLEAN,
    ),
    ("CREATE RULE r AS ON INSERT TO t DO INSTEAD DELETE FROM u", "ddl", WRITE, "t u", CLEAN),
    ("ALTER TABLE s.t ADD COLUMN b int", "ddl", WRITE, "s.t", CLEAN),
    ("ALTER TABLE a RENAME TO b", "ddl", WRITE, "a", CLEAN),
    ("DROP TABLE a, s.b CASCADE", "ddl", WRITE, "a s.b", CLEAN),
    ("DROP VIEW v", "ddl", WRITE, "v", CLEAN),
    ("DROP INDEX s.i", "ddl", WRITE, "s.i", CLEAN),
    ("DROP TRIGGER x ON s.t", "ddl", WRITE, "s.t", CLEAN),
    ("DROP FUNCTION f(int)", "ddl", WRITE, "", CLEAN),
    ("COMMENT ON TABLE s.t IS 'x'", "ddl", WRITE, "s.t", CLEAN),
    ("COMMENT ON COLUMN s.t.a IS 'x'", "ddl", WRITE, "s.t", CLEAN),
    ("GRANT SELECT ON t TO u", "ddl", WRITE, "t", CLEAN),
    ("REFRESH MATERIALIZED VIEW v", "ddl", WRITE, "v", CLEAN),
    ("ALTER SYSTEM SET a = 1", "ddl", WRITE, "", CLEAN),
    # session and the rest
    ("SET a = 1", "set", WRITE, "", LEAVES),
    ("SET SESSION a TO 'x'", "set", WRITE, "", LEAVES),
    ("SET LOCAL a = 1", "set", WRITE, "", CLEAN),
    ("SET ROLE x", "set", WRITE, "", LEAVES),
    ("SET LOCAL ROLE x", "set", WRITE, "", CLEAN),
    ("SET SESSION AUTHORIZATION x", "set", WRITE, "", LEAVES),
    ("SET TIME ZONE 'UTC'", "set", WRITE, "", LEAVES),
    ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "set", WRITE, "", CLEAN),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "set", WRITE, "", LEAVES),
    ("SET CONSTRAINTS ALL DEFERRED", "set", WRITE, "", CLEAN),
    ("RESET a", "set", WRITE, "", LEAVES),
    ("RESET ALL", "set", WRITE, "", LEAVES),
    ("DISCARD PLANS", "utility", WRITE, "", LEAVES),
    ("LISTEN a", "listen", WRITE, "", LEAVES),
    ("UNLISTEN *", "listen", WRITE, "", LEAVES),
    ("NOTIFY a, 'b'", "notify", WRITE, "", CLEAN),
    ("LOAD 'x'", "utility", WRITE, "", LEAVES),
    ("LOCK TABLE t IN SHARE MODE", "lock", WRITE, "t", CLEAN),
    ("CALL p(1)", "call", WRITE, "", LEAVES),
    ("DO $$ BEGIN DELETE FROM t; END $$", "do", WRITE, "", LEAVES),
    ("FETCH 5 FROM c", "fetch", WRITE, "", CLEAN),
    ("MOVE NEXT FROM c", "fetch", WRITE, "", CLEAN),
    ("CLOSE c", "utility", WRITE, "", CLEAN),
    ("VACUUM t", "utility", WRITE, "t", CLEAN),
    ("ANALYZE s.t (a)", "utility", WRITE, "s.t", CLEAN),
    ("CHECKPOINT", "utility", WRITE, "", CLEAN),
]


@pytest.mark.parametrize(("text", "kind", "reads", "tables", "leaves"), STATEMENTS)
def test_statement(text: str, kind: str, reads: bool, tables: str, leaves: bool) -> None:
    facts = one(text)
    assert (facts.kind, facts.is_read_only, facts.tables, facts.leaves_state) == (
        kind,
        reads,
        tuple(tables.split()),
        leaves,
    )
    assert facts.kind in facts.kinds
    assert facts.control == CONTROL_NONE


@pytest.mark.parametrize(
    ("text", "control"),
    [
        ("BEGIN", CONTROL_BEGIN),
        ("begin read only", CONTROL_BEGIN),
        ("START TRANSACTION ISOLATION LEVEL SERIALIZABLE", CONTROL_BEGIN),
        ("COMMIT", CONTROL_COMMIT),
        ("END", CONTROL_COMMIT),
        ("COMMIT AND CHAIN", CONTROL_COMMIT),
        ("PREPARE TRANSACTION 'x'", CONTROL_COMMIT),
        ("ROLLBACK", CONTROL_ROLLBACK),
        ("ABORT", CONTROL_ROLLBACK),
        ("SAVEPOINT a", CONTROL_SAVEPOINT),
        ("ROLLBACK TO SAVEPOINT a", CONTROL_ROLLBACK_TO),
        ("RELEASE a", CONTROL_RELEASE),
        ("COMMIT PREPARED 'x'", CONTROL_NONE),
        ("ROLLBACK PREPARED 'x'", CONTROL_NONE),
    ],
)
def test_transaction_control(text: str, control: int) -> None:
    facts = one(text)
    assert (facts.kind, facts.control) == ("transaction", control)
    assert not facts.is_read_only
    assert not facts.leaves_state


@pytest.mark.parametrize(
    ("text", "prepared", "name"),
    [
        ("PREPARE x AS SELECT 1", PREPARED_PREPARE, "x"),
        ('PREPARE "X y" AS SELECT 1', PREPARED_PREPARE, "X y"),
        ("EXECUTE x(1, 'a')", PREPARED_EXECUTE, "x"),
        ("EXPLAIN ANALYZE EXECUTE x", PREPARED_EXECUTE, "x"),
        ("EXPLAIN EXECUTE x", PREPARED_EXECUTE, "x"),
        ("CREATE TABLE t AS EXECUTE x", PREPARED_EXECUTE, "x"),
        ("DEALLOCATE PREPARE x", PREPARED_DEALLOCATE, "x"),
        ("DEALLOCATE ALL", PREPARED_DEALLOCATE, ""),
        ('DEALLOCATE "all"', PREPARED_DEALLOCATE, "all"),
        ("DISCARD ALL", PREPARED_DISCARD_ALL, ""),
        ("DISCARD TEMP", PREPARED_NONE, ""),
        ("SELECT 1", PREPARED_NONE, ""),
    ],
)
def test_prepared_statement_commands(text: str, prepared: int, name: str) -> None:
    facts = one(text)
    assert (facts.prepared, facts.prepared_name) == (prepared, name)
    if prepared != PREPARED_NONE:
        assert facts.leaves_state
        assert not facts.is_read_only
        assert not facts_of(text).is_plain


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("SELECT 1", "select"),
        ("EXPLAIN DELETE FROM t", "explain"),
        ("EXPLAIN ANALYZE DELETE FROM t", "delete explain"),
        ("PREPARE x AS UPDATE t SET a = 1", "prepare update"),
        ("COPY (INSERT INTO t VALUES (1) RETURNING a) TO STDOUT", "copy insert"),
        ("DECLARE c CURSOR FOR SELECT 1", "declare select"),
        ("WITH x AS (DELETE FROM a) INSERT INTO b VALUES (1)", "delete insert"),
        ("WITH x AS (DELETE FROM a), y AS (UPDATE b SET c = 1) SELECT 1", "delete select update"),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1", "insert update"),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", "insert"),
        ("MERGE INTO t USING s ON a = b WHEN MATCHED THEN DELETE", "delete merge"),
        ("MERGE INTO t USING s ON a = b WHEN MATCHED THEN DO NOTHING", "merge"),
        (
            "MERGE INTO t USING s ON a = b WHEN MATCHED THEN UPDATE SET a = 1 "
            "WHEN NOT MATCHED THEN INSERT VALUES (1)",
            "insert merge update",
        ),
        ("SELECT 1 INTO t", "ddl select"),
        ("CREATE TABLE t AS WITH x AS (DELETE FROM u RETURNING a) TABLE x", "ddl delete"),
        ("CREATE RULE r AS ON INSERT TO t DO INSTEAD DELETE FROM u", "ddl"),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC DELETE FROM t; END", "ddl"),
    ],
)
def test_kinds_hold_everything_that_a_statement_does(text: str, kinds: str) -> None:
    assert one(text).kinds == tuple(kinds.split())


def test_a_statement_that_the_tables_do_not_know_is_not_read() -> None:
    assert read({"NewStmt": {}}) is None
    assert read({"PrepareStmt": {"query": {"NewStmt": {}}}}) is None


def test_a_part_of_the_grammar_that_the_tables_do_not_know_makes_a_write() -> None:
    reading = read({"SelectStmt": {"targetList": [{"NewExpr": {}}]}})
    assert reading is not None
    assert not reading.is_read_only


def test_sums_of_several_statements() -> None:
    facts = facts_of("SELECT 1; SELECT 2")
    assert facts.is_read_only
    assert not facts.is_plain
    facts = facts_of("SELECT 1; DROP TABLE t")
    assert [item.kind for item in facts.statements] == ["select", "ddl"]
    assert not facts.is_read_only
    facts = facts_of("BEGIN; SELECT 1; COMMIT")
    assert facts.has_control
    assert not facts.is_read_only
    assert facts_of("SELECT 1").is_plain


def test_a_column_without_its_table_names_none() -> None:
    assert one("COMMENT ON COLUMN c IS 'x'").tables == ()
    assert one("COMMENT ON COLUMN t.c IS 'x'").tables == ("t",)
