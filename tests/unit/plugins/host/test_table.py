"""Every host function, called by a guest through its import."""

import hashlib
import hmac
import json

import pytest
import wasmtime

from proxy.hooks.points import PRE_QUERY, Subscriber
from proxy.plugins.host import table
from proxy.plugins.host.guest import HostFault
from proxy.plugins.host.services import HttpFetcher, QueryRunner
from proxy.plugins.runtime import runtime
from proxy.settings.plugin_model import PERMISSIONS
from tests.support.wat import FakePipeline, Waiting, make_manager, manifest, put

EVERYTHING = ", ".join(f'"{name}"' for name in PERMISSIONS)


def wat(imports, body, data):
    """A module whose hook answers what the body leaves at 4096, the length on the stack."""
    segments = "".join(f'(data (i32.const {at}) "{text}")' for at, text in data.items())
    return f"""(module {imports}
      (memory (export "memory") 4)
      (func (export "headgate_abi_1"))
      (func (export "input_buffer") (param i32) (result i32) (i32.const 131072))
      (func $body (result i32) {body})
      (func (export "pre_query") (param i32 i32) (result i64) (local $n i32)
        (local.set $n (call $body))
        (if (i32.le_s (local.get $n) (i32.const 0))
          (then (i32.store (i32.const 4096) (local.get $n)) (local.set $n (i32.const 4))))
        (i64.or (i64.shl (i64.const 4096) (i64.const 32)) (i64.extend_i32_u (local.get $n))))
      {segments})"""


class Caller:
    def __init__(self, directory):
        self.pipeline = FakePipeline()
        self.manager = make_manager(directory, self.pipeline, grants=PERMISSIONS)
        self.directory = directory
        self.hook: Subscriber | None = None

    async def load(self, imports, body, data):
        put(self.directory, "p", wat(imports, body, data), manifest("p", permissions=EVERYTHING))
        event = (await self.manager.reload())[0]
        assert event.kind != "load_failed", event.message
        self.hook = self.pipeline.chains.points[PRE_QUERY][0]

    async def answer(self):
        assert self.hook is not None
        if self.hook.is_slow:
            waiting = Waiting()
            self.hook.call_slow(b"{}", waiting)
            return await waiting.future
        return self.hook.call(b"{}")


@pytest.fixture
async def caller(tmp_path):
    found = Caller(tmp_path)
    yield found
    await found.manager.stop()


GET = '(import "headgate" "kv_get" (func $get (param i32 i32 i32 i32) (result i32)))'
SET = '(import "headgate" "kv_set" (func $set (param i32 i32 i32 i32) (result i32)))'


async def test_kv(caller):
    await caller.load(
        GET
        + SET
        + '(import "headgate" "kv_list" (func $list (param i32 i32 i32 i32) (result i32)))'
        '(import "headgate" "kv_delete" (func $delete (param i32 i32) (result i32)))'
        '(import "headgate" "kv_incr" (func $incr (param i32 i32 i64 i64) (result i64)))',
        """(drop (call $set (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 5)))
           (drop (call $incr (i32.const 1) (i32.const 1) (i64.const -3) (i64.const 60000)))
           (drop (call $set (i32.const 2) (i32.const 1) (i32.const 8) (i32.const 5)))
           (drop (call $delete (i32.const 2) (i32.const 1)))
           (call $list (i32.const 0) (i32.const 0) (i32.const 4096) (i32.const 100))""",
        {0: "abc", 8: "value"},
    )
    assert json.loads(await caller.answer()) == ["a", "b"]
    kv = caller.manager.services.kv
    assert kv.get("p", b"a") == b"value"
    assert kv.get("p", b"b") == b"-3"
    assert kv.get("p", b"c") is None


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-1"])
async def test_what_is_no_number_of_milliseconds_is_a_bad_argument(caller, number):
    await caller.load(
        '(import "headgate" "kv_set" (func $set (param i32 i32 i32 i32 f64) (result i32)))'
        '(import "headgate" "cache_set" (func $keep (param i32 i32 i32 i32 f64) (result i32)))'
        '(import "headgate" "kv_incr" (func $incr (param i32 i32 f64 f64) (result i64)))',
        f"""(i32.store (i32.const 4096)
             (call $set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (f64.const {number})))
           (i32.store (i32.const 4100)
             (call $keep (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1)
               (f64.const {number})))
           (i64.store (i32.const 4104)
             (call $incr (i32.const 1) (i32.const 1) (f64.const {"1" if number == "-1" else number})
               (f64.const {number})))
           (i32.const 16)""",
        {0: "ab"},
    )
    answer = await caller.answer()
    assert [int.from_bytes(answer[at : at + 4], "little", signed=True) for at in (0, 4)] == [-4, -4]
    assert int.from_bytes(answer[8:], "little", signed=True) == -(1 << 63)
    assert caller.manager.services.kv.keys("p", b"") == []


async def test_a_time_to_live_of_ages_is_a_century(caller):
    await caller.load(
        '(import "headgate" "kv_set" (func $set (param i32 i32 i32 i32 f64) (result i32)))',
        """(i32.store (i32.const 4096)
             (call $set (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 1) (f64.const 1e300)))
           (i32.const 4)""",
        {0: "a"},
    )
    assert await caller.answer() == bytes(4)
    assert caller.manager.services.kv.get("p", b"a") == b"a"


async def test_a_buffer_that_is_too_small_is_told_the_length(caller):
    await caller.load(
        GET, "(call $get (i32.const 0) (i32.const 1) (i32.const 4096) (i32.const 3))", {0: "k"}
    )
    caller.manager.services.kv.set("p", b"k", b"12345")
    # Nothing is written, and the length needed comes back.
    assert await caller.answer() == bytes(5)


async def test_digests_clock_random_and_memory(caller):
    await caller.load(
        '(import "headgate" "sha256" (func $sha (param i32 i32 i32) (result i32)))'
        '(import "headgate" "hmac_sha256" (func $mac (param i32 i32 i32 i32 i32 i32) (result i32)))'
        '(import "headgate" "random" (func $random (param i32 i32) (result i32)))'
        '(import "headgate" "now_us" (func $now (result i64)))'
        '(import "headgate" "memory_size" (func $size (result i32)))',
        """(drop (call $sha (i32.const 0) (i32.const 3) (i32.const 4096)))
           (drop (call $mac (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 2)
                            (i32.const 4128) (i32.const 32)))
           (drop (call $random (i32.const 4160) (i32.const 8)))
           (i64.store (i32.const 4168) (call $now))
           (i32.store (i32.const 4176) (call $size))
           (i32.const 84)""",
        {0: "abc"},
    )
    services = caller.manager.services
    services.now_us = lambda: 1_700_000_000_000_000
    services.random_bytes = lambda count: b"R" * count
    answer = await caller.answer()
    assert answer[:32] == hashlib.sha256(b"abc").digest()
    assert answer[32:64] == hmac.digest(b"a", b"bc", "sha256")
    assert answer[64:72] == b"RRRRRRRR"
    assert int.from_bytes(answer[72:80], "little") == 1_700_000_000_000_000
    assert int.from_bytes(answer[80:84], "little") == 4 * 65_536


@pytest.mark.parametrize("kind", ["i32", "i64", "f32", "f64"])
async def test_numbers_of_any_type(caller, kind):
    await caller.load(
        f'(import "headgate" "metric_add" (func $add (param i32 i32 {kind})))'
        f'(import "headgate" "metric_set" (func $set (param i32 i32 {kind}) (result i32)))',
        f"""(call $add (i32.const 0) (i32.const 3) ({kind}.const 5))
            (drop (call $set (i32.const 8) (i32.const 3) ({kind}.const -7)))
            (call $set (i32.const 8) (i32.const 0) ({kind}.const 1))""",
        {0: "ups", 8: "now"},
    )
    assert await caller.answer() == (-4).to_bytes(4, "little", signed=True)
    assert caller.manager.services.metrics.of("p") == {"ups": (True, 5.0), "now": (False, -7.0)}


async def test_the_cache(caller):
    await caller.load(
        '(import "headgate" "cache_set" (func $set (param i32 i32 i32 i32 i32) (result i32)))'
        '(import "headgate" "cache_get" (func $get (param i32 i32 i32 i32) (result i32)))'
        '(import "headgate" "cache_delete" (func $delete (param i32 i32)))',
        """(drop (call $set (i32.const 0) (i32.const 1) (i32.const 8) (i32.const 5) (i32.const 0)))
           (drop (call $set (i32.const 1) (i32.const 1) (i32.const 8) (i32.const 5) (i32.const 0)))
           (call $delete (i32.const 1) (i32.const 1))
           (drop (call $get (i32.const 1) (i32.const 1) (i32.const 4096) (i32.const 10)))
           (call $get (i32.const 0) (i32.const 1) (i32.const 4096) (i32.const 10))""",
        {0: "ab", 8: "value"},
    )
    assert await caller.answer() == b"value"
    assert caller.manager.services.cache.get("p", b"b") is None


ABORT = '(import "headgate" "abort" (func $abort (param i32 i32)))'
ENV_ABORT = '(import "env" "abort" (func $abort (param i32 i32 i32 i32)))'
EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $abort (param i32)))'


@pytest.mark.parametrize(
    ("imports", "call", "reason"),
    [
        (ABORT, "(call $abort (i32.const 0) (i32.const 3))", "abort: why"),
        (ABORT, "(call $abort (i32.const -1) (i32.const 3))", "abort: "),
        (
            ENV_ABORT,
            "(call $abort (i32.const 0) (i32.const 0) (i32.const 7) (i32.const 0))",
            "abort at line 7",
        ),
        (EXIT, "(call $abort (i32.const 3))", "exit with code 3"),
    ],
)
async def test_a_guest_may_give_up(caller, imports, call, reason):
    await caller.load(imports, call + "(i32.const 0)", {0: "why"})
    with pytest.raises(Exception, match=reason):
        await caller.answer()
    assert caller.hook.stats.errors == {"trap": 1}


async def test_wasi_is_stubs(caller):
    await caller.load(
        '(import "wasi_snapshot_preview1" "fd_write"'
        " (func $write (param i32 i32 i32 i32) (result i32)))"
        '(import "wasi_snapshot_preview1" "poll_oneoff"'
        " (func $poll (param i32 i32 i32 i32) (result i32)))"
        '(import "wasi_snapshot_preview1" "environ_sizes_get"'
        " (func $environ (param i32 i32) (result i32)))"
        '(import "wasi_snapshot_preview1" "clock_time_get"'
        " (func $clock (param i32 i64 i32) (result i32)))"
        '(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))'
        '(import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))'
        '(import "wasi_snapshot_preview1" "fd_prestat_get" (func $pre (param i32 i32) (result i32)))',
        """(i32.store (i32.const 64) (i32.const 0)) (i32.store (i32.const 68) (i32.const 12))
           (i32.store (i32.const 4096)
             (call $write (i32.const 1) (i32.const 64) (i32.const 1) (i32.const 4100)))
           (i32.store (i32.const 4104)
             (call $poll (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
           (i32.store (i32.const 4108) (call $environ (i32.const 4112) (i32.const 4116)))
           (i32.store (i32.const 4120)
             (call $clock (i32.const 0) (i64.const 0) (i32.const 4128)))
           (i32.store (i32.const 4136) (call $random (i32.const 200) (i32.const 8)))
           (i32.store (i32.const 4140) (call $stat (i32.const 9) (i32.const 300)))
           (i32.store (i32.const 4144) (call $pre (i32.const 3) (i32.const 300)))
           (i32.store (i32.const 4148)
             (call $write (i32.const 1) (i32.const -4) (i32.const 1) (i32.const 4100)))
           (i32.const 56)""",
        {0: "one\\0atwo\\0athree"},
    )
    answer = await caller.answer()
    words = [int.from_bytes(answer[at : at + 4], "little") for at in range(0, 56, 4)]
    assert words[0] == 0
    assert words[1] == 12
    assert words[2] == 52
    assert words[3] == 0
    assert words[6] == 0
    assert words[10] == 0
    assert words[11] == 8
    assert words[12] == 8
    assert words[13] == 28
    assert [line.text for line in caller.manager.logs("p").last(9)] == ["one", "two", "thre"]


class Runner(QueryRunner):
    def __init__(self):
        self.seen = []

    def run(self, plugin, sql, parameters):
        self.seen.append((plugin, sql, parameters))
        if sql == "BAD":
            raise HostFault(-7)
        return b'{"rows":[[1]]}'


class Fetcher(HttpFetcher):
    def fetch(self, plugin, request):
        return b'{"status":200}'


QUERY = '(import "headgate" "query" (func $q (param i32 i32 i32 i32 i32 i32) (result i32)))'
HTTP = '(import "headgate" "http" (func $h (param i32 i32 i32 i32) (result i32)))'


async def test_a_query_waits_on_a_thread_and_is_not_run_twice_for_a_small_buffer(caller):
    runner = caller.manager.services.queries = Runner()
    await caller.load(
        QUERY,
        """(drop (call $q (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 3)
                          (i32.const 4096) (i32.const 2)))
           (call $q (i32.const 0) (i32.const 3) (i32.const 8) (i32.const 3)
                    (i32.const 4096) (i32.const 100))""",
        {0: "SQL", 8: "[7]"},
    )
    assert caller.hook.is_slow
    assert await caller.answer() == (b'{"rows":[[1]]}', "")
    assert runner.seen == [("p", "SQL", [7])]
    assert await caller.answer() == (b'{"rows":[[1]]}', "")
    assert len(runner.seen) == 2


@pytest.mark.parametrize(
    ("sql", "params", "code"), [("BAD", "[]", -7), ("SQL", "{}", -4), ("SQL", "[1", -4)]
)
async def test_query_codes(caller, sql, params, code):
    caller.manager.services.queries = Runner()
    await caller.load(
        QUERY,
        f"""(call $q (i32.const 0) (i32.const 3) (i32.const 8) (i32.const {len(params)})
                     (i32.const 4096) (i32.const 100))""",
        {0: sql, 8: params},
    )
    assert await caller.answer() == (code.to_bytes(4, "little", signed=True), "")


async def test_waiting_calls_are_counted(caller):
    runner = caller.manager.services.queries = Runner()
    await caller.load(
        QUERY,
        """(local $n i32)
           (loop $again
             (i32.store8 (i32.const 0) (i32.add (i32.const 65) (local.get $n)))
             (local.set $n (i32.add (local.get $n) (i32.const 1)))
             (br_if $again (i32.gt_s (call $q (i32.const 0) (i32.const 1) (i32.const 8)
               (i32.const 0) (i32.const 4096) (i32.const 100)) (i32.const 0))))
           (local.get $n)""",
        {},
    )
    await caller.answer()
    assert len(runner.seen) == 16


async def test_http(caller):
    await caller.load(
        HTTP,
        "(call $h (i32.const 0) (i32.const 2) (i32.const 4096) (i32.const 100))",
        {0: "{}"},
    )
    unavailable = (-5).to_bytes(4, "little", signed=True)
    assert await caller.answer() == (unavailable, "")
    caller.manager.services.http = Fetcher()
    assert await caller.answer() == (b'{"status":200}', "")


def imported(text):
    module = wasmtime.Module(runtime().engine, bytes(wasmtime.wat2wasm(f"(module {text})")))
    return module.imports[0].type


@pytest.mark.parametrize(
    ("module", "name", "functype", "ok"),
    [
        ("headgate", "log", "(param i32 i32 i32)", True),
        ("headgate", "log", "(param i32 i32 i32) (result i32)", True),
        ("headgate", "log", "(param i32 i32 i32) (result i64)", True),
        ("headgate", "log", "(param i32 i32 i32) (result f64)", False),
        ("headgate", "log", "(param i32 i32)", False),
        ("headgate", "kv_get", "(param i32 i32 i32 i32)", False),
        ("headgate", "kv_set", "(param i32 i32 i32 i32)", True),
        ("headgate", "kv_set", "(param i32 i32 i32 i32 f64) (result i32)", True),
        ("headgate", "kv_set", "(param i32 i32 i32 i32 i32 i32) (result i32)", False),
        ("headgate", "kv_incr", "(param i32 i32 i64) (result i64)", True),
        ("headgate", "kv_incr", "(param i32 i32 i64) (result i32)", False),
        ("headgate", "now_us", "(result i64)", True),
        ("headgate", "now_us", "(result i32)", False),
        ("headgate", "abort", "(param i32 i32)", True),
        ("headgate", "abort", "(param i32)", False),
        ("wasi_snapshot_preview1", "anything", "(param i32 i64) (result i32)", True),
        ("wasi_snapshot_preview1", "anything", "(param f64) (result i32)", False),
        ("env", "kv_get", "(param i32 i32 i32 i32) (result i32)", True),
    ],
)
def test_types(module, name, functype, ok):
    found = imported(f'(import "{module}" "{name}" (func {functype}))')
    assert (table.type_problem(module, name, found) == "") is ok


def test_every_function_has_a_known_permission_and_unknown_ones_have_none():
    for name in table._HEADGATE:
        permission = table.required_permission("headgate", name)
        assert permission == "" or permission in PERMISSIONS
    assert table.required_permission("headgate", "nothing") is None
    assert table.required_permission("env", "getenv") is None
    assert table.required_permission("headgate", "abort") == ""
