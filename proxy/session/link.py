"""
One server connection, after its login: replies in, in the order in which they are owed.

Theory of operation. `receive_from_backend` cuts the stream into messages and forwards them in
runs: one slice for everything between two messages that someone must look at. Whose reply a
message is follows from two queues: `_internal`, queries of the proxy's own (settings, looking
at what a session left behind), and behind them the client's one `exchange`. An exchange with
`steps` has replies to be dropped, invented or replaced; one without is forwarded as it comes. Only
ReadyForQuery ends a query or an exchange, and only its status byte says what the transaction is
(rules 1, 2 and 21).
"""

from typing import Final, final

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import backend, tags
from proxy.protocol.plain import is_plain_reply
from proxy.session import speakers
from proxy.session.exchange import (
    STEP_DROP,
    STEP_INVENT,
    Exchange,
    Prepared,
    Step,
    note_types,
)
from proxy.session.farewell import fatal_of, is_farewell, refusal_of
from proxy.session.ports import Wire
from proxy.session.reported import identify
from proxy.session.users import InternalQuery, LinkUser

MAX_REPLY_BYTES: Final = 256 * 1024 * 1024
"""Longest reply that must be whole before it is looked at; rows and copy data stream at any size."""

HEADER_BYTES: Final = 5

SYNC_FRAME: Final = b"S\x00\x00\x00\x04"


@final
class BackendLink:
    """
    A logged-in server connection.

    node            name of the node it goes to
    pool            whatever the pool hangs on it; not used here
    status          transaction status of the last ReadyForQuery
    reported        the server's ParameterStatus values
    applied         settings that the proxy made on it for a client; applied_key names that set
    prepared        statements on it by key, with their server names; oldest first
    unnamed         whose unnamed statement the server has now
    is_touched      something ran that may have left session state behind
    is_opaque       code ran that may have made settings which nobody can ask for; `opaque_for` is
                    the number of the session whose code that was
    turn            how often it was given back: whose turn it is, for what `sequences_since`
                    means: since that turn it knows no sequence of those before
    user_session    the session it serves, None while idle
    is_express      it owes the whole reply to one plain statement; see `session.express`
    speaker         whose notifications come from it; see `session.speakers`
    watches         completions are reported
    held            of the reply, what came before the server's farewell: for the client if it is not
                    served elsewhere
    """

    __slots__ = (
        "_internal",
        "_name_counter",
        "_needed",
        "_passing",
        "_tail",
        "_tail_bytes",
        "applied",
        "applied_key",
        "bytes_received",
        "close_reason",
        "database",
        "exchange",
        "garbage",
        "held",
        "idle_since_s",
        "is_closed",
        "is_express",
        "is_opaque",
        "is_touched",
        "last_fatal",
        "node",
        "opaque_for",
        "opened_at_s",
        "pool",
        "prepared",
        "process_id",
        "reported",
        "reported_id",
        "secret_key",
        "sequences_since",
        "speaker",
        "status",
        "turn",
        "unnamed",
        "user",
        "user_session",
        "watches",
        "wire",
    )

    def __init__(
        self,
        wire: Wire,
        database: str,
        user: str,
        node: str,
        process_id: int,
        secret_key: bytes,
        parameters: dict[bytes, bytes],
        opened_at_s: float,
    ) -> None:
        self.wire = wire
        self.database = database
        self.user = user
        self.node = node
        self.process_id = process_id
        self.secret_key = secret_key
        self.reported = parameters
        self.reported_id = identify(parameters)
        self.opened_at_s = opened_at_s
        self.idle_since_s = opened_at_s
        self.pool: object | None = None
        self.is_closed = False
        self.close_reason = ""
        self.status = tags.STATUS_IDLE
        self.applied: dict[str, bytes] = {}
        self.applied_key = b""
        self.speaker = speakers.enter(node, process_id)
        self.prepared: dict[bytes, bytes] = {}
        self.garbage: list[bytes] = []  # server names of statements to be closed
        self.unnamed: Prepared | None = None
        self.is_touched = False
        self.is_opaque = False
        self.opaque_for = 0
        self.turn = 0
        self.sequences_since = 0
        self.user_session: LinkUser | None = None
        self.watches = False
        self.is_express = False
        self.exchange: Exchange | None = None
        self.bytes_received = 0
        self.last_fatal: Refusal | None = None
        self._internal: list[InternalQuery] = []
        self.held = b""  # what came before the farewell that is in `_tail`
        self._tail: list[bytes] = []  # of an incomplete message, its header first
        self._tail_bytes = 0
        self._needed = 0
        self._passing = 0
        self._name_counter = 0

    # -- to the server

    def send(self, data: bytes) -> None:
        """Send bytes to the server."""
        self.wire.write(data)

    def run_internal(self, sql: bytes, query: InternalQuery) -> None:
        """Send a simple Query of the proxy's own; replies that are owed before it come first."""
        self._internal.append(query)
        self.unnamed = None
        length = len(sql) + 5
        self.wire.write(b"Q" + length.to_bytes(4, "big") + sql + b"\x00")

    def expect_internal(self, query: InternalQuery) -> None:
        """A ReadyForQuery is owed to the proxy itself."""
        self._internal.append(query)

    def keep_name(self, key: bytes, name: bytes, max_prepared: int) -> None:
        """A statement on it is used again: of those that may have to make room it is the last."""
        if len(self.prepared) * 4 > max_prepared * 3:
            # Only worth it when something may be evicted soon.
            del self.prepared[key]
            self.prepared[key] = name

    def new_server_name(self) -> bytes:
        """A statement name that is not in use on this connection."""
        self._name_counter += 1
        return b"headgate_%d" % self._name_counter

    def close(self, reason: str) -> None:
        """Say goodbye and close; idempotent. The user, if any, is not told."""
        if self.is_closed:
            return
        self.is_closed = True
        speakers.leave(self.speaker)
        self.close_reason = reason
        self.wire.write(b"X\x00\x00\x00\x04")
        self.wire.close()

    def owes_nothing(self) -> bool:
        """No reply is on its way (rule 1)."""
        return (
            self.exchange is None
            and not self.is_express
            and not self._internal
            and self._passing == 0
        )

    def is_mid_message(self) -> bool:
        """Part of a message went to the client, and the rest of it did not come yet."""
        return self._passing > 0

    # -- from the server

    def receive_from_backend(self, data: bytes) -> None:
        """
        Take received bytes: forward, drop, invent; report what the session must know.

        Not to be called any more once the link is closed.
        """
        self.bytes_received += len(data)
        if self.is_express:
            user = self._user()
            if not self._tail and is_plain_reply(data):
                self.is_express = False
                user.on_plain_reply(self, data)
                return
            user.unfold()
        if self.held:
            held = self.held
            self.held = b""
            self._forward(held)
        if self._tail:
            # A long message is joined once, when all of it is there: no quadratic copying.
            self._tail.append(data)
            self._tail_bytes += len(data)
            if self._tail_bytes < self._needed:
                return
            data = b"".join(self._tail)
            self._tail = []
        size = len(data)
        pos = 0
        run = 0
        if self._passing > 0:
            if self._passing >= size:
                self._passing -= size
                self._forward(data)
                return
            pos = self._passing
            self._passing = 0
        while size - pos >= 5:
            tag = data[pos]
            length = (
                (data[pos + 1] << 24) | (data[pos + 2] << 16) | (data[pos + 3] << 8) | data[pos + 4]
            )
            end = pos + 1 + length
            if length < 4:
                self._hostile("a message with an invalid length")
                return
            if tag == tags.DATA_ROW or tag == tags.COPY_DATA:
                if self._internal:
                    if end > size:
                        if length > MAX_REPLY_BYTES:
                            self._hostile("a row that is too long")
                            return
                        break
                    if tag == tags.DATA_ROW:
                        try:
                            values = backend.data_row_values(data[pos + 5 : end])
                        except ProtocolViolation:
                            self._hostile("a malformed row")
                            return
                        self._internal[0].on_row(values)
                    pos = end
                    run = end
                    continue
                if self.exchange is None:
                    # SAFETY: the rest of it would go to whoever has the connection by then.
                    self._hostile("a row that nobody asked for")
                    return
                if end > size:
                    self._passing = end - size
                    pos = size
                    break
                pos = end
                continue
            if end > size:
                if length > MAX_REPLY_BYTES:
                    self._hostile("a message that is too long")
                    return
                break
            if tag == tags.READY_FOR_QUERY:
                if length != 5:
                    self._hostile("a malformed ReadyForQuery")
                    return
                self.status = data[pos + 5]
                if self._internal:
                    query = self._internal.pop(0)
                    pos = end
                    run = end
                    query.on_done(self, self.status)
                    if self.is_closed:
                        return
                    continue
                exchange = self.exchange
                if exchange is None:
                    self._hostile("a ReadyForQuery that nobody asked for")
                    return
                user = self._user()
                steps = exchange.steps
                at = exchange.at
                if (
                    steps is not None
                    and at < len(steps)
                    and steps[at].kind == STEP_INVENT
                    and not exchange.is_retrying
                ):
                    # Replies at the end that the server was not asked for.
                    if run < pos:
                        user.on_reply(data[run:pos])
                        run = pos
                    self.advance(exchange)
                pos = end
                if not exchange.is_retrying:
                    user.on_reply(data[run:pos] if run > 0 or pos < size else data)
                run = pos
                self.exchange = None
                user.on_exchange_done(self, exchange, self.status)
                if self.is_closed:
                    return
                continue
            if self._inspect(tag, data, run, pos, end):
                run = end
            pos = end
            if self.is_closed:
                return
        if run < pos:
            self._forward(data[run:pos] if run > 0 or pos < size else data)
        if pos < size:
            rest = data[pos:]
            self._tail = [rest]
            self._tail_bytes = size - pos
            self._needed = HEADER_BYTES
            if size - pos >= HEADER_BYTES:
                self._needed = 1 + ((rest[1] << 24) | (rest[2] << 16) | (rest[3] << 8) | rest[4])

    def connection_lost(self) -> None:
        """The socket has ended. Mutating; tells the session that used it, once."""
        self.is_closed = True
        speakers.leave(self.speaker)
        user = self.user_session
        self.user_session = None
        self.exchange = None
        self._internal = []
        if user is not None:
            user.on_link_lost(self, self.last_fatal or refusal_of(self._tail, self.node))

    def advance(self, exchange: Exchange) -> None:
        """Send the invented replies whose turn it is."""
        steps = exchange.steps
        if steps is None:
            raise AssertionError("only an exchange with steps has invented replies")
        user = self._user()
        while exchange.at < len(steps) and steps[exchange.at].kind == STEP_INVENT:
            data = steps[exchange.at].data
            exchange.at += 1
            user.on_reply(data)

    # -- inside

    def _user(self) -> LinkUser:
        """The session whose exchange is under way."""
        user = self.user_session
        if user is None:
            raise AssertionError("an exchange is some session's, or its connection is closed")
        return user

    def _forward(self, data: bytes) -> None:
        if self._internal:
            return
        user = self.user_session
        if user is not None:
            user.on_reply(data)

    def _hostile(self, what: str) -> None:
        """The server broke the protocol: drop the connection, tell the client, go on."""
        self.last_fatal = Refusal(
            "08P01",
            f'node "{self.node}" sent {what}',
            severity="FATAL",
        )
        self.wire.abort()
        self.connection_lost()

    def _inspect(self, tag: int, data: bytes, run: int, pos: int, end: int) -> bool:
        """Look at one message; True when it was dealt with, run before it included."""
        if tag == tags.NOTICE_RESPONSE:
            if self._internal:
                return True
            if end == len(data) and is_farewell(data[pos + 5 : end]):
                # Kept as if it were not whole yet: handed on with what follows, if anything does. So is
                # what stands before it: a client that has seen nothing can be served elsewhere.
                self.held = data[run:pos]
                self._tail = [data[pos:end]]
                self._tail_bytes = self._needed = end - pos
                return True
            return False
        if tag == tags.NOTIFICATION_RESPONSE:
            if run < pos:
                self._forward(data[run:pos])
            listener = self.user_session
            if listener is not None:
                listener.on_reply(speakers.named(data[pos:end], self.node))
            return True
        if tag == tags.PARAMETER_STATUS:
            if run < pos:
                self._forward(data[run:pos])
            self._parameter(data[pos + 5 : end], data[pos:end])
            return True
        if tag == tags.ERROR_RESPONSE:
            if run < pos:
                self._forward(data[run:pos])
            self._error(data[pos:end], data[pos + 5 : end])
            return True
        if self._internal:
            if tag == tags.ROW_DESCRIPTION or tag == tags.NO_DATA:
                self._internal[0].on_columns(data[pos + 5 : end])
            return True
        exchange = self.exchange
        if exchange is None:
            # Nothing is owed: an idle server has nothing to say but the asynchronous messages.
            self._hostile(f"an unexpected message of type {tag}")
            return True
        if tag == tags.COPY_IN_RESPONSE:
            user = self._user()
            user.on_reply(data[run:end])
            exchange.copy_in = True
            user.on_copy_in(self)
            return True
        if tag == tags.COPY_BOTH_RESPONSE or tag == tags.AUTHENTICATION:
            self._hostile(f"an unexpected message of type {tag}")
            return True
        if (
            tag == tags.COMMAND_COMPLETE
            or tag == tags.EMPTY_QUERY_RESPONSE
            or tag == tags.PORTAL_SUSPENDED
        ):
            exchange.commands += 1
            if self.watches:
                self._user().on_completion(tag, data[pos:end])
        elif tag == tags.PARAMETER_DESCRIPTION:
            note_types(exchange, data[pos + 5 : end])
            return False
        elif not (
            tag == tags.PARSE_COMPLETE
            or tag == tags.BIND_COMPLETE
            or tag == tags.CLOSE_COMPLETE
            or tag == tags.ROW_DESCRIPTION
            or tag == tags.NO_DATA
        ):
            return False
        steps = exchange.steps
        if steps is None:
            exchange.replies += 1
            return False
        return self._step(exchange, steps, data, run, pos, end)

    def _step(
        self, exchange: Exchange, steps: list[Step], data: bytes, run: int, pos: int, end: int
    ) -> bool:
        """
        The reply to one message of the exchange is complete: go on to the next step.

        True: it was forwarded or dropped, with the run before it. False: it may stay in the run,
        because nothing has to be put in behind it.
        """
        if exchange.at >= len(steps):
            return False  # of a hostile server
        user = self._user()
        invents = steps[exchange.at].kind == STEP_INVENT
        if invents:
            # What was invented for the first messages waited for this, so that nothing had been
            # said yet if the exchange had to be tried again.
            if run < pos:
                user.on_reply(data[run:pos])
                run = pos
            self.advance(exchange)
            if exchange.at >= len(steps):
                self._hostile("a reply that nobody asked for")
                return True
        step = steps[exchange.at]
        message = step.message
        if message is not None and message.tag == tags.QUERY:
            # A Query at the end of a batch has any number of them; its ReadyForQuery ends it.
            if invents:
                raise AssertionError("what is invented before a Query waits for nothing")
            return False
        if message is not None and message.tag == tags.DESCRIBE:
            user.on_described(message, data[pos + 5 : end])
        exchange.at += 1
        if step.server_key:
            user.on_prepared(step.server_key)
        is_last = exchange.at >= len(steps)
        if step.kind == STEP_DROP:
            if run < pos:
                user.on_reply(data[run:pos])
        elif (
            invents
            or (is_last and exchange.is_open)
            or (not is_last and steps[exchange.at].kind == STEP_INVENT)
        ):
            user.on_reply(data[run:end])
        else:
            return False
        self.advance(exchange)
        if exchange.is_open and exchange.at >= len(steps):
            user.on_steps_done()
        return True

    def _parameter(self, body: bytes, frame: bytes) -> None:
        try:
            name, value = backend.parameter_of(body)
        except ProtocolViolation:
            self._hostile("a malformed ParameterStatus")
            return
        self.reported[name] = value
        self.reported_id = identify(self.reported)
        user = self.user_session
        if user is not None and user.on_parameter(name, value, len(self._internal) > 0):
            user.on_reply(frame)

    def _error(self, frame: bytes, body: bytes) -> None:
        fields = backend.error_fields(body)
        severity = backend.severity_of(fields)
        if severity == "FATAL" or severity == "PANIC":
            # The server ends this connection next; whoever has it is told then, once.
            self.last_fatal = fatal_of(fields)
            return
        if self._internal:
            self._internal[0].on_error(fields)
            return
        exchange = self.exchange
        if exchange is None:
            return
        user = self._user()
        if exchange.copy_in:
            exchange.copy_in = False
            user.on_copy_failed()
        reply = user.on_error_reply(self, frame, body)
        if reply:
            user.on_reply(reply)
        if exchange.is_open:
            user.on_steps_done()

    def undo_prepared(self, server_key: bytes) -> None:
        """A Parse that the proxy counted on never ran."""
        self.prepared.pop(server_key, None)
