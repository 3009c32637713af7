"""One picture of several workers."""

from typing import Any

from proxy.admin import merging


def one(worker: int, **more: Any) -> dict[str, Any]:
    latency = {"count": 2, "sum_us": 8.0, "bounds_us": [1, 2, 5], "buckets": [0, 0, 2]}
    row = {
        "worker": worker, "pid": 100 + worker, "version": "1", "config": "f", "started_at": 1.0,
        "uptime_s": 2.0, "is_ready": True, "is_draining": False, "clients": 3, "queries": 5,
        "resident_bytes": 7, "cpu_s": 0.5, "query_latency": latency, "events": {"a": 1},
    }  # fmt: skip
    return {**row, **more}


def test_sums_and_each_worker() -> None:
    merged = merging.status([one(0), one(1, is_ready=False, events={"a": 2, "b": 1})])
    assert merged["queries"] == 10
    assert merged["events"] == {"a": 3, "b": 1}
    assert merged["pid"] == 100
    assert merged["is_ready"] is False
    assert merged["query_latency"] == {"count": 4, "mean_us": 4.0, "p50_us": 5, "p99_us": 5}
    assert [each["pid"] for each in merged["workers"]] == [100, 101]


def pool(**more: Any) -> dict[str, Any]:
    row = dict.fromkeys(merging._POOL_SUMS, 1)
    base = {"database": "d", "user": "u", "node": "n", "maxwait_us": 5, "is_paused": False}
    return {**row, **base, "last_error": "", **more}


def test_a_pool_is_there_once() -> None:
    merged = merging.pools(
        [{"rows": [pool()]}, {"rows": [pool(maxwait_us=9, is_paused=True), pool(node="m")]}]
    )
    assert [(row["node"], row["sv_idle"], row["maxwait_us"]) for row in merged] == [
        ("m", 1, 5), ("n", 2, 9),
    ]  # fmt: skip
    assert merged[1]["is_paused"] is True


def plugin(calls: int) -> dict[str, Any]:
    latency = {"count": calls, "sum_us": float(calls), "bounds_us": [1], "buckets": [calls, 0]}
    hook = {"calls": calls, "errors": {"trap": calls}, "breaker": "closed", "latency": latency}
    return {"name": "p", "generation": 1, "hook_stats": {"route": hook}}


def test_counters_of_a_plugin_are_added() -> None:
    merged = merging.plugins([{"rows": [plugin(1)]}, {"rows": [plugin(2)]}])
    hook = merged[0]["hook_stats"]["route"]
    assert (hook["calls"], hook["errors"], hook["breaker"]) == (3, {"trap": 3}, "closed")
    assert hook["latency"]["count"] == 3
    single = merging.plugin([{"plugin": plugin(4)}, {"plugin": plugin(1)}], is_readable=True)
    assert single["hook_stats"]["route"]["latency"]["p99_us"] == 1


def test_totals_by_database() -> None:
    row = {"database": "d", "clients": 1, "queries": 2, "bytes_in": 3, "bytes_out": 4}
    merged = merging.totals([{"rows": [row]}, {"rows": [row, {**row, "database": "c"}]}])
    assert [(each["database"], each["queries"]) for each in merged] == [("c", 2), ("d", 4)]


def test_a_quantile_above_all_bounds_is_unknown() -> None:
    row = {"count": 1, "sum_us": 1e9, "bounds_us": [1, 2], "buckets": [0, 0, 1]}
    assert merging.with_quantiles(row)["p99_us"] is None
