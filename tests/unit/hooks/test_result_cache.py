from pathlib import Path

from proxy.hooks.result_cache import LocalResultCache
from proxy.hooks.write_marks import WriteMarks
from proxy.session.context import ClientContext
from proxy.session.inspection import PHASE_STATEMENT, Inspection, RowSet
from proxy.sql.classify import PgClassifier

CLASSIFIER = PgClassifier()


class Now:
    time_us = 1_000_000

    def __call__(self) -> int:
        return self.time_us


def client(user: str = "alice", identity: str = "alice", number: int = 1) -> ClientContext:
    context = ClientContext(f"c{number}", "127.0.0.1", False, 0.0)
    context.user = user
    context.identity = identity
    context.database = "app"
    return context


def look(
    sql: str,
    by: ClientContext | None = None,
    parameters: list[bytes | None] | None = None,
    in_transaction: bool = False,
) -> Inspection:
    facts = CLASSIFIER.exact(sql.encode()).statements[0]
    return Inspection(facts, by or client(), False, PHASE_STATEMENT, in_transaction, parameters)


def rows(text: str = "x") -> RowSet:
    return RowSet([("a", 25)], [[text.encode()], [None]])


def filled(sql: str = "SELECT * FROM orders") -> tuple[LocalResultCache, Now]:
    now = Now()
    cache = LocalResultCache(100_000, now)
    first = look(sql)
    assert cache.lookup(first, "k", 0) is None
    cache.store(first, "k", rows(), 1000)
    return cache, now


def test_found_until_its_time_to_live() -> None:
    cache, now = filled()
    found = cache.lookup(look("SELECT * FROM orders"), "k", 0)
    assert found is not None
    assert found.rows == rows().rows
    now.time_us += 1_000_000
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is None
    assert len(cache) == 0
    assert cache.bytes == 0


def test_max_age_is_the_readers() -> None:
    cache, now = filled()
    now.time_us += 500_000
    assert cache.lookup(look("SELECT * FROM orders"), "k", 400) is None
    assert cache.lookup(look("SELECT * FROM orders"), "k", 600) is not None


def test_another_user_identity_role_setting_or_parameter_finds_nothing() -> None:
    cache, _ = filled()
    sql = "SELECT * FROM orders"
    assert cache.lookup(look(sql, client(user="bob")), "k", 0) is None
    assert cache.lookup(look(sql, client(identity="bob")), "k", 0) is None
    other = client()
    other.roles = ["admin"]
    assert cache.lookup(look(sql, other), "k", 0) is None
    elsewhere = look(sql)
    elsewhere.settings_key = b"\x00private\x00"
    assert cache.lookup(elsewhere, "k", 0) is None
    assert cache.lookup(look(sql, parameters=[b"1"]), "k", 0) is None
    assert cache.lookup(look(sql), "other", 0) is None
    assert cache.lookup(look(sql), "k", 0) is not None


def test_a_write_to_its_table_ends_an_entry() -> None:
    cache, _ = filled()
    cache.written(look("UPDATE customers SET a = 1"))
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is not None
    cache.written(look("UPDATE public.orders SET a = 1"))
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is None
    assert cache.invalidated == 1


def test_ddl_calls_and_the_unknown_empty_it() -> None:
    for sql in ("DROP TABLE x", "CALL p()", "DO $$BEGIN END$$", "frobnicate"):
        cache, _ = filled()
        cache.written(look(sql))
        assert len(cache) == 0, sql
    cache, _ = filled()
    cache.written(look("SET work_mem = 1"))
    assert len(cache) == 1


def test_a_read_that_began_before_a_write_is_not_stored() -> None:
    cache, _ = filled()
    slow = look("SELECT * FROM orders")
    assert cache.lookup(slow, "k2", 0) is None
    cache.written(look("DELETE FROM orders WHERE a = 1"))
    cache.store(slow, "k2", rows(), 1000)
    assert cache.declined == 1
    assert cache.lookup(look("SELECT * FROM orders"), "k2", 0) is None


def test_a_write_counts_again_when_its_transaction_ends() -> None:
    cache, _ = filled()
    writer = client(number=2)
    cache.written(look("UPDATE orders SET a = 1", writer, in_transaction=True))
    # Another client reads the old row meanwhile, as it should, and it is kept.
    reader = look("SELECT * FROM orders")
    assert cache.lookup(reader, "k", 0) is None
    cache.store(reader, "k", rows("old"), 1000)
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is not None
    cache.written(look("COMMIT", writer, in_transaction=True))
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is None


def test_who_leaves_in_a_transaction_wrote_nothing() -> None:
    cache, _ = filled()
    writer = client(number=2)
    cache.written(look("BEGIN", writer))
    cache.written(look("UPDATE other SET a = 1", writer, in_transaction=True))
    cache.left("c2")
    assert len(cache) == 1


def test_memory_is_bounded_and_the_oldest_goes_first() -> None:
    now = Now()
    cache = LocalResultCache(20_000, now)
    for number in range(100):
        one = look("SELECT * FROM orders")
        cache.lookup(one, f"k{number}", 0)
        cache.store(one, f"k{number}", rows("x" * 100), 1000)
        assert cache.bytes <= 20_000
    assert 0 < len(cache) < 100
    assert cache.lookup(look("SELECT * FROM orders"), "k99", 0) is not None
    assert cache.lookup(look("SELECT * FROM orders"), "k0", 0) is None
    huge = look("SELECT * FROM orders")
    cache.store(huge, "huge", rows("x" * 5_000), 1000)
    assert cache.declined == 1


def test_a_write_in_another_process_ends_an_entry_at_once(tmp_path: Path) -> None:
    now = Now()
    first, second = (
        LocalResultCache(100_000, now, WriteMarks(tmp_path / "writes", index, 2))
        for index in range(2)
    )
    sql = "SELECT * FROM orders"
    for cache in (first, second):
        one = look(sql)
        assert cache.lookup(one, "k", 0) is None
        cache.store(one, "k", rows(), 1000)
        assert cache.lookup(look(sql), "k", 0) is not None
    second.written(look("UPDATE orders SET a = 1"))
    assert first.lookup(look(sql), "k", 0) is None
    assert len(first) == 0
    assert second.lookup(look(sql), "k", 0) is None


def test_an_end_of_a_transaction_that_nobody_saw_begin_empties_it() -> None:
    cache, _ = filled()
    cache.written(look("COMMIT", client(number=7)))
    assert len(cache) == 0
    cache, _ = filled()
    reader = client(number=7)
    cache.written(look("BEGIN", reader))
    cache.written(look("COMMIT", reader, in_transaction=True))
    assert len(cache) == 1
    cache.written(look("COMMIT PREPARED 'x'"))
    assert len(cache) == 0


def test_a_function_of_the_users_may_write_anything() -> None:
    cache, _ = filled()
    cache.written(look("SELECT my_own_function()"))
    assert len(cache) == 0
    cache, _ = filled()
    writer = client(number=2)
    cache.written(look("BEGIN", writer))
    cache.written(look("SELECT my_own_function()", writer, in_transaction=True))
    one = look("SELECT * FROM orders")
    assert cache.lookup(one, "k", 0) is None
    cache.store(one, "k", rows(), 1000)
    cache.written(look("COMMIT", writer, in_transaction=True))
    assert len(cache) == 0


def test_cleared_and_resized() -> None:
    cache, _ = filled()
    cache.resize(10)
    assert len(cache) == 0
    assert cache.bytes == 0
    cache, _ = filled()
    cache.clear()
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is None


def test_a_second_begin_changes_nothing() -> None:
    """The server warns, and the transaction goes on with what it has written."""
    cache, _ = filled()
    for text in ("BEGIN", "UPDATE orders SET a = 1", "BEGIN"):
        cache.written(look(text, in_transaction=text != "BEGIN"))
    again = look("SELECT * FROM orders")
    assert cache.lookup(again, "k", 0) is None
    cache.store(again, "k", rows(), 1000)
    cache.written(look("COMMIT", in_transaction=True))
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is None


def test_a_write_that_names_no_table_empties_it() -> None:
    cache, _ = filled()
    facts = PgClassifier().exact(b"UPDATE orders SET a = 1").statements[0]
    facts.tables = ()
    cache.written(Inspection(facts, client(), False, PHASE_STATEMENT, False, None))
    assert len(cache) == 0


def test_one_entry_of_a_table_goes_and_the_others_stay() -> None:
    cache, now = filled()
    other = look("SELECT * FROM orders, items")
    assert cache.lookup(other, "j", 0) is None
    cache.store(other, "j", rows(), 9000)
    now.time_us += 2_000_000
    assert cache.lookup(look("SELECT * FROM orders"), "k", 0) is None
    assert cache.lookup(look("SELECT * FROM orders, items"), "j", 0) is not None
    cache.written(look("UPDATE orders SET a = 1"))
    assert len(cache) == 0
    assert cache.bytes == 0
