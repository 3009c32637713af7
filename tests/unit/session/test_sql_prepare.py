"""SQL PREPARE and EXECUTE: judged as what they run, pinned while there are any, never walked around."""

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session import namespace
from proxy.session.inspection import (
    PHASE_EXECUTE,
    VERDICT_ANSWER,
    VERDICT_REFUSE,
    Inspection,
    RowSet,
)
from proxy.session.intake import Intake
from proxy.sql.classify import PgClassifier
from tests.support.playbook import (
    READY,
    READY_T,
    Playbook,
    bind,
    close,
    complete,
    describe,
    error,
    execute,
    parse,
    query,
    row,
)

CLASSIFIER = PgClassifier()
SYNC = frontend.SYNC
ALL = b"DELETE FROM t"
SAFE = b"DELETE FROM t WHERE false"


def run(sql: bytes) -> bytes:
    return parse(b"", sql) + bind(b"") + execute()


def judged() -> Playbook:
    play = Playbook()
    play.gate.judges = True
    return play


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42000", "no")


def answer(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_ANSWER
    inspection.answer = RowSet([("a", 25)], [[b"1"]])


def rewrite(inspection: Inspection) -> None:
    if inspection.facts.text != SAFE:
        inspection.is_rewritten = True
        inspection.facts = CLASSIFIER.exact(SAFE).statements[0]


def rewrite_executions(inspection: Inspection) -> None:
    if inspection.phase == PHASE_EXECUTE:
        rewrite(inspection)


def with_statement(sql: bytes) -> Playbook:
    """A session with statement `a` of the protocol."""
    play = judged()
    play.f(parse(b"a", sql) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.gate.seen.clear()
    return play


def with_prepare(sql: bytes) -> Playbook:
    """A session with statement `a` of SQL, pinned to its connection."""
    play = judged()
    text = b"PREPARE a AS " + sql
    play.f(query(text))
    play.b(complete(b"PREPARE") + READY)
    play.looked_at(row(b"q", b"a", text))
    play.gate.seen.clear()
    assert play.session.state.pins == ["PREPARE"]
    return play


def refused(play: Playbook, data: bytes) -> bytes:
    """What the client gets; where it has a connection, the server is made to fail."""
    if play.f(data):
        return play.b(error("42601", "syntax error") + READY)
    return play.client.take()


def seen(play: Playbook) -> list[tuple[str, int]]:
    return [(inspection.facts.kind, inspection.phase) for inspection in play.gate.seen]


@pytest.mark.parametrize("use", [query(b"EXECUTE a"), run(b"EXECUTE a") + SYNC])
@pytest.mark.parametrize("make", [with_statement, with_prepare])
def test_execute_is_judged_as_what_it_runs(make, use) -> None:
    play = make(ALL)
    play.gate.rules[ALL] = refuse
    said = refused(play, use)
    assert ("delete", PHASE_EXECUTE) in seen(play)
    assert b"C42000" in said
    assert said.endswith(READY)


def test_execute_behind_a_prepare_of_the_same_batch_is_judged_by_both() -> None:
    """Whether the PREPARE runs is not known: `a` may be the old or the new one."""
    play = with_prepare(b"SELECT 1")
    play.f(query(b"DEALLOCATE a; PREPARE a AS DELETE FROM t; EXECUTE a"))
    kinds = [inspection.facts.kind for inspection in play.gate.seen]
    assert kinds[-2:] == ["select", "delete"]
    play = judged()
    play.gate.rules[b"EXECUTE"] = refuse
    group = run(b"PREPARE b AS DELETE FROM t") + run(b"EXECUTE b") + SYNC
    assert play.f(group) == group
    assert [inspection.facts.kind for inspection in play.gate.seen] == ["delete", "delete"]


def test_execute_of_what_is_not_known_is_itself() -> None:
    play = judged()
    assert play.f(query(b"EXECUTE nothing")) == query(b"EXECUTE nothing")
    assert [inspection.facts.kind for inspection in play.gate.seen] == ["execute"]


def test_bind_of_a_statement_of_sql_is_judged_and_refused() -> None:
    play = with_prepare(ALL)
    play.gate.rules[ALL] = refuse
    assert b"C42000" in refused(play, bind(b"a") + execute() + SYNC)
    assert seen(play) == [("delete", PHASE_EXECUTE)]
    play.gate.rules.clear()
    group = bind(b"a") + execute() + SYNC
    assert play.f(group) == group


@pytest.mark.parametrize(
    "use",
    [query(b"EXECUTE a"), run(b"EXECUTE a") + SYNC, bind(b"a") + execute() + SYNC],
    ids=["query", "pipeline", "bind"],
)
def test_rewrite_of_a_statement_of_sql_is_an_error_and_never_ignored(use: bytes) -> None:
    play = with_prepare(ALL)
    play.gate.rules[ALL] = rewrite
    said = refused(play, use)
    assert b"C0A000" in said
    assert said.endswith(READY)


@pytest.mark.parametrize("named", [False, True])
def test_rewrite_behind_a_bind_of_an_execute_is_an_error(named: bool) -> None:
    play = with_statement(ALL)
    name = b"e" if named else b""
    play.f(parse(name, b"EXECUTE a") + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.gate.rules[ALL] = rewrite
    said = refused(play, bind(name) + execute() + SYNC)
    assert b"C0A000" in said
    assert said.endswith(READY)


def test_rewritten_prepare_runs_as_the_plugin_wants_it_to() -> None:
    play = judged()
    play.gate.rules[ALL] = rewrite
    text = b"PREPARE a AS " + ALL

    def rewrite_prepare(inspection: Inspection) -> None:
        inspection.is_rewritten = True
        inspection.facts = CLASSIFIER.exact(b"PREPARE a AS " + SAFE).statements[0]

    play.gate.rules = {text: rewrite_prepare}
    sent = play.f(query(text))
    assert sent == query(b"PREPARE a AS " + SAFE)
    play.b(complete(b"PREPARE") + READY)
    statement = play.session.intake.foreign[b"a"]
    assert statement.text == text
    assert statement.sql == b"PREPARE a AS " + SAFE


def test_rewrite_of_a_statement_of_the_protocol_is_executed_in_its_place() -> None:
    play = with_statement(b"DELETE FROM t")
    play.gate.rules[b"DELETE FROM t"] = rewrite_executions
    sent = play.f(query(b"SELECT 1; EXECUTE a; DEALLOCATE a"))
    assert SAFE in sent
    assert sent.endswith(query(b"SELECT 1; EXECUTE headgate_2; DEALLOCATE headgate_1"))


def test_what_was_rewritten_at_parse_is_executed_as_it_is() -> None:
    play = judged()
    play.gate.rules[ALL] = rewrite
    sent = play.f(parse(b"a", ALL) + SYNC)
    assert SAFE in sent
    play.b(backend.PARSE_COMPLETE + READY)
    assert play.f(query(b"EXECUTE a")) == query(b"EXECUTE headgate_1")


def test_answer_for_an_execute_among_others() -> None:
    play = with_statement(b"SELECT a FROM t")
    play.gate.rules[b"FROM t"] = answer
    assert play.f(query(b"EXECUTE a")) == b""
    said = backend.row_description([(b"a", 25, -1, 0)]) + row(b"1") + complete(b"SELECT 1")
    assert play.client.take() == said + READY
    sent = play.f(query(b"EXECUTE a; SELECT 2; EXECUTE other"))
    assert sent == query(b"SELECT E'1'::pg_catalog.text AS \"a\"; SELECT 2; EXECUTE other")


def test_execute_beside_a_rewritten_statement_stays() -> None:
    play = with_statement(b"SELECT a FROM t")
    play.gate.rules[ALL] = rewrite
    sent = play.f(query(b"EXECUTE a; " + ALL))
    assert sent == query(b"EXECUTE headgate_1; " + SAFE)


def test_statement_that_a_function_has_made_is_known_when_it_is_found() -> None:
    play = judged()
    play.f(query(b"DO $$BEGIN EXECUTE 'PREPARE a AS DELETE FROM t'; END$$"))
    play.b(complete(b"DO") + READY)
    found = row(b"q", b"a", b"PREPARE x AS SELECT 1; PREPARE a AS DELETE FROM t")
    strange = row(b"q", b"strange", b"PREPARE strange AS NEWER SYNTAX")
    play.looked_at(found, strange)
    assert play.session.state.pins == ["PREPARE"]
    play.gate.seen.clear()
    play.f(query(b"EXECUTE a"))
    assert seen(play) == [("delete", PHASE_EXECUTE)]
    play.b(complete(b"ALL TABLE") + READY)
    play.looked_at(found, strange)
    play.gate.seen.clear()
    play.f(query(b"EXECUTE strange"))
    assert seen(play) == [("unknown", PHASE_EXECUTE)]


def test_statement_that_is_gone_is_forgotten_and_its_pin_with_it() -> None:
    play = with_prepare(b"SELECT 1")
    play.f(query(b"SELECT drop_all_statements()"))
    play.b(complete(b"SELECT 1") + READY)
    play.looked_at()
    assert play.session.intake.foreign == {}
    assert play.session.state.pins == []
    assert play.broker.free == [play.link]


def test_statement_that_is_known_keeps_what_the_client_sent() -> None:
    intake = Intake(CLASSIFIER, 1 << 20)
    statement = CLASSIFIER.exact(b"PREPARE a AS SELECT 1").statements[0]
    known = namespace.foreign(statement, b"PREPARE a AS SELECT 2")
    intake.foreign = {b"a": known}
    namespace.learn(intake, {b"a": b"PREPARE a AS SELECT 2"}, CLASSIFIER)
    assert intake.foreign == {b"a": known}


def test_prepare_that_fails_is_none() -> None:
    play = judged()
    play.f(query(b"BEGIN; PREPARE a AS SELECT 1; SELECT 1/0; PREPARE b AS SELECT 2"))
    play.b(complete(b"BEGIN") + complete(b"PREPARE") + error("22012", "division by zero"))
    play.b(READY_T)
    assert play.session.intake.foreign.keys() == {b"a"}


def test_deallocated_statement_of_sql_is_gone_and_what_was_not_reached_is_not() -> None:
    play = with_prepare(b"SELECT 1")
    assert play.f(query(b"DEALLOCATE a; PREPARE b AS SELECT 2")) != b""
    play.b(complete(b"DEALLOCATE") + error("53200", "out of memory") + READY)
    assert play.session.intake.foreign == {}


def test_bind_of_an_execute_that_nobody_minds_goes_on() -> None:
    play = with_prepare(ALL)
    group = run(b"EXECUTE a") + SYNC
    assert play.f(group) == group
    assert seen(play)[-1] == ("delete", PHASE_EXECUTE)
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"DELETE 1") + READY)
    play.looked_at(row(b"q", b"a", b"PREPARE a AS DELETE FROM t"))
    assert play.f(bind(b"") + execute() + SYNC) == group


def test_described_execute_runs_nothing_that_is_prepared_behind_it() -> None:
    play = Playbook()
    ahead = parse(b"c", b"EXECUTE b") + describe(b"c")
    sent = play.f(ahead + parse(b"b", b"SELECT 1") + SYNC)
    assert sent.startswith(parse(b"headgate_1", b"EXECUTE b") + describe(b"headgate_1"))
    none = backend.parameter_description([]) + backend.NO_DATA
    replies = backend.PARSE_COMPLETE + none + backend.PARSE_COMPLETE + READY
    assert play.b(replies) == replies


def test_each_execute_of_a_query_runs_what_the_plugins_want() -> None:
    play = with_statement(b"DELETE FROM t")
    play.f(parse(b"b", b"DELETE FROM t") + SYNC)
    play.b(READY)
    play.gate.rules[b"DELETE FROM t"] = rewrite_executions
    sent = play.f(query(b"EXECUTE a; EXECUTE b"))
    assert sent.count(SAFE) == 1
    assert sent.endswith(query(b"EXECUTE headgate_2; EXECUTE headgate_2"))


def test_other_prepares_of_the_batch_are_not_what_is_executed() -> None:
    play = judged()
    play.f(query(b"PREPARE b AS SELECT 1; EXECUTE a"))
    assert [inspection.facts.kind for inspection in play.gate.seen] == ["select", "execute"]


def test_close_that_never_ran_leaves_a_statement_of_sql() -> None:
    play = with_prepare(b"SELECT 1")
    assert b"C26000" in refused(play, bind(b"unknown") + close(b"a") + SYNC)
    assert play.session.intake.foreign.keys() == {b"a"}
    group = close(b"a") + SYNC
    assert play.f(group) == group
    assert play.session.intake.foreign == {}
