"""What is asked of one worker, and what it answers when it cannot."""

import os
import signal

import pytest

from proxy.admin.commands import Commands, failure, problem_of
from proxy.admin.problems import AdminProblem
from proxy.server.worker import Worker


async def test_an_unknown_command_is_an_answer(worker: Worker) -> None:
    answer = await Commands(worker).run({"do": "nix"})
    problem = problem_of(answer)
    assert problem is not None
    assert (problem.status, problem.what) == (400, "bad request")


def test_problems_survive_the_way_between_workers() -> None:
    problem = problem_of(failure(AdminProblem(422, "why", "hint", "what")))
    assert problem is not None
    assert (problem.status, problem.why, problem.hint, problem.what) == (422, "why", "hint", "what")
    # A plugin that failed to load has an `error` of its own in its row.
    assert problem_of({"error": "text"}) is None
    assert problem_of({"ok": True}) is None


async def test_logs_after_a_line(worker: Worker, probe: str) -> None:
    log = worker.plugins.logs(probe)
    for number in range(5):
        log.write(2, f"line {number}")
    commands = Commands(worker)
    answer = await commands.run({"do": "plugin_logs", "name": probe, "after": {"0": 3}})
    assert [row["text"] for row in answer["rows"]] == ["line 3", "line 4"]
    answer = await commands.run({"do": "plugin_logs", "name": probe, "limit": 1})
    assert [row["text"] for row in answer["rows"]] == ["line 4"]


@pytest.mark.parametrize("workers", [1, 3])
async def test_shutdown_asks_the_one_in_charge(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    import asyncio

    told = asyncio.get_running_loop().create_future()
    monkeypatch.setattr(os, "kill", lambda pid, number: told.set_result((pid, number)))
    worker.workers = workers
    assert await Commands(worker).run({"do": "shutdown"}) == {"ok": True}
    expected = os.getpid() if workers == 1 else os.getppid()
    assert await told == (expected, signal.SIGTERM)
