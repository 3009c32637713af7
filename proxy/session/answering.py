"""
Statements that a plugin or the cache answers, in the extended protocol.

Parse, Bind, Describe and Execute of one statement come as messages of their own, perhaps in batches of
their own. Here each of them gets its reply; what the replies look like is in `answers`.
"""

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import backend, frontend, tags
from proxy.session import answers
from proxy.session.exchange import AnsweredPortal, Batch, Exchange, Message
from proxy.session.inspection import VERDICT_ANSWER


def decode_bind(batch: Batch, message: Message) -> frontend.Bind | None:
    """A Bind's fields; a malformed one is refused as PostgreSQL does."""
    try:
        return frontend.Bind.decode(batch.data[message.start + 5 : message.end])
    except ProtocolViolation as violation:
        message.refusal = Refusal(violation.sqlstate, violation.message)
        return None


def apply_answers(exchange: Exchange, batch: Batch) -> None:
    """Give the messages around an answered statement their replies (Bind, Describe, Execute)."""
    portals = exchange.answered
    for message in batch.messages:
        if message.refusal is not None:
            return
        tag = message.tag
        if tag == tags.PARSE:
            prepared = message.prepared
            if prepared is not None and prepared.answer is not None:
                message.answer = backend.PARSE_COMPLETE
        elif tag == tags.BIND:
            _answer_bind(exchange, batch, message)
            portals = exchange.answered
        elif tag == tags.DESCRIBE:
            body = batch.data[message.start + 5 : message.end]
            prepared = message.prepared
            if message.is_statement:
                if prepared is not None and prepared.answer is not None:
                    oids = prepared.tail
                    length = 4 + len(oids)
                    message.answer = (b"t" + length.to_bytes(4, "big") + oids) + answers.describe(
                        prepared.answer, []
                    )
            elif portals is not None:
                portal = portals.get(body[1:-1])
                if portal is not None:
                    message.answer = answers.describe(portal.answer, portal.formats)
        elif tag == tags.CLOSE and portals is not None and not message.is_statement:
            portals.pop(batch.data[message.start + 6 : message.end - 1], None)
        elif tag == tags.EXECUTE and portals is not None:
            body = batch.data[message.start + 5 : message.end]
            portal = portals.get(body[: body.find(0)])
            if portal is not None:
                rows = answers.rows(portal.answer, portal.formats)
                if rows is None:
                    message.refusal = Refusal(
                        "0A000",
                        "a plugin's answer has a type that cannot be sent in binary format",
                        hint="Ask for text results, or let the plugin name type 25 (text).",
                    )
                    return
                message.answer = rows


def _answer_bind(exchange: Exchange, batch: Batch, message: Message) -> None:
    prepared = message.prepared
    assert prepared is not None
    answer = prepared.answer
    inspection = message.inspection
    if inspection is not None:
        answer = inspection.answer if inspection.verdict == VERDICT_ANSWER else None
    if answer is None and exchange.answered is None:
        return
    bind = decode_bind(batch, message)
    if bind is None:
        return
    if exchange.answered is None:
        exchange.answered = {}
    if answer is None:
        # The name is a portal of the server's now.
        exchange.answered.pop(bind.portal, None)
        return
    exchange.answered[bind.portal] = AnsweredPortal(answer, bind.result_formats)
    message.answer = backend.BIND_COMPLETE
