from pathlib import Path

import pytest

from proxy.errors import Refusal
from proxy.pool.plan import plan_of
from proxy.server.admission import ClientLimits
from proxy.server.census import Census
from proxy.session.context import ClientContext
from proxy.settings.model import Database, Node, Pool, Settings


def settings_of(pool: Pool, *databases: Database) -> Settings:
    return Settings(pool=pool, node=(Node(name="pg1"),), database=databases)


def limits_of(settings: Settings, census: Census | None = None) -> ClientLimits:
    return ClientLimits(settings, plan_of(settings), census)


def client(number: int, user: str = "ann", database: str = "app") -> ClientContext:
    context = ClientContext(f"w0-{number}", "127.0.0.1", False, 0.0)
    context.user, context.database = user, database
    return context


def come(limits: ClientLimits, context: ClientContext) -> Refusal | None:
    """What the login does with a client, as long as it is not refused."""
    refusal = limits.enter(context)
    if refusal is not None:
        return refusal
    refusal = limits.admit(context)
    if refusal is not None:
        limits.leave(context)
    return refusal


def test_clients_in_all() -> None:
    limits = limits_of(settings_of(Pool(max_client_connections=2)))
    guests = [client(number) for number in range(3)]
    assert [come(limits, guest) for guest in guests[:2]] == [None, None]
    refusal = come(limits, guests[2])
    assert refusal is not None
    assert (refusal.sqlstate, limits.total) == ("53300", 2)
    limits.leave(guests[0])
    assert come(limits, guests[2]) is None


def test_the_console_is_open_when_all_else_is_full() -> None:
    limits = limits_of(settings_of(Pool(max_client_connections=1)))
    assert come(limits, client(1)) is None
    admin = client(2, "admin", "headgate")
    assert come(limits, admin) is None
    limits.leave(admin)
    assert come(limits, client(3)) is not None
    assert limits.total == 1


@pytest.mark.parametrize(
    ("pool", "same"),
    [
        (Pool(max_user_client_connections=1), {"user": "ann"}),
        (Pool(max_db_client_connections=1), {"database": "app"}),
    ],
)
def test_clients_per_user_and_per_database(pool: Pool, same: dict[str, str]) -> None:
    limits = limits_of(settings_of(pool))
    first = client(1)
    assert come(limits, first) is None
    other = {"user": "bob"} if "user" in same else {"database": "other"}
    refusal = come(limits, client(2, **same))
    assert refusal is not None
    assert refusal.sqlstate == "53300"
    assert come(limits, client(3, **other)) is None
    limits.leave(first)
    assert come(limits, client(4, **same)) is None


def test_a_databases_own_limit_goes_before() -> None:
    pool = Pool(max_db_client_connections=5)
    database = Database(name="app", max_client_connections=1)
    limits = limits_of(settings_of(pool, database))
    assert come(limits, client(1)) is None
    assert come(limits, client(2)) is not None


def test_a_database_that_is_not_there() -> None:
    limits = limits_of(settings_of(Pool(), Database(name="app")))
    refusal = come(limits, client(1, database="other"))
    assert refusal is not None
    assert refusal.sqlstate == "3D000"
    assert limits.total == 0


def test_workers_count_together(tmp_path: Path) -> None:
    settings = settings_of(Pool(max_client_connections=3, max_user_client_connections=2))
    one, two = (limits_of(settings, Census(tmp_path, index, 2)) for index in range(2))
    guests = [client(number) for number in range(2)]
    assert come(one, guests[0]) is None
    assert come(two, guests[1]) is None
    for limits in (one, two):
        refused = come(limits, client(7))
        assert refused is not None
        assert "max_user_client_connections" in (refused.detail or "")
    assert come(one, client(8, "bob")) is None
    refused = come(two, client(9, "cat"))
    assert refused is not None
    assert "max_client_connections" in (refused.detail or "")
    one.leave(guests[0])
    assert come(two, client(10)) is None
