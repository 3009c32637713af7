"""The caches: sound keys, bounds, counters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.session.ports import Classifier
from proxy.sql.analyse import analyse
from proxy.sql.classify import Entry, Generations, PgClassifier
from proxy.sql.statement import StatementFacts, TextFacts

SHARED = [
    *("kind", "kinds", "is_read_only", "tables", "normalized", "fingerprint", "control"),
    *("leaves_state", "prepared", "prepared_name", "tail"),
]
EVERYTHING = [*SHARED, "text", "head"]


def values(facts: StatementFacts, names: list[str]) -> dict[str, object]:
    return {name: getattr(facts, name) for name in names}


def assert_same(found: TextFacts, fresh: TextFacts, names: list[str]) -> None:
    assert [values(item, names) for item in found.statements] == [
        values(item, names) for item in fresh.statements
    ]


def test_it_is_a_classifier() -> None:
    assert isinstance(PgClassifier(), Classifier)


def test_texts_that_differ_in_digits_share_one_analysis() -> None:
    classifier = PgClassifier()
    first = classifier.facts(b"SELECT * FROM t WHERE a = 123")
    assert classifier.facts(b"SELECT * FROM t WHERE a = 987") is first
    assert (classifier.hits, classifier.misses, classifier.unknowns) == (1, 1, 0)
    assert classifier.facts(b"SELECT * FROM t WHERE a = 98") is not first


def test_texts_that_differ_in_strings_share_one_analysis() -> None:
    classifier = PgClassifier()
    first = classifier.facts(b"SELECT * FROM t WHERE a = 'x' AND b = 1")
    assert classifier.facts(b"SELECT * FROM t WHERE a = 'it''s' AND b = 1") is not first
    assert classifier.facts(b"SELECT * FROM t WHERE a = 'longer' AND b = 2") is first
    assert classifier.facts(b"SELECT * FROM t WHERE a = 'longer' AND b = 3") is first
    assert classifier.misses == 2


def test_digits_of_names_count_beside_strings() -> None:
    classifier = PgClassifier()
    assert classifier.facts(b"SELECT * FROM t1 WHERE a = 'x'").statements[0].tables == ("t1",)
    assert classifier.facts(b"SELECT * FROM t2 WHERE a = 'y'").statements[0].tables == ("t2",)
    assert classifier.facts(b"SELECT * FROM t1 WHERE a = 'z'").statements[0].tables == ("t1",)
    assert classifier.misses == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b"SELECT * FROM t1", b"SELECT * FROM t2"),
        (b'SELECT * FROM "1"', b'SELECT * FROM "2"'),
        (b"SELECT * FROM t WHERE a = $1", b"SELECT * FROM t WHERE a = $2"),
        (b"FETCH 1 FROM c", b"FETCH 2 FROM c"),
        (b"SELECT a::int[1]", b"SELECT a::int[2]"),
        (b'SELECT * FROM U&"\\0061"', b'SELECT * FROM U&"\\0062"'),
        (b"SELECT * FROM U&\"d!0061\" UESCAPE '!'", b"SELECT * FROM U&\"d!0061\" UESCAPE '?'"),
        (b"EXPLAIN (ANALYZE 'off') DELETE FROM t", b"EXPLAIN (ANALYZE 'on') DELETE FROM t"),
        (b"PREPARE a1 AS SELECT 1", b"PREPARE a2 AS SELECT 1"),
        (b"SELECT E'\\101'", b"SELECT E'\\102'"),
        (b"SELECT 'a' -- 'b'", b"SELECT 'a' -- 'c'"),
    ],
)
def test_what_counts_is_not_shared(first: bytes, second: bytes) -> None:
    classifier = PgClassifier()
    assert classifier.facts(first) is not classifier.facts(second)
    for text in (first, second):
        assert_same(classifier.facts(text), analyse(text, 65_536).facts, SHARED)


def test_exact_has_the_very_text() -> None:
    classifier = PgClassifier()
    classifier.facts(b"SELECT 'a', 1; DELETE FROM t WHERE b = 22")
    text = b"SELECT 'a', 3; DELETE FROM t WHERE b = 44"
    exact = classifier.exact(text)
    assert [item.text for item in exact.statements] == [
        b"SELECT 'a', 3",
        b"DELETE FROM t WHERE b = 44",
    ]
    assert_same(exact, analyse(text, 65_536).facts, EVERYTHING)
    assert classifier.misses == 1
    single = classifier.exact(b" SELECT 'longer' ; -- x")
    assert single.statements[0].text == b" SELECT 'longer' ; -- x"


def test_exact_of_another_string_has_the_whole_text() -> None:
    classifier = PgClassifier()
    classifier.facts(b"UPDATE t SET a = 'x' WHERE b = 1;")
    text = b"UPDATE t SET a = 'longer' WHERE b = 2;"
    assert_same(classifier.exact(text), analyse(text, 65_536).facts, EVERYTHING)
    assert classifier.misses == 1


def test_unknown_texts() -> None:
    classifier = PgClassifier(max_text_bytes=20)
    facts = classifier.facts(b"SELEC 1")
    assert classifier.facts(b"SELEC 1") is facts
    assert classifier.unknowns == 1
    assert classifier.facts(b"SELECT 1" + b" " * 20).statements[0].kind == "unknown"
    assert classifier.exact(b"SELECT 1" + b" " * 20).statements[0].kind == "unknown"
    assert classifier.unknown(b"SELECT 1").statements[0].kind == "unknown"
    assert classifier.unknowns == 4
    assert classifier.facts(b"SELECT 1").statements[0].kind == "select"


def test_empty_texts() -> None:
    classifier = PgClassifier()
    assert classifier.facts(b"").statements == ()
    assert classifier.facts(b" ; -- 1").statements == ()
    assert classifier.exact(b" ; -- 2").statements == ()


# Pieces that are told apart by constants only at the places of {}.
TEMPLATES = [
    "SELECT {} FROM t WHERE a = {} AND b = {}",
    "SELECT * FROM t{} WHERE a = {}",
    'SELECT "c{}" FROM "t" WHERE a = {}',
    "SELECT a{}, {} LIMIT {}",
    "SELECT {}.{}, {}e{}, 0x{}",
    "SELECT * FROM t WHERE a IN ({}, {}) -- {}",
    "SELECT /* {} */ {}",
    "INSERT INTO t VALUES ({}, {}) ON CONFLICT DO NOTHING",
    "UPDATE t SET a = {} WHERE b = {}; DELETE FROM u WHERE c = {}",
    "FETCH {} FROM c",
    "SET a = {}",
    "EXPLAIN (ANALYZE {}) DELETE FROM t WHERE a = {}",
    "SELECT a::varchar({}), b::int[{}], interval {}",
    "SELECT $1, {}, E{}, U&{}, B{}, X{}, N{}",
    "SELECT U&\"d!0061\" UESCAPE {}",
    "PREPARE p{} AS SELECT {}",
    "SELECT f({}, {}), nextval({})",
    "CREATE SEQUENCE s START {}",
    "SELECT $${}$$, {}",
    "COPY t TO STDOUT (DELIMITER {})",
    "LISTEN a{}; NOTIFY b, {}",
    "SELECT {}\n{}",
    "SELECT {} {}",
    "DO {}",
]  # fmt: skip
CONSTANT = (
    st.text("0123456789", min_size=1, max_size=12)
    | st.text("0123456789abU !;'\"-/*", max_size=6).map(lambda text: f"'{text}'")
    | st.sampled_from(["'off'", "'on'", "off", "'--'", "'a''b'", "'\\'", "''", "'!'", "'1'", "0"])
)


@given(st.sampled_from(TEMPLATES), st.lists(CONSTANT, min_size=7, max_size=7), st.data())
def test_a_cached_answer_is_what_a_fresh_analysis_says(
    template: str, constants: list[str], data: st.DataObject
) -> None:
    classifier = PgClassifier()
    texts = [template.format(*constants)]
    texts.append(
        "".join(
            data.draw(st.sampled_from("0123456789")) if letter in "0123456789" else letter
            for letter in texts[0]
        )
    )
    texts.append(template.format(*data.draw(st.lists(CONSTANT, min_size=7, max_size=7))))
    for text in [*texts, *texts]:
        encoded = text.encode()
        fresh = analyse(encoded, 65_536)
        found = classifier.facts(encoded)
        exact = classifier.exact(encoded)
        assert not found.is_read_only or fresh.facts.is_read_only or not fresh.known
        if fresh.known:
            # What is not known now is a syntax error to the server, whatever is said of it.
            assert_same(found, fresh.facts, SHARED)
            assert_same(exact, fresh.facts, EVERYTHING)


@given(st.lists(st.sampled_from(TEMPLATES), min_size=2, max_size=5), st.data())
def test_texts_in_one_cache_do_not_disturb_each_other(
    templates: list[str], data: st.DataObject
) -> None:
    classifier = PgClassifier(cache_entries=4)
    for _ in range(3):
        for template in templates:
            text = template.format(*data.draw(st.lists(CONSTANT, min_size=7, max_size=7))).encode()
            fresh = analyse(text, 65_536)
            if fresh.known:
                assert_same(classifier.facts(text), fresh.facts, SHARED)


def test_generations_forget_what_is_not_used() -> None:
    cache = Generations(4, 1 << 20)
    entry = Entry(b"x", TextFacts(()), ())
    cache.put(b"hot", entry)
    for number in range(20):
        assert cache.get(b"hot") is entry
        cache.put(b"cold %d" % number, entry)
        assert len(cache) <= 4
    assert cache.get(b"cold 0") is None
    assert cache.get(b"cold 19") is entry


def test_generations_are_bounded_in_bytes() -> None:
    cache = Generations(1_000_000, 100_000)
    for number in range(1_000):
        text = b"%d" % number + b"x" * 1_000
        cache.put(text, Entry(text, TextFacts(()), ()))
    assert 0 < len(cache) < 16


def test_a_short_key_does_not_hide_a_long_text() -> None:
    cache = Generations(1_000_000, 1_000_000)
    for number in range(1_000):
        cache.put(b"SELECT ''%d" % number, Entry(b"x" * 10_000, TextFacts(()), ()))
    assert 0 < len(cache) < 25


def test_the_classifier_is_bounded() -> None:
    classifier = PgClassifier(cache_entries=50)
    for number in range(300):
        classifier.facts(b"SELECT a%d" % number)
        classifier.exact(b"SELECT a, 'x%d'" % number)
    assert len(classifier._by_text) <= 50
    assert len(classifier._by_shape) <= 50


@pytest.mark.parametrize("is_parsed", [False, True])
def test_known_finds_what_facts_have_stored_and_nothing_else(is_parsed: bool) -> None:
    classifier = PgClassifier()
    assert classifier.known(b"SELECT a FROM t WHERE b = 1", is_parsed) is None
    plain = classifier.facts(b"SELECT a FROM t WHERE b = 1")
    named = classifier.facts(b"SELECT a FROM t2")
    hits = classifier.hits
    assert classifier.known(b"SELECT a FROM t WHERE b = 7", is_parsed) is plain
    assert classifier.known(b"SELECT a FROM t2", is_parsed) is named
    assert classifier.hits == hits + 2
    for text in (b"SELECT a FROM t3", b"SELECT a FROM t2\0", b"SELECT a FROM t WHERE b = 1\0"):
        assert classifier.known(text, is_parsed) is None
    assert (classifier.hits, classifier.misses) == (hits + 2, 2)


@pytest.mark.parametrize(
    ("text", "is_express"),
    [
        (b"SELECT 1", True),
        (b"TABLE t", True),
        (b"INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING", True),
        (b"UPDATE t SET a = 1 RETURNING a", True),
        (b"WITH w AS (DELETE FROM t RETURNING *) SELECT * FROM w", True),
        (b"EXPLAIN SELECT 1", False),
        (b"SELECT 1; SELECT 2", False),
        (b"", False),
        (b"BEGIN", False),
        (b"SET a.b = 'c'", False),
        (b"SELECT set_config('a.b', 'c', false)", False),
        (b"SELECT a INTO t2 FROM t", False),
        (b"COPY t FROM STDIN", False),
        (b"PREPARE a AS SELECT 1", False),
        (b"EXECUTE a", False),
        (b"DECLARE a CURSOR WITH HOLD FOR SELECT 1", False),
        (b"CREATE TABLE t2 AS SELECT 1", False),
        (b"CALL p()", False),
        (b"DO ''", False),
        (b"LOCK t", False),
        (b"no SQL", False),
    ],
)
def test_only_plain_rows_in_and_out_are_express(text: bytes, is_express: bool) -> None:
    assert PgClassifier().facts(text).is_express is is_express
