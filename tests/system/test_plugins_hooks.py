"""
The twelve hooks in a running proxy before a real server, over both protocols where they apply: each
fires, sees the truth, and every answer that it may give does what the contract says.
"""

from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json

from proxy.demo.cluster import EmbeddedPostgres
from tests.support.rule_plugin import Rules, Spy, put_rules
from tests.support.system import ProxyFactory, RunningProxy, wait_until

Client = psycopg.Connection[tuple[Any, ...]]

SIMPLE = "simple"
EXTENDED = "extended"
PROTOCOLS = (SIMPLE, EXTENDED)
both = pytest.mark.parametrize("protocol", PROTOCOLS)


def ask(client: Client, sql: str, protocol: str = SIMPLE) -> "psycopg.Cursor[tuple[Any, ...]]":
    """Run a statement by one of the two protocols (libpq takes the extended one for binary)."""
    return client.execute(sql, binary=protocol == EXTENDED, prepare=False)


def start(
    proxy: ProxyFactory,
    hooks: dict[str, Rules],
    permissions: tuple[str, ...] = (),
    more: str = "",
    **sections: Any,
) -> tuple[RunningProxy, Spy]:
    """A proxy with one rule plugin, `spy`."""
    running = proxy(start=False, **{"plugins": {}, **sections})
    put_rules(running, "spy", hooks, permissions, more=more)
    running.start()
    assert running.api("GET", "/api/plugins/spy")[1]["status"] == "active"
    return running, Spy(running, "spy")


def refusal(client: Client, sql: str, protocol: str) -> psycopg.errors.Diagnostic:
    with pytest.raises(psycopg.Error) as caught:
        ask(client, sql, protocol)
    return caught.value.diag


# --- connections ---------------------------------------------------------------------------------


def test_on_connect_lets_in_or_blocks(proxy: ProxyFactory) -> None:
    running, spy = start(
        proxy,
        {
            "on_connect": [
                ('"application_name":"intruder"', {"action": "block", "value": "not you"}),
                (
                    '"application_name":"coded"',
                    {"action": "block", "value": "no", "sqlstate": "28P01", "hint": "ask us"},
                ),
            ]
        },
        ("conn.deny",),
    )
    with running.connect(application_name="guest", options="-c work_mem=3MB") as client:
        assert client.execute("SHOW work_mem").fetchone() == ("3MB",)
    seen = spy.last("on_connect")
    assert seen["database"] == "postgres"
    assert seen["identity"] == "postgres"
    assert seen["attributes"]["application_name"] == "guest"
    assert seen["attributes"]["client_addr"] == "127.0.0.1"
    assert seen["attributes"]["tls"] == "false"
    assert seen["startup"]["work_mem"] == "3MB"
    assert seen["startup"]["user"] == "postgres"
    with pytest.raises(psycopg.OperationalError) as caught:
        running.connect(application_name="intruder")
    assert "FATAL:  Connection refused by plugin: not you" in str(caught.value)
    with pytest.raises(psycopg.OperationalError) as caught:
        running.connect(application_name="coded")
    assert "HINT:  ask us" in str(caught.value)
    assert spy.fired("on_connect") == 3
    metrics = running.metrics()
    labels = {"plugin": "spy", "hook": "on_connect"}
    assert metrics.value("headgate_hook_decisions_total", action="block", **labels) == 2
    assert metrics.value("headgate_hook_decisions_total", action="continue", **labels) == 1


@pytest.mark.parametrize(("may_deny", "lets_in"), [(False, True), (True, False)])
def test_on_connect_fails_open_unless_it_may_deny(
    proxy: ProxyFactory, may_deny: bool, lets_in: bool
) -> None:
    running, spy = start(
        proxy, {"on_connect": [("", "(unreachable)")]}, ("conn.deny",) if may_deny else ()
    )
    if lets_in:
        with running.connect() as client:
            assert client.execute("SELECT 1").fetchone() == (1,)
    else:
        with pytest.raises(psycopg.OperationalError, match='plugin "spy" failed'):
            running.connect()
    assert spy.errors("on_connect") == {"trap": 1}


def test_on_disconnect_tells_what_there_was(proxy: ProxyFactory) -> None:
    running, spy = start(proxy, {"on_disconnect": ()})
    with running.connect(application_name="leaver") as client:
        for number in range(3):
            client.execute(f"SELECT {number}")
        assert spy.fired("on_disconnect") == 0
    wait_until(lambda: spy.fired("on_disconnect") == 1, what="on_disconnect")
    seen = spy.last("on_disconnect")
    assert seen["attributes"]["application_name"] == "leaver"
    assert seen["queries"] == 3
    assert seen["duration_us"] > 0
    assert seen["bytes_received"] > 0
    assert seen["bytes_sent"] > 0
    # One that is killed leaves as well.
    client = running.connect()
    client.execute("SELECT 1")
    client.pgconn.finish()
    wait_until(lambda: spy.fired("on_disconnect") == 2, what="the second on_disconnect")


# --- authorize -----------------------------------------------------------------------------------


@both
def test_authorize_allows_or_denies(
    proxy: ProxyFactory, primary: EmbeddedPostgres, protocol: str
) -> None:
    primary.execute("CREATE TABLE IF NOT EXISTS hooks_secret (a int)")
    running, spy = start(
        proxy,
        {"authorize": [("hooks_secret", {"action": "deny", "value": "not for your roles"})]},
        ("authz.decide",),
    )
    with running.connect() as client:
        assert ask(client, "SELECT 1 AS a", protocol).fetchone() == (1,)
        found = refusal(client, "SELECT * FROM public.hooks_secret", protocol)
        assert found.sqlstate == "42501"
        assert found.message_primary == "permission denied by plugin: not for your roles"
        assert found.severity == "ERROR"
        seen = spy.last("authorize")
        assert seen["tables"] == ["public.hooks_secret"]
        assert seen["kind"] == "select"
        assert seen["is_read_only"] is True
        assert seen["roles"] == []
        assert seen["protocol"] == protocol
        assert seen["phase"] == "statement"
        assert seen["in_transaction"] is False
        assert "parameters" not in seen
        assert ask(client, "SELECT 2 AS a", protocol).fetchone() == (2,)
    assert spy.fired("authorize") == 3


def test_authorize_is_asked_again_about_a_rewritten_text(proxy: ProxyFactory) -> None:
    running, spy = start(
        proxy,
        {
            "authorize": [("hooks_hidden", {"action": "deny", "value": "hidden"})],
            "pre_query": [
                ("innocent", {"action": "rewrite", "value": "SELECT * FROM hooks_hidden"})
            ],
        },
        ("authz.decide", "query.rewrite"),
    )
    with running.connect() as client:
        for protocol in PROTOCOLS:
            assert refusal(client, "SELECT 'innocent'", protocol).sqlstate == "42501"
    assert spy.fired("authorize") == 4


# --- pre_query and rewrite -----------------------------------------------------------------------

PRE_QUERY: Rules = [
    ("do_rewrite", {"action": "rewrite", "value": "SELECT 'rewritten'"}),
    ("do_block_more", {
        "action": "block", "value": "not today", "sqlstate": "P0001", "hint": "tomorrow",
        "detail": "closed",
    }),
    ("do_block", {"action": "block", "value": "no <such> thing: \"ä\""}),
    ("do_immediate", 1),
    ("do_cached", {"action": "cached", "data": {
        "columns": [{"name": "n", "oid": 23}, {"name": "t"}], "rows": [["7", "x"], [None, "ü"]],
    }}),
    ("do_continue", {"action": "continue"}),
]  # fmt: skip
QUERY_GRANTS = ("query.block", "query.rewrite", "query.answer")


@both
def test_pre_query_continues_rewrites_blocks_and_answers(
    proxy: ProxyFactory, protocol: str
) -> None:
    running, spy = start(proxy, {"pre_query": PRE_QUERY}, QUERY_GRANTS)
    with running.connect() as client:
        assert ask(client, "SELECT 'do_continue'", protocol).fetchone() == ("do_continue",)
        assert ask(client, "SELECT 'nothing'", protocol).fetchone() == ("nothing",)
        assert ask(client, "SELECT 'do_rewrite'", protocol).fetchone() == ("rewritten",)
        found = refusal(client, "SELECT 'do_block'", protocol)
        assert found.sqlstate == "42000"
        assert found.message_primary == 'Query blocked by plugin: no <such> thing: "ä"'
        assert (found.severity, found.message_hint, found.message_detail) == ("ERROR", None, None)
        found = refusal(client, "SELECT 'do_block_more'", protocol)
        assert found.sqlstate == "P0001"
        assert found.message_primary == "Query blocked by plugin: not today"
        assert (found.message_hint, found.message_detail) == ("tomorrow", "closed")
        found = refusal(client, "SELECT 'do_immediate'", protocol)
        assert found.message_primary == "Query blocked by plugin: not allowed"
        answered = ask(client, "SELECT 'do_cached'", protocol)
        assert answered.fetchall() == [(7, "x"), (None, "ü")]
        assert answered.description is not None
        assert [(c.name, c.type_code) for c in answered.description] == [("n", 23), ("t", 25)]
        assert answered.statusmessage == "SELECT 2"
        seen = spy.last("pre_query")
        assert seen["query"] == "SELECT 'do_cached'"
        assert seen["normalized"] == "SELECT $1"
        assert seen["protocol"] == protocol
        assert len(seen["fingerprint"]) == 16
        assert seen["hook_context"]["branch"] is None
        assert seen["hook_context"]["identity"] == "postgres"
    assert spy.fired("pre_query") == 7
    metrics = running.metrics()
    for action, count in {"continue": 2, "rewrite": 1, "block": 3, "cached": 1}.items():
        assert (
            metrics.value("headgate_hook_decisions_total", plugin="spy", action=action) == count
        ), action
    assert metrics.value("headgate_blocked_total") == 3


@both
def test_pre_query_sees_parameters_only_when_granted(proxy: ProxyFactory, protocol: str) -> None:
    running, spy = start(
        proxy,
        {"pre_query": [('"parameters":["secret"', {"action": "block", "value": "that value"})]},
        ("query.block", "query.params"),
    )
    with running.connect() as client:
        if protocol == EXTENDED:
            assert client.execute("SELECT %s::text", ["open"]).fetchone() == ("open",)
            assert spy.last("pre_query")["parameters"] == ["open"]
            with pytest.raises(psycopg.Error, match="that value"):
                client.execute("SELECT %s::text", ["secret"])
            # A named statement: each execution is judged, with its own values.
            for _ in range(7):
                client.execute("SELECT %s::text", ["open"], prepare=True)
            with pytest.raises(psycopg.Error, match="that value"):
                client.execute("SELECT %s::text", ["secret"], prepare=True)
            assert spy.last("pre_query")["phase"] == "execute"
            client.execute("SELECT %s::jsonb, %s::int", [Json({"a": 1}), None])
            assert spy.last("pre_query")["parameters"] == ['{"a": 1}', None]
        else:
            client.execute("SELECT 1")
            assert spy.last("pre_query")["parameters"] is None


@both
def test_a_block_inside_a_transaction_fails_it_truly(proxy: ProxyFactory, protocol: str) -> None:
    running, _ = start(proxy, {"pre_query": PRE_QUERY}, QUERY_GRANTS)
    with running.connect() as client:
        ask(client, "BEGIN", protocol)
        assert refusal(client, "SELECT 'do_block'", protocol).sqlstate == "42000"
        assert client.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        assert refusal(client, "SELECT 1", protocol).sqlstate == "25P02"
        assert ask(client, "ROLLBACK", protocol).statusmessage == "ROLLBACK"
        assert ask(client, "SELECT 5 AS a", protocol).fetchone() == (5,)


@both
def test_rewrite_comes_after_pre_query_and_sees_its_text(
    proxy: ProxyFactory, protocol: str
) -> None:
    running, spy = start(
        proxy,
        {
            "pre_query": [("one", {"action": "rewrite", "value": "SELECT 'two'"})],
            "rewrite": [
                ("two", {"action": "rewrite", "value": "SELECT 'three' /* by spy */"}),
                ("go_on", {"action": "continue"}),
            ],
        },
        ("query.rewrite",),
    )
    with running.connect() as client:
        assert ask(client, "SELECT 'one'", protocol).fetchone() == ("three",)
        assert spy.last("rewrite")["query"] == "SELECT 'two'"
        assert ask(client, "SELECT 'go_on'", protocol).fetchone() == ("go_on",)
        assert spy.fired("rewrite") == 2
        # A statement that was prepared with the rewritten text stays so over its executions.
        for _ in range(8):
            row = client.execute("SELECT 'one', %s::int", [1], prepare=True).fetchone()
            assert row == ("three",)


# --- route ---------------------------------------------------------------------------------------

ON_STANDBY = "SELECT pg_is_in_recovery() AS s"
ROUTES: Rules = [
    ("to_primary", {"action": "primary"}),
    ("to_standby", {"action": "standby"}),
    ("to_pg2", {"action": "node", "target": "pg2"}),
    ("to_nowhere", {"action": "node", "target": "pg9"}),
    ("to_branch", {"action": "branch", "target": "dev"}),
    ("to_no_branch", {"action": "branch", "target": "none"}),
    ("to_block", {"action": "block", "reason": "the road is closed"}),
    ("to_default", {"action": "default"}),
]


@both
def test_route_takes_all_six_answers(
    proxy: ProxyFactory, primary: EmbeddedPostgres, protocol: str
) -> None:
    running, spy = start(
        proxy,
        {"route": ROUTES},
        ("route.decide",),
        branches={"dev": {"nodes": ["pg1"], "database": "template1"}},
    )
    with running.connect() as client:
        wait_until(lambda: running.metrics().value("headgate_node_up", node="pg2") == 1)

        def where(word: str) -> bool:
            row = ask(client, f"{ON_STANDBY} /* {word} */", protocol).fetchone()
            assert row is not None
            return bool(row[0])

        assert where("to_primary") is False
        assert where("to_standby") is True
        assert where("to_pg2") is True
        where("to_default")
        where("nothing")
        found = refusal(client, "SELECT 'to_block'", protocol)
        assert found.sqlstate == "42000"
        assert found.message_primary == "Query blocked by plugin: the road is closed"
        assert refusal(client, "SELECT 'to_nowhere'", protocol).sqlstate == "42704"
        row = ask(client, "SELECT current_database()::text /* to_branch */", protocol).fetchone()
        assert row == ("template1",)
        assert refusal(client, "SELECT 'to_no_branch'", protocol).sqlstate == "42704"
        row = ask(client, "SELECT current_database()::text", protocol).fetchone()
        assert row == ("postgres",)
        # A plugin's word goes before the statement's kind: the standby itself refuses the write.
        found = refusal(client, "CREATE TABLE hooks_route (a int) -- to_standby", protocol)
        assert found.sqlstate == "25006"
    assert spy.fired("route") >= 11


# --- post_query, metrics, custom_hook ------------------------------------------------------------


@both
def test_post_query_tells_how_it_went(proxy: ProxyFactory, protocol: str) -> None:
    running, spy = start(proxy, {"post_query": ()})
    with running.connect() as client:
        ask(client, "SELECT generate_series(1, 5)", protocol)
        wait_until(lambda: spy.fired("post_query") == 1)
        context, outcome = spy.last("post_query")
        assert context["query"] == "SELECT generate_series(1, 5)"
        assert context["protocol"] == protocol
        assert outcome["success"] is True
        assert outcome["rows"] == 5
        assert outcome["target_node"] in ("pg1", "pg2")
        assert outcome["elapsed_us"] > 0
        assert outcome["response_bytes"] > 0
        assert outcome["error"] is None
        assert outcome["sqlstate"] is None
        refusal(client, "SELECT 1/0", protocol)
        wait_until(lambda: spy.fired("post_query") == 2)
        _, outcome = spy.last("post_query")
        assert outcome["success"] is False
        assert outcome["sqlstate"] == "22012"
        assert outcome["error"] == "division by zero"


def test_metrics_are_in_the_exposition(proxy: ProxyFactory) -> None:
    samples = [
        {"name": "tickets", "type": "gauge", "value": 3.5, "labels": {"queue": 'a"b\\c\n'}},
        {"name": "served_total", "type": "counter", "value": 12, "labels": {}},
    ]
    running, _ = start(proxy, {"metrics": [("", samples)]}, ("metrics",))
    metrics = running.metrics()
    assert metrics.value("headgate_plugin_tickets", plugin="spy", queue='a"b\\c\n') == 3.5
    assert metrics.value("headgate_plugin_served_total", plugin="spy") == 12
    # At most once a second, however often somebody scrapes.
    for _ in range(5):
        running.metrics()
    assert running.metrics().value("headgate_hook_calls_total", plugin="spy", hook="metrics") <= 6


def test_custom_hook_through_the_api(proxy: ProxyFactory) -> None:
    running, spy = start(
        proxy,
        {
            "custom_hook": [
                ("ping", {"pong": [1, "ä", None]}),
                ("rubbish", "this is no JSON"),
                ("trap", "(unreachable)"),
            ]
        },
    )
    call = "/api/plugins/spy/call"
    assert running.api("POST", call, {"say": "ping"}) == (200, {"pong": [1, "ä", None]})
    assert spy.last("custom_hook") == {"say": "ping"}
    assert running.api("POST", call, {"say": "nothing"}) == (200, None)
    for word, cause in (("rubbish", "bad_answer"), ("trap", "trap")):
        status, body = running.api("POST", call, {"say": word})
        assert status >= 500, body
        assert "spy" in str(body["error"]), body
        assert spy.errors("custom_hook")[cause] == 1
    assert running.api("POST", "/api/plugins/nobody/call", {})[0] == 404
    assert running.api("POST", call, {"say": "ping"})[0] == 200


# --- rights --------------------------------------------------------------------------------------


@both
def test_an_answer_without_permission_is_a_failed_call(proxy: ProxyFactory, protocol: str) -> None:
    """A plugin that may not block fails open: its block is a failure, and the statement runs."""
    running, spy = start(
        proxy,
        {
            "pre_query": PRE_QUERY,
            "route": [("where", {"action": "standby"})],
            "authorize": [("who", {"action": "allow"})],
            "rewrite": [("what", {"action": "rewrite", "value": "SELECT 'else'"})],
        },
        (),
        more='on_error = "open"',
    )
    with running.connect() as client:
        for word in ("do_block", "do_rewrite", "do_cached", "where", "who"):
            assert ask(client, f"SELECT '{word}'", protocol).fetchone() == (word,)
        assert ask(client, "SELECT 'what'", protocol).fetchone() == ("what",)
    assert spy.errors("pre_query") == {"permission": 3}
    assert spy.errors("route") == {"permission": 1}
    assert spy.errors("rewrite") == {"permission": 1}
    assert spy.errors("authorize") == {}
