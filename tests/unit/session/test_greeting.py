"""What a client is told at its start, from which server it is known, and who is turned away."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend
from proxy.routing.route import READ, WRITE
from proxy.session.ports import Keys
from proxy.session.relay import CLOSED, IDLE, STARTING
from proxy.session.tuning import POOL_SESSION, CancelKey
from tests.support.playbook import (
    READY,
    REPORTED,
    Playbook,
    complete,
    error,
    fatal,
    query,
    row,
)

KEY = CancelKey(7, b"\x01\x02\x03\x04")
GREETING = (
    b"".join(backend.parameter_status(name, value) for name, value in REPORTED.items())
    + backend.backend_key_data(7, KEY.secret_key)
    + READY
)
APPLIED = row(b"t") + complete(b"SELECT 1") + READY


def newcomer(settings: dict[str, str] | None = None, links: int = 1) -> Playbook:
    """A client whose like was not seen yet."""
    play = Playbook(settings=settings, links=links, is_greeted=False)
    play.session.key = KEY
    return play


def test_first_client_is_greeted_with_what_the_primary_reports() -> None:
    play = newcomer()
    play.session.start()
    assert play.client.take() == GREETING
    assert play.server.take() == b""
    assert play.broker.routes == [WRITE]
    assert play.broker.free == [play.link]
    assert play.session.phase == IDLE


def test_next_client_of_the_same_login_needs_no_server() -> None:
    play = newcomer(links=0)
    play.welcomes.put("app", "alice", b"", dict(REPORTED))
    play.session.start()
    assert play.client.take() == GREETING
    assert play.broker.routes == []


def test_client_waits_for_its_greeting_and_may_send_ahead() -> None:
    play = newcomer(links=0)
    play.session.start()
    play.session.receive_from_frontend(query(b"SELECT 1"))
    assert play.client.take() == b""
    assert play.session.phase == STARTING
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.client.take() == GREETING
    assert play.server.take() == query(b"SELECT 1")


def test_startup_settings_are_made_before_anything_is_reported() -> None:
    play = newcomer({"DateStyle": "German"})
    play.session.start()
    assert play.client.take() == b""
    assert b"pg_catalog.set_config(E'datestyle',E'German',false)" in play.server.take()
    told = backend.parameter_status(b"DateStyle", b"German, DMY")
    assert play.b(told) == b""
    greeting = play.b(APPLIED)
    assert told in greeting
    assert greeting.endswith(backend.backend_key_data(7, KEY.secret_key) + READY)
    assert play.link.applied == {"datestyle": b"German"}
    known = play.welcomes.get("app", "alice", play.session.state.key)
    assert known is not None
    assert known[b"DateStyle"] == b"German, DMY"


def test_setting_that_the_server_refuses_is_fatal_with_its_words() -> None:
    play = newcomer({"work_mem": "lots"})
    play.session.start()
    play.server.take()
    play.b(error("22023", 'invalid value for parameter "work_mem": "lots"'))
    assert play.b(READY) == fatal("22023", 'invalid value for parameter "work_mem": "lots"')
    assert play.client.is_closed
    assert play.session.phase == CLOSED
    # What was made of the settings before is taken back, before anyone else gets the connection.
    assert play.server.take() == query(b"DISCARD ALL")
    assert play.broker.free == []
    play.b(complete(b"DISCARD ALL") + READY)
    assert play.broker.free == [play.link]


def test_without_a_primary_a_standby_greets() -> None:
    play = newcomer(links=0)
    play.session.start()
    play.links.append(play.new_link())
    play.broker.free = [play.link]
    play.broker.refuse(Refusal("57P03", "no primary"))
    assert play.broker.routes == [WRITE, READ]
    assert play.client.take() == GREETING


def test_a_standby_may_be_waited_for() -> None:
    play = newcomer(links=0)
    play.session.start()
    play.broker.refuse(Refusal("57P03", "no primary"))
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.client.take() == GREETING


def test_with_no_node_at_all_the_client_is_sent_away() -> None:
    play = newcomer(links=0)
    play.session.start()
    play.broker.refuse(Refusal("57P03", "no primary"))
    play.broker.refuse(Refusal("57P03", "no node"))
    assert play.client.take() == fatal("57P03", "no node")
    assert play.client.is_closed
    assert play.session.phase == CLOSED


@pytest.mark.parametrize("sqlstate", ["28P01", "3D000"])
def test_servers_own_refusal_is_fatal_at_once(sqlstate: str) -> None:
    play = newcomer(links=0)
    play.session.start()
    play.broker.refuse(Refusal(sqlstate, "no"))
    assert play.client.take() == fatal(sqlstate, "no")
    assert play.broker.routes == [WRITE]
    assert play.counters.sqlstates == {sqlstate: 1}


def test_server_that_goes_away_while_it_greets_is_fatal() -> None:
    play = newcomer({"timezone": "UTC"})
    play.session.start()
    play.link.connection_lost()
    said = play.client.take()
    assert b"SFATAL\x00" in said
    assert b"C08006\x00" in said
    assert play.client.is_closed


def test_client_that_leaves_before_its_greeting_waits_for_nothing() -> None:
    play = newcomer(links=0)
    play.session.start()
    play.session.on_frontend_lost()
    assert play.broker.waiting is None
    assert play.client.take() == b""


def test_client_that_leaves_while_its_settings_are_made_leaves_a_closed_connection() -> None:
    play = newcomer({"timezone": "UTC"})
    play.session.start()
    play.session.on_frontend_lost()
    assert [link for link, _ in play.broker.discarded] == [play.link]
    assert play.link.is_closed


LONG = "x" * 65
CUT = "x" * 63


def named_notice(text: str, kept: str) -> bytes:
    said = f'identifier "{text}" will be truncated to "{kept}"'
    routine = "truncate_identifier"
    return backend.notice_response(Refusal("42622", said, severity="NOTICE", routine=routine))


@pytest.mark.parametrize(
    ("startup", "told"),
    [
        ({"application_name": CUT}, b""),
        ({"user": "alice", "application_name": LONG}, named_notice(LONG, CUT)),
        ({"Application_Name": "é" * 40}, named_notice("é" * 40, "é" * 31)),
        ({"application_name": "\\xe9" * 40}, b""),
        ({"client_min_messages": "Warning", "application_name": LONG}, b""),
        ({"client_min_messages": "log", "application_name": LONG}, named_notice(LONG, CUT)),
        ({"application_name": LONG, "client_min_messages": "error"}, named_notice(LONG, CUT)),
    ],
)
@pytest.mark.parametrize("is_known", [False, True])
def test_a_name_that_is_cut_is_said_at_the_login(
    startup: dict[str, str], told: bytes, is_known: bool
) -> None:
    play = newcomer()
    if is_known:
        play.welcomes.put("app", "alice", b"", dict(REPORTED))
    play.session.client.startup = startup
    play.session.start()
    assert play.client.take() == told + GREETING


# -- session mode


class Renaming(Keys):
    """Gives keys the process id of the server."""

    def rename(self, key: CancelKey, process_id: int) -> CancelKey:
        return CancelKey(process_id, key.secret_key)


def of_session_mode(links: int = 1) -> Playbook:
    play = Playbook(mode=POOL_SESSION, links=links, is_greeted=False)
    play.session.key = KEY
    play.session.keys = Renaming()
    play.welcomes.put("app", "alice", b"", dict(REPORTED))
    return play


def test_in_session_mode_a_client_has_its_server_from_its_login_on() -> None:
    play = of_session_mode()
    play.session.start()
    assert backend.backend_key_data(100, KEY.secret_key) in play.client.take()
    assert play.session.link is play.link
    assert play.link.user_session is play.session
    assert play.link.speaker.client_id == 100
    assert play.broker.free == []
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")
    assert play.broker.routes == [WRITE]


def test_in_session_mode_a_client_waits_for_its_server() -> None:
    play = of_session_mode(links=0)
    play.session.start()
    assert play.client.take() == b""
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert backend.backend_key_data(100, KEY.secret_key) in play.client.take()


def test_in_session_mode_a_server_that_is_lost_takes_the_client_with_it() -> None:
    play = of_session_mode()
    play.session.start()
    play.client.take()
    play.from_server(0, fatal("57P01", "terminating connection due to administrator command"))
    play.link.connection_lost()
    assert b"C57P01\x00" in play.client.take()
    assert play.client.is_closed


def test_in_session_mode_a_standby_that_greets_is_not_kept() -> None:
    play = of_session_mode(links=0)
    play.session.start()
    play.links.append(play.new_link())
    play.broker.refuse(Refusal("57P03", "no primary"))
    play.broker.grant(play.link)
    assert play.client.take() == GREETING
    assert play.session.link is None


def test_in_session_mode_a_route_hook_chooses_the_server_by_the_first_statement() -> None:
    play = of_session_mode()
    play.gate.routes = True
    play.session.start()
    assert play.client.take() == GREETING
    assert play.broker.routes == []


def test_session_without_a_registry_of_keys_keeps_its_key() -> None:
    play = of_session_mode()
    play.session.keys = None
    play.session.start()
    assert play.client.take() == GREETING
    assert play.session.link is play.link
