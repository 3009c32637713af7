"""A Query behind messages without Sync: what it leaves open at the server is ended before the Sync."""

import pytest

from proxy.protocol import backend, frontend
from proxy.session.dispatch import BEGINNING
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    bind,
    close,
    complete,
    describe,
    execute,
    parse,
    query,
)

SYNC = frontend.SYNC
BEGUN = backend.PARSE_COMPLETE + backend.CLOSE_COMPLETE
INSERT = parse(b"", b"INSERT INTO t VALUES (1)") + bind(b"") + execute()


def left_open() -> Playbook:
    play = Playbook()
    play.f(parse(b"known", b"SELECT 2") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(INSERT + query(b"SELECT 1"))
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"INSERT 0 1"))
    assert play.b(complete(b"SELECT 1") + READY_T).endswith(READY_T)
    return play


@pytest.mark.parametrize(
    ("group", "sent", "answered"),
    [
        pytest.param(SYNC, SYNC, b"", id="Sync"),
        pytest.param(close(b"", frontend.PORTAL) + SYNC, close(b"", frontend.PORTAL) + SYNC,
                     backend.CLOSE_COMPLETE, id="Close of a portal"),
        pytest.param(close(b"known") + SYNC, SYNC, backend.CLOSE_COMPLETE,
                     id="Close that the server does not see"),
        pytest.param(parse(b"same", b"SELECT 2") + SYNC, SYNC, backend.PARSE_COMPLETE,
                     id="Parse that the server does not see"),
    ],
)  # fmt: skip
def test_rule_20_a_sync_ends_the_transaction_that_a_pipeline_has_left_open(
    group: bytes, sent: bytes, answered: bytes
) -> None:
    play = left_open()
    assert play.f(group) == BEGINNING + sent
    server = BEGUN + (answered if len(sent) > len(SYNC) else b"")
    assert play.b(server + READY) == answered + READY
    assert play.broker.free == [play.link]


def test_a_flush_before_the_sync_changes_nothing() -> None:
    play = left_open()
    assert play.f(frontend.FLUSH) == BEGINNING + frontend.FLUSH
    assert play.b(BEGUN) == b""
    assert play.f(SYNC) == SYNC
    assert play.b(READY) == READY


@pytest.mark.parametrize(
    "group",
    [
        INSERT + SYNC,
        execute(b"p") + SYNC,
        describe(b"", frontend.PORTAL) + SYNC,
        query(b"SELECT 1"),
    ],
    ids=["Parse", "Execute", "Describe", "Query"],
)
def test_what_begins_a_command_goes_out_as_it_is(group: bytes) -> None:
    assert left_open().f(group) == group
