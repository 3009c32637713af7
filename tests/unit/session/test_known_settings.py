"""What a client was told of its settings: shared by those that were told the same."""

from proxy.protocol import backend
from tests.support.playbook import READY, REPORTED, Playbook, complete, query


def test_one_client_is_told_and_no_other_changes() -> None:
    play, other = Playbook(), Playbook()
    reported = dict(REPORTED)
    play.session.state.greeted(reported)
    other.session.state.greeted(reported)
    play.f(query(b"SET client_encoding = 'LATIN1'"))
    told = backend.parameter_status(b"client_encoding", b"LATIN1")
    assert play.b(told + complete(b"SET") + READY) == told + complete(b"SET") + READY
    assert play.session.state.known[b"client_encoding"] == b"LATIN1"
    assert other.session.state.known is reported
    assert reported == REPORTED


def test_a_server_that_reports_something_else_changes_what_one_client_knows() -> None:
    play = Playbook(links=2)
    shared = play.session.state.known
    before = dict(shared)
    link = play.links[1]
    link.reported = {**link.reported, b"server_version": b"18.1"}
    assert play.session.state.differences(link) == [(b"server_version", b"18.1")]
    assert play.session.state.differences(link) == []
    assert shared == before
    assert play.session.state.known == {**before, b"server_version": b"18.1"}
