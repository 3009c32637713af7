"""
Messages that a backend sends: encode what the proxy says itself, decode what it must look into.

Encoders give whole frames. Decoders take a body (what stands behind the length), take anything
that a hostile server can send, and raise only ProtocolViolation; those of errors and notices do
not even raise, because an error must always reach somebody (rule 27).
"""

from typing import Final, final

from proxy.errors import ProtocolViolation, Refusal
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

PARSE_COMPLETE: Final = b"1\x00\x00\x00\x04"
BIND_COMPLETE: Final = b"2\x00\x00\x00\x04"
CLOSE_COMPLETE: Final = b"3\x00\x00\x00\x04"
NO_DATA: Final = b"n\x00\x00\x00\x04"
EMPTY_QUERY_RESPONSE: Final = b"I\x00\x00\x00\x04"
PORTAL_SUSPENDED: Final = b"s\x00\x00\x00\x04"
COPY_DONE: Final = b"c\x00\x00\x00\x04"

_READY_IDLE: Final = b"Z\x00\x00\x00\x05I"
_READY_IN_TRANSACTION: Final = b"Z\x00\x00\x00\x05T"
_READY_FAILED: Final = b"Z\x00\x00\x00\x05E"

# Authentication requests, the Int32 in front
AUTH_OK: Final = 0
AUTH_CLEARTEXT_PASSWORD: Final = 3
AUTH_MD5_PASSWORD: Final = 5
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12

MD5_SALT_BYTES: Final = 4
MAX_SECRET_KEY_BYTES: Final = 256
MIN_SECRET_KEY_BYTES: Final = 4

_PROTOCOL_MAJOR: Final = 3
_FALLBACK_SQLSTATE: Final = "XX000"
_MAX_COUNT_DIGITS: Final = 19
_DIGIT_0: Final = 48
_DIGIT_9: Final = 57
_SPACE: Final = 32


# -- errors and notices


def error_response(refusal: Refusal) -> bytes:
    """ErrorResponse."""
    return frame(tags.ERROR_RESPONSE, _fields_of(refusal))


def notice_response(refusal: Refusal) -> bytes:
    """NoticeResponse; the severity is WARNING, NOTICE, INFO …"""
    return frame(tags.NOTICE_RESPONSE, _fields_of(refusal))


def _fields_of(refusal: Refusal) -> bytes:
    severity = _field_text(refusal.severity)
    pieces: list[bytes] = [
        b"S",
        severity,
        b"V",
        severity,
        b"C",
        _field_text(refusal.sqlstate),
        b"M",
        _field_text(refusal.message),
    ]
    if refusal.detail:
        pieces.append(b"D")
        pieces.append(_field_text(refusal.detail))
    if refusal.hint:
        pieces.append(b"H")
        pieces.append(_field_text(refusal.hint))
    if refusal.routine:
        pieces.append(b"R")
        pieces.append(_field_text(refusal.routine))
    pieces.append(b"\x00")
    return b"".join(pieces)


def _field_text(text: str) -> bytes:
    # SAFETY: the text may be a plugin's or a server's. A NUL would end the field, and what stands
    # behind it would be read as fields.
    return text.encode("utf-8", "replace").replace(b"\x00", b"?") + b"\x00"


def error_fields(body: bytes) -> dict[str, str]:
    """
    The fields of an ErrorResponse or NoticeResponse by their letter, unknown ones too.

    Never raises: what is malformed or not UTF-8 is read as far as it goes.
    """
    fields: dict[str, str] = {}
    pos = 0
    size = len(body)
    while pos < size and body[pos] != 0:
        letter = body[pos : pos + 1].decode("latin-1")
        end = body.find(b"\x00", pos + 1)
        if end < 0:
            end = size
        fields[letter] = body[pos + 1 : end].decode("utf-8", "replace")
        pos = end + 1
    return fields


def sqlstate_of(fields: dict[str, str]) -> str:
    """The SQLSTATE; XX000 when there is none that could be one."""
    sqlstate = fields.get("C", "")
    if len(sqlstate) != 5 or not sqlstate.isascii() or not sqlstate.isalnum():
        return _FALLBACK_SQLSTATE
    return sqlstate


def message_of(fields: dict[str, str]) -> str:
    """The message."""
    return fields.get("M", "") or "the server gave no message"


def severity_of(fields: dict[str, str]) -> str:
    """The severity that is not translated (V), or else the other one (S)."""
    return fields.get("V", "") or fields.get("S", "") or "ERROR"


# -- the start of a session


def authentication_ok() -> bytes:
    """AuthenticationOk."""
    return b"R\x00\x00\x00\x08\x00\x00\x00\x00"


def authentication_cleartext_password() -> bytes:
    """AuthenticationCleartextPassword."""
    return b"R\x00\x00\x00\x08\x00\x00\x00\x03"


def authentication_md5_password(salt: bytes) -> bytes:
    """AuthenticationMD5Password."""
    return frame(tags.AUTHENTICATION, int32(AUTH_MD5_PASSWORD) + salt)


def authentication_sasl(mechanisms: list[bytes]) -> bytes:
    """AuthenticationSASL, the preferred mechanism first."""
    pieces: list[bytes] = [int32(AUTH_SASL)]
    for mechanism in mechanisms:
        pieces.append(mechanism)
        pieces.append(b"\x00")
    pieces.append(b"\x00")
    return frame(tags.AUTHENTICATION, b"".join(pieces))


def authentication_sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue."""
    return frame(tags.AUTHENTICATION, int32(AUTH_SASL_CONTINUE) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal."""
    return frame(tags.AUTHENTICATION, int32(AUTH_SASL_FINAL) + data)


def sasl_mechanisms(data: bytes) -> list[bytes]:
    """The mechanisms of an AuthenticationSASL, from AuthenticationRequest.data."""
    found: list[bytes] = []
    reader = BodyReader(data)
    mechanism = reader.take_cstring()
    while mechanism != b"":
        found.append(mechanism)
        mechanism = reader.take_cstring()
    reader.finish()
    return found


@final
class AuthenticationRequest:
    """
    A server's authentication request.

    code  AUTH_*, or one that is not known here
    data  what follows: the salt of md5, mechanisms of SASL (see sasl_mechanisms), SASL data
    """

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "AuthenticationRequest":
        """From a body; the lengths that the codes demand are checked."""
        reader = BodyReader(body)
        code = reader.take_int32()
        data = reader.take_rest()
        size = len(data)
        if code == AUTH_MD5_PASSWORD:
            if size != MD5_SALT_BYTES:
                raise ProtocolViolation("invalid message format")
        elif code in (AUTH_OK, AUTH_CLEARTEXT_PASSWORD) and size != 0:
            raise ProtocolViolation("invalid message format")
        return AuthenticationRequest(code, data)


def backend_key_data(process_id: int, secret_key: bytes) -> bytes:
    """BackendKeyData; protocol 3.0 has keys of 4 bytes, 3.2 of up to 256."""
    return frame(tags.BACKEND_KEY_DATA, int32(process_id) + secret_key)


@final
class BackendKeyData:
    """What a CancelRequest must show."""

    __slots__ = ("process_id", "secret_key")

    def __init__(self, process_id: int, secret_key: bytes) -> None:
        self.process_id = process_id
        self.secret_key = secret_key

    @staticmethod
    def decode(body: bytes) -> "BackendKeyData":
        """From a body."""
        reader = BodyReader(body)
        process_id = reader.take_int32()
        secret_key = reader.take_rest()
        if len(secret_key) < MIN_SECRET_KEY_BYTES or len(secret_key) > MAX_SECRET_KEY_BYTES:
            raise ProtocolViolation("invalid length of cancel key")
        return BackendKeyData(process_id, secret_key)

    def __repr__(self) -> str:
        return f"BackendKeyData({self.process_id})"


def negotiate_protocol_version(newest_minor: int, unrecognized: list[bytes]) -> bytes:
    """
    NegotiateProtocolVersion: 3.`newest_minor` is spoken, and these options are not known.

    On the wire stands the whole version, as PostgreSQL sends it and libpq demands it.
    """
    pieces: list[bytes] = [
        int32((_PROTOCOL_MAJOR << 16) | newest_minor),
        int32(len(unrecognized)),
    ]
    for name in unrecognized:
        pieces.append(name)
        pieces.append(b"\x00")
    return frame(tags.NEGOTIATE_PROTOCOL_VERSION, b"".join(pieces))


@final
class NegotiateProtocolVersion:
    """
    The server speaks an older protocol than was asked for, or does not know some options.

    newest_minor  the minor version that it will speak
    unrecognized  names of the `_pq_.` options that it does not know
    """

    __slots__ = ("newest_minor", "unrecognized")

    def __init__(self, newest_minor: int, unrecognized: list[bytes]) -> None:
        self.newest_minor = newest_minor
        self.unrecognized = unrecognized

    @staticmethod
    def decode(body: bytes) -> "NegotiateProtocolVersion":
        """From a body; also from servers that send the minor version alone, as was documented."""
        reader = BodyReader(body)
        version = reader.take_uint32()
        if version >> 16 != 0 and version >> 16 != _PROTOCOL_MAJOR:
            raise ProtocolViolation("invalid message format")
        count = reader.take_uint32()
        # Each name has one byte at least: a lying count is found out before any work.
        if count > reader.left_bytes():
            raise ProtocolViolation("insufficient data left in message")
        unrecognized = [reader.take_cstring() for _ in range(count)]
        reader.finish()
        return NegotiateProtocolVersion(version & 0xFFFF, unrecognized)


def parameter_status(name: bytes, value: bytes) -> bytes:
    """ParameterStatus."""
    return frame(tags.PARAMETER_STATUS, b"".join((name, b"\x00", value, b"\x00")))


def parameter_of(body: bytes) -> tuple[bytes, bytes]:
    """Name and value of a ParameterStatus."""
    reader = BodyReader(body)
    name = reader.take_cstring()
    value = reader.take_cstring()
    reader.finish()
    return name, value


def ready_for_query(status: int) -> bytes:
    """ReadyForQuery; `status` is one of tags.STATUS_*."""
    if status == tags.STATUS_IDLE:
        return _READY_IDLE
    if status == tags.STATUS_IN_TRANSACTION:
        return _READY_IN_TRANSACTION
    if status == tags.STATUS_FAILED:
        return _READY_FAILED
    raise ProtocolViolation(f"invalid transaction status {status}")


def status_of(body: bytes) -> int:
    """The transaction status of a ReadyForQuery: one of tags.STATUS_*."""
    if len(body) == 1:
        status = body[0]
        if (
            status == tags.STATUS_IDLE
            or status == tags.STATUS_IN_TRANSACTION
            or status == tags.STATUS_FAILED
        ):
            return status
    raise ProtocolViolation("invalid message format")


# -- results


@final
class Column:
    """One column of a RowDescription; `format` 0 is text, 1 binary."""

    __slots__ = (
        "attribute_number",
        "format",
        "name",
        "table_oid",
        "type_modifier",
        "type_oid",
        "type_size",
    )

    def __init__(
        self,
        name: bytes,
        type_oid: int,
        type_size: int = -1,
        format: int = 0,
        table_oid: int = 0,
        attribute_number: int = 0,
        type_modifier: int = -1,
    ) -> None:
        self.name = name
        self.type_oid = type_oid
        self.type_size = type_size
        self.format = format
        self.table_oid = table_oid
        self.attribute_number = attribute_number
        self.type_modifier = type_modifier


def row_description(columns: list[tuple[bytes, int, int, int]]) -> bytes:
    """RowDescription of columns that are no table's: (name, type OID, type size, format)."""
    pieces: list[bytes] = [int16(len(columns))]
    for name, type_oid, type_size, format_code in columns:
        pieces.append(_column(name, 0, 0, type_oid, type_size, -1, format_code))
    return frame(tags.ROW_DESCRIPTION, b"".join(pieces))


def encode_columns(columns: list[Column]) -> bytes:
    """RowDescription, with all there is to say of each column."""
    pieces = [
        _column(
            column.name,
            column.table_oid,
            column.attribute_number,
            column.type_oid,
            column.type_size,
            column.type_modifier,
            column.format,
        )
        for column in columns
    ]
    return frame(tags.ROW_DESCRIPTION, int16(len(columns)) + b"".join(pieces))


def _column(
    name: bytes,
    table_oid: int,
    attribute_number: int,
    type_oid: int,
    type_size: int,
    type_modifier: int,
    format_code: int,
) -> bytes:
    return b"".join(
        (
            # A name may be a plugin's: see _field_text.
            name.replace(b"\x00", b"?"),
            b"\x00",
            int32(table_oid),
            int16(attribute_number),
            int32(type_oid),
            int16(type_size),
            int32(type_modifier),
            int16(format_code),
        )
    )


def columns_of(body: bytes) -> list[Column]:
    """The columns of a RowDescription."""
    reader = BodyReader(body)
    count = reader.take_uint16()
    columns: list[Column] = []
    for _ in range(count):
        name = reader.take_cstring()
        table_oid = reader.take_uint32()
        attribute_number = reader.take_int16()
        type_oid = reader.take_uint32()
        type_size = reader.take_int16()
        type_modifier = reader.take_int32()
        format_code = reader.take_int16()
        columns.append(
            Column(
                name, type_oid, type_size, format_code, table_oid, attribute_number, type_modifier
            )
        )
    reader.finish()
    return columns


def parameter_description(oids: list[int]) -> bytes:
    """ParameterDescription."""
    return frame(tags.PARAMETER_DESCRIPTION, oid_list(oids))


def parameter_oids_of(body: bytes) -> list[int]:
    """The OIDs of a ParameterDescription."""
    reader = BodyReader(body)
    oids = reader.take_oid_list()
    reader.finish()
    return oids


def data_row(values: list[bytes | None]) -> bytes:
    """DataRow; None is NULL."""
    return frame(tags.DATA_ROW, counted_values(values))


def data_row_values(body: bytes) -> list[bytes | None]:
    """The values of a DataRow; None is NULL."""
    reader = BodyReader(body)
    values = reader.take_values(reader.take_uint16())
    reader.finish()
    return values


def command_complete(tag: bytes) -> bytes:
    """CommandComplete."""
    return frame(tags.COMMAND_COMPLETE, tag + b"\x00")


def command_tag_of(body: bytes) -> bytes:
    """The tag of a CommandComplete, without its NUL; also when the NUL is missing."""
    end = body.find(b"\x00")
    return body if end < 0 else body[:end]


def rows_of_tag(tag: bytes) -> int:
    """How many rows a command tag counts (`SELECT 5`, `INSERT 0 5`); 0 when it counts none."""
    pos = len(tag) - 1
    factor = 1
    rows = 0
    digits = 0
    while pos >= 0 and _DIGIT_0 <= tag[pos] <= _DIGIT_9:
        digits += 1
        if digits > _MAX_COUNT_DIGITS:
            return 0
        rows += factor * (tag[pos] - _DIGIT_0)
        factor *= 10
        pos -= 1
    if pos < 0 or tag[pos] != _SPACE:
        return 0
    return rows


# -- COPY


def copy_in_response(format_code: int, column_formats: list[int]) -> bytes:
    """CopyInResponse."""
    return frame(tags.COPY_IN_RESPONSE, bytes((format_code,)) + uint16_list(column_formats))


def copy_out_response(format_code: int, column_formats: list[int]) -> bytes:
    """CopyOutResponse."""
    return frame(tags.COPY_OUT_RESPONSE, bytes((format_code,)) + uint16_list(column_formats))


def copy_both_response(format_code: int, column_formats: list[int]) -> bytes:
    """CopyBothResponse (streaming replication only)."""
    return frame(tags.COPY_BOTH_RESPONSE, bytes((format_code,)) + uint16_list(column_formats))


@final
class CopyResponse:
    """A CopyInResponse, CopyOutResponse or CopyBothResponse: they differ in their tag only."""

    __slots__ = ("column_formats", "format")

    def __init__(self, format: int, column_formats: list[int]) -> None:
        self.format = format
        self.column_formats = column_formats

    @staticmethod
    def decode(body: bytes) -> "CopyResponse":
        """From a body."""
        reader = BodyReader(body)
        format_code = reader.take_byte()
        column_formats = reader.take_uint16_list()
        reader.finish()
        return CopyResponse(format_code, column_formats)


# -- at any time


@final
class NotificationResponse:
    """A NOTIFY that reached a LISTEN."""

    __slots__ = ("channel", "payload", "process_id")

    def __init__(self, process_id: int, channel: bytes, payload: bytes) -> None:
        self.process_id = process_id
        self.channel = channel
        self.payload = payload

    @staticmethod
    def decode(body: bytes) -> "NotificationResponse":
        """From a body."""
        reader = BodyReader(body)
        process_id = reader.take_int32()
        channel = reader.take_cstring()
        payload = reader.take_cstring()
        reader.finish()
        return NotificationResponse(process_id, channel, payload)

    def encode(self) -> bytes:
        """The whole frame."""
        return frame(
            tags.NOTIFICATION_RESPONSE,
            b"".join((int32(self.process_id), self.channel, b"\x00", self.payload, b"\x00")),
        )


def function_call_response(value: bytes | None) -> bytes:
    """FunctionCallResponse; None is NULL."""
    return frame(tags.FUNCTION_CALL_RESPONSE, counted_value(value))


def function_result_of(body: bytes) -> bytes | None:
    """The value of a FunctionCallResponse; None is NULL."""
    reader = BodyReader(body)
    value = reader.take_value()
    reader.finish()
    return value
