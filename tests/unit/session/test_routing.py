"""Where a batch goes: by its facts, by the route hook, by what was sent before; and what waits."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.routing.route import READ, ROUTE_DEFAULT, ROUTE_NODE, WRITE, Route
from proxy.session.inspection import VERDICT_ANSWER, VERDICT_REFUSE, Inspection, RowSet
from proxy.session.ports import Waiter
from proxy.session.relay import IDLE, ROUTING, WAITING
from proxy.session.tuning import POOL_SESSION, POOL_STATEMENT
from tests.support.playbook import (
    CLASSIFIER,
    READY,
    READY_E,
    READY_T,
    FakeBroker,
    Playbook,
    Rule,
    Slow,
    bind,
    complete,
    describe,
    error,
    execute,
    parse,
    query,
)

ELSEWHERE = Route(ROUTE_NODE, "pg7", False)
NO = error("42501", "not there")
FUNCTION_CALL = frontend.FunctionCall(1, [], [], 0).encode()


def to_elsewhere(inspection: Inspection) -> None:
    inspection.route = ELSEWHERE


def as_usual(inspection: Inspection) -> None:
    inspection.route = Route(ROUTE_DEFAULT, "", True)


def answer(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [[b"1"]])


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42501", "not there")


def routed(links: int = 1) -> Playbook:
    play = Playbook(links=links)
    play.gate.judges = play.gate.routes = True
    return play


# -- by the facts


@pytest.mark.parametrize(
    ("sent", "route"),
    [
        (query(b"SELECT a FROM t"), READ),
        (query(b"SELECT a FROM t; SELECT 2"), READ),
        (query(b"SELECT a FROM t; DELETE FROM t"), WRITE),
        (query(b"SELECT a FROM t FOR UPDATE"), WRITE),
        (query(b""), READ),
        (parse(b"", b"SELECT a FROM t") + bind(b"") + execute() + frontend.SYNC, READ),
        (parse(b"", b"DELETE FROM t") + bind(b"") + execute() + frontend.SYNC, WRITE),
        (FUNCTION_CALL, WRITE),
    ],
)
def test_only_plain_reads_may_go_to_a_standby(sent: bytes, route: Route) -> None:
    play = Playbook()
    assert play.f(sent) == sent
    assert play.broker.routes == [route]


def test_session_pooling_knows_no_standby() -> None:
    play = Playbook(mode=POOL_SESSION)
    play.f(query(b"SELECT 1"))
    assert play.broker.routes == [WRITE]


def test_serializable_session_knows_no_standby() -> None:
    play = Playbook(settings={"default_transaction_isolation": "serializable"})
    play.f(query(b"SELECT 1"))
    assert play.broker.routes == [WRITE]


def test_execution_after_a_flush_stays_where_its_portal_is() -> None:
    play = Playbook()
    play.f(parse(b"", b"SELECT a FROM t") + bind(b"") + frontend.FLUSH)
    assert play.broker.routes == [WRITE], "its portal cannot be taken along"
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE)
    assert play.f(execute() + frontend.SYNC) == execute() + frontend.SYNC
    assert len(play.broker.routes) == 1


def test_transaction_in_statement_pooling_ends_the_session() -> None:
    play = Playbook(mode=POOL_STATEMENT)
    play.f(query(b"SELECT 1"))
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY
    play.f(query(b"BEGIN"))
    said = play.b(complete(b"BEGIN") + READY_T)
    assert said.startswith(complete(b"BEGIN") + READY_T)
    assert b"SFATAL\x00VFATAL\x00C08P01\x00Mtransaction blocks are not allowed" in said
    assert play.client.is_closed
    assert play.server.take() == query(b"ROLLBACK")


# -- from a standby to the primary, before anything was executed


def test_prepared_on_a_standby_executed_on_the_primary() -> None:
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT 1") + describe() + frontend.FLUSH)
    replies = backend.PARSE_COMPLETE + backend.parameter_description([]) + backend.NO_DATA
    assert play.b(replies) == replies
    rest = parse(b"", b"DELETE FROM t") + bind(b"") + execute() + frontend.SYNC
    # The Sync that ends the group on the standby is the proxy's own.
    assert play.f(rest) == frontend.SYNC
    assert play.wire_of(1).take() == rest
    assert play.broker.routes == [READ, WRITE]
    assert play.b(READY) == b""
    assert play.broker.free == [play.link]
    done = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"DELETE 1") + READY
    play.from_server(1, done)
    assert play.client.take() == done


def test_standby_that_does_not_end_the_group_is_not_used_again() -> None:
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    play.b(backend.PARSE_COMPLETE)
    play.f(parse(b"", b"DELETE FROM t") + bind(b"") + execute() + frontend.SYNC)
    assert play.b(error("XX000", "?") + READY_E) == b""
    assert [link for link, _ in play.broker.discarded] == [play.link]


def test_what_follows_on_a_standby_waits_for_the_replies_under_way() -> None:
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    execution = parse(b"", b"DELETE FROM t") + bind(b"") + execute()
    assert play.f(execution + frontend.FLUSH + execution + frontend.SYNC) == b""
    assert play.broker.routes == [READ]
    assert play.b(backend.PARSE_COMPLETE) == backend.PARSE_COMPLETE
    assert play.server.take() == frontend.SYNC
    # From here on the group is where it stays: a Sync of the proxy's would commit the first half.
    sent = execution + frontend.FLUSH + execution + frontend.SYNC
    assert play.wire_of(1).take() == sent
    assert play.broker.routes == [READ, WRITE]


def test_what_is_executed_waits_for_a_connection() -> None:
    play = Playbook(links=0)
    twice = 2 * (parse(b"", b"SELECT 1") + bind(b"") + execute())
    play.session.receive_from_frontend(twice + frontend.SYNC)
    assert play.session.phase == WAITING
    assert play.client.take() == b""


def test_what_only_reads_stays_on_the_standby() -> None:
    play = Playbook(links=2)
    play.f(parse(b"", b"SELECT 1") + frontend.FLUSH)
    rest = parse(b"", b"SELECT 2") + bind(b"") + execute() + frontend.SYNC
    assert play.f(rest) == b""
    play.b(backend.PARSE_COMPLETE)
    assert play.server.take() == rest
    assert play.broker.routes == [READ]


# -- by the route hook


def test_route_hook_names_a_node() -> None:
    play = routed()
    play.gate.routings[b"FROM t"] = to_elsewhere
    assert play.f(query(b"SELECT a FROM t")) == query(b"SELECT a FROM t")
    assert play.broker.routes == [ELSEWHERE]


@pytest.mark.parametrize("needle", [b"FROM t", b"nothing"])
def test_route_hook_may_leave_it_to_the_facts(needle: bytes) -> None:
    play = routed()
    play.gate.routings[needle] = as_usual
    play.f(query(b"SELECT a FROM t"))
    assert play.broker.routes == [READ]


def test_first_statement_that_names_a_node_decides_for_the_batch() -> None:
    play = routed()
    play.gate.routings[b"FROM u"] = to_elsewhere
    play.f(query(b"SELECT a FROM t; SELECT a FROM u; SELECT a FROM v"))
    assert play.broker.routes == [ELSEWHERE]


def test_route_hook_refuses_a_query() -> None:
    play = routed()
    play.gate.routings[b"FROM t"] = refuse
    assert play.f(query(b"SELECT a FROM t")) == b""
    assert play.client.take() == NO + READY
    assert play.broker.routes == []
    assert play.session.phase == IDLE


def test_route_hook_refuses_one_statement_of_a_pipeline() -> None:
    play = routed()
    play.gate.routings[b"FROM u"] = refuse
    first = parse(b"", b"SELECT a FROM t") + bind(b"") + execute()
    play.f(first + parse(b"", b"SELECT a FROM u") + bind(b"") + execute() + frontend.SYNC)
    # The server itself fails where the refused Parse stood, and skips to the Sync.
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SELECT 1"))
    assert play.b(error("42601", "syntax error") + READY) == NO + READY


@pytest.mark.parametrize(
    ("rule", "routes", "reply"),
    [(as_usual, [READ], b""), (to_elsewhere, [ELSEWHERE], b""), (refuse, [], NO + READY)],
)
def test_route_hook_may_take_its_time(rule: Rule, routes: list[Route], reply: bytes) -> None:
    play = routed()
    play.gate.slow_routes.append(b"FROM t")
    play.gate.routings[b"FROM t"] = rule
    sent = query(b"SELECT a FROM t; SELECT a FROM u")
    assert play.f(sent) == b""
    assert play.session.phase == ROUTING
    play.gate.decide()
    assert play.broker.routes == routes
    assert play.client.take() == reply
    assert play.server.take() == (b"" if reply else sent)


def test_route_hook_refuses_what_an_execute_may_run() -> None:
    """Whether the PREPARE before it fails is not known yet: each statement that it may run counts."""
    play = routed()
    play.f(parse(b"p", b"SELECT a FROM u") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.gate.routings[b"FROM u"] = refuse
    first = parse(b"", b"PREPARE p AS SELECT a FROM v") + bind(b"") + execute()
    sent = play.f(first + parse(b"", b"EXECUTE p") + bind(b"") + execute() + frontend.SYNC)
    assert b"PREPARE p" in sent
    assert b"EXECUTE p" not in sent
    assert b"FROM u" not in sent
    # The name in PREPARE is the proxy's own on the server: one more Parse, which is unseen.
    done = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"PREPARE")
    said = play.b(backend.PARSE_COMPLETE + done + error("42601", "syntax error") + READY)
    assert said == done + NO + READY


@pytest.mark.parametrize("hook", ["judge", "route"])
def test_first_statement_of_several_in_one_parse_may_be_refused(hook: str) -> None:
    """No server takes such a text; but it is not the proxy that should count on that."""
    play = routed()
    (play.gate.rules if hook == "judge" else play.gate.routings)[b"FROM u"] = refuse
    assert play.f(parse(b"", b"SELECT a FROM u; SELECT a FROM v") + frontend.SYNC) == b""
    assert play.client.take() == NO + READY


def test_query_behind_a_parse_is_refused_in_its_own_place() -> None:
    play = routed()
    play.gate.routings[b"FROM u"] = refuse
    sent = play.f(parse(b"s", b"SELECT a FROM t") + query(b"SELECT a FROM u"))
    assert b"FROM t" in sent
    assert b"FROM u" not in sent
    said = play.b(backend.PARSE_COMPLETE + error("42601", "syntax error") + READY)
    assert said == backend.PARSE_COMPLETE + NO + READY
    assert list(play.session.intake.statements) == [b"s"]


def test_route_hook_refuses_a_function_call() -> None:
    play = routed()
    play.gate.routings[b"FUNCTION CALL 1"] = refuse
    assert play.f(FUNCTION_CALL) == b""
    assert play.client.take() == NO + READY


def test_late_route_for_a_client_that_has_gone_changes_nothing() -> None:
    play = routed()
    play.gate.slow_routes.append(b"FROM t")
    play.f(query(b"SELECT a FROM t"))
    play.session.on_frontend_lost()
    play.gate.decide()
    assert play.broker.routes == []


def test_statement_that_the_proxy_answers_needs_no_route() -> None:
    play = routed()
    play.gate.rules[b"FROM t"] = answer
    play.gate.routings[b"FROM t"] = to_elsewhere
    play.gate.routings[b"FROM u"] = as_usual
    play.f(query(b"SELECT a FROM t; SELECT a FROM u"))
    assert play.broker.routes == [READ]


def test_transaction_stays_where_it_is_whatever_the_hook_would_say() -> None:
    play = routed()
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)
    play.broker.routes.clear()
    play.gate.routings[b"FROM t"] = to_elsewhere
    assert play.f(query(b"SELECT a FROM t")) == query(b"SELECT a FROM t")
    assert play.broker.routes == []


# -- waiting


def test_client_waits_for_its_turn() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1"))
    assert play.session.phase == WAITING
    play.links.append(play.new_link())
    play.broker.grant(play.link)
    assert play.server.take() == query(b"SELECT 1")
    assert play.b(complete(b"SELECT 1") + READY) == complete(b"SELECT 1") + READY


def test_client_that_waits_too_long_is_told_and_may_go_on() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(query(b"SELECT 1") + query(b"SELECT 2"))
    play.broker.refuse(Refusal("57014", "no connection in time", severity="FATAL"))
    assert play.client.take() == error("57014", "no connection in time") + READY
    assert play.session.phase == WAITING
    assert play.counters.sqlstates == {"57014": 1}


def test_refusal_that_nobody_waits_for_is_dropped() -> None:
    play = Playbook()
    play.session.on_no_backend(Refusal("57014", "too late"))
    assert play.client.take() == b""
    assert play.session.phase == IDLE


def test_known_statements_are_promised_while_all_connections_are_taken() -> None:
    """A driver that prepares on one connection while it holds up another would wait for itself."""
    play = Playbook()
    group = parse(b"s", b"SELECT 1") + frontend.SYNC
    play.f(group)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(frontend.Close(frontend.STATEMENT, b"s").encode() + frontend.SYNC)
    assert play.client.take() == backend.CLOSE_COMPLETE + READY
    play.broker.free = []
    assert play.f(group) == b""
    assert play.client.take() == backend.PARSE_COMPLETE + READY
    assert play.broker.waiting is None
    # It is prepared where it is executed.
    play.f(bind(b"s") + execute() + frontend.SYNC)
    assert play.session.phase == WAITING
    play.links.append(play.new_link(1))
    play.broker.grant(play.links[1])
    assert b"SELECT 1" in play.wire_of(1).take()
    replies = backend.BIND_COMPLETE + complete(b"SELECT 1") + READY
    play.from_server(1, backend.PARSE_COMPLETE + replies)
    assert play.client.take() == replies


def test_pipeline_without_a_connection_is_skipped_to_its_sync() -> None:
    play = Playbook(links=0)
    play.session.receive_from_frontend(parse(b"", b"SELECT 1") + bind(b"") + frontend.FLUSH)
    play.broker.refuse(Refusal("08006", "no node"))
    assert play.client.take() == error("08006", "no node")
    play.session.receive_from_frontend(execute() + frontend.SYNC)
    assert play.client.take() == READY


class HastyBroker(FakeBroker):
    """Refuses before `acquire` returns."""

    def acquire(self, waiter: Waiter, database: str, user: str, route: Route) -> None:
        waiter.on_no_backend(Refusal("3D000", "no such database"))


@pytest.mark.parametrize("is_known", [False, True])
def test_broker_may_refuse_at_once(is_known: bool) -> None:
    CLASSIFIER.facts(b"SELECT 1")
    play = Playbook(classifier=CLASSIFIER if is_known else Slow())
    play.session._broker = HastyBroker()
    assert play.f(query(b"SELECT 1")) == b""
    assert play.client.take() == error("3D000", "no such database") + READY
    assert play.session.phase == IDLE


def test_what_a_statement_needs_for_itself_is_noted() -> None:
    play = Playbook()
    play.f(query(b"DROP DATABASE one; DROP DATABASE two"))
    exchange = play.session.exchange
    assert exchange is not None
    assert exchange.databases == ("one", "two")
