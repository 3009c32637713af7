"""
A batch, as it goes to one server connection: names translated, Parses put in or left out.

Clients name statements as they like; a server connection serves many clients, so each statement
has a name of the proxy's there, and is prepared the first time that it is used on that
connection (rules 8 to 12). What is put in, left out or made to fail leaves a step, so that its reply
is dropped, invented or replaced in its turn. Bytes that need no change go out as received.
"""

from typing import Final, final

from proxy.protocol import backend, frontend, tags
from proxy.session import namespace
from proxy.session.exchange import (
    BOUND,
    DROP,
    END_CUT,
    END_FUNCTION_CALL,
    END_QUERY,
    END_SYNC,
    FORWARD,
    STEP_DROP,
    STEP_FAIL,
    STEP_FORWARD,
    STEP_INVENT,
    Batch,
    Exchange,
    Message,
    Prepared,
    Step,
)
from proxy.session.intake import Intake
from proxy.session.link import BackendLink
from proxy.session.namespace import Places, Renaming, Use
from proxy.sql.statement import (
    CONTROL_COMMIT,
    CONTROL_ROLLBACK,
    CONTROL_ROLLBACK_TO,
    TextFacts,
)

STATEMENT: Final = 83  # "S" of Describe and Close

FAILING_SQL: Final = b"headgate refused a statement"
"""A syntax error for any server: sent where a statement is refused inside a transaction or pipeline,
so that the server itself fails the transaction or skips to the Sync, as after any other error."""

EMPTY_QUERY: Final = frontend.encode_query(b"")
FAILING_QUERY: Final = frontend.encode_query(FAILING_SQL)
# Named, because a Parse of the unnamed statement would also drop the client's.
FAILING_PARSE: Final = frontend.encode_parse(b"headgate_refused", FAILING_SQL, b"\x00\x00")

# In a transaction, these begin a command and change nothing; see `_begins_nothing`.
BEGINNING: Final = (
    frontend.encode_parse(b"headgate_begins", b"", b"\x00\x00")
    + frontend.Close(STATEMENT, b"headgate_begins").encode()
)


def needs_backend(batch: Batch) -> bool:
    """Whether any of it must be asked of a server."""
    for message in batch.messages:
        if message.refusal is not None:
            return False
        tag = message.tag
        if message.answer is not None or tag == tags.SYNC or tag == tags.FLUSH:
            continue
        if tag == tags.CLOSE and message.is_statement:
            prepared = message.prepared
            if prepared is None or not prepared.is_foreign:
                continue
        elif tag == tags.PARSE and batch.end == END_SYNC and is_answered(batch, message):
            continue
        return True
    return False


def is_answered(batch: Batch, parse: Message) -> bool:
    """
    Whether an execution of what is parsed here is answered by the proxy, so that a server knows the
    text as it is. Should it be executed on a server later, it is parsed there first.
    """
    for message in batch.messages:
        if (
            message.tag == tags.BIND
            and message.answer is not None
            and message.prepared is parse.prepared
        ):
            return True
    return False


def only_prepares(batch: Batch, known: dict[bytes, bytes]) -> bool:
    """Whether a batch does nothing but prepare statements that a server has prepared before."""
    if batch.end != END_SYNC:
        return False
    for message in batch.messages:
        if message.tag == tags.SYNC and message.refusal is None:
            continue
        prepared = message.prepared
        if (
            message.tag != tags.PARSE
            or message.refusal is not None
            or prepared is None
            or not prepared.is_named
            or prepared.key not in known
        ):
            return False
    return True


def fails_before_end(batch: Batch) -> bool:
    """A refused batch whose own end the client's server would have skipped: only Sync ends it."""
    if not _ends_in_call(batch):
        return False
    for message in batch.messages:
        if message.refusal is not None:
            return message.tag != tags.QUERY and message.tag != tags.FUNCTION_CALL
    return False


def ends_in_execute(batch: Batch) -> bool:
    """Whether a Sync follows an Execute directly: a COPY IN swallows that Sync."""
    count = len(batch.messages)
    return batch.end == END_SYNC and count > 1 and batch.messages[count - 2].tag == tags.EXECUTE


def answer_without_backend(batch: Batch, intake: Intake, exchange: Exchange) -> bytes:
    """
    The replies to a batch of which nothing goes to a server, without ReadyForQuery.

    Sets exchange.is_failed where it ends in a refusal; what stands behind that never ran.
    """
    replies: list[bytes] = []
    for index, message in enumerate(batch.messages):
        if message.refusal is not None:
            replies.append(backend.error_response(message.refusal))
            exchange.is_failed = True
            restore_from(batch, index + 1, intake)
            intake.fail(message)
            break
        if message.answer is not None:
            replies.append(message.answer)
        elif message.tag == tags.CLOSE:
            replies.append(backend.CLOSE_COMPLETE)
        elif message.tag == tags.PARSE:
            replies.append(backend.PARSE_COMPLETE)
    return b"".join(replies)


def restore_from(batch: Batch, index: int, intake: Intake) -> None:
    """The messages from `index` on never ran: names mean what they meant before."""
    last = len(batch.messages) - 1
    while last >= index:
        intake.restore(batch.messages[last])
        last -= 1


def render(
    exchange: Exchange, batch: Batch, link: BackendLink, intake: Intake, max_prepared: int
) -> bytes:
    """
    Bytes for the server, with exchange.steps and the link's statements brought up to date.

    This is a mutating operation: what it returns must be sent.
    """
    data = batch.data
    run = 0
    pieces: list[bytes] = []
    steps = exchange.steps
    if steps is None and (exchange.is_open or (_ends_in_call(batch) and len(batch.messages) > 1)):
        # Who may go on later, or may be skipped with a Query at its end, is counted from the start.
        steps = []
    used: set[bytes] = set()
    if link.status == tags.STATUS_IN_TRANSACTION and _begins_nothing(exchange, batch):
        pieces.append(BEGINNING)
        steps = [DROP, DROP]
    for index, message in enumerate(batch.messages):
        tag = message.tag
        if message.refusal is not None:
            if steps is None:
                steps = _steps_before(batch, index)
            if run < message.start:
                pieces.append(data[run : message.start])
            pieces.append(_fail(batch, message, steps, link))
            restore_from(batch, index + 1, intake)
            intake.fail(message)
            if tag != tags.QUERY and tag != tags.FUNCTION_CALL and _ends_in_call(batch):
                # The server skips the Query or FunctionCall too: only a Sync ends this.
                exchange.is_open = True
            run = len(data)
            break
        if message.answer is not None:
            if steps is None:
                steps = _steps_before(batch, index)
            if run < message.start:
                pieces.append(data[run : message.start])
            run = message.end
            steps.append(Step(STEP_INVENT, message.answer, message, b""))
            if tag == tags.QUERY:
                # The Query was answered here; the end of its exchange is the server's. Where what
                # stands before it fails, a Query is skipped, and a Sync would not be.
                if index > 0 or len(exchange.batches) > 1:
                    pieces.append(EMPTY_QUERY)
                    steps.append(DROP)
                else:
                    pieces.append(frontend.SYNC)
            continue
        prepared = message.prepared
        if tag == tags.PARSE:
            assert prepared is not None
            if not prepared.is_named:
                link.unnamed = prepared
                if prepared.sql is not prepared.text:
                    if run < message.start:
                        pieces.append(data[run : message.start])
                    run = message.end
                    pieces.append(frontend.encode_parse(b"", prepared.sql, prepared.tail))
                if steps is not None:
                    steps.append(Step(STEP_FORWARD, b"", message, b""))
                continue
            if steps is None:
                steps = _steps_before(batch, index)
            if run < message.start:
                pieces.append(data[run : message.start])
            run = message.end
            used.add(prepared.key)
            if prepared.key not in link.prepared:
                pieces.append(_prepare(link, prepared, steps, message, used, max_prepared))
            elif link.status != tags.STATUS_FAILED:
                steps.append(Step(STEP_INVENT, backend.PARSE_COMPLETE, message, b""))
            else:
                # A failed transaction refuses to parse: the server shall say so itself. It may still
                # describe or execute what another name of the client's stands for.
                refused = link.new_server_name()
                link.garbage.append(refused)
                pieces.append(frontend.encode_parse(refused, prepared.sql, prepared.tail))
                steps.append(Step(STEP_FORWARD, b"", message, b""))
            continue
        if tag == tags.BIND or (tag == tags.DESCRIBE and message.is_statement):
            assert prepared is not None
            stand_in = b""
            if prepared.is_special:
                if not prepared.is_foreign:
                    if steps is None:
                        steps = _steps_before(batch, index)
                    is_run = tag == tags.BIND
                    made = _stand_in(
                        exchange, link, message, is_run, intake, steps, used, max_prepared
                    )
                    if made is not None:
                        if run < message.start:
                            pieces.append(data[run : message.start])
                        run = message.end
                        stand_in = made.name
                        pieces.append(made.data)
                        frame = data[message.start : message.end]
                        if tag == tags.BIND:
                            pieces.append(frontend.rename_bind(frame, stand_in))
                        else:
                            pieces.append(frontend.rename_described(frame, stand_in))
            if stand_in or prepared.is_foreign:
                pass
            elif prepared.is_named:
                name = link.prepared.get(prepared.key)
                if name is None and prepared.planning != intake.planning:
                    # Prepared here it would be under other settings than its key says (rule 10).
                    prepared = prepared.under(intake.planning)
                    message.prepared = prepared
                    name = link.prepared.get(prepared.key)
                    if tag == tags.DESCRIBE and message.name in intake.statements:
                        # The client is told of these columns now.
                        intake.statements[message.name] = prepared
                if tag == tags.DESCRIBE and steps is None:
                    steps = _steps_before(batch, index)
                used.add(prepared.key)
                if run < message.start:
                    pieces.append(data[run : message.start])
                run = message.end
                if name is None:
                    if steps is None:
                        steps = _steps_before(batch, index)
                    pieces.append(_prepare(link, prepared, steps, None, used, max_prepared))
                    name = link.prepared[prepared.key]
                else:
                    link.keep_name(prepared.key, name, max_prepared)
                frame = data[message.start : message.end]
                if tag == tags.BIND:
                    pieces.append(frontend.rename_bind(frame, name))
                else:
                    pieces.append(frontend.rename_described(frame, name))
            elif link.unnamed is not prepared:
                if steps is None:
                    steps = _steps_before(batch, index)
                if run < message.start:
                    pieces.append(data[run : message.start])
                    run = message.start
                link.unnamed = prepared
                pieces.append(frontend.encode_parse(b"", prepared.sql, prepared.parse_tail()))
                steps.append(Step(STEP_DROP, b"", message, b""))
        elif tag == tags.CLOSE and message.is_statement:
            if prepared is not None and prepared.is_foreign:
                pass
            elif message.name:
                if steps is None:
                    steps = _steps_before(batch, index)
                if run < message.start:
                    pieces.append(data[run : message.start])
                run = message.end
                steps.append(Step(STEP_INVENT, backend.CLOSE_COMPLETE, message, b""))
                continue
            else:
                link.unnamed = None
        elif tag == tags.QUERY:
            link.unnamed = None
            facts = batch.facts
            uses: list[Use] = []
            if facts is not None and not facts.is_plain and intake.statements:
                frame = message.replacement or data[message.start : message.end]
                gone = exchange.gone or []
                uses = namespace.uses_of(frame[5:-1], facts, intake, gone, batch.overrides)
            if uses:
                if steps is None:
                    steps = _steps_before(batch, index)
                frame = message.replacement or data[message.start : message.end]
                step = Step(STEP_FORWARD, b"", message, b"")
                made = _with_names(
                    exchange, link, frame[5:-1], uses, True, step, steps, used, max_prepared
                )
                pieces.append(data[run : message.start])
                pieces.append(made.data)
                pieces.append(frontend.encode_query(made.name))
                run = message.end
                continue
            if message.replacement:
                if run < message.start:
                    pieces.append(data[run : message.start])
                run = message.end
                pieces.append(message.replacement)
            if steps is not None:
                steps.append(Step(STEP_FORWARD, b"", message, b""))
            continue
        elif tag == tags.SYNC or tag == tags.FLUSH:
            continue
        if steps is not None:
            steps.append(_forward_step(message))
    exchange.steps = steps
    batch.steps_end = len(steps) if steps is not None else 0
    if run == 0 and not pieces:
        return data
    if run < len(data):
        pieces.append(data[run:])
    return b"".join(pieces)


def with_flush(data: bytes, batch: Batch, exchange: Exchange, may_copy: bool) -> bytes:
    """What is sent for a batch: with a Flush where its replies must come before anything else."""
    if exchange.owes_sync:
        return data[: -len(frontend.SYNC)] + frontend.FLUSH
    if batch.end == END_CUT and (may_copy or exchange.effects is not None or exchange.is_read):
        return data + frontend.FLUSH
    return data


def _forward_step(message: Message) -> Step:
    """The step of a message that goes out as it is: named where an error may undo it."""
    tag = message.tag
    if tag == tags.BIND:
        return BOUND
    if tag == tags.PARSE or tag == tags.CLOSE or tag == tags.FUNCTION_CALL or message.is_statement:
        return Step(STEP_FORWARD, b"", message, b"")
    return FORWARD


def _steps_before(batch: Batch, count: int) -> list[Step]:
    """Steps of the first `count` messages, which all went out as they are."""
    steps: list[Step] = []
    for index in range(count):
        steps.append(_forward_step(batch.messages[index]))
    return steps


def can_wait(exchange: Exchange) -> bool:
    """Whether invented replies may wait for the server's next one, which then comes whole."""
    steps = exchange.steps
    if steps is None:
        return False
    at = exchange.at
    while at < len(steps) and steps[at].kind == STEP_INVENT:
        at += 1
    if at >= len(steps):
        # The ReadyForQuery that is owed brings them along.
        return not exchange.is_open
    step = steps[at]
    message = step.message
    return (
        step is BOUND
        or step.kind == STEP_DROP
        or (step.kind == STEP_FORWARD and message is not None and message.tag == tags.PARSE)
    )


@final
class Made:
    """Bytes to be sent first, and the name or text that may be used behind them."""

    __slots__ = ("data", "name")

    def __init__(self, data: bytes, name: bytes) -> None:
        self.data = data
        self.name = name


def _with_names(
    exchange: Exchange,
    link: BackendLink,
    text: bytes,
    uses: list[Use],
    is_run: bool,
    step: Step,
    steps: list[Step],
    used: set[bytes],
    max_prepared: int,
) -> Made:
    """
    The text with the link's names in it, behind the Parses of those not yet there (rule 11).

    step  its own, which comes behind those of the Parses
    """
    pieces: list[bytes] = []
    names: list[bytes] = []
    renaming = exchange.renaming
    if renaming is None:
        renaming = Renaming()
        exchange.renaming = renaming
    for use in uses:
        key = use.prepared.key
        used.add(key)
        name = link.prepared.get(key)
        if name is None:
            pieces.append(_prepare(link, use.prepared, steps, None, used, max_prepared))
            name = link.prepared[key]
        if use.drops and is_run:
            # Another name of the client's may stand for the same: that is prepared anew.
            del link.prepared[key]
            if exchange.dropped is None:
                exchange.dropped = []
            exchange.dropped.append(name)
        names.append(name)
    places = Places()
    made = namespace.renamed(text, uses, names, renaming, places)
    renaming.texts[step] = places
    steps.append(step)
    return Made(b"".join(pieces), made)


def _stand_in(
    exchange: Exchange,
    link: BackendLink,
    message: Message,
    is_run: bool,
    intake: Intake,
    steps: list[Step],
    used: set[bytes],
    max_prepared: int,
) -> Made | None:
    """
    A statement for one use, in place of one whose text names the client's own statements.

    What the names mean is looked up when it is executed, as the server does.
    """
    prepared = message.prepared
    assert prepared is not None
    gone = list(exchange.gone or [])
    uses = namespace.uses_of(prepared.sql, prepared.sql_facts, intake, gone, None)
    if is_run:
        exchange.gone = gone
    if not uses:
        return None
    step = Step(STEP_DROP, b"", None, b"")
    made = _with_names(exchange, link, prepared.sql, uses, is_run, step, steps, used, max_prepared)
    name = link.new_server_name()
    renaming = exchange.renaming
    assert renaming is not None  # `_with_names` has set it
    renaming.names[name] = message.name
    link.garbage.append(name)
    return Made(made.data + frontend.encode_parse(name, made.name, prepared.parse_tail()), name)


def _begins_nothing(exchange: Exchange, batch: Batch) -> bool:
    """
    Whether an exchange may begin with messages only that start no command at the server.

    A Query behind messages without Sync leaves the pipeline's own transaction open. In PostgreSQL 18
    a Sync alone does not end it: the next statement would fail for it (XX000), and that might be
    another client's (rule 20).
    """
    if len(exchange.batches) > 1 or exchange.is_partial or _ends_in_call(batch):
        return False
    for message in batch.messages:
        tag = message.tag
        if message.refusal is not None:
            return False
        if message.answer is None and (
            tag == tags.BIND or tag == tags.DESCRIBE or tag == tags.EXECUTE
        ):
            return False
        if tag == tags.PARSE and not message.name:
            return False
    return True


def _ends_in_call(batch: Batch) -> bool:
    return batch.end == END_QUERY or batch.end == END_FUNCTION_CALL


def _fail(batch: Batch, message: Message, steps: list[Step], link: BackendLink) -> bytes:
    """Bytes that make the server fail in the message's place, with what ends the batch."""
    refusal = message.refusal
    text = backend.error_response(refusal) if refusal is not None else b""
    ahead = b""
    prepared = message.prepared
    if (
        message.is_duplicate
        and link.status == tags.STATUS_FAILED
        and prepared is not None
        and not _leaves_failed(prepared.facts)
    ):
        # A failed transaction refuses to parse before it looks at names: the server shall say so.
        name = link.new_server_name()
        link.garbage.append(name)
        ahead = frontend.encode_parse(name, b"SELECT", b"\x00\x00")
        steps.append(DROP)
    steps.append(Step(STEP_FAIL, text, message, b""))
    if message.tag == tags.QUERY or message.tag == tags.FUNCTION_CALL:
        return FAILING_QUERY
    if batch.end == END_SYNC:
        return ahead + FAILING_PARSE + frontend.SYNC
    return ahead + FAILING_PARSE + frontend.FLUSH


def _leaves_failed(facts: TextFacts) -> bool:
    """Whether a failed transaction takes a text: what ends it, or goes back in it."""
    for statement in facts.statements:
        control = statement.control
        if (
            control == CONTROL_COMMIT
            or control == CONTROL_ROLLBACK
            or control == CONTROL_ROLLBACK_TO
        ):
            return True
    return False


def _oldest(link: BackendLink, used: set[bytes]) -> bytes:
    for key in link.prepared:
        if key not in used:
            return key
    raise AssertionError("a statement that is not used")


def _prepare(
    link: BackendLink,
    prepared: Prepared,
    steps: list[Step],
    message: Message | None,
    used: set[bytes],
    max_prepared: int,
) -> bytes:
    """Parse under a name of the proxy's, with Closes of the oldest when there are too many."""
    pieces: list[bytes] = []
    while link.garbage:
        pieces.append(frontend.Close(STATEMENT, link.garbage.pop()).encode())
        steps.append(DROP)
    # All that are used stand there already but for this one: are there others?
    while len(link.prepared) >= max_prepared and len(link.prepared) >= len(used):
        victim = link.prepared.pop(_oldest(link, used))
        pieces.append(frontend.Close(STATEMENT, victim).encode())
        steps.append(DROP)
    name = link.new_server_name()
    link.prepared[prepared.key] = name
    if message is None:
        steps.append(Step(STEP_DROP, b"", None, prepared.key))
    else:
        steps.append(Step(STEP_FORWARD, b"", message, prepared.key))
    pieces.append(frontend.encode_parse(name, prepared.sql, prepared.parse_tail()))
    return b"".join(pieces)
