"""
What columns a client was told that its statement has, and whether it still has them (rule 13).

A client that has described a statement decodes rows by what it was told. On a server its plan is
made anew after a DDL, with an error if the columns are others. Here the statement may be prepared
on another connection, which has never seen the old plan: so that the client does not misread the
rows, the new columns are compared with the old ones before it is executed there. Asked is only
after a change of the schema that was seen here, or of what plans depend on, and once per text.
"""

from typing import TYPE_CHECKING, final

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import backend, frontend, tags
from proxy.session.dispatch import EMPTY_QUERY
from proxy.session.exchange import Exchange, Message, Prepared
from proxy.session.link import BackendLink
from proxy.session.users import InternalQuery

if TYPE_CHECKING:
    from proxy.session.conversation import Conversation

_STATEMENT = 83  # "S" of Describe
_NO_COLUMNS = b"none"


def columns_key(body: bytes) -> bytes:
    """A RowDescription as far as rows are read by it: names and types; b"" is NoData."""
    if not body:
        return _NO_COLUMNS
    try:
        columns = backend.columns_of(body)
    except ProtocolViolation:
        return body
    pieces: list[bytes] = []
    for column in columns:
        pieces.append(b"%b\x00%d,%d" % (column.name, column.type_oid, column.type_modifier))
    return b"\x00".join(pieces) or _NO_COLUMNS


def changed() -> Refusal:
    """What PostgreSQL answers where a statement's columns are not those that it had."""
    # By the routine asyncpg and pgjdbc know that it helps to prepare again.
    return Refusal(
        "0A000", "cached plan must not change result type", routine="RevalidateCachedQuery"
    )


def look_at_columns(session: "Conversation", exchange: Exchange, link: BackendLink) -> bool:
    """
    Compare the columns of the statements that a batch relies on; True: the server is asked first.

    The Binds of those that have changed are refused.
    """
    intake = session.intake
    intake.relies_on_columns = False
    if link.status == tags.STATUS_FAILED:
        return False
    known = session.known_statements()
    query = ColumnsQuery(session, known)
    messages = exchange.batches[-1].messages
    for index, message in enumerate(messages):
        prepared = message.prepared
        if (
            message.tag != tags.BIND
            or prepared is None
            or not prepared.columns
            or prepared.planning == intake.planning
            or intake.statements.get(message.name) is not prepared
            or _is_described(messages, index + 1)
        ):
            continue
        other = prepared.under(intake.planning)
        columns = known.get(other.key, b"")
        if not columns:
            if not exchange.sent:
                query.add(message, other)
        elif columns != prepared.columns:
            message.refusal = changed()
            break
    return query.run(link)


def _is_described(messages: list[Message], index: int) -> bool:
    """Whether the portal that has just been bound is described at once, as libpq does."""
    if index >= len(messages):
        return False
    message = messages[index]
    return message.tag == tags.DESCRIBE and not message.is_statement


@final
class ColumnsQuery(InternalQuery):
    """Prepare statements on a link, and see what columns they have now."""

    __slots__ = ("_at", "_fields", "_known", "_link", "_messages", "_others", "_session")

    def __init__(self, session: "Conversation", known: dict[bytes, bytes]) -> None:
        self._session = session
        self._known = known
        self._messages: list[Message] = []
        self._others: list[Prepared] = []
        self._at = 0
        self._fields: dict[str, str] | None = None
        self._link: BackendLink | None = None  # where a transaction is open

    def add(self, message: Message, other: Prepared) -> None:
        """Ask for the columns of `other`, which `message` is about to bind."""
        self._messages.append(message)
        self._others.append(other)

    def run(self, link: BackendLink) -> bool:
        """Ask, where there is anything to ask."""
        if not self._others:
            return False
        pieces: list[bytes] = []
        for other in self._others:
            name = link.prepared.get(other.key)
            if name is None:
                name = link.new_server_name()
                link.prepared[other.key] = name
                pieces.append(frontend.encode_parse(name, other.sql, other.tail))
            pieces.append(frontend.Describe(_STATEMENT, name).encode())
        if link.status == tags.STATUS_IN_TRANSACTION:
            # It may be one that a pipeline has left open, which a Sync would end, and no Query does.
            self._link = link
            link.unnamed = None
            pieces.append(EMPTY_QUERY)
        else:
            # Before the first message of its group: there is nothing of the client's to end.
            pieces.append(frontend.SYNC)
        link.expect_internal(self)
        link.send(b"".join(pieces))
        return True

    def on_row(self, values: list[bytes | None]) -> None:
        """There are none."""

    def on_columns(self, body: bytes) -> None:
        """The columns of the next statement."""
        if self._at < len(self._others):
            other = self._others[self._at]
            message = self._messages[self._at]
            prepared = message.prepared
            columns = columns_key(body)
            self._known[other.key] = columns
            if prepared is not None and columns != prepared.columns:
                message.refusal = changed()
            self._at += 1

    def on_error(self, fields: dict[str, str]) -> None:
        """A statement that cannot be prepared any more."""
        self._fields = fields
        link = self._link
        if link is not None:
            # The Query is skipped. What a pipeline had left open has failed, too.
            link.send(frontend.SYNC)

    def on_done(self, link: BackendLink, status: int) -> None:
        """Go on with the batch."""
        fields = self._fields
        for other in self._others[self._at :]:
            link.undo_prepared(other.key)
        if fields is not None and self._link is not None and self._at < len(self._messages):
            # The transaction has failed by it, as it would have by the Bind.
            self._messages[self._at].refusal = Refusal(
                backend.sqlstate_of(fields),
                backend.message_of(fields),
                fields.get("D", ""),
                fields.get("H", ""),
            )
        self._session.on_settings_applied(link, None)
