"""This process has memory, descriptors and has used some time."""

from pathlib import Path

from proxy.observe.process import ProcessUse


def test_this_process(tmp_path: Path) -> None:
    before = ProcessUse()
    with (tmp_path / "x").open("w"):
        during = ProcessUse()
    assert during.open_fds == before.open_fds + 1
    assert before.resident_bytes > 1_000_000
    assert before.max_fds >= before.open_fds
    assert before.cpu_s > 0
