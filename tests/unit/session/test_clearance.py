"""Statements that the gate has cleared go on as if there were no plugin, and are counted."""

from proxy.observe.counters import HookStats
from proxy.protocol import backend, frontend
from proxy.session.clearance import NEVER, Clearance
from proxy.session.context import ClientContext
from proxy.sql.statement import StatementFacts
from tests.support.playbook import (
    READY,
    Playbook,
    ScriptedGate,
    bind,
    complete,
    error,
    execute,
    parse,
    query,
)


class ClearingGate(ScriptedGate):
    """Clears texts by what is in them."""

    def __init__(self) -> None:
        super().__init__()
        self.judges = self.clears = True
        self.stats = HookStats()
        self.known: dict[bytes, Clearance] = {}

    def clearance(self, facts: StatementFacts, client: ClientContext) -> Clearance | None:
        for needle, clearance in self.known.items():
            if needle in facts.text:
                return clearance
        return None

    def clear(self, needle: bytes, text: bytes = b"") -> None:
        self.known[needle] = Clearance(text, [self.stats], [])


def playing() -> tuple[Playbook, ClearingGate]:
    play = Playbook()
    gate = ClearingGate()
    play.session._gate = gate
    return play, gate


def test_cleared_query_is_not_judged() -> None:
    play, gate = playing()
    gate.clear(b"SELECT")
    assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")
    play.b(complete(b"SELECT 1") + READY)
    assert gate.seen == []
    assert gate.stats.filtered == 1
    play.f(query(b"DELETE FROM t"))
    assert [inspection.facts.kind for inspection in gate.seen] == ["delete"]


def test_a_clearance_for_one_text_is_for_no_other() -> None:
    play, gate = playing()
    gate.clear(b"SELECT", b"SELECT 1")
    for text in (b"SELECT 1", b"SELECT 2"):
        play.f(query(text))
        play.b(complete(b"SELECT 1") + READY)
    assert [inspection.raw_text or inspection.facts.text for inspection in gate.seen] == [
        b"SELECT 2"
    ]
    group = parse(b"", b"SELECT 2") + bind(b"") + execute() + frontend.SYNC
    assert play.f(group) == group
    assert len(gate.seen) == 2


def test_a_parse_and_its_first_execution_are_counted_once() -> None:
    play, gate = playing()
    gate.clear(b"SELECT")
    group = parse(b"", b"SELECT 1") + bind(b"") + execute() + frontend.SYNC
    assert play.f(group) == group
    play.b(backend.PARSE_COMPLETE + backend.BIND_COMPLETE + complete(b"SELECT 1") + READY)
    assert gate.stats.filtered == 1
    again = bind(b"") + execute() + bind(b"") + execute() + frontend.SYNC
    assert play.f(again) == again
    assert gate.stats.filtered == 3
    assert gate.seen == []


def test_a_batch_is_judged_whole_when_one_of_it_is_not_clear() -> None:
    play, gate = playing()
    gate.clear(b"SELECT")
    gate.known[b"DELETE"] = NEVER
    play.f(
        parse(b"", b"SELECT 1") + bind(b"") + execute()
        + parse(b"", b"DELETE FROM t") + bind(b"") + execute() + frontend.SYNC
    )  # fmt: skip
    assert [inspection.facts.kind for inspection in gate.seen] == ["select", "delete"]
    assert gate.stats.filtered == 0


def test_several_statements_and_what_runs_others_are_always_judged() -> None:
    play, gate = playing()
    gate.clear(b"")
    play.f(query(b"SELECT 1; SELECT 2"))
    play.b(complete(b"SELECT 1") + complete(b"SELECT 1") + READY)
    assert len(gate.seen) == 2
    play.f(query(b"EXECUTE q"))
    play.b(error("26000", 'prepared statement "q" does not exist') + READY)
    assert len(gate.seen) == 3


def test_a_function_call_is_always_judged() -> None:
    play, gate = playing()
    gate.clear(b"")
    body = b"\0\0\0\x05\0\0\0\0\0\0"
    play.f(b"F" + (4 + len(body)).to_bytes(4, "big") + body)
    assert [inspection.facts.kind for inspection in gate.seen] == ["function_call"]


def test_after_a_rewrite_everything_of_the_session_is_judged() -> None:
    play, gate = playing()
    gate.clear(b"SELECT")
    play.session.intake.was_rewritten = True
    play.f(query(b"SELECT 1"))
    assert len(gate.seen) == 1


def test_what_a_plugin_said_before_is_counted_as_said_again() -> None:
    play, gate = playing()
    gate.known[b"SELECT"] = Clearance(b"", [], [(gate.stats, "continue")])
    for expected in (1, 2):
        assert play.f(query(b"SELECT 1")) == query(b"SELECT 1")
        play.b(complete(b"SELECT 1") + READY)
        assert gate.stats.memoized == expected
        assert gate.stats.filtered == 0
        assert gate.stats.decisions == {"continue": expected}
