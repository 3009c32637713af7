"""What types a client was told of its parameters: kept where its statement is prepared once more."""

import pytest

from proxy.protocol import backend, frontend
from tests.support.playbook import (
    READY,
    Playbook,
    bind,
    complete,
    describe,
    execute,
    parse,
    query,
)

SQL = b"INSERT INTO t VALUES ($1)"
TYPES = backend.parameter_description([23])
OIDS = TYPES[5:]


def again(told: bytes, name: bytes = b"s") -> bytes:
    """What another connection is sent for a Bind, after the client was `told` on the first."""
    play = Playbook(links=2)
    play.f(parse(name, SQL) + describe(name) + frontend.SYNC)
    replies = backend.PARSE_COMPLETE + told + backend.NO_DATA + READY
    assert play.b(replies) == replies
    play.broker.free.reverse()
    play.f(bind(name) + execute() + frontend.SYNC)
    return play.wire_of(1).take()


@pytest.mark.parametrize("name", [b"", b"s"])
def test_a_parse_elsewhere_has_the_types_that_were_told(name: bytes) -> None:
    assert SQL + b"\x00" + OIDS in again(TYPES, name)


@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x02" + OIDS[2:], OIDS + b"\x00"])
def test_a_malformed_description_is_passed_on_and_not_used(body: bytes) -> None:
    told = b"t" + (len(body) + 4).to_bytes(4, "big") + body
    assert SQL + b"\x00\x00\x00" in again(told)


def test_types_count_for_the_statement_that_is_described() -> None:
    """The Parse was left out: what is invented for it comes before the server's replies."""
    play = Playbook(links=2)
    play.f(parse(b"a", SQL) + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    sent = play.f(parse(b"b", SQL) + describe(b"b") + frontend.SYNC)
    assert SQL not in sent
    told = play.b(TYPES + backend.NO_DATA + READY)
    assert told == backend.PARSE_COMPLETE + TYPES + backend.NO_DATA + READY
    play.broker.free.reverse()
    play.f(bind(b"b") + execute() + frontend.SYNC)
    assert SQL + b"\x00" + OIDS in play.wire_of(1).take()


def test_types_are_part_of_what_a_statement_is_after_a_change_of_the_schema() -> None:
    """Another client may have prepared the text since, with other types."""
    play = Playbook()
    play.f(parse(b"old", SQL) + describe(b"old") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + TYPES + backend.NO_DATA + READY)
    play.f(query(b"ALTER TABLE t ALTER v TYPE float4"))
    play.b(complete(b"ALTER TABLE") + READY)
    assert SQL + b"\x00\x00\x00" in play.f(parse(b"new", SQL) + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    assert SQL + b"\x00" + OIDS in play.f(bind(b"old") + execute() + frontend.SYNC)


@pytest.mark.parametrize("group", [bind(b"") + execute(), bind(b"s") + execute()])
def test_a_description_that_nobody_asked_for_says_nothing(group: bytes) -> None:
    """Of a hostile server, also behind the last reply that it owes."""
    play = Playbook(links=2)
    play.f(parse(b"s", SQL) + parse(b"", SQL) + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.PARSE_COMPLETE + READY)
    play.f(group + frontend.SYNC)
    replies = TYPES + backend.BIND_COMPLETE + complete(b"INSERT 0 1") + TYPES
    replies += backend.CLOSE_COMPLETE + TYPES + READY
    assert play.b(replies) == replies
    play.broker.free.reverse()
    play.f(group + frontend.SYNC)
    assert SQL + b"\x00\x00\x00" in play.wire_of(1).take()


def test_a_description_behind_all_steps_says_nothing() -> None:
    play = Playbook()
    play.f(parse(b"s", SQL) + frontend.SYNC)
    replies = backend.PARSE_COMPLETE + TYPES + READY
    assert play.b(replies) == replies
