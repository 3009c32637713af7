"""Rule 13: a plan made before a DDL is made again unseen, where the client cannot misread the rows."""

import pytest

from proxy.protocol import backend, frontend
from tests.support.playbook import READY, Playbook, bind, complete, error, execute, parse

STALE = error("0A000", "cached plan must not change result type")
DESCRIBE_STATEMENT = b"D\x00\x00\x00\x07Ss\x00"
DESCRIBE_PORTAL = b"D\x00\x00\x00\x06P\x00"


def prepared() -> Playbook:
    play = Playbook()
    play.f(parse(b"s", b"SELECT * FROM t") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    return play


def test_described_execution_is_run_again_unseen() -> None:
    play = prepared()
    play.f(bind(b"s") + DESCRIBE_PORTAL + execute() + frontend.SYNC)
    assert play.b(STALE + READY) == b""
    again = play.server.take()
    assert b"SELECT * FROM t" in again
    replies = backend.BIND_COMPLETE + backend.NO_DATA + complete(b"SELECT 0") + READY
    asked = backend.CLOSE_COMPLETE if again.startswith(b"C") else b""
    assert play.b(asked + backend.PARSE_COMPLETE + replies) == replies


def test_client_that_never_asked_for_columns_is_served_unseen() -> None:
    play = prepared()
    play.f(bind(b"s") + execute() + frontend.SYNC)
    assert play.b(STALE + READY) == b""
    asked = backend.CLOSE_COMPLETE if play.server.take().startswith(b"C") else b""
    replies = backend.BIND_COMPLETE + complete(b"SELECT 0") + READY
    assert play.b(asked + backend.PARSE_COMPLETE + replies) == replies


def test_statement_of_this_very_group_is_run_again_unseen() -> None:
    """Another name for the same text: its Parse was left out, as the server had it."""
    play = prepared()
    play.f(parse(b"t", b"SELECT * FROM t") + bind(b"t") + execute() + frontend.SYNC)
    assert play.b(STALE + READY) == b""
    asked = play.server.take()
    assert asked.startswith(b"C")
    assert b"SELECT * FROM t" in asked
    replies = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SELECT 0") + READY
    assert play.b(backend.CLOSE_COMPLETE + replies) == replies


@pytest.mark.parametrize("describe", [DESCRIBE_STATEMENT, bind(b"s") + DESCRIBE_PORTAL])
def test_client_with_an_older_description_is_told(describe: bytes) -> None:
    play = prepared()
    play.f(describe + frontend.SYNC)
    play.b(backend.BIND_COMPLETE * describe.startswith(b"B") + backend.NO_DATA + READY)
    play.f(bind(b"s") + execute() + frontend.SYNC)
    assert play.b(STALE + READY) == STALE + READY
    # It prepares again, as drivers do, and gets a statement of now.
    sent = play.f(parse(b"s2", b"SELECT * FROM t") + frontend.SYNC)
    assert b"SELECT * FROM t" in sent


def test_second_run_that_does_not_fit_ends_in_the_first_error() -> None:
    play = prepared()
    play.f(bind(b"s", formats=[1, 1, 1]) + DESCRIBE_PORTAL + execute() + frontend.SYNC)
    assert play.b(STALE + READY) == b""
    asked = backend.CLOSE_COMPLETE if play.server.take().startswith(b"C") else b""
    misfit = error("08P01", "bind message has 3 result formats but query has 2 columns")
    assert play.b(asked + backend.PARSE_COMPLETE + misfit + READY) == STALE + READY
