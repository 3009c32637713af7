"""
From a batch to what the hooks are asked, and from their verdicts back to the batch.

Makes one `Inspection` for each statement of a batch, and applies the verdicts: refusals, rewritten
texts, answers. Runs no hook itself and sends nothing.
"""

from typing import Final

from proxy.errors import Refusal
from proxy.protocol import frontend, tags
from proxy.session import answers, namespace
from proxy.session.answering import apply_answers, decode_bind
from proxy.session.clearance import Clearance
from proxy.session.context import ClientContext
from proxy.session.exchange import END_QUERY, Batch, Exchange, Message, Prepared
from proxy.session.inspection import (
    PHASE_EXECUTE,
    PHASE_STATEMENT,
    VERDICT_ALLOW,
    VERDICT_ANSWER,
    VERDICT_REFUSE,
    Inspection,
)
from proxy.session.intake import Intake
from proxy.session.ports import Classifier, Gate
from proxy.session.refusals import canceled, changed_too_late
from proxy.sql.statement import (
    CONTROL_BEGIN,
    CONTROL_COMMIT,
    CONTROL_NONE,
    CONTROL_ROLLBACK,
    PREPARED_EXECUTE,
    PREPARED_NONE,
    PREPARED_PREPARE,
    StatementFacts,
    TextFacts,
)

FUNCTION_CALL_KIND: Final = "function_call"

_SCHEMA_KINDS: Final = ("ddl", "do", "call", "unknown")


def function_call_facts(oid: int) -> StatementFacts:
    """What the hooks see of a FunctionCall: a text that names the function by its OID."""
    text = f"FUNCTION CALL {oid}"
    return StatementFacts(
        text.encode(),
        FUNCTION_CALL_KIND,
        False,
        (),
        text,
        "",
        CONTROL_NONE,
        True,
        PREPARED_NONE,
        "",
        f'"query":"{text}","normalized":"{text}","tables":[],"is_read_only":false'.encode(),
        b'"kind":"function_call","fingerprint":""',
    )


def is_cleared(batch: Batch, gate: Gate, client: ClientContext) -> bool:
    """Whether no plugin has anything to say on a batch; counts its statements where that is so."""
    found: list[Clearance] = []
    parsed: Prepared | None = None
    for message in batch.messages:
        if message.refusal is not None:
            return False
        tag = message.tag
        prepared = message.prepared
        facts: TextFacts | None = None
        if tag == tags.QUERY:
            if not batch.is_raw:
                facts = batch.facts
        elif tag == tags.PARSE or tag == tags.BIND:
            if prepared is not None and not prepared.is_raw and prepared.answer is None:
                facts = prepared.facts
        elif tag != tags.FUNCTION_CALL:
            continue
        if facts is None or len(facts.statements) != 1:
            return False
        if tag == tags.BIND and prepared is parsed:
            # Its Parse, in this same group: one statement, counted once.
            parsed = None
            continue
        if tag == tags.PARSE:
            parsed = prepared
        statement = facts.statements[0]
        clearance = gate.clearance(statement, client)
        if clearance is None or clearance.is_never or statement.prepared != PREPARED_NONE:
            return False
        if clearance.text:
            # PERF: only now is the text of a Query cut out.
            text = (
                prepared.text
                if prepared is not None
                else batch.data[message.start + 5 : message.end - 1]
            )
            if clearance.text != text:
                return False
        found.append(clearance)
    for clearance in found:
        clearance.use()
    return True


def inspect_batch(
    batch: Batch,
    exchange: Exchange,
    client: ClientContext,
    classifier: Classifier,
    intake: Intake,
    in_transaction: bool,
    wants_parameters: bool,
    caches: bool,
) -> list[Inspection]:
    """The statements of a batch, in order, as the hooks shall see them."""
    found: list[Inspection] = []
    inside = in_transaction
    here: list[StatementFacts] = []
    for message in batch.messages:
        if message.refusal is not None:
            break
        tag = message.tag
        if tag == tags.QUERY:
            text = batch.data[message.start + 5 : message.end - 1]
            known = batch.facts
            if not batch.is_raw and known is not None and len(known.statements) == 1:
                statement = known.statements[0]
                if statement.prepared == PREPARED_NONE:
                    inspection = Inspection(statement, client, False, PHASE_STATEMENT, inside, None)
                    if statement.text != text:
                        inspection.raw_text = text
                    found.append(inspection)
                    exchange.running.append(inspection)
                    message.inspection = inspection
                    continue
            facts = classifier.unknown(text) if batch.is_raw else classifier.exact(text)
            batch.facts = facts
            batch.judged = facts.statements
            for statement in facts.statements:
                made = inspect_statement(statement, client, classifier, intake, here, inside)
                inside = inside_after(statement, inside)
                found.extend(made)
                exchange.running.append(made[len(made) - 1])
                message.inspection = made[len(made) - 1]
        elif tag == tags.PARSE:
            prepared = message.prepared
            assert prepared is not None
            if not prepared.is_raw:
                prepared.facts = classifier.exact(prepared.text)
                prepared.sql_facts = prepared.facts
            message.others = []
            for statement in prepared.facts.statements:
                made = inspect_statement(statement, client, classifier, intake, here, inside)
                for inspection in made:
                    inspection.is_extended = True
                found.extend(made)
                message.inspection = made[len(made) - 1]
                message.others.extend(made)
            prepared.judged_in = exchange
            prepared.judged_as = message.inspection
            prepared.answer = None
        elif tag == tags.BIND:
            prepared = message.prepared
            assert prepared is not None
            if prepared.judged_in is exchange and not wants_parameters:
                # Its Parse, in this same group: one statement, judged once.
                prepared.judged_in = None
                if caches and prepared.answer is None:
                    looked_up = _look_up(batch, message, prepared, client, inside)
                    if looked_up is not None:
                        found.append(looked_up)
                inside = inside_after_text(prepared.facts, inside)
                if prepared.judged_as is not None:
                    exchange.running.append(prepared.judged_as)
                continue
            parameters: list[bytes | None] | None = None
            bind_key = b""
            if wants_parameters or caches:
                bind = decode_bind(batch, message)
                if bind is None:
                    break
                parameters = bind.parameters
                bind_key = bind_key_of(prepared, bind)
            if not prepared.is_raw:
                prepared.facts = classifier.exact(prepared.text)
            message.others = []
            for statement in prepared.facts.statements:
                if prepared.is_special and not prepared.is_foreign:
                    made = inspect_statement(statement, client, classifier, intake, here, inside)
                else:
                    made = [Inspection(statement, client, True, PHASE_EXECUTE, inside, None)]
                for inspection in made:
                    inspection.is_extended = True
                    inspection.phase = PHASE_EXECUTE
                    inspection.parameters = parameters
                    inspection.bind_key = bind_key
                found.extend(made)
                exchange.running.append(made[len(made) - 1])
                message.inspection = made[len(made) - 1]
                message.others.extend(made)
            inside = inside_after_text(prepared.facts, inside)
        elif tag == tags.FUNCTION_CALL:
            body = batch.data[message.start + 5 : message.end]
            oid = 0
            if len(body) >= 4:
                oid = (body[0] << 24) | (body[1] << 16) | (body[2] << 8) | body[3]
            inspection = Inspection(
                function_call_facts(oid), client, False, PHASE_STATEMENT, inside, None
            )
            found.append(inspection)
            exchange.running.append(inspection)
            message.inspection = inspection
    return found


def take_judged(
    batch: Batch, exchange: Exchange, inspection: Inspection, classifier: Classifier
) -> None:
    """The one statement of a batch was judged before there was a batch: as `inspect_batch` leaves it."""
    exchange.statements.append(inspection)
    exchange.running.append(inspection)
    for message in batch.messages:
        prepared = message.prepared
        if message.tag == tags.QUERY:
            message.inspection = inspection
        elif prepared is not None and (
            message.tag == tags.PARSE or len(batch.messages[0].name) > 0
        ):
            prepared.facts = classifier.exact(prepared.text)
            message.inspection = inspection
            message.others = [inspection]
            if message.tag == tags.PARSE:
                prepared.sql_facts = prepared.facts
                prepared.judged_as = inspection
                prepared.answer = None


def _look_up(
    batch: Batch, message: Message, prepared: Prepared, client: ClientContext, inside: bool
) -> Inspection | None:
    """The first execution of a statement that was judged at Parse, for the cache alone."""
    if len(prepared.sql_facts.statements) != 1 or not prepared.sql_facts.is_read_only:
        return None
    bind = decode_bind(batch, message)
    if bind is None:
        return None
    facts = prepared.sql_facts.statements[0]
    inspection = Inspection(facts, client, True, PHASE_EXECUTE, inside, bind.parameters)
    inspection.bind_key = bind_key_of(prepared, bind)
    inspection.is_judged = True
    message.inspection = inspection
    return inspection


def inspect_statement(
    statement: StatementFacts,
    client: ClientContext,
    classifier: Classifier,
    intake: Intake,
    here: list[StatementFacts],
    in_transaction: bool,
) -> list[Inspection]:
    """
    One statement; an SQL-level EXECUTE is judged as what it runs.

    Several where it is not known yet what that is, because a PREPARE stands before it in the same
    batch (`here`): each of them is judged.
    """
    if statement.prepared == PREPARED_EXECUTE:
        found: list[Inspection] = []
        for prepared in namespace.candidates(statement.prepared_name, intake, here):
            if not prepared.is_raw:
                prepared.facts = classifier.exact(prepared.text)
            for facts in prepared.facts.statements:
                inspection = Inspection(facts, client, False, PHASE_EXECUTE, in_transaction, None)
                inspection.target = prepared
                found.append(inspection)
        if found:
            return found
    elif statement.prepared == PREPARED_PREPARE:
        here.append(statement)
    return [Inspection(statement, client, False, PHASE_STATEMENT, in_transaction, None)]


def may_copy(facts: TextFacts) -> bool:
    """Whether a text may be a COPY FROM STDIN, which swallows the Sync behind its Execute."""
    for statement in facts.statements:
        if statement.kind == "copy" or statement.kind == "unknown":
            return True
    return False


def changes_schema(facts: TextFacts) -> bool:
    """Whether a text may change what statements mean that were prepared before it."""
    for statement in facts.statements:
        if statement.kind in _SCHEMA_KINDS:
            return True
    return False


def may_unpin(facts: TextFacts) -> bool:
    """Whether a text may end what pins a session: anything but plain rows in and out."""
    for statement in facts.statements:
        kind = statement.kind
        if statement.leaves_state or (
            kind != "select" and kind != "insert" and kind != "update" and kind != "delete"
        ):
            return True
    return False


def inside_after(statement: StatementFacts, inside: bool) -> bool:
    """Whether a transaction block is open after a statement, as far as its text tells."""
    if statement.control == CONTROL_BEGIN:
        return True
    if statement.control == CONTROL_COMMIT or statement.control == CONTROL_ROLLBACK:
        return False
    return inside


def inside_after_text(facts: TextFacts, inside: bool) -> bool:
    """As `inside_after`, for all statements of a text."""
    for statement in facts.statements:
        inside = inside_after(statement, inside)
    return inside


def bind_key_of(prepared: Prepared, bind: frontend.Bind) -> bytes:
    """
    What the same text and the same bytes of parameters can mean different things by: the types that
    Parse names, and the formats. b"" where no types are named and all is text.
    """
    if len(prepared.tail) <= 2 and not any_binary(bind.parameter_formats + bind.result_formats):
        return b""
    return b"%b\x00%s\x00%s" % (
        prepared.tail,
        str(bind.parameter_formats).encode(),
        str(bind.result_formats).encode(),
    )


def any_binary(formats: list[int]) -> bool:
    """Whether any of these is another format than text."""
    for found in formats:
        if found != 0:
            return True
    return False


def is_decided(inspections: list[Inspection]) -> bool:
    """Whether any verdict is more than: let it pass as it is."""
    for inspection in inspections:
        if (
            inspection.verdict != VERDICT_ALLOW
            or inspection.is_rewritten
            or inspection.target is not None
        ):
            return True
    return False


def is_changed(inspections: list[Inspection]) -> bool:
    """Whether a statement was prepared as another than the client's, or is answered here."""
    for inspection in inspections:
        if inspection.verdict == VERDICT_REFUSE:
            # What is behind it never ran; what stands before it did.
            return False
        if (
            inspection.verdict == VERDICT_ANSWER
            or inspection.is_rewritten
            or inspection.target is not None
        ):
            return True
    return False


def refuse_at(batch: Batch, inspection: Inspection) -> None:
    """The route hook refuses: the message that brings the statement is refused."""
    for message in batch.messages:
        others = message.others
        if (
            message.inspection is inspection
            or (others is not None and inspection in others)
            or (message.tag == tags.QUERY and not inspection.is_extended)
        ):
            message.refusal = inspection.refusal
            return
    raise AssertionError("a statement of the batch is some message's")


def refuse_untranslatable(inspections: list[Inspection]) -> None:
    """
    For a client that does not speak UTF-8: a plugin's text, which is UTF-8, must be ASCII.

    The server would read other characters in it, and so would the client in an answer.
    """
    for inspection in inspections:
        is_ascii = True
        if inspection.is_rewritten:
            is_ascii = inspection.facts.text.isascii()
        if inspection.answer is not None:
            for row in inspection.answer.rows:
                for value in row:
                    if value is not None and not value.isascii():
                        is_ascii = False
        if not is_ascii:
            inspection.answer = None
            inspection.verdict = VERDICT_REFUSE
            inspection.refusal = Refusal(
                "22021",
                "a plugin's text has characters that cannot be sent in this client's encoding",
                hint="Use client_encoding UTF8.",
            )


def apply_verdicts(
    batch: Batch,
    exchange: Exchange,
    inspections: list[Inspection],
    classifier: Classifier,
    planning: bytes,
) -> None:
    """Turn the verdicts on a batch's statements into refusals, replacements and answers."""
    mine = set(inspections)
    for message in batch.messages:
        if message.refusal is not None:
            return
        if message.tag == tags.QUERY and batch.end == END_QUERY:
            _apply_to_query(batch, message, exchange, inspections, classifier, planning)
        elif message.tag == tags.PARSE:
            _apply_to_parse(message, mine, classifier, planning)
        elif message.tag == tags.BIND:
            _apply_to_bind(message, mine, classifier, planning)
        elif message.tag == tags.FUNCTION_CALL:
            inspection = message.inspection
            if inspection is not None and inspection.verdict == VERDICT_REFUSE:
                message.refusal = inspection.refusal
            elif inspection is not None and (
                inspection.is_rewritten or inspection.verdict == VERDICT_ANSWER
            ):
                message.refusal = Refusal(
                    "0A000", "a plugin's answer cannot take the place of a function call"
                )
    apply_answers(exchange, batch)


def _apply_to_query(
    batch: Batch,
    message: Message,
    exchange: Exchange,
    inspections: list[Inspection],
    classifier: Classifier,
    planning: bytes,
) -> None:
    changed = False
    mine: list[Inspection] = []
    running = set(exchange.running)
    for inspection in inspections:
        if inspection.is_extended:
            continue
        if inspection.verdict == VERDICT_REFUSE:
            message.refusal = inspection.refusal
            return
        if inspection not in running:
            continue
        mine.append(inspection)
        if inspection.verdict == VERDICT_ANSWER:
            changed = True
        elif inspection.target is not None:
            if not _executes(batch, len(mine) - 1, inspection, classifier, planning):
                message.refusal = changed_too_late()
                return
        elif inspection.is_rewritten:
            changed = True
    if not changed:
        return
    if len(mine) == 1 and mine[0].answer is not None:
        rowset = mine[0].answer
        rows = answers.rows(rowset, [])
        message.answer = answers.describe(rowset, []) + (rows if rows is not None else b"")
        return
    judged = batch.judged
    texts: list[bytes] = []
    for index in range(len(mine)):
        inspection = mine[index]
        if inspection.answer is not None:
            texts.append(answers.as_sql(inspection.answer).encode())
        elif inspection.target is not None and judged is not None:
            texts.append(judged[index].text)
        else:
            texts.append(inspection.facts.text)
    text = b"; ".join(texts)
    message.replacement = frontend.encode_query(text)
    batch.facts = classifier.exact(text)


def _executes(
    batch: Batch, index: int, inspection: Inspection, classifier: Classifier, planning: bytes
) -> bool:
    """Have an SQL EXECUTE run the text that the plugins want; False where that cannot be had."""
    target = inspection.target
    assert isinstance(target, Prepared)
    text = inspection.facts.text if inspection.is_rewritten else target.text
    if text == target.sql or (target.is_foreign and not inspection.is_rewritten):
        return True
    judged = batch.judged
    if target.is_foreign or judged is None or index >= len(judged):
        return False
    if batch.overrides is None:
        batch.overrides = {}
    name = judged[index].prepared_name.encode("utf-8", "surrogateescape")
    batch.overrides[name] = _with_text(target, text, classifier, planning)
    return True


def _with_text(
    prepared: Prepared, text: bytes, classifier: Classifier, planning: bytes
) -> Prepared:
    """Another statement for the server in place of `prepared`, under a name of the proxy's."""
    other = Prepared(prepared.text, prepared.facts, prepared.tail, planning, True)
    if text != prepared.text:
        other.rewritten(text, classifier.exact(text), planning)
    other.is_special = namespace.runs_prepared(other.sql_facts)
    other.is_described = prepared.is_described
    return other


def _refused(message: Message) -> bool:
    """Take over the refusal of any of a message's inspections."""
    others = message.others
    if others is not None:
        for inspection in others:
            if inspection.verdict == VERDICT_REFUSE:
                message.refusal = inspection.refusal
                return True
    return False


def _is_too_late(inspection: Inspection) -> bool:
    """Whether a plugin changes the text of what an SQL EXECUTE in a prepared statement runs."""
    target = inspection.target
    return (
        inspection.is_rewritten
        and isinstance(target, Prepared)
        and inspection.facts.text != target.sql
    )


def _apply_to_parse(
    message: Message, inspections: set[Inspection], classifier: Classifier, planning: bytes
) -> None:
    prepared = message.prepared
    inspection = message.inspection
    if prepared is None or inspection is None or inspection not in inspections:
        return
    if _refused(message):
        return
    if inspection.verdict == VERDICT_ANSWER:
        prepared.answer = inspection.answer
    elif inspection.target is not None:
        if _is_too_late(inspection):
            message.refusal = changed_too_late()
    elif inspection.is_rewritten:
        text = inspection.facts.text
        prepared.rewritten(text, classifier.exact(text), planning)


def _apply_to_bind(
    message: Message, inspections: set[Inspection], classifier: Classifier, planning: bytes
) -> None:
    prepared = message.prepared
    inspection = message.inspection
    if prepared is None or inspection is None or inspection not in inspections:
        return
    if _refused(message):
        return
    if inspection.verdict == VERDICT_ANSWER or inspection.is_judged:
        return
    if inspection.target is not None:
        if _is_too_late(inspection):
            message.refusal = changed_too_late()
        return
    if prepared.is_foreign:
        if inspection.is_rewritten and inspection.facts.text != prepared.sql:
            message.refusal = changed_too_late()
        return
    text = inspection.facts.text if inspection.is_rewritten else prepared.text
    if text != prepared.sql:
        # The text for this execution is another one than what was prepared: it is prepared under
        # a name of the proxy's, unseen, and this Bind goes there.
        message.prepared = _with_text(prepared, text, classifier, planning)


def cancel(batch: Batch) -> None:
    """A CancelRequest came before the batch was sent: its first message fails in its place."""
    batch.messages[0].refusal = canceled()
