"""Rules 15 to 18: what a session has set, what RESET returns to, and how it is asked for and made."""

import pytest

from proxy.protocol import backend
from proxy.session.probe import PROBE, probe_sql
from proxy.session.state import (
    LOAD,
    MAX_CUSTOM,
    NO_NAMES,
    NO_SETTINGS,
    SessionState,
    apply_sql,
    quote_bytes,
    reset_sql,
    resets_sql,
    settings_key,
)
from proxy.session.tuning import CancelKey, Welcomes
from proxy.sql.classify import PgClassifier
from tests.support.playbook import READY, Playbook, complete, error, query, row

CLASSIFIER = PgClassifier()


def noted(state: SessionState, *texts: str) -> SessionState:
    for text in texts:
        state.note(CLASSIFIER.exact(text.encode()))
    return state


def test_names_are_lower_case_and_the_clients_name_is_ascii() -> None:
    state = SessionState({"TimeZone": "CET", "Application_Name": "café\n", "x.y": "é"})
    # pg_clean_ascii, since PostgreSQL 16.
    assert state.startup["application_name"] == b"caf\\xc3\\xa9\\x0a"
    assert state.startup["timezone"] == b"CET"
    assert state.desired == state.startup
    assert state.custom == {"x.y": None}
    assert SessionState({}).custom is NO_NAMES


def test_custom_settings_are_known_by_the_texts_that_make_them() -> None:
    state = noted(
        SessionState({}), "SET a.b = 1; SET work_mem = '1MB'", "SET A.c = 1", "SET a.b = 2"
    )
    assert state.custom == {"a.b": None, "a.c": None}
    assert not state.is_opaque


def test_custom_settings_that_cannot_be_asked_for_by_name_are_as_if_code_had_run() -> None:
    state = noted(SessionState({}), "SELECT set_config('a.é', '1', false)")
    assert state.custom == {}
    assert state.is_opaque
    state = SessionState({})
    for number in range(MAX_CUSTOM):
        noted(state, f"SET a.b{number} = 1")
    assert not state.is_opaque
    noted(state, "SET a.b0 = 1")
    assert not state.is_opaque
    noted(state, "SET a.more = 1")
    assert len(state.custom) == MAX_CUSTOM
    assert state.is_opaque


@pytest.mark.parametrize(
    ("texts", "due"),
    [
        (["RESET ALL"], {"timezone": b"CET", "work_mem": b"1MB"}),
        (["RESET timezone"], {"timezone": b"CET"}),
        (["RESET timezone", "RESET work_mem"], {"timezone": b"CET", "work_mem": b"1MB"}),
        (["RESET timezone; SET timezone = 'UTC'"], {}),
        (["RESET ALL", "SET timezone = 'UTC'; SET other.one = 1"], {"work_mem": b"1MB"}),
        (["RESET datestyle"], {}),
        (["RESET role"], {"role": b"bob"}),
        (["RESET timezone", "DO $$BEGIN END$$"], {}),
        (["SELECT 1; RESET timezone"], {"timezone": b"CET"}),
    ],
)
def test_rule_16_what_is_reset_has_its_startup_value_again(
    texts: list[str], due: dict[str, bytes]
) -> None:
    state = noted(SessionState({"timezone": "CET", "work_mem": "1MB", "role": "bob"}), *texts)
    state.ended(False, False)
    assert state.due == due
    assert state.resets == NO_SETTINGS
    state.ended(False, True)
    assert state.due == due


def test_resets_of_a_failed_exchange_are_none() -> None:
    state = noted(SessionState({"timezone": "CET"}), "RESET timezone")
    state.ended(True, True)
    assert state.due == NO_SETTINGS
    assert state.resets == NO_SETTINGS


def test_settings_of_a_transaction_make_statements_of_their_own_until_it_ends() -> None:
    state = SessionState({})
    assert state.planning() == b""
    noted(state, "SET LOCAL search_path = s")
    first = state.planning()
    noted(state, "SET LOCAL role = bob")
    assert b"" != first != state.planning() != b""
    state.ended(False, False)
    assert state.is_local
    state.ended(False, True)
    assert state.planning() == b""


def test_rule_10_planning_is_of_search_path_and_role() -> None:
    keys = {
        SessionState(settings).planning()
        for settings in (
            {"work_mem": "1MB"}, {}, {"search_path": "a"}, {"role": "a"},
            {"search_path": "a", "role": "a"}, {"search_path": ""},
        )
    }  # fmt: skip
    assert len(keys) == 5


@pytest.mark.parametrize(
    ("text", "has_failed", "is_loaded"),
    [
        ("LOAD 'x'", False, True),
        ("LOAD 'x'", True, False),
        # Whichever has failed, it may have been loaded before.
        ("LOAD 'x'; SELECT 1", True, True),
    ],
)
def test_rule_19_a_library_stays_with_its_client(
    text: str, has_failed: bool, is_loaded: bool
) -> None:
    state = noted(SessionState({}), text)
    state.ended(has_failed, True)
    assert state.is_loaded == is_loaded
    pins: list[str] = ["LISTEN"]
    state.learn({}, pins)
    assert state.pins == (["LISTEN", LOAD] if is_loaded else ["LISTEN"])


def test_what_a_look_finds_is_what_is_wanted_from_now_on() -> None:
    state = noted(SessionState({"timezone": "CET"}), "DO $$BEGIN END$$")
    state.learn({"work_mem": b"1MB", "default_transaction_isolation": b"Serializable"}, [])
    assert state.desired["timezone"] == b"CET"
    assert state.desired["work_mem"] == b"1MB"
    assert state.is_serializable
    assert not state.is_opaque
    assert state.key == settings_key(state.desired) != settings_key(state.startup)
    state.learn({"timezone": b"UTC"}, [])
    assert state.desired == {"timezone": b"UTC"}
    assert not state.is_serializable


def test_settings_have_one_key_whatever_their_order() -> None:
    assert settings_key({"a": b"1", "b": b"2"}) == settings_key({"b": b"2", "a": b"1"})
    assert settings_key({"a": b"1"}) != settings_key({"a": b"2"})
    assert settings_key({}) == b""


@pytest.mark.parametrize(
    ("applied", "desired", "is_foreign", "sql"),
    [
        ({}, {}, False, b""),
        ({"a": b"1"}, {"a": b"1"}, False, b""),
        ({"a": b"1"}, {}, False, b'RESET "a"'),
        ({"a.b": b"1"}, {}, False, b'RESET "a"."b"'),
        ({}, {"a": b"1"}, False, b"SELECT pg_catalog.set_config(E'a',E'1',false) IS NULL"),
        ({"role": b"bob"}, {}, False, b'RESET "role"'),
        ({"role": b"bob"}, {"role": b"bob"}, True, b"RESET ALL"),
        ({"a": b"1"}, {}, True, b"RESET ALL"),
        ({"role": b"bob", "a": b"1"}, {"role": b"eve", "b": b"2"}, False,
         b'RESET "role";RESET "a";SELECT pg_catalog.set_config(E\'b\',E\'2\',false) IS NULL,'
         b"pg_catalog.set_config(E'role',E'eve',false) IS NULL"),
        ({"a": b"1"}, {"a": b"1"}, True,
         b"RESET ALL;SELECT pg_catalog.set_config(E'a',E'1',false) IS NULL"),
    ],
)  # fmt: skip
def test_settings_of_a_connection_are_made_those_that_are_wanted(
    applied: dict[str, bytes], desired: dict[str, bytes], is_foreign: bool, sql: bytes
) -> None:
    link = Playbook.new_link()
    link.applied = applied
    assert apply_sql(desired, link, is_foreign) == sql


def test_rule_17_values_are_quoted() -> None:
    assert quote_bytes(b"it's \\ x") == b"E'it''s \\\\ x'"
    assert quote_bytes("é".encode()) == (
        b"pg_catalog.convert_from(pg_catalog.decode('c3a9','hex'),pg_catalog.getdatabaseencoding())"
    )
    assert reset_sql('a"b.c') == b'RESET "a""b"."c"'
    assert resets_sql({"a": b"'"}) == (b"SELECT pg_catalog.set_config(E'a',E'''',false) IS NULL")


def test_the_question_is_as_short_as_it_can_be() -> None:
    assert probe_sql({}, False, False) == PROBE
    named = probe_sql({"a.b": None, "a.c": None}, False, False)
    assert b"'{a.b,a.c}'" in named
    assert b"pg_proc" not in named
    assert b"pg_proc" in probe_sql({}, True, False)
    careful = probe_sql({}, False, True)
    assert b"SET LOCAL statement_timeout TO 0;" in careful
    assert careful.index(b"SET LOCAL") < careful.index(b"pg_settings")


def looking() -> Playbook:
    play = Playbook()
    play.f(query(b"SELECT f()"))
    play.b(complete(b"SELECT 1") + READY)
    assert b"pg_catalog.pg_settings" in play.server.take()
    return play


def test_answers_of_a_look() -> None:
    play = looking()
    play.b(
        row(b"s", b"TimeZone", b"CET") + row(b"x", b"a.b", b"c3a9") + row(b"s", b"none", None)
        + row(b"p", b"LISTEN", b"") + row(b"p", b"LISTEN", b"") + row(b"p", None, b"")
        + complete(b"SELECT 1") + READY
    )  # fmt: skip
    assert play.session.state.desired == {"timezone": b"CET", "a.b": "é".encode()}
    assert play.session.state.pins == ["LISTEN"]
    assert play.link.applied == play.session.state.desired
    assert play.link.applied_key == play.session.state.key
    assert play.session.link is play.link


@pytest.mark.parametrize(
    "broken", [row(b"s", b"a"), row(b"x", b"a", b"zz"), error("42501", "no"), error("", "")]
)
def test_rule_15_what_cannot_be_known_stays_with_its_client(broken: bytes) -> None:
    play = looking()
    play.b(broken + READY)
    assert play.session.state.pins == ["unknown state"]
    assert play.session.link is play.link
    assert play.link.applied == {}
    assert play.broker.free == []


def test_a_look_that_is_cancelled_is_tried_again_but_not_for_ever() -> None:
    play = looking()
    cancelled = error("57014", "canceling statement due to statement timeout") + READY
    for _ in range(4):
        play.b(cancelled)
        assert b"SET LOCAL statement_timeout TO 0" in play.server.take()
    play.b(cancelled)
    assert play.server.take() == b""
    assert play.session.state.pins == ["unknown state"]


def test_known_greetings_are_bounded_and_forgotten() -> None:
    welcomes = Welcomes(2)
    for database in ("a", "b"):
        welcomes.put(database, "u", b"", {b"x": b"1"})
    assert welcomes.get("a", "u", b"") == welcomes.get("b", "u", b"") == {b"x": b"1"}
    assert welcomes.get("a", "u", b"other") is None
    welcomes.put("c", "u", b"", {})
    assert welcomes.get("a", "u", b"") is None
    assert welcomes.get("c", "u", b"") == {}
    known = welcomes.prepared("c", "u")
    known[b"key"] = b""
    assert welcomes.prepared("c", "u") is known
    assert welcomes.prepared("c", "v") == {}
    welcomes.clear()
    assert welcomes.get("c", "u", b"") is None
    assert welcomes.prepared("c", "u") == {}


def test_known_statements_are_bounded() -> None:
    welcomes = Welcomes(1)
    for number in range(11):
        welcomes.prepared("a", "u")[b"%d" % number] = b""
    assert welcomes.prepared("a", "u") == {}


def test_a_cancel_key_does_not_show_its_secret() -> None:
    assert repr(CancelKey(7, b"secret")) == "CancelKey(process_id=7)"


def test_what_is_reset_stays_told() -> None:
    """Nothing is told to the client while the proxy makes settings for it."""
    play = looking()
    told = backend.parameter_status(b"TimeZone", b"CET")
    assert play.b(told + complete(b"SELECT 0") + READY) == b""
