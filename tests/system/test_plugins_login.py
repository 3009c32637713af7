"""
authenticate as a real method: what it is given, what each answer does, whom later hooks see.
"""

import re
from typing import Any

import psycopg
import pytest

from tests.support.certificates import Certificates
from tests.support.rule_plugin import Rules, Spy, put_rules
from tests.support.system import ALL_GRANTS, ProxyFactory, RunningProxy, wait_until

AUTHENTICATE: Rules = [
    ('"application_name":"denied"', {"action": "denied", "message": "come back never"}),
    (
        '"application_name":"known"',
        {
            "action": "success",
            "identity": {
                "user_id": "u-17",
                "username": "alice@corp",
                "roles": ["reader", "eu"],
                "tenant_id": "t9",
                "claims": {"level": 3, "client_addr": "6.6.6.6", "team": "blue"},
            },
        },
    ),
    ('"password":"open sesame"', {"action": "success", "identity": {
        "user_id": "", "username": "sesame", "roles": [], "claims": {}}}),
    ('"password":"wrong"', {"action": "denied", "message": "wrong word"}),
    ('"application_name":"rubbish"', {"action": "success"}),
    ('"application_name":"trap"', "(unreachable)"),
]  # fmt: skip


def start(
    proxy: ProxyFactory, permissions: tuple[str, ...] = ("auth.decide",), **sections: Any
) -> tuple[RunningProxy, Spy]:
    """A proxy whose configured method is trust for nobody: a user has to be in the file."""
    running = proxy(start=False, **{"plugins": {}, **sections})
    if "auth" not in sections:
        users = running.directory / "users.txt"
        users.write_text('"postgres" "configured"\n')
        running.config["auth"] = {"method": "scram-sha-256", "users_file": str(users)}
    put_rules(
        running,
        "gate",
        {"authenticate": AUTHENTICATE, "pre_query": (), "authorize": (), "on_disconnect": ()},
        permissions,
    )
    running.start()
    return running, Spy(running, "gate")


def why_not(running: RunningProxy, **more: Any) -> str:
    with pytest.raises(psycopg.OperationalError) as caught:
        running.connect(**more)
    return str(caught.value)


def test_defer_leaves_it_to_the_configured_method(proxy: ProxyFactory) -> None:
    running, gate = start(proxy)
    with running.connect(password="configured", application_name="plain") as client:
        client.execute("SELECT 1")
        assert gate.last("pre_query")["hook_context"]["identity"] == "postgres"
    assert "password authentication failed" in why_not(running, password="other")
    seen = gate.last("authenticate")
    assert seen["username"] == "postgres"
    assert seen["database"] == "postgres"
    assert seen["client_ip"] == "127.0.0.1"
    assert seen["password"] is None
    assert seen["headers"]["user"] == "postgres"


def test_denied_ends_it_with_the_message(proxy: ProxyFactory) -> None:
    running, gate = start(proxy)
    message = why_not(running, application_name="denied", password="configured")
    assert "FATAL:  come back never" in message
    assert gate.fired("authenticate") == 1
    assert running.metrics().value("headgate_events_total", cause="denied_by_plugin") == 1


def test_success_is_the_identity_of_the_session(proxy: ProxyFactory) -> None:
    running, gate = start(proxy)
    with running.connect(application_name="known") as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
        for hook in ("pre_query", "authorize"):
            context = gate.last(hook)["hook_context"]
            assert context["identity"] == "alice@corp"
            attributes = context["attributes"]
            assert attributes["roles"] == "reader,eu"
            assert attributes["tenant_id"] == "t9"
            assert attributes["team"] == "blue"
            assert attributes["level"] == "3"
            assert attributes["user"] == "postgres"
            # A claim never passes for what the proxy itself knows.
            assert attributes["client_addr"] == "127.0.0.1"
        assert gate.last("authorize")["roles"] == ["reader", "eu"]
    wait_until(lambda: gate.fired("on_disconnect") == 1)
    assert gate.last("on_disconnect")["identity"] == "alice@corp"
    # Another session has nothing of it.
    with running.connect(password="configured") as client:
        client.execute("SELECT 1")
        context = gate.last("pre_query")["hook_context"]
        assert context["identity"] == "postgres"
        assert "tenant_id" not in context["attributes"]
        assert context["attributes"]["roles"] == ""


@pytest.mark.parametrize("word", ["rubbish", "trap"])
def test_a_failed_call_is_a_closed_door(proxy: ProxyFactory, word: str) -> None:
    running, gate = start(proxy)
    message = why_not(running, application_name=word, password="configured")
    assert 'FATAL:  plugin "gate" failed' in message
    assert sum(gate.errors("authenticate").values()) == 1
    with running.connect(password="configured"):
        pass


def test_without_auth_decide_a_success_is_a_failure(proxy: ProxyFactory) -> None:
    running, gate = start(proxy, ())
    for word in ("known", "denied"):
        assert 'plugin "gate" failed' in why_not(running, application_name=word)
    assert gate.errors("authenticate") == {"permission": 2}


def test_credentials_come_over_tls_only(proxy: ProxyFactory, certificates: Certificates) -> None:
    cert, key = certificates.server
    running, gate = start(
        proxy,
        ("auth.decide", "auth.credentials"),
        listen={"tls": {"cert": str(cert), "key": str(key)}},
    )
    with running.connect(sslmode="require", password="open sesame") as client:
        client.execute("SELECT 1")
        assert gate.last("pre_query")["hook_context"]["identity"] == "sesame"
        assert gate.last("pre_query")["hook_context"]["attributes"]["tls"] == "true"
    assert "wrong word" in why_not(running, sslmode="require", password="wrong")
    # It defers: the configured method goes on with the password that is there.
    with running.connect(sslmode="require", password="configured"):
        pass
    assert "password authentication failed" in why_not(
        running, sslmode="require", password="neither"
    )
    # In clear nobody is asked for a password, and the plugin sees none.
    assert "password authentication failed" in why_not(
        running, sslmode="disable", password="open sesame"
    )
    assert gate.last("authenticate")["password"] is None
    with running.connect(sslmode="disable", password="configured"):
        pass
    assert not re.search("open sesame|configured", running.log_text())


def test_credentials_in_clear_if_the_operator_says_so(proxy: ProxyFactory) -> None:
    running, gate = start(
        proxy,
        ("auth.decide", "auth.credentials"),
        auth={"method": "trust", "allow_cleartext_without_tls": True},
    )
    with running.connect(password="open sesame") as client:
        client.execute("SELECT 1")
    assert gate.last("authenticate")["password"] == "open sesame"


def test_without_the_permission_nobody_is_asked(
    proxy: ProxyFactory, certificates: Certificates
) -> None:
    cert, key = certificates.server
    running, gate = start(
        proxy,
        ("auth.decide", "auth.credentials"),
        listen={"tls": {"cert": str(cert), "key": str(key)}},
        plugins={"grants": [grant for grant in ALL_GRANTS if grant != "auth.credentials"]},
    )
    with running.connect(sslmode="require", password="configured"):
        pass
    assert gate.last("authenticate")["password"] is None
    assert "password authentication failed" in why_not(
        running, sslmode="require", password="open sesame"
    )


def test_the_first_that_does_not_defer_decides(proxy: ProxyFactory) -> None:
    running = proxy(start=False, plugins={})
    who: dict[str, Any] = {"user_id": "", "roles": [], "claims": {}}
    for name, priority, rules in (
        ("defers", 10, ()),
        ("says-a", 20, [("", {"action": "success", "identity": {**who, "username": "a"}})]),
        ("says-b", 30, [("", {"action": "success", "identity": {**who, "username": "b"}})]),
    ):
        put_rules(
            running, name, {"authenticate": rules, "pre_query": ()}, ("auth.decide",),
            more=f"priority = {priority}",
        )  # fmt: skip
    running.start()
    with running.connect() as client:
        client.execute("SELECT 1")
        assert Spy(running, "defers").last("pre_query")["hook_context"]["identity"] == "a"
    assert Spy(running, "defers").fired("authenticate") == 1
    assert Spy(running, "says-b").fired("authenticate") == 0
