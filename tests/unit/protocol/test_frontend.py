from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.protocol import frontend, tags
from proxy.protocol.body import frame
from tests.support import strategies

DECODERS: list[Callable[[bytes], object]] = [
    frontend.Query.decode,
    frontend.Parse.decode,
    frontend.Bind.decode,
    frontend.Describe.decode,
    frontend.Execute.decode,
    frontend.Close.decode,
    frontend.FunctionCall.decode,
    frontend.Sync.decode,
    frontend.Flush.decode,
    frontend.Terminate.decode,
    frontend.CopyData.decode,
    frontend.CopyDone.decode,
    frontend.CopyFail.decode,
    frontend.PasswordMessage.decode,
    frontend.SASLInitialResponse.decode,
    frontend.SASLResponse.decode,
]


def body_of(whole: bytes, tag: int) -> bytes:
    """A frame's body, after a look at its header."""
    assert whole[0] == tag
    assert int.from_bytes(whole[1:5], "big") == len(whole) - 1
    return whole[5:]


@given(strategies.queries)
def test_query_comes_back(message: frontend.Query) -> None:
    back = frontend.Query.decode(body_of(message.encode(), tags.QUERY))
    assert back.sql == message.sql


@given(strategies.parses)
def test_parse_comes_back(message: frontend.Parse) -> None:
    back = frontend.Parse.decode(body_of(message.encode(), tags.PARSE))
    assert back.statement == message.statement
    assert back.sql == message.sql
    assert back.parameter_oids == message.parameter_oids


@given(strategies.binds())
def test_bind_comes_back(message: frontend.Bind) -> None:
    back = frontend.Bind.decode(body_of(message.encode(), tags.BIND))
    assert (back.portal, back.statement) == (message.portal, message.statement)
    assert back.parameter_formats == message.parameter_formats
    assert back.parameters == message.parameters
    assert back.result_formats == message.result_formats


@given(strategies.describes, strategies.closes)
def test_describe_and_close_come_back(describe: frontend.Describe, close: frontend.Close) -> None:
    described = frontend.Describe.decode(body_of(describe.encode(), tags.DESCRIBE))
    assert (described.kind, described.name) == (describe.kind, describe.name)
    closed = frontend.Close.decode(body_of(close.encode(), tags.CLOSE))
    assert (closed.kind, closed.name) == (close.kind, close.name)


@given(strategies.executes)
def test_execute_comes_back(message: frontend.Execute) -> None:
    back = frontend.Execute.decode(body_of(message.encode(), tags.EXECUTE))
    assert (back.portal, back.max_rows) == (message.portal, message.max_rows)


@given(strategies.function_calls())
def test_function_call_comes_back(message: frontend.FunctionCall) -> None:
    back = frontend.FunctionCall.decode(body_of(message.encode(), tags.FUNCTION_CALL))
    assert back.function_oid == message.function_oid
    assert back.argument_formats == message.argument_formats
    assert back.arguments == message.arguments
    assert back.result_format == message.result_format


@given(strategies.copy_datas, strategies.copy_fails)
def test_copy_messages_come_back(data: frontend.CopyData, fail: frontend.CopyFail) -> None:
    assert frontend.CopyData.decode(body_of(data.encode(), tags.COPY_DATA)).data == data.data
    back = frontend.CopyFail.decode(body_of(fail.encode(), tags.COPY_FAIL))
    assert back.reason == fail.reason


@given(strategies.password_messages, strategies.sasl_initial_responses, strategies.sasl_responses)
def test_authentication_messages_come_back(
    password: frontend.PasswordMessage,
    initial: frontend.SASLInitialResponse,
    response: frontend.SASLResponse,
) -> None:
    decoded = frontend.PasswordMessage.decode(body_of(password.encode(), tags.PASSWORD))
    assert decoded.password == password.password
    first = frontend.SASLInitialResponse.decode(body_of(initial.encode(), tags.PASSWORD))
    assert (first.mechanism, first.response) == (initial.mechanism, initial.response)
    then = frontend.SASLResponse.decode(body_of(response.encode(), tags.PASSWORD))
    assert then.data == response.data


def test_messages_without_a_body() -> None:
    assert frontend.Sync.decode(b"").encode() == frontend.SYNC == b"S\0\0\0\4"
    assert frontend.Flush.decode(b"").encode() == frontend.FLUSH == b"H\0\0\0\4"
    assert frontend.Terminate.decode(b"").encode() == frontend.TERMINATE == b"X\0\0\0\4"
    assert frontend.CopyDone.decode(b"").encode() == frontend.COPY_DONE == b"c\0\0\0\4"


@given(strategies.garbage)
def test_garbage_raises_only_protocol_violation(data: bytes) -> None:
    for decode in DECODERS:
        sqlstate = "08P01"
        try:
            decode(data)
        except ProtocolViolation as violation:
            sqlstate = violation.sqlstate
        assert sqlstate == "08P01"


@given(st.sampled_from(["parse", "bind", "call"]), st.data())
def test_a_message_cut_or_prolonged_anywhere_is_refused(kind: str, data: st.DataObject) -> None:
    decode: Callable[[bytes], object]
    if kind == "parse":
        whole = data.draw(strategies.parses).encode()
        decode = frontend.Parse.decode
    elif kind == "bind":
        whole = data.draw(strategies.binds()).encode()
        decode = frontend.Bind.decode
    else:
        whole = data.draw(strategies.function_calls()).encode()
        decode = frontend.FunctionCall.decode
    body = whole[5:]
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(ProtocolViolation):
        decode(body[:cut])
    with pytest.raises(ProtocolViolation, match="invalid message format"):
        decode(body + b"\0")


@pytest.mark.parametrize(
    ("decode", "body", "message"),
    [
        (frontend.Query.decode, b"SELECT 1", "invalid string in message"),
        (frontend.Query.decode, b"SELECT 1\0; DROP TABLE t\0", "invalid message format"),
        (frontend.Sync.decode, b"x", "invalid message format"),
        (frontend.Describe.decode, b"Xname\0", "invalid DESCRIBE message subtype 88"),
        (frontend.Describe.decode, b"", "no data left in message"),
        (frontend.Close.decode, b"Xname\0", "invalid CLOSE message subtype 88"),
        (frontend.Execute.decode, b"p\0\0\0", "insufficient data left in message"),
        (
            frontend.Bind.decode,
            b"\0\0\0\2\0\0\0\0\0\1\0\0\0\1x\0\0",
            "bind message has 2 parameter formats but 1 parameters",
        ),
        (frontend.Bind.decode, b"\0\0\0\0\0\1\xff\xff\xff\xfe\0\0", "insufficient data"),
        (frontend.Bind.decode, b"\0\0\0\0\0\1\x7f\xff\xff\xffab\0\0", "insufficient data"),
        (frontend.Bind.decode, b"\0\0\xff\xff\0\0", "insufficient data"),
        (
            frontend.FunctionCall.decode,
            b"\0\0\0\1\0\3\0\0\0\0\0\0\0\0\0\0",
            "function call message contains 3 argument formats but 0 arguments",
        ),
        (frontend.PasswordMessage.decode, b"secret", "invalid password packet size"),
        (frontend.PasswordMessage.decode, b"sec\0ret\0", "invalid password packet size"),
        (frontend.SASLInitialResponse.decode, b"SCRAM\0\0\0\0\5abc", "insufficient data"),
    ],
)
def test_malformed_messages(decode: Callable[[bytes], object], body: bytes, message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message):
        decode(body)


def test_an_empty_password_is_a_message() -> None:
    assert frontend.PasswordMessage.decode(b"\0").password == b""


def test_cstring_end_looks_no_further_than_it_may() -> None:
    assert frontend.cstring_end(b"ab\0cd\0", 0, 6) == 2
    assert frontend.cstring_end(b"ab\0cd\0", 3, 6) == 5
    assert frontend.cstring_end(b"ab\0cd\0", 3, 5) == -1


@given(strategies.parses, strategies.names)
def test_parse_with_a_raw_tail_is_the_same_parse(message: frontend.Parse, name: bytes) -> None:
    body = message.encode()[5:]
    tail = body[len(message.statement) + len(message.sql) + 2 :]
    whole = frontend.encode_parse(name, message.sql, tail)
    assert whole == frontend.Parse(name, message.sql, message.parameter_oids).encode()


@given(strategies.binds(), strategies.names)
def test_a_bind_renamed_differs_in_its_statement_only(message: frontend.Bind, name: bytes) -> None:
    renamed = frontend.rename_bind(message.encode(), name)
    message.statement = name
    assert renamed == message.encode()


@given(strategies.describes, strategies.closes, strategies.names)
def test_describe_and_close_renamed(
    describe: frontend.Describe, close: frontend.Close, name: bytes
) -> None:
    expected = frontend.Describe(describe.kind, name).encode()
    assert frontend.rename_described(describe.encode(), name) == expected
    expected = frontend.Close(close.kind, name).encode()
    assert frontend.rename_described(close.encode(), name) == expected


@given(strategies.garbage, strategies.names)
def test_renaming_garbage_raises_only_protocol_violation(data: bytes, name: bytes) -> None:
    for whole in (frame(tags.BIND, data), frame(tags.DESCRIBE, data)):
        for rename in (frontend.rename_bind, frontend.rename_described):
            try:
                renamed = rename(whole, name)
            except ProtocolViolation:
                continue
            assert int.from_bytes(renamed[1:5], "big") == len(renamed) - 1


@given(strategies.binds(), strategies.names, strategies.garbage)
def test_what_stands_behind_a_renamed_bind_stays(
    message: frontend.Bind, name: bytes, behind: bytes
) -> None:
    renamed = frontend.rename_bind(message.encode(), name)
    assert frontend.rename_bind(message.encode() + behind, name) == renamed + behind


@pytest.mark.parametrize("body", [b"", b"portal", b"portal\0statement"])
def test_a_bind_without_its_names_cannot_be_renamed(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid string in message"):
        frontend.rename_bind(frame(tags.BIND, body), b"x")


@pytest.mark.parametrize("body", [b"", b"S", b"Sname", b"Sna\0me\0"])
def test_a_describe_that_is_none_cannot_be_renamed(body: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="invalid string in message"):
        frontend.rename_described(frame(tags.DESCRIBE, body), b"x")


@given(st.binary(max_size=200), st.integers(0, 200), st.integers(0, 200))
def test_cstring_end_finds_the_first_nul(buffer: bytes, start: int, end: int) -> None:
    end = min(end, len(buffer))
    assert frontend.cstring_end(buffer, start, end) == buffer.find(b"\0", start, end)
    padded = b"n" * 100 + buffer
    assert frontend.cstring_end(padded, 0, len(padded)) == padded.find(b"\0")
