"""Equal sets of reported settings have one number, different ones never."""

from proxy.session import reported
from proxy.session.reported import MAX_IDENTITIES, identify


def test_order_does_not_matter() -> None:
    one = identify({b"a": b"1", b"b": b"2"})
    assert identify({b"b": b"2", b"a": b"1"}) == one
    assert identify({b"a": b"1"}) != one
    assert identify({b"a": b"1", b"b": b"3"}) != one


def test_what_clients_are_not_told_of_does_not_count() -> None:
    assert identify({b"a": b"1", reported.UNTOLD: b"on"}) == identify({b"a": b"1"})


def test_numbers_are_forgotten_but_never_given_twice() -> None:
    first = identify({b"n": b"first"})
    numbers = {identify({b"n": b"%d" % number}) for number in range(MAX_IDENTITIES + 1)}
    assert len(numbers) == MAX_IDENTITIES + 1
    assert first not in numbers
    assert identify({b"n": b"first"}) not in numbers | {first}
