"""What the session tells the result cache: which results may be shared, and what tells them apart."""

import pytest

from proxy.protocol import frontend, tags
from proxy.session import answers
from proxy.session.admission import bind_key_of
from proxy.session.context import ClientContext
from proxy.session.dispatch import is_answered
from proxy.session.exchange import END_SYNC, Batch, Exchange, Message, Prepared
from proxy.session.inspection import PHASE_STATEMENT, Inspection, RowSet
from proxy.session.outcome import note_for_cache
from proxy.session.session import Session
from proxy.session.state import SessionState
from proxy.sql.classify import PgClassifier
from tests.support.playbook import Playbook

CLASSIFIER = PgClassifier()


def prepared_of(tail: bytes = b"\0\0") -> Prepared:
    text = b"SELECT 1"
    return Prepared(text, CLASSIFIER.exact(text), tail, b"", False)


def bind_of(parameter_formats: list[int], result_formats: list[int]) -> frontend.Bind:
    return frontend.Bind(b"", b"", parameter_formats, [], result_formats)


def test_usual_binds_have_no_key_of_their_own() -> None:
    for formats in ([], [0], [0, 0]):
        assert bind_key_of(prepared_of(), bind_of(formats, formats)) == b""


def test_types_and_formats_tell_binds_apart() -> None:
    keys = {
        bind_key_of(prepared, bind)
        for prepared in (prepared_of(), prepared_of(b"\0\1\0\0\0\x17"))
        for bind in (bind_of([], [1]), bind_of([1], []), bind_of([1], [1]), bind_of([], []))
    }
    assert len(keys) == 8


def test_the_name_that_a_client_has_for_itself_changes_no_result() -> None:
    plain = SessionState({"TimeZone": "UTC"})
    named = SessionState({"timezone": "UTC", "application_name": "a"})
    other = SessionState({"timezone": "CET"})
    assert plain.result_key() == named.result_key() == named.result_key()
    assert other.result_key() != plain.result_key()
    named.learn({"timezone": b"CET"}, [])
    assert named.result_key() == other.result_key()


def inspection_of(sql: str) -> Inspection:
    client = ClientContext("c1", "127.0.0.1", False, 0.0)
    facts = CLASSIFIER.exact(sql.encode()).statements[0]
    return Inspection(facts, client, False, PHASE_STATEMENT, False, None)


def relay_of(is_touched: bool = False, is_opaque: bool = False) -> Session:
    """A session of its own, on a server connection of which so much is known."""
    play = Playbook()
    session = play.session
    session.link = play.link
    play.link.is_touched = is_touched
    play.link.is_opaque = is_opaque
    return session


def note(relay: Session, *texts: str) -> list[bool]:
    exchange = Exchange(0)
    exchange.statements = [inspection_of(text) for text in texts]
    for inspection in exchange.statements:
        note_for_cache(relay, exchange, inspection)
    return [inspection.may_cache for inspection in exchange.statements]


def test_what_reads_behind_a_write_of_its_group_is_not_shared() -> None:
    assert note(relay_of(), "SELECT 1", "SELECT 2") == [True, True]
    assert note(relay_of(), "SELECT 1", "DELETE FROM t", "SELECT 2", "SELECT 3") == [
        *(True, True, False, False)
    ]
    assert note(relay_of(), "SET timezone = 'CET'", "SELECT 2") == [True, False]


@pytest.mark.parametrize("link", [{"is_touched": True}, {"is_opaque": True}])
def test_a_connection_with_unknown_state_shares_nothing(link: dict[str, bool]) -> None:
    assert note(relay_of(), "SELECT 1") == [True]
    assert note(relay_of(**link), "SELECT 1") == [False]


def test_a_session_with_objects_of_its_own_shares_nothing() -> None:
    relay = relay_of()
    relay.state.pins = ["temporary objects"]
    assert note(relay, "SELECT 1") == [False]
    relay = relay_of()
    relay.state.is_opaque = True
    assert note(relay, "SELECT 1") == [False]


def test_settings_are_part_of_the_key() -> None:
    relay = relay_of()
    relay.intake.planning = b"path"
    exchange = Exchange(0)
    exchange.statements = [inspection_of("SELECT 1")]
    relay.state.learn({"timezone": b"CET"}, [])
    note_for_cache(relay, exchange, exchange.statements[0])
    assert exchange.statements[0].settings_key == b"path\x03" + relay.state.key


def test_a_parse_is_answered_when_an_execution_of_it_is() -> None:
    parse, bind = Message(tags.PARSE, 0, 0), Message(tags.BIND, 0, 0)
    batch = Batch(b"", [parse, bind], END_SYNC)
    parse.prepared = prepared_of()
    bind.prepared = parse.prepared
    assert not is_answered(batch, parse)
    bind.answer = b"2\0\0\0\4"
    assert is_answered(batch, parse)
    bind.prepared = prepared_of()
    assert not is_answered(batch, parse)


def test_raw_rows_are_given_back_as_they_are() -> None:
    rows = RowSet([("a", 1700)], [[b"\x00\x01\xff"]])
    assert answers.rows(rows, [1]) is None
    rows.is_raw = True
    found = answers.rows(rows, [1])
    assert found is not None
    assert b"\x00\x01\xff" in found
