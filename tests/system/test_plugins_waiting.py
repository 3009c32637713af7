"""
SQL and HTTP for plugins in a running proxy: what comes back, what is refused, and that the statement
of the plugin that waits is the only one that waits.
"""

import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from proxy.demo.cluster import EmbeddedPostgres
from tests.support.rule_plugin import manifest_text, write_plugin
from tests.support.system import ALL_GRANTS, ProxyFactory, RunningProxy, wait_until
from tests.support.wat import escaped

TIME_LIMIT_S = 1.0
MISSING_TABLE = "waiting_made_this"

TIMED_OUT, TOO_LARGE, BAD_ARGUMENT, DENIED = -6, -2, -4, -7

_IMPORTS = """
  (import "headgate" "kv_set" (func $kv_set (param i32 i32 i32 i32) (result i32)))
  (import "headgate" "query" (func $query (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "headgate" "http" (func $http (param i32 i32 i32 i32) (result i32)))"""
_FIND = """
  (func $find (param $at i32) (param $size i32) (param $digit i32) (result i32) (local $i i32)
    (loop $next
      (if (i32.ge_u (i32.add (local.get $i) (i32.const 5)) (local.get $size))
        (then (return (i32.const 0))))
      (if (i32.and
            (i32.eq (i32.load (i32.add (local.get $at) (local.get $i))) (i32.const 0x206b7361))
            (i32.eq (i32.load8_u offset=4 (i32.add (local.get $at) (local.get $i)))
              (local.get $digit)))
        (then (return (i32.const 1))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))
    unreachable)"""

Call = tuple[str, tuple[str, ...]]


def asking_wat(calls: Sequence[Call]) -> str:
    """A module that makes call number N for a statement with `ask N`, and keeps what came in KV."""
    data, body, at = "", "", 1024
    for number, (function, texts) in enumerate(calls):
        operands = ""
        for text in texts:
            data += f'(data (i32.const {at}) "{escaped(text.encode())}")'
            operands += f"(i32.const {at}) (i32.const {len(text.encode())}) "
            at += len(text.encode())
        body += f"""
    (if (call $find (local.get $at) (local.get $size) (i32.const {48 + number})) (then
      (local.set $code (call ${function} {operands} (i32.const 131072) (i32.const 60000)))
      (i32.store (i32.const 512) (local.get $code))
      (drop (call $kv_set (i32.const 0) (i32.const 4) (i32.const 512) (i32.const 4)))
      (if (i32.gt_s (local.get $code) (i32.const 0)) (then (drop
        (call $kv_set (i32.const 4) (i32.const 4) (i32.const 131072) (local.get $code)))))))"""
    return f"""(module {_IMPORTS}
  (memory (export "memory") 6)
  (data (i32.const 0) "codetext") {data}
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const 262144))
  {_FIND}
  (func (export "pre_query") (param $at i32) (param $size i32) (result i64) (local $code i32) {body}
    (i64.const 0)))"""


class Asker:
    """A proxy with one plugin that asks; `ask` has it make one of its calls."""

    def __init__(self, proxy: ProxyFactory, calls: Sequence[Call], **plugins: Any) -> None:
        self.running: RunningProxy = proxy(
            start=False, plugins={"grants": [*ALL_GRANTS, "db.query", "http.fetch"], **plugins}
        )
        write_plugin(
            self.running.plugin_dir, "asks", asking_wat(calls),
            manifest_text(
                "asks", ["pre_query"], ["query.block", "kv.write", "db.query", "http.fetch"]
            ),
        )  # fmt: skip
        self.running.start()
        assert self.running.api("GET", "/api/plugins/asks")[1]["status"] == "active"

    def ask(self, number: int) -> tuple[int, Any]:
        """The code of a call, and its JSON where there is any."""
        with self.running.connect() as client:
            row = client.execute(f"SELECT 'ask {number}'", prepare=False).fetchone()
        assert row == (f"ask {number}",)
        code = int.from_bytes(self._kept("code"), "little", signed=True)
        return code, json.loads(self._kept("text")) if code > 0 else None

    def _kept(self, key: str) -> bytes:
        status, body = self.running.api("GET", f"/api/plugins/asks/kv/{key}")
        assert status == 200, body
        return base64.b64decode(body["value_base64"])


def sql(text: str, parameters: str = "[]") -> Call:
    return "query", (text, parameters)


def fetch(url: str, **more: Any) -> Call:
    return "http", (json.dumps({"url": url, **more}),)


def test_query_runs_as_the_role_and_reads_only(
    proxy: ProxyFactory, primary: EmbeddedPostgres
) -> None:
    primary.execute("DROP ROLE IF EXISTS waiting_reader; CREATE ROLE waiting_reader")
    asker = Asker(
        proxy,
        [
            sql("SELECT 1 AS a, NULL AS b, $1::int AS c, $2::text AS d", '[7, "hi"]'),
            sql("SELECT current_user, current_setting('transaction_read_only')"),
            sql(f"CREATE TABLE {MISSING_TABLE} (a int)"),
            sql("SELECT 1; SELECT 2"),
            sql("SELECT 1 / 0"),
            sql("SELECT $1::int", '["x"]'),
            sql("SELECT repeat('x', 2000000)"),
            sql("SET ROLE NONE"),
            sql("COMMIT"),
        ],
        query={"user": "postgres", "role": "waiting_reader", "timeout": f"{TIME_LIMIT_S}s"},
    )
    _, found = asker.ask(0)
    assert found == {
        "columns": ["a", "b", "c", "d"],
        "rows": [[1, None, 7, "hi"]],
        "status": "SELECT 1",
    }
    as_reader = [["waiting_reader", "on"]]
    assert asker.ask(1)[1]["rows"] == as_reader
    assert asker.ask(2) == (DENIED, None)
    assert asker.ask(3)[1]["error"]["sqlstate"] == "42601"
    assert asker.ask(4)[1]["error"]["sqlstate"] == "22012"
    assert asker.ask(5) == (BAD_ARGUMENT, None)
    assert asker.ask(6) == (TOO_LARGE, None)
    # What one query does to its session, the next one does not see.
    for number in (7, 8):
        asker.ask(number)
        assert asker.ask(1)[1]["rows"] == as_reader
        assert asker.ask(2) == (DENIED, None)
    with psycopg.connect(primary.dsn()) as client:
        assert client.execute(f"SELECT to_regclass('{MISSING_TABLE}')").fetchone() == (None,)


class _Site(http.server.BaseHTTPRequestHandler):
    """/ is quick, /slow never answers, /drip sends a byte now and then, /away leads elsewhere."""

    is_over = threading.Event()

    def do_GET(self) -> None:
        if self.path == "/slow":
            self.is_over.wait(20)
            return
        self.send_response(302 if self.path == "/away" else 200)
        self.send_header("Location", "http://127.0.0.1:1/")
        if self.path == "/drip":
            self.end_headers()
            try:
                while not self.is_over.wait(0.2):
                    self.wfile.write(b"x")
            except OSError:
                return
        body = b"x" * (1_000_000 if self.path == "/large" else 5)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    server.daemon_threads = True
    _Site.is_over.clear()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    _Site.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_reaches_the_listed_hosts_and_no_other(proxy: ProxyFactory, site: str) -> None:
    asker = Asker(
        proxy,
        [
            fetch(f"http://{site}/"),
            fetch(f"http://{site}/away"),
            fetch("http://127.0.0.1:9/"),
            fetch("file:///etc/passwd"),
            fetch(f"http://{site}@127.0.0.2/"),
            fetch(f"http://{site}/", headers={"Host": "other"}),
            fetch(f"http://{site}/drip"),
        ],
        http={"allow_hosts": [site], "timeout": f"{TIME_LIMIT_S}s"},
    )
    _, found = asker.ask(0)
    assert (found["status"], found["body"]) == (200, "xxxxx")
    assert asker.ask(1)[1]["status"] == 302
    assert [asker.ask(number)[0] for number in (2, 3, 4, 5, 6)] == [
        DENIED,
        BAD_ARGUMENT,
        BAD_ARGUMENT,
        BAD_ARGUMENT,
        TIMED_OUT,
    ]


@pytest.mark.parametrize("what", ["query", "http"])
def test_only_the_statement_that_asks_waits(proxy: ProxyFactory, site: str, what: str) -> None:
    asker = Asker(
        proxy,
        [sql("SELECT pg_sleep(20)") if what == "query" else fetch(f"http://{site}/slow")],
        query={"user": "postgres", "timeout": f"{TIME_LIMIT_S}s"},
        http={"allow_hosts": [site], "timeout": f"{TIME_LIMIT_S}s"},
    )
    with asker.running.connect() as other, ThreadPoolExecutor(1) as threads:
        started = time.monotonic()
        waiting = threads.submit(asker.ask, 0)
        done = 0
        while not waiting.done():
            # It is asked about this one too, which does not wait for the other one's answer.
            assert other.execute("SELECT 1", prepare=False).fetchone() == (1,)
            done += 1
        assert waiting.result()[0] == TIMED_OUT
        assert time.monotonic() - started >= TIME_LIMIT_S
    assert done > 10
    assert asker.running.metrics().value("headgate_hook_errors_total", plugin="asks") == 0


def test_a_plugin_that_waits_takes_no_threads_of_another(proxy: ProxyFactory, site: str) -> None:
    asker = Asker(
        proxy,
        [fetch(f"http://{site}/slow")],
        http={"allow_hosts": [site], "timeout": "20s"},
    )
    running = asker.running
    write_plugin(
        running.plugin_dir, "quick", asking_wat([fetch(f"http://{site}/")]),
        manifest_text(
            "quick", ["pre_query"], ["kv.write", "db.query", "http.fetch"],
            more='priority = 1\n[match]\ndatabases = ["template1"]',
        ),
    )  # fmt: skip
    assert running.api("POST", "/api/plugins/reload")[0] == 200

    def ask_slowly() -> None:
        with running.connect() as client:
            client.execute("SELECT 'ask 0'", prepare=False)

    with ThreadPoolExecutor(20) as threads:
        waiting = [threads.submit(ask_slowly) for _ in range(20)]
        wait_until(
            lambda: running.metrics().value("headgate_plugin_in_flight", plugin="asks") == 20
        )
        # New statements are not asks's business any more; those that wait go on waiting.
        assert running.api("POST", "/api/plugins/asks/disable")[0] == 200
        with running.connect(dbname="template1") as client:
            client.execute("SELECT 'ask 0'", prepare=False)
        assert not any(one.done() for one in waiting)
        _Site.is_over.set()
        for one in waiting:
            one.result(timeout=20)
    assert running.api("GET", "/api/plugins/quick/kv/text")[0] == 200


def test_without_a_word_of_the_operator_there_is_neither(proxy: ProxyFactory) -> None:
    asker = Asker(proxy, [sql("SELECT 1"), fetch("http://127.0.0.1:9/")])
    unavailable = -5
    assert asker.ask(0) == (unavailable, None)
    assert asker.ask(1) == (unavailable, None)


def test_a_plugin_that_is_not_granted_it_does_not_load(proxy: ProxyFactory) -> None:
    running = proxy(start=False, plugins={"grants": ALL_GRANTS})
    write_plugin(
        running.plugin_dir, "asks", asking_wat([sql("SELECT 1")]),
        manifest_text("asks", ["pre_query"], ["query.block", "kv.write", "db.query", "http.fetch"]),
    )  # fmt: skip
    running.start()
    plugin = running.api("GET", "/api/plugins/asks")[1]
    assert (plugin["status"], plugin["error_cause"]) == ("failed", "permission")
    assert "headgate.query needs db.query, which the operator does not grant" in plugin["error"]
    with running.connect() as client, pytest.raises(psycopg.Error):
        client.execute("SELECT 1 / 0")
