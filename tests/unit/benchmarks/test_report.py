"""The table, the budgets and the files of the benchmark."""

import json
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Run


def _run(cpu_us: float, p50_us: float = 100.0) -> Run:
    return Run(1000, 10_000.0, cpu_us - 8.0, 8.0, p50_us, 300.0, 0)


def _runs() -> dict[report.Cell, list[Run]]:
    return {
        ("simple", 1, "direct"): [Run(1, 1.0, 0.0, 0.0, 30.0, 60.0, 0)],
        ("simple", 1, "headgate"): [_run(12.0, 60.0)],
        ("simple", 16, "pgbouncer"): [_run(10.0), _run(11.0), _run(30.0)],
        ("simple", 16, "headgate"): [_run(11.0), _run(11.0), _run(33.0)],
        ("simple", 16, "headgate+continue"): [_run(15.5), _run(15.5), _run(37.5)],
    }


def _results() -> dict[report.Cell, dict[str, float]]:
    return report.medians(_runs())


def test_targets_are_compared_within_a_round() -> None:
    compared = report.paired(
        _runs(), ("simple", 16, "headgate+continue"), ("simple", 16, "headgate")
    )
    assert compared is not None
    assert compared.us == 4.5
    assert compared.us_error == 0.0
    assert report.paired(_runs(), ("simple", 16, "headgate"), ("simple", 16, "none")) is None


def test_a_median_has_its_error() -> None:
    median, error = report.median_and_error([1.0, 2.0, 3.0, 4.0, 100.0])
    assert median == 3.0
    assert round(error, 3) == round(1.2533 * 1.4826 * 1.0 / 5**0.5, 3)
    assert report.median_and_error([7.0]) == (7.0, 0.0)


def test_the_error_stands_beside_the_figure() -> None:
    runs = _runs() | {("simple", 16, "headgate+continue"): [_run(15.5), _run(16.5), _run(39.5)]}
    held = {b["what"]: b for b in report.budgets(runs, {}, {})}
    assert held["plugin continue, simple, against none"]["measured"] == "5.50 ± 1.07 µs"


def test_figures_are_medians_of_the_rounds() -> None:
    assert _results()["simple", 16, "pgbouncer"]["cpu_us"] == 11.0


def test_table_compares_with_pgbouncer_of_the_same_cell() -> None:
    rows = [line for line in report.table(_results()) if "| headgate |" in line]
    assert "| 1.00 |" in rows[1]
    assert "| - |" in rows[0]


def test_budgets_say_what_is_held_missed_and_not_measured() -> None:
    held = {b["what"]: b for b in report.budgets(_runs(), {}, {})}
    assert held["CPU per query, no plugins, simple, 16 clients"]["held"] is True
    assert held["plugin continue, simple, against none"]["held"] is False
    assert held["plugin continue, simple, against none"]["measured"] == "4.50 µs"
    assert held["added p50 latency at 1 client, simple"]["held"] is True
    alone = report.budgets({("simple", 16, "headgate"): [_run(9.0)]}, {}, {})
    assert [b["held"] for b in alone] == [None]


def test_memory_and_bulk_have_budgets_too() -> None:
    held = report.budgets(
        {}, {"headgate": 6 * 1024.0}, {"direct": [500.0, 0.0], "headgate": [250.0, 2**24]}
    )
    assert [b["held"] for b in held] == [True, False, False]


def test_written_files_keep_the_text_around_the_results(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"before\n{report._START}\nold\n{report._END}\nafter\n")
    report.write(tmp_path, _runs(), {"headgate": 1024.0}, {"direct": [1.0, 0.0]}, {"rounds": 1})
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| simple | 16 | headgate |" in text
    document = json.loads((tmp_path / "results.json").read_text())
    assert len(document["cells"]) == 5
    assert document["facts"]["rounds"] == 1
