from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import backend, tags
from proxy.protocol.backend import (
    AuthenticationRequest,
    BackendKeyData,
    Column,
    CopyResponse,
    NegotiateProtocolVersion,
    NotificationResponse,
)
from tests.support import strategies

DECODERS: list[Callable[[bytes], object]] = [
    backend.error_fields,
    backend.sasl_mechanisms,
    AuthenticationRequest.decode,
    BackendKeyData.decode,
    NegotiateProtocolVersion.decode,
    backend.parameter_of,
    backend.status_of,
    backend.columns_of,
    backend.parameter_oids_of,
    backend.data_row_values,
    backend.command_tag_of,
    backend.rows_of_tag,
    CopyResponse.decode,
    NotificationResponse.decode,
    backend.function_result_of,
]


def body_of(whole: bytes, tag: int) -> bytes:
    """A frame's body, after a look at its header."""
    assert whole[0] == tag
    assert int.from_bytes(whole[1:5], "big") == len(whole) - 1
    return whole[5:]


@given(strategies.garbage)
def test_garbage_raises_only_protocol_violation(data: bytes) -> None:
    for decode in DECODERS:
        sqlstate = "08P01"
        try:
            decode(data)
        except ProtocolViolation as violation:
            sqlstate = violation.sqlstate
        assert sqlstate == "08P01"


# -- errors and notices


def test_an_error_as_a_server_writes_it() -> None:
    refusal = Refusal("42000", "blocked by plugin", "a detail", "a hint", "FATAL")
    assert backend.error_response(refusal) == (
        b"E\0\0\0?SFATAL\0VFATAL\0C42000\0Mblocked by plugin\0Da detail\0Ha hint\0\0"
    )
    refusal = Refusal("00000", "mind", severity="NOTICE")
    assert backend.notice_response(refusal) == b"N\0\0\0\x22SNOTICE\0VNOTICE\0C00000\0Mmind\0\0"


@given(strategies.texts, strategies.texts, strategies.texts)
def test_error_texts_come_back_and_never_become_fields(
    message: str, detail: str, hint: str
) -> None:
    refusal = Refusal("42501", message, detail, hint)
    fields = backend.error_fields(body_of(backend.error_response(refusal), tags.ERROR_RESPONSE))
    expected = {"S": "ERROR", "V": "ERROR", "C": "42501", "M": message.replace("\0", "?")}
    if detail:
        expected["D"] = detail.replace("\0", "?")
    if hint:
        expected["H"] = hint.replace("\0", "?")
    assert fields == expected


def test_a_text_that_cannot_be_utf8_is_sent_all_the_same() -> None:
    whole = backend.error_response(Refusal("22021", "byte \udcff"))
    assert backend.error_fields(whole[5:])["M"] == "byte ?"


def test_fields_of_a_strange_error() -> None:
    fields = backend.error_fields(b"SERREUR\0Zunknown\0M\xff\0\xe9x\0\0Cafter the end\0")
    assert fields == {"S": "ERREUR", "Z": "unknown", "M": "\ufffd", "é": "x"}
    assert backend.error_fields(b"Mno end") == {"M": "no end"}
    assert backend.error_fields(b"M") == {"M": ""}
    assert backend.error_fields(b"") == {}


def test_what_an_error_says_where_fields_are_missing() -> None:
    assert backend.sqlstate_of({}) == "XX000"
    assert backend.sqlstate_of({"C": "57P01"}) == "57P01"
    for wrong in ("", "57P0", "57P011", "57P\n1", "57P0é"):
        assert backend.sqlstate_of({"C": wrong}) == "XX000"
    assert backend.message_of({"M": "text"}) == "text"
    assert backend.message_of({}) == "the server gave no message"
    assert backend.severity_of({"S": "FEHLER", "V": "ERROR"}) == "ERROR"
    assert backend.severity_of({"S": "FATAL"}) == "FATAL"
    assert backend.severity_of({}) == "ERROR"


# -- the start of a session


def test_authentication_requests() -> None:
    cases: list[tuple[bytes, int, bytes]] = [
        (backend.authentication_ok(), backend.AUTH_OK, b""),
        (backend.authentication_cleartext_password(), backend.AUTH_CLEARTEXT_PASSWORD, b""),
        (backend.authentication_md5_password(b"salt"), backend.AUTH_MD5_PASSWORD, b"salt"),
        (backend.authentication_sasl([b"A", b"B"]), backend.AUTH_SASL, b"A\0B\0\0"),
        (backend.authentication_sasl_continue(b"r="), backend.AUTH_SASL_CONTINUE, b"r="),
        (backend.authentication_sasl_final(b"v="), backend.AUTH_SASL_FINAL, b"v="),
    ]
    for whole, code, data in cases:
        request = AuthenticationRequest.decode(body_of(whole, tags.AUTHENTICATION))
        assert (request.code, request.data) == (code, data)


def test_an_authentication_method_that_is_not_known_has_its_code() -> None:
    request = AuthenticationRequest.decode(b"\0\0\0\x07token")
    assert (request.code, request.data) == (7, b"token")


@pytest.mark.parametrize(
    "body", [b"\0\0\0", b"\0\0\0\0x", b"\0\0\0\x03x", b"\0\0\0\x05abc", b"\0\0\0\x05abcde"]
)
def test_malformed_authentication_requests(body: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        AuthenticationRequest.decode(body)


def test_sasl_mechanisms() -> None:
    assert backend.sasl_mechanisms(b"A\0B\0\0") == [b"A", b"B"]
    assert backend.sasl_mechanisms(b"\0") == []
    for wrong in (b"", b"A", b"A\0", b"A\0\0x"):
        with pytest.raises(ProtocolViolation):
            backend.sasl_mechanisms(wrong)


@given(strategies.int32s, st.binary(min_size=4, max_size=256))
def test_backend_key_data_comes_back(process_id: int, secret_key: bytes) -> None:
    whole = backend.backend_key_data(process_id, secret_key)
    back = BackendKeyData.decode(body_of(whole, tags.BACKEND_KEY_DATA))
    assert (back.process_id, back.secret_key) == (process_id, secret_key)
    assert repr(back) == f"BackendKeyData({process_id})"


@pytest.mark.parametrize("size", [0, 3, 257])
def test_backend_key_data_of_a_wrong_length(size: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of cancel key"):
        BackendKeyData.decode(bytes(4 + size))


@given(strategies.uint16s, st.lists(strategies.cstrings, max_size=4))
def test_negotiate_protocol_version_comes_back(minor: int, names: list[bytes]) -> None:
    whole = backend.negotiate_protocol_version(minor, names)
    back = NegotiateProtocolVersion.decode(body_of(whole, tags.NEGOTIATE_PROTOCOL_VERSION))
    assert (back.newest_minor, back.unrecognized) == (minor, names)


def test_negotiate_protocol_version_with_and_without_the_major() -> None:
    assert backend.negotiate_protocol_version(2, [])[5:] == b"\0\3\0\2\0\0\0\0"
    assert NegotiateProtocolVersion.decode(b"\0\0\0\1\0\0\0\0").newest_minor == 1
    with pytest.raises(ProtocolViolation):
        NegotiateProtocolVersion.decode(b"\0\2\0\0\0\0\0\0")


def test_a_lying_count_of_options_is_found_before_any_work() -> None:
    with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
        NegotiateProtocolVersion.decode(b"\0\3\0\0\xff\xff\xff\xffa\0")


@given(strategies.cstrings, strategies.cstrings)
def test_parameter_status_comes_back(name: bytes, value: bytes) -> None:
    whole = backend.parameter_status(name, value)
    assert backend.parameter_of(body_of(whole, tags.PARAMETER_STATUS)) == (name, value)


@given(strategies.statuses)
def test_ready_for_query_comes_back(status: int) -> None:
    whole = backend.ready_for_query(status)
    assert backend.status_of(body_of(whole, tags.READY_FOR_QUERY)) == status


@pytest.mark.parametrize("body", [b"", b"X", b"II"])
def test_a_ready_for_query_that_is_none(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid message format"):
        backend.status_of(body)


def test_there_are_three_transaction_statuses() -> None:
    with pytest.raises(ProtocolViolation, match="invalid transaction status 88"):
        backend.ready_for_query(88)


# -- results


@given(st.lists(strategies.columns, max_size=4))
def test_row_description_comes_back(columns: list[Column]) -> None:
    body = body_of(backend.encode_columns(columns), tags.ROW_DESCRIPTION)
    back = backend.columns_of(body)
    assert [
        (
            column.name,
            column.table_oid,
            column.attribute_number,
            column.type_oid,
            column.type_size,
            column.type_modifier,
            column.format,
        )
        for column in back
    ] == [
        (
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


def test_row_description_of_columns_of_no_table() -> None:
    whole = backend.row_description([(b"a", 23, 4, 0), (b"b", 25, -1, 1)])
    assert whole == backend.encode_columns([Column(b"a", 23, 4), Column(b"b", 25, -1, 1)])
    first, second = backend.columns_of(whole[5:])
    assert (first.type_oid, first.type_size, first.format) == (23, 4, 0)
    assert (second.table_oid, second.attribute_number, second.type_modifier) == (0, 0, -1)
    # A NUL in a plugin's column name does not make fields of what follows.
    whole = backend.row_description([(b"a\0b", 25, -1, 0)])
    assert backend.columns_of(whole[5:])[0].name == b"a?b"


@given(strategies.value_lists)
def test_data_row_comes_back(values: list[bytes | None]) -> None:
    whole = backend.data_row(values)
    assert backend.data_row_values(body_of(whole, tags.DATA_ROW)) == values


@given(st.lists(strategies.oids, max_size=6))
def test_parameter_description_comes_back(oids: list[int]) -> None:
    whole = backend.parameter_description(oids)
    assert backend.parameter_oids_of(body_of(whole, tags.PARAMETER_DESCRIPTION)) == oids


@given(strategies.cstrings)
def test_command_complete_comes_back(tag: bytes) -> None:
    whole = backend.command_complete(tag)
    assert backend.command_tag_of(body_of(whole, tags.COMMAND_COMPLETE)) == tag
    assert backend.command_tag_of(tag) == tag


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        (b"SELECT 5", 5),
        (b"INSERT 0 1200", 1200),
        (b"COPY 9223372036854775807", 9223372036854775807),
        (b"BEGIN", 0),
        (b"CREATE TABLE", 0),
        (b"", 0),
        (b"5", 0),
        (b"SELECT ", 0),
        (b"SELECT5", 0),
        (b"SELECT " + b"9" * 20, 0),
        (b"DELETE 0", 0),
    ],
)
def test_rows_of_a_command_tag(tag: bytes, rows: int) -> None:
    assert backend.rows_of_tag(tag) == rows


def test_messages_without_a_body() -> None:
    for whole, tag in (
        (backend.PARSE_COMPLETE, tags.PARSE_COMPLETE),
        (backend.BIND_COMPLETE, tags.BIND_COMPLETE),
        (backend.CLOSE_COMPLETE, tags.CLOSE_COMPLETE),
        (backend.NO_DATA, tags.NO_DATA),
        (backend.EMPTY_QUERY_RESPONSE, tags.EMPTY_QUERY_RESPONSE),
        (backend.PORTAL_SUSPENDED, tags.PORTAL_SUSPENDED),
        (backend.COPY_DONE, tags.COPY_DONE),
    ):
        assert body_of(whole, tag) == b""


@given(st.sampled_from([0, 1]), st.lists(strategies.uint16s, max_size=5))
def test_copy_responses_come_back(format_code: int, formats: list[int]) -> None:
    for encode, tag in (
        (backend.copy_in_response, tags.COPY_IN_RESPONSE),
        (backend.copy_out_response, tags.COPY_OUT_RESPONSE),
        (backend.copy_both_response, tags.COPY_BOTH_RESPONSE),
    ):
        back = CopyResponse.decode(body_of(encode(format_code, formats), tag))
        assert (back.format, back.column_formats) == (format_code, formats)


@given(strategies.int32s, strategies.cstrings, strategies.cstrings)
def test_notification_response_comes_back(process_id: int, channel: bytes, payload: bytes) -> None:
    whole = NotificationResponse(process_id, channel, payload).encode()
    back = NotificationResponse.decode(body_of(whole, tags.NOTIFICATION_RESPONSE))
    assert (back.process_id, back.channel, back.payload) == (process_id, channel, payload)


@given(strategies.values)
def test_function_call_response_comes_back(value: bytes | None) -> None:
    whole = backend.function_call_response(value)
    assert backend.function_result_of(body_of(whole, tags.FUNCTION_CALL_RESPONSE)) == value
