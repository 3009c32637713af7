"""
The list of what is wrong with a configuration, each with its place.

One line each: `FILE:LINE: section.key: reason; expected …; got …`. Never holds a secret: what was
got is described by `describe`, or by the caller.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Final

from proxy.settings.positions import Path

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
MAX_SHOWN: Final = 60
MAX_SHOWN_BITS: Final = 64
MAX_PATH: Final = 4096


class Problems:
    """What is wrong, in the order of the file."""

    def __init__(self, file: FilePath, lines: Mapping[Path, int]) -> None:
        self._file = file
        self._lines = lines
        self._found: list[tuple[int, str]] = []
        self._sections: set[str] = set()  # where something was wrong
        self._broken: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self._found)

    def begin_checks(self) -> None:
        """From now on take nothing more on sections in which something was wrong before."""
        self._broken = frozenset(self._sections)

    def is_broken(self, section: str) -> bool:
        """Whether something was wrong in a section before the checks began."""
        return section in self._broken

    def add(self, path: Path, reason: str, expected: str = "", got: str = "") -> None:
        """Note a problem at a key; where the key is not written, at the table that lacks it."""
        section = str(path[0])
        if section in self._broken:
            return
        self._sections.add(section)
        known = path
        while known not in self._lines:
            known = known[:-1]
        line = self._lines[known]
        text = f"{self._file}:{line}: {show_path(path)}: {reason}"
        if expected:
            text += f"; expected {expected}"
        if got:
            text += f"; got {got}"
        self._found.append((line, text))

    def add_elsewhere(self, text: str) -> None:
        """Note a problem in another file, whose place the text already says."""
        self._found.append((1 << 60, text))

    def texts(self) -> list[str]:
        """All problems, by line; those of other files last."""
        return [text for _, text in sorted(self._found, key=lambda problem: problem[0])]


def show_path(path: Path) -> str:
    """("node", 0, "tls") as `node[0].tls`."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            shown = key if len(key) <= MAX_SHOWN and _BARE_KEY.fullmatch(key) else describe(key)
            text += f".{shown}" if text else shown
    return text


def describe_path(path: FilePath) -> str:
    """A path as an operator would write it: whole, or it could not be found."""
    return describe(str(path), MAX_PATH)


def describe(value: object, max_length: int = MAX_SHOWN) -> str:
    """A value as an operator would write it, cut to a bearable length."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        shown = value if len(value) <= max_length else value[:max_length] + "…"
        escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_BITS:
        return "an integer beyond 64 bits"
    if isinstance(value, int | float):
        return str(value)
    return kind_of(value)


def kind_of(value: object) -> str:
    """What sort of TOML value this is, without the value."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return "a date or time"


def suggest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, as a sentence's end, or ""."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""
