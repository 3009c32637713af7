"""
From `[auth]` to the rules of authentication: one method for all, or an HBA file; and user maps.

Reads the files once; a reload makes new rules.
"""

from pathlib import Path
from typing import final

from proxy.auth.authfile import AuthFileError
from proxy.auth.hba import HbaRule, first_match, parse_hba
from proxy.auth.usermap import UserMapping, is_mapped, parse_user_maps
from proxy.errors import SettingsError
from proxy.server.authenticate import AuthChoice, AuthRules
from proxy.server.negotiate import Peer
from proxy.session.context import ClientContext
from proxy.settings.model import Auth


@final
class MethodRules(AuthRules):
    """`auth.method` for everybody; with a user map file, each of its lines applies."""

    __slots__ = ("_choice", "_mappings")

    def __init__(self, method: str, mappings: list[UserMapping] | None) -> None:
        self._choice = AuthChoice(method)
        self._mappings = mappings

    def choose(self, peer: Peer, context: ClientContext) -> AuthChoice | None:
        """Choose the one method."""
        return self._choice

    def maps(self, user_map: str, system_name: str, user: str) -> bool:
        """Look into all maps; without a file names must be the same."""
        if self._mappings is None:
            return system_name == user
        return is_mapped(self._mappings, "", system_name, user)


@final
class HbaRules(AuthRules):
    """The first matching line of an HBA file."""

    __slots__ = ("_mappings", "_rules")

    def __init__(self, rules: list[HbaRule], mappings: list[UserMapping]) -> None:
        self._rules = rules
        self._mappings = mappings

    def choose(self, peer: Peer, context: ClientContext) -> AuthChoice | None:
        """Choose the first line that matches."""
        address = "" if peer.is_unix else peer.addr
        rule = first_match(self._rules, address, peer.is_tls, context.user, context.database)
        if rule is None:
            return None
        return AuthChoice(rule.method, rule.user_map, rule.needs_certificate, rule.checks_name)

    def maps(self, user_map: str, system_name: str, user: str) -> bool:
        """Look into the line's map; without one names must be the same."""
        if user_map == "":
            return system_name == user
        return is_mapped(self._mappings, user_map, system_name, user)


def make_auth_rules(auth: Auth) -> AuthRules:
    """Make what `[auth]` says. Raises SettingsError: file, line, reason."""
    mappings: list[UserMapping] | None = None
    if auth.user_map_file is not None:
        try:
            mappings = parse_user_maps(_read("auth.user_map_file", auth.user_map_file))
        except AuthFileError as error:
            raise _problem("auth.user_map_file", auth.user_map_file, error) from None
    if auth.hba_file is None:
        return MethodRules(auth.method, mappings)
    try:
        rules = parse_hba(_read("auth.hba_file", auth.hba_file))
    except AuthFileError as error:
        raise _problem("auth.hba_file", auth.hba_file, error) from None
    if not rules:
        raise SettingsError(
            [f"{auth.hba_file}: auth.hba_file has no rules, nobody could log in; expected one"]
        )
    return HbaRules(rules, mappings or [])


def _read(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SettingsError([f"{key}: cannot read {path}: {reason}"]) from None


def _problem(key: str, path: Path, error: AuthFileError) -> SettingsError:
    return SettingsError([f"{path}:{error.line}: {key}: {error.reason}"])
