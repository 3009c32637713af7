"""Envelopes: every field, true, and JSON whatever the texts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hooks import codec
from proxy.session.inspection import PHASE_EXECUTE, Inspection, Outcome
from tests.unit.hooks.fakes import client_of, facts_of


def inspection_of(text: bytes | str = "select 1", **fields: object) -> Inspection:
    inspection = Inspection(facts_of(text), client_of(), False, 0, False, None)
    inspection.request_id = 42
    for name, value in fields.items():
        setattr(inspection, name, value)
    return inspection


def test_the_envelope_is_the_one_of_the_contract() -> None:
    inspection = inspection_of("select 'x'")
    inspection.client.roles = ["reader", "eu"]
    assert json.loads(codec.statement_envelope(inspection, b"p-", False, False)) == {
        "query": "select 'x'",
        "normalized": "select 'x'",
        "tables": ["public.t"],
        "is_read_only": True,
        "hook_context": {
            "request_id": "p-42",
            "client_id": "w0-17",
            "identity": "alice",
            "database": "app",
            "branch": None,
            "attributes": {
                "application_name": "psql",
                "client_addr": "10.0.0.7",
                "tls": "true",
                "user": "alice",
                "roles": "reader,eu",
            },
        },
        "kind": "select",
        "fingerprint": "00",
        "protocol": "simple",
        "phase": "statement",
        "in_transaction": False,
    }


@pytest.mark.parametrize("is_extended", [False, True])
@pytest.mark.parametrize("phase", [0, PHASE_EXECUTE])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_protocol_phase_and_transaction(
    is_extended: bool, phase: int, in_transaction: bool
) -> None:
    inspection = inspection_of(is_extended=is_extended, phase=phase, in_transaction=in_transaction)
    seen = json.loads(codec.statement_envelope(inspection, b"", False, False))
    assert seen["protocol"] == ("extended" if is_extended else "simple")
    assert seen["phase"] == ("execute" if phase else "statement")
    assert seen["in_transaction"] is in_transaction


def test_roles_and_parameters() -> None:
    inspection = inspection_of(parameters=[b"1", None, b"\xff", "ü".encode(), b"\0\0\0\1"])
    inspection.client.roles = ["a"]
    seen = json.loads(codec.statement_envelope(inspection, b"", True, True))
    assert seen["roles"] == ["a"]
    assert seen["parameters"] == ["1", None, {"hex": "ff"}, "ü", {"hex": "00000001"}]
    inspection.parameters = None
    assert json.loads(codec.statement_envelope(inspection, b"", True, False))["parameters"] is None


def test_the_session_part_is_made_once_and_again_when_emptied() -> None:
    client = client_of()
    first = codec.fragment_of(client)
    assert client.fragment == b'",' + first + b","
    made = client.fragment
    codec.fragment_of(client)
    assert client.fragment is made
    client.application_name = "other"
    client.branch = "dev"
    client.fragment = b""
    seen = json.loads(b"{" + codec.fragment_of(client))
    assert seen["attributes"]["application_name"] == "other"
    assert seen["branch"] == "dev"


def test_a_client_on_a_unix_socket_has_an_address_too() -> None:
    client = client_of()
    client.client_addr = ""
    assert codec.attributes_of(client)["client_addr"] == "[local]"


def test_no_claim_passes_for_a_fact_of_the_proxy() -> None:
    client = client_of()
    client.is_tls = False
    client.tenant_id = "t1"
    client.claims = {"client_addr": "127.0.0.1", "roles": "admin", "tls": "true", "team": "blue"}
    client.user_id = "u1"
    assert codec.attributes_of(client) == {
        "client_addr": "10.0.0.7",
        "roles": "",
        "tls": "false",
        "team": "blue",
        "user": "alice",
        "user_id": "u1",
        "tenant_id": "t1",
        "application_name": "psql",
    }


def test_texts_that_utf8_cannot_say() -> None:
    client = client_of("a\udcffb")
    client.claims = {"k\ud800": "v"}
    seen = json.loads(b"{" + codec.fragment_of(client))
    assert seen["identity"] == "a?b"
    assert json.loads(codec.json_of(["\ud800", 1, {"a": ["\ud800"]}])) == ["?", 1, {"a": ["?"]}]


@given(name=st.text(max_size=30), limit=st.integers(200, 3000), text=st.text(max_size=3000))
def test_a_cut_envelope_fits_and_is_json(name: str, limit: int, text: str) -> None:
    inspection = inspection_of("select " + text.encode("utf-8", "replace").decode())
    inspection.client.application_name = name
    envelope = codec.cut_envelope(inspection, b"p", False, limit)
    assert len(envelope) <= limit
    if envelope:
        seen = json.loads(envelope)
        assert seen["truncated"] is True
        assert inspection.facts.text.decode().startswith(seen["query"])


def test_what_is_left_out_when_cutting_texts_does_not_help() -> None:
    inspection = inspection_of(parameters=[b"v" * 2000])
    seen = json.loads(codec.cut_envelope(inspection, b"", True, 1000))
    assert "parameters" not in seen
    assert seen["tables"] == ["public.t"]
    inspection = inspection_of()
    inspection.facts.tables = ("t" * 600,)
    assert json.loads(codec.cut_envelope(inspection, b"", False, 600))["tables"] == []
    assert codec.cut_envelope(inspection, b"", False, 20) == b""


def test_post_query() -> None:
    inspection = inspection_of()
    outcome = Outcome()
    outcome.target_node = "pg1"
    outcome.elapsed_us = 7
    outcome.response_bytes = 8
    outcome.rows = 9
    inspection.outcome = outcome
    context, told = json.loads(codec.post_query_envelope(inspection, b"", False, 65536))
    assert context["query"] == "select 1"
    assert told == {
        "success": True,
        "target_node": "pg1",
        "elapsed_us": 7,
        "response_bytes": 8,
        "error": None,
        "rows": 9,
        "sqlstate": None,
    }
    outcome.success = False
    outcome.target_node = ""
    outcome.error = "nö"
    outcome.sqlstate = "42601"
    told = json.loads(codec.post_query_envelope(inspection, b"", False, 65536))[1]
    assert (told["success"], told["target_node"]) == (False, None)
    assert (told["error"], told["sqlstate"]) == ("nö", "42601")


def test_post_query_cuts_what_is_too_long() -> None:
    inspection = inspection_of("select '" + "x" * 5000 + "'")
    payload = codec.post_query_envelope(inspection, b"", False, 1200)
    assert len(payload) <= 1200
    assert json.loads(payload)[0]["truncated"] is True
    assert codec.post_query_envelope(inspection, b"", False, 100) == b""


def test_cache_set() -> None:
    inspection = inspection_of(cache_key="k", cache_max_age_ms=5)
    seen = json.loads(codec.cache_set_envelope(inspection, b"", False, 100, 3))
    assert seen["query"] == "select 1"
    assert (seen["key"], seen["max_age_ms"]) == ("k", 5)
    assert (seen["result_bytes"], seen["rows"]) == (100, 3)


def test_connect_and_disconnect() -> None:
    client = client_of()
    client.startup = {"user": "alice", "DateStyle": "ISO"}
    seen = json.loads(codec.context_envelope(client, "r1", {"queries": 3}))
    assert seen["request_id"] == "r1"
    assert seen["identity"] == "alice"
    assert seen["startup"] == client.startup
    assert seen["queries"] == 3


def test_authenticate() -> None:
    client = client_of()
    client.startup = {"user": "alice"}
    assert json.loads(codec.authenticate_envelope(client, None)) == {
        "headers": {"user": "alice"},
        "username": "alice",
        "password": None,
        "client_ip": "10.0.0.7",
        "database": "app",
    }
