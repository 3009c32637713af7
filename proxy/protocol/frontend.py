"""
Messages that a frontend sends: decode, encode.

A class for each, with the names of the documentation ("Message Formats"), for those who look
inside; and free functions on whole frames for the statement path, where no object is made.
`decode` takes a message's body (what stands behind its length) and raises only ProtocolViolation,
in PostgreSQL's words. What a String of these classes holds has no NUL: `decode` cannot give one,
and whoever encodes must not.
"""

from typing import Final, final

from proxy.errors import ProtocolViolation
from proxy.protocol import tags
from proxy.protocol.body import (
    BodyReader,
    counted_value,
    counted_values,
    frame,
    int16,
    int32,
    oid_list,
    uint16_list,
)

STATEMENT: Final = 83  # S
PORTAL: Final = 80  # P

SYNC: Final = b"S\x00\x00\x00\x04"
FLUSH: Final = b"H\x00\x00\x00\x04"
TERMINATE: Final = b"X\x00\x00\x00\x04"
COPY_DONE: Final = b"c\x00\x00\x00\x04"

_HEADER_BYTES: Final = 5
_NEAR_BYTES: Final = 64


# -- on bytes, for the statement path


def cstring_end(buffer: bytes, start: int, end: int) -> int:
    """
    Index of the NUL that ends the String at `start`; -1 when there is none before `end`.

    PERF: names are short, and compiled, looking at 20 bytes costs a quarter of calling `find`.
    """
    pos = start
    near = start + _NEAR_BYTES
    if near > end:
        near = end
    while pos < near:
        if buffer[pos] == 0:
            return pos
        pos += 1
    return buffer.find(b"\x00", pos, end) if pos < end else -1


def encode_query(sql: bytes) -> bytes:
    """Query."""
    return b"Q" + int32(len(sql) + 5) + sql + b"\x00"


def encode_parse(statement: bytes, sql: bytes, rest: bytes) -> bytes:
    """Parse; `rest` is what stands behind the text: the count of parameter types, and their OIDs."""
    length = len(statement) + len(sql) + len(rest) + 6
    return b"".join((b"P", int32(length), statement, b"\x00", sql, b"\x00", rest))


def encode_copy_fail(reason: bytes) -> bytes:
    """CopyFail."""
    return frame(tags.COPY_FAIL, reason + b"\x00")


def rename_bind(bind: bytes, new_statement: bytes) -> bytes:
    """
    The same Bind, a whole frame, of another prepared statement; what stands behind the frame stays.
    """
    end = len(bind)
    portal_end = cstring_end(bind, _HEADER_BYTES, end)
    if portal_end < 0:
        raise ProtocolViolation("invalid string in message")
    statement_end = cstring_end(bind, portal_end + 1, end)
    if statement_end < 0:
        raise ProtocolViolation("invalid string in message")
    length = int.from_bytes(bind[1:5], "big") - (statement_end - portal_end - 1)
    return b"".join(
        (
            b"B",
            int32(length + len(new_statement)),
            bind[_HEADER_BYTES : portal_end + 1],
            new_statement,
            bind[statement_end:],
        )
    )


def rename_described(described: bytes, new_name: bytes) -> bytes:
    """The same Describe or Close (a whole frame) of another statement or portal."""
    end = len(described)
    if end < _HEADER_BYTES + 2 or cstring_end(described, _HEADER_BYTES + 1, end) != end - 1:
        raise ProtocolViolation("invalid string in message")
    return b"".join(
        (
            described[0:1],
            int32(len(new_name) + 6),
            described[_HEADER_BYTES : _HEADER_BYTES + 1],
            new_name,
            b"\x00",
        )
    )


# -- one class for each message


@final
class Query:
    """A simple query: one text, any number of statements."""

    __slots__ = ("sql",)

    def __init__(self, sql: bytes) -> None:
        self.sql = sql

    @staticmethod
    def decode(body: bytes) -> "Query":
        """From a body; a NUL inside the text is refused (rule 35)."""
        reader = BodyReader(body)
        sql = reader.take_cstring()
        reader.finish()
        return Query(sql)

    def encode(self) -> bytes:
        """The whole frame."""
        return encode_query(self.sql)


@final
class Parse:
    """Prepare a statement; the empty name is the unnamed one."""

    __slots__ = ("parameter_oids", "sql", "statement")

    def __init__(self, statement: bytes, sql: bytes, parameter_oids: list[int]) -> None:
        self.statement = statement
        self.sql = sql
        self.parameter_oids = parameter_oids

    @staticmethod
    def decode(body: bytes) -> "Parse":
        """From a body."""
        reader = BodyReader(body)
        statement = reader.take_cstring()
        sql = reader.take_cstring()
        parameter_oids = reader.take_oid_list()
        reader.finish()
        return Parse(statement, sql, parameter_oids)

    def encode(self) -> bytes:
        """The whole frame."""
        return encode_parse(self.statement, self.sql, oid_list(self.parameter_oids))


@final
class Bind:
    """
    Make a portal of a prepared statement and its parameters.

    parameter_formats, result_formats  none: all text; one: for all; else one for each
    parameters                         None is NULL
    """

    __slots__ = ("parameter_formats", "parameters", "portal", "result_formats", "statement")

    def __init__(
        self,
        portal: bytes,
        statement: bytes,
        parameter_formats: list[int],
        parameters: list[bytes | None],
        result_formats: list[int],
    ) -> None:
        self.portal = portal
        self.statement = statement
        self.parameter_formats = parameter_formats
        self.parameters = parameters
        self.result_formats = result_formats

    @staticmethod
    def decode(body: bytes) -> "Bind":
        """From a body."""
        reader = BodyReader(body)
        portal = reader.take_cstring()
        statement = reader.take_cstring()
        parameter_formats = reader.take_uint16_list()
        count = reader.take_uint16()
        formats = len(parameter_formats)
        if formats > 1 and formats != count:
            raise ProtocolViolation(
                f"bind message has {formats} parameter formats but {count} parameters"
            )
        parameters = reader.take_values(count)
        result_formats = reader.take_uint16_list()
        reader.finish()
        return Bind(portal, statement, parameter_formats, parameters, result_formats)

    def encode(self) -> bytes:
        """The whole frame."""
        pieces = (
            self.portal,
            b"\x00",
            self.statement,
            b"\x00",
            uint16_list(self.parameter_formats),
            counted_values(self.parameters),
            uint16_list(self.result_formats),
        )
        return frame(tags.BIND, b"".join(pieces))


@final
class Describe:
    """Ask for the description of a statement (STATEMENT) or a portal (PORTAL)."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: int, name: bytes) -> None:
        self.kind = kind
        self.name = name

    @staticmethod
    def decode(body: bytes) -> "Describe":
        """From a body."""
        reader = BodyReader(body)
        kind = reader.take_byte()
        name = reader.take_cstring()
        reader.finish()
        if kind != STATEMENT and kind != PORTAL:
            raise ProtocolViolation(f"invalid DESCRIBE message subtype {kind}")
        return Describe(kind, name)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.DESCRIBE, bytes((self.kind,)) + self.name + b"\x00")


@final
class Execute:
    """Run a portal; `max_rows` 0 is no limit."""

    __slots__ = ("max_rows", "portal")

    def __init__(self, portal: bytes, max_rows: int) -> None:
        self.portal = portal
        self.max_rows = max_rows

    @staticmethod
    def decode(body: bytes) -> "Execute":
        """From a body."""
        reader = BodyReader(body)
        portal = reader.take_cstring()
        max_rows = reader.take_int32()
        reader.finish()
        return Execute(portal, max_rows)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.EXECUTE, self.portal + b"\x00" + int32(self.max_rows))


@final
class Close:
    """Close a statement (STATEMENT) or a portal (PORTAL)."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: int, name: bytes) -> None:
        self.kind = kind
        self.name = name

    @staticmethod
    def decode(body: bytes) -> "Close":
        """From a body."""
        reader = BodyReader(body)
        kind = reader.take_byte()
        name = reader.take_cstring()
        reader.finish()
        if kind != STATEMENT and kind != PORTAL:
            raise ProtocolViolation(f"invalid CLOSE message subtype {kind}")
        return Close(kind, name)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.CLOSE, bytes((self.kind,)) + self.name + b"\x00")


@final
class FunctionCall:
    """Call a function by its OID (an old interface that is still served)."""

    __slots__ = ("argument_formats", "arguments", "function_oid", "result_format")

    def __init__(
        self,
        function_oid: int,
        argument_formats: list[int],
        arguments: list[bytes | None],
        result_format: int,
    ) -> None:
        self.function_oid = function_oid
        self.argument_formats = argument_formats
        self.arguments = arguments
        self.result_format = result_format

    @staticmethod
    def decode(body: bytes) -> "FunctionCall":
        """From a body."""
        reader = BodyReader(body)
        function_oid = reader.take_uint32()
        argument_formats = reader.take_uint16_list()
        count = reader.take_uint16()
        formats = len(argument_formats)
        if formats > 1 and formats != count:
            raise ProtocolViolation(
                f"function call message contains {formats} argument formats but {count} arguments"
            )
        arguments = reader.take_values(count)
        result_format = reader.take_uint16()
        reader.finish()
        return FunctionCall(function_oid, argument_formats, arguments, result_format)

    def encode(self) -> bytes:
        """The whole frame."""
        pieces = (
            int32(self.function_oid),
            uint16_list(self.argument_formats),
            counted_values(self.arguments),
            int16(self.result_format),
        )
        return frame(tags.FUNCTION_CALL, b"".join(pieces))


@final
class Sync:
    """End of a group of extended-query messages."""

    __slots__ = ()

    @staticmethod
    def decode(body: bytes) -> "Sync":
        """From a body, which must be empty."""
        BodyReader(body).finish()
        return Sync()

    def encode(self) -> bytes:
        """The whole frame."""
        return SYNC


@final
class Flush:
    """Ask for what the server has, without a Sync."""

    __slots__ = ()

    @staticmethod
    def decode(body: bytes) -> "Flush":
        """From a body, which must be empty."""
        BodyReader(body).finish()
        return Flush()

    def encode(self) -> bytes:
        """The whole frame."""
        return FLUSH


@final
class Terminate:
    """The end of the session."""

    __slots__ = ()

    @staticmethod
    def decode(body: bytes) -> "Terminate":
        """From a body, which must be empty."""
        BodyReader(body).finish()
        return Terminate()

    def encode(self) -> bytes:
        """The whole frame."""
        return TERMINATE


@final
class CopyData:
    """A piece of COPY data, cut anywhere."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "CopyData":
        """From a body."""
        return CopyData(body)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.COPY_DATA, self.data)


@final
class CopyDone:
    """All COPY data has been sent."""

    __slots__ = ()

    @staticmethod
    def decode(body: bytes) -> "CopyDone":
        """From a body, which must be empty."""
        BodyReader(body).finish()
        return CopyDone()

    def encode(self) -> bytes:
        """The whole frame."""
        return COPY_DONE


@final
class CopyFail:
    """The COPY cannot go on; `reason` is put into the server's error."""

    __slots__ = ("reason",)

    def __init__(self, reason: bytes) -> None:
        self.reason = reason

    @staticmethod
    def decode(body: bytes) -> "CopyFail":
        """From a body."""
        reader = BodyReader(body)
        reason = reader.take_cstring()
        reader.finish()
        return CopyFail(reason)

    def encode(self) -> bytes:
        """The whole frame."""
        return encode_copy_fail(self.reason)


@final
class PasswordMessage:
    """A password, in clear or as md5 response."""

    __slots__ = ("password",)

    def __init__(self, password: bytes) -> None:
        self.password = password

    @staticmethod
    def decode(body: bytes) -> "PasswordMessage":
        """From a body."""
        if body.find(b"\x00") != len(body) - 1:
            raise ProtocolViolation("invalid password packet size")
        return PasswordMessage(body[:-1])

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.PASSWORD, self.password + b"\x00")


@final
class SASLInitialResponse:
    """The chosen SASL mechanism; `response` is None when the client waits for a challenge."""

    __slots__ = ("mechanism", "response")

    def __init__(self, mechanism: bytes, response: bytes | None) -> None:
        self.mechanism = mechanism
        self.response = response

    @staticmethod
    def decode(body: bytes) -> "SASLInitialResponse":
        """From a body."""
        reader = BodyReader(body)
        mechanism = reader.take_cstring()
        response = reader.take_value()
        reader.finish()
        return SASLInitialResponse(mechanism, response)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.PASSWORD, self.mechanism + b"\x00" + counted_value(self.response))


@final
class SASLResponse:
    """The client's next SASL message."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "SASLResponse":
        """From a body."""
        return SASLResponse(body)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.PASSWORD, self.data)
