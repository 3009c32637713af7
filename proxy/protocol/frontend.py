"""
Messages that a frontend sends, as PostgreSQL's documentation names them (Message Formats, (F)).

`decode` takes the body behind the length and raises only ProtocolViolation; `encode` gives the
whole frame. The free functions at the end work on frames without making objects: the hot path.
"""

from typing import Final, final

from proxy.errors import ProtocolViolation
from proxy.protocol import tags
from proxy.protocol.fields import FieldReader, encode_value, frame, int16, int32

SYNC: Final = b"S\x00\x00\x00\x04"
FLUSH: Final = b"H\x00\x00\x00\x04"
TERMINATE: Final = b"X\x00\x00\x00\x04"
COPY_DONE: Final = b"c\x00\x00\x00\x04"

STATEMENT: Final = 83  # "S" of Describe and Close
PORTAL: Final = 80  # "P"


@final
class Query:
    """Query (F): a simple query."""

    __slots__ = ("sql",)

    def __init__(self, sql: bytes) -> None:
        self.sql = sql

    @staticmethod
    def decode(body: bytes) -> "Query":
        """From the body."""
        fields = FieldReader(body)
        sql = fields.string()
        fields.finish()
        return Query(sql)

    def encode(self) -> bytes:
        """The whole frame."""
        return encode_query(self.sql)


@final
class Parse:
    """Parse (F): prepare a statement."""

    __slots__ = ("parameter_oids", "sql", "statement")

    def __init__(self, statement: bytes, sql: bytes, parameter_oids: list[int]) -> None:
        self.statement = statement
        self.sql = sql
        self.parameter_oids = parameter_oids

    @staticmethod
    def decode(body: bytes) -> "Parse":
        """From the body."""
        fields = FieldReader(body)
        statement = fields.string()
        sql = fields.string()
        oids = [fields.uint32() for _ in range(fields.int16())]
        fields.finish()
        return Parse(statement, sql, oids)

    def encode(self) -> bytes:
        """The whole frame."""
        oids = b"".join([int32(oid) for oid in self.parameter_oids])
        return encode_parse(self.statement, self.sql, int16(len(self.parameter_oids)) + oids)


@final
class Bind:
    """Bind (F): a portal from a statement and parameter values; None is NULL."""

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
        """From the body."""
        fields = FieldReader(body)
        portal = fields.string()
        statement = fields.string()
        parameter_formats = [fields.int16() for _ in range(fields.int16())]
        parameters: list[bytes | None] = [fields.value() for _ in range(fields.int16())]
        result_formats = [fields.int16() for _ in range(fields.int16())]
        fields.finish()
        return Bind(portal, statement, parameter_formats, parameters, result_formats)

    def encode(self) -> bytes:
        """The whole frame."""
        pieces = [self.portal, b"\x00", self.statement, b"\x00"]
        pieces.append(int16(len(self.parameter_formats)))
        pieces.extend([int16(code) for code in self.parameter_formats])
        pieces.append(int16(len(self.parameters)))
        pieces.extend([encode_value(value) for value in self.parameters])
        pieces.append(int16(len(self.result_formats)))
        pieces.extend([int16(code) for code in self.result_formats])
        return frame(tags.BIND, b"".join(pieces))


@final
class Describe:
    """Describe (F): of a statement (kind STATEMENT) or portal (kind PORTAL)."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: int, name: bytes) -> None:
        self.kind = kind
        self.name = name

    @staticmethod
    def decode(body: bytes) -> "Describe":
        """From the body."""
        kind, name = _kind_and_name(body, "DESCRIBE")
        return Describe(kind, name)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.DESCRIBE, bytes([self.kind]) + self.name + b"\x00")


@final
class Execute:
    """Execute (F): run a portal; max_rows 0 is all."""

    __slots__ = ("max_rows", "portal")

    def __init__(self, portal: bytes, max_rows: int) -> None:
        self.portal = portal
        self.max_rows = max_rows

    @staticmethod
    def decode(body: bytes) -> "Execute":
        """From the body."""
        fields = FieldReader(body)
        portal = fields.string()
        max_rows = fields.int32()
        fields.finish()
        return Execute(portal, max_rows)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.EXECUTE, self.portal + b"\x00" + int32(self.max_rows))


@final
class Close:
    """Close (F): a statement (kind STATEMENT) or portal (kind PORTAL)."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: int, name: bytes) -> None:
        self.kind = kind
        self.name = name

    @staticmethod
    def decode(body: bytes) -> "Close":
        """From the body."""
        kind, name = _kind_and_name(body, "CLOSE")
        return Close(kind, name)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.CLOSE, bytes([self.kind]) + self.name + b"\x00")


@final
class FunctionCall:
    """FunctionCall (F): call a function by its OID."""

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
        """From the body."""
        fields = FieldReader(body)
        oid = fields.uint32()
        formats = [fields.int16() for _ in range(fields.int16())]
        arguments: list[bytes | None] = [fields.value() for _ in range(fields.int16())]
        result_format = fields.int16()
        fields.finish()
        return FunctionCall(oid, formats, arguments, result_format)

    def encode(self) -> bytes:
        """The whole frame."""
        pieces = [int32(self.function_oid), int16(len(self.argument_formats))]
        pieces.extend([int16(code) for code in self.argument_formats])
        pieces.append(int16(len(self.arguments)))
        pieces.extend([encode_value(value) for value in self.arguments])
        pieces.append(int16(self.result_format))
        return frame(tags.FUNCTION_CALL, b"".join(pieces))


@final
class CopyFail:
    """CopyFail (F): the COPY ends with an error of the client's."""

    __slots__ = ("reason",)

    def __init__(self, reason: bytes) -> None:
        self.reason = reason

    @staticmethod
    def decode(body: bytes) -> "CopyFail":
        """From the body."""
        fields = FieldReader(body)
        reason = fields.string()
        fields.finish()
        return CopyFail(reason)

    def encode(self) -> bytes:
        """The whole frame."""
        return encode_copy_fail(self.reason)


@final
class PasswordMessage:
    """PasswordMessage (F): a clear password or an md5 response."""

    __slots__ = ("password",)

    def __init__(self, password: bytes) -> None:
        self.password = password

    @staticmethod
    def decode(body: bytes) -> "PasswordMessage":
        """From the body."""
        fields = FieldReader(body)
        password = fields.string()
        fields.finish()
        return PasswordMessage(password)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.PASSWORD, self.password + b"\x00")


@final
class SASLInitialResponse:
    """SASLInitialResponse (F): the chosen mechanism and its first data; None: no data."""

    __slots__ = ("data", "mechanism")

    def __init__(self, mechanism: bytes, data: bytes | None) -> None:
        self.mechanism = mechanism
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "SASLInitialResponse":
        """From the body."""
        fields = FieldReader(body)
        mechanism = fields.string()
        data = fields.value()
        fields.finish()
        return SASLInitialResponse(mechanism, data)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.PASSWORD, self.mechanism + b"\x00" + encode_value(self.data))


@final
class SASLResponse:
    """SASLResponse (F): further SASL data."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "SASLResponse":
        """From the body."""
        return SASLResponse(body)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.PASSWORD, self.data)


@final
class CopyData:
    """CopyData (F, B): one piece of a COPY."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "CopyData":
        """From the body."""
        return CopyData(body)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(tags.COPY_DATA, self.data)


def _kind_and_name(body: bytes, message: str) -> tuple[int, bytes]:
    fields = FieldReader(body)
    kind = fields.byte()
    name = fields.string()
    fields.finish()
    if kind != STATEMENT and kind != PORTAL:
        raise ProtocolViolation(f"invalid {message} message subtype {kind}")
    return kind, name


def cstring_end(buffer: bytes, pos: int, end: int) -> int:
    """Index of the NUL that ends the string at `pos`, or -1."""
    return buffer.find(0, pos, end)


def encode_query(sql: bytes) -> bytes:
    """A Query's frame."""
    return b"Q" + (len(sql) + 5).to_bytes(4, "big") + sql + b"\x00"


def encode_parse(statement: bytes, sql: bytes, rest: bytes) -> bytes:
    """A Parse's frame; `rest` is number and OIDs of the parameter types as they travel."""
    length = len(statement) + len(sql) + len(rest) + 6
    return b"P" + length.to_bytes(4, "big") + statement + b"\x00" + sql + b"\x00" + rest


def encode_copy_fail(reason: bytes) -> bytes:
    """A CopyFail's frame."""
    return frame(tags.COPY_FAIL, reason + b"\x00")


def rename_bind(whole: bytes, new_statement: bytes) -> bytes:
    """A Bind's frame with another statement name; `whole` is known to have both its names."""
    portal_end = whole.find(0, 5)
    name_end = whole.find(0, portal_end + 1)
    length = len(whole) - 1 - (name_end - portal_end - 1) + len(new_statement)
    return (
        b"B"
        + length.to_bytes(4, "big")
        + whole[5 : portal_end + 1]
        + new_statement
        + whole[name_end:]
    )


def rename_described(whole: bytes, new_name: bytes) -> bytes:
    """A Describe's or Close's frame with another name."""
    return whole[:1] + (len(new_name) + 6).to_bytes(4, "big") + whole[5:6] + new_name + b"\x00"
