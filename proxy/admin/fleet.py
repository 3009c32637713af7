"""
The worker processes of one proxy, for what concerns all of them.

The admin port and the console are served by whichever worker the kernel chose, and must answer for
all. Each worker has `Commands`, which carries out one request on itself; `Peers` is the way to the
others (a control socket, where there are several). Requests and answers are JSON.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, final

import msgspec
import structlog

from proxy.admin.commands import Commands
from proxy.observe import families
from proxy.observe.families import Families

if TYPE_CHECKING:
    from proxy.server.worker import Worker

_log = structlog.get_logger("headgate.admin")


class Peers(ABC):
    """The way to the other worker processes."""

    @abstractmethod
    async def ask_all(self, request: bytes) -> list[bytes]:
        """
        Have every other worker's `Fleet.handle` answer; one that does not answer within a limit of
        the implementation is left out. Never raises.
        """


@final
class Fleet:
    """
    This worker and all others.

    commands  carries out requests here
    peers     the way to the others; None: there are none
    """

    def __init__(self, worker: "Worker") -> None:
        self.commands = Commands(worker)
        self.peers: Peers | None = None

    async def handle(self, request: bytes) -> bytes:
        """Answer a request of another worker. Never raises."""
        try:
            answer = await self.commands.run(msgspec.json.decode(request))
        except Exception:
            _log.exception("request of another worker failed")
            answer = {"error": {"what": "internal error", "why": "see the log", "hint": ""}}
        return msgspec.json.encode(answer)

    async def ask(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """Have every worker carry out a request; this one's answer is the first."""
        answers = [await self.commands.run(request)]
        if self.peers is not None:
            for raw in await self.peers.ask_all(msgspec.json.encode(request)):
                try:
                    answer = msgspec.json.decode(raw)
                except msgspec.DecodeError:
                    _log.warning("another worker's answer is not JSON")
                    continue
                if isinstance(answer, dict):
                    answers.append(answer)
        return answers

    async def catch_up(self) -> None:
        """Carry out what operators ordered before this worker took another one's place."""
        answers = await self.ask({"do": "standing"})
        for order in next((answer["rows"] for answer in answers[1:] if "rows" in answer), []):
            answer = await self.commands.run(order)
            if "error" in answer:
                _log.error("a standing order was not carried out", order=order, **answer["error"])

    async def metrics(self) -> Families:
        """The metrics of all workers, merged."""
        snapshots = []
        for answer in await self.ask({"do": "metrics"}):
            if "families" in answer:
                snapshots.append(families.from_dict(answer))
        return families.merge(snapshots)
