"""
What a session has set and left behind, in transaction pooling.

Theory of operation. The server is asked, not guessed at: after a statement that may leave session
state, and before anyone else gets the connection, `session.probe` asks it which settings differ,
whether there are temporary objects, cursors WITH HOLD, session advisory locks, LISTENs or
SQL-level prepared statements. Settings are remembered and set again on whichever connection serves
the client next; the rest pins the connection to the client, with its reason, until a later look
finds it gone (rules 15 to 20).

What the server cannot be asked, the texts tell (`sql.effects`): names of custom settings; LOAD,
which no look finds gone; that code ran which may have made custom settings under any name: then
the connection is reset before another client has it.
"""

from typing import TYPE_CHECKING, Final, final

from proxy.protocol import backend, tags
from proxy.session.answers import quote_identifier
from proxy.session.link import BackendLink
from proxy.session.reported import UNTOLD
from proxy.session.users import InternalQuery
from proxy.sql.statement import TextFacts

if TYPE_CHECKING:
    from proxy.session.relay import Relay

MAX_CUSTOM: Final = 200
"""Custom settings of one session that are asked for by name; with more it is as if code had run."""

LOAD: Final = "LOAD"
"""The pin of a session that has loaded a library; it ends with the session."""

SEQUENCE: Final = "sequence"
"""The pin of a session that has asked for the value of a sequence; see `session.sequences`."""

# PERF: shared by all who have none, and never changed: most clients have none.
NO_NAMES: Final[dict[str, None]] = {}
NO_SETTINGS: Final[dict[str, bytes]] = {}

_NAME_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_$."


_next_local = 0


def local_planning() -> bytes:
    """Stands for settings that are not known: no other statement is taken for the same."""
    global _next_local
    _next_local += 1
    return b"\x01%d" % _next_local


@final
class SessionState:
    """
    Settings of one client, and what its server connection is pinned for.

    startup    settings from its startup packet: what RESET returns to (rule 16)
    desired    settings it has now; key names that set
    known      what it was told by ParameterStatus; known_id is `reported.identify` of it, 0 = not known
    pins       reasons why its connection cannot be shared now
    custom     names of custom settings that it has used
    resets     startup settings that the exchange under way resets; due: those that it has reset,
               to be made again before its next one
    is_opaque  code ran in this transaction that may have set anything
    is_loaded  it has loaded a library
    reads_sequences  it asks for values of sequences: what its connection knows of them stays
    sequence_calls   how often it has called nextval or setval outside a transaction
    sequence_link    where it did so last, in turn `sequence_turn`
    is_local   search_path or role may differ from what is known, until the transaction ends
    """

    __slots__ = (
        "_is_known_shared",
        "_local",
        "_result_key",
        "custom",
        "desired",
        "due",
        "is_loaded",
        "is_loading",
        "is_local",
        "is_opaque",
        "is_serializable",
        "key",
        "known",
        "known_id",
        "pins",
        "reads_sequences",
        "resets",
        "sequence_calls",
        "sequence_link",
        "sequence_turn",
        "startup",
    )

    def __init__(self, startup: dict[str, str]) -> None:
        self.startup: dict[str, bytes] = {}
        for name in startup:
            value = startup[name].encode("utf-8", "surrogateescape")
            lowered = name.lower()
            self.startup[lowered] = _clean_ascii(value) if lowered == "application_name" else value
        self.known: dict[bytes, bytes] = {}
        self._is_known_shared = False
        self.known_id = 0
        self.custom = NO_NAMES
        self.resets = NO_SETTINGS
        self.due = NO_SETTINGS
        self.is_opaque = False
        self.is_loading = False
        self.is_loaded = False
        self.is_local = False
        self.reads_sequences = False
        self.sequence_calls = 0
        self.sequence_link: BackendLink | None = None
        self.sequence_turn = 0
        self._local = b""
        self._result_key: bytes | None = None
        self.pins: list[str] = []
        self.desired: dict[str, bytes] = {}
        self.key = b""
        self.is_serializable = False
        self._want(dict(self.startup))

    def _want(self, desired: dict[str, bytes]) -> None:
        for name in desired:
            if "." in name:
                # SAFETY: a look that did not ask for it would take it for gone where it is made.
                self._note_custom(name)
        self.desired = desired
        self.key = settings_key(desired)
        self._result_key = None
        isolation = desired.get("default_transaction_isolation", b"")
        self.is_serializable = isolation.lower() == b"serializable"

    def is_ordinary(self) -> bool:
        """Whether nothing is set or left behind that must be looked after now."""
        return not (
            self.pins
            or self.resets
            or self.due
            or self.is_opaque
            or self.is_loading
            or self.is_loaded
            or self.is_local
            or self.is_serializable
        )

    def note(self, facts: TextFacts) -> None:
        """Take what a text that is about to run says of settings."""
        for statement in facts.statements:
            effects = statement.effects
            if effects is None:
                continue
            if effects.is_opaque:
                self.is_opaque = True
                self.resets = (
                    NO_SETTINGS  # what is reset and what is set again cannot be told apart
                )
            if effects.loads:
                self.is_loading = True
                if len(facts.statements) > 1:
                    self.is_loaded = True
            if effects.may_change("search_path") or effects.may_change("role"):
                self.is_local = True
                self._local = local_planning()
            for name in effects.sets:
                if name in self.resets:
                    self.resets.pop(name)
                if "." in name:
                    self._note_custom(name)
            for name in effects.resets:
                if name == "*":
                    self.resets = dict(self.startup)
                    # RESET ALL leaves them as they are.
                    self.resets.pop("role", None)
                elif name in self.startup:
                    if not self.resets:
                        self.resets = {}
                    self.resets[name] = self.startup[name]

    def _note_custom(self, name: str) -> None:
        if name in self.custom:
            return
        is_plain = len(self.custom) < MAX_CUSTOM
        for letter in name:
            if letter not in _NAME_LETTERS:
                is_plain = False
        if is_plain:
            if not self.custom:
                self.custom = {}
            self.custom[name] = None
        else:
            self.is_opaque = True

    def ended(self, has_failed: bool, is_outside: bool) -> None:
        """An exchange is over; `is_outside`: no transaction is open any more."""
        if self.is_loading:
            self.is_loading = False
            if not has_failed:
                self.is_loaded = True
        if self.resets:
            if not has_failed:
                self.due = {**self.due, **self.resets}
            self.resets = NO_SETTINGS
        if is_outside:
            self.is_local = False

    def learn(self, found: dict[str, bytes], pins: list[str]) -> None:
        """Take what a probe found; what was reset has its startup value again."""
        desired = dict(self.startup)
        desired.update(found)
        self.is_opaque = False
        self._want(desired)
        self.resets = NO_SETTINGS
        self.due = NO_SETTINGS
        if self.is_loaded:
            pins.append(LOAD)
        if self.reads_sequences:
            pins.append(SEQUENCE)
        self.pins = pins

    def planning(self) -> bytes:
        """The settings that planning depends on, for the keys of prepared statements (rule 10)."""
        if self.is_local:
            return self._local
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

    def result_key(self) -> bytes:
        """The settings that a result may depend on: all but the client's name for itself."""
        key = self._result_key
        if key is None:
            key = self.key
            if "application_name" in self.desired:
                others = dict(self.desired)
                others.pop("application_name")
                key = settings_key(others)
            self._result_key = key
        return key

    def greeted(self, reported: dict[bytes, bytes]) -> None:
        """
        The client was told all of this. It stays what it is: most clients are told the same, and a
        dictionary for each would be a fifth of what an idle one costs.
        """
        self.known = reported
        self._is_known_shared = True

    def told(self, name: bytes, value: bytes) -> None:
        """The client was told one setting."""
        if self._is_known_shared:
            self.known = dict(self.known)
            self._is_known_shared = False
        self.known[name] = value

    def differences(self, link: BackendLink) -> list[tuple[bytes, bytes]]:
        """What the client must be told when `link` serves it next; it then counts as told."""
        changed: list[tuple[bytes, bytes]] = []
        reported = link.reported
        for name in reported:
            value = reported[name]
            if name != UNTOLD and self.known.get(name) != value:
                self.told(name, value)
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


def _clean_ascii(value: bytes) -> bytes:
    """What PostgreSQL makes of an application_name (pg_clean_ascii)."""
    if value.isascii():
        return value
    pieces: list[bytes] = []
    for byte in value:
        pieces.append(bytes([byte]) if 32 <= byte <= 126 else b"\\x%02x" % byte)
    return b"".join(pieces)


def quote_bytes(value: bytes) -> bytes:
    """
    A string constant (rule 17) that reads the same under any standard_conforming_strings and client
    encoding: what is not ASCII is given as bytes of the database's encoding.
    """
    if not value.isascii():
        return (
            b"pg_catalog.convert_from(pg_catalog.decode('"
            + value.hex().encode("ascii")
            + b"','hex'),pg_catalog.getdatabaseencoding())"
        )
    return b"E'" + value.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'"


def reset_sql(name: str) -> bytes:
    """RESET of one setting, each part of its name quoted."""
    parts = ".".join(quote_identifier(part) for part in name.split("."))
    return b"RESET " + parts.encode("utf-8", "surrogateescape")


def apply_sql(desired: dict[str, bytes], link: BackendLink, is_foreign: bool = False) -> bytes:
    """
    What makes the link's settings those wanted; b"" when nothing differs.

    is_foreign: code of another client's ran on it that may have set anything: begin with RESET ALL.
    """
    statements: list[bytes] = []
    applied = link.applied
    if "role" in applied and applied.get("role") != desired.get("role"):
        statements.append(reset_sql("role"))
    if is_foreign:
        statements.append(b"RESET ALL")
        applied = {"role": applied["role"]} if "role" in applied else {}
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


MAX_TRIES: Final = 4
"""How often more the proxy asks for what a time-out of a client's has cancelled."""

# First, and for the Query alone: it may be a millisecond.
_NO_TIMEOUT: Final = b"SET LOCAL statement_timeout TO 0;"


def resets_sql(resets: dict[str, bytes]) -> bytes:
    """Make settings of the startup packet again that the client has just reset."""
    calls: list[bytes] = []
    for name in resets:
        calls.append(_set_config(name, resets[name]))
    return b"SELECT " + b",".join(calls)


def _set_config(name: str, value: bytes) -> bytes:
    encoded = quote_bytes(name.encode("utf-8", "surrogateescape"))
    # The value is not answered: the client's encoding may have no way to write it.
    return b"pg_catalog.set_config(" + encoded + b"," + quote_bytes(value) + b",false) IS NULL"


@final
class SettingsQuery(InternalQuery):
    """
    Apply a session's settings to its link, then go on with what it waits for.

    Until that is done the time-outs there are those of who had the link before: what they cancel is
    tried again.
    """

    __slots__ = ("_desired", "_is_clean", "_key", "_session", "_sql", "_tries", "fields")

    def __init__(
        self,
        session: "Relay",
        sql: bytes,
        desired: dict[str, bytes] | None,
        key: bytes,
        is_clean: bool = False,
        tries: int = 0,
    ) -> None:
        self._is_clean = is_clean
        self._session = session
        self._sql = sql
        self._desired = desired
        self._key = key
        self._tries = tries
        self.fields: dict[str, str] | None = None

    def run(self, link: BackendLink) -> None:
        """Apply them."""
        link.run_internal(_NO_TIMEOUT + self._sql if self._tries else self._sql, self)

    def on_row(self, values: list[bytes | None]) -> None:
        """Nothing to read: set_config answers what it was given."""

    def on_columns(self, body: bytes) -> None:
        """Of no interest."""

    def on_error(self, fields: dict[str, str]) -> None:
        """A setting that this server does not take."""
        if self.fields is None:
            self.fields = fields

    def on_done(self, link: BackendLink, status: int) -> None:
        """The settings are made, or the whole Query was undone."""
        if (
            self.fields is not None
            and status == tags.STATUS_IDLE
            and self._tries < MAX_TRIES
            and backend.sqlstate_of(self.fields) == "57014"
        ):
            again = SettingsQuery(
                self._session,
                self._sql,
                self._desired,
                self._key,
                self._is_clean,
                self._tries + 1,
            )
            again.run(link)
            return
        if self.fields is None and self._desired is not None:
            link.applied = dict(self._desired)
            link.applied_key = self._key
            if self._is_clean:
                link.is_opaque = False
        self._session.on_settings_applied(link, self.fields)
