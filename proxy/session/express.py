"""
The express way of a plain statement: sent as it came, answered as it goes, no object made of it.

Theory of operation. Most of what a proxy sees is one statement outside of a transaction, in one
piece, that leaves nothing behind, and a reply of a few messages in one piece. For that, all of what
`session.conversation` prepares for comes to nothing. So where a session is as it was at its start
(`_is_ordinary`), and the parser's cache knows the text as one that moves rows (`TextFacts.is_express`),
the statement is judged, a server connection is taken, and the bytes go out; what is kept is those
bytes. When a reply comes that is plain too (`protocol.plain`), it is passed on, and that was all.

Whatever else may happen, the statement is an exchange from then on: the bytes are read again as the
conversation would have read them (`_unfold`), and everything goes on there, so that no rule is
written twice. That is when the gate has something to say, no connection is at hand or has other
settings, the reply is long, or an error or any other message, the client cancels or goes, the
server goes, or a time limit passes.
"""

from typing import Final

from proxy.errors import Refusal
from proxy.protocol import frontend, plain, tags
from proxy.routing.route import READ, WRITE, Route
from proxy.session import admission
from proxy.session.context import ClientContext
from proxy.session.conversation import Conversation
from proxy.session.exchange import Batch, Exchange, Prepared
from proxy.session.inspection import (
    PHASE_EXECUTE,
    PHASE_STATEMENT,
    VERDICT_ALLOW,
    Inspection,
)
from proxy.session.link import BackendLink
from proxy.session.relay import BUSY, IDLE, JUDGING, WAITING
from proxy.session.tuning import POOL_SESSION
from proxy.sql.statement import StatementFacts

MAX_BYTES: Final = 16 * 1024
"""Longest statement that goes this way; it is kept until it is answered."""


class Express(Conversation):
    """The part of a session that sends plain statements past all others."""

    __slots__ = ()

    # -- from the client

    def _express(self, data: bytes) -> bool:
        """Deal with one plain statement; False where it is none, and nothing was done."""
        intake = self.intake
        if (
            not (self._is_ordinary or self._becomes_ordinary())
            or self.is_client_slow
            or self._schema != self._welcomes.schema
            or not intake.is_empty()
            or not 0 < len(data) <= MAX_BYTES
            or len(data) > self._tuning.max_message_bytes
        ):
            return False
        tag = data[0]
        prepared: Prepared | None = None
        if tag == tags.QUERY:
            found = plain.query_text(data)
        elif tag == tags.BIND:
            prepared = self._named(data)
            found = prepared.text if prepared is not None else None
        elif tag == tags.PARSE:
            found = _text_of_group(data)
        else:
            return False
        if found is None:
            return False
        text = found
        facts = (
            prepared.facts
            if prepared is not None
            else self._classifier.known(text, tag == tags.PARSE)
        )
        if facts is None or not facts.is_express:
            return False
        gate = self._gate
        is_judged = gate.judges and not self._is_cleared(facts.statements[0], text)
        if is_judged and (
            gate.observes or gate.routes or gate.wants_parameters or gate.caches or gate.captures
        ):
            return False
        self.queries += 1
        self._sent = data
        self._sent_since_us = self._clock.now_us()
        self._sent_passed = None
        inspection: Inspection | None = None
        is_decided = True
        if is_judged:
            statement = facts.statements[0]
            raw_text = text if statement.text != text else b""
            phase = PHASE_EXECUTE if tag == tags.BIND else PHASE_STATEMENT
            if gate.judges_at_once:
                self._sent_passed = statement
                inspection = gate.judge_at_once(
                    statement, raw_text, self.client, tag != tags.QUERY, phase
                )
                self._sent_judged = inspection
            else:
                inspection = Inspection(
                    statement, self.client, tag != tags.QUERY, phase, False, None
                )
                inspection.raw_text = raw_text
                inspection.waiter = self
                self._sent_judged = inspection
                is_decided = gate.judge(inspection)
        if inspection is None or (
            is_decided and inspection.verdict == VERDICT_ALLOW and not inspection.is_rewritten
        ):
            self._dispatch(data, READ if facts.is_read_only else WRITE, prepared)
        else:
            # The gate needs time, or has more to say than yes.
            exchange = self._unfold()
            self.phase = JUDGING
            if is_decided:
                self._judge(exchange, exchange.batches[-1])
        return True

    def _becomes_ordinary(self) -> bool:
        """Look whether the session is as at its start; so it stays until its next exchange."""
        state = self.state
        self._is_ordinary = (
            self.status == tags.STATUS_IDLE
            and self._tuning.mode != POOL_SESSION
            and self.link is None
            and self.exchange is None
            and not self.skips_to_sync
            and not self._may_copy
            and not self._has_changed_schema
            and self.intake.is_ordinary()
            and state.is_ordinary()
        )
        return self._is_ordinary

    def _named(self, data: bytes) -> Prepared | None:
        """The client's statement that a Bind, an Execute and a Sync are of; None: not so plain."""
        end = plain.bind_end(data, 0)
        if end < 0:
            return None
        is_described = _ends_group(data, end)
        if is_described < 0:
            return None
        name = plain.bind_name(data, 0, end)
        if not name:
            return None
        prepared = self.intake.statements.get(name)
        if (
            prepared is None
            or prepared.is_raw
            or prepared.is_special
            or prepared.answer is not None
            or prepared.sql is not prepared.text
            or prepared.planning != self.intake.planning
        ):
            return None
        if is_described > 0:
            prepared.is_described = True
        return prepared

    def _is_cleared(self, statement: StatementFacts, text: bytes) -> bool:
        """Whether no plugin has anything to say on it; then it is counted as passed."""
        if not self._gate.clears:
            return False
        clearance = self._gate.clearance(statement, self.client)
        if clearance is None or clearance.is_never or (clearance.text and clearance.text != text):
            return False
        clearance.use()
        return True

    def _dispatch(self, data: bytes, route: Route, prepared: Prepared | None) -> None:
        """Take a server connection that is as this client wants it, and send."""
        self._route = route
        self.phase = WAITING
        link = self._broker.acquire(self, self.client.database, self.client.user, route)
        if link is None:
            if self._sent:
                self._unfold_weighed()
                self.waiting_since_us = self._clock.now_us()
            return
        state = self.state
        name: bytes | None = None
        if prepared is not None:
            name = link.prepared.get(prepared.key)
        if (
            link.applied_key != state.key
            or link.is_opaque
            or link.reported_id != state.known_id
            or (prepared is not None and name is None)
        ):
            self._take(self._unfold_weighed(), link)
            return
        self.link = link
        link.user_session = self
        link.speaker.client_id = self.key.process_id
        link.is_express = True
        self.phase = BUSY
        if prepared is None or name is None:
            link.unnamed = None
        else:
            link.keep_name(prepared.key, name, self._tuning.max_prepared_statements)
            data = frontend.rename_bind(data, name)
        link.send(data)

    # -- from the server

    def on_plain_reply(self, link: BackendLink, data: bytes) -> None:
        """All of the reply to the statement that went this way."""
        self._reply(data)
        judged = self._sent_judged
        if judged is not None:
            self._sent_judged = None
            self._gate.finished(judged, None)
        self.intake.went_by(self._sent)
        self._sent = b""
        since_us = self._sent_since_us
        self.transactions += 1
        self.transaction_us += self._count_query(since_us) - since_us
        self.phase = IDLE
        self._let_go(link)
        if self.is_draining:
            self.drain()
        elif not self.intake.is_empty():
            self.pump()

    def on_link_lost(self, link: BackendLink, refusal: Refusal) -> None:
        """The server connection has gone."""
        self.unfold()
        super().on_link_lost(link, refusal)

    def on_no_backend(self, refusal: Refusal) -> None:
        """The broker gives up, perhaps at once."""
        if self._sent:
            self._unfold_weighed()
        super().on_no_backend(refusal)

    # -- to the long way

    def unfold(self) -> None:
        """
        What was sent this way, if anything was, is an exchange like any other from now on. Nothing of
        its reply was passed on yet.
        """
        link = self.link
        if not self._sent or link is None:
            return
        exchange = self._unfold_weighed()
        exchange.sent = True
        exchange.node = link.node
        first = exchange.batches[-1].messages[0]
        if first.tag == tags.PARSE:
            link.unnamed = first.prepared
        link.is_express = False
        link.watches = False
        if not link.is_closed:
            link.exchange = exchange

    def _unfold(self) -> Exchange:
        """The exchange that the kept bytes are, as judged."""
        exchange = Exchange(self._sent_since_us)
        batch = self.intake.reread(self._sent)
        exchange.batches.append(batch)
        judged = self._sent_judged
        if judged is None and self._sent_passed is not None:
            judged = _passed(batch, self._sent_passed, self.client)
        self._judged = []
        if judged is None:
            exchange.is_cleared = self._gate.clears
        else:
            self._judged.append(judged)
            admission.take_judged(batch, exchange, judged, self._classifier)
        self._index = len(self._judged)
        self.exchange = exchange
        self._sent = b""
        self._sent_judged = None
        self._sent_passed = None
        self._is_ordinary = False
        return exchange

    def _unfold_weighed(self) -> Exchange:
        """The same with what the text says of it noted; where it goes is settled already."""
        exchange = self._unfold()
        self._weigh(exchange, exchange.batches[-1])
        exchange.is_read = self._route is READ
        return exchange


def _text_of_group(data: bytes) -> bytes | None:
    """The text of a Parse, Bind, (Describe,) Execute and Sync without names."""
    parsed = plain.parse_end(data)
    if parsed < 0:
        return None
    bound = plain.bind_end(data, parsed)
    if bound < 0 or plain.bind_name(data, parsed, bound) != b"" or _ends_group(data, bound) < 0:
        return None
    return plain.parse_text(data, parsed)


def _ends_group(data: bytes, start: int) -> int:
    """1: a Describe, Execute and Sync are all that is left; 0: without the Describe; -1: neither."""
    rest = data[start:]
    if rest == plain.DESCRIBE_EXECUTE_SYNC:
        return 1
    return 0 if rest == plain.EXECUTE_SYNC else -1


def _passed(batch: Batch, facts: StatementFacts, client: ClientContext) -> Inspection:
    """The inspection of the one statement of a batch, which passed before there was a batch."""
    first = batch.messages[0]
    prepared = first.prepared
    phase = PHASE_EXECUTE if first.tag == tags.BIND else PHASE_STATEMENT
    inspection = Inspection(facts, client, first.tag != tags.QUERY, phase, False, None)
    text = batch.data[first.start + 5 : first.end - 1] if prepared is None else prepared.text
    if facts.text != text:
        inspection.raw_text = text
    return inspection
