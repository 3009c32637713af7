"""
The frontend's side of a session: received bytes to batches, and the client's own names.

Cuts the stream into messages, keeps the statements that the client has prepared under its own
names, and collects messages until a batch is complete. It decides nothing: no hooks, no
server, no replies. Raises only ProtocolViolation.
"""

from typing import Final, final

from proxy.protocol import frontend, tags
from proxy.protocol.lengths import check_type
from proxy.session import namespace
from proxy.session.exchange import (
    END_CUT,
    END_FLUSH,
    END_FUNCTION_CALL,
    END_QUERY,
    END_SYNC,
    Batch,
    Message,
    Prepared,
)
from proxy.session.framing import CUT_BYTES, HEADER_BYTES, Framing
from proxy.session.ports import Classifier
from proxy.session.refusals import (
    malformed,
    no_string,
    statement_exists,
    too_long,
    too_short,
    unknown_statement,
)
from proxy.session.state import local_planning
from proxy.sql.statement import StatementFacts, TextFacts

OPAQUE_TEXT: Final = TextFacts(
    (StatementFacts(b"", "unknown", False, (), "", "", 0, True, 0, "", b"", b""),)
)
"""Facts on a text that runs what was prepared elsewhere."""


@final
class Intake(Framing):
    """Bytes of one client in, batches out."""

    __slots__ = (
        "_behind",
        "_classifier",
        "_described",
        "_group",
        "_has_command",
        "_messages",
        "foreign",
        "is_unsafe",
        "is_unsettled",
        "is_utf8",
        "planning",
        "relies_on_columns",
        "statements",
        "unnamed",
        "was_rewritten",
        "was_unsafe",
    )

    def __init__(self, classifier: Classifier, max_message_bytes: int) -> None:
        super().__init__(max_message_bytes)
        self._classifier = classifier
        self._behind = b""  # what has defined `unnamed`, and was not read for that yet
        self._messages: list[Message] = []
        self._described = 0  # how many of them were looked at for what is described
        self.is_unsafe = False
        self.is_utf8 = True
        self.was_unsafe = False  # at any time before
        self.is_unsettled = False  # what runs in this Sync group may make it unsafe
        self.planning = b""
        self.was_rewritten = False
        self.relies_on_columns = False  # a statement is bound that was described under other plans
        self._group = 0
        self._has_command = False  # the batch runs a command on prepared statements
        self.statements: dict[bytes, Prepared] = {}
        self.foreign: dict[bytes, Prepared] = {}  # made by SQL PREPARE
        self.unnamed: Prepared | None = None

    def is_empty(self) -> bool:
        """Whether nothing is here that was not given out."""
        return (
            self._base >= len(self._buffer)
            and self._needed == 0
            and self._passing == 0
            and not self._messages
        )

    def is_ordinary(self) -> bool:
        """Whether texts are what they look like, and names what the client has made them."""
        return not (self.is_unsafe or self.is_unsettled or self.was_rewritten) and self.is_utf8

    def went_by(self, data: bytes) -> None:
        """One batch was sent, and well answered, that was not given out here."""
        self._group += 1
        if data[0] != tags.BIND:
            self.unnamed = None
            self._behind = data if data[0] == tags.PARSE else b""

    def reread(self, data: bytes) -> Batch:
        """A batch that was sent as it came, after all; it stands before all that is here."""
        self._settle()
        return self._read(data)

    def _settle(self) -> None:
        """Find out what the unnamed statement is."""
        behind = self._behind
        if behind:
            self._behind = b""
            self._group -= 1
            self._read(behind)

    def _read(self, data: bytes) -> Batch:
        buffer = self._buffer
        base = self._base
        pos = self._pos
        needed = self._needed
        self._buffer = data
        self._base = 0
        self._pos = 0
        self._needed = 0
        batch = self.next_batch()
        self._buffer = buffer
        self._base = base
        self._pos = pos
        self._needed = needed
        if batch is None:
            raise AssertionError("it was one whole batch when it was sent")
        return batch

    def next_batch(self) -> Batch | None:
        """The next batch that is complete, or None. Terminate sets `is_terminated`."""
        if self._behind:
            self._settle()
        while True:
            end = self._next()
            if end < 0:
                if self._messages and self._pos - self._base > CUT_BYTES and self._needed == 0:
                    return self._take(END_CUT)
                return None
            start = self._pos
            tag = self._buffer[start]
            if self._has_command and self._names_statement(tag, start + HEADER_BYTES, end):
                # What that means is known when the command has run.
                return self._take(END_CUT)
            self._pos = end
            if tag == tags.QUERY:
                message = Message(tag, start - self._base, end - self._base)
                self._messages.append(message)
                return self._query(message, start, end)
            if tag == tags.BIND:
                self._bind(self._message(tag, start, end), start + HEADER_BYTES, end)
            elif tag == tags.PARSE:
                self._parse(self._message(tag, start, end), start + HEADER_BYTES, end)
            elif tag == tags.EXECUTE:
                self._message(tag, start, end)
            elif tag == tags.DESCRIBE or tag == tags.CLOSE:
                self._describe(self._message(tag, start, end), start + HEADER_BYTES, end)
            elif tag == tags.SYNC or tag == tags.FLUSH:
                message = self._message(tag, start, end)
                if end - start > HEADER_BYTES:
                    message.refusal = too_long()
                return self._take(END_SYNC if tag == tags.SYNC else END_FLUSH)
            elif tag == tags.FUNCTION_CALL:
                self._message(tag, start, end)
                return self._take(END_FUNCTION_CALL)
            elif tag == tags.TERMINATE:
                self.is_terminated = True
                return None
            elif tag == tags.COPY_DATA or tag == tags.COPY_DONE or tag == tags.COPY_FAIL:
                # protocol-flow, COPY: outside of COPY these are ignored, for a COPY may have failed
                # while the frontend was still sending (rule 24).
                if self._messages:
                    # What stands before may be the COPY that this belongs to.
                    self._pos = start
                    return self._take(END_CUT)
                self._base = end
            else:
                check_type(tag)

    def skip_to_sync(self) -> bool:
        """After an error: drop messages up to and with the Sync; True when that was there."""
        self._has_command = False
        messages = self._messages
        while messages:
            self.restore(messages.pop())
        self._described = 0
        self._base = self._pos
        while True:
            end = self._next()
            if end < 0:
                return False
            tag = self._buffer[self._pos]
            self._pos = end
            self._base = end
            if tag == tags.SYNC:
                return True
            if tag == tags.TERMINATE:
                self.is_terminated = True
                return False
            check_type(tag)

    def is_raw(self, text: bytes) -> bool:
        """
        Whether the server may read a text in another way than the parser here does (rule 37).

        Behind a statement that may change how texts are read, in one Sync group, only texts with a
        backslash or beyond ASCII count: all others read the same everywhere.
        """
        return self.is_unsafe or (self.is_unsettled and (b"\\" in text or not text.isascii()))

    def facts_of(self, text: bytes) -> TextFacts:
        """Facts on a text, or `unknown` where the parser would see something else (rule 37)."""
        if self.is_raw(text):
            return self._classifier.unknown(text)
        return self._classifier.facts(text)

    def _note_execution(self, facts: TextFacts) -> None:
        """A statement is bound: what it may change for the texts behind it in its group."""
        if facts.has_effects:
            for statement in facts.statements:
                effects = statement.effects
                if effects is not None:
                    if effects.may_change("standard_conforming_strings") or effects.may_change(
                        "client_encoding"
                    ):
                        self.is_unsettled = True
                    if effects.may_change("search_path") or effects.may_change("role"):
                        self.planning = local_planning()
        elif facts.has_control and self.was_unsafe:
            # The end of a transaction may bring an unsafe setting back.
            self.is_unsettled = True

    def restore(self, message: Message) -> None:
        """A Parse, Close or Query never ran: its name means again what it meant before."""
        if message.tag == tags.QUERY:
            self.unnamed = message.previous
        elif message.tag == tags.PARSE:
            if message.prepared is None or message.is_duplicate:
                return
            if not message.name:
                self.unnamed = message.previous
            else:
                self.statements.pop(message.name, None)
        elif message.tag == tags.CLOSE and message.is_statement and message.previous is not None:
            if message.previous.is_foreign:
                self.foreign[message.name] = message.previous
            elif message.name:
                self.statements[message.name] = message.previous
            else:
                self.unnamed = message.previous

    def fail(self, message: Message) -> None:
        """A message failed itself. PostgreSQL drops the unnamed statement before it looks on."""
        if message.tag == tags.PARSE and message.prepared is not None:
            if message.name:
                self.restore(message)
            else:
                self.unnamed = None

    def _message(self, tag: int, start: int, end: int) -> Message:
        message = Message(tag, start - self._base, end - self._base)
        self._messages.append(message)
        return message

    def _take(self, ending: int) -> Batch:
        base = self._base
        pos = self._pos
        if base == 0 and pos == len(self._buffer):
            data = self._buffer
        else:
            data = self._buffer[base:pos]
        batch = Batch(data, self._messages, ending)
        if ending != END_FLUSH and ending != END_CUT:
            self.is_unsettled = False
            self._group += 1
        self._messages = []
        self._described = 0
        self._has_command = False
        self._base = pos
        return batch

    def _names_statement(self, tag: int, body: int, end: int) -> bool:
        """Whether a message is about a statement that has a name."""
        buffer = self._buffer
        if tag == tags.BIND:
            body = buffer.find(0, body, end) + 1
        elif tag == tags.DESCRIBE or tag == tags.CLOSE:
            body = body + 1 if buffer[body : body + 1] == b"S" else end
        elif tag != tags.PARSE:
            return False
        return body < end and buffer[body] != 0

    def _query(self, message: Message, start: int, end: int) -> Batch:
        body = start + HEADER_BYTES
        buffer = self._buffer
        facts: TextFacts
        is_raw = True
        zero = buffer.find(0, body, end)
        if zero != end - 1 or zero < 0:
            # A text behind a NUL would be seen by nobody here (rule 35).
            message.refusal = too_long() if zero >= 0 else no_string()
            facts = self._classifier.unknown(b"")
        else:
            text = buffer[body:zero]
            facts = self.facts_of(text)
            is_raw = self.is_raw(text)
            if not facts.is_plain:
                message.refusal = namespace.refusal_of(facts)
        message.previous = self.unnamed
        self.unnamed = None
        batch = self._take(END_QUERY)
        batch.facts = facts
        batch.is_raw = is_raw
        return batch

    def _parse(self, message: Message, body: int, end: int) -> None:
        buffer = self._buffer
        name_end = frontend.cstring_end(buffer, body, end)
        text_end = buffer.find(0, name_end + 1, end) if name_end >= 0 else -1
        if text_end < 0:
            message.refusal = no_string()
            return
        tail = buffer[text_end + 1 : end]
        size = 2 if len(tail) < 2 else 2 + 4 * ((tail[0] << 8) | tail[1])
        if len(tail) != size:
            message.refusal = too_short() if len(tail) < size else too_long()
            return
        text = buffer[name_end + 1 : text_end]
        named = name_end > body
        facts = self.facts_of(text)
        prepared = Prepared(text, facts, tail, self.planning, named)
        prepared.is_raw = self.is_raw(text)
        prepared.group = self._group
        message.prepared = prepared
        if prepared.is_raw:
            self._find_names(prepared)
            facts = prepared.sql_facts
        if not facts.is_plain and namespace.runs_prepared(facts):
            prepared.is_special = True
            message.refusal = namespace.refusal_of(facts)
        if not named:
            message.previous = self.unnamed
            self.unnamed = prepared
            return
        name = buffer[body:name_end]
        message.name = name
        if name in self.statements or name in self.foreign:
            message.is_duplicate = True
            message.refusal = statement_exists(name)
            return
        self.statements[name] = prepared

    def _bind(self, message: Message, body: int, end: int) -> None:
        buffer = self._buffer
        portal_end = frontend.cstring_end(buffer, body, end)
        name_end = frontend.cstring_end(buffer, portal_end + 1, end) if portal_end >= 0 else -1
        if name_end < 0:
            message.refusal = no_string()
            return
        if name_end == portal_end + 1:
            message.prepared = self.unnamed
        else:
            message.name = buffer[portal_end + 1 : name_end]
            message.prepared = self._known(message.name)
        prepared = message.prepared
        if prepared is None:
            message.refusal = unknown_statement(message.name)
            return
        if prepared.columns and prepared.planning != self.planning:
            self.relies_on_columns = True
        if (
            prepared.group != self._group
            and not prepared.is_raw
            and (self.is_unsafe or self.is_unsettled)
            and self.is_raw(prepared.sql)
        ):
            # It would be read in another way if it had to be prepared anew where it runs now.
            message.prepared = self._as_raw(prepared)
        if prepared.is_special and not prepared.is_foreign:
            self._has_command = True
        self._note_execution(OPAQUE_TEXT if prepared.is_foreign else prepared.sql_facts)

    def _as_raw(self, prepared: Prepared) -> Prepared:
        planning = local_planning() if self.is_unsettled else self.planning
        other = prepared.under(planning)
        other.is_raw = True
        other.facts = self._classifier.unknown(prepared.text)
        other.sql_facts = self._classifier.unknown(prepared.sql)
        self._find_names(other)
        return other

    def _find_names(self, prepared: Prepared) -> None:
        """A raw statement: what it does to names is known where every reading is the same."""
        known = namespace.facts_of_raw(prepared.sql, self._classifier)
        if known is not None and not namespace.executes(known):
            # It is judged by `facts`; what it executes would have to be judged as that.
            prepared.sql_facts = known

    def _describe(self, message: Message, body: int, end: int) -> None:
        buffer = self._buffer
        zero = frontend.cstring_end(buffer, body + 1, end)
        if end == body:
            message.refusal = malformed("no data left in message")
            return
        if zero != end - 1 or zero < 0:
            message.refusal = too_long() if zero >= 0 else no_string()
            return
        if buffer[body] != 83:  # 'S'; portals are the server's own
            if message.tag == tags.DESCRIBE:
                self._note_described()
            return
        message.is_statement = True
        name = buffer[body + 1 : end - 1]
        message.name = name
        prepared = self._known(name) if name else self.unnamed
        message.prepared = prepared
        if message.tag == tags.CLOSE:
            # Close of an unknown name is not an error (rule 9).
            message.previous = prepared
            if name:
                self.statements.pop(name, None)
                self.foreign.pop(name, None)
            else:
                self.unnamed = None
        elif prepared is None:
            message.refusal = unknown_statement(name)
        else:
            prepared.is_described = True
            if prepared.is_special and not prepared.is_foreign:
                # What it executes is looked up now, before anything behind it has a name.
                self._has_command = True

    def _note_described(self) -> None:
        """A portal is described: it may be of any statement that is bound in this batch."""
        messages = self._messages
        while self._described < len(messages):
            message = messages[self._described]
            self._described += 1
            if message.tag == tags.BIND and message.prepared is not None:
                message.prepared.is_described = True

    def _known(self, name: bytes) -> Prepared | None:
        prepared = self.statements.get(name)
        return prepared if prepared is not None else self.foreign.get(name)
