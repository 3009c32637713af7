"""
Relay: what a session is, and what it does with the replies of its server connection.

The lowest part of a session: its fields, bytes to the client, errors, completions, reported
settings. Above it `session.conversation` judges and places batches, and `session.session` faces the
client.
"""

from typing import Final

from proxy.errors import Refusal
from proxy.observe.counters import Counters
from proxy.protocol import tags
from proxy.routing.route import WRITE, Route
from proxy.session import outcome
from proxy.session.columns import columns_key
from proxy.session.context import ClientContext
from proxy.session.exchange import STEP_INVENT, Exchange, Message
from proxy.session.inspection import Inspection
from proxy.session.intake import Intake
from proxy.session.link import BackendLink
from proxy.session.ports import Broker, Classifier, Clock, Gate, Keys, Wire
from proxy.session.refusals import not_in_copy, synchronization_lost
from proxy.session.state import SessionState
from proxy.session.tuning import (
    NO_KEY,
    POOL_SESSION,
    SessionTuning,
    Welcomes,
)
from proxy.session.users import LinkUser
from proxy.sql.statement import StatementFacts

STARTING: Final = 0
IDLE: Final = 1
JUDGING: Final = 2
ROUTING: Final = 3
WAITING: Final = 4
APPLYING: Final = 5
BUSY: Final = 6
PROBING: Final = 7
CLOSED: Final = 8

STATE_NAMES: Final = (
    "starting",
    "idle",
    "judging",
    "routing",
    "waiting",
    "applying",
    "busy",
    "probing",
    "closed",
)

READ_AHEAD_BYTES: Final = 256 * 1024
"""How much a client may send ahead of what is being worked on before it is not read any more."""

UNSAFE_ENCODINGS: Final = (
    b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFT_JIS_2004",
)  # fmt: skip
"""Client encodings in which a backslash or quote byte may be the second half of a character."""

_PADDING: Final = bytes(64 * 1024)

_next_number = 0


def next_number() -> int:
    """A number of its own for each session of this process."""
    global _next_number
    _next_number += 1
    return _next_number


def pad(link: BackendLink, count: int) -> None:
    """Send `count` bytes without meaning: the rest of a message that the server will drop."""
    while count > len(_PADDING):
        # The same object each time: what waits to be sent takes no memory.
        link.send(_PADDING)
        count -= len(_PADDING)
    link.send(_PADDING[:count])


class Relay(LinkUser):
    """Fields of a session, and the way from the server to the client."""

    __slots__ = (
        "_broker",
        "_classifier",
        "_clock",
        "_counters",
        "_gate",
        "_has_changed_schema",
        "_index",
        "_is_full",
        "_is_ordinary",
        "_is_pumping",
        "_judged",
        "_lexing",
        "_may_copy",
        "_route",
        "_schema",
        "_sent",
        "_sent_judged",
        "_sent_passed",
        "_sent_since_us",
        "_started_anywhere",
        "_transaction_since_us",
        "_tuning",
        "_welcomes",
        "client",
        "exchange",
        "idle_since_us",
        "intake",
        "is_client_slow",
        "is_draining",
        "is_server_slow",
        "key",
        "keys",
        "link",
        "number",
        "phase",
        "queries",
        "query_us",
        "received_bytes",
        "sent_bytes",
        "skips_to_sync",
        "state",
        "status",
        "transaction_us",
        "transactions",
        "waiting_since_us",
        "was_notified",
        "wire",
    )

    def __init__(
        self,
        client: ClientContext,
        wire: Wire,
        gate: Gate,
        broker: Broker,
        classifier: Classifier,
        clock: Clock,
        counters: Counters,
        tuning: SessionTuning,
        welcomes: Welcomes,
        settings: dict[str, str],
    ) -> None:
        self.client = client
        self.wire = wire
        self._gate = gate
        self._broker = broker
        self._classifier = classifier
        self._clock = clock
        self._counters = counters
        self._tuning = tuning
        self._welcomes = welcomes
        self.intake = Intake(classifier, tuning.max_message_bytes)
        self.state = SessionState(settings)
        self.number = next_number()
        self._lexing = b""
        self.intake.planning = self.state.planning()
        self._schema = 0  # the change of the schema that new statements are known by
        self._has_changed_schema = False  # in the transaction that is open
        self.phase = STARTING
        self.status = tags.STATUS_IDLE
        self.link: BackendLink | None = None
        self.exchange: Exchange | None = None
        self.key = NO_KEY
        self.keys: Keys | None = None
        self.skips_to_sync = False
        self.is_draining = False
        self._started_anywhere = False
        self.is_client_slow = False  # its socket's buffer is full
        self.is_server_slow = False  # the socket's buffer towards its server is full
        self.queries = 0
        self.query_us = 0
        self.transactions = 0
        self.transaction_us = 0
        self._transaction_since_us = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.idle_since_us = clock.now_us()
        self.waiting_since_us = 0
        self.was_notified = False
        self._is_pumping = False
        self._is_full = False
        self._judged: list[Inspection] = []
        self._index = 0
        self._route: Route = WRITE
        self._is_ordinary = False  # plain statements may go the express way; see `session.express`
        self._sent = b""  # the one that went it, until it is answered
        self._sent_since_us = 0
        self._sent_judged: Inspection | None = None
        self._sent_passed: StatementFacts | None = None  # what it says, if plugins let it pass
        self._may_copy = False  # a portal of this transaction may be a COPY FROM STDIN

    # -- what the parts above add

    def pump(self) -> None:
        """Work on what was received until something must be waited for."""
        raise AssertionError("Session implements this")

    def welcome(self, reported: dict[bytes, bytes]) -> None:
        """Greet the client with what a server reports."""
        raise AssertionError("Session implements this")

    def fatal(self, refusal: Refusal) -> None:
        """Tell the client why, and end the session."""
        raise AssertionError("Session implements this")

    def drain(self) -> None:
        """Shut down as soon as the client is outside a transaction."""
        raise AssertionError("Session implements this")

    def on_plain_reply(self, link: BackendLink, data: bytes) -> None:
        """All of the reply to a plain statement, which has gone well."""
        raise AssertionError("Express implements this")

    def unfold(self) -> None:
        """What was sent the express way is an exchange like any other from now on."""
        raise AssertionError("Express implements this")

    def _current(self) -> Exchange:
        """The exchange that the phase is about."""
        exchange = self.exchange
        if exchange is None:
            raise AssertionError("none in the phases STARTING, PROBING and CLOSED, and while idle")
        return exchange

    def _wants_own_server(self) -> bool:
        """
        Whether the client has one server connection from its login to its end, and its process id,
        as without a proxy. Where plugins route, its first statement decides which it is.
        """
        return self._tuning.mode == POOL_SESSION and not self._gate.routes

    def _is_own_server(self, link: BackendLink) -> bool:
        """Keep the connection that the client is greeted from, if that is how it is served."""
        # Greeted by a standby, because there is no primary: what it asks for may need one.
        if not self._wants_own_server() or self._started_anywhere:
            return False
        if self.keys is not None:
            self.key = self.keys.rename(self.key, link.process_id)
        link.speaker.client_id = self.key.process_id
        return True

    # -- from the server

    def on_reply(self, data: bytes) -> None:
        """Bytes for the client."""
        exchange = self.exchange
        if exchange is not None:
            exchange.forwarded += len(data)
            kept = exchange.capture
            if kept is not None:
                outcome.capture(exchange, kept, data, self._tuning.max_capture_bytes)
        self._counters.bytes_to_clients += len(data)
        self.sent_bytes += len(data)
        self.wire.write(data)

    def _reply(self, data: bytes) -> None:
        self._counters.bytes_to_clients += len(data)
        self.sent_bytes += len(data)
        self.wire.write(data)

    def on_error_reply(self, link: BackendLink, frame: bytes, body: bytes) -> bytes:
        """An ErrorResponse of the exchange: what never ran is taken back (rule 2)."""
        exchange = self._current()
        if exchange.misfit != 0:
            why = not_in_copy(exchange.misfit).message.encode()
            if why in body:
                # The COPY had not failed before. A server says so, and ends the connection.
                body = body.replace(
                    b"C57014\x00MCOPY from stdin failed: " + why, b"C08P01\x00M" + why
                )
                self._reply(b"E" + (len(body) + 4).to_bytes(4, "big") + body)
                self.fatal(synchronization_lost())
                return b""
        return outcome.on_error(self, exchange, link, frame, body)

    def on_completion(self, tag: int, frame: bytes) -> None:
        """A statement is done."""
        outcome.completed(self._current(), tag, frame, self._clock.now_us())

    def on_parameter(self, name: bytes, value: bytes, is_internal: bool) -> bool:
        """The server reports a setting; internal ones are told by difference, afterwards."""
        if self.phase == STARTING or is_internal:
            return False
        self.state.told(name, value)
        self.state.known_id = 0
        self._note_parameter(name, value)
        return True

    def _note_parameter(self, name: bytes, value: bytes) -> None:
        if name == b"standard_conforming_strings" or name == b"client_encoding":
            known = self.state.known
            strings = known.get(b"standard_conforming_strings", b"on")
            encoding = known.get(b"client_encoding", b"UTF8")
            is_unsafe = strings != b"on" or encoding in UNSAFE_ENCODINGS
            self.intake.is_unsafe = is_unsafe
            self.intake.is_utf8 = encoding in (b"UTF8", b"SQL_ASCII")
            if is_unsafe:
                self.intake.was_unsafe = True
            # Statements of one text are different ones where it is read in different ways.
            is_usual = strings == b"on" and encoding == b"UTF8"
            self._lexing = b"" if is_usual else b"\x02" + strings + b"\x00" + encoding
            self._plan()
        elif name == b"application_name":
            text = value.decode("utf-8", "replace")
            if text != self.client.application_name:
                self.client.application_name = text
                self.client.fragment = b""

    def _plan(self) -> None:
        """Bring up to date what the statements to come are prepared under."""
        planning = self.state.planning() + self._lexing
        self._schema = self._welcomes.schema
        if self._schema > 0:
            planning += b"\x04%d" % self._schema
        self.intake.planning = planning

    def _schema_changed(self, exchange: Exchange, status: int) -> None:
        """Have statements prepared anew: by itself at once, by others when it is committed."""
        is_idle = status == tags.STATUS_IDLE
        if exchange.changes_schema or is_idle:
            self._welcomes.schema += 1
        self._has_changed_schema = not is_idle

    def on_settings_applied(self, link: BackendLink, failed: dict[str, str] | None) -> None:
        """The client's settings are made on the link, or the server refuses one of them."""
        raise AssertionError("Conversation implements this")

    def on_probed(
        self,
        link: BackendLink,
        found: dict[str, bytes],
        pins: list[str],
        prepared: dict[bytes, bytes],
        failed: bool,
    ) -> None:
        """What the last transaction has left behind is known now."""
        raise AssertionError("Conversation implements this")

    def on_copy_in(self, link: BackendLink) -> None:
        """The server waits for CopyData; the Sync behind its Execute counts for nothing."""
        exchange = self._current()
        steps = exchange.steps
        if steps is not None and exchange.at + 1 < len(steps):
            message = steps[exchange.at + 1].message
            if steps[exchange.at + 1].kind == STEP_INVENT and message is not None:
                # A server ends a connection for what is sent behind a COPY that is no part of it.
                # This message it does not get, and would wait, as the client would.
                self.fatal(not_in_copy(message.tag))
                return
        exchange.owes_sync = False
        self.pump()

    def on_copy_failed(self) -> None:
        """What the client still sends for the COPY goes nowhere (rule 24)."""
        missing = self.intake.abandon_copy()
        if missing > 0 and self.link is not None:
            # SAFETY: the server waits for the rest of a message, and would take for it whatever is
            # sent next, the next client's statements too.
            pad(self.link, missing)

    def note_error(self, sqlstate: str) -> None:
        """The client was sent an error of the server's, or of a plugin's in its place."""
        self._counters.refused(sqlstate)

    def demoted(self, link: BackendLink) -> None:
        """A node taken for the primary refuses to write (rule 39)."""
        self._broker.demoted(link)

    def known_statements(self) -> dict[bytes, bytes]:
        """Keys of statements that servers have prepared for this user, with their columns."""
        return self._welcomes.prepared(self.client.database, self.client.user)

    def on_prepared(self, key: bytes) -> None:
        """The server has prepared the statement with this key."""
        self.known_statements().setdefault(key, b"")

    def on_described(self, message: Message, body: bytes) -> None:
        """The RowDescription of a statement, or NoData (b"")."""
        prepared = message.prepared
        if prepared is not None and prepared.is_named:
            prepared.columns = columns_key(body)
            self.known_statements()[prepared.key] = prepared.columns

    def on_steps_done(self) -> None:
        """All replies so far have come: a message that had to wait for them may go on."""
        self.idle_since_us = self._clock.now_us()
        self.pump()

    # -- at the end of an exchange

    def _count(self, exchange: Exchange, status: int) -> None:
        """Count the exchange, and the transaction that it ends."""
        now_us = self._count_query(exchange.started_us)
        if not exchange.in_transaction:
            self._transaction_since_us = exchange.started_us
        if status == tags.STATUS_IDLE:
            self.transactions += 1
            self.transaction_us += now_us - self._transaction_since_us

    def _count_query(self, since_us: int) -> int:
        """Count what was begun at `since_us`; returns the time of now."""
        now_us = self._clock.now_us()
        self.idle_since_us = now_us
        duration_us = now_us - since_us
        self._counters.queries += 1
        self._counters.query_us.observe_query(duration_us)
        self.query_us += duration_us
        return now_us

    def _finish_outcomes(self, exchange: Exchange, sqlstate: str, error: str) -> None:
        if exchange.statements:
            outcome.finish(exchange, self._gate, sqlstate, error, self._clock.now_us())
