"""
Read the configuration file: TOML, then the model, then what must hold between the settings.

`load` gives Settings or raises SettingsError with every problem at once, each with its file, line
and key. It is used at start and by every reload, and touches nothing but files.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from proxy.errors import SettingsError
from proxy.settings.build import Builder
from proxy.settings.checks import check
from proxy.settings.kinds import MIB
from proxy.settings.model import Database, Settings
from proxy.settings.positions import find_lines
from proxy.settings.problems import Problems

MAX_FILE_BYTES: Final = 4 * MIB
_PLACE: Final = re.compile(r" \(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")
_HUGE_NUMBER: Final = re.compile(r"[0-9][0-9_]{4000,}")


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Load a configuration file; SettingsError holds all of its problems."""
    settings, problems = read(path, environ)
    check(settings, problems)
    if problems:
        raise SettingsError(problems.texts())
    return settings if settings.database else replace(settings, database=(Database(name="*"),))


def read(path: Path, environ: Mapping[str, str]) -> tuple[Settings, Problems]:
    """The first half of `load`: each setting for itself. SettingsError if it is not TOML."""
    text = _text_of(path)
    document = _document_of(path, text)
    problems = Problems(path, find_lines(text))
    builder = Builder(path.absolute().parent, environ, problems)
    return builder.build(Settings, document), problems


def _text_of(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read: {error.strerror}"]) from None
    if len(content) > MAX_FILE_BYTES:
        raise SettingsError([f"{path}: longer than 4MiB; expected a configuration file"])
    try:
        # Line ends as the TOML parser sees them, so that lines are counted alike.
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError([f"{path}:{line}: not UTF-8; expected TOML"]) from None


def _document_of(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = _PLACE.search(message)
        line = text.count("\n") + 1
        where = ""
        if place is not None:
            message = message[: place.start()]
            if place[1] is not None:
                line = int(place[1])
                where = f" (column {place[2]})"
        reason = f"{path}:{line}: not TOML: {message}{where}"
        raise SettingsError([reason]) from None
    except ValueError:
        # Python refuses to read a number of thousands of digits, and does not say where it stands.
        number = _HUGE_NUMBER.search(text)
        line = text.count("\n", 0, number.start() if number else 0) + 1
        raise SettingsError([f"{path}:{line}: not TOML: a number of too many digits"]) from None
    except RecursionError:
        raise SettingsError([f"{path}: nested too deeply; expected TOML"]) from None
