"""The queue behind a reply: bounded, in slices, and every hold on chains given up once."""

import json

import pytest

from proxy.errors import PluginFailed
from proxy.hooks import outcomes
from proxy.hooks.points import CACHE_SET, POST_QUERY
from proxy.session.inspection import Inspection, Outcome
from tests.unit.hooks.fakes import ALL_PERMISSIONS, FakeCache, FakeSubscriber, Setup
from tests.unit.hooks.test_rowset import DONE, READY, description, row

RESULT = description(("a", 25)) + row(b"1") + DONE + READY
STORE = b'{"action":"store","ttl_ms":500}'


def finish(setup: Setup, result: bytes | None = None, key: str = "") -> Inspection:
    inspection = setup.judge()
    inspection.outcome = Outcome()
    inspection.cache_key = key
    setup.pipeline.finished(inspection, result)
    return inspection


def test_observers_are_told_in_order_and_later() -> None:
    order: list[str] = []
    first = FakeSubscriber(POST_QUERY, lambda _: order.append("first"))
    second = FakeSubscriber(POST_QUERY, lambda _: order.append("second"))
    setup = Setup(first, second)
    finish(setup)
    assert order == []
    setup.scheduler.run()
    assert order == ["first", "second"]
    assert json.loads(first.payloads[0])[1]["success"] is True
    assert setup.scheduler.waiting == []


def test_one_wake_up_for_many_and_again_for_later_ones() -> None:
    observer = FakeSubscriber(POST_QUERY)
    setup = Setup(observer)
    for _ in range(5):
        finish(setup)
    assert len(setup.scheduler.waiting) == 1
    setup.scheduler.run()
    assert len(observer.payloads) == 5
    finish(setup)
    assert len(setup.scheduler.waiting) == 1


def test_a_slice_ends_with_its_time() -> None:
    observer = FakeSubscriber(POST_QUERY)
    setup = Setup(observer)
    for _ in range(5):
        finish(setup)
    setup.scheduler.step_us = outcomes.SLICE_US // 2
    setup.scheduler.run()
    assert len(observer.payloads) == 2
    assert len(setup.outcomes) == 3
    setup.scheduler.run()
    setup.scheduler.run()
    assert len(observer.payloads) == 5
    assert setup.chains.in_flight == 0


def test_what_does_not_fit_is_counted_by_hook() -> None:
    observer = FakeSubscriber(POST_QUERY)
    setup = Setup(observer, FakeSubscriber(CACHE_SET), limit=2)
    for _ in range(4):
        finish(setup)
    finish(setup, RESULT, "k")
    assert setup.counters.by_cause == {"post_query_dropped": 3, "cache_set_dropped": 1}
    assert setup.chains.in_flight == 2
    setup.scheduler.run()
    assert setup.chains.in_flight == 0
    assert len(observer.payloads) == 2


def test_a_drop_without_observers_is_no_post_query() -> None:
    setup = Setup(FakeSubscriber(CACHE_SET), limit=0)
    finish(setup, RESULT, "k")
    assert setup.counters.by_cause == {"cache_set_dropped": 1}
    assert setup.chains.in_flight == 0


def test_results_are_bounded_in_bytes() -> None:
    setter = FakeSubscriber(CACHE_SET, STORE)
    setup = Setup(setter, max_result_bytes=len(RESULT))
    setup.outcomes.cache = FakeCache()
    finish(setup, RESULT, "k1")
    finish(setup, RESULT, "k2")
    assert setup.counters.by_cause == {"cache_set_dropped": 1}
    setup.scheduler.run()
    finish(setup, RESULT, "k3")
    setup.scheduler.run()
    assert [stored[0] for stored in setup.outcomes.cache.stored] == ["k1", "k3"]


def test_filters_failures_and_defects_concern_one_observer() -> None:
    last = FakeSubscriber(POST_QUERY)
    filtered = FakeSubscriber(POST_QUERY, matching=lambda *_: False)
    trapping = FakeSubscriber(POST_QUERY, PluginFailed("x", "trap", ""))
    broken = FakeSubscriber(POST_QUERY, RuntimeError("host"))
    tiny = FakeSubscriber(POST_QUERY, limit=5)
    setup = Setup(filtered, trapping, broken, tiny, last)
    finish(setup)
    setup.scheduler.run()
    assert filtered.stats.filtered == 1
    assert not filtered.payloads
    assert trapping.stats.errors == {"trap": 1}
    assert broken.stats.errors == {"host": 1}
    assert tiny.stats.errors == {"input": 1}
    assert len(last.payloads) == 1
    assert setup.chains.in_flight == 0


def test_a_broken_filter_does_not_stop_the_queue() -> None:
    def broken(*_: object) -> bool:
        raise ZeroDivisionError

    setup = Setup(FakeSubscriber(POST_QUERY, matching=broken))
    finish(setup)
    finish(setup)
    setup.scheduler.run()
    assert setup.counters.by_cause == {"outcome_failed": 2}
    assert setup.chains.in_flight == 0
    assert len(setup.outcomes) == 0


def test_slow_observers_hold_their_chains_until_they_are_done() -> None:
    slow = FakeSubscriber(POST_QUERY, slow=True)
    setup = Setup(slow)
    finish(setup)
    setup.scheduler.run()
    assert setup.chains.in_flight == 1
    slow.waiting[0].on_answer(None, "timeout")
    assert setup.chains.in_flight == 0


def test_slow_calls_are_bounded_too() -> None:
    slow = FakeSubscriber(POST_QUERY, slow=True)
    setter = FakeSubscriber(CACHE_SET, slow=True)
    setup = Setup(slow, setter, max_slow_calls=1)
    setup.outcomes.cache = FakeCache()
    finish(setup)
    finish(setup, RESULT, "k")
    setup.scheduler.run()
    assert len(slow.waiting) == 1
    assert setup.counters.by_cause == {"post_query_dropped": 1, "cache_set_dropped": 1}
    assert setup.chains.in_flight == 1
    slow.waiting[0].on_answer(None, "")
    assert setup.chains.in_flight == 0


def test_a_slow_call_that_cannot_be_made() -> None:
    slow = FakeSubscriber(POST_QUERY, RuntimeError("no threads"), slow=True)
    setup = Setup(slow)
    finish(setup)
    setup.scheduler.run()
    assert slow.stats.errors == {"host": 1}
    assert setup.chains.in_flight == 0


def test_flush_works_off_everything() -> None:
    observer = FakeSubscriber(POST_QUERY)
    setup = Setup(observer)
    for _ in range(3):
        finish(setup)
    setup.outcomes.flush()
    assert len(observer.payloads) == 3
    assert setup.chains.in_flight == 0


# --- cache_set --------------------------------------------------------------------------------


def offered(*setters: FakeSubscriber, result: bytes = RESULT) -> tuple[Setup, FakeCache]:
    setup = Setup(*setters)
    cache = FakeCache()
    setup.outcomes.cache = cache
    finish(setup, result, "k")
    setup.scheduler.run()
    return setup, cache


def test_store() -> None:
    setter = FakeSubscriber(CACHE_SET, STORE)
    setup, cache = offered(setter)
    key, rows, ttl_ms = cache.stored[0]
    assert (key, ttl_ms) == ("k", 500)
    assert rows.rows == [[b"1"]]
    seen = json.loads(setter.payloads[0])
    assert (seen["key"], seen["rows"], seen["result_bytes"]) == ("k", 1, len(RESULT))
    assert setter.stats.decisions == {"store": 1}
    assert setup.chains.in_flight == 0


def test_all_must_agree_and_the_shortest_time_counts() -> None:
    short = FakeSubscriber(CACHE_SET, b'{"action":"store","ttl_ms":20}')
    _, cache = offered(FakeSubscriber(CACHE_SET, STORE), short)
    assert [ttl for _, _, ttl in cache.stored] == [20]


@pytest.mark.parametrize(
    "answer", [None, b'{"action":"skip"}', b"rubbish", PluginFailed("x", "trap", "")]
)
def test_a_skip_or_a_failure_keeps_it_out(answer: bytes | Exception | None) -> None:
    after = FakeSubscriber(CACHE_SET, STORE)
    _, cache = offered(FakeSubscriber(CACHE_SET, answer), after)
    assert cache.stored == []
    assert not after.payloads


def test_store_needs_cache_write() -> None:
    setter = FakeSubscriber(CACHE_SET, STORE, permissions=ALL_PERMISSIONS - {"cache.write"})
    _, cache = offered(setter)
    assert cache.stored == []
    assert setter.stats.errors == {"permission": 1}


def test_who_does_not_match_has_no_say_and_somebody_must() -> None:
    stranger = FakeSubscriber(CACHE_SET, matching=lambda *_: False)
    _, cache = offered(stranger)
    assert cache.stored == []
    _, cache = offered(stranger, FakeSubscriber(CACHE_SET, STORE))
    assert len(cache.stored) == 1


def test_too_small_an_input_limit_is_a_failure() -> None:
    setter = FakeSubscriber(CACHE_SET, STORE, limit=10)
    _, cache = offered(setter)
    assert cache.stored == []
    assert setter.stats.errors == {"input": 1}


def test_a_time_of_nothing_stores_nothing() -> None:
    _, cache = offered(FakeSubscriber(CACHE_SET, b'{"action":"store","ttl_ms":0}'))
    assert cache.stored == []


def test_a_reply_that_cannot_be_given_again_is_not_offered() -> None:
    setter = FakeSubscriber(CACHE_SET, STORE)
    offered(setter, result=DONE)
    assert not setter.payloads


def test_slow_setters() -> None:
    first = FakeSubscriber(CACHE_SET, slow=True)
    second = FakeSubscriber(CACHE_SET, STORE)
    setup, cache = offered(first, second)
    assert not second.payloads
    first.waiting[0].on_answer(STORE, "")
    assert len(cache.stored) == 1
    assert setup.chains.in_flight == 0


def test_a_slow_setter_that_fails() -> None:
    first = FakeSubscriber(CACHE_SET, slow=True)
    setup, cache = offered(first)
    first.waiting[0].on_answer(None, "timeout")
    assert cache.stored == []
    assert setup.chains.in_flight == 0


def test_only_what_succeeded_is_offered() -> None:
    setter = FakeSubscriber(CACHE_SET, STORE)
    setup = Setup(setter)
    finish(setup, RESULT, "k")
    setup.outcomes.flush()
    assert not setter.payloads  # no cache
    setup.outcomes.cache = FakeCache()
    inspection = finish(setup, RESULT, "k")
    assert inspection.outcome is not None
    inspection.outcome.success = False
    setup.outcomes.flush()
    assert not setter.payloads
