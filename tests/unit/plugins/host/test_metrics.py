"""Plugin metrics: names are checked and bounded, counters never fall."""

import math

import pytest

from proxy.plugins.host.guest import BAD_ARGUMENT, TOO_LARGE, HostFault
from proxy.plugins.host.metrics import MAX_NAMES, PluginMetrics


def code_of(call, *arguments):
    with pytest.raises(HostFault) as caught:
        call(*arguments)
    return caught.value.code


def test_counters_and_gauges():
    metrics = PluginMetrics()
    metrics.add("p", "hits", 1)
    metrics.add("p", "hits", 2.5)
    metrics.set("p", "level", -3)
    assert metrics.of("p") == {"hits": (True, 3.5), "level": (False, -3)}
    assert metrics.of("q") == {}
    metrics.forget("p")
    assert metrics.of("p") == {}


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_a_counter_does_not_fall(value):
    assert code_of(PluginMetrics().add, "p", "n", value) == BAD_ARGUMENT


@pytest.mark.parametrize("name", ["", "a b", "1a", "a-b", "é", "x" * 101, 'a"} 1\n'])
def test_names(name):
    assert code_of(PluginMetrics().set, "p", name, 1.0) == BAD_ARGUMENT


def test_the_number_of_names_is_bounded():
    metrics = PluginMetrics()
    for number in range(MAX_NAMES):
        metrics.set("p", f"n{number}", 1.0)
    assert code_of(metrics.set, "p", "one_more", 1.0) == TOO_LARGE
    metrics.set("p", "n0", 2.0)
    assert code_of(metrics.set, "p", "n0", math.nan) == BAD_ARGUMENT
