"""Histograms: which bucket a duration is in."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.counters import LATENCY_BUCKETS_US, QUERY_BUCKETS_US, Histogram, HookStats


def place_of(value: float, bounds: tuple[int, ...]) -> list[int]:
    """One value counted the plain way."""
    buckets = [0] * (len(bounds) + 1)
    buckets[sum(value > bound for bound in bounds)] = 1
    return buckets


@given(st.one_of(st.floats(0, 200_000), st.floats(0, 30), st.sampled_from(LATENCY_BUCKETS_US)))
def test_a_call_is_counted_under_the_first_bound_that_holds_it(value: float) -> None:
    histogram = Histogram()
    histogram.observe_call(value)
    assert histogram.buckets == place_of(value, LATENCY_BUCKETS_US)
    assert (histogram.count, histogram.sum_us) == (1, value)


@given(st.one_of(st.integers(0, 100_000_000), st.sampled_from(QUERY_BUCKETS_US)))
def test_a_query_is_counted_under_the_first_bound_that_holds_it(value: int) -> None:
    histogram = Histogram(QUERY_BUCKETS_US)
    histogram.observe_query(value)
    assert histogram.buckets == place_of(value, QUERY_BUCKETS_US)
    assert (histogram.count, histogram.sum_us) == (1, value)


@given(st.lists(st.sampled_from(["continue", "block", "rewrite"]), max_size=20), st.data())
def test_what_answers_say_is_counted_whenever_somebody_looks(
    words: list[str], data: st.DataObject
) -> None:
    stats = HookStats()
    said: dict[str, int] = {}
    for word in words:
        # Equal words need not be the same object.
        stats.decided("".join(list(word)) if data.draw(st.booleans()) else word)
        said[word] = said.get(word, 0) + 1
        if data.draw(st.booleans()):
            assert stats.decisions == said
    assert stats.decisions == said
