"""PostgreSQL's own tools, straight at the server and through the proxy: psql, pgbench, pg_dump."""

import functools
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.cluster import EmbeddedPostgres
from tests.drivers.conftest import Places
from tests.drivers.toolchains import Runnable
from tests.support import system
from tests.support.system import wait_until

pytestmark = pytest.mark.drivers

# What psql prints must be the same to the byte, so nothing here depends on time or process ids.
COMMON_SCRIPT = r"""
\set VERBOSITY verbose
\set SHOW_CONTEXT never
SELECT current_user, 1 AS one, NULL AS none, 'Žluťoučký 🐘 日本語' AS text;
CREATE TABLE numbers (n int PRIMARY KEY, t text);
\copy numbers FROM pstdin WITH (DELIMITER ',')
1,one
2,two
3,three
\.
\copy (SELECT * FROM numbers ORDER BY n) TO pstdout WITH (FORMAT csv, HEADER)
COPY numbers (n) FROM STDIN;
4
not a number
\.
SELECT count(*) FROM numbers;
BEGIN;
INSERT INTO numbers VALUES (4, 'four');
SAVEPOINT here;
SELECT 1 / 0;
SELECT 'not reached';
ROLLBACK TO here;
SELECT count(*) FROM numbers;
COMMIT;
SELECT 1; SELECT 2; SELECT 1 / 0; SELECT 4;
SELECT 1 \; SELECT 2 \; SELECT 3;
SELECT $1::int + $2::int AS sum \bind 40 2 \g
SELECT n FROM numbers WHERE t = $1 \bind two \g
SELECT $1::text \bind \g
\gdesc
SELECT n, t FROM numbers \gdesc
SELECT 'numbers' AS name \gset
\echo :name
SELECT format('SELECT %s AS made', n) FROM numbers ORDER BY n \gexec
\set FETCH_COUNT 2
SELECT n FROM numbers ORDER BY n;
\unset FETCH_COUNT
PREPARE by_number (int) AS SELECT t FROM numbers WHERE n = $1;
EXECUTE by_number (2);
EXECUTE by_number (3);
DEALLOCATE by_number;
EXECUTE by_number (2);
SET application_name = 'psql through it';
SHOW application_name;
SET LOCAL work_mem = '1MB';
DO $$ BEGIN RAISE NOTICE 'a notice'; RAISE WARNING 'a warning'; END $$;
LISTEN tools_channel;
UNLISTEN tools_channel;
DECLARE outside CURSOR FOR SELECT 1;
CREATE TEMPORARY TABLE mine (n int);
INSERT INTO mine SELECT generate_series(1, 3) RETURNING n;
SELECT count(*) FROM mine;
DROP TABLE mine;
\d numbers
\dt
\encoding
SELECT length(repeat('x', 5000000));
"""

PIPELINE_SCRIPT = r"""
\startpipeline
SELECT $1::int \bind 1 \sendpipeline
SELECT $1::int \bind 2 \sendpipeline
\syncpipeline
SELECT 1 / $1::int \bind 0 \sendpipeline
SELECT 'skipped' \bind \sendpipeline
\syncpipeline
SELECT 'after' \bind \sendpipeline
\flushrequest
\getresults
\endpipeline
SELECT n FROM generate_series(1, 3) AS n \parse kept
\bind_named kept \g
\close_prepared kept
\bind_named kept \g
"""


@pytest.fixture(params=["psql 18", "psql 15"])
def psql(request: pytest.FixtureRequest, places: Places) -> Iterator[str]:
    """psql of PostgreSQL 18, and Debian's."""
    if request.param == "psql 18":
        yield str(places.server.bin_dir / "psql")
        return
    path = system.DEBIAN_BIN_DIR / "psql"
    if not path.exists():
        pytest.skip(f"there is no {path}: apt install postgresql-client")
    yield str(path)


def all_ports(places: Places) -> list[int]:
    """The server, the proxy in transaction mode, the proxy in session mode."""
    return [places.server.port, places.transaction.port, places.session.port]


def psql_command(psql: str) -> Runnable:
    return Runnable([psql, "-X", "-a", "-v", "ON_ERROR_STOP=0", "-P", "pager=off"])


def test_psql_prints_the_same(psql: str, places: Places) -> None:
    outputs = []
    for port in all_ports(places):
        done = places.run(psql_command(psql), port, places.new_database(), text=COMMON_SCRIPT)
        outputs.append((done.stdout, done.stderr))
    assert "one,two" not in outputs[0][0]
    assert "22012" in outputs[0][1]
    assert outputs[1] == outputs[0]
    assert outputs[2] == outputs[0]


def test_psql_18_pipelines_print_the_same(places: Places) -> None:
    outputs = []
    for port in all_ports(places):
        command = psql_command(str(places.server.bin_dir / "psql"))
        done = places.run(command, port, places.new_database(), text=PIPELINE_SCRIPT)
        outputs.append((done.stdout, done.stderr))
    assert "after" in outputs[0][0]
    assert outputs[1] == outputs[0]
    assert outputs[2] == outputs[0]


def test_psql_is_cancelled_by_sigint(psql: str, places: Places) -> None:
    for port in all_ports(places):
        database = places.new_database()
        process = subprocess.Popen(
            [psql, "-X", "-v", "VERBOSITY=verbose", "-c", "SELECT pg_sleep(60)"],
            env=places.environment(port, database),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(
            functools.partial(_sleeps, places.server, database), what="psql's statement runs"
        )
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
        assert "ERROR:  57014: canceling statement due to user request" in error


def _sleeps(server: EmbeddedPostgres, database: str) -> bool:
    sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%pg_sleep%%'"
    return bool(server.execute(sql + " AND state = 'active'", [database])[0][0])


# -- pgbench


@pytest.fixture(scope="module")
def bench_database(places: Places) -> str:
    """A database with pgbench's tables."""
    name = places.new_database()
    command = Runnable([str(places.server.bin_dir / "pgbench"), "-i", "-q", "-s", "2"])
    places.run(command, places.server.port, name)
    return name


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
@pytest.mark.parametrize("options", [["-c", "8"], ["-c", "64", "-S"], ["-c", "4", "-C"]])
def test_pgbench_runs_without_an_error(
    mode: str, options: list[str], places: Places, bench_database: str
) -> None:
    sums = "SELECT sum(abalance), (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts"
    pgbench = str(places.server.bin_dir / "pgbench")
    command = Runnable([pgbench, "-n", "-M", mode, "-j", "2", "-T", "4", *options])
    done = places.run(command, places.transaction.port, bench_database)
    assert "number of failed transactions: 0 (0.000%)" in done.stdout
    processed = re.search(r"actually processed: (\d+)", done.stdout)
    assert processed is not None
    assert int(processed[1]) > 0
    assert done.stderr == "" or "error" not in done.stderr
    accounts, history = places.server.execute(sums, dbname=bench_database)[0]
    assert accounts == (history or 0)


PIPELINE_BENCH = r"""
\set n random(1, 200000)
\startpipeline
SELECT abalance FROM pgbench_accounts WHERE aid = :n;
UPDATE pgbench_accounts SET abalance = abalance WHERE aid = :n;
SELECT abalance FROM pgbench_accounts WHERE aid = :n;
\endpipeline
"""


@pytest.mark.parametrize("mode", ["extended", "prepared"])
def test_pgbench_pipelines_run_without_an_error(
    mode: str, places: Places, bench_database: str, tmp_path: Path
) -> None:
    script = tmp_path / "pipeline.sql"
    script.write_text(PIPELINE_BENCH)
    options = ["-n", "-M", mode, "-j", "2", "-T", "4", "-c", "8", "-f", str(script)]
    command = Runnable([str(places.server.bin_dir / "pgbench"), *options])
    done = places.run(command, places.transaction.port, bench_database)
    assert "number of failed transactions: 0 (0.000%)" in done.stdout


# -- pg_dump and pg_restore


DUMPED_SCRIPT = r"""
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, mood mood);
INSERT INTO people (name, mood) SELECT 'Žofie ' || n, 'ok' FROM generate_series(1, 5000) AS n;
CREATE VIEW happy AS SELECT name FROM people WHERE mood = 'ok';
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT 2 * n';
CREATE INDEX people_name ON people (name);
CREATE TABLE blobs AS SELECT repeat('x', 3000000) AS big FROM generate_series(1, 3);
SELECT lo_from_bytea(4711, '\x001122');
"""


@pytest.fixture(scope="module")
def dumped_database(places: Places) -> str:
    """A database with a little of everything."""
    name = places.new_database()
    psql = Runnable([str(places.server.bin_dir / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1"])
    places.run(psql, places.server.port, name, text=DUMPED_SCRIPT)
    return name


def dump(places: Places, port: int, database: str) -> str:
    """A plain dump, without the line that is random."""
    done = places.run(Runnable([str(places.server.bin_dir / "pg_dump")]), port, database)
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


def test_pg_dump_is_the_same(places: Places, dumped_database: str) -> None:
    direct, *proxied = (dump(places, port, dumped_database) for port in all_ports(places))
    assert "CREATE VIEW public.happy" in direct
    assert proxied == [direct, direct]


@pytest.mark.parametrize("is_session", [False, True], ids=["transaction", "session"])
def test_pg_restore_restores_everything(
    is_session: bool, places: Places, dumped_database: str, tmp_path: Path
) -> None:
    port = (places.session if is_session else places.transaction).port
    directory = tmp_path / "dump"
    bin_dir = places.server.bin_dir
    made = [str(bin_dir / "pg_dump"), "-Fd", "-j", "2", "-f", str(directory)]
    places.run(Runnable(made), port, dumped_database)
    target = places.new_database()
    restored = [str(bin_dir / "pg_restore"), "-j", "2", "-d", target, str(directory)]
    places.run(Runnable(restored), port, target)
    shutil.rmtree(directory)
    server = places.server.port
    assert dump(places, server, target) == dump(places, server, dumped_database)
