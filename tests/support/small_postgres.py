"""
A server of a few commands: names of statements, transactions, and what an error skips.

It answers as PostgreSQL does, with one exception: it looks at a name before it looks at the text of
a Parse, as the proxy does. A statement answers one row, its own text: which one has run can be seen.
"""

import re

from proxy.errors import Refusal
from proxy.protocol import backend, frontend, tags

_ABORTED = Refusal(
    "25P02", "current transaction is aborted, commands ignored until end of transaction block"
)
_PREPARE = re.compile(rb"PREPARE (\w+) AS (.*)")
_PREPARED_STATEMENTS = b"pg_catalog.pg_prepared_statements"
ROLLBACKS = (b"COMMIT", b"ROLLBACK")


class Failed(Exception):
    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def fail(sqlstate: str, message: str) -> Failed:
    return Failed(Refusal(sqlstate, message))


class Statement:
    def __init__(self, text: bytes, from_sql: bytes = b"") -> None:
        self.text = text
        self.from_sql = from_sql


class SmallPostgres:
    """One session; `receive` takes what a client sends and gives what it gets."""

    def __init__(self) -> None:
        self.statements: dict[bytes, Statement] = {}
        self.portal: bytes | None = None
        self.status = tags.STATUS_IDLE
        self._skips = False
        self._buffer = b""

    def receive(self, data: bytes) -> bytes:
        self._buffer += data
        replies = b""
        while len(self._buffer) >= 5:
            end = 1 + int.from_bytes(self._buffer[1:5], "big")
            if len(self._buffer) < end:
                break
            tag, body = self._buffer[0], self._buffer[5:end]
            self._buffer = self._buffer[end:]
            if self._skips and tag != tags.SYNC:
                continue
            replies += self._answer(tag, body)
        return replies

    def _answer(self, tag: int, body: bytes) -> bytes:
        if tag == tags.SYNC:
            self._skips = False
            return self._ready()
        replies: list[bytes] = []
        try:
            if tag == tags.QUERY:
                self._query(body[:-1], replies)
            else:
                self._extended(tag, body, replies)
        except Failed as failed:
            replies.append(backend.error_response(failed.refusal))
            if self.status == tags.STATUS_IN_TRANSACTION:
                self.status = tags.STATUS_FAILED
            self._skips = tag != tags.QUERY
        if tag == tags.QUERY:
            replies.append(self._ready())
        return b"".join(replies)

    def _ready(self) -> bytes:
        if self.status != tags.STATUS_IN_TRANSACTION:
            self.portal = None
        return backend.ready_for_query(self.status)

    def _query(self, text: bytes, replies: list[bytes]) -> None:
        self.statements.pop(b"", None)
        for part in text.split(b";"):
            self._run(part.strip(), replies)

    def _extended(self, tag: int, body: bytes, replies: list[bytes]) -> None:
        if tag == tags.PARSE:
            parse = frontend.Parse.decode(body)
            self._parse(parse.statement, parse.sql)
            replies.append(backend.PARSE_COMPLETE)
        elif tag == tags.BIND:
            statement = self._known(frontend.Bind.decode(body).statement)
            self._check(statement.text)
            self.portal = statement.text
            replies.append(backend.BIND_COMPLETE)
        elif tag == tags.DESCRIBE:
            self._check(self._known(frontend.Describe.decode(body).name).text)
            replies.append(backend.parameter_description([]) + backend.NO_DATA)
        elif tag == tags.CLOSE:
            self.statements.pop(frontend.Close.decode(body).name, None)
            replies.append(backend.CLOSE_COMPLETE)
        elif tag == tags.EXECUTE:
            if self.portal is None:
                raise fail("34000", 'portal "" does not exist')
            self._run(self.portal, replies)
        else:
            assert tag == tags.FLUSH

    def _parse(self, name: bytes, text: bytes, from_sql: bytes = b"") -> None:
        if not name:
            self.statements.pop(b"", None)
        self._check(text)
        if name in self.statements:
            raise fail("42P05", f'prepared statement "{name.decode()}" already exists')
        if not text.isascii() or text.startswith((b"headgate", b"SELEC ")):
            raise fail("42601", "syntax error")
        self.statements[name] = Statement(text, from_sql)

    def _forget(self) -> None:
        """The unnamed statement stays."""
        self.statements = {name: self.statements[name] for name in self.statements if not name}

    def _known(self, name: bytes) -> Statement:
        statement = self.statements.get(name)
        if statement is None:
            shown = (
                f'prepared statement "{name.decode()}"' if name else "unnamed prepared statement"
            )
            raise fail("26000", f"{shown} does not exist")
        return statement

    def _check(self, text: bytes) -> None:
        if self.status == tags.STATUS_FAILED and text not in ROLLBACKS:
            raise Failed(_ABORTED)

    def _run(self, text: bytes, replies: list[bytes]) -> None:
        self._check(text)
        word = text.split(b" ")[0]
        done = word
        if word in ROLLBACKS:
            done = b"ROLLBACK" if self.status == tags.STATUS_FAILED else word
            self.status = tags.STATUS_IDLE
        elif word == b"BEGIN":
            self.status = tags.STATUS_IN_TRANSACTION
        elif word == b"DISCARD":
            self._forget()
            self.portal = None
            done = text
        elif word == b"DEALLOCATE":
            name = text.split(b" ")[1]
            done = b"DEALLOCATE ALL" if name == b"ALL" else word
            if name == b"ALL":
                self._forget()
            else:
                self._known(name)
                del self.statements[name]
        elif word == b"PREPARE":
            match = _PREPARE.fullmatch(text)
            assert match is not None
            self._parse(match.group(1), match.group(2), text)
        elif word == b"EXECUTE":
            self._run(self._known(text.split(b" ")[1]).text, replies)
            return
        elif _PREPARED_STATEMENTS in text:
            for name, statement in self.statements.items():
                if statement.from_sql:
                    replies.append(backend.data_row([b"q", name, statement.from_sql]))
        elif text.startswith(b"SELECT 1/0"):
            raise fail("22012", "division by zero")
        elif text.startswith((b"headgate", b"SELEC ")):
            raise fail("42601", "syntax error")
        else:
            replies.append(backend.data_row([text]))
        replies.append(backend.command_complete(done))
