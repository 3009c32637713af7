"""
How many clients may be here: in all, per user, per database; and which databases are served.
"""

from typing import final

from proxy.errors import Refusal
from proxy.pool.plan import PoolPlan
from proxy.server.login_client import Admission
from proxy.session.context import ClientContext
from proxy.settings.model import Settings

CONSOLE_DATABASES = frozenset({"headgate", "pgbouncer"})
"""What a client asks for to reach the admin console; never a database of a server's."""


@final
class ClientLimits(Admission):
    """Counts of the clients of this process, and the limits of `[pool]` and `[[database]]`."""

    def __init__(self, settings: Settings, plan: PoolPlan) -> None:
        self._settings = settings
        self._plan = plan
        self._by_user: dict[str, int] = {}
        self._by_database: dict[str, int] = {}
        self._admitted: set[str] = set()
        self.total = 0

    def apply(self, settings: Settings, plan: PoolPlan) -> None:
        """Take new settings; clients that are there stay."""
        self._settings = settings
        self._plan = plan

    def enter(self, context: ClientContext) -> Refusal | None:
        """Count a client in before it has proved anything."""
        self.total += 1
        if self.total > self._settings.pool.max_client_connections and (
            context.database not in CONSOLE_DATABASES
        ):
            # Counted out again by `leave`, which the login calls when it fails.
            self.total -= 1
            return _too_many("max_client_connections")
        context.claims.pop("", None)
        return None

    def admit(self, context: ClientContext) -> Refusal | None:
        """Check what may only be told to somebody who has proved who it is."""
        if context.database in CONSOLE_DATABASES:
            return None
        planned = self._plan.database(context.database)
        if planned is None:
            return Refusal("3D000", f'database "{context.database}" does not exist')
        pool = self._settings.pool
        if 0 < pool.max_user_client_connections <= self._by_user.get(context.user, 0):
            return _too_many("max_user_client_connections")
        limit = pool.max_db_client_connections
        for database in self._settings.database:
            if database.name == context.database and database.max_client_connections:
                limit = database.max_client_connections
        if 0 < limit <= self._by_database.get(context.database, 0):
            return _too_many("max_db_client_connections")
        self._admitted.add(context.client_id)
        self._by_user[context.user] = self._by_user.get(context.user, 0) + 1
        self._by_database[context.database] = self._by_database.get(context.database, 0) + 1
        return None

    def leave(self, context: ClientContext) -> None:
        """Count a client out."""
        self.total -= 1
        if context.client_id not in self._admitted:
            return
        self._admitted.discard(context.client_id)
        _decrease(self._by_user, context.user)
        _decrease(self._by_database, context.database)


def _decrease(counts: dict[str, int], name: str) -> None:
    left = counts.get(name, 0) - 1
    if left > 0:
        counts[name] = left
    else:
        counts.pop(name, None)


def _too_many(setting: str) -> Refusal:
    return Refusal(
        "53300",
        "sorry, too many clients already",
        detail=f"The limit is pool.{setting}.",
    )
