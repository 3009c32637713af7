"""Rules 10 and 13: what a client prepares after a change of the schema is prepared after it."""

import pytest

from proxy.protocol import backend, frontend
from tests.support.playbook import READY, READY_T, Playbook, bind, complete, execute, parse, query

SELECT = b"SELECT * FROM t WHERE n = $1"


def prepare(play: Playbook, name: bytes) -> bytes:
    """Prepare and end the group; what the server got. The server answers what it was asked."""
    sent = play.f(parse(name, SELECT) + frontend.SYNC)
    is_asked = sent.startswith(b"P")
    replies = play.b((backend.PARSE_COMPLETE if is_asked else b"") + READY)
    assert replies == backend.PARSE_COMPLETE + READY
    return sent


def run(play: Playbook, sql: bytes, ready: bytes = READY) -> None:
    play.f(query(sql))
    play.b(complete(b"DONE") + ready)


def test_statement_is_shared_while_the_schema_stays() -> None:
    play = Playbook()
    assert SELECT in prepare(play, b"one")
    run(play, b"INSERT INTO t VALUES (1)")
    assert SELECT not in prepare(play, b"two")


@pytest.mark.parametrize(
    "sql", [b"ALTER TABLE t ADD c int", b"CREATE TEMPORARY TABLE t (n int)", b"DO $$ BEGIN END $$"]
)
def test_statement_is_prepared_anew_after_a_change(sql: bytes) -> None:
    play = Playbook()
    prepare(play, b"one")
    play.f(query(sql))
    play.b(complete(b"DONE") + READY_T)
    run(play, b"COMMIT")
    if play.session.link is not None and not play.link.owes_nothing():
        # What the transaction has left behind is looked at; nothing.
        play.b(complete(b"SELECT 0") + READY)
    play.f(query(b"SELECT 1"))
    play.b(complete(b"SELECT 1") + READY)
    assert SELECT in prepare(play, b"two")
    # The first one keeps its own.
    sent = play.f(bind(b"one") + execute() + frontend.SYNC)
    assert b"headgate_1\x00" in sent
    assert SELECT not in sent


def test_change_in_a_transaction_counts_at_once_and_when_it_ends() -> None:
    play = Playbook()
    prepare(play, b"one")
    run(play, b"BEGIN", READY_T)
    run(play, b"ALTER TABLE t ADD c int", READY_T)
    sent = play.f(parse(b"two", SELECT) + frontend.SYNC)
    assert SELECT in sent
    play.b(backend.PARSE_COMPLETE + READY_T)
    run(play, b"SELECT 1", READY_T)
    assert SELECT not in play.f(parse(b"three", SELECT) + frontend.SYNC)
    play.b(READY_T)
    run(play, b"ROLLBACK")
    assert SELECT in prepare(play, b"four")
