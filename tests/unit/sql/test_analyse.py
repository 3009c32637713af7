"""Texts as a client may send them: split, hidden, hostile. Nothing raises, nothing passes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sql import analyse as analyse_module
from proxy.sql.analyse import Analysis, analyse, unknown_facts, with_text
from proxy.sql.json_text import MAX_TEXT_BYTES

CAP = 65_536


def analysed(text: str | bytes) -> Analysis:
    return analyse(text if isinstance(text, bytes) else text.encode(), CAP)


def kinds(text: str | bytes) -> list[str]:
    return [facts.kind for facts in analysed(text).facts.statements]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        (";", []),
        ("-- nothing", []),
        ("/* a */ ; ; -- b\n", []),
        ("dRoP\ttable\nt", ["ddl"]),
        ("\r\n\f\v DROP TABLE t ;;", ["ddl"]),
        ("/* SELECT 1 */ DROP TABLE t", ["ddl"]),
        ("-- SELECT 1;\nDROP TABLE t", ["ddl"]),
        ("/* a /* b */ SELECT 1; */ DROP TABLE t", ["ddl"]),
        ("SELECT 1 /* ; */ ; DROP TABLE t", ["select", "ddl"]),
        ("SELECT ';'; DROP TABLE t", ["select", "ddl"]),
        ("SELECT $$;$$; DROP TABLE t", ["select", "ddl"]),
        ("SELECT $a$ $$; $a$; DROP TABLE t", ["select", "ddl"]),
        ("SELECT E'\\'; DROP TABLE t; --'", ["select"]),
        ("SELECT '\\'; DROP TABLE t; --'", ["select", "ddl"]),
        ("SELECT U&'\\0027; DROP TABLE t'", ["select"]),
        ("SELECT 'a'\n'; DROP TABLE t'", ["select"]),
        ("SELECT \";\"; DROP TABLE t", ["select", "ddl"]),
        ("SELECT 1;;; DROP TABLE t;", ["select", "ddl"]),
        ("DELETE/**/FROM/**/t", ["delete"]),
        ("WITH a AS (SELECT 1)DELETE FROM t", ["delete"]),
        ("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END; SELECT 3",
         ["ddl", "select"]),
        # what is not SQL, or not yet
        ("SELEC 1", ["unknown"]),
        ("SELECT 1; SELEC 2", ["unknown"]),
        ("SELECT 'a", ["unknown"]),
        ("SELECT 1 /* a", ["unknown"]),
        ("SELECT 1\0; DROP TABLE t", ["unknown"]),
        (b"SELECT '\xff'", ["unknown"]),
        (b"SELECT 1 -- \xe9", ["unknown"]),
        ("START_REPLICATION SLOT a LOGICAL 0/0", ["unknown"]),
    ],
)  # fmt: skip
def test_kinds_of_a_text(text: str | bytes, expected: list[str]) -> None:
    assert kinds(text) == expected


def test_texts_and_places_of_several_statements() -> None:
    text = (
        "  /* é */ SELECT 'é' ; -- x\n INSERT INTO t VALUES (1);\n"
        "WITH a AS (SELECT 1) DELETE FROM q; UPDATE z SET a = 1 -- tail\n;;(SELECT 2);"
        "VALUES (3); TABLE y; MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE -- end"
    ).encode()
    analysis = analysed(text)
    assert [facts.text.decode() for facts in analysis.facts.statements] == [
        "SELECT 'é' ",
        "INSERT INTO t VALUES (1)",
        "WITH a AS (SELECT 1) DELETE FROM q",
        "UPDATE z SET a = 1 -- tail\n",
        "(SELECT 2)",
        "VALUES (3)",
        "TABLE y",
        "MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE -- end",
    ]
    for facts, (start, end) in zip(analysis.facts.statements, analysis.spans, strict=True):
        assert text[start:end] == facts.text
    assert analysis.facts.statements[0].normalized == "SELECT $1 "


def test_the_text_of_a_single_statement_is_the_whole_text() -> None:
    text = b" /* tag */ SELECT 1; -- end"
    (facts,) = analysed(text).facts.statements
    assert facts.text == text
    assert facts.normalized == " /* tag */ SELECT $1; -- end"


def test_envelope_fragments() -> None:
    (facts,) = analysed("SELECT '\"', 5 FROM s.t").facts.statements
    assert json.loads(b"{" + facts.head + b"," + facts.tail + b"}") == {
        "query": "SELECT '\"', 5 FROM s.t",
        "normalized": "SELECT $1, $2 FROM s.t",
        "tables": ["s.t"],
        "is_read_only": True,
        "kind": "select",
        "fingerprint": facts.fingerprint,
    }
    assert len(facts.fingerprint) == 16
    assert int(facts.fingerprint, 16) >= 0


def test_unknown() -> None:
    (facts,) = unknown_facts(b"what \xff is").statements
    assert facts.kind == "unknown"
    assert facts.kinds == ("unknown",)
    assert not facts.is_read_only
    assert facts.leaves_state
    assert facts.fingerprint == ""
    assert facts.text == b"what \xff is"
    assert facts.normalized == "what \ufffd is"
    assert json.loads(b"{" + facts.head + b"}")["query"] == "what \ufffd is"


def test_unknown_text_beyond_what_a_plugin_can_get_is_cut_but_still_too_long() -> None:
    text = b"SELECT " + b"1," * MAX_TEXT_BYTES
    (facts,) = unknown_facts(text).statements
    assert facts.text == text
    assert 1 << 20 < len(facts.head) < 2 << 20
    json.loads(b"{" + facts.head + b"}")


def test_with_text_changes_text_and_head_only() -> None:
    (facts,) = analysed("DELETE FROM t WHERE a = 15").facts.statements
    (fresh,) = analysed("DELETE FROM t WHERE a = 27").facts.statements
    other = with_text(facts, b"DELETE FROM t WHERE a = 27")
    assert (other.text, other.head) == (fresh.text, fresh.head)
    assert (other.kind, other.tables, other.tail) == (fresh.kind, fresh.tables, fresh.tail)
    assert (other.normalized, other.leaves_state) == (fresh.normalized, fresh.leaves_state)


HOSTILE = {
    "sum": "SELECT " + "+".join(["1"] * 30_000),
    "power": "SELECT " + "^".join(["1"] * 30_000),
    "concatenation": "SELECT " + "||".join(["a"] * 20_000),
    "list": "SELECT 1 WHERE a IN (" + ",".join(["1"] * 30_000) + ")",
    "values": "INSERT INTO t VALUES " + ",".join(["(1,2)"] * 10_000),
    "and": "SELECT " + " AND ".join(["a"] * 10_000),
    "not": "SELECT " + "NOT " * 16_000 + "true",
    "minus": "SELECT " + "- " * 30_000 + "1",
    "parentheses": "SELECT " + "(" * 30_000 + "1" + ")" * 30_000,
    "open": "SELECT " + "(" * 65_000,
    "subselects": "SELECT * FROM " + "(SELECT * FROM " * 3_000 + "t" + ") x" * 3_000,
    "arrays": "SELECT " + "ARRAY[" * 9_000 + "1" + "]" * 9_000,
    "subscripts": "SELECT a" + "[1]" * 20_000,
    "casts": "SELECT 1" + "::int" * 13_000,
    "joins": "SELECT * FROM a" + " CROSS JOIN b" * 5_000,
    "unions": " UNION ".join(["SELECT 1"] * 4_000),
    "statements": ";".join(["SELECT 1"] * 7_000),
    "semicolons": ";" * 65_000,
    "cases": "SELECT " + "CASE WHEN a THEN " * 2_900 + "1" + " END" * 2_900,
    "calls": "SELECT " + "f(" * 20_000 + "1" + ")" * 20_000,
    "with": "WITH a AS (" * 3_000 + "SELECT 1" + ") SELECT 1" * 3_000,
    "siblings": "WITH " + ",".join(f"a{n} AS (TABLE a{n - 1})" for n in range(2_500)) + " SELECT 1",
    "dots": "SELECT a" + ".b" * 30_000,
    "comments": "SELECT " + "/*" * 16_000 + "*/" * 16_000 + "1",
    "open comments": "SELECT " + "/*" * 32_000,
    "plus": "SELECT " + "+" * 65_000,
    "plus minus": "SELECT " + "+-" * 32_000 + "1",
    "plus runs": "SELECT " + ("a " + "+-" * 1_000) * 30,
    "quotes": "SELECT '" + "''" * 32_000,
    "continued": "SELECT 'a'" + "\n'b'" * 16_000,
    "dollars": "SELECT " + "$a" * 32_000,
    "digits": "SELECT " + "1" * 65_000,
    "name": "SELECT " + "a" * 65_000,
    "unicode": "SELECT U&'" + "\\0041" * 13_000 + "'",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_text_is_either_known_or_unknown(name: str) -> None:
    text = HOSTILE[name].encode()
    assert len(text) <= CAP
    analysis = analysed(text)
    for facts in analysis.facts.statements:
        assert facts.kind in ("select", "insert", "unknown")
        assert facts.is_read_only is (facts.kind == "select" and "f(" not in HOSTILE[name])


@pytest.mark.parametrize(
    "name", ["sum", "list", "values", "unions", "comments", "plus", "plus minus", "plus runs"]
)
def test_what_would_take_long_is_unknown(name: str) -> None:
    assert kinds(HOSTILE[name]) == ["unknown"]


def test_a_text_above_the_cap_is_unknown() -> None:
    text = b"SELECT 1" + b" " * 100
    assert analyse(text, len(text)).known
    assert not analyse(text, len(text) - 1).known


def test_drawings_in_comments_are_not_hostile() -> None:
    table = "+-------+-------+\n| a     | b     |\n" * 100
    assert kinds(f"/* {table} */ SELECT 1") == ["select"]
    assert kinds("-- " + "=" * 5_000 + "\nSELECT 1") == ["select"]
    assert kinds("/" + "*" * 5_000 + "/ SELECT 1") == ["select"]


WORDS = """
SELECT FROM WHERE t a 1 'x' ( ) , ; * + - -- /* */ $1 $$ " ' E' U&' \\ WITH AS INSERT INTO VALUES
DELETE UPDATE SET = EXPLAIN ANALYZE PREPARE x EXECUTE COPY TO STDOUT nextval('s') f() FOR UNION
DECLARE CURSOR BEGIN COMMIT DROP TABLE DO [ ] . :: é
"""


@given(st.lists(st.sampled_from(WORDS.split()), max_size=14), st.sampled_from(["", " ", "\n"]))
def test_random_statements_never_raise(words: list[str], separator: str) -> None:
    analysis = analysed(separator.join(words))
    if analysis.facts.is_read_only:
        for facts in analysis.facts.statements:
            assert set(facts.kinds) <= {"select", "copy", "explain", "utility"}
            assert not facts.leaves_state
    if not analysis.known:
        assert [facts.kind for facts in analysis.facts.statements] == ["unknown"]


@given(st.binary(max_size=80))
def test_garbage_never_raises(text: bytes) -> None:
    analysis = analysed(text)
    for facts in analysis.facts.statements:
        json.loads(b"{" + facts.head + b"," + facts.tail + b"}")


@pytest.mark.parametrize(
    ("statements", "problem"),
    [
        ([{"stmt_len": 4}, {"stmt_location": 2, "stmt_len": 4}], "overlap"),
        ([{"stmt_len": 4}, {"stmt_location": 5, "stmt_len": 40}], "overlap"),
        ([{"stmt_location": 0}, {"stmt_location": 9}], "overlap"),
        ([{"stmt_location": 5, "stmt_len": 4}], "text between statements"),
        ([{"stmt_len": 4}, {"stmt_location": 7, "stmt_len": 2}], "text between statements"),
        ([{"stmt_len": 4}], "text after the last statement"),
    ],
)
def test_a_statement_that_no_hook_would_see_is_no_analysis(statements, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        analyse_module._spans(b"ABC; DEF;", statements)


@pytest.mark.parametrize("text", ["FETCH 5 FROM c", "FETCH 2147483647 FROM c", "MOVE 7 c"])
def test_numbers_that_are_no_constants_are_looked_at_each_time(text: str) -> None:
    """With other digits the last one would be no integer at all."""
    assert analysed(text).known
    assert not analysed(text).by_digits
