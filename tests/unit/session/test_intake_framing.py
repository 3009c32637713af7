"""Bytes to batches: any chunking gives the same ones, and garbage raises only ProtocolViolation."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation, Refusal
from proxy.protocol import frontend
from proxy.protocol.lengths import SMALL_MESSAGE_BYTES
from proxy.session.exchange import (
    END_CUT,
    END_FLUSH,
    END_FUNCTION_CALL,
    END_QUERY,
    END_SYNC,
    Batch,
)
from proxy.session.framing import CUT_BYTES
from proxy.session.intake import Intake
from proxy.sql.classify import PgClassifier
from tests.support import strategies
from tests.support.playbook import bind, execute, parse, query

CLASSIFIER = PgClassifier()
LIMIT = 1 << 20
COPY = b"d\x00\x00\x00\x06hi" + frontend.COPY_DONE + frontend.encode_copy_fail(b"no")


def make() -> Intake:
    return Intake(CLASSIFIER, LIMIT)


def raw(tag: bytes, body: bytes = b"") -> bytes:
    return tag + (len(body) + 4).to_bytes(4, "big") + body


def refusal(batch: Batch, index: int = 0) -> Refusal:
    found = batch.messages[index].refusal
    assert found is not None
    return found


def one(data: bytes) -> Batch:
    intake = make()
    intake.feed(data)
    batch = intake.next_batch()
    assert batch is not None
    return batch


class Seen:
    """What an intake made of a stream, however it was cut: messages, and where batches end."""

    def __init__(self) -> None:
        self.data = b""
        self.messages: list[tuple[bytes, bytes, str, bytes | None]] = []
        self.ends: list[tuple[int, int]] = []
        self.problem = ""
        self.is_terminated = False

    def take(self, intake: Intake, chunk: bytes) -> None:
        if self.problem or self.is_terminated:
            return
        intake.feed(chunk)
        try:
            while (batch := intake.next_batch()) is not None:
                self.note(batch)
        except ProtocolViolation as violation:
            self.problem = violation.message
        self.is_terminated = intake.is_terminated

    def note(self, batch: Batch) -> None:
        for message in batch.messages:
            self.messages.append(
                (
                    batch.data[message.start : message.end],
                    message.name,
                    message.refusal.sqlstate if message.refusal is not None else "",
                    message.prepared.text if message.prepared is not None else None,
                )
            )
        self.data += batch.data
        if batch.end != END_CUT:
            # How long pipelines are cut may depend on how they come, and changes nothing else.
            self.ends.append((len(self.data), batch.end))


def seen(chunks: list[bytes]) -> tuple[Intake, Seen]:
    intake = make()
    found = Seen()
    for chunk in chunks:
        found.take(intake, chunk)
    return intake, found


def chunks_of(data: bytes, cuts: list[int]) -> list[bytes]:
    bounds = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


messages = st.one_of(
    strategies.queries,
    strategies.parses,
    strategies.binds(),
    strategies.describes,
    strategies.executes,
    strategies.closes,
    strategies.function_calls(),
    strategies.copy_datas,
    strategies.copy_fails,
).map(lambda message: message.encode())
streams = st.lists(
    messages | st.sampled_from([frontend.SYNC, frontend.FLUSH, frontend.COPY_DONE]), max_size=12
).map(b"".join)
cut_lists = st.lists(st.integers(0, 1 << 20), max_size=8)


@given(streams, cut_lists)
@example(parse(b"s", b"SELECT 1") + bind(b"s") + execute() + frontend.SYNC, list(range(100)))
@example(parse(b"", b"SELECT 1" + b" " * CUT_BYTES) + bind(b"") + frontend.SYNC, [1, 6, 70, 70_000])
@example(parse(b"", b"SELECT 1") * 9_000 + query(b"SELECT 2"), [100_000, 100_003, 200_000])
@example(parse(b"a", b"") + parse(b"b", b" " * 99_999) + frontend.SYNC, [20, 50_000])
def test_any_chunking_gives_the_same_batches(stream: bytes, cuts: list[int]) -> None:
    whole_intake, whole = seen([stream])
    intake, cut = seen(chunks_of(stream, cuts))
    assert cut.messages == whole.messages
    assert cut.ends == whole.ends
    assert (cut.problem, cut.data) == ("", whole.data)
    assert intake.statements.keys() == whole_intake.statements.keys()
    assert b"".join(frame for frame, *_ in whole.messages) == whole.data


@given(streams, strategies.garbage, cut_lists)
def test_garbage_raises_only_protocol_violation_wherever_it_is_cut(
    stream: bytes, garbage: bytes, cuts: list[int]
) -> None:
    _, whole = seen([stream + garbage])
    _, cut = seen(chunks_of(stream + garbage, cuts))
    assert cut.problem == whole.problem
    assert cut.is_terminated == whole.is_terminated
    assert cut.messages == whole.messages


@given(st.sampled_from(b"PBDEHCSQF"), strategies.garbage)
def test_a_body_of_any_bytes_is_a_message_or_a_refusal(tag: int, body: bytes) -> None:
    intake = make()
    intake.feed(raw(bytes([tag]), body) + frontend.SYNC)
    batch = intake.next_batch()
    assert batch is not None
    assert batch.messages[0].tag == tag
    refused = batch.messages[0].refusal
    assert refused is None or refused.sqlstate in ("08P01", "26000")


@pytest.mark.parametrize(
    ("data", "ending"),
    [
        (query(b"SELECT 1"), END_QUERY),
        (parse(b"", b"SELECT 1") + bind(b"") + execute() + frontend.SYNC, END_SYNC),
        (parse(b"", b"SELECT 1") + frontend.FLUSH, END_FLUSH),
        (parse(b"", b"SELECT 1") + query(b"SELECT 2"), END_QUERY),
        (raw(b"F", b"\0\0\0\x01\0\0\0\0\0\0"), END_FUNCTION_CALL),
    ],
)
def test_what_ends_a_batch(data: bytes, ending: int) -> None:
    intake = make()
    intake.feed(data + b"S")
    batch = intake.next_batch()
    assert batch is not None
    assert (batch.data, batch.end) == (data, ending)
    assert intake.next_batch() is None
    assert intake.pending_bytes() == 1


@pytest.mark.parametrize(
    "head",
    [
        b"Q\x00\x00\x00\x03",
        b"Q\x80\x00\x00\x00",
        b"Q\xff\xff\xff\xff",
        b"Q\x00\x10\x00\x01",
        b"D\x00\x00\x27\x11",
        b"S\x00\x00\x00\x00",
    ],
    ids=["short", "negative", "minus one", "over the limit", "long for a name", "sync"],
)
def test_rule_6_a_wrong_length_is_fatal_before_the_body_is_there(head: bytes) -> None:
    intake = make()
    intake.feed(head)
    with pytest.raises(ProtocolViolation, match="invalid message length") as caught:
        intake.next_batch()
    assert caught.value.sqlstate == "08P01"


def test_rule_6_names_may_be_as_long_as_a_server_takes_them() -> None:
    batch = one(raw(b"D", b"S" + b"n" * (SMALL_MESSAGE_BYTES - 6) + b"\0") + frontend.SYNC)
    assert refusal(batch).sqlstate == "26000"


@pytest.mark.parametrize("data", [b"z", b"z\x00\x00\x00\x03", b"p\x00\x00\x00\x05\x00", b"\x00"])
def test_a_type_that_no_client_may_send_is_fatal_at_its_first_byte(data: bytes) -> None:
    intake = make()
    intake.feed(data)
    with pytest.raises(ProtocolViolation, match=f"invalid frontend message type {data[0]}"):
        intake.next_batch()


def test_a_type_that_no_client_may_send_is_fatal_behind_others_and_while_skipping() -> None:
    intake = make()
    intake.feed(bind(b"") + raw(b"z", b"body"))
    with pytest.raises(ProtocolViolation, match="type 122"):
        intake.next_batch()
    intake = make()
    intake.feed(raw(b"z", b"body"))
    with pytest.raises(ProtocolViolation, match="type 122"):
        intake.skip_to_sync()


def test_a_long_message_is_joined_once() -> None:
    """No copy of what has come for each chunk that comes."""
    intake = make()
    text = b"SELECT '" + b"x" * 500_500 + b"'"
    stream = parse(b"s", text) + bind(b"s") + frontend.SYNC
    *most, last = (stream[start : start + 1_000] for start in range(0, len(stream), 1_000))
    for count, chunk in enumerate(most, 1):
        intake.feed(chunk)
        assert intake.next_batch() is None
        assert intake.pending_bytes() == count * 1_000
    intake.feed(last)
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == stream
    assert intake.statements[b"s"].text == text
    assert intake.pending_bytes() == 0


def test_a_pipeline_without_end_goes_on_in_parts() -> None:
    intake = make()
    group = parse(b"", b"SELECT 1") + bind(b"") + execute()
    count = CUT_BYTES // len(group) + 1
    intake.feed(group * count)
    batch = intake.next_batch()
    assert batch is not None
    assert (batch.end, batch.data) == (END_CUT, group * count)
    assert intake.pending_bytes() == 0
    intake.feed(frontend.SYNC)
    last = intake.next_batch()
    assert last is not None
    assert (last.end, last.data) == (END_SYNC, frontend.SYNC)


@pytest.mark.parametrize(
    ("message", "is_cut"),
    [
        (parse(b"a", b"SELECT 1"), True),
        (bind(b"a"), True),
        (frontend.Describe(frontend.STATEMENT, b"a").encode(), True),
        (frontend.Close(frontend.STATEMENT, b"a").encode(), True),
        (parse(b"", b"SELECT 1"), False),
        (bind(b""), False),
        (frontend.Describe(frontend.STATEMENT, b"").encode(), False),
        (frontend.Close(frontend.PORTAL, b"a").encode(), False),
        (execute(b"a"), False),
        (raw(b"D"), False),
        (raw(b"P"), False),
    ],
)
def test_a_name_behind_a_command_on_names_waits_for_it(message: bytes, is_cut: bool) -> None:
    intake = make()
    group = parse(b"", b"DEALLOCATE a") + bind(b"") + execute()
    intake.feed(group + message + frontend.SYNC)
    batch = intake.next_batch()
    assert batch is not None
    whole = group + message + frontend.SYNC
    assert (batch.end, batch.data) == ((END_CUT, group) if is_cut else (END_SYNC, whole))
    if is_cut:
        rest = intake.next_batch()
        assert rest is not None
        assert (rest.end, rest.data) == (END_SYNC, message + frontend.SYNC)


def test_copy_data_of_nobody_is_swallowed() -> None:
    """protocol-flow, COPY: outside of COPY these are ignored."""
    intake = make()
    intake.feed(COPY + query(b"SELECT 1"))
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == query(b"SELECT 1")


def test_copy_data_behind_messages_waits_for_what_they_do() -> None:
    """What stands before it may be the COPY that it belongs to."""
    intake = make()
    group = parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute()
    intake.feed(group + COPY + frontend.SYNC)
    batch = intake.next_batch()
    assert batch is not None
    assert (batch.end, batch.data) == (END_CUT, group)
    assert intake.pending_bytes() == len(COPY + frontend.SYNC)
    assert intake.copy_run() == COPY[: -len(frontend.encode_copy_fail(b"no"))]
    assert intake.copy_end == ord("c")


@pytest.mark.parametrize("before", [b"", parse(b"s", b"SELECT 1")])
def test_terminate_ends_it_whatever_stands_before(before: bytes) -> None:
    intake = make()
    intake.feed(before + frontend.TERMINATE + query(b"DROP TABLE t"))
    assert intake.next_batch() is None
    assert intake.is_terminated


def test_after_an_error_everything_up_to_the_sync_is_dropped() -> None:
    intake = make()
    intake.feed(parse(b"kept", b"SELECT 1") + frontend.SYNC)
    assert intake.next_batch() is not None
    skipped = parse(b"gone", b"SELECT 1") + raw(b"C", b"Skept\0")
    intake.feed(skipped)
    assert intake.next_batch() is None
    assert intake.statements.keys() == {b"gone"}
    assert not intake.skip_to_sync()
    # What was looked at already never ran.
    assert intake.statements.keys() == {b"kept"}
    assert intake.pending_bytes() == 0
    intake.feed(query(b"DROP TABLE t") + COPY + frontend.SYNC + query(b"SELECT 2"))
    assert intake.skip_to_sync()
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == query(b"SELECT 2")


def test_a_client_may_leave_while_its_messages_are_dropped() -> None:
    intake = make()
    intake.feed(bind(b"x") + frontend.TERMINATE + frontend.SYNC)
    assert not intake.skip_to_sync()
    assert intake.is_terminated


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (raw(b"Q", b"SELECT 1"), "invalid string in message"),
        (raw(b"Q", b""), "invalid string in message"),
        (raw(b"Q", b"SELECT 1\0; DROP TABLE t\0"), "invalid message format"),
        (raw(b"Q", b"SELECT 1\0DROP TABLE t"), "invalid message format"),
        (raw(b"P", b""), "invalid string in message"),
        (raw(b"P", b"name"), "invalid string in message"),
        (raw(b"P", b"\0text"), "invalid string in message"),
        (raw(b"P", b"\0text\0"), "insufficient data left in message"),
        (raw(b"P", b"\0text\0\0"), "insufficient data left in message"),
        (raw(b"P", b"\0text\0\0\1\0\0"), "insufficient data left in message"),
        (raw(b"P", b"\0text\0\0\1\0\0\0\0\0"), "invalid message format"),
        (raw(b"B", b""), "invalid string in message"),
        (raw(b"B", b"\0"), "invalid string in message"),
        (raw(b"B", b"portal"), "invalid string in message"),
        (raw(b"B", b"\0name"), "invalid string in message"),
        (raw(b"D", b""), "no data left in message"),
        (raw(b"D", b"S"), "invalid string in message"),
        (raw(b"D", b"Sname"), "invalid string in message"),
        (raw(b"D", b"Sname\0\0"), "invalid message format"),
        (raw(b"C", b"P\0\0"), "invalid message format"),
        (raw(b"S", b"x"), "invalid message format"),
        (raw(b"H", b"x"), "invalid message format"),
    ],
)
def test_fields_that_do_not_fit_are_refused_in_the_servers_words(data: bytes, problem: str) -> None:
    batch = one(data + frontend.SYNC)
    assert (refusal(batch).sqlstate, refusal(batch).message) == ("08P01", problem)


def test_a_query_that_is_refused_is_known_as_nothing() -> None:
    """Rule 35: whoever would judge the text before the NUL would let the rest pass."""
    batch = one(raw(b"Q", b"SELECT 1\0DROP TABLE t\0"))
    assert batch.is_raw
    assert batch.facts is not None
    assert [facts.text for facts in batch.facts.statements] == [b""]
    assert batch.facts.statements[0].kind == "unknown"
