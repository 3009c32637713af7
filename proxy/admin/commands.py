"""
What one worker process does when an operator asks, whichever way: HTTP, console, another worker.

A request is a dictionary of plain values: `do` names a command, the rest are its arguments. The
answer is one too; a failure is {"error": {"what", "why", "hint"}, "status"}. Knows neither HTTP nor
the console's protocol.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, final

import structlog

from proxy.admin import views
from proxy.admin.problems import AdminProblem
from proxy.admin.standing import StandingOrders
from proxy.errors import HeadgateError, PluginFailed, Refusal
from proxy.hooks.login import PluginCalls
from proxy.hooks.points import CUSTOM_HOOK
from proxy.observe import families
from proxy.observe.metrics import snapshot
from proxy.plugins import events as plugin_events
from proxy.plugins.events import Event
from proxy.pool import upkeep
from proxy.server import lifecycle
from proxy.server.clock import monotonic_s

if TYPE_CHECKING:
    from proxy.server.worker import Worker

MAX_LOG_LINES: Final = 500
PAUSE_LOOK_S: Final = 0.05

Request = dict[str, Any]
Answer = dict[str, Any]

_log = structlog.get_logger("headgate.admin")


@final
class Commands:
    """Carries out requests on one worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self.standing = StandingOrders()
        self.calls = PluginCalls(worker.pipeline, monotonic_s)
        self._table: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "metrics": self._metrics,
            "status": self._status,
            "pools": self._rows(views.pools),
            "clients": self._rows(views.clients),
            "servers": self._rows(views.servers),
            "totals": self._rows(views.totals),
            "nodes": self._rows(views.nodes),
            "plugins": self._rows(views.plugins),
            "events": self._rows(views.events),
            "refused": self._rows(views.refused),
            "config": self._config,
            "standing": self._standing,
            "reload": self._reload,
            "pause": self._pause,
            "resume": self._resume,
            "reconnect": self._reconnect,
            "vacate": self._vacate,
            "kill": self._kill,
            "wait_close": self._wait_close,
            "disable": self._disable,
            "enable": self._enable,
            "kill_client": self._kill_client,
            "shutdown": self._shutdown,
            "plugin": self._plugin,
            "plugin_logs": self._plugin_logs,
            "plugin_call": self._plugin_call,
            "plugins_reload": self._plugins_reload,
            "plugin_reload": self._plugin_reload,
            "plugin_enable": self._plugin_enable,
            "plugin_disable": self._plugin_disable,
            "plugin_unload": self._plugin_unload,
        }

    async def run(self, request: Request) -> Answer:
        """Carry out one request. Never raises, but for a defect."""
        command = self._table.get(str(request.get("do")))
        if command is None:
            return failure(AdminProblem(400, f"no command {request.get('do')!r}"))
        try:
            answer = await command(request)
        except AdminProblem as problem:
            return failure(problem)
        except KeyError:
            # An argument is missing: a defect of the caller, and no unknown name.
            raise
        except LookupError as unknown:
            return failure(
                AdminProblem(404, str(unknown.args[0] if unknown.args else unknown),
                             "GET /api/plugins lists what there is.")
            )  # fmt: skip
        except HeadgateError as error:
            return failure(AdminProblem(409, str(error)))
        self.standing.note(request)
        return answer

    # -- looking

    def _rows(
        self, view: Callable[["Worker"], list[views.Row]]
    ) -> Callable[[Request], Awaitable[Answer]]:
        async def show(request: Request) -> Answer:
            del request
            return {"rows": view(self._worker)}

        return show

    async def _metrics(self, request: Request) -> Answer:
        samples = await self.calls.metrics()
        return families.to_dict(snapshot(self._worker, samples))

    async def _status(self, request: Request) -> Answer:
        return views.status(self._worker)

    async def _config(self, request: Request) -> Answer:
        return {"config": views.config(self._worker)}

    async def _standing(self, request: Request) -> Answer:
        """What a worker that takes another's place has to be told."""
        return {"rows": self.standing.all()}

    async def _plugin(self, request: Request) -> Answer:
        return {"plugin": views.plugin(self._worker, str(request["name"]))}

    async def _plugin_logs(self, request: Request) -> Answer:
        log = self._worker.plugins.logs(str(request["name"]))
        after = int(request.get("after", {}).get(str(self._worker.index), 0))
        lines = [line for line in list(log.lines) if line.number > after]
        count = max(0, min(int(request.get("limit", 100)), MAX_LOG_LINES))
        return {
            "worker": self._worker.index,
            "written": log.written,
            "dropped": log.dropped,
            "rows": [
                {
                    "worker": self._worker.index,
                    "number": line.number,
                    "time_s": line.time_s,
                    "level": line.level,
                    "text": line.text,
                }
                for line in (lines[-count:] if count else [])
            ],
        }

    # -- the proxy

    async def _reload(self, request: Request) -> Answer:
        problems = await lifecycle.reload(self._worker)
        if problems:
            raise AdminProblem(
                422,
                "; ".join(problems),
                "Everything stays as it was. `headgate check` says more.",
                "the configuration is not valid",
            )
        return {"ok": True}

    async def _shutdown(self, request: Request) -> Answer:
        # With several workers the parent tells them all.
        target = os.getpid() if self._worker.workers == 1 else os.getppid()
        _log.info("shutdown asked for by an operator")
        asyncio.get_running_loop().call_later(0.05, os.kill, target, signal.SIGTERM)
        return {"ok": True}

    # -- pools

    async def _pause(self, request: Request) -> Answer:
        """Pause, and wait a while for what is in use; `in_use` says what still is."""
        database = self._database(str(request.get("database", "")))
        broker = self._worker.pools.broker
        upkeep.pause(broker, database)
        until_s = monotonic_s() + float(request.get("wait_s", 0.0))
        in_use = upkeep.in_use(broker, database)
        while in_use and monotonic_s() < until_s:
            await asyncio.sleep(PAUSE_LOOK_S)
            in_use = upkeep.in_use(broker, database)
        return {"ok": True, "in_use": in_use}

    async def _resume(self, request: Request) -> Answer:
        self._worker.pools.resume(str(request.get("database", "")))
        return {"ok": True}

    async def _vacate(self, request: Request) -> Answer:
        """Of a worker, for its client's statement; no command for operators."""
        self._worker.pools.vacate(str(request["database"]))
        return {}

    async def _reconnect(self, request: Request) -> Answer:
        self._worker.pools.reconnect(self._database(str(request.get("database", ""))))
        return {"ok": True}

    async def _kill(self, request: Request) -> Answer:
        self._worker.pools.kill(self._database(str(request["database"])))
        return {"ok": True}

    async def _wait_close(self, request: Request) -> Answer:
        """Count what a reconnect or a reload has still to make anew."""
        broker = self._worker.pools.broker
        return {
            "ok": True,
            "in_use": upkeep.outdated(broker, self._database(str(request.get("database", "")))),
        }

    async def _disable(self, request: Request) -> Answer:
        self._worker.limits.disabled.add(self._database(str(request["database"])))
        return {"ok": True}

    async def _enable(self, request: Request) -> Answer:
        self._worker.limits.disabled.discard(str(request["database"]))
        return {"ok": True}

    async def _kill_client(self, request: Request) -> Answer:
        """End a client of this worker, if it is one."""
        killed = 0
        for connection in list(self._worker.connections):
            session = connection.session
            if session is not None and session.client.client_id == request["client"]:
                session.fatal(
                    Refusal("57P01", "terminating connection due to administrator command")
                )
                killed += 1
        return {"ok": True, "killed": killed}

    def _database(self, database: str) -> str:
        """The name of a database, as clients call it, if there is one; "" is all of them."""
        if database and self._worker.pools.broker.plan.database(database) is None:
            raise AdminProblem(
                404, f'database "{database}" does not exist', "[[database]] names those that do."
            )
        return database

    # -- plugins

    async def _plugins_reload(self, request: Request) -> Answer:
        found = await self._worker.plugins.reload()
        failed = [event for event in found if event.kind == plugin_events.FAILED]
        if failed:
            raise _load_refused(failed)
        return {"events": [event.as_dict() for event in found]}

    async def _plugin_reload(self, request: Request) -> Answer:
        return _answer_of(await self._worker.plugins.reload(str(request["name"])))

    async def _plugin_enable(self, request: Request) -> Answer:
        return _answer_of([await self._worker.plugins.enable(str(request["name"]))])

    async def _plugin_disable(self, request: Request) -> Answer:
        return _answer_of([await self._worker.plugins.disable(str(request["name"]))])

    async def _plugin_unload(self, request: Request) -> Answer:
        return _answer_of([await self._worker.plugins.unload(str(request["name"]))])

    async def _plugin_call(self, request: Request) -> Answer:
        """Call `custom_hook`; `payload` and the answer are JSON as text."""
        name = str(request["name"])
        self._worker.plugins.get(name)
        subscribers = self._worker.pipeline.chains.points[CUSTOM_HOOK]
        if all(subscriber.plugin != name for subscriber in subscribers):
            raise AdminProblem(
                409,
                f"plugin {name!r} is not active, or has no custom_hook",
                f"GET /api/plugins/{name} shows its state and hooks.",
            )
        try:
            answer = await self.calls.custom(name, str(request["payload"]).encode())
        except PluginFailed as failed:
            raise AdminProblem(
                502,
                f"plugin {name!r} failed: {failed.cause}",
                f"GET /api/plugins/{name}/logs may say more.",
            ) from None
        return {"answer": answer.decode()}


def failure(problem: AdminProblem) -> Answer:
    """A problem as an answer."""
    return {**problem.as_dict(), "status": problem.status}


def problem_of(answer: Answer) -> AdminProblem | None:
    """The problem in an answer; None: there is none."""
    error = answer.get("error")
    if not isinstance(error, dict) or "status" not in answer:
        return None
    return AdminProblem(
        int(answer["status"]),
        str(error.get("why", "")),
        str(error.get("hint", "")),
        str(error.get("what", "")),
    )


def _answer_of(found: list[Event]) -> Answer:
    failed = [event for event in found if event.kind == plugin_events.FAILED]
    if failed:
        raise _load_refused(failed)
    return {"event": found[-1].as_dict() if found else None}


def _load_refused(failed: list[Event]) -> AdminProblem:
    texts = [f"plugin {event.plugin!r}: {event.cause}: {event.message}" for event in failed]
    return AdminProblem(
        422,
        "; ".join(texts),
        "The generation that ran before, if any, goes on.",
        "the plugin was not loaded",
    )
