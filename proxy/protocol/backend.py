"""
Messages that a backend sends, as PostgreSQL's documentation names them (Message Formats, (B)).

Encoders give whole frames. Decoders take the body behind the length; they are lenient where a
server may say more than is known here, and raise only ProtocolViolation where it makes no sense.
"""

from typing import Final, final

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import tags
from proxy.protocol.fields import FieldReader, encode_value, frame, int16, int32

PARSE_COMPLETE: Final = b"1\x00\x00\x00\x04"
BIND_COMPLETE: Final = b"2\x00\x00\x00\x04"
CLOSE_COMPLETE: Final = b"3\x00\x00\x00\x04"
NO_DATA: Final = b"n\x00\x00\x00\x04"
EMPTY_QUERY_RESPONSE: Final = b"I\x00\x00\x00\x04"
PORTAL_SUSPENDED: Final = b"s\x00\x00\x00\x04"
AUTHENTICATION_OK: Final = b"R\x00\x00\x00\x08\x00\x00\x00\x00"

_READY_IDLE: Final = b"Z\x00\x00\x00\x05I"
_READY_IN_TRANSACTION: Final = b"Z\x00\x00\x00\x05T"
_READY_FAILED: Final = b"Z\x00\x00\x00\x05E"

# Codes of Authentication messages.
AUTH_OK: Final = 0
AUTH_CLEARTEXT: Final = 3
AUTH_MD5: Final = 5
AUTH_SASL: Final = 10
AUTH_SASL_CONTINUE: Final = 11
AUTH_SASL_FINAL: Final = 12


def ready_for_query(status: int) -> bytes:
    """ReadyForQuery (B) with a transaction status byte."""
    if status == tags.STATUS_IDLE:
        return _READY_IDLE
    if status == tags.STATUS_IN_TRANSACTION:
        return _READY_IN_TRANSACTION
    return _READY_FAILED


def error_response(refusal: Refusal) -> bytes:
    """ErrorResponse (B)."""
    return frame(tags.ERROR_RESPONSE, _report(refusal))


def notice_response(refusal: Refusal) -> bytes:
    """NoticeResponse (B); severity is WARNING, NOTICE, DEBUG, INFO or LOG."""
    return frame(tags.NOTICE_RESPONSE, _report(refusal))


def _report(refusal: Refusal) -> bytes:
    severity = refusal.severity.encode()
    pieces = [b"S", severity, b"\x00V", severity, b"\x00C", refusal.sqlstate.encode(), b"\x00M"]
    pieces.append(_text(refusal.message))
    pieces.append(b"\x00")
    if refusal.detail:
        pieces.extend((b"D", _text(refusal.detail), b"\x00"))
    if refusal.hint:
        pieces.extend((b"H", _text(refusal.hint), b"\x00"))
    pieces.append(b"\x00")
    return b"".join(pieces)


def _text(text: str) -> bytes:
    # A NUL would end the field and begin another one.
    return text.replace("\x00", "?").encode("utf-8", "replace")


def parameter_status(name: bytes, value: bytes) -> bytes:
    """ParameterStatus (B)."""
    return frame(tags.PARAMETER_STATUS, name + b"\x00" + value + b"\x00")


def backend_key_data(process_id: int, secret_key: bytes) -> bytes:
    """BackendKeyData (B); the key has 4 bytes in protocol 3.0, 4 to 256 since 3.2."""
    return frame(tags.BACKEND_KEY_DATA, int32(process_id) + secret_key)


def negotiate_protocol_version(newest_minor: int, unrecognized: list[bytes]) -> bytes:
    """NegotiateProtocolVersion (B): the newest version in full, and the options not known."""
    pieces = [int32(tags.PROTOCOL_3_0 | newest_minor), int32(len(unrecognized))]
    for name in unrecognized:
        pieces.append(name)
        pieces.append(b"\x00")
    return frame(tags.NEGOTIATE_PROTOCOL_VERSION, b"".join(pieces))


def authentication_ok() -> bytes:
    """AuthenticationOk (B)."""
    return AUTHENTICATION_OK


def authentication_cleartext_password() -> bytes:
    """AuthenticationCleartextPassword (B)."""
    return frame(tags.AUTHENTICATION, int32(AUTH_CLEARTEXT))


def authentication_md5_password(salt: bytes) -> bytes:
    """AuthenticationMD5Password (B) with four bytes of salt."""
    return frame(tags.AUTHENTICATION, int32(AUTH_MD5) + salt)


def authentication_sasl(mechanisms: list[bytes]) -> bytes:
    """AuthenticationSASL (B): the mechanisms, best first."""
    names = b"".join([name + b"\x00" for name in mechanisms])
    return frame(tags.AUTHENTICATION, int32(AUTH_SASL) + names + b"\x00")


def authentication_sasl_continue(data: bytes) -> bytes:
    """AuthenticationSASLContinue (B)."""
    return frame(tags.AUTHENTICATION, int32(AUTH_SASL_CONTINUE) + data)


def authentication_sasl_final(data: bytes) -> bytes:
    """AuthenticationSASLFinal (B)."""
    return frame(tags.AUTHENTICATION, int32(AUTH_SASL_FINAL) + data)


def row_description(columns: list[tuple[bytes, int, int, int]]) -> bytes:
    """RowDescription (B); a column is name, type OID, type size, format code."""
    pieces = [int16(len(columns))]
    for name, type_oid, type_size, format_code in columns:
        pieces.append(name.replace(b"\x00", b"?"))
        pieces.append(b"\x00\x00\x00\x00\x00\x00\x00")  # no table, no column of one
        pieces.append(int32(type_oid))
        pieces.append(int16(type_size))
        pieces.append(b"\xff\xff\xff\xff")  # no type modifier
        pieces.append(int16(format_code))
    return frame(tags.ROW_DESCRIPTION, b"".join(pieces))


def data_row(values: list[bytes | None]) -> bytes:
    """DataRow (B); None is NULL."""
    body = b"".join([encode_value(value) for value in values])
    return frame(tags.DATA_ROW, int16(len(values)) + body)


def command_complete(tag: bytes) -> bytes:
    """CommandComplete (B)."""
    return frame(tags.COMMAND_COMPLETE, tag + b"\x00")


def parameter_description(oids: list[int]) -> bytes:
    """ParameterDescription (B)."""
    body = b"".join([int32(oid) for oid in oids])
    return frame(tags.PARAMETER_DESCRIPTION, int16(len(oids)) + body)


def notification_response(process_id: int, channel: bytes, payload: bytes) -> bytes:
    """NotificationResponse (B)."""
    body = int32(process_id) + channel + b"\x00" + payload + b"\x00"
    return frame(tags.NOTIFICATION_RESPONSE, body)


def error_fields(body: bytes) -> dict[str, str]:
    """The fields of an ErrorResponse or NoticeResponse by their letters; never raises."""
    fields: dict[str, str] = {}
    pos = 0
    size = len(body)
    while pos < size and body[pos] != 0:
        end = body.find(0, pos + 1)
        if end < 0:
            break
        fields[chr(body[pos])] = body[pos + 1 : end].decode("utf-8", "replace")
        pos = end + 1
    return fields


def sqlstate_of(fields: dict[str, str]) -> str:
    """The SQLSTATE, XX000 where a server gave none or rubbish (rule 27)."""
    sqlstate = fields.get("C", "")
    if len(sqlstate) != 5 or not sqlstate.isascii() or not sqlstate.isalnum():
        return "XX000"
    return sqlstate


def message_of(fields: dict[str, str]) -> str:
    """The primary message."""
    return fields.get("M", "the server reported an error without a message")


def severity_of(fields: dict[str, str]) -> str:
    """The severity, unlocalised where the server says it."""
    return fields.get("V", fields.get("S", "ERROR"))


def parameter_of(body: bytes) -> tuple[bytes, bytes]:
    """Name and value of a ParameterStatus; what is missing is empty; never raises."""
    end = body.find(0)
    if end < 0:
        return body, b""
    value_end = body.find(0, end + 1)
    if value_end < 0:
        value_end = len(body)
    return body[:end], body[end + 1 : value_end]


@final
class BackendKeyData:
    """BackendKeyData (B)."""

    __slots__ = ("process_id", "secret_key")

    def __init__(self, process_id: int, secret_key: bytes) -> None:
        self.process_id = process_id
        self.secret_key = secret_key

    @staticmethod
    def decode(body: bytes) -> "BackendKeyData":
        """From the body; the key has 4 to 256 bytes."""
        fields = FieldReader(body)
        process_id = fields.uint32()
        key = fields.rest()
        if len(key) < 4 or len(key) > 256:
            raise ProtocolViolation("invalid cancel key length")
        return BackendKeyData(process_id, key)


@final
class Authentication:
    """Any Authentication message (B): its code and what stands behind it."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data

    @staticmethod
    def decode(body: bytes) -> "Authentication":
        """From the body."""
        fields = FieldReader(body)
        code = fields.int32()
        return Authentication(code, fields.rest())

    def mechanisms(self) -> list[bytes]:
        """The names in an AuthenticationSASL."""
        return [name for name in self.data.split(b"\x00") if name]


@final
class NegotiateProtocolVersion:
    """NegotiateProtocolVersion (B)."""

    __slots__ = ("newest_minor", "unrecognized")

    def __init__(self, newest_minor: int, unrecognized: list[bytes]) -> None:
        self.newest_minor = newest_minor
        self.unrecognized = unrecognized

    @staticmethod
    def decode(body: bytes) -> "NegotiateProtocolVersion":
        """From the body."""
        fields = FieldReader(body)
        version = fields.uint32()
        count = fields.int32()
        if count < 0 or count > fields.left():
            raise ProtocolViolation("invalid NegotiateProtocolVersion message")
        names = [fields.string() for _ in range(count)]
        fields.finish()
        return NegotiateProtocolVersion(version & 0xFFFF, names)


def ready_status(body: bytes) -> int:
    """The status byte of a ReadyForQuery."""
    if len(body) != 1:
        raise ProtocolViolation("invalid ReadyForQuery message")
    return body[0]


def rows_of_tag(tag: bytes) -> int:
    """The number of rows in a command tag (`SELECT 5`, `INSERT 0 3`), 0 where it has none."""
    space = tag.rfind(b" ")
    if space < 0:
        return 0
    number = tag[space + 1 :]
    if not number.isdigit() or len(number) > 19:
        return 0
    return int(number)


def row_description_columns(body: bytes) -> list[tuple[bytes, int, int, int]]:
    """A RowDescription's columns: name, type OID, type size, format code."""
    fields = FieldReader(body)
    columns: list[tuple[bytes, int, int, int]] = []
    for _ in range(fields.int16()):
        name = fields.string()
        fields.counted(6)
        type_oid = fields.uint32()
        type_size = fields.int16()
        fields.counted(4)
        columns.append(
            (
                name,
                type_oid,
                type_size - 0x10000 if type_size >= 0x8000 else type_size,
                fields.int16(),
            )
        )
    fields.finish()
    return columns


def data_row_values(body: bytes) -> list[bytes | None]:
    """A DataRow's values."""
    fields = FieldReader(body)
    values: list[bytes | None] = [fields.value() for _ in range(fields.int16())]
    fields.finish()
    return values
