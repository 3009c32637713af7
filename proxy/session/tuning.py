"""
What a session is told at its start: limits and modes, and what servers report at a login.
"""

from typing import Final, final

POOL_SESSION: Final = 0
POOL_TRANSACTION: Final = 1
POOL_STATEMENT: Final = 2


@final
class CancelKey:
    """What one client is told in BackendKeyData, and shows to cancel."""

    __slots__ = ("process_id", "secret_key")

    def __init__(self, process_id: int, secret_key: bytes) -> None:
        self.process_id = process_id
        self.secret_key = secret_key

    def __repr__(self) -> str:
        return f"CancelKey(process_id={self.process_id})"


NO_KEY: Final = CancelKey(0, b"\x00\x00\x00\x00")
"""A session that was not given one yet; it is registered nowhere."""


@final
class SessionTuning:
    """
    Limits of one session, from `[pool]` and `[listen]`; a reload makes a new one for new sessions.

    mode                     POOL_*
    max_message_bytes        longest message of a client
    max_prepared_statements  statements kept on one server connection
    max_capture_bytes        longest result that is offered to the result cache
    """

    __slots__ = (
        "max_capture_bytes",
        "max_message_bytes",
        "max_prepared_statements",
        "mode",
    )

    def __init__(
        self,
        mode: int,
        max_message_bytes: int,
        max_prepared_statements: int,
        max_capture_bytes: int,
    ) -> None:
        self.mode = mode
        self.max_message_bytes = max_message_bytes
        self.max_prepared_statements = max_prepared_statements
        self.max_capture_bytes = max_capture_bytes


@final
class Welcomes:
    """
    What servers reported at a login, by database, user and startup settings.

    Lets a client be greeted without a server connection. Emptied when a node's state changes,
    bounded by `limit`: on overflow it starts anew.

    schema    counts the changes of the schema that were seen here. A statement that a client prepares
              after one is prepared anew: a server's older one may have other parameter types or
              columns, as if the client had prepared it before the change (rules 10 and 13)
    """

    __slots__ = ("_known", "_limit", "_prepared", "schema")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[tuple[str, str, bytes], dict[bytes, bytes]] = {}
        self._prepared: dict[tuple[str, str], dict[bytes, bytes]] = {}
        self.schema = 0

    def get(self, database: str, user: str, key: bytes) -> dict[bytes, bytes] | None:
        """The reported parameters, or None where no such login was seen yet."""
        return self._known.get((database, user, key))

    def put(self, database: str, user: str, key: bytes, reported: dict[bytes, bytes]) -> None:
        """Keep what a server reported."""
        if len(self._known) >= self._limit:
            self._known = {}
        self._known[(database, user, key)] = reported

    def clear(self) -> None:
        """Forget everything: servers may report something else now."""
        self._known = {}
        self._prepared = {}

    def prepared(self, database: str, user: str) -> dict[bytes, bytes]:
        """
        Keys of statements that a server of this database has prepared for this user, with their
        columns where these are known.

        Used when every server connection is taken: a statement that was prepared before can be
        promised to a client at once, and is prepared for it when it is executed. Drivers that
        prepare while they hold up other sessions of their own (pgbench does) would wait for
        themselves otherwise.
        """
        known = self._prepared.get((database, user))
        if known is None:
            known = {}
            self._prepared[(database, user)] = known
        elif len(known) > self._limit * 10:
            known.clear()
        return known
