"""Test cases of a plugin: read strictly, compared key by key."""

import json

import pytest

from proxy.hooks.points import PRE_QUERY
from proxy.plugins.author.cases import read_cases, run_case
from proxy.plugins.author.harness import Harness
from tests.support.wat import body_wat, manifest, put

ANSWER = b'{"action":"block","value":"no","sqlstate":"42501"}'


def write(tmp_path, cases):
    path = tmp_path / "cases.json"
    path.write_text(cases if isinstance(cases, str) else json.dumps(cases))
    return path


def test_defaults(tmp_path):
    case = read_cases(write(tmp_path, [{"expect": {"action": "block"}}]))[0]
    assert (case.name, case.hook, case.sql, case.user) == ("case 1", PRE_QUERY, "SELECT 1", "alice")


@pytest.mark.parametrize(
    ("cases", "text"),
    [
        ("{", "cases.json"),
        ({}, "expected a list"),
        ([1], "case 1: expected an object"),
        ([{"hook": "lunch", "expect": {"action": "x"}}], "unknown hook 'lunch'"),
        ([{"sql": "x"}], "case 1: expect is missing"),
        ([{"colour": 1, "expect": {"action": "x"}}], "unknown key 'colour'"),
    ],
)
def test_bad_files(tmp_path, cases, text):
    with pytest.raises(ValueError, match=text):
        read_cases(write(tmp_path, cases))


@pytest.mark.parametrize(
    ("expect", "problem"),
    [
        ({"action": "block", "value": "no", "sqlstate": "42501"}, ""),
        ({"action": "continue"}, "action is 'block'; expected 'continue'"),
        ({"value": "yes"}, "value is 'no'; expected 'yes'"),
        ({"hint": "x"}, "the answer has no 'hint'"),
        ({"cause": "trap"}, "cause is ''; expected 'trap'"),
    ],
)
async def test_comparing(tmp_path, expect, problem):
    path = put(tmp_path, "p", body_wat("$answer", ANSWER), manifest("p"))
    cases = read_cases(
        write(tmp_path, [{"expect": expect}, {"input": {"query": "x"}, "expect": expect}])
    )
    async with Harness(path) as harness:
        for case in cases:
            assert (await run_case(harness, case)).problem.startswith(problem)
            assert bool((await run_case(harness, case)).problem) is bool(problem)
