"""
A client of the admin console: PostgreSQL's protocol around `Console`.

Simple queries, and as much of the extended protocol as drivers need to send one: no parameters, no
cursors. Messages are worked on one after the other in a task, because commands ask other worker
processes and may wait (PAUSE). Whatever a client does wrong ends its own connection only.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, final

import structlog

from proxy.admin.console import Console, Operator
from proxy.admin.console_result import Result
from proxy.errors import ProtocolViolation, Refusal, Refused
from proxy.protocol import backend, frontend, tags
from proxy.session.ports import OtherSession, Wire
from proxy.session.tuning import CancelKey

MAX_MESSAGE_BYTES: Final = 64 * 1024
MAX_AHEAD_BYTES: Final = 256 * 1024
MAX_STATEMENTS: Final = 100

Spawn = Callable[[Coroutine[Any, Any, Any], str], "asyncio.Task[Any]"]

_PARSE_COMPLETE: Final = b"1\x00\x00\x00\x04"
_BIND_COMPLETE: Final = b"2\x00\x00\x00\x04"
_CLOSE_COMPLETE: Final = b"3\x00\x00\x00\x04"
_NO_DATA: Final = b"n\x00\x00\x00\x04"
_EMPTY_QUERY: Final = b"I\x00\x00\x00\x04"

_log = structlog.get_logger("headgate.console")


@final
class _Portal:
    """A statement to be executed: its text, the result once there is one, the formats wanted."""

    __slots__ = ("formats", "result", "sql")

    def __init__(self, sql: str, formats: list[int]) -> None:
        self.sql = sql
        self.formats = formats
        self.result: Result | None = None


@final
class ConsoleSession(OtherSession):
    """One client of the console, from the end of its login to its end."""

    def __init__(
        self,
        console: Console,
        operator: Operator,
        wire: Wire,
        spawn: Spawn,
        queue_limit: int = 1000,
    ) -> None:
        self._console = console
        self._operator = operator
        self._wire = wire
        self._spawn = spawn
        self._buffer = b""
        self._messages: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue()
        self._queue_limit = queue_limit
        self._is_held = False
        self._is_closed = False
        self._is_draining = False
        self._is_working = False
        self._cancelled = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, _Portal] = {}
        self._is_failed = False

    # -- OtherSession

    def start(self, key: CancelKey) -> None:
        """Greet the client, or send it away if it may not be here."""
        if not self._operator.may_show():
            self.fatal(
                Refusal(
                    "42501",
                    f'user "{self._operator.user}" is not allowed to use the admin console',
                    hint="admin.console_users and admin.stats_users name those who are.",
                )
            )
            return
        pieces = [
            backend.parameter_status(name.encode(), value.encode())
            for name, value in self._console.parameters().items()
        ]
        pieces.append(backend.backend_key_data(key.process_id, key.secret_key))
        pieces.append(backend.ready_for_query(tags.STATUS_IDLE))
        self._wire.write(b"".join(pieces))
        self._task = self._spawn(self._work(), "console client")

    def receive_from_frontend(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._is_closed:
            return
        self._buffer += data
        try:
            self._cut()
        except ProtocolViolation as violation:
            self.fatal(Refusal(violation.sqlstate, violation.message))
            return
        self._hold_or_release()

    def on_frontend_lost(self) -> None:
        """The client has gone, or is being sent away."""
        self._is_closed = True
        self._cancelled.set()
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def drain(self) -> None:
        """Shut down: an idle client is told now, another one after its command."""
        self._is_draining = True
        if not self._is_working:
            self.fatal(Refusal("57P01", "terminating connection due to administrator command"))

    def fatal(self, refusal: Refusal) -> None:
        """Tell the client why, and end."""
        if self._is_closed:
            return
        refusal.severity = "FATAL"
        self._wire.write(backend.error_response(refusal))
        self._wire.close()
        self._is_closed = True
        self._cancelled.set()

    def cancel(self) -> None:
        """A CancelRequest: end a command that waits."""
        if self._is_working:
            self._cancelled.set()

    # -- in

    def _cut(self) -> None:
        pos = 0
        buffer = self._buffer
        while len(buffer) - pos >= 5:
            length = int.from_bytes(buffer[pos + 1 : pos + 5], "big")
            if length < 4 or length > MAX_MESSAGE_BYTES:
                raise ProtocolViolation("invalid message length")
            end = pos + 1 + length
            if end > len(buffer):
                break
            self._messages.put_nowait((buffer[pos], buffer[pos + 5 : end]))
            pos = end
        self._buffer = buffer[pos:]

    def _hold_or_release(self) -> None:
        is_much = self._messages.qsize() > self._queue_limit
        if is_much and not self._is_held:
            self._is_held = True
            self._wire.pause_reading()
        elif not is_much and self._is_held:
            self._is_held = False
            self._wire.resume_reading()

    async def _work(self) -> None:
        while not self._is_closed:
            tag, body = await self._messages.get()
            self._hold_or_release()
            self._is_working = True
            self._cancelled.clear()
            try:
                await self._handle(tag, body)
            except ProtocolViolation as violation:
                self.fatal(Refusal(violation.sqlstate, violation.message))
            except Exception:
                _log.exception("console command failed")
                self.fatal(Refusal("XX000", "internal error of the console", hint="See the log."))
            self._is_working = False
            if self._is_draining and self._messages.empty():
                self.fatal(Refusal("57P01", "terminating connection due to administrator command"))
        self._task = None

    async def _handle(self, tag: int, body: bytes) -> None:
        if tag == tags.TERMINATE:
            self._is_closed = True
            self._wire.close()
        elif tag == tags.QUERY:
            self._is_failed = False
            await self._simple(frontend.Query.decode(body).sql)
        elif tag == tags.SYNC:
            self._is_failed = False
            self._portals.clear()
            self._send(backend.ready_for_query(tags.STATUS_IDLE))
        elif self._is_failed or tag == tags.FLUSH:
            # Everything up to the Sync is skipped; what there is to send has been sent.
            return
        else:
            try:
                await self._extended(tag, body)
            except Refused as refused:
                self._is_failed = True
                self._send(backend.error_response(refused.refusal))

    # -- simple protocol

    async def _simple(self, sql: bytes) -> None:
        try:
            texts = self._console.split(_text(sql))
            if not texts:
                self._send(_EMPTY_QUERY)
            for text in texts:
                result = await self._console.run(text, self._operator, self._cancelled)
                pieces = [backend.notice_response(notice) for notice in result.notices]
                if result.columns:
                    pieces.append(result.description([]))
                    pieces += result.data_rows([])
                pieces.append(backend.command_complete(result.tag.encode()))
                self._send(b"".join(pieces))
        except Refused as refused:
            self._send(backend.error_response(refused.refusal))
        self._send(backend.ready_for_query(tags.STATUS_IDLE))

    # -- extended protocol

    async def _extended(self, tag: int, body: bytes) -> None:
        if tag == tags.PARSE:
            self._parse(frontend.Parse.decode(body))
        elif tag == tags.BIND:
            self._bind(frontend.Bind.decode(body))
        elif tag == tags.DESCRIBE:
            await self._describe(frontend.Describe.decode(body))
        elif tag == tags.EXECUTE:
            await self._execute(frontend.Execute.decode(body))
        elif tag == tags.CLOSE:
            close = frontend.Close.decode(body)
            known = self._statements if close.kind == frontend.STATEMENT else self._portals
            known.pop(close.name, None)
            self._send(_CLOSE_COMPLETE)
        else:
            raise Refused(Refusal("0A000", "the admin console does not take this message"))

    def _parse(self, message: frontend.Parse) -> None:
        texts = self._console.split(_text(message.sql))
        if len(texts) > 1:
            raise Refused(
                Refusal("42601", "cannot insert multiple commands into a prepared statement")
            )
        if len(self._statements) >= MAX_STATEMENTS and message.statement not in self._statements:
            raise Refused(Refusal("53400", f"more than {MAX_STATEMENTS} prepared statements"))
        self._statements[message.statement] = texts[0] if texts else ""
        self._send(_PARSE_COMPLETE)

    def _bind(self, message: frontend.Bind) -> None:
        if message.parameters:
            raise Refused(Refusal("08P01", "commands of the admin console take no parameters"))
        if len(self._portals) >= MAX_STATEMENTS and message.portal not in self._portals:
            raise Refused(Refusal("53400", f"more than {MAX_STATEMENTS} portals"))
        sql = self._statement(message.statement)
        self._portals[message.portal] = _Portal(sql, message.result_formats)
        self._send(_BIND_COMPLETE)

    async def _describe(self, message: frontend.Describe) -> None:
        if message.kind == frontend.STATEMENT:
            sql = self._statement(message.name)
            self._send(backend.parameter_description([]))
            formats: list[int] = []
        else:
            portal = self._portal(message.name)
            sql, formats = portal.sql, portal.formats
        # What it looks like is known from what it is, without doing it.
        columns = self._console.columns_of(sql, self._operator)
        self._send(columns.description(formats) if columns is not None else _NO_DATA)

    async def _execute(self, message: frontend.Execute) -> None:
        portal = self._portal(message.portal)
        if not portal.sql:
            self._send(_EMPTY_QUERY)
            return
        result = await self._console.run(portal.sql, self._operator, self._cancelled)
        pieces = [backend.notice_response(notice) for notice in result.notices]
        pieces += result.data_rows(portal.formats)
        pieces.append(backend.command_complete(result.tag.encode()))
        self._send(b"".join(pieces))

    def _statement(self, name: bytes) -> str:
        sql = self._statements.get(name)
        if sql is None:
            raise Refused(Refusal("26000", f'prepared statement "{_text(name)}" does not exist'))
        return sql

    def _portal(self, name: bytes) -> _Portal:
        portal = self._portals.get(name)
        if portal is None:
            raise Refused(Refusal("34000", f'portal "{_text(name)}" does not exist'))
        return portal

    def _send(self, data: bytes) -> None:
        if not self._is_closed:
            self._wire.write(data)


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refused(Refusal("22021", 'invalid byte sequence for encoding "UTF8"')) from None
