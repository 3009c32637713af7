"""The mutations of the program: that each can be made, and what counts as noticed."""

import re
from pathlib import Path

import pytest

from tests.mutants.runner import (
    ROOT,
    Mutant,
    Outcome,
    Stale,
    mutated,
    outcome_of,
    read_table,
    read_tables,
    verdict,
)

MUTANTS = read_tables()
TABLE = """# A comment.

08 it is wrong
proxy/some.py
=     if a:
-         good()
+         bad()
> tests/test_some.py::test_rule_08_some
> tests/test_some.py::test_rule_08_more
"""
SOME = Mutant(
    "t:3",
    "08",
    "it is wrong",
    "proxy/some.py",
    "    if a:\n        good()",
    "    if a:\n        bad()",
    ("tests/test_some.py::test_rule_08_some", "tests/test_some.py::test_rule_08_more"),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_can_be_made_and_has_its_tests(mutant: Mutant) -> None:
    """Where this fails the program has changed, and the list must follow it."""
    compile(mutated(mutant, (ROOT / mutant.path).read_text()), mutant.path, "exec")
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), test
        assert name.startswith("test_rule_")


def test_every_rule_has_one() -> None:
    assert {int(mutant.rule) for mutant in MUTANTS} == set(range(1, 41))


def test_a_table_is_read() -> None:
    assert read_table(TABLE, "t") == [SOME]
    assert read_table(TABLE + "\n" + TABLE, "t") == [SOME, SOME._replace(where="t:13")]


@pytest.mark.parametrize(
    "line",
    ["proxy/some.py\n", "=     if a:\n-         good()\n", "> tests", "08 ", "+         bad()\n"],
)
def test_what_is_no_mutation(line: str) -> None:
    broken = TABLE.replace(line, "", 1) if line != "> tests" else TABLE.replace(line, "tests")
    if line.startswith("+"):
        broken = TABLE.replace("-         good()\n+         bad()\n", "+ x\n")
        broken = broken.replace("=     if a:\n", "")
    with pytest.raises(Stale):
        read_table(broken, "t")


def test_a_text_is_changed_at_its_one_place() -> None:
    text = "def f():\n    if a:\n        good()\n"
    assert mutated(SOME, text) == "def f():\n    if a:\n        bad()\n"
    for other in ("", text + text):
        with pytest.raises(Stale):
            mutated(SOME, other)


CASES = {
    "passed": "<testcase name='a'/>",
    "failed": "<testcase name='b'><failure/></testcase>",
    "failed, and not cleared up": "<testcase name='c'><failure/><error/></testcase>",
    "not begun": "<testcase name='d'><error/></testcase>",
    "skipped": "<testcase name='e'><skipped/></testcase>",
}


@pytest.mark.parametrize(
    ("cases", "wrong"),
    [
        (["failed"], ""),
        (["passed", "failed"], ""),
        (["failed, and not cleared up"], ""),
        (["passed"], "lives"),
        (["skipped"], "no test ran"),
        ([], "no test ran"),
        (["not begun"], "not begun, or not ended: d"),
        (["passed", "not begun"], "not begun, or not ended: d"),
    ],
)
def test_only_a_test_that_was_begun_and_failed_counts(
    tmp_path: Path, cases: list[str], wrong: str
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuite>{''.join(CASES[case] for case in cases)}</testsuite>")
    assert verdict(outcome_of(report, "")) == wrong


def test_no_report_is_no_kill(tmp_path: Path) -> None:
    found = outcome_of(tmp_path / "none.xml", "it could not start")
    assert found == Outcome(0, [], [], "it could not start")
    assert verdict(found) == "no test ran"
