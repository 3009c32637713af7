"""Rule 37: a text that the server may read in another way than the parser here is judged raw."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session.inspection import VERDICT_REFUSE, Inspection
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    bind,
    complete,
    execute,
    parse,
    query,
)

HIDING = b"SELECT '\\''; DROP TABLE t; --'"
"""One harmless SELECT, or a DROP where a backslash escapes."""


def playbook() -> Playbook:
    play = Playbook()
    play.gate.judges = True
    return play


def told(play: Playbook, name: bytes, value: bytes) -> None:
    """The client sets a reported setting."""
    play.f(query(b"SET " + name + b" = '" + value + b"'"))
    play.b(backend.parameter_status(name, value) + complete(b"SET") + READY)
    # The look at what was left behind.
    play.b(backend.data_row([b"s", name, value]) + complete(b"SELECT 1") + READY)


def kinds(play: Playbook) -> list[str]:
    return [inspection.facts.kind for inspection in play.gate.seen]


def test_rule_37_the_usual_session_is_parsed() -> None:
    play = playbook()
    play.f(query(HIDING))
    assert kinds(play) == ["select"]


def test_rule_37_strings_with_escapes_are_unknown() -> None:
    play = playbook()
    told(play, b"standard_conforming_strings", b"off")
    play.gate.seen.clear()
    play.f(query(HIDING))
    assert kinds(play) == ["unknown"]
    assert play.gate.seen[0].facts.text == HIDING


@pytest.mark.parametrize("encoding", [b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB"])
def test_rule_37_encodings_with_a_backslash_in_a_character_are_unknown(encoding: bytes) -> None:
    play = playbook()
    told(play, b"client_encoding", encoding)
    play.gate.seen.clear()
    play.f(parse(b"", b"SELECT 1") + frontend.SYNC)
    assert kinds(play) == ["unknown"]


@pytest.mark.parametrize(
    "changing",
    [
        b"SET standard_conforming_strings = off",
        b"SET NAMES 'SJIS'",
        b"SELECT set_config('standard_conforming_strings', 'off', false)",
        b"SELECT set_config($1, $2, true)",
        b"SELECT my_function()",
        b"DO $$BEGIN END$$",
        b"RESET ALL",
        b"EXECUTE s",
        b"FETCH 1 FROM c",
    ],
)
def test_rule_37_behind_a_change_in_the_same_pipeline(changing: bytes) -> None:
    play = playbook()
    group = parse(b"", changing) + bind(b"") + execute()
    play.f(group + parse(b"", HIDING) + bind(b"") + execute() + frontend.SYNC)
    assert kinds(play)[-1] == "unknown"


def test_rule_37_a_query_behind_a_change_without_a_sync() -> None:
    play = playbook()
    group = parse(b"", b"SET standard_conforming_strings = off") + bind(b"") + execute()
    play.f(group + query(HIDING))
    assert kinds(play)[-1] == "unknown"


def test_rule_37_a_change_that_a_flush_has_sent() -> None:
    play = playbook()
    group = parse(b"", b"SET standard_conforming_strings = off") + bind(b"") + execute()
    play.f(group + frontend.FLUSH)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SET"))
    play.f(parse(b"", HIDING) + bind(b"") + execute() + frontend.SYNC)
    assert kinds(play)[-1] == "unknown"


def test_rule_37_an_older_statement_that_might_be_prepared_anew() -> None:
    play = playbook()
    play.f(parse(b"old", HIDING) + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    group = parse(b"", b"SET standard_conforming_strings = off") + bind(b"") + execute()
    play.f(group + bind(b"old") + execute() + frontend.SYNC)
    assert kinds(play)[-1] == "unknown"


def test_rule_37_the_end_of_a_transaction_may_bring_it_back() -> None:
    play = playbook()
    told(play, b"standard_conforming_strings", b"off")
    play.f(query(b"BEGIN; SET standard_conforming_strings = on"))
    on = backend.parameter_status(b"standard_conforming_strings", b"on")
    play.b(complete(b"BEGIN") + on + complete(b"SET") + READY_T)
    group = parse(b"", b"ROLLBACK") + bind(b"") + execute()
    play.f(group + parse(b"", HIDING) + frontend.SYNC)
    assert kinds(play)[-1] == "unknown"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"BEGIN", HIDING),
        (b"SET work_mem = '1MB'", HIDING),
        (b"SELECT set_config('app.tenant', $1, true)", HIDING),
        (b"SELECT my_function()", b"SELECT 'plain'"),
        (b"INSERT INTO t VALUES ($1)", "SELECT 'Grüße'".encode()),
    ],
)
def test_rule_37_most_pipelines_are_parsed(first: bytes, second: bytes) -> None:
    play = playbook()
    group = parse(b"", first) + bind(b"") + execute()
    play.f(group + parse(b"", second) + frontend.SYNC)
    assert kinds(play)[-1] == "select"


def test_rule_37_the_next_group_is_parsed_again() -> None:
    play = playbook()
    play.f(parse(b"", b"DO $$BEGIN END$$") + bind(b"") + execute() + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"DO") + READY)
    play.b(complete(b"SELECT 0") + READY)
    play.f(parse(b"", HIDING) + frontend.SYNC)
    assert kinds(play)[-1] == "select"


def test_rule_37_a_statement_read_in_another_way_is_another_statement() -> None:
    """Two clients prepare one text, one of them where backslashes escape."""
    play = playbook()
    told(play, b"standard_conforming_strings", b"off")
    play.f(parse(b"s", HIDING) + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    assert len(play.link.prepared) == 1
    play.f(query(b"SET standard_conforming_strings = on"))
    on = backend.parameter_status(b"standard_conforming_strings", b"on")
    play.b(on + complete(b"SET") + READY)
    play.b(complete(b"SELECT 0") + READY)
    sent = play.f(parse(b"t", HIDING) + frontend.SYNC)
    assert HIDING in sent, "must not be taken for the one that is there"


def test_rule_37_a_node_with_other_defaults_gets_nothing_that_was_judged_otherwise() -> None:
    play = Playbook(links=1)
    play.gate.judges = True
    play.link.reported[b"standard_conforming_strings"] = b"off"
    play.link.reported_id = 99
    sent = play.f(query(HIDING))
    assert sent == b""
    reply = play.client.take()
    assert b"C58000" in reply
    assert reply.endswith(READY)
    play.gate.seen.clear()
    assert HIDING in play.f(query(HIDING))
    assert kinds(play) == ["unknown"]


def test_rule_37_unknown_can_be_refused() -> None:
    play = playbook()

    def refuse(inspection: Inspection) -> None:
        if inspection.facts.kind == "unknown":
            inspection.verdict = VERDICT_REFUSE
            inspection.refusal = Refusal("42000", "no")

    play.gate.rules[b"DROP"] = refuse
    group = parse(b"", b"SET standard_conforming_strings = off") + bind(b"") + execute()
    sent = play.f(group + parse(b"", HIDING) + bind(b"") + execute() + frontend.SYNC)
    assert HIDING not in sent
