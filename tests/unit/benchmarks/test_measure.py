"""Reading pgbench's output and logs, and the processor time of processes."""

import os
from pathlib import Path

from benchmarks import measure

_OUTPUT = """\
transaction type: <builtin: select only>
number of transactions actually processed: 12345
number of failed transactions: 2 (0.016%)
latency average = 0.4 ms
tps = 35757.123456 (without initial connection time)
"""


def test_pgbench_output_is_read() -> None:
    assert measure.parse_pgbench(_OUTPUT) == (12345, 2)


def test_output_of_a_failed_run_has_no_queries() -> None:
    assert measure.parse_pgbench("connection refused") == (0, 0)


def test_latencies_are_of_what_ended_in_time_in_all_logs(tmp_path: Path) -> None:
    first, second = tmp_path / "latency.1", tmp_path / "latency.2"
    first.write_text("".join(f"0 {n} {n} 0 1 {n}\n" for n in range(1, 5)))
    second.write_text("1 1 100 0 2 0\n1 2 failed 0 1 3\n1 3 7 0 0 999999\n")
    assert measure.latencies_of_logs([first, second], 1_000_002, 2_000_000) == [2, 3, 4]
    assert measure.latencies_of_logs([first, second], 0, 1 << 60) == [1, 2, 3, 4, 100, 7]
    assert measure.latencies_of_logs([], 0, 1) == []


def test_percentiles() -> None:
    assert measure.percentiles(list(range(100, 0, -1))) == (50.0, 99.0)
    assert measure.percentiles([7]) == (7.0, 7.0)
    assert measure.percentiles([]) == (0.0, 0.0)


def test_processor_time_of_processes_that_ended_is_left_out() -> None:
    user, kernel = measure.cpu_ticks([os.getpid(), 2**22 + 1])
    assert user + kernel > 0
    assert measure.cpu_ticks([2**22 + 1]) == (0, 0)
