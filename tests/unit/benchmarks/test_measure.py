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
    assert measure.parse_pgbench(_OUTPUT) == (12345, 35757.123456, 2)


def test_output_of_a_failed_run_has_no_queries() -> None:
    assert measure.parse_pgbench("connection refused") == (0, 0.0, 0)


def test_percentiles_come_from_all_logs_and_leave_failed_transactions_out(tmp_path: Path) -> None:
    first, second = tmp_path / "latency.1", tmp_path / "latency.2"
    first.write_text("".join(f"0 {n} {n} 0 1 1\n" for n in range(1, 100)))
    second.write_text("1 1 100 0 1 1\n1 2 failed 0 1 1\n")
    assert measure.percentiles_of_logs([first, second]) == (50.0, 99.0)
    assert measure.percentiles_of_logs([]) == (0.0, 0.0)


def test_processor_time_of_processes_that_ended_is_left_out() -> None:
    user, kernel = measure.cpu_ticks([os.getpid(), 2**22 + 1])
    assert user + kernel > 0
    assert measure.cpu_ticks([2**22 + 1]) == (0, 0)
