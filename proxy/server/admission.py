"""
How many clients may be here: in all, per user, per database; and which databases are served.
"""

from typing import final

from proxy.errors import Refusal
from proxy.pool.plan import PoolPlan
from proxy.server.census import Census
from proxy.server.login_client import Admission
from proxy.session.context import ClientContext
from proxy.settings.model import Settings

CONSOLE_DATABASES = frozenset({"headgate", "pgbouncer"})
"""What a client asks for to reach the admin console; never a database of a server's."""

_ALL = "all"


@final
class ClientLimits(Admission):
    """
    Counts of clients, and the limits of `[pool]` and `[[database]]`.

    census    the counts of all worker processes; None: there is only this one
    disabled  databases, as clients call them, that an operator lets no new client into
    total     clients of this process
    """

    def __init__(self, settings: Settings, plan: PoolPlan, census: Census | None = None) -> None:
        self._settings = settings
        self._plan = plan
        self._census = census
        self._counts: dict[str, int] = {}
        self._admitted: set[str] = set()
        self.disabled: set[str] = set()
        self.total = 0

    def apply(self, settings: Settings, plan: PoolPlan) -> None:
        """Take new settings; clients that are there stay."""
        self._settings = settings
        self._plan = plan

    def enter(self, context: ClientContext) -> Refusal | None:
        """Count a client in before it has proved anything."""
        if context.database not in CONSOLE_DATABASES:
            limit = self._settings.pool.max_client_connections
            self._count_in(_ALL)
            if self._sum(_ALL) > limit:
                self._count_out(_ALL)
                return _too_many("max_client_connections")
        self.total += 1
        context.claims.pop("", None)
        return None

    def admit(self, context: ClientContext) -> Refusal | None:
        """Check what may only be told to somebody who has proved who it is."""
        if context.database in CONSOLE_DATABASES:
            return None
        planned = self._plan.database(context.database)
        if planned is None:
            return Refusal("3D000", f'database "{context.database}" does not exist')
        if context.database in self.disabled:
            # As PostgreSQL says it of a database with ALLOW_CONNECTIONS false.
            return Refusal(
                "55000",
                f'database "{context.database}" is not currently accepting connections',
                detail="An operator has disabled it.",
            )
        pool = self._settings.pool
        self._count_in(_user(context))
        self._count_in(_database(context))
        self._admitted.add(context.client_id)
        if 0 < pool.max_user_client_connections < self._sum(_user(context)):
            return _too_many("max_user_client_connections")
        limit = pool.max_db_client_connections
        for database in self._settings.database:
            if database.name == context.database and database.max_client_connections:
                limit = database.max_client_connections
        if 0 < limit < self._sum(_database(context)):
            return _too_many("max_db_client_connections")
        return None

    def leave(self, context: ClientContext) -> None:
        """Count a client out."""
        self.total -= 1
        if context.database not in CONSOLE_DATABASES:
            self._count_out(_ALL)
        if context.client_id in self._admitted:
            self._admitted.discard(context.client_id)
            self._count_out(_user(context))
            self._count_out(_database(context))

    def _sum(self, name: str) -> int:
        """All workers' clients. After one has been counted in: so a limit is never passed unseen."""
        count = self._counts.get(name, 0)
        return count if self._census is None else count + self._census.others(name)

    def _count_in(self, name: str) -> None:
        count = self._counts.get(name, 0) + 1
        self._counts[name] = count
        if self._census is not None:
            self._census.set(name, count)

    def _count_out(self, name: str) -> None:
        count = self._counts.get(name, 0) - 1
        if count > 0:
            self._counts[name] = count
        else:
            count = 0
            self._counts.pop(name, None)
        if self._census is not None:
            self._census.set(name, count)


def _user(context: ClientContext) -> str:
    return f"user {context.user}"


def _database(context: ClientContext) -> str:
    return f"database {context.database}"


def _too_many(setting: str) -> Refusal:
    return Refusal(
        "53300",
        "sorry, too many clients already",
        detail=f"The limit is pool.{setting}.",
    )
