"""Tasks are kept, counted when they fail, and ended together."""

import asyncio

import pytest

from proxy.observe.counters import Counters
from proxy.server.tasks import Tasks


async def test_a_failure_is_counted_and_logged(capsys: pytest.CaptureFixture[str]) -> None:
    counters = Counters()
    tasks = Tasks(counters)

    async def fail() -> None:
        raise ValueError("on purpose")

    task = tasks.spawn(fail(), "failing")
    with pytest.raises(ValueError, match="on purpose"):
        await task
    await asyncio.sleep(0)
    assert counters.by_cause == {"task_failed": 1}
    assert len(tasks) == 0
    shown = capsys.readouterr()
    assert "failing" in shown.out + shown.err


async def test_all_end_together_except_who_asks() -> None:
    counters = Counters()
    tasks = Tasks(counters)
    waiting = asyncio.Event()
    ended: list[str] = []

    async def wait(name: str) -> None:
        try:
            await waiting.wait()
        finally:
            ended.append(name)

    async def end_all() -> None:
        await tasks.cancel_all()
        ended.append("self")

    tasks.spawn(wait("a"), "a")
    tasks.spawn(wait("b"), "b")
    await asyncio.sleep(0)
    await tasks.spawn(end_all(), "ender")
    assert sorted(ended[:2]) == ["a", "b"]
    assert ended[2] == "self"
    assert counters.by_cause == {}
