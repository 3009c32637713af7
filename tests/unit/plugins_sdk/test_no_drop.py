"""no-drop: every hiding place, and everything harmless that looks like one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.plugins_sdk.guest import Guest, envelope, inspection

GUEST = Guest("no-drop")
OPAQUE = "DROP, TRUNCATE, DELETE or UPDATE in a text that cannot be looked into"


def judge(sql: str | bytes, guest: Guest = GUEST, *, unknown: bool = False) -> str:
    """The reason of the block, "" if it passes."""
    answer = guest.run("pre_query", envelope(inspection(sql, unknown=unknown)))
    if answer is None:
        return ""
    assert answer["action"] == "block"
    return str(answer["value"])


def raw(query: str, kind: str, tables: tuple[str, ...] = ()) -> str:
    """As `judge`, for what the classifier says of its own will."""
    payload = {"query": query, "tables": list(tables), "kind": kind}
    answer = GUEST.run("pre_query", json.dumps(payload, separators=(",", ":")).encode())
    return "" if answer is None else str(answer["value"])


BLOCKED = [
    "DROP TABLE orders",
    "drop table orders",
    "dRoP tAbLe orders",
    "  \n\t DROP TABLE orders",
    "/* x */ DROP TABLE orders",
    "/* a /* nested */ b */DROP/**/TABLE orders",
    "-- comment\nDROP TABLE orders",
    "-- comment\rDROP TABLE orders",
    "DROP SCHEMA public CASCADE",
    "DROP DATABASE shop",
    "DROP OWNED BY alice",
    "DROP VIEW IF EXISTS v",
    "DROP FUNCTION f(int)",
    "TRUNCATE orders",
    "truncate table only orders restart identity",
    "DELETE FROM orders",
    "DELETE FROM ONLY orders",
    "DELETE FROM public.orders AS o",
    "DELETE FROM orders USING customers",
    "DELETE FROM orders RETURNING *",
    'DELETE FROM "where"',
    "DELETE FROM orders -- WHERE id = 1",
    "DELETE FROM orders /* WHERE id = 1 */",
    "DELETE FROM orders RETURNING 'WHERE'",
    "DELETE FROM orders RETURNING (SELECT 1 WHERE true)",
    "DELETE FROM orders RETURNING id AS where",
    'DELETE FROM orders RETURNING id AS "WHERE"',
    "DELETE FROM orders USING (SELECT 1 AS x WHERE true) AS u",
    "UPDATE orders SET quantity = 0",
    "UPDATE ONLY orders SET quantity = 0",
    "UPDATE ONLY (orders) SET quantity = 0",
    "UPDATE orders * SET quantity = 0",
    "UPDATE orders AS o SET quantity = 0",
    'UPDATE "orders" o SET quantity = 0',
    "UPDATE shop.public.orders SET quantity = (SELECT 1 WHERE true)",
    "UPDATE orders SET quantity = CASE WHEN true THEN 1 ELSE 2 END",
    "UPDATE orders SET (quantity, id) = (SELECT 1, 2 WHERE true)",
    "UPDATE orders SET quantity = count FROM (SELECT count(*) FILTER (WHERE true)) AS c",
    "WITH x AS (DELETE FROM orders RETURNING *) SELECT * FROM x WHERE id = 1",
    "WITH x AS (UPDATE orders SET quantity = 0 RETURNING *) SELECT * FROM x WHERE id = 1",
    "WITH x AS (UPDATE orders AS o SET quantity = 0 RETURNING *) SELECT 1 WHERE true",
    "WITH x AS (SELECT 1), y AS (DELETE FROM orders) SELECT 1 WHERE true",
    "WITH x AS (SELECT 1 WHERE true) DELETE FROM orders",
    "WITH x AS (SELECT 1 WHERE true) UPDATE orders SET quantity = 0",
    "WITH x AS MATERIALIZED (DELETE FROM orders RETURNING 1) INSERT INTO t SELECT * FROM x",
    "WITH x AS (UPDATE U&\"ord!0065rs\" UESCAPE '!' SET id = 0 RETURNING 1) SELECT 1 WHERE true",
    "EXPLAIN DELETE FROM orders",
    "EXPLAIN ANALYZE DELETE FROM orders",
    "EXPLAIN (ANALYZE, VERBOSE) UPDATE orders SET quantity = 0",
    "PREPARE p AS DELETE FROM orders",
    "PREPARE p (int) AS UPDATE orders SET quantity = $1",
    "COPY (DELETE FROM orders RETURNING *) TO STDOUT",
    "CREATE RULE r AS ON INSERT TO t WHERE new.id > 1 DO ALSO DELETE FROM orders",
    "CREATE RULE r AS ON INSERT TO t DO INSTEAD (SELECT 1 WHERE true; DELETE FROM orders)",
    "CREATE RULE r AS ON INSERT TO t DO (DELETE FROM orders; SELECT 1 WHERE true)",
    "CREATE RULE r AS ON UPDATE TO t DO INSTEAD UPDATE orders SET quantity = 0",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql BEGIN ATOMIC DELETE FROM orders; END",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM orders; "
    "SELECT 1 WHERE true; END",
]

BLOCKED_CODE = [
    "DO $$ BEGIN DROP TABLE orders; END $$",
    "DO $do$ BEGIN IF true THEN TRUNCATE orders; END IF; END $do$",
    "DO LANGUAGE plpgsql $$ BEGIN DELETE FROM orders; END $$",
    "DO 'BEGIN DROP TABLE orders; END'",
    "DO E'BEGIN D\\x52OP TABLE orders; END'",
    "DO E'BEGIN \\104ROP TABLE orders; END'",
    "DO E'BEGIN \\u0044ROP TABLE orders; END'",
    "DO 'BEGIN DR'\n'OP TABLE orders; END'",
    "DO 'BEGIN DR' -- x\n -- y\n 'OP TABLE orders; END'",
    "DO $$ BEGIN LOOP DROP TABLE orders; END LOOP; END $$",
    "DO $$ BEGIN IF a THEN NULL; ELSE DROP TABLE orders; END IF; END $$",
    "DO $$ <<here>> DROP TABLE orders $$",
    "DO $$ BEGIN EXECUTE 'DROP TABLE orders'; END $$",
    "DO $$ BEGIN EXECUTE 'SELECT 1; DROP TABLE orders'; END $$",
    "DO $$ BEGIN EXECUTE format('DELETE FROM %I', 'orders'); END $$",
    "DO $$ BEGIN EXECUTE 'DELETE FROM ' || name; END $$",
    "DO $$ BEGIN EXECUTE 'UPDATE ' || name || ' SET id = 0'; END $$",
    "DO $$ BEGIN EXECUTE 'DELETE' || ' FROM orders'; END $$",
    "DO $$ BEGIN EXECUTE 'DROP' || ' TABLE orders'; END $$",
    "DO $$ BEGIN EXECUTE $q$DROP TABLE orders$q$; END $$",
    "DO $o$ BEGIN EXECUTE $q$DO $r$BEGIN EXECUTE 'DROP TABLE orders'; END$r$$q$; END $o$",
    "DO $$ BEGIN PERFORM run('DROP TABLE orders'); END $$",
    "DO $$ BEGIN FOR r IN DELETE FROM orders RETURNING * LOOP "
    "PERFORM 1 WHERE true; END LOOP; END $$",
    "DO $$ BEGIN OPEN c FOR UPDATE orders SET id = 0 RETURNING *; END $$",
    "DO $$ DECLARE where int; BEGIN DELETE FROM orders RETURNING id INTO where; END $$",
    "DO $$ DECLARE where int; BEGIN DELETE FROM orders RETURNING id INTO STRICT where; END $$",
    "DO $$ BEGIN RETURN QUERY DELETE FROM orders RETURNING *; PERFORM 1 WHERE true; END $$",
    "DO $$ BEGIN INSERT INTO t SELECT 1 WHERE true; UPDATE orders SET id = 0; END $$",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'DROP TABLE orders'",
    "CREATE OR REPLACE FUNCTION f() RETURNS void AS $$ SELECT 1; DELETE FROM orders $$ LANGUAGE sql",
    "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN TRUNCATE orders; COMMIT; END $$",
    "create or replace procedure p() as $x$begin update orders set id = 0; end$x$ language plpgsql",
]

OPAQUE_CODE = [
    "DO LANGUAGE plpython3u $$ plpy.execute('DROP TABLE orders') $$",
    'DO $$ plpy.execute("delete from orders where id = 1") $$ LANGUAGE plpython3u',
    "DO $$ spi_exec_query('truncate orders') $$ LANGUAGE 'plperl'",
    'DO $$ x = "update" $$ LANGUAGE "plv8"',
    "CREATE FUNCTION f() RETURNS void AS $$ it's unbalanced; drop $$ LANGUAGE plpython3u",
    "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS U&'\\0044ROP TABLE orders'",
    "DO $a$ it's; DROP TABLE orders $a$",
]

HARMLESS = [
    "SELECT 1",
    "SELECT 'drop table orders'",
    "SELECT 'it''s; DROP TABLE orders; --'",
    "SELECT E'it\\'s; DROP TABLE orders; --'",
    "SELECT E'a'\n'b\\'; DROP TABLE orders; --'",
    "SELECT $$; DROP TABLE orders; $$",
    "SELECT $a$; $b$ DROP TABLE orders; $a$",
    'SELECT 1 AS "; DROP TABLE orders; --"',
    'SELECT "drop" FROM "delete" WHERE "update" = \'truncate\'',
    "SELECT U&'; DROP TABLE orders'",
    "SELECT 1 -- ; DROP TABLE orders",
    "SELECT 1 /* ; DROP TABLE orders; */",
    "SELECT 1 /* /* */ ; DROP TABLE orders */",
    "SELECT drop, truncate FROM t",
    "SELECT delete FROM t",
    "SELECT a, delete FROM t",
    "SELECT t.delete FROM t",
    "SELECT update FROM t",
    "SELECT dropped, updated_at, deleted FROM t",
    "SELECT * FROM orders FOR UPDATE",
    "SELECT * FROM orders FOR NO KEY UPDATE OF orders SKIP LOCKED",
    "SELECT * FROM orders o FOR UPDATE NOWAIT",
    "INSERT INTO orders VALUES (1) ON CONFLICT (id) DO UPDATE SET quantity = 1",
    "INSERT INTO orders VALUES (1, 'delete from orders')",
    "MERGE INTO orders o USING t ON o.id = t.id WHEN MATCHED THEN DELETE",
    "MERGE INTO orders o USING t ON o.id = t.id WHEN MATCHED THEN UPDATE SET quantity = 1",
    "DELETE FROM orders WHERE id = 1",
    "DELETE FROM orders USING t WHERE t.id = orders.id RETURNING *",
    "DELETE FROM orders WHERE CURRENT OF c",
    "delete/**/from orders\nwhere id = 1",
    "UPDATE orders SET quantity = 1 WHERE id = 1",
    "UPDATE orders SET quantity = CASE WHEN true THEN 1 ELSE 2 END WHERE id = 1",
    "UPDATE orders SET quantity = (SELECT max(id) FROM t) FROM t WHERE t.id = orders.id",
    "WITH x AS (DELETE FROM orders WHERE id = 1 RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM orders WHERE id = 1 RETURNING *), y AS "
    "(UPDATE t SET a = 1 WHERE id = 2) SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM orders WHERE id = 1",
    "PREPARE p AS DELETE FROM orders WHERE id = $1",
    "GRANT DELETE, UPDATE, TRUNCATE ON orders TO bob",
    "REVOKE DELETE ON orders FROM bob",
    "CREATE TABLE t (a int REFERENCES b ON DELETE CASCADE ON UPDATE SET NULL)",
    "CREATE TABLE t (a int REFERENCES b ON UPDATE CASCADE ON DELETE SET NULL)",
    "CREATE TRIGGER g BEFORE UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE TRIGGER g BEFORE TRUNCATE ON t EXECUTE FUNCTION f()",
    "CREATE TRIGGER g AFTER UPDATE OF a, b ON t FOR EACH ROW EXECUTE FUNCTION f()",
    "CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING",
    "CREATE RULE r AS ON DELETE TO t DO INSTEAD DELETE FROM orders WHERE id = old.id",
    "CREATE POLICY p ON t FOR UPDATE USING (true)",
    "ALTER TABLE t DROP COLUMN a",
    "ALTER TABLE t ALTER COLUMN a DROP NOT NULL",
    "COMMENT ON TABLE t IS 'do not drop'",
    "COPY t FROM STDIN",
    "COPY (SELECT 'DROP TABLE t') TO STDOUT",
    "DO $$ BEGIN DELETE FROM orders WHERE id = 1; END $$",
    "DO $$ BEGIN RAISE NOTICE 'update of % failed', 1; END $$",
    "DO $$ BEGIN RAISE 'delete from somewhere else'; END $$",
    "DO $$ BEGIN EXECUTE 'DELETE FROM orders WHERE id = 1'; END $$",
    "DO $$ BEGIN FOR r IN DELETE FROM orders WHERE true RETURNING * LOOP END LOOP; END $$",
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
    "IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' THEN RETURN old; END IF; RETURN new; END $$",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC DELETE FROM t WHERE a = 1; END",
    "CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'lib', 'sym'",
    "CREATE FUNCTION f() RETURNS int AS $$ return dropped $$ LANGUAGE plpython3u",
    "SET application_name = 'drop table t'",
    "BEGIN",
    "LISTEN updates",
]


@pytest.mark.parametrize("sql", BLOCKED + BLOCKED_CODE)
def test_blocked(sql: str) -> None:
    reason = judge(sql)
    assert reason.endswith("is not allowed")


@pytest.mark.parametrize("sql", OPAQUE_CODE)
def test_code_that_cannot_be_looked_into(sql: str) -> None:
    assert judge(sql) == OPAQUE


@pytest.mark.parametrize("sql", HARMLESS)
def test_harmless(sql: str) -> None:
    assert judge(sql) == ""


def test_reasons() -> None:
    assert judge("DROP TABLE t") == "DROP is not allowed"
    assert judge("TRUNCATE t") == "TRUNCATE is not allowed"
    assert judge("DELETE FROM t") == "DELETE without WHERE is not allowed"
    assert judge("UPDATE t SET a = 1") == "UPDATE without WHERE is not allowed"


@pytest.mark.parametrize("word", ["DROP", "truncate", "Delete", "UPDATE"])
def test_unknown_texts_are_blocked_on_any_word(word: str) -> None:
    assert judge(f"SELECT 'a\\'; {word} x", unknown=True) == OPAQUE
    assert judge(f"{word}", unknown=True) == OPAQUE
    assert judge(f"x{word} {word}_ {word}1 $é{word}", unknown=True) == ""
    assert judge("SELECT 'nothing of it'", unknown=True) == ""


def test_what_the_grammar_sees_and_the_scan_does_not_is_blocked() -> None:
    assert raw("SELECT 1 /* update */", "update") == OPAQUE
    assert raw("SELECT 1 /* update */", "select") == ""
    assert raw("SELECT 'open", "select") == ""
    assert raw("SELECT 'open drop", "select") == OPAQUE
    assert raw("SELECT 1 /* open drop", "select") == OPAQUE
    assert raw('SELECT "open drop', "select") == OPAQUE
    assert raw("SELECT $a$ open drop", "select") == OPAQUE


def test_an_envelope_without_query_or_kind_is_not_trusted() -> None:
    for payload in (b"{}", b"[]", b"", b'{"query":"DROP TABLE t"}'):
        assert GUEST.run("pre_query", payload)["value"] == OPAQUE


def test_several_statements_in_one_text() -> None:
    assert raw("SELECT 1; DROP TABLE t", "ddl") == "DROP is not allowed"
    assert raw("DELETE FROM t; SELECT 1 WHERE true", "delete") == (
        "DELETE without WHERE is not allowed"
    )


def test_texts_within_texts_end_somewhere() -> None:
    sql = "DROP TABLE t"
    for level in range(12):
        sql = f"DO $q{level}$ {sql} $q{level}$"
    assert raw(sql, "do") == OPAQUE


def test_deep_parentheses() -> None:
    text = "SELECT " + "(" * 3000 + "1" + ")" * 3000 + " -- drop"
    assert raw(text, "select") == ""
    many = "WITH " + ", ".join(f"x{n} AS {'(' * n}DELETE FROM t" for n in range(1, 70))
    assert raw(many, "delete") == OPAQUE


# --- guarded tables ------------------------------------------------------------------------------


def guarded(*tables: str) -> Guest:
    guest = Guest("no-drop", {"tables": list(tables)})
    assert guest.init_answer is None
    return guest


def test_only_the_tables_that_are_named() -> None:
    guest = guarded("orders", "audit.log")
    for sql in (
        "DROP TABLE orders",
        "DROP TABLE public.orders",
        "DROP TABLE other, orders",
        "DELETE FROM orders",
        "DELETE FROM audit.log",
        "TRUNCATE log",
        "UPDATE orders SET a = 1",
        "DROP SCHEMA public",
        "DROP FUNCTION f()",
        "DO $$ BEGIN DELETE FROM other; END $$",
    ):
        assert judge(sql, guest) != "", sql
    for sql in (
        "DROP TABLE other",
        "DELETE FROM borders",
        "DELETE FROM public.log",
        "TRUNCATE other",
        "UPDATE other SET a = 1",
        "DELETE FROM orders WHERE id = 1",
    ):
        assert judge(sql, guest) == "", sql


def test_a_statement_without_a_guarded_table_does_not_clear_the_next() -> None:
    guest = guarded("orders")
    sql = "WITH x AS (DELETE FROM other) DELETE FROM orders"
    assert judge(sql, guest) != ""


@pytest.mark.parametrize(
    "config",
    [
        {"tables": "orders"},
        {"tables": [1]},
        {"tables": [""]},
        {"tables": ["t"] * 65},
        {"tables": ["t" * 5000, "u" * 5000]},
    ],
)
def test_a_wrong_configuration_refuses_the_load(config: dict[str, object]) -> None:
    answer = Guest("no-drop", config).init_answer
    assert answer["action"] == "block"
    assert answer["value"].startswith("config: tables ")


# --- properties ---------------------------------------------------------------------------------

_blank = st.sampled_from(
    [" ", "\n", "\t", " /* x */ ", "/*/**/*/", " -- '\n", " --\r\n", "/*'\"$$*/"]
)
_noise = st.sampled_from(
    ["'where'", "$$where$$", '"where"', "(SELECT 1 WHERE true)", "E'\\'where'", "U&'where'"]
)
_dml = st.tuples(
    st.sampled_from(["DELETE FROM t", "UPDATE t SET a = 1", "UPDATE ONLY s.t AS x SET a = 1"]),
    st.booleans(),
    _noise,
).map(lambda found: (f"{found[0]}{' WHERE b > 1' * found[1]} RETURNING {found[2]}", found[1]))


@given(
    ctes=st.lists(_dml, max_size=3), main=_dml, blanks=st.lists(_blank, min_size=1, max_size=9),
    wrapper=st.sampled_from(["{}", "EXPLAIN ANALYZE {}", "PREPARE p AS {}", "COPY ({}) TO STDOUT"]),
)  # fmt: skip
def test_each_statement_needs_a_where_of_its_own(
    ctes: list[tuple[str, bool]], main: tuple[str, bool], blanks: list[str], wrapper: str
) -> None:
    parts = [f"x{n} AS ({sql})" for n, (sql, _) in enumerate(ctes)]
    sql = wrapper.format(("WITH " + ", ".join(parts) + " " if parts else "") + main[0])
    for number, word in enumerate(("RETURNING", "AS", "WITH", "SET")):
        blank = blanks[number % len(blanks)]
        sql = sql.replace(f" {word} ", f" {blank}{word}{blank} ")
    found = inspection(sql)
    assert found.facts.kind in ("update", "delete")
    is_fine = main[1] and all(has_where for _, has_where in ctes)
    assert (judge(sql) == "") is is_fine


@given(st.text(max_size=80), st.sampled_from(["drop table t", "delete from t", "update t set a=1"]))
def test_quoted_texts_are_never_statements(text: str, statement: str) -> None:
    inside = (text + statement).replace("\0", "").encode("utf-8", "replace").decode()
    literal = inside.replace("'", "''")
    assert raw(f"SELECT '{literal}', 1", "select") == ""
    name = inside.replace('"', '""')
    assert raw(f'SELECT 1 AS "{name}"', "select") == ""


@given(st.text(alphabet="$'\"\\/*-;(){} \nabEeUu&drop1ø", max_size=120))
def test_any_text_ends_within_the_fuel(text: str) -> None:
    raw(text + " drop", "select")
    raw("DO " + text, "do")


def test_a_point_select_is_cheap() -> None:
    assert judge("SELECT abalance FROM pgbench_accounts WHERE aid = 12345") == ""
    # An instruction is one unit of fuel; a thousand of them take well below a microsecond.
    assert GUEST.fuel_used < 2_000


def test_a_text_of_the_whole_input_limit_stays_within_the_fuel() -> None:
    rows = ", ".join("('update drop delete')" for _ in range(1_150))
    assert judge(f"INSERT INTO t VALUES {rows}") == ""
    assert GUEST.fuel_used < 4_000_000
