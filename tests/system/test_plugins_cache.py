"""
cache_get and cache_set over the proxy's own result cache, before a real server.

That an answer did not come from the server is seen by changing the table behind the proxy's back.
"""

from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from tests.support.rule_plugin import Rules, Spy, put_rules
from tests.support.system import ProxyFactory, RunningProxy, wait_until

Client = psycopg.Connection[tuple[Any, ...]]
SIMPLE = "simple"
EXTENDED = "extended"
both = pytest.mark.parametrize("protocol", [SIMPLE, EXTENDED])

COUNT = "SELECT count(*) FROM cached"
CACHE_GET: Rules = [
    ("no_cache", {"action": "miss"}),
    ("own_rows", {"action": "hit", "data": {"columns": [{"name": "own"}], "rows": [["hers"]]}}),
    ('"application_name":"impatient"', {"action": "key", "key": "k", "max_age_ms": 1}),
    ("FROM", {"action": "key", "key": "k", "max_age_ms": 60000}),
]
CACHE_SET: Rules = [
    ("not_kept", {"action": "skip"}),
    ("FROM", {"action": "store", "ttl_ms": 60000}),
]


@pytest.fixture
def table(primary: EmbeddedPostgres) -> EmbeddedPostgres:
    primary.execute("DROP TABLE IF EXISTS cached, other; CREATE TABLE cached (a int);"
                    "CREATE TABLE other (a int); INSERT INTO cached VALUES (1)")  # fmt: skip
    return primary


def start(proxy: ProxyFactory, **more: Any) -> tuple[RunningProxy, Spy]:
    # One node: what is read does not depend on how far a standby is.
    running = proxy(
        start=False,
        plugins=more.pop("plugins", {}),
        database=[{"name": "*", "nodes": ["pg1"]}],
        **more,
    )
    put_rules(
        running,
        "cache",
        {"cache_get": CACHE_GET, "cache_set": CACHE_SET, "post_query": ()},
        ("cache.read", "cache.write", "query.answer"),
    )
    running.start()
    return running, Spy(running, "cache")


def ask(client: Client, sql: str, protocol: str = SIMPLE, *parameters: Any) -> Any:
    row = client.execute(
        sql, parameters or None, binary=protocol == EXTENDED, prepare=False
    ).fetchone()
    assert row is not None
    return row[0]


def fill(client: Client, cache: Spy, protocol: str = SIMPLE, sql: str = COUNT) -> Any:
    """Ask once, and wait until cache_set was asked about the result."""
    before = cache.fired("cache_set")
    value = ask(client, sql, protocol)
    wait_until(lambda: cache.fired("cache_set") == before + 1, what="cache_set")
    return value


@both
def test_the_second_read_does_not_reach_the_server(
    proxy: ProxyFactory, table: EmbeddedPostgres, protocol: str
) -> None:
    running, cache = start(proxy)
    with running.connect() as client:
        assert fill(client, cache, protocol) == 1
        seen = cache.last("cache_set")
        assert seen["query"] == COUNT
        assert seen["key"] == "k"
        assert seen["rows"] == 1
        assert seen["result_bytes"] > 0
        table.execute("INSERT INTO cached VALUES (2)")
        for _ in range(3):
            assert ask(client, COUNT, protocol) == 1
        with running.connect() as another:
            assert ask(another, COUNT, protocol) == 1
        wait_until(lambda: cache.last("post_query")[1]["target_node"] is None)
        # Who asks for fresher rows than there are gets the server's.
        with running.connect(application_name="impatient") as another:
            assert ask(another, COUNT, protocol) == 2
        assert ask(client, COUNT + " /* no_cache */", protocol) == 2
        assert ask(client, "SELECT 'own_rows'", protocol) == "hers"
    assert running.metrics().value("headgate_hook_errors_total", plugin="cache") == 0


@both
def test_a_write_through_the_proxy_empties_it(
    proxy: ProxyFactory, table: EmbeddedPostgres, protocol: str
) -> None:
    running, cache = start(proxy)
    with running.connect() as client, running.connect() as writer:
        fill(client, cache, protocol)
        writer.execute("INSERT INTO other VALUES (1)", binary=protocol == EXTENDED)
        table.execute("INSERT INTO cached VALUES (2)")
        assert ask(client, COUNT, protocol) == 1
        writer.execute("INSERT INTO public.cached VALUES (3)", binary=protocol == EXTENDED)
        assert fill(client, cache, protocol) == 3
        # In a transaction: others see the old rows until its end, and the new ones from then on.
        writer.execute("BEGIN")
        writer.execute("DELETE FROM cached", binary=protocol == EXTENDED)
        assert fill(client, cache, protocol) == 3
        assert ask(client, COUNT, protocol) == 3
        writer.execute("COMMIT")
        assert ask(client, COUNT, protocol) == 0


@both
def test_inside_a_transaction_it_is_not_asked(
    proxy: ProxyFactory, table: EmbeddedPostgres, protocol: str
) -> None:
    running, cache = start(proxy)
    with running.connect() as client:
        fill(client, cache, protocol)
        table.execute("INSERT INTO cached VALUES (2)")
        before = cache.fired("cache_get")
        client.execute("BEGIN")
        assert ask(client, COUNT, protocol) == 2
        client.execute("COMMIT")
        assert cache.fired("cache_get") == before


def test_what_another_may_not_share_is_another_entry(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    table.execute(
        "DROP ROLE IF EXISTS cache_reader; CREATE ROLE cache_reader LOGIN;"
        "GRANT SELECT ON cached TO cache_reader; CREATE SCHEMA IF NOT EXISTS elsewhere;"
        "CREATE TABLE IF NOT EXISTS elsewhere.cached (a int)"
    )
    running, cache = start(proxy)
    with running.connect() as client, running.connect(user="cache_reader") as other:
        assert fill(client, cache) == 1
        table.execute("INSERT INTO cached VALUES (2)")
        assert ask(client, COUNT) == 1
        assert fill(other, cache) == 2
        with running.connect() as third:
            third.execute("SET search_path = elsewhere, public")
            assert ask(third, COUNT) == 0
            third.execute("RESET search_path")
            assert ask(third, COUNT) == 1
    table.execute(
        "DROP SCHEMA elsewhere CASCADE; DROP OWNED BY cache_reader; DROP ROLE cache_reader"
    )


def test_whatever_else_a_result_depends_on_is_another_entry(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    table.execute("ALTER TABLE cached ADD t timestamptz DEFAULT '2020-01-01 12:00:00+00'")
    running, cache = start(proxy)
    sql = "SELECT max(t)::text FROM cached"
    with running.connect(options="-c TimeZone=UTC") as client:
        assert fill(client, cache, sql=sql) == "2020-01-01 12:00:00+00"
        with running.connect(options="-c TimeZone=Asia/Tokyo") as other:
            assert ask(other, sql) == "2020-01-01 21:00:00+09"
        client.execute("SET TimeZone = 'America/New_York'")
        assert ask(client, sql) == "2020-01-01 07:00:00-05"
        # What row level security may look at.
        wait_until(lambda: cache.fired("cache_set") == 3)
        fill(client, cache)
        table.execute("INSERT INTO cached VALUES (2)")
        client.execute("SET app.tenant = '7'")
        assert ask(client, COUNT) == 2
        with running.connect(options="-c TimeZone=America/New_York") as other:
            assert ask(other, COUNT) == 1
        # A temporary table hides the one that was read.
        client.execute("CREATE TEMP TABLE cached (a int)")
        assert ask(client, COUNT) == 0
        client.execute("DROP TABLE pg_temp.cached")
        assert ask(client, COUNT) == 2


def test_a_client_sees_its_own_writes_in_one_group(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    running, cache = start(proxy)
    with running.connect() as client:
        fill(client, cache)
        cursor = client.execute(f"INSERT INTO cached VALUES (2); {COUNT}")
        assert cursor.nextset()
        assert cursor.fetchone() == (2,)
        fill(client, cache, EXTENDED)
        with client.pipeline() as pipeline:
            client.execute("INSERT INTO cached VALUES (%s)", [3])
            counted = client.execute(COUNT, binary=True)
            pipeline.sync()
        assert counted.fetchone() == (3,)


def test_formats_and_types_are_not_mixed_up(proxy: ProxyFactory, table: EmbeddedPostgres) -> None:
    """The same bytes are one number as text and another one as a binary integer."""
    table.execute("INSERT INTO cached VALUES (1111), (825307441)")
    running, cache = start(proxy)
    sql = b"SELECT a FROM cached WHERE a = $1"
    with running.connect() as client:
        connection = client.pgconn

        def run(types: list[int], parameter_format: int, result_format: int) -> bytes | None:
            result = connection.exec_params(
                sql, [b"1111"], types, [parameter_format], result_format
            )
            return result.get_value(0, 0)

        for _ in range(2):
            assert run([23], 0, 0) == b"1111"
            assert run([23], 1, 0) == b"825307441"
            assert run([23], 0, 1) == (1111).to_bytes(4, "big")
            assert run([23], 1, 1) == (825307441).to_bytes(4, "big")
            wait_until(lambda: cache.fired("cache_set") >= 4)
        assert cache.fired("cache_set") == 4


def test_one_key_for_two_statements_does_not_mix_them_up(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    running, cache = start(proxy)
    with running.connect() as client:
        fill(client, cache)
        assert ask(client, "SELECT count(*) + 100 FROM cached") == 101


def test_other_parameters_are_another_entry(proxy: ProxyFactory, table: EmbeddedPostgres) -> None:
    running, cache = start(proxy)
    sql = "SELECT count(*) FROM cached WHERE a >= %s::int"
    with running.connect() as client:
        assert ask(client, sql, EXTENDED, 1) == 1
        wait_until(lambda: cache.fired("cache_set") == 1)
        table.execute("INSERT INTO cached VALUES (5)")
        assert ask(client, sql, EXTENDED, 1) == 1
        assert ask(client, sql, EXTENDED, 2) == 1
        wait_until(lambda: cache.fired("cache_set") == 2)
        table.execute("INSERT INTO cached VALUES (6)")
        assert ask(client, sql, EXTENDED, 2) == 1
        assert ask(client, sql, EXTENDED, 3) == 2
        # Executions of a named statement are looked up as well.
        for _ in range(8):
            assert client.execute(sql, [1], prepare=True, binary=True).fetchone() == (1,)


@both
def test_skip_keeps_nothing(proxy: ProxyFactory, table: EmbeddedPostgres, protocol: str) -> None:
    running, cache = start(proxy)
    sql = COUNT + " /* not_kept */"
    with running.connect() as client:
        assert fill(client, cache, protocol, sql) == 1
        table.execute("INSERT INTO cached VALUES (2)")
        assert ask(client, sql, protocol) == 2


def test_volatile_functions_and_writes_are_never_looked_up(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    running, cache = start(proxy)
    with running.connect() as client:
        for sql in (
            "SELECT random() FROM cached",
            "SELECT now() FROM cached",
            "SELECT clock_timestamp() FROM cached",
            "SELECT * FROM cached FOR UPDATE",
            "WITH gone AS (DELETE FROM other RETURNING a) SELECT count(*) FROM gone, cached",
            "INSERT INTO other SELECT a FROM cached RETURNING a",
        ):
            client.execute(sql)
        # now() is stable and not volatile, yet a kept one would be wrong a moment later; what
        # counts as a plain read may be looked up, and the plugin sees what it is.
        assert cache.fired("cache_get") <= 1


def test_a_cache_that_missed_writes_starts_empty(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    running, cache = start(proxy)
    with running.connect() as client:
        assert fill(client, cache) == 1
        assert running.api("POST", "/api/plugins/cache/disable")[0] == 200
        client.execute("INSERT INTO cached VALUES (2)")
        assert running.api("POST", "/api/plugins/cache/enable")[0] == 200
        assert ask(client, COUNT) == 2


def test_a_write_in_one_worker_empties_the_others(
    proxy: ProxyFactory, table: EmbeddedPostgres
) -> None:
    running, cache = start(proxy, workers=2)
    clients = [running.connect() for _ in range(12)]
    try:
        for client in clients:
            assert ask(client, COUNT) == 1
        wait_until(lambda: cache.fired("cache_set") >= 1)
        table.execute("INSERT INTO cached VALUES (2)")
        assert ask(clients[0], COUNT) in (1, 2)
        clients[0].execute("INSERT INTO cached VALUES (3)")
        assert {ask(client, COUNT) for client in clients} == {3}
    finally:
        for client in clients:
            client.close()


def test_no_memory_is_no_cache(proxy: ProxyFactory, table: EmbeddedPostgres) -> None:
    running, cache = start(proxy, plugins={"result_cache": "0"})
    with running.connect() as client:
        assert ask(client, COUNT) == 1
        table.execute("INSERT INTO cached VALUES (2)")
        assert ask(client, COUNT) == 2
        running.reload(plugins={"result_cache": "1MiB"})
        running.log_contains("reload")
        wait_until(lambda: ask(client, COUNT) == 2 and cache.fired("cache_set") >= 1)
        table.execute("INSERT INTO cached VALUES (2)")
        assert ask(client, COUNT) == 2
