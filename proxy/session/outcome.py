"""
How an exchange goes: errors undone, completions counted, and what the hooks are told at its end.
"""

from typing import TYPE_CHECKING, Final

from proxy.errors import Refusal
from proxy.protocol import backend, tags
from proxy.session import dispatch, namespace
from proxy.session.exchange import (
    END_SYNC,
    STEP_DROP,
    STEP_FAIL,
    STEP_FORWARD,
    Batch,
    Exchange,
    Message,
    Prepared,
    Step,
)
from proxy.session.farewell import CRASH_OF_ANOTHER
from proxy.session.inspection import VERDICT_ANSWER, VERDICT_REFUSE, Inspection, Outcome
from proxy.session.link import BackendLink
from proxy.session.namespace import Places
from proxy.session.ports import Broker, Gate

if TYPE_CHECKING:
    from proxy.session.relay import Relay

KEPT_BATCHES: Final = 16
"""Batches of one exchange from which on those that are answered are let go."""

MAX_RETRIES: Final = 3
"""How often a read is tried again because of the crash of another."""


def on_error(
    session: "Relay", exchange: Exchange, link: BackendLink, frame: bytes, body: bytes
) -> bytes:
    """
    Deal with the server's ErrorResponse; returns what the client gets, b"" when it is tried again.

    protocol-flow, Extended Query: after an error the server skips to the Sync, so everything the
    proxy counted on from here on did not happen (rule 2).
    """
    fields = backend.error_fields(body)
    sqlstate = backend.sqlstate_of(fields)
    message = backend.message_of(fields)
    steps = exchange.steps
    if may_retry_error(exchange, sqlstate, message):
        exchange.retries += 1
        exchange.is_retrying = True
        forget_plans(exchange, link)
        if is_stale_plan(sqlstate, message):
            exchange.stale_error = frame
        elif not is_stale(sqlstate, message):
            exchange.is_read = False
            exchange.is_misplaced = True
        return b""
    if is_stale(sqlstate, message):
        forget_plans(exchange, link)
    reply = frame
    if exchange.stale_error and sqlstate == "08P01":
        # The Bind does not fit the new columns. The client knows what to do about the first error.
        reply = exchange.stale_error
        fields = backend.error_fields(reply[5:])
        sqlstate = backend.sqlstate_of(fields)
        message = backend.message_of(fields)
    batch = exchange.batches[-1]
    failing: Message | None = None
    if steps is None:
        unnamed = _unnamed_of_messages(link, batch.messages, exchange.replies)
        places: Places | None = None
        if exchange.replies < len(batch.messages):
            failing = batch.messages[exchange.replies]
            dispatch.restore_from(batch, exchange.replies + 1, session.intake)
            session.intake.fail(failing)
    else:
        link.advance(exchange)
        at = exchange.at
        unnamed = unnamed_of_steps(link, steps, at)
        places = namespace.places_at(exchange.renaming, steps, at)
        is_call = False
        is_own = False
        if at < len(steps):
            step = steps[at]
            failing = step.message
            if failing is not None:
                is_call = failing.tag == tags.QUERY or failing.tag == tags.FUNCTION_CALL
                if step.kind == STEP_FAIL and failing.refusal is not None:
                    reply = step.data
                    sqlstate = failing.refusal.sqlstate
                    message = failing.refusal.message
            is_own = step.kind == STEP_DROP and is_for_query(steps, at)
            undo(session, link, steps, at)
        exchange.at = len(steps)
        if batch.end != END_SYNC and not is_call:
            # A Query behind the failed message is skipped too; only a Sync ends this: the
            # client's, or the proxy's own where it was the proxy who put a message before the Query.
            exchange.is_open = True
            exchange.owes_sync = is_own
    link.unnamed = unnamed if not is_stale(sqlstate, message) else None
    if exchange.renaming is not None or namespace.SERVER_NAMES in reply:
        reply = namespace.with_client_names(reply, exchange, link, places)
    exchange.is_failed = True
    exchange.sqlstate = sqlstate
    exchange.error = message
    session.note_error(sqlstate)
    if sqlstate == "25006" and not exchange.is_read:
        session.demoted(link)
    if exchange.running:
        note_failure(exchange, sqlstate, message)
    return reply


def undo(session: "Relay", link: BackendLink, steps: list[Step], at: int) -> None:
    """The message at step `at` has failed, and what stands behind it never ran."""
    last = len(steps) - 1
    while last >= at:
        step = steps[last]
        message = step.message
        if message is not None and step.kind != STEP_FAIL:
            if last == at:
                session.intake.fail(message)
            else:
                session.intake.restore(message)
        if step.server_key:
            link.undo_prepared(step.server_key)
        last -= 1


def _unnamed_of_messages(link: BackendLink, messages: list[Message], at: int) -> Prepared | None:
    """As `unnamed_of_steps`, where each message has gone out as it came."""
    if at >= len(messages):
        return None  # a Query has several replies
    steps = [Step(STEP_FORWARD, b"", message, b"") for message in messages]
    return unnamed_of_steps(link, steps, at)


def unnamed_of_steps(link: BackendLink, steps: list[Step], at: int) -> Prepared | None:
    """
    Whose unnamed statement the server has when the step at `at` has failed; None: nobody knows.

    link.unnamed is what it would have had behind all of them.
    """
    is_changed = False  # by what failed, or never ran
    last = len(steps) - 1
    while last >= 0:
        step = steps[last]
        message = step.message
        if message is not None and changes_unnamed(step, message):
            if last < at:
                # Close leaves none, and behind a Query there is nothing.
                return message.prepared if message.tag != tags.CLOSE else None
            if last == at:
                # A server drops it before it looks at what takes its place.
                return None
            is_changed = True
        last -= 1
    return None if is_changed else link.unnamed


def changes_unnamed(step: Step, message: Message) -> bool:
    """Whether what was sent for a step changes what the server's unnamed statement is."""
    kind = step.kind
    tag = message.tag
    if kind == STEP_FORWARD:
        return tag == tags.QUERY or (
            not message.name and (tag == tags.PARSE or (tag == tags.CLOSE and message.is_statement))
        )
    if kind == STEP_FAIL:
        # In place of these two a Query is sent.
        return tag == tags.QUERY or tag == tags.FUNCTION_CALL
    return kind == STEP_DROP


def is_for_query(steps: list[Step], at: int) -> bool:
    """Whether the step at `at` is a message that the proxy put before a Query."""
    while at < len(steps) and steps[at].kind == STEP_DROP:
        at += 1
    if at >= len(steps):
        return False  # it stands in place of a Query that the proxy has answered
    message = steps[at].message
    return message is not None and message.tag == tags.QUERY


def may_retry(exchange: Exchange, refusal: Refusal, is_losing: bool) -> bool:
    """
    Whether a lost exchange may be run again: nothing was seen of it, nothing can have happened.

    A statement that servers die of, or that operators end, must not come back again and again. Where
    a server says that another one was the reason, or others to the same node were lost just now, all
    connections to it are lost in this moment, and the next that is tried may be one of them.
    """
    most = MAX_RETRIES if is_losing or refusal.sqlstate == CRASH_OF_ANOTHER else 1
    return (
        exchange.is_read
        and exchange.forwarded == 0
        and exchange.retries < most
        and not exchange.in_transaction
        and not exchange.is_open
        and not exchange.is_partial
        and len(exchange.batches) == 1
    )


def note_crash(broker: Broker, link: BackendLink, refusal: Refusal, is_losing: bool) -> None:
    """What rests on a node that has crashed is lost as well, though nobody has read so yet."""
    if is_losing or refusal.sqlstate == CRASH_OF_ANOTHER:
        broker.crashed(link)


def may_retry_error(exchange: Exchange, sqlstate: str, message: str) -> bool:
    """Whether an error is the proxy's own doing, and the exchange can be run again unseen."""
    if (
        exchange.forwarded > 0
        or exchange.retries > 0
        or exchange.in_transaction
        or exchange.is_open
        or exchange.is_partial
        or len(exchange.batches) != 1
    ):
        return False
    if is_stale_plan(sqlstate, message):
        return is_described(exchange)
    if exchange.is_read and (sqlstate == "25006" or sqlstate == "0A000"):
        # A statement taken for a read turns out to write, or wants SERIALIZABLE by its role's
        # defaults: a standby cannot have done anything.
        return True
    return is_stale(sqlstate, message)


def is_stale(sqlstate: str, message: str) -> bool:
    """Whether a statement on the server connection is not what the proxy takes it for any more."""
    if is_stale_plan(sqlstate, message):
        return True
    # The server's own name for it is gone: other SQL, e.g. in a function, has deallocated it there.
    return sqlstate == "26000" and "headgate_" in message


def is_stale_plan(sqlstate: str, message: str) -> bool:
    """Rule 13: the plan was made before a DDL; a statement of the client's own might have none."""
    return sqlstate == "0A000" and "cached plan must not change result type" in message


def is_described(exchange: Exchange) -> bool:
    """
    Whether the client cannot misread other columns than there were.

    It learns in this very exchange what it gets, or never asked. Otherwise rows come as some earlier
    Describe has told: then the error is what a driver needs, as it would come from a server, to look
    again.
    """
    is_unasked = True
    for message in exchange.batches[0].messages:
        if message.tag == tags.DESCRIBE or message.tag == tags.PARSE:
            return True
        if message.prepared is not None and message.prepared.is_described:
            is_unasked = False
    return is_unasked


def forget_plans(exchange: Exchange, link: BackendLink) -> None:
    """Have the statements of an exchange prepared anew."""
    link.unnamed = None
    for batch in exchange.batches:
        for message in batch.messages:
            prepared = message.prepared
            if prepared is not None and prepared.is_named:
                name = link.prepared.pop(prepared.key, b"")
                if name:
                    link.garbage.append(name)


def completed(exchange: Exchange, tag: int, frame: bytes, now_us: int) -> None:
    """One statement has run to its end: its outcome."""
    if exchange.completions >= len(exchange.running):
        return
    inspection = exchange.running[exchange.completions]
    if tag != tags.PORTAL_SUSPENDED:
        exchange.completions += 1
    outcome = inspection.outcome
    if outcome is None:
        outcome = Outcome()
        inspection.outcome = outcome
    outcome.target_node = exchange.node
    outcome.elapsed_us = now_us - exchange.started_us
    outcome.response_bytes = exchange.forwarded
    if tag == tags.COMMAND_COMPLETE:
        outcome.rows = backend.rows_of_tag(frame[5:-1])


def note_failure(exchange: Exchange, sqlstate: str, error: str) -> None:
    """The statement that runs now has failed."""
    if exchange.completions < len(exchange.running):
        inspection = exchange.running[exchange.completions]
        outcome = Outcome()
        outcome.success = False
        outcome.sqlstate = sqlstate
        outcome.error = error
        outcome.target_node = exchange.node
        inspection.outcome = outcome


def answered(exchange: Exchange, batch: Batch) -> None:
    """Outcomes of statements that the proxy answered or refused itself."""
    for inspection in exchange.statements:
        if inspection.outcome is not None:
            continue
        outcome = Outcome()
        if inspection.verdict == VERDICT_ANSWER and inspection.answer is not None:
            outcome.rows = len(inspection.answer.rows)
            inspection.outcome = outcome
            if inspection.is_judged:
                # Who observes is told of the Parse that it was judged with.
                for message in batch.messages:
                    if message.tag == tags.PARSE and message.inspection is not None:
                        message.inspection.outcome = outcome
    for message in batch.messages:
        if message.refusal is not None:
            exchange.sqlstate = message.refusal.sqlstate
            exchange.error = message.refusal.message
            break


def note_for_cache(relay: "Relay", exchange: Exchange, inspection: Inspection) -> None:
    """Whether a result may be kept or taken, and what makes it another one beside the text."""
    statements = exchange.statements
    at = exchange.looked_at
    while statements[at] is not inspection:
        if not statements[at].facts.is_read_only:
            exchange.only_reads = False
        at += 1
    exchange.looked_at = at
    state = relay.state
    link = relay.link
    inspection.may_cache = (
        exchange.only_reads
        # Temporary tables and the like: who has them reads something else by the same names.
        and not state.pins
        and not state.is_opaque
        and (link is None or not (link.is_touched or link.is_opaque))
    )
    if inspection.may_cache:
        inspection.settings_key = relay.intake.planning + b"\x03" + state.result_key()


def is_wanted(exchange: Exchange) -> bool:
    """Whether the exchange is one read whose result a plugin wants to offer to the cache."""
    if len(exchange.running) != 1 or len(exchange.batches) != 1 or exchange.is_partial:
        return False
    return cached_one(exchange) is not None


def cached_one(exchange: Exchange) -> Inspection | None:
    """The inspection that named a key of the cache."""
    for inspection in exchange.statements:
        if inspection.cache_key:
            return inspection
    return None


def capture(exchange: Exchange, kept: list[bytes], data: bytes, limit: int) -> None:
    """Keep a result for the cache in exchange.capture (`kept`), as long as it fits."""
    exchange.captured_bytes += len(data)
    if exchange.captured_bytes > limit:
        exchange.capture = None
    else:
        kept.append(data)


def finish(exchange: Exchange, gate: Gate, sqlstate: str, error: str, now_us: int) -> None:
    """The exchange is over: give every statement its outcome and tell the gate, once each."""
    if not gate.observes and not gate.captures:
        # Nobody wants to know: the gate only has to let go of each.
        for inspection in exchange.statements:
            if inspection.chains is not None:
                gate.finished(inspection, None)
        exchange.statements = []
        return
    result: bytes | None = None
    if exchange.capture is not None and not exchange.is_failed:
        result = b"".join(exchange.capture)
    single = len(exchange.running) == 1 and not exchange.is_partial
    keeper = cached_one(exchange) if result is not None else None
    for inspection in exchange.statements:
        outcome = inspection.outcome
        if outcome is None:
            outcome = Outcome()
            if inspection.verdict == VERDICT_REFUSE and inspection.refusal is not None:
                outcome.success = False
                outcome.sqlstate = inspection.refusal.sqlstate
                outcome.error = inspection.refusal.message
            elif sqlstate:
                outcome.success = False
                outcome.sqlstate = sqlstate
                outcome.error = error
            outcome.target_node = exchange.node
            inspection.outcome = outcome
        if single:
            outcome.response_bytes = exchange.forwarded
        if outcome.elapsed_us == 0:
            outcome.elapsed_us = now_us - exchange.started_us
        if inspection.chains is not None:
            gate.finished(inspection, result if inspection is keeper else None)
    exchange.statements = []


def finish_answered(exchange: Exchange, gate: Gate, now_us: int) -> None:
    """A long exchange: what is complete in it has its outcome now, and is let go."""
    exchange.forget_answered()
    statements = exchange.statements
    keeps_cache = gate.caches or gate.captures
    if not gate.observes and not keeps_cache:
        finish(exchange, gate, "", "", now_us)
        exchange.running = []
        exchange.looked_at = 0
        return
    for inspection in statements[exchange.looked_at :]:
        if not inspection.facts.is_read_only:
            exchange.only_reads = False
    kept: list[Inspection] = []
    done = set(exchange.running[: exchange.completions])
    for inspection in statements:
        # What is written counts for the cache when it is committed, which is at the Sync.
        if inspection not in done or (keeps_cache and not inspection.facts.is_read_only):
            kept.append(inspection)
        else:
            gate.finished(inspection, None)
    exchange.statements = kept
    exchange.running = exchange.running[exchange.completions :]
    exchange.completions = 0
    exchange.looked_at = len(kept)
