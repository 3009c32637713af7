"""In which order, and for how long, the benchmark measures."""

from benchmarks import run
from benchmarks.targets import Target


def test_targets_that_are_compared_have_turns() -> None:
    main, variant = Target("direct", 1, None), Target("variant", 2, None)
    turns = list(run._turns(["simple"], [1, 16], [main], [variant], 3))
    assert turns == [
        ("simple", 1, main, 3),
        ("simple", 16, main, 1),
        ("simple", 16, variant, 1),
        ("simple", 16, main, 1),
        ("simple", 16, variant, 1),
        ("simple", 16, variant, 1),
        ("simple", 16, main, 1),
    ]


def test_turns_are_a_second_at_least() -> None:
    target = Target("direct", 1, None)
    assert list(run._turns(["simple"], [16], [target], [], 1)) == [("simple", 16, target, 1)]
    assert [length for *_, length in run._turns(["simple"], [16], [target], [], 9)] == [3] * 3
