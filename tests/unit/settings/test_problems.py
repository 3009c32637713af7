"""How problems are worded, placed and ordered."""

from pathlib import Path

import pytest

from proxy.settings.positions import Path as ProblemPath
from proxy.settings.problems import Problems, describe, kind_of, show_path, suggest

LINES: dict[ProblemPath, int] = {(): 1, ("pool",): 3, ("pool", "size"): 4, ("auth",): 8}


def test_a_problem_names_file_line_key_reason_expected_and_got() -> None:
    problems = Problems(Path("a.toml"), LINES)
    assert not problems
    problems.add(("auth", "method"), "required")
    problems.add(("pool", "size"), "out of range", "a number", "0")
    assert problems.texts() == [
        "a.toml:4: pool.size: out of range; expected a number; got 0",
        "a.toml:8: auth.method: required",
    ]
    assert problems


def test_problems_of_other_files_come_last() -> None:
    problems = Problems(Path("a.toml"), LINES)
    problems.add_elsewhere("users.txt:1: bad")
    problems.add(("pool",), "bad")
    assert problems.texts() == ["a.toml:3: pool: bad", "users.txt:1: bad"]


def test_what_follows_from_a_problem_is_not_told() -> None:
    problems = Problems(Path("a.toml"), LINES)
    problems.add(("pool", "size"), "wrong")
    problems.begin_checks()
    assert problems.is_broken("pool")
    assert not problems.is_broken("auth")
    problems.add(("pool", "min_size"), "above pool.size")
    problems.add(("auth", "method"), "one")
    problems.add(("auth", "method"), "two")
    assert len(problems.texts()) == 3


def test_paths_are_shown_as_they_are_written() -> None:
    assert show_path(("node", 0, "tls", "mode")) == "node[0].tls.mode"
    assert show_path(("plugins", "settings", "a.b", "x")) == 'plugins.settings."a.b".x'


@pytest.mark.parametrize(
    ("value", "shown", "kind"),
    [
        (True, "true", "a boolean"),
        (5, "5", "an integer"),
        (1.5, "1.5", "a number"),
        ('a"b\\', '"a\\"b\\\\"', "a string"),
        ("\x1b[31m\n", '"\\u001b[31m\\u000a"', "a string"),
        ("x" * 100, '"' + "x" * 60 + '…"', "a string"),
        ([1], "a list", "a list"),
        ({}, "a table", "a table"),
        (object(), "a date or time", "a date or time"),
    ],
)
def test_values_are_shown_short_and_harmless(value: object, shown: str, kind: str) -> None:
    assert describe(value) == shown
    assert kind_of(value) == kind


def test_suggestions() -> None:
    assert suggest("prot", ["port", "host"]) == "did you mean port?"
    assert suggest("zzz", ["port", "host"]) == ""
