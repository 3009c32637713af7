"""Snapshots of workers become one; the order and the kind of the first one hold."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.counters import LATENCY_BUCKETS_US, Histogram
from proxy.observe.families import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    MAX_LABEL_CHARACTERS,
    Family,
    from_dict,
    merge,
    to_dict,
)


def family(name: str, kind: str, rule: str, *values: tuple[float, dict[str, str]]) -> Family:
    made = Family(name, kind, "help", rule)  # type: ignore[arg-type]
    for value, labels in values:
        made.add(value, **labels)
    return made


def test_counters_are_added_series_by_series() -> None:
    first = [family("a", COUNTER, "sum", (1, {"x": "1"}), (2, {"x": "2"}))]
    second = [family("a", COUNTER, "sum", (10, {"x": "2"}), (20, {"x": "3"}))]
    merged = merge([first, second])
    assert {s.labels["x"]: s.value for s in merged[0].samples} == {"1": 1, "2": 12, "3": 20}


@pytest.mark.parametrize(("rule", "expected"), [("max", 5), ("min", 2), ("sum", 7)])
def test_gauges_follow_their_rule(rule: str, expected: float) -> None:
    merged = merge([[family("g", GAUGE, rule, (2, {}))], [family("g", GAUGE, rule, (5, {}))]])
    assert merged[0].samples[0].value == expected


def test_merging_changes_no_snapshot() -> None:
    first = [family("a", COUNTER, "sum", (1, {}))]
    merge([first, [family("a", COUNTER, "sum", (5, {}))]])
    assert first[0].samples[0].value == 1


def test_a_name_of_two_kinds_keeps_the_first() -> None:
    merged = merge([[family("a", COUNTER, "sum", (1, {}))], [family("a", GAUGE, "sum", (9, {}))]])
    assert [(f.kind, f.samples[0].value) for f in merged] == [(COUNTER, 1)]


@given(st.lists(st.lists(st.integers(0, 200_000), max_size=20), min_size=1, max_size=4))
def test_histograms_of_parts_are_the_histogram_of_all(parts: list[list[int]]) -> None:
    whole = Histogram()
    snapshots = []
    for part in parts:
        histogram = Histogram()
        for value in part:
            histogram.observe_call(value)
            whole.observe_call(value)
        made = Family("h", HISTOGRAM, "help")
        made.add_histogram(histogram, hook="x")
        snapshots.append(from_dict(json.loads(json.dumps(to_dict([made])))))
    merged = merge(snapshots)[0]
    assert merged.bounds_us == LATENCY_BUCKETS_US
    sample = merged.samples[0]
    assert sample.buckets == whole.buckets
    assert sample.value == pytest.approx(whole.sum_us / 1e6)
    assert len(sample.buckets) == len(LATENCY_BUCKETS_US) + 1


def test_a_label_is_cut() -> None:
    made = family("a", GAUGE, "sum", (True, {"x": "y" * 5000}))
    assert len(made.samples[0].labels["x"]) == MAX_LABEL_CHARACTERS
    assert made.samples[0].value == 1.0


def test_what_is_no_snapshot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"name|field"):
        from_dict({"families": [{"nome": 1}]})
    with pytest.raises(ValueError, match=r"array|null"):
        from_dict({})
