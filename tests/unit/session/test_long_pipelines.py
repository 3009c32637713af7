"""A pipeline may go on without a Sync: it takes a bounded memory, and time as its length."""

from proxy.protocol import backend, frontend
from proxy.session.exchange import Exchange
from proxy.session.framing import CUT_BYTES
from proxy.session.intake import Intake
from proxy.session.outcome import KEPT_BATCHES
from tests.support.playbook import (
    CLASSIFIER,
    READY,
    Playbook,
    bind,
    complete,
    error,
    execute,
    parse,
)

DESCRIBE = frontend.Describe(ord("P"), b"").encode()
ONE = bind(b"a") + DESCRIBE + execute()
ROW = backend.BIND_COMPLETE + backend.NO_DATA + complete(b"LISTEN")


def play_pipeline(play: Playbook, pieces: int) -> tuple[Exchange, int]:
    """One piece after the other, each ending in the middle of a message; all is answered."""
    play.f(parse(b"a", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    count = CUT_BYTES // len(ONE) + 50
    sent = play.f(ONE[:7])
    asked = 0
    for _ in range(pieces):
        sent = play.f((ONE * count)[7:] + ONE[:7])
        answered = sent.count(execute())
        asked += answered
        play.b(ROW * answered)
    exchange = play.session.exchange
    assert exchange is not None
    return exchange, asked


def test_what_does_not_end_with_a_message_is_sent_on_all_the_same() -> None:
    play = Playbook()
    exchange, asked = play_pipeline(play, 4)
    assert asked * len(ONE) > 4 * CUT_BYTES
    assert exchange.is_open


def test_a_batch_is_no_longer_than_what_was_received_and_a_cut() -> None:
    intake = Intake(CLASSIFIER, 1 << 24)
    intake.feed(parse(b"a", b"SELECT 1") + frontend.SYNC)
    assert intake.next_batch() is not None
    piece = ONE * 100
    for _ in range(100):
        intake.feed(piece + ONE[:5])
        batch = intake.next_batch()
        assert batch is None or len(batch.data) <= CUT_BYTES + len(piece) + len(ONE)
        assert intake.pending_bytes() <= CUT_BYTES + len(piece)
        intake.feed(ONE[5:])


def test_a_long_message_behind_a_long_pipeline_is_not_kept_with_it() -> None:
    intake = Intake(CLASSIFIER, 1 << 24)
    text = b"SELECT '" + b"x" * (4 * CUT_BYTES) + b"'"
    long_one = parse(b"", text)
    intake.feed(parse(b"a", b"SELECT 1") + ONE * 3000 + long_one[:100])
    batch = intake.next_batch()
    assert batch is not None
    assert len(batch.messages) == 9001
    assert intake.next_batch() is None
    intake.feed(long_one[100:] + frontend.SYNC)
    batch = intake.next_batch()
    assert batch is not None
    assert batch.data == long_one + frontend.SYNC


def test_what_is_answered_is_let_go() -> None:
    play = Playbook()
    exchange, _ = play_pipeline(play, KEPT_BATCHES + 6)
    assert len(exchange.batches) <= KEPT_BATCHES
    steps = exchange.steps
    assert steps is not None
    assert len(steps) <= KEPT_BATCHES * 3 * (2 * CUT_BYTES) // len(ONE)
    play.f(ONE[7:] + frontend.SYNC)
    assert play.b(ROW + READY) == ROW + READY


def test_what_only_the_proxy_answers_is_let_go() -> None:
    play = Playbook()
    closed = frontend.Close(ord("S"), b"nothing").encode() + frontend.FLUSH
    for _ in range(4 * KEPT_BATCHES):
        play.f(closed)
        assert play.client.take() == backend.CLOSE_COMPLETE
    exchange = play.session.exchange
    assert exchange is not None
    assert len(exchange.batches) <= KEPT_BATCHES
    play.f(frontend.SYNC)
    assert play.client.take() == READY


def test_an_error_in_a_long_pipeline_is_about_its_own_message() -> None:
    play = Playbook()
    play_pipeline(play, KEPT_BATCHES + 6)
    play.f(ONE[7:] + parse(b"b", b"SELECT 2") + frontend.FLUSH)
    play.b(ROW)
    failed = error("42601", "no")
    assert play.b(failed) == failed
    play.f(frontend.SYNC)
    play.b(READY)
    # What never was is not there, and what was is.
    assert b"b" not in play.session.intake.statements
    assert b"a" in play.session.intake.statements


def test_outcomes_of_a_long_pipeline_come_while_it_runs_once_each() -> None:
    for observes in (True, False):
        play = Playbook()
        play.gate.judges = True
        play.gate.observes = observes
        exchange, asked = play_pipeline(play, KEPT_BATCHES + 6)
        assert 0 < len(play.gate.done) < asked + 1
        assert len(exchange.statements) < asked
        play.f(ONE[7:] + frontend.SYNC)
        play.b(ROW + READY)
        assert len(play.gate.done) == len(set(map(id, play.gate.done))) == asked + 2


def test_thousands_of_portals_in_one_group_are_looked_at_once() -> None:
    """A look at all messages for each Describe would be a look at billions."""
    intake = Intake(CLASSIFIER, 1 << 24)
    count = 60_000
    intake.feed(parse(b"", b"SELECT 1") + (bind(b"") + DESCRIBE) * count + frontend.SYNC)
    batch = intake.next_batch()
    assert batch is not None
    prepared = batch.messages[0].prepared
    assert prepared is not None
    assert prepared.is_described


def test_thousands_of_statements_in_one_group_make_room_for_no_other() -> None:
    """More than the connection may keep: what is not used is closed, what is used is not."""
    play = Playbook(max_prepared=50)
    play.f(parse(b"old", b"SELECT") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    count = 5_000
    group = b"".join(parse(b"s%d" % number, b"SELECT %d" % number) for number in range(count))
    sent = play.f(group + frontend.SYNC)
    assert sent.count(b"\x00SELECT ") == count
    assert sent.count(b"Sheadgate_") == 1
    assert sent.count(b"Sheadgate_1\x00") == 1
