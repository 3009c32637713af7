"""
The one place that makes asyncio tasks.

The loop holds tasks weakly, and a task whose exception nobody fetches dies unheard. Whoever wants
something done beside the current callback gives it to `Tasks`, which keeps it, counts and logs
what it raises, and can end all of it. Knows nothing of what the tasks do.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, final

import structlog

from proxy.observe.counters import Counters

_log = structlog.get_logger("headgate.tasks")


@final
class Tasks:
    """Tasks that run beside the callbacks of one event loop."""

    __slots__ = ("_counters", "_running")

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a coroutine as a task; what it raises is logged and counted under its name."""
        task = asyncio.create_task(coroutine, name=name)
        self._running.add(task)
        task.add_done_callback(self._on_done)
        return task

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._counters.count("task_failed")
            _log.error("task failed", task=task.get_name(), exc_info=error)

    async def cancel_all(self) -> None:
        """Cancel everything that still runs, and wait until it has ended."""
        current = asyncio.current_task()
        tasks = [task for task in self._running if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
