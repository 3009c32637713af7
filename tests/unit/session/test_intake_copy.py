"""Rule 24: what a client sends for a COPY is passed on in pieces, and what is left of it goes nowhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ProtocolViolation
from proxy.protocol import frontend, tags
from proxy.protocol.lengths import SMALL_MESSAGE_BYTES
from proxy.session.framing import CUT_BYTES
from proxy.session.intake import Intake
from proxy.sql.classify import PgClassifier
from tests.support.playbook import bind, execute, parse, query

CLASSIFIER = PgClassifier()
FAIL = frontend.encode_copy_fail(b"changed my mind")
LIMIT = 1 << 20


def make() -> Intake:
    return Intake(CLASSIFIER, LIMIT)


def data(size: int) -> bytes:
    return frontend.CopyData(b"x" * size).encode()


def run(intake: Intake, chunk: bytes) -> bytes:
    intake.feed(chunk)
    return intake.copy_run()


@given(
    st.lists(st.integers(0, 40) | st.just(-1), max_size=8),
    st.sampled_from([frontend.COPY_DONE, FAIL]),
    st.lists(st.integers(1, 30), min_size=1, max_size=8),
)
def test_any_chunking_passes_on_the_same_bytes(
    sizes: list[int], ending: bytes, lengths: list[int]
) -> None:
    stream = b"".join(frontend.FLUSH if size < 0 else data(size) for size in sizes) + ending
    intake = make()
    passed = b""
    at = 0
    turn = 0
    while at < len(stream):
        assert intake.copy_end == 0
        chunk = stream[at : at + lengths[turn % len(lengths)]]
        at += len(chunk)
        turn += 1
        passed += run(intake, chunk + query(b"SELECT 1") * (at >= len(stream)))
    assert passed == stream
    assert intake.copy_end == ending[0]
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == query(b"SELECT 1")


def test_a_row_is_passed_on_before_it_is_whole() -> None:
    intake = make()
    row = data(1_000)
    assert run(intake, row[:4]) == b""
    assert run(intake, row[4:300]) == row[:300]
    assert run(intake, row[300:400]) == row[300:400]
    assert intake.pending_bytes() == 0
    assert run(intake, row[400:] + frontend.COPY_DONE) == row[400:] + frontend.COPY_DONE
    assert intake.copy_end == tags.COPY_DONE


def test_a_row_that_was_waited_for_as_a_long_message_goes_on() -> None:
    """It was on its way already when the server said that it copies."""
    intake = make()
    row = data(3 * CUT_BYTES)
    group = parse(b"", b"COPY t FROM STDIN") + bind(b"") + execute()
    intake.feed(group + row[:-100])
    assert intake.next_batch() is None
    intake.feed(row[-100:-50])
    assert intake.pending_bytes() == len(group + row) - 50
    intake.feed(row[-50:])
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == group
    assert intake.copy_run() == row


def test_a_row_in_pieces_behind_a_query_goes_on() -> None:
    intake = make()
    row = data(3 * CUT_BYTES)
    intake.feed(query(b"COPY t FROM STDIN") + row[:-100])
    assert intake.next_batch() is not None
    assert intake.next_batch() is None
    assert intake.copy_run() == row[:-100]
    assert run(intake, row[-100:]) == row[-100:]
    assert intake.pending_bytes() == 0


def test_a_sync_ends_a_run_and_is_no_part_of_it() -> None:
    """The server ignores it in a COPY, but would answer it if the COPY failed before it came."""
    intake = make()
    rows = data(3) + frontend.FLUSH
    assert run(intake, rows + frontend.SYNC + data(4) + frontend.COPY_DONE) == rows
    assert intake.copy_end == tags.SYNC
    assert intake.copy_run() == data(4) + frontend.COPY_DONE
    assert intake.copy_end == tags.COPY_DONE


@pytest.mark.parametrize("message", [query(b"SELECT 1"), parse(b"", b"SELECT 1"), execute()])
def test_what_is_no_part_of_a_copy_ends_a_run_and_stays(message: bytes) -> None:
    intake = make()
    assert run(intake, data(3) + message[:-1]) == data(3)
    assert intake.copy_end == 0
    for more in (message[-1:] + data(4), b""):
        assert run(intake, more) == b""
        assert intake.copy_end == message[0]
    assert intake.pending_bytes() == len(message + data(4))


def test_a_client_may_leave_in_a_copy() -> None:
    intake = make()
    assert run(intake, data(3) + frontend.TERMINATE + data(4)) == data(3)
    assert intake.is_terminated
    assert intake.copy_end == 0


@pytest.mark.parametrize("length", [0, 3, LIMIT + 1, 0x80000000])
def test_rule_6_a_wrong_length_is_fatal(length: int) -> None:
    intake = make()
    intake.feed(data(1) + b"d" + length.to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match="invalid message length"):
        intake.copy_run()


@pytest.mark.parametrize("tag", [b"Q", b"P", b"c", b"f", b"S", b"H", b"z"])
def test_rule_7_a_long_message_of_another_type_is_not_waited_for(tag: bytes) -> None:
    intake = make()
    intake.feed(data(1) + tag + (SMALL_MESSAGE_BYTES + 1).to_bytes(4, "big"))
    with pytest.raises(ProtocolViolation, match=f"type 0x{tag[0]:02X} during COPY from stdin"):
        intake.copy_run()


def test_rest_of_a_row_is_swallowed_after_the_copy_has_failed() -> None:
    intake = make()
    row = data(100)
    assert run(intake, row[:60]) == row[:60]
    intake.feed(row[60:90])
    # What is here already and what is still to come: the server waits for both.
    assert intake.abandon_copy() == len(row) - 60
    assert intake.pending_bytes() == 0
    assert not intake.drop_passing()
    intake.feed(row[90:] + frontend.SYNC + query(b"SELECT 1"))
    assert intake.drop_passing()
    assert intake.skip_to_sync()
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == query(b"SELECT 1")


def test_nothing_is_swallowed_where_a_copy_fails_between_rows() -> None:
    intake = make()
    assert run(intake, data(10)) == data(10)
    assert intake.abandon_copy() == 0
    intake.feed(query(b"SELECT 1"))
    assert intake.drop_passing()
    assert intake.pending_bytes() == len(query(b"SELECT 1"))
