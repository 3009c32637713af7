"""
Asking a server connection what its session has left behind.

Everything in the SQL is qualified, operators too, and plain ASCII: neither a search_path nor an
encoding of the client's can change what it says.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.protocol import backend
from proxy.session.link import BackendLink
from proxy.session.state import MAX_TRIES, settings_key
from proxy.session.users import InternalQuery

if TYPE_CHECKING:
    from proxy.session.relay import Relay

_SETTINGS: Final = (
    b"SELECT name, setting FROM pg_catalog.pg_settings"
    b" WHERE source OPERATOR(pg_catalog.=) 'session'"
    b" AND NOT name OPERATOR(pg_catalog.=) ANY ('{transaction_isolation,transaction_read_only,"
    b"transaction_deferrable,role,session_authorization,seed}'::pg_catalog.text[])"
    b" UNION ALL SELECT 'role', pg_catalog.current_setting('role')"
    b" WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'"
)

# No catalogue shows custom settings: they are asked for by the names that texts have told.
_NAMED: Final = (
    b" UNION ALL SELECT n, pg_catalog.current_setting(n, true)"
    b" FROM pg_catalog.unnest('{%b}'::pg_catalog.text[]) AS u(n)"
)

# After a function of the user's: by the names that any such function's source tells, too. Objects
# of users have OIDs from 16384 (FirstNormalObjectId): an index scan.
_IN_FUNCTIONS: Final = (
    b" UNION ALL SELECT m[1], pg_catalog.current_setting(m[1], true)"
    b" FROM (SELECT DISTINCT pg_catalog.regexp_matches(prosrc,"
    b" E'set_config\\\\s*[(]\\\\s*''([a-z_][a-z0-9_$]*[.][a-z0-9_$.]+)''', 'gi') AS m"
    b" FROM pg_catalog.pg_proc WHERE oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid) AS f"
    b" WHERE pg_catalog.current_setting(m[1], true) OPERATOR(pg_catalog.<>) ''"
)

# What is not ASCII comes as bytes of the database's encoding: no client encoding can spoil it.
_ENCODED: Final = (
    b"SELECT CASE WHEN is_wide THEN 'x' ELSE 's' END, name, CASE WHEN is_wide THEN"
    b" pg_catalog.encode(pg_catalog.convert_to(setting, pg_catalog.getdatabaseencoding()), 'hex')"
    b" ELSE setting END FROM (SELECT name, setting,"
    b" setting OPERATOR(pg_catalog.~) E'[^\\\\x01-\\\\x7f]' AS is_wide FROM (%b) AS a(name, setting)"
    b" WHERE setting IS NOT NULL) AS b"
)

# Objects in the temporary schema, of whatever kind, depend on it: 2615 is pg_namespace.
_PINS: Final = (
    b" UNION ALL SELECT 'p', 'SESSION AUTHORIZATION', ''"
    b" WHERE session_user OPERATOR(pg_catalog.<>) (SELECT rolname FROM"
    b" pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a"
    b" JOIN pg_catalog.pg_roles u ON u.oid OPERATOR(pg_catalog.=) a.usesysid)"
    b" UNION ALL SELECT 'p', 'temporary table', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend"
    b" WHERE refclassid OPERATOR(pg_catalog.=) 2615::pg_catalog.oid"
    b" AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())"
    b" UNION ALL SELECT 'p', 'cursor WITH HOLD', ''"
    b" WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)"
    b" UNION ALL SELECT 'p', 'advisory lock', '' WHERE EXISTS (SELECT FROM"
    b" pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
    b" AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())"
    b" UNION ALL SELECT 'p', 'LISTEN', ''"
    b" WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())"
    b" UNION ALL SELECT 'q', name, statement FROM pg_catalog.pg_prepared_statements WHERE from_sql"
)

PROBE: Final = _ENCODED % _SETTINGS + _PINS

# As little as possible before the time-out is off: it may be a millisecond.
_TIMEOUT: Final = (
    b"SELECT 's','statement_timeout',pg_catalog.current_setting('statement_timeout');"
    b"SET LOCAL statement_timeout TO 0;"
)
_NOT_TIMEOUT: Final = b" WHERE name OPERATOR(pg_catalog.<>) 'statement_timeout'"


def probe_sql(custom: dict[str, None], is_opaque: bool, is_careful: bool) -> bytes:
    """
    The question, with custom settings by their names.

    is_opaque   code of the user's ran: look for names in the database's functions as well
    is_careful  the plain question was cancelled: let no statement_timeout of the client's do so
    """
    if not custom and not is_opaque and not is_careful:
        return PROBE
    settings = _SETTINGS
    if custom:
        settings += _NAMED % ",".join(custom).encode("ascii")
    if is_opaque:
        settings += _IN_FUNCTIONS
    if is_careful:
        return _TIMEOUT + _ENCODED % settings + _NOT_TIMEOUT + _PINS
    return _ENCODED % settings + _PINS


@final
class ProbeQuery(InternalQuery):
    """Ask a link what its session has left behind; once more if the question was cancelled."""

    __slots__ = (
        "_custom",
        "_failed",
        "_found",
        "_is_opaque",
        "_pins",
        "_prepared",
        "_session",
        "_tries",
    )

    def __init__(
        self, session: "Relay", custom: dict[str, None], is_opaque: bool, tries: int = 0
    ) -> None:
        self._session = session
        self._custom = custom
        self._is_opaque = is_opaque
        self._tries = tries
        self._found: dict[str, bytes] = {}
        self._pins: list[str] = []
        self._prepared: dict[bytes, bytes] = {}
        self._failed = ""

    def run(self, link: BackendLink) -> None:
        """Ask."""
        link.run_internal(probe_sql(self._custom, self._is_opaque, self._tries > 0), self)

    def on_row(self, values: list[bytes | None]) -> None:
        """
        One setting ('s', name, value; 'x': in hex), one PREPARE ('q', name, text) or one reason to
        pin ('p', reason, '').
        """
        if len(values) != 3:
            self._failed = "08P01"
            return
        kind = values[0]
        name = values[1]
        value = values[2]
        if name is None or value is None:
            return
        shown = name.decode("utf-8", "replace")
        if kind == b"s":
            self._found[shown.lower()] = value
        elif kind == b"x":
            try:
                self._found[shown.lower()] = bytes.fromhex(value.decode("ascii", "replace"))
            except ValueError:
                self._failed = "08P01"
        elif kind == b"q":
            self._prepared[name] = value
        elif shown not in self._pins:
            self._pins.append(shown)

    def on_columns(self, body: bytes) -> None:
        """Of no interest."""

    def on_error(self, fields: dict[str, str]) -> None:
        """Unknown state is unsafe state."""
        self._failed = backend.sqlstate_of(fields)

    def on_done(self, link: BackendLink, status: int) -> None:
        """Tell the session."""
        if self._failed == "57014" and self._tries < MAX_TRIES:
            # By a cancel request that came late, or a statement_timeout of the client's.
            again = ProbeQuery(self._session, self._custom, self._is_opaque, self._tries + 1)
            again.run(link)
            return
        if not self._failed:
            link.applied = self._found
            link.applied_key = settings_key(self._found)
        if self._prepared:
            self._pins.append("PREPARE")
        has_failed = self._failed != ""
        self._session.on_probed(link, self._found, self._pins, self._prepared, has_failed)
