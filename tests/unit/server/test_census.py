import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st

from proxy.server.census import ENTRIES, Census


def test_each_sees_the_others_and_not_itself(tmp_path: Path) -> None:
    workers = [Census(tmp_path, index, 3) for index in range(3)]
    for index, census in enumerate(workers):
        census.set("all", index + 1)
    assert [census.others("all") for census in workers] == [5, 4, 3]
    assert workers[0].others("nobody") == 0


def test_a_new_worker_of_a_number_begins_empty(tmp_path: Path) -> None:
    first, second = Census(tmp_path, 0, 2), Census(tmp_path, 1, 2)
    second.set("all", 7)
    assert first.others("all") == 7
    Census(tmp_path, 1, 2)
    assert first.others("all") == 0


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    Census(tmp_path, 0, 2)
    assert (tmp_path / "census").stat().st_mode & 0o777 == 0o600


def test_more_names_than_there_is_room_for(tmp_path: Path) -> None:
    census, other = Census(tmp_path, 0, 2), Census(tmp_path, 1, 2)
    for number in range(ENTRIES + 10):
        census.set(f"user {number}", 1)
    assert other.others("user 0") == 1
    assert other.others(f"user {ENTRIES + 5}") == 0
    census.set("user 0", 0)
    census.set("another", 3)
    assert (other.others("user 0"), other.others("another")) == (0, 3)


@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3), st.integers(0, 9)), max_size=60)
)
def test_the_sums_are_those_of_dictionaries(steps: list[tuple[int, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        workers = [Census(Path(name), index, 3) for index in range(3)]
        expected: list[dict[str, int]] = [{}, {}, {}]
        for worker, key, count in steps:
            workers[worker].set(key, count)
            expected[worker][key] = count
        for _, key, _ in steps:
            for index, census in enumerate(workers):
                total = sum(e.get(key, 0) for i, e in enumerate(expected) if i != index)
                assert census.others(key) == total
