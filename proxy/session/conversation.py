"""
Conversation: a batch's way past the hooks, to a server connection, and its replies' way back.

Theory of operation. A session handles one exchange at a time: the next one starts when the
ReadyForQuery of the last was passed on, because only then is the transaction's status known, and
with it where the next may go and what the hooks are told (rule 21). An exchange goes through

    collecting -> judging -> routing -> waiting (for a server connection) -> applying (settings)
               -> busy -> probing (what did it leave behind) -> idle

and most go from collecting to busy within one call of `receive_from_frontend`, and back to idle
within one call of the link's `receive_from_backend`: only waiting takes a turn of the event loop.
"""

from proxy.errors import Refusal
from proxy.protocol import backend, tags
from proxy.routing.route import READ, ROUTE_DEFAULT, WRITE, Route
from proxy.session import admission, dispatch, namespace, outcome, sequences
from proxy.session.columns import look_at_columns
from proxy.session.ending import Cleanup, SwallowSync
from proxy.session.exchange import END_CUT, END_FLUSH, END_QUERY, Batch, Exchange
from proxy.session.inspection import VERDICT_REFUSE, Inspection
from proxy.session.link import BackendLink
from proxy.session.probe import ProbeQuery
from proxy.session.refusals import misread, no_block
from proxy.session.relay import (
    APPLYING,
    BUSY,
    CLOSED,
    IDLE,
    JUDGING,
    PROBING,
    ROUTING,
    STARTING,
    WAITING,
    Relay,
)
from proxy.session.state import NO_SETTINGS, SettingsQuery, apply_sql, resets_sql
from proxy.session.tuning import POOL_SESSION, POOL_STATEMENT
from proxy.sql.statement import TextFacts


class Conversation(Relay):
    """
    The part of a session between a complete batch and its replies: judging and placing.

    `Session` adds what faces the client: greeting, reading, leaving.
    """

    __slots__ = ()

    # -- judging

    def _admit(self, exchange: Exchange, batch: Batch) -> None:
        """Have a batch judged; go on with `_judge`."""
        if len(exchange.batches) >= outcome.KEPT_BATCHES:
            outcome.finish_answered(exchange, self._gate, self._clock.now_us())
        exchange.batches.append(batch)
        exchange.is_open = batch.end == END_FLUSH or batch.end == END_CUT
        gate = self._gate
        exchange.is_cleared = (
            gate.clears
            and not self.intake.was_rewritten
            and admission.is_cleared(batch, gate, self.client)
        )
        if not exchange.is_cleared and (
            gate.judges or gate.observes or gate.routes or self.intake.was_rewritten
        ):
            self._judged = admission.inspect_batch(
                batch,
                exchange,
                self.client,
                self._classifier,
                self.intake,
                exchange.in_transaction,
                gate.wants_parameters,
                gate.caches,
            )
            exchange.statements.extend(self._judged)
            self._index = 0
            self.phase = JUDGING
            self._judge(exchange, batch)
            return
        self._judged = []
        self._place(exchange, batch)

    def _judge(self, exchange: Exchange, batch: Batch) -> None:
        while self._index < len(self._judged):
            inspection = self._judged[self._index]
            self._index += 1
            inspection.waiter = self
            if self._gate.caches:
                outcome.note_for_cache(self, exchange, inspection)
            if not self._gate.judge(inspection):
                return
            if inspection.verdict == VERDICT_REFUSE:
                break
        if not self.intake.is_utf8:
            admission.refuse_untranslatable(self._judged)
        if batch.end != END_QUERY or len(batch.messages) > 1 or admission.is_decided(self._judged):
            if batch.end != END_QUERY and admission.is_changed(self._judged):
                self.intake.was_rewritten = True
            admission.apply_verdicts(
                batch, exchange, self._judged, self._classifier, self.intake.planning
            )
        self._index = 0
        self._place(exchange, batch)

    def on_judged(self, inspection: Inspection) -> None:
        """A plugin that took its time has answered."""
        if self.phase == CLOSED:
            return
        exchange = self._current()
        batch = exchange.batches[-1]
        if self.phase == JUDGING:
            if inspection.verdict == VERDICT_REFUSE:
                self._index = len(self._judged)
            self._judge(exchange, batch)
        else:
            self._routed(exchange, batch, inspection)
        self.pump()

    # -- placing

    def _place(self, exchange: Exchange, batch: Batch) -> None:
        """Find out what a batch needs, and get it a server connection if it needs one."""
        link = self.link
        if exchange.is_cancelled:
            admission.cancel(batch)
        is_read = self._weigh(exchange, batch)
        if link is None:
            if not dispatch.needs_backend(batch):
                self._answer(exchange, batch)
                return
            self._route = READ if is_read else WRITE
            if self._gate.routes and self._judged:
                self.phase = ROUTING
                self._index = 0
                self._ask_route(exchange, batch)
                return
            self._acquire(exchange, batch)
            return
        if exchange.is_read and not is_read and exchange.sent:
            # Begun on a standby with nothing but Parse and Describe; now it turns out to write. All is
            # answered (`Session._work` waits), so it leaves before anything was executed, or never.
            self._leave(exchange, link)
            self._route = WRITE
            self._acquire(exchange, batch)
            return
        self._keep(exchange, link)

    def _weigh(self, exchange: Exchange, batch: Batch) -> bool:
        """Whether a standby may serve the batch; notes what it may leave behind."""
        state = self.state
        reads = (
            not exchange.in_transaction
            and self._tuning.mode != POOL_SESSION
            and not state.is_serializable
        )
        for message in batch.messages:
            tag = message.tag
            facts: TextFacts | None = None
            if message.refusal is not None:
                break
            if tag == tags.QUERY:
                facts = batch.facts
            elif tag == tags.PARSE or tag == tags.BIND or tag == tags.DESCRIBE:
                prepared = message.prepared
                if prepared is None:
                    continue
                facts = prepared.sql_facts
                if tag == tags.BIND and exchange.is_open:
                    reads = False
                if prepared.is_foreign:
                    state.is_opaque = True
            elif tag == tags.FUNCTION_CALL:
                reads = False
                exchange.sequences |= sequences.of_function_call(batch, message)
                exchange.leaves_state = True
                exchange.changes_schema = True
                state.is_opaque = True
                continue
            elif tag == tags.EXECUTE:
                if exchange.is_open:
                    reads = False
                if message.answer is None:
                    exchange.commands_sent += 1
                continue
            else:
                continue
            if facts is None:
                raise AssertionError("a Query's text has facts")
            if state.pins and not exchange.may_unpin:
                exchange.may_unpin = admission.may_unpin(facts)
            if facts.has_effects and (tag == tags.QUERY or tag == tags.BIND):
                state.note(facts)
            if not facts.is_plain:
                if tag != tags.PARSE and facts.leaves_state:
                    exchange.leaves_state = True
                    namespace.note_text(exchange, batch, message, facts, self._classifier)
            if tag == tags.QUERY:
                exchange.commands_sent += len(facts.statements)
            if not facts.is_read_only and facts.statements:
                reads = False
                exchange.sequences |= facts.sequences
                if tag != tags.PARSE and facts.databases:
                    exchange.databases = facts.databases
                if tag != tags.PARSE and not exchange.changes_schema:
                    exchange.changes_schema = admission.changes_schema(facts)
                if tag == tags.BIND and not self._may_copy:
                    self._may_copy = admission.may_copy(facts)
        return reads

    def _ask_route(self, exchange: Exchange, batch: Batch) -> None:
        while self._index < len(self._judged):
            inspection = self._judged[self._index]
            self._index += 1
            if inspection.verdict != 0:
                continue
            inspection.route = None
            if not self._gate.route(inspection):
                return
            if self._is_routed(batch, inspection):
                break
        self._acquire(exchange, batch)

    def _routed(self, exchange: Exchange, batch: Batch, inspection: Inspection) -> None:
        if self._is_routed(batch, inspection):
            self._acquire(exchange, batch)
        else:
            self._ask_route(exchange, batch)

    def _is_routed(self, batch: Batch, inspection: Inspection) -> bool:
        """Whether the route hook has decided; its refusal goes to the statement's message."""
        if inspection.verdict == VERDICT_REFUSE:
            admission.refuse_at(batch, inspection)
            return True
        route = inspection.route
        if route is not None and route.kind != ROUTE_DEFAULT:
            self._route = route
            return True
        return False

    def _acquire(self, exchange: Exchange, batch: Batch) -> None:
        if not dispatch.needs_backend(batch):
            self._answer(exchange, batch)
            return
        route = self._route
        exchange.is_read = route is READ
        self.phase = WAITING
        link = self._regain(route) if exchange.sequences else None
        if link is None:
            link = self._broker.acquire(self, self.client.database, self.client.user, route)
        if link is None:
            if self.phase != WAITING:
                return
            if not exchange.sent and dispatch.only_prepares(batch, self.known_statements()):
                self._broker.withdraw(self)
                self._answer(exchange, batch)
                return
            self.waiting_since_us = self._clock.now_us()
            return
        self._take(exchange, link)

    def _regain(self, route: Route) -> BackendLink | None:
        """The connection that knows what nextval gave this client, if it is still to be had."""
        link = sequences.regainable(self.state)
        if link is None or route is not WRITE or not self._broker.regain(link):
            return None
        link.sequences_since = link.turn
        return link

    def on_backend(self, link: BackendLink) -> None:
        """The broker grants a connection that was waited for."""
        self.waiting_since_us = 0
        if self.phase == STARTING:
            self.link = link
            link.user_session = self
            if not self._apply(link):
                self.on_settings_applied(link, None)
            return
        exchange = self.exchange
        if self.phase != WAITING or exchange is None:
            self._broker.release(link)
            return
        self._take(exchange, link)
        self.pump()

    def on_no_backend(self, refusal: Refusal) -> None:
        """The broker gives up."""
        self.waiting_since_us = 0
        if self.phase == STARTING:
            if refusal.sqlstate == "57P03" and not self._started_anywhere:
                # No primary: a standby can greet a client that only reads.
                self._started_anywhere = True
                link = self._broker.acquire(self, self.client.database, self.client.user, READ)
                if link is not None:
                    self.on_backend(link)
                return
            self.fatal(refusal)
        elif self.phase == WAITING:
            self._refuse(refusal)
            self.pump()

    def _take(self, exchange: Exchange, link: BackendLink) -> None:
        """A connection of one's own: make the client's settings on it, then send."""
        self.link = link
        link.user_session = self
        link.speaker.client_id = self.key.process_id
        if (link.applied_key != self.state.key or link.is_opaque) and self._apply(link):
            self.phase = APPLYING
            return
        self._give(exchange, link)

    def _keep(self, exchange: Exchange, link: BackendLink) -> None:
        """Go on with the connection of one's own; what was reset is as at the client's start."""
        state = self.state
        if not exchange.sent and link.status != tags.STATUS_FAILED:
            if state.due:
                self.phase = APPLYING
                sql = resets_sql(state.due)
                state.due = NO_SETTINGS
                SettingsQuery(self, sql, None, b"").run(link)
                return
            if (
                link.status == tags.STATUS_IDLE
                and self._tuning.mode != POOL_SESSION
                and link.applied_key != state.key
                and self._apply(link)
            ):
                self.phase = APPLYING
                return
        self._give(exchange, link)

    def _apply(self, link: BackendLink) -> bool:
        """Begin to make the client's settings on a link; False: there is nothing to do."""
        state = self.state
        is_foreign = link.is_opaque and link.opaque_for != self.number
        sql = apply_sql(state.desired, link, is_foreign)
        if not sql:
            link.applied_key = state.key
            return False
        SettingsQuery(self, sql, state.desired, state.key, is_foreign).run(link)
        return True

    def on_settings_applied(self, link: BackendLink, failed: dict[str, str] | None) -> None:
        """The client's settings are made on the link, or the server refuses one of them."""
        if failed is not None:
            refusal = Refusal(
                backend.sqlstate_of(failed), backend.message_of(failed), failed.get("D", "")
            )
            if link.status != tags.STATUS_IDLE or self.state.pins:
                self.fatal(refusal)
                return
            self.link = None
            link.user_session = None
            Cleanup(self._broker, True).run(link)
            if self.phase == STARTING:
                self.fatal(refusal)
            else:
                self._refuse(refusal)
                self.pump()
            return
        if self.phase == STARTING:
            reported = dict(link.reported)
            self._welcomes.put(self.client.database, self.client.user, self.state.key, reported)
            if not self._is_own_server(link):
                self._let_go(link)
            self.welcome(reported)
            return
        self._give(self._current(), link)
        self.pump()

    def _give(self, exchange: Exchange, link: BackendLink) -> None:
        """Send the exchange's last batch to the server."""
        if self.intake.relies_on_columns and look_at_columns(self, exchange, link):
            self.phase = APPLYING
            return
        if (
            exchange.sequences
            and self._tuning.mode != POOL_SESSION
            and sequences.look_at_sequences(self, exchange, link)
        ):
            self.phase = APPLYING
            return
        batch = exchange.batches[-1]
        if exchange.is_cancelled:
            admission.cancel(batch)
        self.phase = BUSY
        exchange.node = link.node
        exchange.sent = True
        if link.reported_id != self.state.known_id:
            was_unsafe = self.intake.is_unsafe
            for name, value in self.state.differences(link):
                self._note_parameter(name, value)
                self.wire.write(backend.parameter_status(name, value))
            was_read = exchange.is_cleared or bool(self._judged)
            if self.intake.is_unsafe and was_read and not was_unsafe:
                self._refuse_misread(link)
                return
        if exchange.leaves_state:
            link.is_touched = True
            if self.state.is_opaque:
                link.is_opaque = True
                link.opaque_for = self.number
        if self.is_client_slow:
            link.wire.pause_reading()
        if self._gate.captures and exchange.capture is None and outcome.is_wanted(exchange):
            exchange.capture = []
        link.exchange = exchange
        link.watches = self._gate.observes and bool(exchange.running)
        if self._may_copy and dispatch.ends_in_execute(batch):
            # The server drops a Sync that comes while it waits for CopyData, but answers it if the
            # COPY fails before: which of both is known when the replies are there.
            exchange.owes_sync = True
            exchange.is_open = True
        data = dispatch.render(
            exchange, batch, link, self.intake, self._tuning.max_prepared_statements
        )
        link.send(dispatch.with_flush(data, batch, exchange, self._may_copy))
        if exchange.steps is not None and not dispatch.can_wait(exchange):
            link.advance(exchange)

    def _refuse_misread(self, link: BackendLink) -> None:
        """The texts were judged as this server will not read them: nothing of them may run."""
        if self.status != tags.STATUS_IDLE:
            self.fatal(misread(link.node))
            return
        self._current().sent = False
        self._let_go(link)
        self._refuse(misread(link.node))

    def _answer(self, exchange: Exchange, batch: Batch) -> None:
        """Reply to a batch of which nothing needs a server."""
        self.phase = IDLE
        replies = dispatch.answer_without_backend(batch, self.intake, exchange)
        outcome.answered(exchange, batch)
        if exchange.is_failed:
            self._counters.refused(exchange.sqlstate)
        if replies:
            self._reply(replies)
            exchange.forwarded += len(replies)
        self._end_without_backend(exchange, batch)

    def _refuse(self, refusal: Refusal) -> None:
        """The exchange cannot be served: an error in place of its last batch."""
        exchange = self._current()
        self.phase = IDLE
        batch = exchange.batches[-1]
        dispatch.restore_from(batch, 0, self.intake)
        exchange.is_failed = True
        exchange.sqlstate = refusal.sqlstate
        exchange.error = refusal.message
        refusal.severity = "ERROR"
        self._counters.refused(refusal.sqlstate)
        self._reply(backend.error_response(refusal))
        self._end_without_backend(exchange, batch)

    def _end_without_backend(self, exchange: Exchange, batch: Batch) -> None:
        if exchange.is_failed:
            self.state.resets = NO_SETTINGS
        if exchange.is_failed and (exchange.is_open or dispatch.fails_before_end(batch)):
            self.exchange = None
            self.skips_to_sync = True
            self._finish_outcomes(exchange, exchange.sqlstate, exchange.error)
        elif not exchange.is_open:
            self.exchange = None
            self._reply(backend.ready_for_query(self.status))
            self._finish_outcomes(exchange, exchange.sqlstate, exchange.error)

    def _leave(self, exchange: Exchange, link: BackendLink) -> None:
        """Give up the connection of an exchange that nothing was executed in yet."""
        link.exchange = None
        link.user_session = None
        self.link = None
        self._let_read(link)
        exchange.sent = False
        exchange.steps = []
        exchange.at = 0
        SwallowSync(self._broker).run(link)

    # -- at the end of an exchange

    def on_exchange_done(self, link: BackendLink, exchange: Exchange, status: int) -> None:
        """ReadyForQuery: count, tell the hooks, let the connection go, start the next."""
        if exchange.is_retrying:
            exchange.is_retrying = False
            exchange.restart()
            if exchange.is_misplaced:
                self._let_go(link)
                self._route = WRITE
                self._acquire(exchange, exchange.batches[-1])
            else:
                self._give(exchange, link)
            return
        self.exchange = None
        self.status = status
        if exchange.changes_schema or self._has_changed_schema:
            self._schema_changed(exchange, status)
        if exchange.effects is not None:
            namespace.apply_effects(exchange, self.intake, link)
        state = self.state
        if exchange.sequences:
            sequences.ended(state, exchange, link)
        if state.is_local or state.is_loading or state.resets:
            state.ended(exchange.is_failed, status == tags.STATUS_IDLE)
            self._plan()
        self._count(exchange, status)
        if exchange.statements:
            self._finish_outcomes(exchange, exchange.sqlstate, exchange.error)
        self.phase = IDLE
        if status == tags.STATUS_IDLE:
            self._may_copy = False
            if self._tuning.mode == POOL_SESSION:
                pass
            elif link.is_touched or (state.pins and exchange.may_unpin):
                self.phase = PROBING
                ProbeQuery(self, state.custom, state.is_opaque).run(link)
                return
            elif not state.pins:
                self._let_go(link)
                if state.sequence_link is link:
                    self._broker.spare(link)
            if self.is_draining:
                self.drain()
                return
        elif self._tuning.mode == POOL_STATEMENT:
            self.fatal(no_block())
            return
        self.pump()

    def on_probed(
        self,
        link: BackendLink,
        found: dict[str, bytes],
        pins: list[str],
        prepared: dict[bytes, bytes],
        failed: bool,
    ) -> None:
        """What the last transaction has left behind is known now."""
        self.phase = IDLE
        if failed:
            # What cannot be known stays with its client; the next look may succeed (rule 15).
            self._counters.count("probe_failed")
            self.state.pins = ["unknown state"]
        else:
            self.state.learn(found, pins)
            namespace.learn(self.intake, prepared, self._classifier)
            self._plan()
            link.is_touched = False
            if not pins:
                self._let_go(link)
        if self.is_draining:
            self.drain()
            return
        self.pump()

    def _let_go(self, link: BackendLink) -> None:
        self.link = None
        self._let_read(link)
        link.user_session = None
        if link.status == tags.STATUS_IDLE:
            self._broker.release(link)
        else:
            # SAFETY: only a hostile server says so here; its transaction would be the next client's.
            self._broker.discard(link, "it is in a transaction that nobody began")

    def _let_read(self, link: BackendLink) -> None:
        """The link is not this client's any more: neither slows the other down."""
        if self.is_client_slow:
            link.wire.resume_reading()
        if self.is_server_slow:
            self.on_backend_drained()

    def on_link_lost(self, link: BackendLink, refusal: Refusal) -> None:
        """The server connection has gone: try again where nothing was lost, else say so."""
        exchange = self.exchange
        if self.phase == CLOSED:
            return
        # Who was ended by an operator was told so.
        is_losing = refusal.sqlstate == "08006" and self._broker.is_losing(link)
        if exchange is not None and outcome.may_retry(exchange, refusal, is_losing):
            outcome.note_crash(self._broker, link, refusal, is_losing)
            self.link = None
            self._let_read(link)
            exchange.retries += 1
            exchange.restart()
            self._counters.count("retried_after_loss")
            if exchange.retries == outcome.MAX_RETRIES:
                # A standby that has crashed had connections under way: enough of it.
                self._route = WRITE
            self._acquire(exchange, exchange.batches[-1])
            return
        if link.held:
            self.on_reply(link.held)
        # Also while probing: what the client has set on that connection is not known elsewhere.
        self.fatal(refusal)
