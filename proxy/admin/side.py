"""
The admin side of one worker: what the worker starts, stops, and hands console clients to.
"""

from typing import TYPE_CHECKING, final

from proxy.admin.audit import Audit
from proxy.admin.console import Console, Operator
from proxy.admin.console_wire import ConsoleSession
from proxy.admin.desk import Desk
from proxy.admin.fleet import Fleet
from proxy.admin.http import AdminServer

if TYPE_CHECKING:
    from proxy.server.worker import Worker
    from proxy.session.context import ClientContext
    from proxy.session.ports import Wire


@final
class AdminSide:
    """
    HTTP and console.

    fleet   requests to this worker and to all others; its `peers` is set where there are others
    desk    carries out what operators ask for
    """

    def __init__(self, worker: "Worker") -> None:
        self.fleet = Fleet(worker)
        self.desk = Desk(worker, self.fleet, Audit())
        self._console = Console(self.desk)
        self._worker = worker
        self._http = AdminServer(worker, self.desk)

    def console_session(self, context: "ClientContext", wire: "Wire") -> ConsoleSession:
        """Make the session of a client that asked for the console; to be started with its key."""
        operator = Operator(context, self.desk)
        return ConsoleSession(self._console, operator, wire, self._worker.tasks.spawn)

    async def start(self) -> None:
        """Begin to serve HTTP. Raises SettingsError when its address cannot be had."""
        await self._http.start()

    async def stop(self) -> None:
        """End HTTP; the last thing in a drain, so that probes see it to its end."""
        await self._http.stop()
