"""
The users file in PgBouncer's format: `"name" "secret"` on each line.

Inside quotes a double quote is written twice. Lines that start with ; or # and empty lines are
skipped, as is what stands behind the second string (old files have more fields there). A secret is
a clear password, md5…, or SCRAM-SHA-256$…; which one it is is not looked at here.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from proxy.errors import SettingsError
from proxy.settings.kinds import MIB, Secret

MAX_FILE_BYTES: Final = 64 * MIB
# PostgreSQL's name is at most 63 bytes; longer ones can never log in to a server.
MAX_NAME_BYTES: Final = 63
MAX_SECRET_BYTES: Final = 4096

_STRING: Final = r'"((?:[^"]|"")*)"'
_ENTRY: Final = re.compile(rf"{_STRING}[ \t]+{_STRING}(?:[ \t].*)?")
_EXPECTED: Final = '"name" "secret"'


def read_users(path: Path) -> dict[str, Secret]:
    """Read a users file; SettingsError names every bad line, never what is in it."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError([f"{path}: cannot read the users file: {error.strerror}"]) from None
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError([f"{path}: the users file is longer than 64MiB"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path}:{line}: not UTF-8; expected {_EXPECTED}"]) from None
    return parse_users(text, str(path))


def parse_users(text: str, name: str = "users") -> dict[str, Secret]:
    """Parse the content of a users file; `name` is what the problems call it."""
    users: dict[str, Secret] = {}
    problems = []
    for number, line in _entries(text):
        entry = _ENTRY.fullmatch(line)
        if entry is None:
            problems.append(f"{name}:{number}: not an entry; expected {_EXPECTED}")
            continue
        user = entry[1].replace('""', '"')
        secret = Secret(entry[2].replace('""', '"'))
        reason = _fault(user, secret)
        if not reason and user in users:
            reason = "this user is already there"
        if reason:
            problems.append(f"{name}:{number}: {reason}")
            continue
        users[user] = secret
    if problems:
        raise SettingsError(problems)
    return users


def _fault(user: str, secret: str) -> str:
    if not user:
        return "the name is empty"
    if "\0" in user or "\0" in secret:
        return "a NUL character"
    if len(user.encode()) > MAX_NAME_BYTES:
        return f"the name is longer than {MAX_NAME_BYTES} bytes"
    if len(secret.encode()) > MAX_SECRET_BYTES:
        return f"the secret is longer than {MAX_SECRET_BYTES} bytes"
    return ""


def _entries(text: str) -> Iterator[tuple[int, str]]:
    """Lines that should be entries, with their numbers."""
    for number, line in enumerate(text.split("\n"), start=1):
        stripped = line.strip(" \t\r")
        if stripped and stripped[0] not in ";#":
            yield number, stripped
