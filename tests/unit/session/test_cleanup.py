"""Rule 20: a connection whose client has left comes back clean, or not at all."""

import pytest

from proxy.session.ending import Cleanup, SwallowSync
from tests.support.playbook import (
    READY,
    READY_E,
    READY_T,
    FakeBroker,
    FakeWire,
    Playbook,
    complete,
    error,
    row,
)


def test_clean_connection_goes_back_at_once() -> None:
    broker, link = FakeBroker(), Playbook.new_link()
    Cleanup(broker, False).run(link)
    assert broker.free == [link]
    assert isinstance(link.wire, FakeWire)
    assert link.wire.take() == b""


@pytest.mark.parametrize("is_dirty", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
def test_what_is_open_is_rolled_back_and_what_is_dirty_is_forgotten(
    is_dirty: bool, is_open: bool
) -> None:
    broker, link = FakeBroker(), Playbook.new_link()
    wire = link.wire
    assert isinstance(wire, FakeWire)
    link.applied, link.applied_key = {"a": b"1"}, b"key"
    link.prepared = {b"key": b"headgate_1"}
    link.is_touched = link.is_opaque = is_dirty
    link.status = READY_T[5] if is_open else READY[5]
    Cleanup(broker, is_dirty).run(link)
    if is_open:
        assert b"ROLLBACK" in wire.take()
        link.receive_from_backend(complete(b"ROLLBACK") + READY)
    if is_dirty:
        assert b"DISCARD ALL" in wire.take()
        assert broker.free == []
        # Nothing of it is of interest, not even a row.
        link.receive_from_backend(row(b"1") + complete(b"DISCARD ALL") + READY)
        assert (link.applied, link.applied_key, link.prepared) == ({}, b"", {})
        assert not link.is_touched
        assert not link.is_opaque
    else:
        assert link.prepared == {b"key": b"headgate_1"}
    assert wire.take() == b""
    assert broker.free == [link]


@pytest.mark.parametrize("reply", [error("57014", "no") + READY, READY_T, READY_E])
def test_what_cannot_be_cleaned_is_closed(reply: bytes) -> None:
    broker, link = FakeBroker(), Playbook.new_link()
    Cleanup(broker, True).run(link)
    link.receive_from_backend(reply)
    assert broker.free == []
    assert [kept for kept, _ in broker.discarded] == [link]
    assert link.is_closed


@pytest.mark.parametrize(("reply", "is_kept"), [(READY, True), (READY_T, False)])
def test_a_group_without_executions_is_ended_unseen(reply: bytes, is_kept: bool) -> None:
    broker, link = FakeBroker(), Playbook.new_link()
    assert isinstance(link.wire, FakeWire)
    SwallowSync(broker).run(link)
    assert link.wire.take() == b"S\0\0\0\4"
    link.receive_from_backend(error("42601", "syntax error") + row(b"1") + reply)
    assert (broker.free == [link]) == is_kept
    assert link.is_closed != is_kept
