"""Rules 15 to 18: a client's settings follow it, are quoted, and stay on nobody else's connection."""

import pytest

from proxy.protocol import backend, frontend
from proxy.session.relay import APPLYING, CLOSED, IDLE
from proxy.session.state import MAX_TRIES
from proxy.session.tuning import POOL_SESSION
from tests.support.playbook import (
    READY,
    READY_E,
    READY_T,
    REPORTED,
    Playbook,
    complete,
    error,
    fatal,
    query,
    row,
)

APPLIED = row(b"t") + complete(b"SELECT 1") + READY
REFUSED = error("42501", "permission denied to set parameter")
HIDING = b"SELECT '\\''; DROP TABLE t; --'"
OFF = backend.parameter_status(b"standard_conforming_strings", b"off")


def with_setting(links: int = 1) -> Playbook:
    """The client has set work_mem; its connection is back in the pool."""
    play = Playbook(links=links)
    play.f(query(b"SET work_mem = '1MB'"))
    play.b(complete(b"SET") + READY)
    play.looked_at(row(b"s", b"work_mem", b"1MB"))
    assert play.broker.free[-1] is play.link
    return play


def elsewhere(play: Playbook) -> None:
    """The next statement is served by the second connection."""
    play.broker.free = [play.links[1]]


def test_setting_is_made_on_the_next_connection_before_the_statement() -> None:
    play = with_setting(links=2)
    elsewhere(play)
    play.f(query(b"SELECT 1"))
    assert play.session.phase == APPLYING
    asked = play.wire_of(1).take()
    assert b"pg_catalog.set_config(E'work_mem',E'1MB',false)" in asked
    assert b"SELECT 1" not in asked
    play.from_server(1, APPLIED)
    assert play.client.take() == b""
    assert play.wire_of(1).take() == query(b"SELECT 1")
    assert play.links[1].applied == {"work_mem": b"1MB"}


def test_connection_that_has_them_already_is_used_at_once() -> None:
    play = with_setting()
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")


def test_settings_of_another_client_are_taken_back() -> None:
    play = Playbook()
    play.link.applied = {"work_mem": b"9MB", "role": b"other"}
    play.link.applied_key = b"another's"
    sent = play.f(query(b"SELECT 1"))
    assert sent == query(b'RESET "role";RESET "work_mem"')
    play.b(complete(b"RESET") + complete(b"RESET") + READY)
    assert play.server.take() == query(b"SELECT 1")
    assert play.link.applied == {}


def test_connection_on_which_anything_may_have_been_set_begins_anew() -> None:
    play = Playbook()
    play.link.is_opaque = True
    play.link.opaque_for = play.session.number + 1
    assert play.f(query(b"SELECT 1")) == query(b"RESET ALL")
    play.b(complete(b"RESET") + READY)
    assert play.server.take() == query(b"SELECT 1")
    assert not play.link.is_opaque


def test_own_code_on_the_own_connection_needs_no_reset() -> None:
    play = Playbook()
    play.f(query(b"SELECT my_function()"))
    play.b(complete(b"SELECT 1") + READY)
    play.looked_at()
    assert play.link.is_opaque
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")


def test_setting_that_the_server_refuses_is_an_error_in_place_of_the_statement() -> None:
    play = with_setting(links=2)
    elsewhere(play)
    play.f(query(b"SELECT 1") + query(b"SELECT 2"))
    play.wire_of(1).take()
    play.broker.free = [play.link]
    play.from_server(1, REFUSED + READY)
    assert play.client.take() == REFUSED + READY
    # The second statement goes on where the setting is.
    assert play.server.take() == query(b"SELECT 2")
    # And what was made of the settings is not for the next client.
    assert play.wire_of(1).take() == query(b"DISCARD ALL")
    assert play.links[1] not in play.broker.free


CANCELED = error("57014", "canceling statement due to statement timeout")
NO_TIMEOUT = b"SET LOCAL statement_timeout TO 0;"


def test_rule_15_time_out_of_who_had_the_connection_before_is_not_the_next_clients() -> None:
    play = with_setting(links=2)
    elsewhere(play)
    play.f(query(b"SELECT 1"))
    asked = play.wire_of(1).take()
    for _ in range(MAX_TRIES):
        play.from_server(1, CANCELED + READY)
        assert play.client.take() == b""
        # Asked again, and by nobody's clock.
        assert play.wire_of(1).take() == query(NO_TIMEOUT + asked[5:-1])
    play.from_server(1, APPLIED)
    assert play.wire_of(1).take() == query(b"SELECT 1")


def test_settings_that_are_cancelled_again_and_again_are_an_error() -> None:
    play = with_setting(links=2)
    elsewhere(play)
    play.f(query(b"SELECT 1"))
    for _ in range(MAX_TRIES):
        play.from_server(1, CANCELED + READY)
    assert play.client.take() == b""
    play.wire_of(1).take()
    play.from_server(1, CANCELED + READY)
    assert play.client.take() == CANCELED + READY
    assert play.wire_of(1).take() == query(b"DISCARD ALL")


def test_settings_are_not_asked_for_again_in_a_transaction() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(query(b"BEGIN"))
    play.b(APPLIED)
    play.server.take()
    play.b(complete(b"BEGIN") + READY_T)
    play.f(query(b"RESET work_mem"))
    play.b(complete(b"RESET") + READY_T)
    play.f(query(b"SHOW work_mem"))
    told = play.b(CANCELED + READY_E)
    assert b"57014" in told
    assert NO_TIMEOUT not in play.server.take()


def test_refused_setting_skips_a_pipeline_to_its_sync() -> None:
    play = with_setting(links=2)
    elsewhere(play)
    play.f(frontend.Parse(b"", b"SELECT 1", []).encode() + frontend.FLUSH)
    play.from_server(1, REFUSED + READY)
    assert play.client.take() == REFUSED
    play.f(frontend.SYNC)
    assert play.client.take() == READY


def test_pinned_client_has_its_startup_values_again_after_a_reset() -> None:
    """Rule 16. The server's RESET goes back to the server's own value."""
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(query(b"BEGIN"))
    play.b(APPLIED)
    assert play.server.take() == query(b"BEGIN")
    play.b(complete(b"BEGIN") + READY_T)
    play.f(query(b"RESET work_mem"))
    play.b(complete(b"RESET") + READY_T)
    asked = play.f(query(b"SHOW work_mem"))
    assert b"pg_catalog.set_config(E'work_mem',E'1MB',false)" in asked
    assert b"SHOW" not in asked
    assert play.b(row(b"t") + complete(b"SELECT 1") + READY_T) == b""
    assert play.server.take() == query(b"SHOW work_mem")


def test_startup_value_that_cannot_be_made_again_ends_the_session() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(query(b"BEGIN; RESET work_mem"))
    play.b(APPLIED + complete(b"BEGIN") + complete(b"RESET") + READY_T)
    play.f(query(b"SHOW work_mem"))
    assert play.b(REFUSED + READY_E) == fatal("42501", "permission denied to set parameter")
    assert play.session.phase == CLOSED
    assert play.server.take().startswith(query(b"ROLLBACK"))


def test_failed_transaction_is_not_asked_for_settings() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(query(b"BEGIN; RESET work_mem"))
    play.b(APPLIED + complete(b"BEGIN") + complete(b"RESET") + READY_T)
    play.server.take()
    play.session.state.due = {"work_mem": b"1MB"}
    play.link.status = ord("E")
    assert play.f(query(b"ROLLBACK")) == query(b"ROLLBACK")


def test_pinned_client_keeps_what_it_resets_between_transactions() -> None:
    play = Playbook(settings={"work_mem": "1MB"})
    play.f(query(b"LISTEN ch"))
    play.b(APPLIED)
    play.server.take()
    play.b(complete(b"LISTEN") + READY)
    play.looked_at(row(b"s", b"work_mem", b"1MB") + row(b"p", b"LISTEN", b""))
    play.f(query(b"RESET work_mem"))
    play.b(complete(b"RESET") + READY)
    # The look finds it gone: it is made again before the next statement.
    play.looked_at(row(b"p", b"LISTEN", b""))
    asked = play.f(query(b"SHOW work_mem"))
    assert b"pg_catalog.set_config(E'work_mem',E'1MB',false)" in asked
    play.b(APPLIED)
    assert play.server.take() == query(b"SHOW work_mem")
    assert play.session.link is play.link


def test_session_pooling_makes_no_settings_between_statements() -> None:
    play = Playbook(mode=POOL_SESSION)
    play.f(query(b"SET work_mem = '1MB'"))
    play.b(complete(b"SET") + READY)
    assert play.f(query(b"SHOW work_mem")) == query(b"SHOW work_mem")
    assert play.session.state.desired == {}


def test_client_is_told_of_differences_only() -> None:
    play = Playbook(links=2)
    play.links[1].reported[b"TimeZone"] = b"UTC"
    play.links[1].reported_id = 77
    play.f(query(b"SELECT 1"))
    play.b(complete(b"SELECT 1") + READY)
    elsewhere(play)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    assert play.client.take() == backend.parameter_status(b"TimeZone", b"UTC")


def test_name_that_the_client_has_for_itself_is_known() -> None:
    play = Playbook()
    play.session.client.fragment = b"made before"
    play.f(query(b"SET application_name = 'report'"))
    told = backend.parameter_status(b"application_name", b"report")
    assert play.b(told) == told
    assert play.session.client.application_name == "report"
    assert play.session.client.fragment == b""
    # The same once more is no change.
    play.session.client.fragment = b"made before"
    play.b(told)
    assert play.session.client.fragment == b"made before"


def test_transaction_that_a_server_would_misread_ends_the_session() -> None:
    """Rule 37. A text was judged as the server will not read it once a startup value is back."""
    play = Playbook(settings={"standard_conforming_strings": "off"}, is_greeted=False)
    play.gate.judges = True
    reported = {**REPORTED, b"standard_conforming_strings": b"off"}
    play.welcomes.put("app", "alice", play.session.state.key, reported)
    play.session.start()
    play.f(query(b"SET standard_conforming_strings = on"))
    on = backend.parameter_status(b"standard_conforming_strings", b"on")
    play.b(OFF + APPLIED)
    play.b(on + complete(b"SET") + READY)
    play.server.take()
    play.b(row(b"s", b"standard_conforming_strings", b"on") + complete(b"SELECT 1") + READY)
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.f(query(b"RESET standard_conforming_strings"))
    play.b(complete(b"RESET") + READY_T)
    asked = play.f(query(HIDING))
    assert b"set_config(E'standard_conforming_strings',E'off',false)" in asked
    said = play.b(OFF + row(b"t") + complete(b"SELECT 1") + READY_T)
    assert said.startswith(OFF)
    assert b"SFATAL\x00VFATAL\x00C58000\x00" in said
    assert HIDING not in play.server.take()
    assert play.client.is_closed
    assert play.link.is_closed


@pytest.mark.parametrize("name", [b"standard_conforming_strings", b"client_encoding"])
def test_reported_setting_changes_how_texts_are_read_from_now_on(name: bytes) -> None:
    play = Playbook()
    value = b"off" if name.startswith(b"standard") else b"SJIS"
    play.f(query(b"SET x.y = 1"))
    told = backend.parameter_status(name, value)
    assert play.b(told) == told
    assert play.session.intake.is_unsafe
    assert play.session.phase != IDLE
