"""
Metric families as plain values: what one worker process measured, and the sum over several.

A snapshot is a list of `Family`, and can be sent between worker processes as JSON (`to_dict`,
`from_dict`). Each family says how its samples of several workers become one. Knows neither where
the numbers come from (`observe.metrics`) nor how they are written down (`observe.exposition`).
"""

from collections.abc import Iterable
from typing import Any, Final, Literal, final

import msgspec

from proxy.observe.counters import Histogram

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"

Kind = Literal["counter", "gauge", "histogram"]
Merge = Literal["sum", "max", "min"]

MAX_LABEL_CHARACTERS: Final = 200
"""Names come from clients and plugins; one of them must not make a scrape huge."""


@final
class Sample(msgspec.Struct):
    """
    One series: its labels and value; of a histogram the sum, and the counts of each bucket.

    buckets   not cumulative, one for each of the family's bounds and one for +Inf; [] for no
              histogram
    """

    labels: dict[str, str]
    value: float
    buckets: list[int] = []


@final
class Family(msgspec.Struct):
    """
    All series of one name. A counter's name has no `_total`: that is added when it is written.

    merge      what to do with the same series of several workers
    bounds_us  of a histogram's buckets, in microseconds; its values are in seconds
    """

    name: str
    kind: Kind
    help: str
    merge: Merge = "sum"
    samples: list[Sample] = []
    bounds_us: tuple[int, ...] = ()

    def add(self, value: float, **labels: str) -> None:
        """Add a series."""
        self.samples.append(Sample(_shortened(labels), float(value)))

    def add_histogram(self, histogram: Histogram, **labels: str) -> None:
        """Add a series of durations."""
        labels = _shortened(labels)
        self.bounds_us = histogram.bounds_us
        self.samples.append(Sample(labels, histogram.sum_us / 1e6, list(histogram.buckets)))


Families = list[Family]


def to_dict(families: Families) -> dict[str, Any]:
    """Plain values that JSON can carry."""
    return {"families": msgspec.to_builtins(families)}


def from_dict(snapshot: dict[str, Any]) -> Families:
    """The families of a `to_dict`; raises ValueError for anything else."""
    return msgspec.convert(snapshot.get("families"), Families)


def merge(snapshots: Iterable[Families]) -> Families:
    """One list of families for several workers; the first one's order, help and kind hold."""
    merged: dict[str, Family] = {}
    series: dict[str, dict[tuple[tuple[str, str], ...], Sample]] = {}
    for families in snapshots:
        for family in families:
            known = merged.get(family.name)
            if known is None:
                known = Family(
                    family.name, family.kind, family.help, family.merge, [], family.bounds_us
                )
                merged[family.name] = known
                series[family.name] = {}
            if known.kind != family.kind:
                # Two workers run different generations of a plugin: the first one's word holds.
                continue
            for sample in family.samples:
                _add(known, series[family.name], sample)
    return list(merged.values())


def _add(family: Family, series: dict[tuple[tuple[str, str], ...], Sample], sample: Sample) -> None:
    key = tuple(sorted(sample.labels.items()))
    known = series.get(key)
    if known is None:
        known = Sample(dict(sample.labels), sample.value, list(sample.buckets))
        series[key] = known
        family.samples.append(known)
    elif family.kind == HISTOGRAM:
        known.value += sample.value
        for index, count in enumerate(sample.buckets):
            known.buckets[index] += count
    elif family.merge == "max":
        known.value = max(known.value, sample.value)
    elif family.merge == "min":
        known.value = min(known.value, sample.value)
    else:
        known.value += sample.value


def _shortened(labels: dict[str, str]) -> dict[str, str]:
    for name, value in labels.items():
        if len(value) > MAX_LABEL_CHARACTERS:
            labels[name] = value[:MAX_LABEL_CHARACTERS]
    return labels
