"""
Hostile modules, at the plugin host: each has its exact outcome, and the next call works.

What a client is told of it is in the system tests.
"""

from pathlib import Path
from time import perf_counter_ns

import pytest

from proxy.errors import PluginFailed
from proxy.hooks.points import BLOCKED, PRE_QUERY
from proxy.plugins.manager import PluginManager
from proxy.plugins.pulse import PULSE, REST_NS
from proxy.plugins.subscriber import PluginHook
from tests.support.wat import FakePipeline, body_wat, make_manager, manifest, put, until, wasm_of

GOOD = body_wat("(i64.const 0)")
INPUT = b'{"query":"SELECT 1"}'
SMALL = "[limits]\nmemory = '1MiB'\nfuel = 1_000_000\n"


class Running:
    """A manager with one hostile plugin and a good one after it."""

    def __init__(self, directory: Path, **options: object) -> None:
        self.directory = directory
        self.pipeline = FakePipeline()
        self.manager: PluginManager = make_manager(directory, self.pipeline, **options)

    def hook(self, name: str) -> PluginHook:
        for subscriber in self.pipeline.chains.points[PRE_QUERY]:
            if subscriber.plugin == name:
                assert isinstance(subscriber, PluginHook)
                return subscriber
        raise LookupError(name)

    def error(self, name: str) -> str:
        return str(self.manager.get(name)["error"])


@pytest.fixture
async def running(tmp_path):
    found = Running(tmp_path)
    yield found
    await found.manager.stop()


# name, cause, text in the message
CALLS = [
    ("endless_loop", "fuel", "fuel"),
    ("deep_recursion", "trap", "stack"),
    ("grow_and_trap", "memory", "memory limit"),
    ("alloc_traps", "trap", "unreachable"),
    ("alloc_outside", "bad_answer", "outside memory"),
]


@pytest.mark.parametrize(("name", "cause", "text"), CALLS)
async def test_a_call_that_fails_has_its_cause_and_leaves_the_others_alone(
    running, name, cause, text
):
    put(running.directory, "evil", wasm_of(name), manifest("evil", more=SMALL))
    put(running.directory, "good", GOOD, manifest("good"))
    await running.manager.start()
    for _ in range(3):
        with pytest.raises(PluginFailed) as caught:
            running.hook("evil").call(INPUT)
        assert caught.value.cause == cause
        assert text in caught.value.message
        assert running.hook("good").call(INPUT) is None
    stats = running.hook("evil").stats
    assert stats.errors == {cause: 3}
    assert stats.calls == 3
    assert running.hook("good").stats.errors == {}


async def test_the_clock_stops_what_fuel_would_not(running):
    put(
        running.directory,
        "evil",
        wasm_of("endless_loop"),
        manifest("evil", more="[limits]\nfuel = 1_000_000_000\ntimeout_ms = 5\n"),
    )
    running.manager = make_manager(
        running.directory, running.pipeline,
        limits=running.manager.settings.limits.__class__(fuel=1_000_000_000),
    )  # fmt: skip
    await running.manager.start()

    def rests() -> bool:
        # While a spare instance is made on a thread, that counts on ticks.
        PULSE.look(perf_counter_ns() + 10 * REST_NS)
        return PULSE.is_resting

    for _ in range(2):
        # Also where it has not ticked for a long time, and nobody needs it but this call.
        await until(rests)
        with pytest.raises(PluginFailed) as caught:
            running.hook("evil").call(INPUT)
        assert caught.value.cause == "timeout"
        assert not PULSE.is_resting


async def test_memory_grows_to_its_limit_and_no_further(running):
    put(running.directory, "evil", wasm_of("grow_to_limit"), manifest("evil", more=SMALL))
    await running.manager.start()
    assert running.hook("evil").call(INPUT) is None
    assert running.manager.get("evil")["memory_bytes"] == 1 << 20
    assert running.hook("evil").call(INPUT) is None


async def test_an_allocator_that_never_frees_gets_a_fresh_instance(running):
    put(running.directory, "bump", wasm_of("bump_alloc"), manifest("bump"))
    await running.manager.start()
    payload = b"x" * 20_000
    for _ in range(20):
        assert running.hook("bump").call(payload) is None
    assert running.hook("bump").stats.errors == {}


ANSWERS = [
    ("(i64.const 2)", "immediate verdict 2"),
    ("(i64.const 0x7fffffff)", "immediate verdict"),
    ("(i64.const 0x0000001000020000)", "the limit is"),
    ("(i64.const 0x7fffffff00000010)", "outside memory"),
    ("(i64.const 0x0001fff800000010)", "outside memory"),
    ("(i64.const -1)", "the limit is"),
]


@pytest.mark.parametrize(("body", "text"), ANSWERS)
async def test_a_bad_pointer_or_length_is_a_failed_call(running, body, text):
    put(running.directory, "evil", body_wat(body), manifest("evil"))
    await running.manager.start()
    with pytest.raises(PluginFailed) as caught:
        running.hook("evil").call(INPUT)
    assert caught.value.cause == "bad_answer"
    assert text in caught.value.message


async def test_answers_come_back_as_they_are_even_if_they_are_rubbish(running):
    rubbish = b"\xff\xfe{not json"
    put(running.directory, "evil", body_wat("$answer", rubbish), manifest("evil"))
    put(running.directory, "one", body_wat("(i64.const 1)"), manifest("one"))
    await running.manager.start()
    assert running.hook("evil").call(INPUT) == rubbish
    assert running.hook("one").call(INPUT) == BLOCKED


async def test_host_functions_answer_codes_to_bad_arguments(running):
    put(
        running.directory,
        "evil",
        wasm_of("host_abuse"),
        manifest("evil", permissions='"kv.read","kv.write","log","crypto","random"'),
    )
    await running.manager.start()
    assert running.hook("evil").call(INPUT) is None
    assert running.hook("evil").stats.errors == {}


HOOK = '(func (export "pre_query") (param i32 i32) (result i64) (i64.const 0))'
MEMORY = '(memory (export "memory") 1)'
BUFFER = '(func (export "input_buffer") (param i32) (result i32) (i32.const 0))'
MARKER = '(func (export "headgate_abi_1"))'

LOADS = [
    ("start function", "start_loops", "init", "fuel"),
    ("trap in init", "init_traps", "init", "unreachable"),
    ("refused by init", "init_refuses", "init", "I want a license"),
    ("no memory", f"(module {MARKER} {BUFFER} {HOOK})", "module", "no export memory"),
    (
        "no hook",
        f"(module {MARKER} {BUFFER} {MEMORY})",
        "module",
        "no export pre_query, which the manifest names",
    ),
    (
        "hook type",
        f'(module {MARKER} {BUFFER} {MEMORY} (func (export "pre_query") (param i32)))',
        "module",
        "export pre_query is (i32) -> (); expected (i32, i32) -> (i64)",
    ),
    (
        "no answer from a hook that decides",
        f'(module {MARKER} {BUFFER} {MEMORY} (func (export "pre_query") (param i32 i32)))',
        "module",
        "expected (i32, i32) -> (i64)",
    ),
    (
        "hook is a memory",
        f'(module {MARKER} (memory (export "memory") (export "pre_query") 1) {BUFFER})',
        "module",
        "export pre_query is memory",
    ),
    ("no way in", f"(module {MARKER} {MEMORY} {HOOK})", "module", "no export alloc"),
    (
        "alloc type",
        f'(module {MARKER} {MEMORY} {HOOK} (func (export "alloc") (result i32) (i32.const 0)))',
        "module",
        "export alloc is () -> (i32); expected (i32) -> (i32)",
    ),
    (
        "abi 0 without dealloc",
        f'(module {MEMORY} {HOOK} (func (export "alloc") (param i32) (result i32) (i32.const 0)))',
        "module",
        "no export dealloc; ABI 0 requires",
    ),
    (
        "unknown import",
        f'(module (import "headgate" "format_disk" (func)) {MARKER} {BUFFER} {MEMORY} {HOOK})',
        "module",
        "import headgate.format_disk is not known",
    ),
    (
        "import of another module",
        f'(module (import "libc" "system" (func)) {MARKER} {BUFFER} {MEMORY} {HOOK})',
        "module",
        "import libc.system is not known",
    ),
    (
        "import type",
        f'(module (import "headgate" "log" (func (param i64))) {MARKER} {BUFFER} {MEMORY} {HOOK})',
        "module",
        "import headgate.log is (i64) -> (); expected (i32, i32, i32) -> i32",
    ),
    (
        "imported memory",
        f'(module (import "headgate" "m" (memory 1)) {MARKER} {BUFFER} {HOOK})',
        "module",
        "only functions are given",
    ),
    (
        "import not asked for",
        '(module (import "headgate" "now_us" (func (result i64)))'
        f" {MARKER} {BUFFER} {MEMORY} {HOOK})",
        "permission",
        "import headgate.now_us needs clock, which the manifest does not ask for",
    ),
    (
        "too much memory",
        f'(module {MARKER} {BUFFER} {HOOK} (memory (export "memory") 5000))',
        "module",
        "memory starts at 327680000 bytes; the limit is",
    ),
    (
        "64-bit memory",
        f'(module {MARKER} {BUFFER} {HOOK} (memory (export "memory") i64 1))',
        "compile",
        "not a valid module",
    ),
    (
        "two memories",
        f"(module {MARKER} {BUFFER} {MEMORY} {HOOK} (memory 1))",
        "init",
        "memory count too high",
    ),
    (
        "input buffer outside memory",
        f"(module {MARKER} {MEMORY} {HOOK}"
        ' (func (export "input_buffer") (param i32) (result i32) (i32.const 65000)))',
        "init",
        "reaches outside memory",
    ),
]


@pytest.mark.parametrize(
    ("module", "cause", "text"), [x[1:] for x in LOADS], ids=[x[0] for x in LOADS]
)
async def test_a_load_is_refused_with_cause_and_reason(running, module, cause, text):
    wasm = module if module.startswith("(") else wasm_of(module)
    put(running.directory, "good", GOOD, manifest("good"))
    put(running.directory, "evil", wasm, manifest("evil"))
    await running.manager.start()
    shown = running.manager.get("evil")
    assert shown["status"] == "failed"
    assert shown["error_cause"] == cause
    assert text in shown["error"]
    assert shown["load_failures"] == 1
    assert running.hook("good").call(INPUT) is None
    assert running.manager.events.counts["load_failed"] == 1


async def test_an_import_that_is_not_granted_is_refused(tmp_path):
    running = Running(tmp_path, grants=("log",))
    wat = body_wat("(i64.const 0)", extra='(import "headgate" "now_us" (func (result i64)))')
    put(tmp_path, "evil", wat, manifest("evil", permissions='"clock"'))
    await running.manager.start()
    assert "needs clock, which the operator does not grant" in running.error("evil")
    await running.manager.stop()


FILES = [
    ("empty", b"", "wrong magic"),
    ("text", b"hello, this is no module", "wrong magic"),
    ("half a module", None, "not a valid module"),
    ("another version", b"\0asm\x02\0\0\0", "unknown WebAssembly version"),
    ("corrupt", b"\0asm\x01\0\0\0" + b"\xff" * 100, "not a valid module"),
    ("oversized", b"\0asm\x01\0\0\0" + b"\0" * (25 * 1024 * 1024), "larger than"),
    (
        "over the module limit",
        b"\0asm\x01\0\0\0" + b"\0" * (9 * 1024 * 1024),
        "the limit of a module",
    ),
]


@pytest.mark.parametrize(("content", "text"), [x[1:] for x in FILES], ids=[x[0] for x in FILES])
async def test_a_file_that_is_no_module_leaves_the_running_one(running, content, text):
    path = put(running.directory, "plugin", GOOD, manifest("plugin"))
    await running.manager.start()
    before = running.hook("plugin")
    if content is None:
        content = path.read_bytes()[:-20]
    path.write_bytes(content)
    events = await running.manager.reload()
    assert [event.kind for event in events] == ["load_failed"]
    assert text in running.error("plugin")
    assert running.manager.get("plugin")["status"] == "active"
    assert running.hook("plugin") is before
    assert before.call(INPUT) is None
    # Once the file is whole, it loads.
    put(running.directory, "plugin", body_wat("(i64.const 1)"), manifest("plugin", "1.1.0"))
    assert [event.kind for event in await running.manager.reload()] == ["replaced"]
    assert running.hook("plugin").call(INPUT) == BLOCKED


async def test_the_breaker_opens_after_five_failures(running):
    put(running.directory, "evil", body_wat("unreachable"), manifest("evil"))
    await running.manager.start()
    for _ in range(5):
        with pytest.raises(PluginFailed):
            running.hook("evil").call(INPUT)
    with pytest.raises(PluginFailed) as caught:
        running.hook("evil").call(INPUT)
    assert caught.value.cause == "breaker"
    stats = running.hook("evil").stats
    assert stats.errors == {"trap": 5, "breaker": 1}
    assert stats.calls == 5
    assert running.manager.get("evil")["hook_stats"]["pre_query"]["breaker"] == "open"


async def test_bad_answers_open_the_breaker_too(running):
    put(running.directory, "evil", body_wat("$answer", b"rubbish"), manifest("evil"))
    await running.manager.start()
    hook = running.hook("evil")
    for _ in range(5):
        assert hook.call(INPUT) == b"rubbish"
        hook.answer_failed("bad_answer")
    with pytest.raises(PluginFailed, match="too many failures"):
        hook.call(INPUT)


async def test_legacy_modules_run_unchanged_each_call_on_a_fresh_instance(running):
    put(
        running.directory,
        "old",
        wasm_of("legacy_counter"),
        '{"name":"old","version":"0.1.0","hooks":["prequery","post_query"],"permissions":[]}',
        suffix=".json",
    )
    await running.manager.start()
    hook = running.hook("old")
    for _ in range(200):
        assert hook.call(b"x" * 30_000) is None
    digest = running.manager.services.kv.get("old", b"k")
    assert digest is not None
    assert len(digest) == 64
    assert hook.permissions >= {"query.block", "kv.read", "crypto"}
    assert hook.fails_closed
