"""Plugins' own metrics: under their prefix, bounded, and unable to pass for the proxy's."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.hooks.answers import Sample
from proxy.observe.counters import Counters, HookStats
from proxy.observe.exposition import expose
from proxy.observe.families import COUNTER, GAUGE, Families
from proxy.observe.plugin_metrics import (
    MAX_SERIES,
    RESERVED,
    exported_name,
    hook_families,
    own_families,
    plugin_families,
)
from proxy.plugins.registry import HookView, PluginView


def view(
    name: str = "one",
    custom: dict[str, tuple[bool, float]] | None = None,
    hooks: tuple[HookView, ...] = (),
) -> PluginView:
    return PluginView(
        plugin=name, version="1.0.0", status="active", state="Active", generation=2,
        memory_bytes=65536, draining=0, in_flight=0, loads=2, load_failures=1, drain_timeouts=0,
        log_lines=5, log_dropped=1, hooks=hooks, custom=custom or {},
    )  # fmt: skip


def by_name(families: Families) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {f.name: [(s.labels, s.value) for s in f.samples] for f in families}


def test_hooks_with_latency_errors_and_decisions() -> None:
    stats = HookStats()
    for _ in range(3):
        stats.called(3)
    stats.used(99)
    stats.failed("trap")
    stats.decided("block")
    hook = HookView("one", "pre_query", stats, "open", 4)
    found = by_name(hook_families([view(hooks=(hook,))]))
    labels = {"plugin": "one", "hook": "pre_query"}
    assert found["headgate_hook_calls"] == [(labels, 3)]
    assert found["headgate_hook_errors"] == [({**labels, "cause": "trap"}, 1)]
    assert found["headgate_hook_decisions"] == [({**labels, "action": "block"}, 1)]
    assert found["headgate_hook_breaker_state"] == [(labels, 2)]
    assert found["headgate_hook_breaker_opened"] == [(labels, 4)]
    assert found["headgate_hook_fuel"] == [(labels, 99)]


def test_state_and_generation() -> None:
    found = by_name(plugin_families([view()]))
    assert found["headgate_plugin_state"] == [({"plugin": "one", "state": "Active"}, 1)]
    assert found["headgate_plugin_generation"] == [({"plugin": "one"}, 2)]
    assert found["headgate_plugin_up"][0][1] == 1


def test_own_metrics_have_the_plugin_as_label() -> None:
    samples = {"one": [Sample("depth", False, 7, {"queue": "a", "plugin": "two"})]}
    found = by_name(own_families([view(custom={"seen_total": (True, 4)})], samples, Counters()))
    assert found == {
        "headgate_plugin_seen": [({"plugin": "one"}, 4)],
        "headgate_plugin_depth": [({"queue": "a", "plugin": "one"}, 7)],
    }


@pytest.mark.parametrize("name", ["up", "state", "loads", "loads_total", "events", "events_total"])
def test_names_of_the_proxys_own_are_refused(name: str) -> None:
    counters = Counters()
    custom = {name: (False, 1.0)}
    assert own_families([view(custom=custom)], {}, counters) == []
    assert counters.by_cause == {"plugin_metric_refused": 1}
    assert "headgate_plugin_up" in RESERVED


def test_a_name_has_one_kind_whoever_came_first() -> None:
    counters = Counters()
    views = [view("one", {"x": (True, 1)}), view("two", {"x": (False, 2), "x_total": (False, 3)})]
    found = by_name(own_families(views, {}, counters))
    assert found == {"headgate_plugin_x": [({"plugin": "one"}, 1)]}
    assert counters.by_cause == {"plugin_metric_refused": 2}


def test_repeated_series_and_bad_values_are_refused() -> None:
    counters = Counters()
    samples = {
        "one": [
            Sample("a", False, 1, {}), Sample("a", False, 2, {}), Sample("b", False, math.nan, {}),
            Sample("c", True, -1, {}),
        ]
    }  # fmt: skip
    found = by_name(own_families([view()], samples, counters))
    assert found["headgate_plugin_a"] == [({"plugin": "one"}, 1)]
    assert counters.by_cause == {"plugin_metric_refused": 3}


def test_the_number_of_series_is_bounded() -> None:
    counters = Counters()
    samples = {"one": [Sample("a", False, 1, {"n": str(i)}) for i in range(MAX_SERIES + 5)]}
    found = own_families([view()], samples, counters)
    assert len(found[0].samples) == MAX_SERIES
    assert counters.by_cause == {"plugin_metric_refused": 5}


@given(st.text(max_size=150), st.sampled_from([COUNTER, GAUGE]))
def test_any_name_becomes_a_good_one(name: str, kind: str) -> None:
    exported = exported_name(name, kind)  # type: ignore[arg-type]
    assert re.fullmatch(r"headgate_plugin_[a-zA-Z0-9_]{1,100}", exported)


@given(
    st.dictionaries(
        st.text(st.sampled_from("ab_total"), min_size=1, max_size=8),
        st.tuples(st.booleans(), st.floats()),
        max_size=8,
    )
)
def test_whatever_plugins_offer_can_be_written(custom: dict[str, tuple[bool, float]]) -> None:
    text, _ = expose(own_families([view("one", custom), view("two", custom)], {}, Counters()))
    names = [line.split("{")[0] for line in text.decode().splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
