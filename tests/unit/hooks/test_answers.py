"""Answers are understood exactly, or not at all."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hooks import answers
from proxy.hooks.answers import decode, decode_login, decode_samples, is_error_sqlstate, is_json
from proxy.hooks.points import (
    AUTHENTICATE,
    AUTHORIZE,
    BLOCKED,
    CACHE_GET,
    CACHE_SET,
    ON_CONNECT,
    PRE_QUERY,
    REWRITE,
    ROUTE,
)

DECIDING = [ON_CONNECT, AUTHORIZE, PRE_QUERY, REWRITE, CACHE_GET, ROUTE, CACHE_SET]
DEFAULT_WORDS = ["continue", "allow", "continue", "continue", "miss", "default", "skip"]
ROWS = {"columns": [{"name": "a", "oid": 23}, {"name": "b"}], "rows": [["1", None]]}


def read(hook: int, **fields: object) -> answers.Answer | None:
    return decode(hook, json.dumps(fields).encode())


@pytest.mark.parametrize(("hook", "word"), list(zip(DECIDING, DEFAULT_WORDS, strict=True)))
def test_defaults(hook: int, word: str) -> None:
    texts = [
        None,
        b'{"action":"%s"}' % word.encode(),
        b' {"action" : "%s", "x":[1]} ' % word.encode(),
    ]
    for text in texts:
        answer = decode(hook, text)
        assert answer is not None
        assert (answer.action, answer.word) == (answers.PASS, word)
    assert answers.default_answer(hook).word == word


@pytest.mark.parametrize("hook", DECIDING)
@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"continue",
        b'{"action":"explode"}',
        b'{"action":null}',
        b'{"action":["continue"]}',
        b'{"action":"continue"',
        b'{"action":"continue"} x',
        b'{"action":"continue","note":"\xff"}',
        b'{"action":"continue","value":7}',
        b'{"action":"rewrite"}',
        b'{"action":"rewrite","value":""}',
        b'{"action":"rewrite","value":"a\\u0000b"}',
        b'{"action":"rewrite","value":"\\ud800"}',
        b'{"action":"block"}',
        b'{"action":"deny"}',
        b'{"action":"cached"}',
        b'{"action":"hit"}',
        b'{"action":"key"}',
        b'{"action":"node"}',
        b'{"action":"branch","target":""}',
        b'{"action":"store"}',
        b"[" * 5000,
        b'{"x":' + b"[" * 100_000,
    ],
)
def test_rubbish_is_never_taken_for_an_answer(hook: int, text: bytes) -> None:
    assert decode(hook, text) is None


@given(text=st.binary(max_size=60), hook=st.sampled_from(DECIDING))
def test_any_bytes(text: bytes, hook: int) -> None:
    answer = decode(hook, text)
    assert answer is None or text == BLOCKED or json.loads(text)["action"] == answer.word


@given(
    hook=st.sampled_from(DECIDING),
    fields=st.dictionaries(
        st.sampled_from(["action", "value", "reason", "target", "key", "ttl_ms", "data"]),
        st.one_of(
            st.sampled_from(["block", "rewrite", "node", "key", "store", "hit", "cached", "deny"]),
            st.none(),
            st.integers(),
            st.text(max_size=3),
        ),
    ),
)
def test_any_fields(hook: int, fields: dict[str, object]) -> None:
    answer = decode(hook, json.dumps(fields).encode())
    assert answer is None or answer.word == fields["action"]


def test_what_belongs_to_another_hook_is_unknown() -> None:
    assert read(REWRITE, action="block", value="x") is None
    assert read(REWRITE, action="cached", data=ROWS) is None
    assert read(AUTHORIZE, action="block", value="x") is None
    assert read(PRE_QUERY, action="hit", data=ROWS) is None
    assert read(PRE_QUERY, action="allow") is None
    assert read(CACHE_GET, action="store", ttl_ms=1) is None
    assert read(ROUTE, action="block", value="x") is None
    assert decode(REWRITE, BLOCKED) is None
    assert decode(CACHE_GET, BLOCKED) is None
    assert decode(CACHE_SET, BLOCKED) is None


def test_block_with_everything() -> None:
    answer = read(PRE_QUERY, action="block", value="r", sqlstate="42501", hint="h", detail="d")
    assert answer is not None
    assert (answer.action, answer.text) == (answers.BLOCK, "r")
    assert (answer.sqlstate, answer.hint, answer.detail) == ("42501", "h", "d")


def test_block_without_a_reason_has_the_generic_one() -> None:
    answer = read(PRE_QUERY, action="block", value="")
    assert answer is not None
    assert answer.text == answers.GENERIC_REASON


@pytest.mark.parametrize("field", ["value", "hint", "detail"])
def test_a_nul_would_cut_the_error_field(field: str) -> None:
    assert read(PRE_QUERY, **{"action": "block", "value": "r", field: "a\0b"}) is None


def test_route_block_has_a_reason() -> None:
    answer = read(ROUTE, action="block", reason="full")
    assert answer is not None
    assert (answer.action, answer.text) == (answers.BLOCK, "full")


@pytest.mark.parametrize("hook", [ON_CONNECT, AUTHORIZE, PRE_QUERY, ROUTE])
def test_the_immediate_block(hook: int) -> None:
    answer = decode(hook, BLOCKED)
    assert answer is not None
    assert answer.action == answers.BLOCK


@pytest.mark.parametrize(
    ("action", "number"),
    [
        ("primary", answers.TO_PRIMARY),
        ("standby", answers.TO_STANDBY),
        ("node", answers.TO_NODE),
        ("branch", answers.TO_BRANCH),
    ],
)
def test_routes(action: str, number: int) -> None:
    answer = read(ROUTE, action=action, target="t")
    assert answer is not None
    assert answer.action == number
    assert answer.text == ("t" if action in ("node", "branch") else "")


@pytest.mark.parametrize(("hook", "action"), [(PRE_QUERY, "cached"), (CACHE_GET, "hit")])
def test_rows_as_an_object_and_as_bytes(hook: int, action: str) -> None:
    for data in (ROWS, list(json.dumps(ROWS).encode())):
        answer = read(hook, action=action, data=data)
        assert answer is not None
        assert answer.action == answers.ROWS
        assert answer.rows is not None
        assert answer.rows.columns == [("a", 23), ("b", 25)]
        assert answer.rows.rows == [[b"1", None]]
    assert read(hook, action=action, data={"columns": []}) is None


def test_keys_and_times() -> None:
    answer = read(CACHE_GET, action="key", key="k", max_age_ms=7)
    assert answer is not None
    assert (answer.action, answer.text, answer.millis) == (answers.KEY, "k", 7)
    assert read(CACHE_GET, action="key", key="k", max_age_ms=-1) is None
    assert read(CACHE_GET, action="key", key="k") is None
    assert read(CACHE_GET, action="key", key="k" * 1025, max_age_ms=1) is None
    store = read(CACHE_SET, action="store", ttl_ms=9)
    assert store is not None
    assert (store.action, store.millis) == (answers.STORE, 9)
    assert read(CACHE_SET, action="store", ttl_ms=10**15) is None


def test_large_answers_say_so() -> None:
    large = read(PRE_QUERY, action="rewrite", value="x" * 5000)
    small = read(PRE_QUERY, action="rewrite", value="x")
    assert large is not None
    assert small is not None
    assert large.is_large
    assert not small.is_large


@pytest.mark.parametrize("sqlstate", ["42000", "P0001", "XX000", "57P03", "0A000"])
def test_sqlstates(sqlstate: str) -> None:
    assert is_error_sqlstate(sqlstate)


@pytest.mark.parametrize(
    "sqlstate", ["", "4200", "420000", "42a00", "00000", "01004", "02000", "4200\n"]
)
def test_what_is_no_error_sqlstate(sqlstate: str) -> None:
    assert not is_error_sqlstate(sqlstate)


# --- login -------------------------------------------------------------------------------------


def login(**fields: object) -> answers.Login | None:
    return decode_login(json.dumps(fields).encode())


def test_login_defers() -> None:
    for found in (decode_login(None), login(action="defer")):
        assert found is not None
        assert found.username == ""
        assert found.denied is None


def test_login_success() -> None:
    identity = {
        "user_id": "7",
        "username": "alice",
        "roles": ["reader", "eu"],
        "tenant_id": None,
        "claims": {"level": 3, "team": "blue"},
    }
    found = login(action="success", identity=identity)
    assert found is not None
    assert (found.username, found.user_id, found.tenant_id) == ("alice", "7", "")
    assert found.roles == ["reader", "eu"]
    assert found.claims == {"level": "3", "team": "blue"}


def test_login_denied() -> None:
    for answer, message in [
        (b'{"action":"denied","message":"bad token"}', "bad token"),
        (b'{"action":"denied","message":""}', answers.GENERIC_REASON),
        (BLOCKED, answers.GENERIC_REASON),
    ]:
        found = decode_login(answer)
        assert found is not None
        assert found.denied == message
        assert found.username == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "success"},
        {"action": "success", "identity": {}},
        {"action": "success", "identity": {"username": ""}},
        {"action": "success", "identity": {"username": "a\0b"}},
        {"action": "success", "identity": {"username": "a", "roles": ["x,admin"]}},
        {"action": "success", "identity": {"username": "a", "roles": "admin"}},
        {"action": "success", "identity": {"username": "a", "claims": {"k": "\0"}}},
        {"action": "denied"},
        {"action": "denied", "message": "\0"},
        {"action": "allow"},
        {},
    ],
)
def test_login_rubbish(fields: dict[str, object]) -> None:
    assert login(**fields) is None
    assert decode_login(b"rubbish") is None


def test_authenticate_has_no_block_of_the_statement_hooks() -> None:
    assert read(AUTHENTICATE, action="denied", value="x") is None


# --- samples and custom answers ------------------------------------------------------------------


def test_samples() -> None:
    text = b'[{"name":"hits","type":"counter","value":3,"labels":{"a":"b"}}]'
    found = decode_samples(text)
    assert found is not None
    assert (found[0].name, found[0].is_counter, found[0].value) == ("hits", True, 3.0)
    assert found[0].labels == {"a": "b"}
    assert decode_samples(None) == []


@pytest.mark.parametrize(
    "sample",
    [
        {"name": "a b", "type": "gauge", "value": 1},
        {"name": "a", "type": "histogram", "value": 1},
        {"name": "a", "type": "gauge", "value": "1"},
        {"name": "a", "type": "gauge", "value": 1, "labels": {"x-y": "1"}},
        {"name": "a", "type": "gauge"},
    ],
)
def test_sample_rubbish(sample: dict[str, object]) -> None:
    assert decode_samples(json.dumps([sample]).encode()) is None


def test_too_many_samples() -> None:
    one = {"name": "a", "type": "gauge", "value": 1}
    assert decode_samples(json.dumps([one] * 1001).encode()) is None
    assert decode_samples(b"\xff") is None


def test_custom_answers_are_json() -> None:
    assert is_json(b'{"a":[1,null]}')
    assert is_json(b"7")
    assert not is_json(b"")
    assert not is_json(b"\xff")
    assert not is_json(b"[" * 100_000)
