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
    describe,
    error,
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


def test_bytes_that_are_no_text_are_unknown_whatever_was_seen_before() -> None:
    """The server answers 22021; a text of the same shape, with another literal, is in the cache."""
    play = playbook()
    play.f(query(b"SELECT 'abc' FROM bytes_table"))
    play.b(complete(b"SELECT 0") + READY)
    wrong = query(b"SELECT '\xff\xfe' FROM bytes_table")
    assert play.f(wrong) == wrong
    assert kinds(play) == ["select", "unknown"]


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


def names(play: Playbook) -> set[bytes]:
    return set(play.session.intake.statements)


def with_statements(*statements: tuple[bytes, bytes]) -> Playbook:
    """A client with prepared statements, whose strings have escapes since."""
    play = Playbook()
    for name, sql in statements:
        play.f(parse(name, sql) + frontend.SYNC)
        play.b(backend.PARSE_COMPLETE + READY)
    told(play, b"standard_conforming_strings", b"off")
    play.server.take()
    return play


@pytest.mark.parametrize(
    ("sql", "tag", "left"),
    [
        (b"DISCARD ALL", b"DISCARD ALL", set()),
        (b"deallocate prepare all", b"DEALLOCATE ALL", set()),
        (b"DEALLOCATE s", b"DEALLOCATE", {b"t"}),
        (b"DEALLOCATE s; DEALLOCATE t", b"DEALLOCATE", {b"t"}),
        (b"DISCARD PLANS", b"DISCARD PLANS", {b"s", b"t"}),
        (b"SELECT 'discard'", b"SELECT 1", {b"s", b"t"}),
        # These may be read in another way, and are not guessed at.
        (b"DEALLOCATE ALL -- \\", b"DEALLOCATE ALL", {b"s", b"t"}),
        ("DEALLOCATE ALL -- é".encode(), b"DEALLOCATE ALL", {b"s", b"t"}),
    ],
)
@pytest.mark.parametrize("is_extended", [False, True])
def test_rule_11_raw_text_drops_statements_where_it_reads_the_same_everywhere(
    sql: bytes, tag: bytes, left: set[bytes], is_extended: bool
) -> None:
    """Of two commands in one text the first alone is complete here, as if the second had failed."""
    play = with_statements((b"s", b"SELECT 1"), (b"t", b"SELECT 2"))
    if is_extended:
        play.f(parse(b"", sql) + bind(b"") + execute() + frontend.SYNC)
        play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(tag) + READY)
    else:
        play.f(query(sql))
        play.b(complete(tag) + READY)
    assert names(play) == left


@pytest.mark.parametrize(
    ("sql", "sent"),
    [
        (b"DEALLOCATE s", b"DEALLOCATE headgate_1"),
        (b"PREPARE s AS SELECT 1", b"PREPARE headgate_1 AS SELECT 1"),
        (b"SELECT 1; deallocate prepare s", b"SELECT 1; deallocate prepare headgate_1"),
        # What it executes would have to be judged as that.
        (b"DEALLOCATE s; EXECUTE t", b"DEALLOCATE s; EXECUTE t"),
    ],
)
def test_rule_11_raw_text_finds_the_statement_that_it_drops(sql: bytes, sent: bytes) -> None:
    play = with_statements((b"s", b"SELECT 1"), (b"t", b"SELECT 2"))
    assert play.f(query(sql)) == query(sent)


@pytest.mark.parametrize("sql", [b"PREPARE s AS SELECT 1", b"DEALLOCATE s"])
def test_rule_11_raw_statement_finds_the_name_in_it(sql: bytes) -> None:
    play = with_statements((b"s", b"SELECT 1"))
    play.gate.judges = True
    sent = play.f(parse(b"", sql) + bind(b"") + execute() + frontend.SYNC)
    assert sql.replace(b" s", b" headgate_1") in sent
    # The hooks are told of a text that nobody has read.
    assert kinds(play) == ["unknown"]


def test_rule_11_raw_statement_that_executes_finds_nothing() -> None:
    play = with_statements((b"s", b"SELECT 1"))
    sql = b"EXPLAIN EXECUTE s /* prepare */"
    sent = play.f(parse(b"", sql) + bind(b"") + execute() + frontend.SYNC)
    assert b"headgate_1" not in sent


def test_rule_11_raw_statement_with_a_name_of_the_proxys_is_refused() -> None:
    play = with_statements()
    play.session.receive_from_frontend(parse(b"", b"PREPARE headgate_1 AS SELECT 1"))
    play.session.receive_from_frontend(frontend.SYNC)
    assert b"C42939\0" in play.client.take()


def test_rule_11_raw_text_that_prepares_takes_the_name() -> None:
    """Until the next look at what the session has left, which may be never in session mode."""
    play = with_statements()
    play.f(parse(b"", b"PREPARE s AS SELECT 1") + bind(b"") + execute() + parse(b"s", b"SELECT 2"))
    play.f(frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"PREPARE"))
    said = play.b(error("42601", "syntax error") + READY)
    assert b"C42P05\0" in said
    assert list(play.session.intake.foreign) == [b"s"]
    facts = play.session.intake.foreign[b"s"].facts
    assert [statement.kind for statement in facts.statements] == ["unknown"]


def test_rule_11_raw_text_that_fails_drops_nothing() -> None:
    play = with_statements((b"s", b"SELECT 1"))
    play.f(query(b"SELECT 1/0; DEALLOCATE ALL"))
    play.b(error("22012", "division by zero") + READY)
    assert names(play) == {b"s"}


@pytest.mark.parametrize("sql", [b"DISCARD ALL", b"DEALLOCATE ALL"])
@pytest.mark.parametrize("is_old", [False, True])
def test_rule_11_name_behind_a_raw_text_that_drops_it_in_the_same_group_is_free(
    sql: bytes, is_old: bool
) -> None:
    play = with_statements((b"s", b"SELECT 1"), (b"all", sql))
    group = bind(b"all") if is_old else parse(b"", sql) + bind(b"")
    play.f(group + execute() + parse(b"s", b"SELECT 2") + frontend.SYNC)
    # What was prepared before is prepared anew, as it is read now.
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(sql))
    assert b"SELECT 2" in play.server.take()
    assert play.b(backend.PARSE_COMPLETE + READY) == backend.PARSE_COMPLETE + READY
    assert names(play) == {b"s"}
    assert play.session.intake.statements[b"s"].text == b"SELECT 2"


def test_rule_11_describing_a_raw_text_drops_nothing() -> None:
    play = with_statements((b"s", b"SELECT 1"))
    play.f(parse(b"", b"DEALLOCATE ALL") + describe(b"") + frontend.SYNC)
    none = backend.parameter_description([]) + backend.NO_DATA
    play.b(backend.PARSE_COMPLETE + none + READY)
    assert names(play) == {b"s"}
