import subprocess
import sys
from pathlib import Path

from proxy.hooks.write_marks import PLACES, WriteMarks

ORDERS = frozenset({"orders"})


def test_a_moment_changes_with_its_own_tables_only() -> None:
    marks = WriteMarks()
    before = marks.moment(("orders", "items"))
    other = marks.moment(("customers",))
    marks.mark(ORDERS)
    after = marks.moment(("orders", "items"))
    assert after == before + 1
    assert marks.moment(("customers",)) == other
    assert marks.moment(("orders", "items")) == after


def test_a_write_of_anything_changes_every_moment() -> None:
    marks = WriteMarks()
    before = marks.moment(()), marks.moment(("a",))
    marks.mark(None)
    assert marks.moment(()) != before[0]
    assert marks.moment(("a",)) != before[1]


def test_each_process_writes_its_own_row(tmp_path: Path) -> None:
    path = tmp_path / "writes"
    marks = [WriteMarks(path, index, 3) for index in range(3)]
    assert path.stat().st_mode & 0o777 == 0o600
    for mark in marks:
        mark.mark(ORDERS)
    assert {mark.moment(("orders",)) for mark in marks} == {3}
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from proxy.hooks.write_marks import WriteMarks;"
            "WriteMarks(Path(sys.argv[1]), 2, 3).mark(frozenset({'orders'}))",
            str(path),
        ],
        check=True,
        timeout=20,
    )
    assert marks[0].moment(("orders",)) == 4
    # One that is started anew finds its row as it left it.
    assert WriteMarks(path, 1, 3).moment(("orders",)) == 4


def test_any_name_has_a_place() -> None:
    marks = WriteMarks()
    names = [f"t{number}" for number in range(3 * PLACES)] + ["\udcff", "ä", ""]
    for name in names:
        marks.mark(frozenset({name}))
        assert marks.moment((name,)) > 0
