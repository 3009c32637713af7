"""What texts do with their session's sequences."""

import pytest

from proxy.sql.analyse import unknown_facts
from proxy.sql.classify import PgClassifier
from proxy.sql.statement import (
    SEQUENCE_CALLS,
    SEQUENCE_DISCARDS,
    SEQUENCE_EXECUTES,
    SEQUENCE_LAST,
    SEQUENCE_READS,
    SEQUENCE_SETS,
    SequenceUse,
    TextFacts,
)

CLASSIFIER = PgClassifier()


def facts(sql: str) -> TextFacts:
    return CLASSIFIER.exact(sql.encode())


def use(sql: str) -> SequenceUse:
    found = facts(sql).statements[0].sequences
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("sql", "bits"),
    [
        ("SELECT 1", 0),
        ("INSERT INTO t VALUES (1)", 0),
        ("SELECT nextval('s')", SEQUENCE_CALLS),
        ("INSERT INTO t VALUES (nextval('s'))", SEQUENCE_CALLS),
        ("SELECT pg_catalog.setval('s', 1)", SEQUENCE_SETS),
        ("SELECT currval('s')", SEQUENCE_READS),
        ("SELECT lastval()", SEQUENCE_READS),
        ("SELECT own.lastval()", 0),
        ("SELECT ('s'::regclass).currval", SEQUENCE_READS),
        ("SELECT nextval('s'); SELECT lastval()", SEQUENCE_CALLS | SEQUENCE_READS),
        ("PREPARE p AS SELECT lastval()", SEQUENCE_READS),
        ("EXECUTE p", SEQUENCE_EXECUTES),
        ("DISCARD ALL", SEQUENCE_DISCARDS),
        ("DISCARD SEQUENCES", SEQUENCE_DISCARDS),
        ("DISCARD PLANS", 0),
        ("DISCARD TEMP", 0),
        ("CREATE VIEW v AS SELECT lastval()", 0),
        ("CREATE TABLE t AS SELECT lastval()", SEQUENCE_READS),
        ("SELECT LASTVAL( is no SQL", SEQUENCE_READS),
        ("SELECT CurrVal is no SQL (", SEQUENCE_READS),
        ("this is no SQL", 0),
    ],
)
def test_what_a_text_does(sql: str, bits: int) -> None:
    found = facts(sql)
    assert found.sequences == bits
    if bits:
        assert not found.is_plain
        assert not found.is_read_only


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT currval('s')", ("s", "", 0)),
        ("SELECT currval('s'::text::regclass)", ("s", "", 0)),
        ("SELECT setval('s', 1)", ("s", "", 0)),
        ("SELECT currval($2)", ("", "", 2)),
        ("SELECT currval($1::regclass)", ("", "", 1)),
        ("SELECT currval(pg_get_serial_sequence('t', 'c'))", ("t", "c", 0)),
        ("SELECT currval(pg_catalog.pg_get_serial_sequence('t', 'c')::regclass)", ("t", "c", 0)),
    ],
)
def test_which_sequence_is_read(sql: str, named: tuple[str, str, int]) -> None:
    found = use(sql)
    assert found.is_certain
    assert [(each.name, each.column, each.parameter) for each in found.named] == [named]


def test_all_that_are_read_are_named_once() -> None:
    found = use("SELECT lastval(), lastval(), currval('a'), nextval('b')")
    assert found.is_certain
    assert found.named[-1] is SEQUENCE_LAST or found.named[0] is SEQUENCE_LAST
    assert sorted(each.name for each in found.named) == ["", "a"]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT currval('s' || '1')",
        "SELECT currval(oid) FROM pg_class",
        "SELECT currval(f('t', 'c'))",
        "SELECT currval(s.pg_get_serial_sequence('t', 'c'))",
        "SELECT currval(pg_get_serial_sequence('t'))",
        "SELECT currval(pg_get_serial_sequence(t, 'c')) FROM a",
        "SELECT currval(pg_get_serial_sequence('t', c)) FROM a",
        "SELECT currval('')",
        "SELECT currval(1259)",
        "SELECT currval()",
        "SELECT ('s'::regclass).currval",
        "PREPARE p AS SELECT currval('s')",
        "SELECT lastval() is no SQL (",
    ],
)
def test_what_else_may_be_read_is_not_certain(sql: str) -> None:
    assert not use(sql).is_certain


def test_texts_that_differ_in_the_name_are_different_ones() -> None:
    names = ["a", "b", "s1", "s2"]
    found = [CLASSIFIER.facts(f"SELECT currval('{name}')".encode()) for name in names]
    assert [each.statements[0].sequences.named[0].name for each in found] == names  # type: ignore[union-attr]
    # nextval's is of no interest.
    one, other = (CLASSIFIER.facts(f"SELECT nextval('{name}')".encode()) for name in "ab")
    assert one is other


def test_a_text_without_a_name_says_nothing_of_others() -> None:
    classifier = PgClassifier()
    for name, is_certain in (("", False), ("s", True)):
        [statement] = classifier.facts(f"SELECT currval('{name}')".encode()).statements
        assert statement.sequences is not None
        assert statement.sequences.is_certain == is_certain


def test_the_end_of_a_text_that_is_too_long_is_looked_at() -> None:
    assert unknown_facts(b" " * 100_000 + b"SELECT lastval()").sequences == SEQUENCE_READS


def test_facts_of_another_text_of_the_same_shape_have_it() -> None:
    CLASSIFIER.facts(b"SELECT nextval('x'), 1")
    assert CLASSIFIER.exact(b"SELECT nextval('y'), 2").sequences == SEQUENCE_CALLS
