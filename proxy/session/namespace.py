"""
Statement names in SQL: PREPARE, EXECUTE and DEALLOCATE share them with the protocol (rule 11).

A client's protocol-level statement has another name on each server connection. Where SQL uses
the client's name, the text is sent with the server's instead, so that the server itself runs,
deallocates or refuses, in its turn and with its own errors; a name in an error is put back. What a
command really did is known from the count of completed commands (`Effect`).

SQL-level statements (PREPARE) stand on one connection under the client's own name; it is pinned
while there are any, and messages of the protocol reach them unchanged.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.errors import Refusal
from proxy.protocol import tags
from proxy.session.exchange import (
    BOUND,
    STEP_DROP,
    Batch,
    Exchange,
    Message,
    Prepared,
    Step,
)
from proxy.session.ports import Classifier
from proxy.sql.statement import (
    PREPARED_DEALLOCATE,
    PREPARED_DISCARD_ALL,
    PREPARED_EXECUTE,
    PREPARED_NONE,
    PREPARED_PREPARE,
    StatementFacts,
    TextFacts,
)

if TYPE_CHECKING:
    from proxy.session.intake import Intake
    from proxy.session.link import BackendLink

SERVER_NAMES: Final = b"headgate_"
"""How the names begin that statements have on a server connection; no client may use one."""

_KEYWORDS: Final = {
    PREPARED_PREPARE: b"prepare",
    PREPARED_EXECUTE: b"execute",
    PREPARED_DEALLOCATE: b"deallocate",
}
_MAX_NAME_BYTES: Final = 63  # NAMEDATALEN - 1: what the server's scanner keeps of a name

_SPACE: Final = b" \t\n\r\f\v"
_QUOTE: Final = 39
_DOUBLE_QUOTE: Final = 34
_DOLLAR: Final = 36
_BACKSLASH: Final = 92


@final
class Effect:
    """
    What a command does to the names, once the `ordinal`-th command of its exchange is complete.

    kind      PREPARED_PREPARE, PREPARED_DEALLOCATE or PREPARED_DISCARD_ALL
    name      the client's; b"" = all
    prepared  PREPARE: the statement that there is then
    """

    __slots__ = ("kind", "name", "ordinal", "prepared")

    def __init__(self, ordinal: int, kind: int, name: bytes, prepared: Prepared | None) -> None:
        self.ordinal = ordinal
        self.kind = kind
        self.name = name
        self.prepared = prepared


@final
class Use:
    """A protocol-level statement that a text uses or drops, and where its name stands."""

    __slots__ = ("drops", "end", "name", "prepared", "start")

    def __init__(self, name: bytes, prepared: Prepared, drops: bool, start: int, end: int) -> None:
        self.name = name
        self.drops = drops
        self.prepared = prepared
        self.start = start
        self.end = end


@final
class Places:
    """
    Where names were replaced in one text.

    ends       where each replaced name ends, in characters of the text sent
    longer_by  how much longer it is than what stood there
    """

    __slots__ = ("ends", "longer_by")

    def __init__(self) -> None:
        self.ends: list[int] = []
        self.longer_by: list[int] = []


@final
class Renaming:
    """
    What was put in place of what in the texts of an exchange, to be put back in its error.

    names      server's name to the client's
    texts      by the step of a Parse or Query, where names were replaced in its text
    """

    __slots__ = ("names", "texts")

    def __init__(self) -> None:
        self.names: dict[bytes, bytes] = {}
        self.texts: dict[Step, Places] = {}


def refusal_of(facts: TextFacts) -> Refusal | None:
    """Why a text is refused for the names in it: those of the proxy's own belong to no client."""
    for statement in facts.statements:
        if statement.prepared == PREPARED_NONE or not statement.prepared_name:
            continue
        if statement.prepared_name.startswith("headgate_"):
            if statement.prepared == PREPARED_PREPARE:
                return Refusal(
                    "42939",
                    f'prepared statement name "{statement.prepared_name}" is reserved',
                    hint='Names that begin with "headgate_" are those of the proxy.',
                )
            return Refusal(
                "26000", f'prepared statement "{statement.prepared_name}" does not exist'
            )
    return None


def runs_prepared(facts: TextFacts) -> bool:
    """Whether a text is a command on prepared statements."""
    for statement in facts.statements:
        if statement.prepared != PREPARED_NONE:
            return True
    return False


def foreign(original: StatementFacts, sql: bytes) -> Prepared:
    """A statement that SQL PREPARE made: `original` as the client sent it, `sql` as it ran."""
    prepared = Prepared(original.text, TextFacts((original,)), b"", b"", False)
    prepared.sql = sql
    prepared.is_raw = True
    prepared.is_foreign = True
    prepared.is_special = True
    return prepared


# -- what a name stands for


def candidates(name: str, intake: "Intake", here: list[StatementFacts]) -> list[Prepared]:
    """
    Every statement that EXECUTE of this name may run; most probable last.

    What came before in the same batch may have run or not: all of it counts.
    """
    found: list[Prepared] = []
    key = name.encode("utf-8", "surrogateescape")
    known = intake.statements.get(key)
    if known is None:
        known = intake.foreign.get(key)
    if known is not None:
        found.append(known)
    for statement in here:
        if statement.prepared_name == name:
            found.append(foreign(statement, statement.text))
    return found


# -- what a command does


def note_text(
    exchange: Exchange,
    batch: Batch,
    message: Message,
    facts: TextFacts,
    classifier: Classifier,
) -> None:
    """Note what the text of a Query or Bind does to the names of statements."""
    if message.answer is not None:
        return
    prepared = message.prepared
    if not runs_prepared(facts):
        if prepared is None and batch.is_raw:
            frame = message.replacement or batch.data[message.start : message.end]
            known = note_raw_text(exchange, frame[5:-1], classifier)
            batch.facts = known if known is not None else batch.facts
        return
    # Names are looked for in the text, so the facts must be those of this very text.
    originals = batch.judged
    if prepared is None:
        frame = message.replacement or batch.data[message.start : message.end]
        facts = classifier.exact(frame[5:-1])
        batch.facts = facts
    else:
        if not prepared.is_raw:
            prepared.sql_facts = classifier.exact(prepared.sql)
            facts = prepared.sql_facts
        originals = prepared.facts.statements
    if message.tag != tags.DESCRIBE:
        note_effects(exchange, facts, originals, exchange.commands_sent)


def note_effects(
    exchange: Exchange,
    facts: TextFacts,
    originals: tuple[StatementFacts, ...] | None,
    first: int,
) -> None:
    """
    Note what a text does to the names, its first command being the `first` of the exchange.

    originals  its statements as the client sent them, where plugins may have changed them
    """
    for index in range(len(facts.statements)):
        statement = facts.statements[index]
        kind = statement.prepared
        if kind != PREPARED_NONE and kind != PREPARED_EXECUTE:
            prepared: Prepared | None = None
            if kind == PREPARED_PREPARE:
                original = statement
                if originals is not None and len(originals) == len(facts.statements):
                    original = originals[index]
                prepared = foreign(original, statement.text)
            name = statement.prepared_name.encode("utf-8", "surrogateescape")
            if exchange.effects is None:
                exchange.effects = []
            exchange.effects.append(Effect(first + index, kind, name, prepared))


def facts_of_raw(text: bytes, classifier: Classifier) -> TextFacts | None:
    """
    Facts on a text that must be judged raw (rule 37), if it is about names and is read in one way.

    Not for the hooks: they are told of an unknown text.
    """
    lowered = text.lower()
    if (
        # DEALLOCATE of all has no other word in it.
        (b"prepare" in lowered or b"deallocate" in lowered or b"discard" in lowered)
        and b"\\" not in text
        and text.isascii()
    ):
        return classifier.exact(text)
    return None


def executes(facts: TextFacts) -> bool:
    """Whether a text executes what was prepared."""
    for statement in facts.statements:
        if statement.prepared == PREPARED_EXECUTE:
            return True
    return False


def note_raw_text(exchange: Exchange, text: bytes, classifier: Classifier) -> TextFacts | None:
    """
    Note what the text of a Query that must be judged raw does to names; what it prepares is raw too.

    Facts on it, to find the names by, unless it executes what nobody has judged as that.
    """
    facts = facts_of_raw(text, classifier)
    if facts is None:
        return None
    originals: list[StatementFacts] = []
    for statement in facts.statements:
        originals.append(classifier.unknown(statement.text).statements[0])
    note_effects(exchange, facts, tuple(originals), exchange.commands_sent)
    return facts if not executes(facts) else None


def apply_effects(exchange: Exchange, intake: "Intake", link: "BackendLink") -> None:
    """All replies have come: what the commands so far really did to the names."""
    effects = exchange.effects or []
    exchange.effects = None
    exchange.gone = None
    if exchange.dropped is not None:
        # Those that were not dropped after all are closed; of others that is no error.
        link.garbage.extend(exchange.dropped)
        exchange.dropped = None
    for effect in effects:
        if effect.ordinal >= exchange.commands:
            continue
        if effect.prepared is not None:
            intake.foreign[effect.name] = effect.prepared
        elif effect.kind == PREPARED_DISCARD_ALL or not effect.name:
            intake.statements.clear()
            intake.foreign.clear()
            link.prepared.clear()
            link.garbage.clear()
        elif intake.foreign.pop(effect.name, None) is None:
            intake.statements.pop(effect.name, None)


def learn(intake: "Intake", found: dict[bytes, bytes], classifier: Classifier) -> None:
    """Take what the server says of SQL-level statements: names, and the texts they came in."""
    for name in list(intake.foreign):
        if name not in found:
            del intake.foreign[name]
    for name in found:
        if name in intake.foreign:
            continue
        # Made where nobody saw it, e.g. in a function.
        facts = classifier.exact(found[name])
        for statement in facts.statements:
            if statement.prepared == PREPARED_PREPARE:
                if statement.prepared_name.encode("utf-8", "surrogateescape") == name:
                    intake.foreign[name] = foreign(statement, statement.text)
        if name not in intake.foreign:
            for statement in classifier.unknown(found[name]).statements:
                intake.foreign[name] = foreign(statement, statement.text)


# -- names in a text


def uses_of(
    text: bytes,
    facts: TextFacts,
    intake: "Intake",
    gone: list[bytes],
    overrides: dict[bytes, Prepared] | None,
) -> list[Use]:
    """
    The protocol-level statements that a text names, in order.

    gone  names that the exchange has deallocated before it, b"" = all; those of the text are added
    """
    found: list[Use] = []
    at = 0
    for statement in facts.statements:
        kind = statement.prepared
        base = text.find(statement.text, at)
        if base < 0:
            break
        at = base + len(statement.text)
        if kind == PREPARED_NONE:
            continue
        if kind == PREPARED_DISCARD_ALL or not statement.prepared_name:
            # Whatever has a name behind this was prepared behind it.
            gone.append(b"")
            continue
        name = statement.prepared_name.encode("utf-8", "surrogateescape")
        prepared = intake.statements.get(name)
        if prepared is None or name in gone or b"" in gone:
            continue
        if kind == PREPARED_DEALLOCATE:
            gone.append(name)
        if overrides is not None and kind == PREPARED_EXECUTE:
            prepared = overrides.get(name, prepared)
        start, end = find_name(statement.text, _KEYWORDS[kind], name)
        if end > 0:
            drops = kind == PREPARED_DEALLOCATE
            found.append(Use(name, prepared, drops, base + start, base + end))
    return found


def renamed(
    text: bytes, uses: list[Use], names: list[bytes], renaming: Renaming, places: Places
) -> bytes:
    """The text with each used name replaced by the server's; notes them, and in `places` where."""
    pieces: list[bytes] = []
    at = 0
    characters = 0
    for index in range(len(uses)):
        use = uses[index]
        name = names[index]
        renaming.names[name] = use.name
        pieces.append(text[at : use.start])
        pieces.append(name)
        characters += _characters(text[at : use.start]) + len(name)
        places.ends.append(characters)
        places.longer_by.append(len(name) - _characters(text[use.start : use.end]))
        at = use.end
    pieces.append(text[at:])
    return b"".join(pieces)


def _characters(text: bytes) -> int:
    return len(text.decode("utf-8", "replace"))


def places_at(renaming: Renaming | None, steps: list[Step], at: int) -> Places | None:
    """Where names were replaced in the text that the failed step at `at` is about, if they were."""
    if renaming is None or at >= len(steps):
        return None
    is_bound = False
    while at >= 0:
        step = steps[at]
        places = renaming.texts.get(step)
        if places is not None:
            return places
        message = step.message
        if step is BOUND and not is_bound:
            # What is executed behind it is what was put in before it.
            is_bound = True
        elif (
            step is BOUND
            or step.kind == STEP_DROP
            or (message is not None and (message.tag == tags.PARSE or message.tag == tags.QUERY))
        ):
            return None  # another text
        at -= 1
    return None


def with_client_names(
    reply: bytes, exchange: Exchange, link: "BackendLink", places: Places | None
) -> bytes:
    """An ErrorResponse (a frame) that speaks of the client's names and text again."""
    body = reply[5:]
    renaming = exchange.renaming or Renaming()
    names = renaming.names
    for batch in exchange.batches:
        for message in batch.messages:
            prepared = message.prepared
            if prepared is not None and prepared.key in link.prepared:
                names.setdefault(link.prepared[prepared.key], message.name)
    for name in names:
        body = body.replace(b'"' + name + b'"', b'"' + names[name] + b'"')
    at = body.find(b"\x00P")
    end = body.find(b"\x00", at + 2)
    position = body[at + 2 : end]
    if places and at >= 0 and end > 0 and position.isdigit() and len(position) < 10:
        number = int(position)
        original = number
        for index in range(len(places.ends)):
            if number > places.ends[index]:
                original -= places.longer_by[index]
        body = body[: at + 2] + str(original).encode() + body[end:]
    return reply[0:1] + (len(body) + 4).to_bytes(4, "big") + body


def find_name(text: bytes, keyword: bytes, name: bytes) -> tuple[int, int]:
    """Where `name` stands behind `keyword` in one statement; (0, 0) when it is not found."""
    pos = 0
    behind = False
    while True:
        start, pos = _next_token(text, pos)
        if start >= pos:
            return 0, 0
        token = text[start:pos]
        first = token[0]
        is_word = _is_word_start(first)
        if behind and (is_word or first == _DOUBLE_QUOTE):
            if _fold(token) == name:
                return start, pos
            if keyword == b"deallocate" and token.lower() == b"prepare":
                continue
        behind = is_word and token.lower() == keyword


def _fold(token: bytes) -> bytes:
    """An identifier as the server understands it."""
    if token[0] == _DOUBLE_QUOTE:
        return token[1:-1].replace(b'""', b'"')[:_MAX_NAME_BYTES]
    return token.lower()[:_MAX_NAME_BYTES]


def _is_word_start(byte: int) -> bool:
    return 97 <= byte <= 122 or 65 <= byte <= 90 or byte == 95 or byte >= 128


def _next_token(text: bytes, pos: int) -> tuple[int, int]:
    """Bounds of the next token from `pos` on, without space and comments; empty at the end."""
    size = len(text)
    while pos < size:
        byte = text[pos]
        if byte in _SPACE:
            pos += 1
        elif text[pos : pos + 2] == b"--":
            end = text.find(b"\n", pos)
            pos = size if end < 0 else end + 1
        elif text[pos : pos + 2] == b"/*":
            pos = _comment_end(text, pos)
        else:
            break
    if pos >= size:
        return size, size
    byte = text[pos]
    end = pos + 1
    if _is_word_start(byte):
        while end < size and (
            _is_word_start(text[end]) or 48 <= text[end] <= 57 or text[end] == _DOLLAR
        ):
            end += 1
        if end < size and text[end] == _QUOTE and end - pos == 1 and byte in b"eE":
            return pos, _string_end(text, end, True)
    elif byte == _QUOTE or byte == _DOUBLE_QUOTE:
        end = _string_end(text, pos, False)
    elif byte == _DOLLAR:
        mark_end = text.find(b"$", pos + 1)
        if mark_end > 0 and not text[pos + 1 : pos + 2].isdigit():
            mark = text[pos : mark_end + 1]
            if _is_tag(mark[1:-1]):
                close = text.find(mark, mark_end + 1)
                end = size if close < 0 else close + len(mark)
    return pos, end


def _is_tag(text: bytes) -> bool:
    """Whether this may stand between the dollars that begin a string."""
    for byte in text:
        if not (_is_word_start(byte) or 48 <= byte <= 57):
            return False
    return True


def _comment_end(text: bytes, pos: int) -> int:
    """End of the comment that begins at `pos`; they nest."""
    depth = 0
    size = len(text)
    while pos < size:
        two = text[pos : pos + 2]
        if two == b"/*":
            depth += 1
            pos += 2
        elif two == b"*/":
            depth -= 1
            pos += 2
            if depth == 0:
                return pos
        else:
            pos += 1
    return size


def _string_end(text: bytes, pos: int, has_escapes: bool) -> int:
    """End of the string or quoted identifier whose quote stands at `pos`."""
    quote = text[pos]
    size = len(text)
    pos += 1
    while pos < size:
        byte = text[pos]
        if byte == _BACKSLASH and has_escapes:
            pos += 2
        elif byte == quote:
            if pos + 1 < size and text[pos + 1] == quote:
                pos += 2
            else:
                return pos + 1
        else:
            pos += 1
    return size
