"""Sums by database, of which clients cannot make more than there may be."""

from proxy.observe.totals import MAX_DATABASES, OTHERS, DatabaseTotals


def test_clients_of_a_database_are_added() -> None:
    totals = DatabaseTotals()
    totals.add("app", 3, 10, 20, 2, 300, 400)
    totals.add("app", 1, 1, 2, 1, 5, 6)
    assert totals.by_database == {"app": [2, 4, 11, 22, 3, 305, 406]}


def test_the_number_of_names_is_bounded() -> None:
    totals = DatabaseTotals()
    for number in range(MAX_DATABASES + 10):
        totals.add(f"db{number}", 1, 0, 0)
    assert len(totals.by_database) == MAX_DATABASES + 1
    assert totals.by_database[OTHERS][0] == 10
