"""
What the classifier says, against what servers do.

A statement that a standby refuses must not be called a read, and one that leaves something in the
session after its transaction must be said to. The other way round is not a mistake: caution.
"""

from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.sql.classify import PgClassifier

# read_only_sql_transaction, object_not_in_prerequisite_state, feature_not_supported,
# no_active_sql_transaction: what a standby answers to what it cannot do.
REFUSALS = {"25006", "55000", "0A000", "25P01"}

SET_UP = """
CREATE SCHEMA classify;
CREATE TABLE classify.t (a int PRIMARY KEY, b text);
INSERT INTO classify.t VALUES (1, 'x'), (2, 'y');
CREATE SEQUENCE classify.s;
CREATE TYPE classify.pair AS (a int, b text);
CREATE FUNCTION classify.writes() RETURNS int LANGUAGE sql VOLATILE
    AS 'INSERT INTO classify.t SELECT max(a) + 1 FROM classify.t RETURNING a';
CREATE FUNCTION classify.lies() RETURNS bigint LANGUAGE plpgsql IMMUTABLE
    AS $$BEGIN RETURN nextval('classify.s'); END$$;
CREATE FUNCTION classify.settles() RETURNS text LANGUAGE sql
    AS $$SELECT set_config('classify.x', '1', false)$$;
CREATE PROCEDURE classify.changes() LANGUAGE sql AS $$SELECT set_config('classify.x', '1', false)$$;
"""

# Everything of a session that can outlive a transaction and be asked for.
STATE = """
SELECT (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
       (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relnamespace =
           pg_my_temp_schema()),
       (SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema()),
       (SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()),
       (SELECT count(*) FROM pg_listening_channels()),
       (SELECT array_agg(name) FROM pg_prepared_statements WHERE from_sql),
       (SELECT array_agg(name) FROM pg_cursors),
       NULLIF(current_setting('classify.x', true), ''),
       (SELECT array_agg(name || '=' || setting ORDER BY name) FROM pg_settings
           WHERE name NOT LIKE 'transaction%' AND name NOT LIKE 'classify.%'),
       current_user, session_user
"""

STATEMENTS = """
SELECT * FROM classify.t
SELECT * FROM classify.t FOR UPDATE
SELECT * FROM classify.t FOR SHARE
SELECT * FROM classify.t FOR KEY SHARE
SELECT * FROM (SELECT * FROM classify.t FOR NO KEY UPDATE) x
SELECT 1 INTO classify.u
SELECT 1 INTO TEMP u
SELECT 1 INTO TEMP u UNION SELECT 2
TABLE classify.t
VALUES (1)
VALUES (nextval('classify.s'))
SELECT nextval('classify.s')
SELECT setval('classify.s', 5)
SELECT ('classify.s'::regclass).nextval
SELECT * FROM nextval('classify.s')
SELECT 1 WHERE nextval('classify.s') > 0
SELECT 1 ORDER BY nextval('classify.s')
SELECT 1 LIMIT nextval('classify.s')
SELECT (SELECT nextval('classify.s'))
SELECT lower(nextval('classify.s')::text)
SELECT COALESCE(NULL, nextval('classify.s'))
SELECT CASE WHEN nextval('classify.s') > 0 THEN 1 END
SELECT "nextval"('classify.s')
SELECT U&"nextv\\0061l"('classify.s')
SELECT PG_CATALOG . NEXTVAL ( 'classify.s' )
SELECT/**/nextval/**/('classify.s')
SELECT classify.writes()
SELECT classify.lies()
EXPLAIN SELECT classify.lies()
EXPLAIN ANALYZE SELECT classify.lies()
EXPLAIN DELETE FROM classify.t
EXPLAIN ANALYZE DELETE FROM classify.t
EXPLAIN (ANALYZE) DELETE FROM classify.t
EXPLAIN (ANALYZE 1) DELETE FROM classify.t
EXPLAIN (ANALYZE 0) DELETE FROM classify.t
EXPLAIN (ANALYZE off) DELETE FROM classify.t
EXPLAIN (ANALYZE 'ON') DELETE FROM classify.t
EXPLAIN (ANALYZE off, ANALYZE on) DELETE FROM classify.t
EXPLAIN CREATE TABLE classify.u AS SELECT 1
EXPLAIN ANALYZE CREATE TABLE classify.u AS SELECT 1
WITH x AS (DELETE FROM classify.t RETURNING *) SELECT * FROM x
WITH x AS (SELECT 1) SELECT * FROM x, classify.t
WITH x AS (SELECT nextval('classify.s')) SELECT * FROM x
INSERT INTO classify.t VALUES (9)
UPDATE classify.t SET b = 'z'
DELETE FROM classify.t
MERGE INTO classify.t USING (SELECT 1 AS q) s ON t.a = s.q WHEN MATCHED THEN DELETE
TRUNCATE classify.t
LOCK TABLE classify.t IN EXCLUSIVE MODE
LOCK TABLE classify.t IN ACCESS SHARE MODE
COPY classify.t TO STDOUT
COPY (SELECT * FROM classify.t) TO STDOUT
COPY (SELECT nextval('classify.s')) TO STDOUT
COPY (DELETE FROM classify.t RETURNING a) TO STDOUT
PREPARE p AS SELECT 1
PREPARE p AS DELETE FROM classify.t
DECLARE c CURSOR FOR SELECT 1
DECLARE c CURSOR WITH HOLD FOR SELECT 1
CREATE TABLE classify.u (a int)
CREATE TEMP TABLE u (a int)
CREATE TABLE pg_temp.u (a int)
CREATE TEMP VIEW u AS SELECT 1
CREATE TEMP SEQUENCE u
CREATE TYPE pg_temp.u AS ENUM ('a')
CREATE FUNCTION pg_temp.u() RETURNS int LANGUAGE sql AS 'SELECT 1'
CREATE VIEW classify.v AS SELECT nextval('classify.s')
DROP TABLE classify.t
ALTER TABLE classify.t ADD COLUMN c int
COMMENT ON TABLE classify.t IS 'x'
GRANT SELECT ON classify.t TO public
ANALYZE classify.t
REFRESH MATERIALIZED VIEW classify.m
DO $$ BEGIN PERFORM set_config('classify.x', '1', false); END $$
DO $$ BEGIN PERFORM pg_advisory_lock(1); END $$
CALL classify.changes()
SELECT classify.settles()
SELECT set_config('classify.x', '1', false)
SELECT set_config('classify.x', '1', true)
SELECT pg_catalog.set_config('work_mem', '1MB', false)
UPDATE pg_settings SET setting = '1MB' WHERE name = 'work_mem'
SET work_mem = '1MB'
SET LOCAL work_mem = '1MB'
SET classify.x = '1'
SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ
SET ROLE pg_monitor
SET SESSION AUTHORIZATION pg_monitor
SET TIME ZONE 'Asia/Tokyo'
SET NAMES 'LATIN1'
RESET work_mem
SHOW work_mem
SHOW ALL
LISTEN classify
UNLISTEN *
NOTIFY classify
SELECT pg_notify('classify', 'x')
SELECT pg_advisory_lock(1)
SELECT pg_advisory_lock_shared(1)
SELECT pg_try_advisory_lock(1)
SELECT pg_advisory_xact_lock(1)
SELECT pg_try_advisory_xact_lock(1)
SELECT (1::bigint).pg_advisory_lock
SELECT (1::bigint).pg_try_advisory_lock FROM classify.t
SELECT a FROM classify.t WHERE pg_try_advisory_lock(a)
SELECT txid_current()
SELECT pg_current_xact_id()
SELECT lo_create(0)
SELECT lo_from_bytea(0, 'x')
SELECT now(), current_user, version(), pg_backend_pid()
SELECT random(), gen_random_uuid(), clock_timestamp()
SELECT count(*), sum(a), string_agg(b, ',' ORDER BY a) FROM classify.t
SELECT row_number() OVER (ORDER BY a) FROM classify.t
SELECT table_to_xml('classify.t', true, true, '')
SELECT query_to_xml('SELECT nextval(''classify.s'')', true, true, '')
SELECT * FROM ts_stat('SELECT to_tsvector(b) FROM classify.t')
SELECT pg_export_snapshot()
SELECT pg_logical_emit_message(true, 'a', 'b')
SELECT setseed(0.5)
SELECT has_table_privilege('classify.t', 'SELECT'), to_regclass('classify.t')
SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace LIMIT 1
SELECT * FROM information_schema.tables LIMIT 1
SELECT * FROM pg_stat_activity LIMIT 1
SELECT * FROM json_table('[1]', '$[*]' COLUMNS (a int PATH '$')) x
SELECT * FROM xmltable('/a' PASSING '<a/>'::xml COLUMNS b text PATH '@b') x
SELECT * FROM classify.t TABLESAMPLE system (50)
DISCARD PLANS
DISCARD SEQUENCES
CHECKPOINT
"""
CORPUS = [line for line in STATEMENTS.splitlines() if line]


@pytest.fixture(scope="module")
def on_primary(primary: EmbeddedPostgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(primary.dsn(), autocommit=True, prepare_threshold=None) as connection:
        connection.execute("DROP SCHEMA IF EXISTS classify CASCADE")
        connection.execute(SET_UP)
        yield connection
        connection.execute("DROP SCHEMA classify CASCADE")


@pytest.fixture(scope="module")
def on_standby(
    on_primary: psycopg.Connection, standby: EmbeddedStandby
) -> Iterator[psycopg.Connection]:
    standby.wait_until_caught_up()
    with psycopg.connect(standby.dsn(), autocommit=True, prepare_threshold=None) as connection:
        yield connection


def sqlstate_of(connection: psycopg.Connection, text: str) -> str:
    """Run a text as a client would, copying out what is to be copied; "" when it went well."""
    result = connection.pgconn.exec_(text.encode())
    if result.status == psycopg.pq.ExecStatus.COPY_OUT:
        while connection.pgconn.get_copy_data(0)[0] > 0:
            pass
        result = connection.pgconn.get_result() or result
    state = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    return state.decode() if state is not None else ""


def state_of(connection: psycopg.Connection) -> object:
    return connection.execute(STATE).fetchone()


def clean(connection: psycopg.Connection) -> None:
    for text in ("ROLLBACK", "RESET SESSION AUTHORIZATION", "RESET ALL", "DISCARD ALL"):
        assert sqlstate_of(connection, text) == "", text


def check_read(connection: psycopg.Connection, text: str) -> None:
    facts = PgClassifier().facts(text.encode())
    state = sqlstate_of(connection, text)
    sqlstate_of(connection, "ROLLBACK")
    assert not (state in REFUSALS and facts.is_read_only), (state, text)


def check_state(connection: psycopg.Connection, before: object, text: str) -> None:
    facts = PgClassifier().facts(text.encode())
    sqlstate_of(connection, "BEGIN")
    sqlstate_of(connection, text)
    # As classified, so used: what is not said to leave anything may be committed. The rest too.
    sqlstate_of(connection, "COMMIT")
    after = state_of(connection)
    clean(connection)
    assert facts.leaves_state or after == before, text


@pytest.mark.parametrize("text", CORPUS)
def test_a_read_is_what_a_standby_runs(on_standby: psycopg.Connection, text: str) -> None:
    check_read(on_standby, text)
    clean(on_standby)


@pytest.fixture(scope="module")
def clean_state(on_primary: psycopg.Connection) -> object:
    clean(on_primary)
    return state_of(on_primary)


@pytest.mark.parametrize("text", CORPUS)
def test_what_stays_in_the_session_is_said(
    on_primary: psycopg.Connection, clean_state: object, text: str
) -> None:
    try:
        check_state(on_primary, clean_state, text)
    finally:
        sqlstate_of(on_primary, "DROP SCHEMA IF EXISTS classify CASCADE")
        on_primary.execute(SET_UP)


def test_the_corpus_does_both(on_standby: psycopg.Connection) -> None:
    classifier = PgClassifier()
    reads = [text for text in CORPUS if classifier.facts(text.encode()).is_read_only]
    refused = 0
    for text in CORPUS:
        refused += sqlstate_of(on_standby, text) in REFUSALS
        clean(on_standby)
    assert refused > 50
    assert len(reads) > 15
    for text in reads:
        assert sqlstate_of(on_standby, text) == "", text


EXPRESSIONS = st.recursive(
    st.sampled_from(
        ["1", "'x'", "NULL", "a", "t.a", "nextval('classify.s')", "classify.settles()", "now()",
         "set_config('classify.x', '1', false)", "pg_try_advisory_lock(7)", "random()",
         "(7::bigint).pg_try_advisory_lock", "pg_catalog.pg_try_advisory_lock_shared(7)"]
    ),
    lambda inner: st.one_of(
        inner.map(lambda e: f"({e})::text"),
        inner.map(lambda e: f"COALESCE(NULL, ({e})::text)"),
        inner.map(lambda e: f"lower(({e})::text)"),
        inner.map(lambda e: f"CASE WHEN ({e}) IS NOT NULL THEN 1 END"),
        inner.map(lambda e: f"(SELECT ({e})::text)"),
        inner.map(lambda e: f"ARRAY[({e})::text]"),
        inner.map(lambda e: f"EXISTS (SELECT 1 WHERE ({e}) IS NOT NULL)"),
        st.tuples(inner, inner).map(lambda e: f"ROW({e[0]}, {e[1]})"),
    ),
    max_leaves=3,
)  # fmt: skip
QUERIES = st.tuples(
    st.sampled_from(
        ["SELECT {} FROM classify.t", "SELECT {1} FROM classify.t WHERE ({0}) IS NOT NULL",
         "SELECT 1 FROM classify.t ORDER BY {}", "SELECT count({}) FROM classify.t",
         "SELECT {} FROM classify.t FOR UPDATE", "EXPLAIN ANALYZE SELECT {} FROM classify.t",
         "EXPLAIN SELECT {} FROM classify.t", "WITH q AS (SELECT {} AS z FROM classify.t) TABLE q",
         "SELECT max(x) FROM (SELECT ({})::text AS x FROM classify.t) y",
         "COPY (SELECT {} FROM classify.t) TO STDOUT", "INSERT INTO classify.t SELECT {}",
         "SELECT DISTINCT ON ({0}) {1} FROM classify.t", "SELECT 1 UNION ALL SELECT 2 FROM "
         "classify.t WHERE ({}) IS NOT NULL", "SELECT {} INTO TEMP u FROM classify.t"]
    ),
    EXPRESSIONS,
    EXPRESSIONS,
).map(lambda parts: parts[0].format(parts[1], parts[2]))  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(QUERIES)
def test_random_reads(on_standby: psycopg.Connection, text: str) -> None:
    check_read(on_standby, text)
    sqlstate_of(on_standby, "SELECT pg_advisory_unlock_all()")
    sqlstate_of(on_standby, "RESET ALL")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(QUERIES)
def test_random_state(on_primary: psycopg.Connection, clean_state: object, text: str) -> None:
    check_state(on_primary, clean_state, text)
