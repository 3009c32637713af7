"""
Families in the text formats that Prometheus reads.

A `Collector` of prometheus-client over values that are already there: nothing is counted in its
own objects, so that counting costs the hot path an integer addition and no more.
"""

from collections.abc import Iterator
from typing import final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from proxy.observe.families import COUNTER, HISTOGRAM, Families, Family, Sample


@final
class FamiliesCollector(Collector):
    """Gives families to a registry, each time it asks."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Give each family that has a series."""
        for family in self._families:
            if family.samples:
                yield _metric(family)


def expose(families: Families, accept: str = "") -> tuple[bytes, str]:
    """Write families in the format that an Accept header asks for: the text, its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FamiliesCollector(families))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type


def _metric(family: Family) -> Metric:
    metric = Metric(family.name, family.help, family.kind)
    for sample in family.samples:
        if family.kind == HISTOGRAM:
            _add_histogram(metric, family, sample)
        elif family.kind == COUNTER:
            metric.add_sample(family.name + "_total", sample.labels, sample.value)
        else:
            metric.add_sample(family.name, sample.labels, sample.value)
    return metric


def _add_histogram(metric: Metric, family: Family, sample: Sample) -> None:
    count = 0
    for index, bound_us in enumerate(family.bounds_us):
        count += sample.buckets[index]
        labels = {**sample.labels, "le": repr(bound_us / 1e6)}
        metric.add_sample(metric.name + "_bucket", labels, count)
    count += sample.buckets[-1]
    metric.add_sample(metric.name + "_bucket", {**sample.labels, "le": "+Inf"}, count)
    metric.add_sample(metric.name + "_count", sample.labels, count)
    metric.add_sample(metric.name + "_sum", sample.labels, sample.value)
