"""The tour's reading of /metrics, its waiting, and its verdict over all steps."""

from typing import cast

import pytest

from proxy.demo import steps
from proxy.demo.stack import DemoStack

_STACK = cast(DemoStack, None)


def test_metric_sum_takes_the_histogram_count_of_one_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "# HELP x y\n"
        'headgate_hook_seconds_count{plugin="no-drop",hook="pre_query"} 7.0\n'
        'headgate_hook_seconds_count{hook="pre_query",plugin="no-drop",database="a"} 1.0\n'
        'headgate_hook_seconds_count{plugin="audit",hook="post_query"} 9.0\n'
        'headgate_hook_seconds_sum{plugin="no-drop",hook="pre_query"} 3.0\n'
    )
    monkeypatch.setattr(steps, "_http", lambda _stack, _path: text.encode())
    assert steps._metric_sum(_STACK, "no-drop", "pre_query") == 8


def test_one_failing_step_fails_the_tour_but_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_stack: DemoStack) -> str:
        raise steps.StepFailed("saw nothing")

    monkeypatch.setattr(steps, "_STEPS", [("one", fail), ("two", lambda _stack: "fine")])
    lines: list[str] = []
    assert not steps.run(_STACK, lines.append)
    assert lines == ["FAILED  one: StepFailed: saw nothing", "ok      two: fine"]


def test_wait_names_what_did_not_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "_TIMEOUT_S", 0.0)
    with pytest.raises(steps.StepFailed, match="rain"):
        steps._wait(lambda: False, "rain")
