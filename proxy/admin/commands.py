"""
What one worker process does when an operator asks, whichever way: HTTP, console, another worker.

A request is a dictionary of plain values: `do` names a command, the rest are its arguments. The
answer is one too; a failure is {"error": {"what", "why", "hint"}, "status"}. Knows neither HTTP nor
the console's protocol.
"""

from typing import TYPE_CHECKING, Any, final

from proxy.hooks.login import PluginCalls
from proxy.observe import families
from proxy.observe.metrics import snapshot
from proxy.server.clock import monotonic_s

if TYPE_CHECKING:
    from proxy.server.worker import Worker


@final
class Commands:
    """Carries out requests on one worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.calls = PluginCalls(worker.pipeline, monotonic_s)

    async def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        if request.get("do") == "metrics":
            samples = await self.calls.metrics()
            return families.to_dict(snapshot(self._worker, samples))
        return {"error": {"what": "bad request", "why": "unknown command", "hint": ""}}
