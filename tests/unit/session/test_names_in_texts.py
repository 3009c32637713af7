"""Rule 11: where the name of a statement stands in a text, however that is written, and in its error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.protocol import backend, frontend
from proxy.session.exchange import Prepared
from proxy.session.intake import Intake
from proxy.session.namespace import Places, Renaming, find_name, refusal_of, renamed, uses_of
from proxy.sql.classify import PgClassifier
from proxy.sql.statement import PREPARED_EXECUTE
from tests.support.playbook import READY, Playbook, bind, complete, error, execute, parse, query

CLASSIFIER = PgClassifier()

gaps = st.lists(
    st.sampled_from(
        [" ", "\n", "\t\r\f\v", "--execute a\n", "/* execute /* a */ */", "/**/", "--\n"]
    ),
    min_size=1,
    max_size=3,
).map("".join)
written = st.sampled_from(['"a"', "a", "A", '"a""b"', '"A b"', "é", "_a1$", '"execute"', "x" * 70])
words = st.sampled_from(["execute", "EXECUTE", "eXecute"])
in_front = st.sampled_from(
    ["", "EXPLAIN ", "EXPLAIN (FORMAT $é$ execute a $é$) ",
     "CREATE TABLE execute AS ", "EXPLAIN (FORMAT 'execute a') ",
     "EXPLAIN (FORMAT E'x\\' execute a') ", "EXPLAIN (FORMAT $$ execute a $$) ",
     "EXPLAIN (FORMAT $a1_$ execute $$ a $a1_$) ", "CREATE TABLE \"execute a\" AS ",
     "EXPLAIN (FORMAT 'it''s execute a') ", "EXPLAIN (FORMAT e) "]
)  # fmt: skip
behind = st.sampled_from(["", "(1, 'a')", "/* a */", "--a", "\n"])


@given(in_front, words, gaps, written, behind)
def test_the_name_is_where_the_parser_finds_it(
    front: str, word: str, gap: str, name: str, rest: str
) -> None:
    text = f"{front}{word}{gap}{name}{rest}".encode()
    facts = CLASSIFIER.exact(text).statements[0]
    assert facts.prepared == PREPARED_EXECUTE
    found = facts.prepared_name.encode()
    start, end = find_name(text, b"execute", found)
    assert text[start:end] == name.encode()
    other = CLASSIFIER.exact(text[:start] + b"headgate_1" + text[end:]).statements[0]
    assert (other.prepared, other.prepared_name) == (PREPARED_EXECUTE, "headgate_1")


@pytest.mark.parametrize(
    ("text", "keyword", "name", "found"),
    [
        (b"PREPARE execute AS SELECT 1", b"prepare", b"execute", b"execute"),
        (b"DEALLOCATE PREPARE a", b"deallocate", b"a", b"a"),
        (b"DEALLOCATE prepare prepare", b"deallocate", b"prepare", b"prepare"),
        (b"DEALLOCATE a", b"deallocate", b"a", b"a"),
        (b"EXPLAIN EXECUTE execute", b"execute", b"execute", b"execute"),
        ("SELECT $1, $a b$, $é$x$é$ EXECUTE a".encode(), b"execute", b"a", b"a"),
        (b"EXECUTE b", b"execute", b"a", b""),
        (b"EXECUTE 'a' a", b"execute", b"a", b""),
        (b"EXECUTE", b"execute", b"a", b""),
        (b"EXECUTE -- a", b"execute", b"a", b""),
        (b"EXECUTE /* a", b"execute", b"a", b""),
        (b"EXECUTE 'a", b"execute", b"a", b""),
        (b"EXECUTE $$ a", b"execute", b"a", b""),
        (b"EXECUTE E'\\", b"execute", b"a", b""),
        (b"EXECUTE $", b"execute", b"a", b""),
        (b"", b"execute", b"a", b""),
    ],
)
def test_what_is_not_there_is_not_found(
    text: bytes, keyword: bytes, name: bytes, found: bytes
) -> None:
    start, end = find_name(text, keyword, name)
    assert text[start:end] == found
    assert found or (start, end) == (0, 0)


@given(st.binary(max_size=60), st.sampled_from([b"execute", b"deallocate"]))
def test_any_bytes_are_read_to_their_end(text: bytes, keyword: bytes) -> None:
    start, end = find_name(text, keyword, b"a")
    assert 0 <= start <= end <= len(text)


def intake_with(*names: bytes) -> Intake:
    intake = Intake(CLASSIFIER, 1 << 20)
    for name in names:
        sql = b"SELECT '" + name + b"'"
        intake.statements[name] = Prepared(sql, CLASSIFIER.facts(sql), b"\0\0", b"", True)
    return intake


def named(
    text: bytes, *names: bytes, gone: list[bytes] | None = None, facts_of: bytes = b""
) -> list[bytes]:
    intake = intake_with(*names)
    facts = CLASSIFIER.exact(facts_of or text)
    uses = uses_of(text, facts, intake, gone if gone is not None else [], None)
    return [use.name + b"@%d" % use.start for use in uses]


def test_uses_are_those_of_statements_of_the_protocol() -> None:
    text = b"SELECT 1; EXECUTE b; EXECUTE a; PREPARE c AS SELECT 1; DEALLOCATE b; EXECUTE b"
    assert named(text, b"a", b"b") == [b"b@18", b"a@29", b"b@66"]
    assert named(text) == []


@pytest.mark.parametrize("all_", [b"DEALLOCATE ALL", b"DISCARD ALL", b"deallocate prepare all"])
def test_nothing_is_used_behind_what_takes_all(all_: bytes) -> None:
    gone: list[bytes] = []
    assert named(b"EXECUTE a; " + all_ + b"; EXECUTE a", b"a", gone=gone) == [b"a@8"]
    assert gone == [b""]
    assert named(b"EXECUTE a", b"a", gone=gone) == []


def test_nothing_is_used_that_the_exchange_has_given_away_before() -> None:
    assert named(b"EXECUTE a; EXECUTE b", b"a", b"b", gone=[b"a"]) == [b"b@19"]


def test_facts_of_another_text_find_no_place() -> None:
    assert named(b"EXECUTE a(2)", b"a", facts_of=b"EXECUTE a(1)") == []


def test_a_name_that_is_written_in_escapes_is_left_to_the_server() -> None:
    assert named(b'EXECUTE U&"\\0061"', b"a") == []


def test_another_statement_may_stand_for_a_name_that_is_executed() -> None:
    intake = intake_with(b"a")
    sql = b"SELECT 'other'"
    other = Prepared(sql, CLASSIFIER.facts(sql), b"\0\0", b"", True)
    text = b"EXECUTE a; DEALLOCATE a"
    uses = uses_of(text, CLASSIFIER.exact(text), intake, [], {b"a": other})
    assert [use.prepared for use in uses] == [other, intake.statements[b"a"]]


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        (b"PREPARE headgate_1 AS SELECT 1", "42939"),
        (b"SELECT 1; PREPARE \"headgate_x\" AS SELECT 1", "42939"),
        (b"EXECUTE headgate_1", "26000"),
        (b"DEALLOCATE headgate_1", "26000"),
        (b"DEALLOCATE ALL", ""),
        (b"EXECUTE other; SELECT 'headgate_1'", ""),
    ],
)  # fmt: skip
def test_names_of_the_proxys_own_are_refused(sql: bytes, sqlstate: str) -> None:
    refusal = refusal_of(CLASSIFIER.exact(sql))
    assert (refusal.sqlstate if refusal is not None else "") == sqlstate
    play = Playbook()
    sent = play.f(query(sql))
    assert (sent == query(sql)) == (sqlstate == "")
    if sqlstate:
        assert f"C{sqlstate}".encode() in play.client.take()
        assert play.f(parse(b"", sql) + bind(b"") + execute() + frontend.SYNC) == b""
        assert f"C{sqlstate}".encode() in play.client.take()


def at(position: int, name: str) -> bytes:
    """An ErrorResponse with a position in the text."""
    body = error("42P01", f'"headgate_9" and "{name}"')[5:-1] + b"P%d\0\0" % position
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


@pytest.mark.parametrize(
    ("sent", "seen"), [(1, 1), (8, 8), (22, 13), (40, 31), (999_999_999, 999_999_990)]
)
def test_a_position_in_an_error_is_one_in_the_clients_text(sent: int, seen: int) -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    text = "EXECUTE a; SELECT 'é' FROM nowhere".encode()
    assert play.f(query(text)) == query(text.replace(b" a;", b" headgate_1;"))
    play.b(complete(b"SELECT 1"))
    assert play.b(at(sent, "headgate_1") + READY) == at(seen, "a") + READY


ONE = backend.PARSE_COMPLETE
TWO = backend.BIND_COMPLETE
RUN = parse(b"", b"EXECUTE a") + bind(b"") + execute()
"""Its text goes out as it is, and again with the name of the server's."""
RAN = ONE + ONE + TWO + complete(b"SELECT 1")
OTHER = parse(b"", b"SELECT nowhere") + bind(b"") + execute()


@pytest.mark.parametrize(
    ("group", "replies", "is_changed"),
    [
        pytest.param(RUN, b"", False, id="Parse as it came"),
        pytest.param(RUN, ONE, True, id="its Parse"),
        pytest.param(RUN, ONE + ONE, True, id="its Bind"),
        pytest.param(RUN, ONE + ONE + TWO, True, id="its Execute"),
        pytest.param(RUN + execute(), RAN, True, id="its second Execute"),
        pytest.param(RUN + OTHER, RAN, False, id="Parse behind it"),
        pytest.param(RUN + bind(b"b") + execute(), RAN + TWO, False, id="Execute behind it"),
        pytest.param(RUN + bind(b"c") + execute(), RAN, False, id="what had to be prepared"),
        pytest.param(OTHER + RUN, b"", False, id="Parse before it"),
        pytest.param(OTHER + RUN, ONE + TWO, False, id="Execute before it"),
        pytest.param(bind(b"b") + execute() + RUN, TWO, False, id="the first of all"),
        pytest.param(RUN + RUN, ONE + ONE + TWO, True, id="the first of two"),
        pytest.param(RUN + query(b"SELECT nowhere"), RAN, False, id="Query behind it"),
        pytest.param(RUN + query(b"EXECUTE a"), RAN, True, id="Query of its own"),
    ],
)
def test_a_position_is_changed_in_errors_of_texts_with_names_only(
    group: bytes, replies: bytes, is_changed: bool
) -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + parse(b"b", b"SELECT 2") + parse(b"c", b"SELECT 3"))
    play.f(frontend.SYNC)
    play.b(backend.PARSE_COMPLETE * 3 + READY)
    # Not on the connection any more.
    del play.link.prepared[play.session.intake.statements[b"c"].key]
    play.f(group + frontend.SYNC)
    told = play.b(replies + at(20, "headgate_1"))
    assert told.endswith(at(11 if is_changed else 20, "a"))


def test_an_error_of_the_sync_has_no_text() -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(RUN + frontend.SYNC)
    told = play.b(RAN + at(20, "headgate_1") + READY)
    assert told.endswith(at(20, "a") + READY)


def test_places_in_texts_that_are_answered_are_let_go() -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    for _ in range(40):
        play.f(RUN + frontend.FLUSH)
        play.b(RAN)
    exchange = play.session.exchange
    assert exchange is not None
    assert exchange.renaming is not None
    assert len(exchange.renaming.texts) < 20


@pytest.mark.parametrize("position", [b"", b"x1", b"-4", b"1" * 11])
def test_a_position_that_is_none_is_left_as_it_is(position: bytes) -> None:
    play = Playbook()
    play.f(parse(b"a", b"SELECT 1") + frontend.SYNC)
    play.b(backend.PARSE_COMPLETE + READY)
    play.f(query(b"EXECUTE a"))
    body = b"SERROR\0C42601\0P" + position + b"\0\0"
    frame = b"E" + (len(body) + 4).to_bytes(4, "big") + body
    assert play.b(frame + READY) == frame + READY


def test_positions_count_characters() -> None:
    intake = intake_with("né".encode())
    text = "SELECT 'ééé'; EXECUTE né".encode()
    uses = uses_of(text, CLASSIFIER.exact(text), intake, [], None)
    renaming = Renaming()
    places = Places()
    sent = "SELECT 'ééé'; EXECUTE headgate_1"
    assert renamed(text, uses, [b"headgate_1"], renaming, places) == sent.encode()
    assert renaming.names == {b"headgate_1": "né".encode()}
    assert places.ends == [len(sent)]
    assert places.longer_by == [len("headgate_1") - len("né")]
