"""plugin_init and input_buffer, in their corners."""

import pytest

from proxy.hooks.points import BLOCKED, PRE_QUERY
from proxy.plugins.ffi import GuestStopped
from proxy.plugins.instance import InitRefused, read_init_answer
from tests.support.wat import FakePipeline, make_manager, manifest, put

BASE = """(module (memory (export "memory") 4)
  (func (export "headgate_abi_1")) {more}
  (func (export "pre_query") (param i32 i32) (result i64) (i64.const 0)))"""
ALLOC = '(func (export "alloc") (param i32) (result i32) (i32.const 4096))'
NO_BUFFER = '(func (export "input_buffer") (param i32) (result i32) (i32.const 0))'
INIT = '(func (export "plugin_init") (param i32 i32) (result i64) (i64.const {answer}))'


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (ALLOC + NO_BUFFER, None),
        (NO_BUFFER, "there is no alloc"),
        (ALLOC + INIT.format(answer=0), None),
        (ALLOC + INIT.format(answer=1), "plugin_init refused without a reason"),
        (ALLOC + INIT.format(answer=2), "immediate verdict 2"),
        (ALLOC + '(func (export "_initialize") unreachable)', "unreachable"),
    ],
)
async def test_starting(tmp_path, more, error):
    manager = make_manager(tmp_path, FakePipeline())
    put(tmp_path, "p", BASE.format(more=more), manifest("p"))
    event = (await manager.reload())[0]
    if error is None:
        assert event.kind == "loaded", event.message
    else:
        assert event.cause == "init"
        assert error in event.message
    await manager.stop()


ONCE = """(global $asked (mut i32) (i32.const 0))
  (func (export "input_buffer") (param i32) (result i32)
    (if (global.get $asked) (then unreachable))
    (global.set $asked (i32.const 1))
    (i32.const 65536))"""
NEVER = '(func (export "alloc") (param i32) (result i32) unreachable)'


@pytest.mark.parametrize("more", ["", NEVER, INIT.format(answer=0), NEVER + INIT.format(answer=0)])
async def test_input_buffer_is_asked_once_and_alloc_is_not_called_for_what_fits(tmp_path, more):
    pipeline = FakePipeline()
    manager = make_manager(tmp_path, pipeline)
    put(tmp_path, "p", BASE.format(more=ONCE + more), manifest("p", more="[config]\na = 1"))
    event = (await manager.reload())[0]
    assert event.kind == "loaded", event.message
    assert pipeline.chains.points[PRE_QUERY][0].call(b"{}") is None
    await manager.stop()


def test_answers_of_init():
    read_init_answer(b'{"action":"continue"}')
    for answer, text in (
        (BLOCKED, "without a reason"),
        (b'{"action":"block","value":"why"}', "why"),
        (b'{"action":"block","reason":"why"}', "why"),
    ):
        with pytest.raises(InitRefused, match=text):
            read_init_answer(answer)
    for answer in (b"", b"[]", b'{"action":"dance"}', b"\xff", b"{}"):
        with pytest.raises(GuestStopped):
            read_init_answer(answer)
