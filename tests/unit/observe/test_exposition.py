"""What is written can be read by Prometheus's own parsers, in both formats."""

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from proxy.observe.counters import Histogram
from proxy.observe.exposition import expose
from proxy.observe.families import COUNTER, GAUGE, HISTOGRAM, Families, Family


def some() -> Families:
    counter = Family("headgate_things", COUNTER, "Things.")
    counter.add(3, what='a "quoted"\nname')
    gauge = Family("headgate_level", GAUGE, "Level.")
    gauge.add(1.5)
    histogram = Histogram()
    for value in (0.5, 3, 3, 999_999):
        histogram.observe_call(value)
    latency = Family("headgate_time_seconds", HISTOGRAM, "Time.")
    latency.add_histogram(histogram, hook="route")
    return [counter, gauge, latency, Family("headgate_nothing", GAUGE, "No series.")]


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in parse_text(text)
        for sample in family.samples
    }


def test_prometheus_text() -> None:
    text, content_type = expose(some())
    assert content_type.startswith("text/plain")
    found = samples(text.decode())
    assert found["headgate_things_total", ""] == 3
    assert found["headgate_level", ""] == 1.5
    assert b"headgate_nothing" not in text


def test_buckets_are_cumulative_and_in_seconds() -> None:
    found = samples(expose(some())[0].decode())
    assert found["headgate_time_seconds_bucket", "1e-06"] == 1
    assert found["headgate_time_seconds_bucket", "5e-06"] == 3
    assert found["headgate_time_seconds_bucket", "0.1"] == 3
    assert found["headgate_time_seconds_bucket", "+Inf"] == 4
    assert found["headgate_time_seconds_count", ""] == 4


def test_openmetrics_when_asked_for() -> None:
    text, content_type = expose(some(), "application/openmetrics-text;version=1.0.0,text/plain")
    assert content_type.startswith("application/openmetrics-text")
    assert {family.name for family in parse_openmetrics(text.decode())} == {
        "headgate_things", "headgate_level", "headgate_time_seconds",
    }  # fmt: skip
