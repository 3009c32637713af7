"""What a session counts: its queries, its transactions, and how long both took."""

from proxy.protocol import frontend
from tests.support.playbook import READY, READY_T, Playbook, complete, query


def ask(play: Playbook, sql: bytes, tag: bytes, ready: bytes) -> None:
    play.f(query(sql))
    play.clock.time_us += 1_000
    play.b(complete(tag) + ready)


def test_a_query_outside_a_transaction_is_one() -> None:
    play = Playbook()
    ask(play, b"SELECT 1", b"SELECT 1", READY)
    session = play.session
    assert (session.queries, session.transactions) == (1, 1)
    assert session.query_us == session.transaction_us >= 1_000


def test_a_transaction_is_as_long_as_from_its_begin_to_its_end() -> None:
    play = Playbook()
    ask(play, b"BEGIN", b"BEGIN", READY_T)
    play.clock.time_us += 50_000
    ask(play, b"SELECT 1", b"SELECT 1", READY_T)
    session = play.session
    assert (session.queries, session.transactions, session.transaction_us) == (2, 0, 0)
    ask(play, b"COMMIT", b"COMMIT", READY)
    assert (session.queries, session.transactions) == (3, 1)
    assert 3_000 <= session.query_us < 4_000
    assert session.transaction_us >= 53_000
    ask(play, b"SELECT 1", b"SELECT 1", READY)
    assert session.transactions == 2
    assert session.transaction_us < 56_000


def test_a_sync_alone_is_counted_as_nothing_that_a_server_did() -> None:
    play = Playbook()
    play.f(frontend.SYNC)
    assert play.session.transactions == 0
