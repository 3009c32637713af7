"""
Where operators' requests arrive, from HTTP and from the console, to be carried out by all workers.

Looking is not noted; every change leaves one line of audit, whether it succeeded or not.
"""

from typing import TYPE_CHECKING, Any, final

from proxy.admin import merging
from proxy.admin.audit import Audit
from proxy.admin.commands import Answer, Request, problem_of
from proxy.admin.fleet import Fleet
from proxy.admin.kv import KvAccess
from proxy.admin.problems import AdminProblem

if TYPE_CHECKING:
    from proxy.server.worker import Worker

Row = dict[str, Any]


@final
class Desk:
    """
    One worker's desk; it speaks for all workers.

    worker  this one
    """

    def __init__(self, worker: "Worker", fleet: Fleet, audit: Audit) -> None:
        self.worker = worker
        self.fleet = fleet
        self.audit = audit
        self.kv = KvAccess(worker)

    # -- looking

    async def ask(self, do: str, **arguments: Any) -> list[Answer]:
        """Ask all workers; the first answer is this worker's. Raises the first problem there is."""
        answers = await self.fleet.ask({"do": do, **arguments})
        for answer in answers:
            problem = problem_of(answer)
            if problem is not None:
                raise problem
        return answers

    async def here(self, do: str, **arguments: Any) -> Answer:
        """Ask this worker alone: for what is the same in all. Raises AdminProblem."""
        answer = await self.fleet.commands.run({"do": do, **arguments})
        problem = problem_of(answer)
        if problem is not None:
            raise problem
        return answer

    async def status(self) -> Row:
        """All workers as one."""
        return merging.status(await self.ask("status"))

    async def pools(self) -> list[Row]:
        """Every pool once."""
        return merging.pools(await self.ask("pools"))

    async def rows(self, what: str) -> list[Row]:
        """Clients, servers or refused statements of all workers."""
        return merging.rows(await self.ask(what))

    async def refused(self) -> list[Row]:
        """The statements that were refused last, by any worker, the newest first."""
        found = await self.rows("refused")
        return sorted(found, key=lambda row: float(row["time_s"]), reverse=True)

    async def totals(self) -> list[Row]:
        """Sums by database."""
        return merging.totals(await self.ask("totals"))

    async def nodes(self) -> list[Row]:
        """The nodes, as this worker sees them; each asks for itself."""
        found: list[Row] = (await self.here("nodes"))["rows"]
        return found

    async def plugins(self) -> list[Row]:
        """Every plugin once."""
        return merging.plugins(await self.ask("plugins"))

    async def plugin(self, name: str) -> Row:
        """One plugin in full."""
        return merging.plugin(await self.ask("plugin", name=name), is_readable=True)

    # -- changing

    async def change(
        self, who: str, source: str, target: str, request: Request, *, is_local: bool = False
    ) -> Answer:
        """Have a change made, and note it. Raises AdminProblem."""
        action = str(request["do"])
        try:
            if is_local:
                answers = [await self.here(**request)]
            else:
                answers = await self.ask(**request)
        except AdminProblem as problem:
            self.audit.note(who, source, action, target, problem.why)
            raise
        except Exception:
            self.audit.note(who, source, action, target, "internal error")
            raise
        self.audit.note(who, source, action, target, "ok")
        first = dict(answers[0])
        for name in ("in_use", "killed"):
            if name in first:
                first[name] = sum(int(answer.get(name, 0)) for answer in answers)
        return first
