"""The watched directory: changes are seen once they are whole."""

import asyncio

import pytest

from proxy.plugins import watch as watching
from proxy.plugins.watch import look, wait_for_rest, watch
from tests.support.wat import FakePipeline, body_wat, make_manager, manifest, put, until


@pytest.fixture
def often(monkeypatch):
    """Look soon at what no event told of: events from before the watch stood are lost."""
    monkeypatch.setattr(watching, "LOOK_ANYWAY_MS", 300)


async def test_a_change_is_told_after_the_files_rest(tmp_path, often):
    told = asyncio.Event()

    async def changed():
        told.set()

    known = look(tmp_path)
    put(tmp_path, "one", body_wat("(i64.const 0)"))
    # What came before the watch began is told as well.
    task = asyncio.create_task(watch(tmp_path, known, changed))
    await asyncio.wait_for(told.wait(), 20)
    told.clear()
    put(tmp_path, "two", body_wat("(i64.const 0)"))
    await asyncio.wait_for(told.wait(), 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_rest_is_waited_for(tmp_path):
    path = put(tmp_path, "one", body_wat("(i64.const 0)"))
    before = look(tmp_path)

    async def write_slowly():
        for size in range(3):
            path.write_bytes(b"\0asm" + b"x" * size)
            await asyncio.sleep(0.05)

    writer = asyncio.create_task(write_slowly())
    await asyncio.sleep(0.01)
    seen = await wait_for_rest(tmp_path, 0.12)
    await writer
    assert seen != before
    assert seen == look(tmp_path)


async def test_a_directory_that_is_not_there_has_nothing(tmp_path):
    assert look(tmp_path / "missing") == ()


async def test_added_changed_and_removed_files_are_followed(tmp_path, often):
    pipeline = FakePipeline()
    manager = make_manager(tmp_path, pipeline, watch=True)
    await manager.start()
    try:
        put(tmp_path, "one", body_wat("(i64.const 0)"), manifest("one", "1.0.0"))
        async with asyncio.timeout(25):
            await until(lambda: [p["version"] for p in manager.list()] == ["1.0.0"])
            # A manifest alone counts as a change.
            (tmp_path / "one.toml").write_text(manifest("one", "1.1.0"))
            await until(lambda: manager.get("one")["version"] == "1.1.0")
            assert manager.get("one")["generation"] == 2
            (tmp_path / "one.wasm").unlink()
            await until(lambda: manager.list() == [])
        assert pipeline.chains.points[3] == ()
    finally:
        await manager.stop()
