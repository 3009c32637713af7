"""
User maps in pg_ident.conf's format: which names of certificates may log in as which users.

A line is a map's name, a system user's name, a database user's name. A system user that begins with
`/` is a regular expression, whose first group `\\1` stands for in the database user. Knows neither
certificates nor files.
"""

import re
from typing import final

from proxy.auth.authfile import AuthFileError, Line, Token, cut_lines


@final
class UserMapping:
    """One line."""

    __slots__ = ("_system", "_user", "map_name")

    def __init__(self, map_name: str, system: Token, user: Token) -> None:
        self.map_name = map_name
        self._system = system
        self._user = user

    def allows(self, system_name: str, user: str) -> bool:
        """Tell whether this line lets the system user in as the database user."""
        expected = self._user.text
        if self._system.is_pattern():
            found = re.search(self._system.text[1:], system_name)
            if found is None:
                return False
            if "\\1" in expected:
                group = found.group(1) if found.re.groups >= 1 else None
                if group is None:
                    return False
                # SAFETY: what a certificate says is a name, never a keyword or a pattern.
                return expected.replace("\\1", group, 1) == user
        elif self._system.text != system_name:
            return False
        if self._user.is_keyword("all"):
            return True
        if self._user.is_pattern():
            return re.search(expected[1:], user) is not None
        return expected == user


def parse_user_maps(text: str) -> list[UserMapping]:
    """All lines. Raises AuthFileError at the first that is wrong."""
    return [_mapping(line) for line in cut_lines(text)]


def is_mapped(mappings: list[UserMapping], map_name: str, system_name: str, user: str) -> bool:
    """Tell whether a line of this map, or of any with map name "", lets the system user in."""
    for mapping in mappings:
        if map_name in ("", mapping.map_name) and mapping.allows(system_name, user):
            return True
    return False


def _mapping(line: Line) -> UserMapping:
    number = line.number
    if line.word(0).startswith("include"):
        raise AuthFileError(number, "include is not supported; write the lines into this file")
    if len(line.fields) != 3:
        raise AuthFileError(
            number, "expected three values: map name, system user name, database user name"
        )
    line.word(1)
    line.word(2)
    system = line.fields[1][0]
    user = line.fields[2][0]
    for token in (system, user):
        if token.is_pattern():
            try:
                re.compile(token.text[1:])
            except re.error as error:
                raise AuthFileError(
                    number, f"invalid regular expression {token.text}: {error}"
                ) from None
    if not user.is_quoted and user.text.startswith("+"):
        raise AuthFileError(number, f"{user.text} is not supported: memberships are not known here")
    return UserMapping(line.word(0), system, user)
