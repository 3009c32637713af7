"""
The admin HTTP server: a Litestar application on uvicorn, in the worker's own event loop.

Signals, logging and the life of the process stay the worker's: uvicorn is told to leave them
alone. With several worker processes each listens on the same port, and answers for all of them
(`admin.fleet`).
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, final

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from proxy.admin.api import make_app
from proxy.admin.desk import Desk
from proxy.admin.guard import Guard
from proxy.errors import SettingsError
from proxy.server.listener import open_tcp_sockets

if TYPE_CHECKING:
    from proxy.server.worker import Worker

BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 256
"""One more, and that which says nothing for the longest time is left."""

REQUEST_TIMEOUT_S: Final = 10.0
"""Time for a whole request."""

STOP_TIMEOUT_S: Final = 2

_log = structlog.get_logger("headgate.admin")


class _Connection(H11Protocol):
    """
    A connection that is left when it lets us wait for its request.

    Uvicorn itself waits for ever, and with a limit of connections answers 503 to all who come then:
    a few hundred connections that say nothing would take the health checks away.
    """

    waits_since_s = 0.0
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for this one, and begin to wait."""
        super().connection_made(transport)
        self.waits_since_s = self.loop.time()
        self._look = self.loop.call_later(REQUEST_TIMEOUT_S, self._look_again)
        if len(self.connections) > MAX_CONNECTIONS:
            connections = [each for each in self.connections if isinstance(each, _Connection)]
            # This one is among those that wait, the last of them.
            silent = [each for each in connections if each.is_waiting()]
            min(silent, key=lambda each: each.waits_since_s).leave()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self.waits_since_s = self.loop.time()
        super().on_response_complete()

    def is_waiting(self) -> bool:
        """Whether it is the client's turn: its request is not whole."""
        cycle = self.cycle
        return cycle is None or cycle.response_complete or cycle.more_body

    def leave(self) -> None:
        """Close it now."""
        self.transport.abort()

    def _look_again(self) -> None:
        if self.is_waiting() and self.loop.time() - self.waits_since_s >= REQUEST_TIMEOUT_S:
            self.leave()
            return
        self._look = self.loop.call_later(REQUEST_TIMEOUT_S, self._look_again)


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its signal handlers: SIGTERM and SIGINT drain the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


@final
class AdminServer:
    """The HTTP side of one worker."""

    def __init__(self, worker: "Worker", desk: Desk) -> None:
        self._worker = worker
        self._desk = desk
        self._server: _Uvicorn | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises SettingsError when the address cannot be had; without a port, nothing."""
        worker = self._worker
        admin = worker.settings.admin
        if admin.port == 0:
            return
        try:
            sockets = open_tcp_sockets(
                [admin.host], admin.port, BACKLOG, reuse_port=worker.workers > 1
            )
        except SettingsError as error:
            raise SettingsError([f"admin: {problem}" for problem in error.problems]) from None
        app = Guard(
            make_app(self._desk),
            lambda: worker.settings.admin,
            worker.counters,
        )
        server = _Uvicorn(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                proxy_headers=False,
                http=_Connection,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )
        self._server = server
        self._task = worker.tasks.spawn(server.serve(sockets=sockets), "admin HTTP server")

    async def stop(self) -> None:
        """Stop listening, and end what is still being answered."""
        server, self._server = self._server, None
        task, self._task = self._task, None
        if server is None or task is None:
            return
        server.should_exit = True
        await asyncio.wait([task], timeout=STOP_TIMEOUT_S + 1)
        if not task.done():
            _log.warning("admin requests cut off")
            task.cancel()
