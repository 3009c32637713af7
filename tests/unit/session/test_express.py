"""`session.express`: whatever goes the express way goes as it would have gone the long way."""

from collections.abc import Callable

import pytest

from proxy.errors import Refusal
from proxy.protocol import backend, frontend
from proxy.session import express
from proxy.session.clearance import NEVER, Clearance
from proxy.session.context import ClientContext
from proxy.session.inspection import (
    PHASE_EXECUTE,
    PHASE_STATEMENT,
    VERDICT_REFUSE,
    Inspection,
    RowSet,
)
from proxy.session.relay import BUSY, CLOSED, IDLE, JUDGING, WAITING
from proxy.session.tuning import POOL_SESSION, POOL_STATEMENT
from proxy.sql.statement import StatementFacts
from tests.support.playbook import (
    CLASSIFIER,
    READY,
    READY_T,
    Playbook,
    ScriptedGate,
    bind,
    complete,
    describe,
    error,
    execute,
    parse,
    query,
    row,
)

SYNC = frontend.SYNC
TEXT = b"SELECT a FROM express_table"
OTHER = b"SELECT b FROM express_table"
WRITE = b"UPDATE express_table SET a = 7"
COLUMNS = backend.row_description([(b"a", 25, -1, 0)])
REPLY = COLUMNS + row(b"1") + complete(b"SELECT 1") + READY
DESCRIBED = describe(b"", frontend.PORTAL)
GROUP = parse(b"", TEXT) + bind(b"") + DESCRIBED + execute() + SYNC
GROUP_REPLY = backend.PARSE_COMPLETE + backend.BIND_COMPLETE + REPLY
NAMED = bind(b"a") + execute() + SYNC
NAMED_REPLY = backend.BIND_COMPLETE + row(b"1") + complete(b"SELECT 1") + READY

for text in (TEXT, OTHER, WRITE):
    CLASSIFIER.facts(text)


def started(**options: object) -> Playbook:
    """A session whose first statement, which is never express, is over."""
    play = Playbook(classifier=CLASSIFIER, **options)  # type: ignore[arg-type]
    assert play.f(query(OTHER)) == query(OTHER)
    assert play.b(REPLY) == REPLY
    return play


def sent(play: Playbook, data: bytes) -> bytes:
    """Send what has to go the express way; what the server gets."""
    received = play.f(data)
    assert play.link.is_express
    assert play.session.exchange is None
    return received


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        pytest.param(query(TEXT), REPLY, id="query"),
        pytest.param(query(WRITE), complete(b"UPDATE 1") + READY, id="write"),
        pytest.param(GROUP, GROUP_REPLY, id="group"),
        pytest.param(GROUP.replace(DESCRIBED, b""), GROUP_REPLY.replace(COLUMNS, b""), id="short"),
    ],
)
def test_a_plain_statement_goes_as_it_came(data: bytes, reply: bytes) -> None:
    play = started()
    queries = play.counters.queries
    assert sent(play, data) == data
    assert play.session.phase == BUSY
    assert not play.link.owes_nothing()
    assert play.b(reply) == reply
    session = play.session
    assert (session.phase, session.link, play.link.is_express) == (IDLE, None, False)
    assert play.broker.free == [play.link]
    assert play.counters.queries == queries + 1
    assert (session.queries, session.transactions) == (2, 2)
    assert play.counters.bytes_to_clients == session.sent_bytes


def test_a_named_statement_goes_under_the_name_that_it_has_there() -> None:
    play = started(max_prepared=1)
    play.f(parse(b"a", TEXT) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    for is_described in (False, True):
        data = bind(b"a") + (DESCRIBED if is_described else b"") + execute() + SYNC
        assert sent(play, data) == data.replace(bind(b"a"), bind(b"headgate_1"))
        assert play.session.intake.statements[b"a"].is_described is is_described
        assert play.b(NAMED_REPLY) == NAMED_REPLY
    assert list(play.link.prepared.values()) == [b"headgate_1"]


def test_a_named_statement_that_the_connection_does_not_have_is_prepared_first() -> None:
    play = started(links=2)
    play.f(parse(b"a", TEXT) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.broker.free.reverse()
    play.session.receive_from_frontend(NAMED)
    assert (
        play.wire_of(1).take()
        == parse(b"headgate_1", TEXT) + bind(b"headgate_1") + execute() + SYNC
    )
    play.from_server(1, backend.PARSE_COMPLETE + NAMED_REPLY)
    assert play.client.take() == NAMED_REPLY


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(query(b"SELECT a FROM never_seen"), id="text not seen before"),
        pytest.param(query(b"BEGIN"), id="control"),
        pytest.param(query(b"EXPLAIN " + TEXT), id="wrapper"),
        pytest.param(query(b"SET search_path TO a"), id="setting"),
        pytest.param(query(TEXT) + query(TEXT), id="two"),
        pytest.param(query(TEXT)[:-1], id="part"),
        pytest.param(query(b"SELECT '" + b"x" * express.MAX_BYTES + b"'"), id="long"),
        pytest.param(parse(b"b", TEXT) + bind(b"b") + execute() + SYNC, id="named Parse"),
        pytest.param(parse(b"", TEXT) + bind(b"a") + execute() + SYNC, id="of another"),
        pytest.param(parse(b"", TEXT) + SYNC, id="Parse alone"),
        pytest.param(bind(b"a") + execute() + execute() + SYNC, id="two Executes"),
        pytest.param(bind(b"a", b"portal") + execute(b"portal") + SYNC, id="named portal"),
        pytest.param(bind(b"") + execute() + SYNC, id="unnamed"),
        pytest.param(bind(b"nobody") + execute() + SYNC, id="unknown"),
        pytest.param(describe(b"a") + SYNC, id="Describe"),
        pytest.param(b"B\0\0\0\x09\0abc\x01" + execute() + SYNC, id="name without end"),
        pytest.param(
            frontend.Parse(b"", TEXT, [23] * 20).encode() + bind(b"") + execute() + SYNC,
            id="many types",
        ),
    ],
)
def test_what_is_not_plain_goes_the_long_way(data: bytes) -> None:
    for text in (b"BEGIN", b"EXPLAIN " + TEXT, b"SET search_path TO a"):
        CLASSIFIER.facts(text)
    play = started()
    play.f(parse(b"a", TEXT) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(data)
    assert not play.link.is_express


def in_block(play: Playbook) -> None:
    play.f(query(b"BEGIN"))
    play.b(complete(b"BEGIN") + READY_T)


def pinned(play: Playbook) -> None:
    play.session.state.pins = ["temporary objects"]


def slow_client(play: Playbook) -> None:
    play.session.on_frontend_full()


def new_schema(play: Playbook) -> None:
    play.session._welcomes.schema += 1


def unsafe(play: Playbook) -> None:
    play.session.intake.is_unsafe = True


def has_part(play: Playbook) -> None:
    play.f(query(TEXT)[:3])


def has_message(play: Playbook) -> None:
    play.f(parse(b"", OTHER))


@pytest.mark.parametrize(
    "change", [in_block, pinned, slow_client, new_schema, unsafe, has_part, has_message]
)
def test_a_session_that_is_not_ordinary_goes_the_long_way(change: object) -> None:
    play = started()
    assert callable(change)
    change(play)
    play.session._is_ordinary = False
    play.f(query(TEXT))
    assert not play.link.is_express


def test_modes() -> None:
    assert sent(started(mode=POOL_STATEMENT), query(TEXT)) == query(TEXT)
    play = started(mode=POOL_SESSION)
    play.f(query(TEXT))
    assert not play.link.is_express


def test_a_message_may_be_no_longer_than_configured() -> None:
    play = started(max_message_bytes=len(query(TEXT)))
    sent(play, query(TEXT))
    play.b(REPLY)
    play.f(query(TEXT + b"  "))
    assert play.session.phase == CLOSED


def test_statements_that_are_not_what_they_were_take_the_long_way() -> None:
    for change in ("is_raw", "is_special", "sql", "planning", "answer"):
        play = started()
        play.f(parse(b"a", TEXT) + SYNC)
        play.b(backend.PARSE_COMPLETE + READY)
        prepared = play.session.intake.statements[b"a"]
        if change == "sql":
            prepared.sql = bytes(bytearray(TEXT))
        elif change == "planning":
            prepared.planning = b"other"
        elif change == "answer":
            prepared.answer = RowSet([], [])
        else:
            setattr(prepared, change, True)
        play.session.receive_from_frontend(NAMED)
        assert not play.link.is_express, change


# -- what makes it an exchange again


def test_a_reply_in_pieces() -> None:
    play = started()
    sent(play, query(TEXT))
    assert play.b(REPLY[:20]) + play.b(REPLY[20:-1]) + play.b(REPLY[-1:]) == REPLY
    assert play.session.phase == IDLE
    sent(play, query(TEXT))
    assert play.b(REPLY) == REPLY
    assert play.session.queries == 3


def test_a_message_in_pieces_that_the_server_sent_of_its_own_accord() -> None:
    play = started()
    notice = backend.notice_response(Refusal("00000", "by the way", severity="NOTICE"))
    play.from_server(0, notice[:9])
    sent(play, query(TEXT))
    assert play.b(notice[9:]) == notice
    assert play.b(REPLY) == REPLY


def test_an_error_and_what_it_leaves_behind() -> None:
    play = started()
    sent(play, GROUP)
    refused = error("42P01", "no such table") + READY
    assert play.b(refused) == refused
    assert play.counters.sqlstates["42P01"] == 1
    # PostgreSQL drops the unnamed statement before it looks at the new one.
    assert play.f(bind(b"") + execute() + SYNC) == b""
    assert b"C26000" in play.client.take()


def test_the_unnamed_statement_of_the_express_way_is_known() -> None:
    play = started()
    sent(play, GROUP)
    play.b(GROUP_REPLY)
    again = bind(b"") + execute() + SYNC
    assert play.f(again) == parse(b"", TEXT) + again
    assert play.b(GROUP_REPLY.replace(COLUMNS, b"")) == NAMED_REPLY
    assert play.f(again) == again
    play.b(NAMED_REPLY)
    sent(play, query(TEXT))
    play.b(REPLY)
    assert play.f(again) == b""
    assert b"C26000" in play.client.take()


def test_the_previous_statement_comes_back_where_a_query_never_ran() -> None:
    play = started()
    sent(play, GROUP)
    play.b(GROUP_REPLY)
    play.broker.is_empty = True
    play.f(query(TEXT))
    play.broker.refuse(Refusal("53300", "too many"))
    assert b"C53300" in play.client.take()
    play.broker.is_empty = False
    again = bind(b"") + execute() + SYNC
    assert play.f(again) == parse(b"", TEXT) + again


def test_what_the_client_sends_on_waits_for_the_reply() -> None:
    play = started()
    sent(play, query(TEXT))
    assert play.f(query(WRITE)) == b""
    assert play.b(REPLY) == REPLY
    assert play.server.take() == query(WRITE)
    assert play.b(complete(b"UPDATE 1") + READY) == complete(b"UPDATE 1") + READY
    assert play.session.queries == 3


def test_too_much_sent_ahead_is_not_read() -> None:
    play = started()
    sent(play, query(TEXT))
    play.f(query(b"SELECT '" + b"x" * 300_000 + b"'"))
    assert play.client.is_paused
    play.b(REPLY)
    assert not play.client.is_paused


def test_a_client_that_says_goodbye_is_answered_first() -> None:
    play = started()
    sent(play, query(TEXT))
    play.f(b"X\0\0\0\4")
    assert play.b(REPLY) == REPLY
    assert play.client.is_closed


def test_a_client_that_goes_is_cancelled() -> None:
    play = started()
    sent(play, query(TEXT))
    play.session.on_frontend_lost()
    assert play.broker.cancelled == [play.link]
    assert [link for link, _ in play.broker.discarded] == [play.link]


def test_cancel_and_time_limit_reach_it() -> None:
    play = started()
    sent(play, query(TEXT))
    play.session.cancel()
    assert play.broker.cancelled == [play.link]
    play.session.time_out_query()
    assert play.broker.cancelled == [play.link] * 2
    exchange = play.session.exchange
    assert exchange is not None
    assert exchange.is_timed_out
    assert play.b(error("57014", "canceling statement due to user request") + READY)
    assert play.session.phase == IDLE


def test_a_read_is_tried_again_when_its_server_goes_and_a_write_is_not() -> None:
    play = started(links=2)
    sent(play, query(TEXT))
    play.link.connection_lost()
    assert play.wire_of(1).take() == query(TEXT)
    play.from_server(1, REPLY)
    assert play.client.take() == REPLY
    play = started()
    sent(play, query(WRITE))
    play.link.connection_lost()
    assert play.session.phase == CLOSED


def test_a_node_that_hangs_is_left() -> None:
    play = started()
    sent(play, query(TEXT))
    play.session.leave_node()
    assert play.server.is_closed
    play = started()
    sent(play, query(WRITE))
    play.session.leave_node()
    assert not play.server.is_closed


def test_who_waits_for_a_connection_is_an_exchange() -> None:
    play = started()
    play.broker.is_empty = True
    assert play.f(query(TEXT)) == b""
    assert play.session.phase == WAITING
    assert play.session.waiting_since_us > 0
    play.broker.grant(play.broker.free.pop())
    assert play.server.take() == query(TEXT)
    assert play.b(REPLY) == REPLY


def test_a_connection_with_other_settings_gets_the_clients_first() -> None:
    play = started()
    play.link.applied_key = b"other"
    play.link.applied = {"work_mem": b"1MB"}
    assert b"RESET" in play.f(query(TEXT))
    assert play.b(complete(b"RESET") + READY) == b""
    assert play.server.take() == query(TEXT)
    play.b(REPLY)
    assert sent(play, query(TEXT)) == query(TEXT)


def test_a_shutdown_waits_for_the_reply() -> None:
    play = started()
    sent(play, query(TEXT))
    play.session.drain()
    assert not play.client.is_closed
    assert play.b(REPLY).startswith(REPLY)
    assert play.client.is_closed


def test_nothing_to_unfold() -> None:
    play = started()
    play.session.unfold()
    assert play.session.exchange is None


# -- with a gate


def refuse(inspection: Inspection) -> None:
    inspection.verdict = VERDICT_REFUSE
    inspection.refusal = Refusal("42000", "no")


def rewrite(inspection: Inspection) -> None:
    inspection.facts = CLASSIFIER.exact(OTHER).statements[0]
    inspection.is_rewritten = True


SHAPES = [
    pytest.param(query(TEXT), REPLY, id="query"),
    pytest.param(GROUP, GROUP_REPLY, id="group"),
    pytest.param(NAMED, NAMED_REPLY, id="named"),
]


def judged() -> Playbook:
    play = started()
    play.f(parse(b"a", TEXT) + SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.gate.judges = True
    return play


def judged_at_once() -> Playbook:
    play = judged()
    play.gate.judges_at_once = True
    return play


BOTH_WAYS = pytest.mark.parametrize("playing", [judged, judged_at_once])


@pytest.mark.parametrize(("data", "reply"), SHAPES)
def test_a_statement_is_judged_on_the_way(data: bytes, reply: bytes) -> None:
    play = judged()
    assert sent(play, data)
    assert [one.facts.text for one in play.gate.seen] == [TEXT]
    assert play.gate.done == []
    assert play.b(reply) == reply
    assert play.gate.done == play.gate.seen
    assert play.gate.seen[0].is_extended is (data[:1] != b"Q")


@BOTH_WAYS
@pytest.mark.parametrize(("data", "reply"), SHAPES)
def test_a_refusal_is_told(data: bytes, reply: bytes, playing: Callable[[], Playbook]) -> None:
    play = playing()
    play.gate.rules[b"express_table"] = refuse
    assert play.f(data) == b""
    answer = play.client.take()
    assert b"C42000" in answer
    assert answer.endswith(READY)
    assert play.gate.done == play.gate.seen
    play.gate.rules.clear()
    assert sent(play, data)
    assert play.b(reply) == reply


@pytest.mark.parametrize(("data", "reply"), SHAPES)
def test_a_plugin_that_takes_its_time(data: bytes, reply: bytes) -> None:
    play = judged()
    play.gate.slow.append(b"express_table")
    assert play.f(data) == b""
    assert play.session.phase == JUDGING
    play.gate.decide()
    assert play.server.take() != b""
    assert play.b(reply) == reply
    play.gate.rules[b"express_table"] = refuse
    assert play.f(data) == b""
    play.gate.decide()
    assert b"C42000" in play.client.take()
    assert play.gate.done == play.gate.seen


@pytest.mark.parametrize(("data", "reply"), SHAPES)
def test_a_statement_is_judged_at_once(data: bytes, reply: bytes) -> None:
    play = judged_at_once()
    assert sent(play, data)
    assert [one.facts.text for one in play.gate.seen] == [TEXT]
    assert play.gate.seen[0].is_extended is (data[:1] != b"Q")
    assert play.gate.seen[0].phase == (PHASE_EXECUTE if data[:1] == b"B" else PHASE_STATEMENT)
    assert play.b(reply) == reply
    # What has passed has no object that somebody is told of.
    assert play.gate.done == []
    assert sent(play, data)
    assert play.b(reply) == reply
    assert len(play.gate.seen) == 2


@pytest.mark.parametrize(("data", "reply"), SHAPES)
def test_what_has_passed_is_not_judged_again_on_the_long_way(data: bytes, reply: bytes) -> None:
    play = judged_at_once()
    assert sent(play, data)
    assert play.b(reply[:9]) + play.b(reply[9:]) == reply
    assert len(play.gate.seen) == 1
    assert play.gate.done == []


def test_the_long_way_knows_the_very_text_that_has_passed() -> None:
    play = judged_at_once()
    CLASSIFIER.facts(TEXT + b" WHERE b = 1")
    sent(play, query(TEXT + b" WHERE b = 7"))
    play.b(REPLY[:9])
    exchange = play.session.exchange
    assert exchange is not None
    assert [one.raw_text for one in exchange.statements] == [TEXT + b" WHERE b = 7"]
    assert play.gate.seen[0].facts.text == TEXT + b" WHERE b = 7"


def test_nothing_that_has_passed_is_taken_for_the_next_one() -> None:
    """One statement passes; the next has a clearance, and is no statement of the gate's."""
    play = judged_at_once()
    sent(play, query(TEXT))
    play.b(REPLY)
    play.gate.judges = False
    sent(play, query(TEXT))
    play.b(REPLY[:9])
    exchange = play.session.exchange
    assert exchange is not None
    assert exchange.statements == []


def test_the_very_text_is_judged() -> None:
    play = judged()
    CLASSIFIER.facts(TEXT + b" WHERE b = 1")
    sent(play, query(TEXT + b" WHERE b = 7"))
    assert [one.facts.text for one in play.gate.seen] == [TEXT + b" WHERE b = 7"]


@BOTH_WAYS
def test_a_rewritten_text_goes_out(playing: Callable[[], Playbook]) -> None:
    play = playing()
    play.gate.rules[b"SELECT a"] = rewrite
    assert play.f(query(TEXT)) == query(OTHER)
    play.b(REPLY)
    assert play.f(GROUP) == GROUP.replace(parse(b"", TEXT), parse(b"", OTHER))


@pytest.mark.parametrize("wish", ["observes", "routes", "wants_parameters", "caches", "captures"])
def test_who_wants_to_know_more_sees_the_long_way(wish: str) -> None:
    play = judged()
    setattr(play.gate, wish, True)
    play.f(query(TEXT))
    assert not play.link.is_express


class ClearingGate(ScriptedGate):
    def __init__(self) -> None:
        super().__init__()
        self.known: Clearance | None = None

    def clearance(self, facts: StatementFacts, client: ClientContext) -> Clearance | None:
        return self.known


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        (None, 1),
        (NEVER, 1),
        (Clearance(OTHER, [], []), 1),
        (Clearance(TEXT, [], []), 0),
        (Clearance(b"", [], []), 0),
    ],
)
def test_who_is_cleared_is_not_judged(known: Clearance | None, asked: int) -> None:
    gate = ClearingGate()
    play = started(gate=gate)
    gate.judges = gate.clears = True
    gate.known = known
    sent(play, query(TEXT))
    assert len(gate.seen) == asked
    # And not when it has to be read again either.
    assert play.b(REPLY[:9]) + play.b(REPLY[9:]) == REPLY
    assert len(gate.seen) == asked
