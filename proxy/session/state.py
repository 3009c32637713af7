"""
What a session has set and left behind, in transaction pooling.

Theory of operation. The server is asked, not guessed at: after a statement that may leave session
state, and before anyone else gets the connection, `PROBE` asks it which settings differ, whether
there are temporary tables, cursors WITH HOLD, session advisory locks, LISTENs or SQL-level
prepared statements. Settings are remembered and set again on whichever connection serves the
client next; the rest pins the connection to the client, with its reason, until a later look finds it
gone (rules 15 to 20). The probe is qualified throughout, operators too: a search_path of the
client's cannot change what it says.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.session.answers import quote_identifier
from proxy.session.link import UNTOLD, BackendLink, InternalQuery

if TYPE_CHECKING:
    from proxy.session.conversation import Conversation

PROBE: Final = (
    b"SELECT 's', name, setting FROM pg_catalog.pg_settings"
    b" WHERE source OPERATOR(pg_catalog.=) 'session'"
    b" AND NOT name OPERATOR(pg_catalog.=) ANY ('{transaction_isolation,transaction_read_only,"
    b"transaction_deferrable,role,session_authorization,seed}'::pg_catalog.text[])"
    b" UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role')"
    b" WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'"
    b" UNION ALL SELECT 'p', 'SESSION AUTHORIZATION', ''"
    b" WHERE session_user OPERATOR(pg_catalog.<>) (SELECT usename FROM"
    b" pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) a"
    b" JOIN pg_catalog.pg_user u ON u.usesysid OPERATOR(pg_catalog.=) a.usesysid)"
    b" UNION ALL SELECT 'p', 'temporary table', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_class"
    b" WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())"
    b" UNION ALL SELECT 'p', 'cursor WITH HOLD', ''"
    b" WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)"
    b" UNION ALL SELECT 'p', 'advisory lock', '' WHERE EXISTS (SELECT FROM"
    b" pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
    b" AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())"
    b" UNION ALL SELECT 'p', 'LISTEN', ''"
    b" WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels())"
    b" UNION ALL SELECT 'q', name, statement FROM pg_catalog.pg_prepared_statements WHERE from_sql"
)


@final
class SessionState:
    """
    Settings of one client, and what its server connection is pinned for.

    startup   settings from its startup packet: what RESET returns to (rule 16)
    desired   settings it has now; key names that set
    known     what it was told by ParameterStatus; known_id is `link.identify` of it, 0 = not known
    pins      reasons why its connection cannot be shared now
    """

    __slots__ = ("desired", "key", "known", "known_id", "pins", "startup")

    def __init__(self, startup: dict[str, str]) -> None:
        self.startup: dict[str, bytes] = {}
        for name in startup:
            self.startup[name.lower()] = startup[name].encode("utf-8", "surrogateescape")
        self.desired: dict[str, bytes] = dict(self.startup)
        self.key = settings_key(self.desired)
        self.known: dict[bytes, bytes] = {}
        self.known_id = 0
        self.pins: list[str] = []

    def learn(self, found: dict[str, bytes], pins: list[str]) -> None:
        """Take what a probe found; what was reset has its startup value again."""
        desired = dict(self.startup)
        desired.update(found)
        self.desired = desired
        self.key = settings_key(desired)
        self.pins = pins

    def planning(self) -> bytes:
        """The settings that planning depends on, for the keys of prepared statements (rule 10)."""
        search_path = self.desired.get("search_path")
        role = self.desired.get("role")
        if search_path is None and role is None:
            return b""
        return (
            b"\x00"
            + (search_path if search_path is not None else b"")
            + b"\x00"
            + (role if role is not None else b"")
        )

    def differences(self, link: BackendLink) -> list[tuple[bytes, bytes]]:
        """What the client must be told when `link` serves it next; it then counts as told."""
        changed: list[tuple[bytes, bytes]] = []
        reported = link.reported
        for name in reported:
            value = reported[name]
            if name != UNTOLD and self.known.get(name) != value:
                self.known[name] = value
                changed.append((name, value))
        self.known_id = link.reported_id
        return changed


def settings_key(settings: dict[str, bytes]) -> bytes:
    """The same bytes for the same settings, whatever their order."""
    if not settings:
        return b""
    return b"\x00".join(
        name.encode("utf-8", "surrogateescape") + b"\x00" + settings[name]
        for name in sorted(settings)
    )


def quote_bytes(value: bytes) -> bytes:
    """A string constant that reads the same whatever standard_conforming_strings is (rule 17)."""
    return b"E'" + value.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'"


def reset_sql(name: str) -> bytes:
    """RESET of one setting, each part of its name quoted."""
    parts = ".".join(quote_identifier(part) for part in name.split("."))
    return b"RESET " + parts.encode("utf-8", "surrogateescape")


def apply_sql(desired: dict[str, bytes], link: BackendLink) -> bytes:
    """What makes the link's settings those wanted; b"" when nothing differs."""
    statements: list[bytes] = []
    applied = link.applied
    if "role" in applied and applied.get("role") != desired.get("role"):
        statements.append(reset_sql("role"))
    for name in applied:
        if name not in desired and name != "role":
            statements.append(reset_sql(name))
    calls: list[bytes] = []
    role: bytes | None = None
    for name in desired:
        value = desired[name]
        if applied.get(name) == value:
            continue
        if name == "role":
            role = value
            continue
        calls.append(_set_config(name, value))
    if role is not None:
        # Last: a role may not be allowed to make the other settings.
        calls.append(_set_config("role", role))
    if calls:
        statements.append(b"SELECT " + b",".join(calls))
    return b";".join(statements)


def _set_config(name: str, value: bytes) -> bytes:
    encoded = quote_bytes(name.encode("utf-8", "surrogateescape"))
    return b"pg_catalog.set_config(" + encoded + b"," + quote_bytes(value) + b",false)"


@final
class SettingsQuery(InternalQuery):
    """Apply a session's settings to its link, then go on with what it waits for."""

    __slots__ = ("_desired", "_key", "_session", "fields")

    def __init__(self, session: "Conversation", desired: dict[str, bytes], key: bytes) -> None:
        self._session = session
        self._desired = desired
        self._key = key
        self.fields: dict[str, str] | None = None

    def on_row(self, values: list[bytes | None]) -> None:
        """Nothing to read: set_config answers what it was given."""

    def on_error(self, fields: dict[str, str]) -> None:
        """A setting that this server does not take."""
        if self.fields is None:
            self.fields = fields

    def on_done(self, link: BackendLink, status: int) -> None:
        """The settings are made, or the whole Query was undone."""
        if self.fields is None:
            link.applied = dict(self._desired)
            link.applied_key = self._key
        self._session.on_settings_applied(link, self.fields)


@final
class ProbeQuery(InternalQuery):
    """Ask a link what its session has left behind."""

    __slots__ = ("_failed", "_found", "_pins", "_prepared", "_session")

    def __init__(self, session: "Conversation") -> None:
        self._session = session
        self._found: dict[str, bytes] = {}
        self._pins: list[str] = []
        self._prepared: dict[bytes, bytes] = {}
        self._failed = False

    def on_row(self, values: list[bytes | None]) -> None:
        """One setting ('s', name, value), PREPARE ('q', name, text) or reason to pin ('p', it, '')."""
        if len(values) != 3:
            self._failed = True
            return
        kind = values[0]
        name = values[1]
        value = values[2]
        if name is None or value is None:
            return
        if kind == b"s":
            self._found[name.decode("utf-8", "replace").lower()] = value
        elif kind == b"q":
            self._prepared[name] = value
        else:
            self._pins.append(name.decode("utf-8", "replace"))

    def on_error(self, fields: dict[str, str]) -> None:
        """Unknown state is unsafe state."""
        self._failed = True

    def on_done(self, link: BackendLink, status: int) -> None:
        """Tell the session."""
        if not self._failed:
            link.applied = self._found
            link.applied_key = settings_key(self._found)
        if self._prepared:
            self._pins.append("PREPARE")
        self._session.on_probed(link, self._found, self._pins, self._prepared, self._failed)
