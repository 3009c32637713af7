"""
Session: one client's conversation, from the end of its login to its end.

What faces the client: the greeting, reading its bytes as far as they can be worked on, COPY IN,
cancel, time-outs, and leaving nothing behind. What happens to a batch in between is
`session.conversation`.
"""

from typing import final

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import backend, frontend, tags
from proxy.routing.route import WRITE
from proxy.session import namespace, outcome
from proxy.session.ending import Cleanup
from proxy.session.exchange import Exchange
from proxy.session.express import Express
from proxy.session.farewell import NODE_IS_DOWN
from proxy.session.greeting import name_notice
from proxy.session.link import BackendLink
from proxy.session.refusals import canceled, not_in_copy
from proxy.session.relay import (
    APPLYING,
    BUSY,
    CLOSED,
    IDLE,
    JUDGING,
    READ_AHEAD_BYTES,
    ROUTING,
    WAITING,
)
from proxy.session.tuning import POOL_SESSION


@final
class Session(Express):
    """One client; see the module. All methods are called from the event loop."""

    __slots__ = ()

    # -- start and end

    def start(self) -> None:
        """Greet the client: what a server reports at the start, its key, ReadyForQuery."""
        welcome = self._welcomes.get(self.client.database, self.client.user, self.state.key)
        if welcome is not None and not self._wants_own_server():
            self.welcome(welcome)
            return
        # The primary first: a role or database may be so new that no standby knows it, and a standby
        # cannot run anything in serializable mode, not even take the setting back.
        link = self._broker.acquire(self, self.client.database, self.client.user, WRITE)
        if link is not None:
            self.on_backend(link)

    def welcome(self, reported: dict[bytes, bytes]) -> None:
        """Greet the client with what a server reports."""
        # PostgreSQL says it before it reports settings.
        pieces = [name_notice(self.client.startup)]
        self.state.greeted(reported)
        for name in reported:
            value = reported[name]
            self._note_parameter(name, value)
            pieces.append(backend.parameter_status(name, value))
        pieces.append(backend.backend_key_data(self.key.process_id, self.key.secret_key))
        pieces.append(backend.ready_for_query(tags.STATUS_IDLE))
        self._reply(b"".join(pieces))
        self.phase = IDLE
        self.pump()

    def fatal(self, refusal: Refusal) -> None:
        """Tell the client why, and end the session."""
        if self.phase == CLOSED:
            return
        refusal.severity = "FATAL"
        self._counters.refused(refusal.sqlstate)
        link = self.link
        if link is None or not link.is_mid_message():
            # Behind half a row the client would take it for the other half.
            self.wire.write(backend.error_response(refusal))
        self.wire.close()
        self.on_frontend_lost()

    def on_frontend_lost(self) -> None:
        """The client has gone, or is being sent away: leave nothing of it behind (rule 25)."""
        if self.phase == CLOSED:
            return
        self.unfold()
        phase = self.phase
        self.phase = CLOSED
        self._broker.withdraw(self)
        link = self.link
        self.link = None
        exchange = self.exchange
        self.exchange = None
        if exchange is not None:
            self._finish_outcomes(exchange, "57P01", "client disconnected")
        if link is None:
            return
        link.user_session = None
        link.watches = False
        if link.is_closed:
            return
        link.wire.resume_reading()
        if phase == BUSY or not link.owes_nothing():
            self._counters.count("client_left_in_exchange")
            self._broker.cancel(link)
            self._broker.discard(link, "client left in the middle of an exchange")
            return
        if self.state.is_loaded or self.state.is_loading:
            self._broker.discard(link, "its client has loaded a library")
            return
        is_dirty = link.is_touched or bool(self.state.pins) or self._tuning.mode == POOL_SESSION
        Cleanup(self._broker, is_dirty).run(link)

    def drain(self) -> None:
        """Shut down: an idle client is told now, another one after its transaction."""
        self.is_draining = True
        if self.phase == IDLE and self.status == tags.STATUS_IDLE:
            self.fatal(Refusal("57P01", "terminating connection due to administrator command"))

    # -- from the client

    def receive_from_frontend(self, data: bytes) -> None:
        """Take received bytes and do all that can be done with them now."""
        if self.phase == CLOSED:
            return
        self._counters.bytes_from_clients += len(data)
        self.received_bytes += len(data)
        if self.phase == IDLE and self._express(data):
            return
        self.intake.feed(data)
        if self.phase == IDLE or (self.phase == BUSY and self.exchange is not None):
            self.pump()
        elif self.intake.pending_bytes() > READ_AHEAD_BYTES:
            self._hold()

    def _hold(self) -> None:
        if not self._is_full:
            self._is_full = True
            self.wire.pause_reading()

    def _unhold(self) -> None:
        if self._is_full:
            self._is_full = False
            if not self.is_server_slow:
                self.wire.resume_reading()

    def pump(self) -> None:
        """Work on what was received until something must be waited for."""
        if self._is_pumping:
            return
        self._is_pumping = True
        needs_more = False
        try:
            needs_more = self._work()
        except ProtocolViolation as violation:
            self._counters.count("protocol_violation")
            self.fatal(Refusal(violation.sqlstate, violation.message))
        self._is_pumping = False
        if self.phase == CLOSED:
            return
        if self.intake.is_terminated:
            self.wire.close()
            self.on_frontend_lost()
            return
        if needs_more:
            # Whatever is there already, the client's next bytes are what is waited for.
            self._unhold()
        elif self.intake.pending_bytes() > READ_AHEAD_BYTES:
            self._hold()
        elif self._is_full and self.intake.pending_bytes() < READ_AHEAD_BYTES // 2:
            self._unhold()

    def _work(self) -> bool:
        """Go on as far as it goes; whether more bytes of the client's are what is missing."""
        while True:
            intake = self.intake
            if self.phase == IDLE:
                if self.is_client_slow:
                    return False
                if not intake.drop_passing():
                    return True
                if self.skips_to_sync:
                    if not intake.skip_to_sync():
                        return True
                    self.skips_to_sync = False
                    self._reply(backend.ready_for_query(self.status))
                    continue
                if self._schema != self._welcomes.schema:
                    self._plan()
                batch = intake.next_batch()
                if batch is None:
                    return True
                exchange = self.exchange
                if exchange is None:
                    exchange = Exchange(self._clock.now_us())
                    exchange.in_transaction = self.status != tags.STATUS_IDLE
                    self.exchange = exchange
                    self._is_ordinary = False
                    self.queries += 1
                self._admit(exchange, batch)
            elif self.phase == BUSY:
                exchange = self._current()
                link = self.link
                if link is None:
                    raise AssertionError("who is busy has a connection")
                if exchange.copy_in:
                    if not self._copy(exchange, link):
                        return exchange.misfit == 0
                    continue
                if not exchange.is_open:
                    return False
                if not intake.drop_passing():
                    return True
                if exchange.is_failed:
                    if not exchange.owes_sync and not intake.skip_to_sync():
                        return True
                    self._close_group(exchange, link)
                    return False
                steps = exchange.steps
                if steps is not None and exchange.at < len(steps):
                    if (
                        exchange.owes_sync
                        or self._may_copy
                        or exchange.effects is not None
                        or exchange.is_read
                    ):
                        # A Sync is dropped by the server if one of the replies is CopyInResponse;
                        # names are known again when the commands on them are complete; a group
                        # that turns out to write moves to the primary now or never.
                        return False
                elif exchange.owes_sync:
                    self._close_group(exchange, link)
                    return False
                elif exchange.effects is not None:
                    namespace.apply_effects(exchange, intake, link)
                batch = intake.next_batch()
                if batch is None:
                    return True
                self._admit(exchange, batch)
            else:
                return False

    def _close_group(self, exchange: Exchange, link: BackendLink) -> None:
        """Send the Sync that ends an open exchange."""
        exchange.owes_sync = False
        exchange.is_open = False
        link.send(frontend.SYNC)

    def _copy(self, exchange: Exchange, link: BackendLink) -> bool:
        """Pass on what the client sends for a COPY IN; False when there is no more for now."""
        data = self.intake.copy_run()
        if data:
            link.send(data)
        ended = self.intake.copy_end
        if ended == 0:
            return False
        if ended == tags.COPY_DONE or ended == tags.COPY_FAIL:
            exchange.copy_in = False
            if exchange.is_open:
                # The server keeps its reply to itself until the Sync or Flush behind the data, and
                # the client's Sync waits for it: the next reply may be another CopyInResponse.
                link.send(frontend.FLUSH)
        elif ended != tags.SYNC:
            if exchange.misfit == 0:
                exchange.misfit = ended
                link.send(frontend.encode_copy_fail(not_in_copy(ended).message.encode()))
            return False
        return True

    # -- out of band

    def cancel(self) -> None:
        """A CancelRequest with this client's key (rule 34)."""
        link = self.link
        if self.phase == BUSY and link is not None:
            self._broker.cancel(link)
        elif self.phase in (JUDGING, ROUTING, WAITING, APPLYING):
            if link is None:
                # What a connection or a plugin was asked for comes too late.
                self._broker.withdraw(self)
                self._refuse(canceled())
                self.pump()
            else:
                # The server itself shall fail the transaction, once it can be told.
                self._current().is_cancelled = True

    def time_out_query(self) -> None:
        """The exchange has run longer than it may: cancel it once, PostgreSQL answers 57014."""
        self.unfold()
        exchange = self.exchange
        if exchange is not None and not exchange.is_timed_out and self.link is not None:
            exchange.is_timed_out = True
            self._counters.count("query_timeout")
            self._broker.cancel(self.link)

    def leave_node(self) -> None:
        """The node does not answer any more: what can run elsewhere unseen is not waited for."""
        self.unfold()
        exchange = self.exchange
        link = self.link
        if exchange is None or link is None:
            return
        if outcome.may_retry(exchange, NODE_IS_DOWN, False):
            link.wire.abort()

    def notify_waiting(self) -> None:
        """Tell the client, once, that it waits for a server connection."""
        if not self.was_notified:
            self.was_notified = True
            notice = Refusal(
                "00000",
                "waiting for a server connection",
                detail="All connections to the server are in use.",
                severity="NOTICE",
            )
            self._reply(backend.notice_response(notice))

    def on_frontend_full(self) -> None:
        """The client takes its rows too slowly: stop reading the server (rule 7)."""
        self.is_client_slow = True
        if self.link is not None:
            self.link.wire.pause_reading()

    def on_frontend_drained(self) -> None:
        """The client has caught up."""
        self.is_client_slow = False
        if self.link is not None:
            self.link.wire.resume_reading()
        if self.phase == IDLE:
            self.pump()

    def on_backend_full(self) -> None:
        """The server takes the client's data too slowly: stop reading the client."""
        self.is_server_slow = True
        self.wire.pause_reading()

    def on_backend_drained(self) -> None:
        """The server has caught up."""
        self.is_server_slow = False
        if not self._is_full:
            self.wire.resume_reading()
