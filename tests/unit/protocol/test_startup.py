import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.protocol import startup, tags
from proxy.protocol.startup import (
    MAX_CANCEL_KEY_BYTES,
    MIN_CANCEL_KEY_BYTES,
    CancelRequest,
    GSSENCRequest,
    SSLRequest,
    StartupMessage,
    decode_first,
    first_length,
    parse_options,
    split_options,
)
from tests.support import strategies


def packet(body: bytes) -> bytes:
    """A first packet with a length that fits."""
    return (len(body) + 4).to_bytes(4, "big") + body


VERSION_3_0 = tags.PROTOCOL_3_0.to_bytes(4, "big")


@given(strategies.startup_messages())
def test_startup_message_comes_back(message: StartupMessage) -> None:
    back = decode_first(message.encode())
    assert isinstance(back, StartupMessage)
    assert back.protocol == message.protocol
    assert back.raw_parameters == message.raw_parameters


@given(strategies.cancel_requests)
@example(CancelRequest(7, bytes(MIN_CANCEL_KEY_BYTES)))
@example(CancelRequest(7, bytes(MAX_CANCEL_KEY_BYTES)))
def test_rule_30_cancel_request_comes_back(message: CancelRequest) -> None:
    back = decode_first(message.encode())
    assert isinstance(back, CancelRequest)
    assert (back.process_id, back.secret_key) == (message.process_id, message.secret_key)


def test_requests_for_encryption_come_back() -> None:
    assert isinstance(decode_first(SSLRequest().encode()), SSLRequest)
    assert isinstance(decode_first(GSSENCRequest().encode()), GSSENCRequest)
    assert SSLRequest().encode() == b"\0\0\0\x08\x04\xd2\x16\x2f"


@given(strategies.garbage)
def test_garbage_raises_only_protocol_violation(data: bytes) -> None:
    for whole in (data, packet(data), packet(VERSION_3_0 + data)):
        try:
            message = decode_first(whole)
        except ProtocolViolation:
            continue
        if isinstance(message, StartupMessage):
            assert message.parameters["user"] != ""


def test_parameters_as_text_without_protocol_options() -> None:
    message = decode_first(
        packet(VERSION_3_0 + b"user\0m\xff\0_pq_.new\0on\0database\0caf\xc3\xa9\0_pq_.\xff\0\0\0")
    )
    assert isinstance(message, StartupMessage)
    assert message.parameters == {"user": "m\udcff", "database": "café"}
    assert message.unknown_options == ["_pq_.new", "_pq_.\ufffd"]
    assert message.raw_parameters[b"_pq_.new"] == b"on"


def test_a_repeated_parameter_counts_the_last_time() -> None:
    message = decode_first(packet(VERSION_3_0 + b"user\0alice\0user\0bob\0\0"))
    assert isinstance(message, StartupMessage)
    assert message.parameters == {"user": "bob"}


def test_build_from_text() -> None:
    message = StartupMessage.build(tags.PROTOCOL_3_2, {"user": "m\udcff", "options": ""})
    assert message.encode() == packet(b"\0\3\0\2user\0m\xff\0options\0\0\0")
    assert message.parameters == {"user": "m\udcff", "options": ""}


@pytest.mark.parametrize("parameters", [{"": "x"}, {"a\0b": "x"}, {"a": "x\0user\0root"}])
def test_what_would_end_a_parameter_early_cannot_be_sent(parameters: dict[str, str]) -> None:
    with pytest.raises(ProtocolViolation, match="cannot be sent"):
        StartupMessage.build(tags.PROTOCOL_3_0, parameters)


@pytest.mark.parametrize(
    ("whole", "sqlstate", "message"),
    [
        (b"", "08P01", "invalid length of startup packet"),
        (packet(VERSION_3_0) + b"x", "08P01", "invalid length of startup packet"),
        (packet(b"\0\3"), "08P01", "invalid length of startup packet"),
        (packet(VERSION_3_0), "08P01", "expected terminator as last byte"),
        (packet(VERSION_3_0 + b"user\0alice\0"), "08P01", "expected terminator as last byte"),
        (packet(VERSION_3_0 + b"user\0alice"), "08P01", "expected terminator as last byte"),
        (packet(VERSION_3_0 + b"user"), "08P01", "expected terminator as last byte"),
        (packet(VERSION_3_0 + b"user\0a\0\0x"), "08P01", "expected terminator as last byte"),
        (packet(VERSION_3_0 + b"user\0a\0odd\0\0\0x"), "08P01", "expected terminator"),
        (packet(VERSION_3_0 + b"\0"), "28000", "no PostgreSQL user name specified"),
        (packet(VERSION_3_0 + b"user\0\0\0"), "28000", "no PostgreSQL user name specified"),
        (
            packet(b"\0\2\0\0user\0alice\0\0"),
            "0A000",
            r"unsupported frontend protocol 2\.0: server supports 3\.0 to 3\.2",
        ),
        (packet(b"\0\4\0\1user\0alice\0\0"), "0A000", r"unsupported frontend protocol 4\.1"),
        (packet(b"\x04\xd2\x16\x2f!"), "08P01", "invalid message format"),
        (packet(b"\x04\xd2\x16\x30!"), "08P01", "invalid message format"),
        (packet(b"\x04\xd2\x16\x2e\0\0"), "08P01", "invalid length of cancel request packet"),
        (packet(b"\x04\xd2\x16\x2e\0\0\0\1abc"), "08P01", "invalid length of cancel key"),
        (
            packet(b"\x04\xd2\x16\x2e\0\0\0\1" + bytes(257)),
            "08P01",
            "invalid length of cancel key",
        ),
    ],
)
def test_malformed_packets(whole: bytes, sqlstate: str, message: str) -> None:
    with pytest.raises(ProtocolViolation, match=message) as caught:
        decode_first(whole)
    assert caught.value.sqlstate == sqlstate


def test_first_length_waits_for_four_bytes() -> None:
    assert first_length(b"") == -1
    assert first_length(b"\0\0\0") == -1
    assert first_length(b"\0\0\0\x08") == 8
    assert first_length(b"\0\0\x27\x10rest") == 10_000


@pytest.mark.parametrize("length", [0, 7, 10_001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_first_length_refuses_what_nobody_would_take(length: int) -> None:
    with pytest.raises(ProtocolViolation, match="invalid length of startup packet"):
        first_length(length.to_bytes(4, "big"))


def test_the_secret_key_is_not_shown() -> None:
    assert repr(CancelRequest(7, b"\xaa\xbb\xcc\xdd")) == "CancelRequest(7)"


# -- options


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("", []),
        ("  \t\n\v\f\r ", []),
        ("-c a=b", [("a", "b")]),
        ("-ca=b", [("a", "b")]),
        ("--a=b", [("a", "b")]),
        ("-c a-b=c-d --e-f=g=h", [("a_b", "c-d"), ("e_f", "g=h")]),
        ("-c a=", [("a", "")]),
        (r"-c search_path=a\ b\\c", [("search_path", r"a b\c")]),
        ("-c x.y=1 -c X.Y=2", [("x.y", "1"), ("X.Y", "2")]),
        ("-ec a=b", [("datestyle", "euro"), ("a", "b")]),
        ("-S 64MB -W5", [("work_mem", "64MB"), ("post_auth_delay", "5")]),
        ("-fs -fh", [("enable_seqscan", "false"), ("enable_hashjoin", "false")]),
        ("-d3 -d 0", [("log_min_messages", "debug3"), ("log_min_messages", "notice")]),
        (
            "-tpa -tpl -t executor",
            [
                ("log_parser_stats", "true"),
                ("log_planner_stats", "true"),
                ("log_executor_stats", "true"),
            ],
        ),
        (
            "-OPs",
            [
                ("allow_system_table_mods", "true"),
                ("ignore_system_indexes", "true"),
                ("log_statement_stats", "true"),
            ],
        ),
        ("-n -T -j -D ignored -v 3", []),
        ("-c a=b --", [("a", "b")]),
        ("-c a=b\\", [("a", "b")]),
    ],
)
def test_options(text: str, settings: list[tuple[str, str]]) -> None:
    assert parse_options(text) == settings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "invalid command-line argument for server process: nonsense"),
        ("-", "invalid command-line argument for server process: -"),
        ("\\", "invalid command-line argument for server process: "),
        ("-c", "invalid command-line argument for server process: -c"),
        ("-c a", "-c a requires a value"),
        ("--a", "--a requires a value"),
        ("-q", "invalid command-line argument for server process: -q"),
        ("-q x", "invalid command-line argument for server process: -q"),
        ("-fx", "invalid command-line argument for server process: -fx"),
        ("-tx", "invalid command-line argument for server process: -tx"),
        ("-- x", "invalid command-line argument for server process: x"),
        ("-c a=b c", "invalid command-line argument for server process: c"),
    ],
)
def test_options_that_a_server_refuses(text: str, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        parse_options(text)
    assert caught.value.message == message
    assert caught.value.sqlstate == "42601"


@given(strategies.option_words | st.text(max_size=30))
def test_any_options_give_settings_or_a_syntax_error(text: str) -> None:
    sqlstate = "42601"
    try:
        parse_options(text)
    except ProtocolViolation as violation:
        sqlstate = violation.sqlstate
    assert sqlstate == "42601"


@given(st.lists(st.text(min_size=1, max_size=8), max_size=5))
def test_words_that_are_escaped_come_back(words: list[str]) -> None:
    escaped = [
        "".join("\\" + letter if letter in " \t\n\v\f\r\\" else letter for letter in word)
        for word in words
    ]
    assert split_options(" ".join(escaped)) == words


def test_limits_are_postgresqls() -> None:
    assert (startup.MIN_CANCEL_KEY_BYTES, startup.MAX_CANCEL_KEY_BYTES) == (4, 256)
