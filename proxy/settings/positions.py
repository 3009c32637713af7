"""
Find the line of each key of a TOML document.

The standard library's parser keeps no positions, so this scans the text once more. It is only ever
given text that the parser has accepted, and therefore checks nothing: it knows just enough of
TOML's grammar to tell keys from values.
"""

import re
from typing import Final

# A path names a key by the way to it: ("node", 0, "tls", "mode").
Path = tuple[str | int, ...]

_BLANKS: Final = re.compile(r"[ \t]*")
_BETWEEN: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")
_BASIC: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_LITERAL: Final = re.compile(r"'[^']*'")
# Up to two quotes may stand directly before the closing three.
_LONG_BASIC: Final = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")', re.DOTALL)
_LONG_LITERAL: Final = re.compile(r"'''.*?'{3,5}(?!')", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_SHORT_ESCAPES: Final = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def find_lines(text: str) -> dict[Path, int]:
    """Line numbers, from 1, of every key and table of a valid document; () is line 1."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over a document."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._counted = 0  # position up to which line ends are counted in _line
        self._lines: dict[Path, int] = {(): 1}
        self._table_counts: dict[Path, int] = {}

    def scan(self) -> dict[Path, int]:
        """Walk over all lines."""
        table: Path = ()
        while True:
            self._skip(_BETWEEN)
            if self._at >= len(self._text):
                return self._lines
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._key_and_value(table)

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]`; gives the path that the keys below it belong to."""
        line = self._current_line()
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        path: Path = ()
        keys = self._dotted_key()
        self._at += 2 if is_array else 1
        for number, key in enumerate(keys):
            path = (*path, key)
            if is_array and number == len(keys) - 1:
                self._table_counts[path] = self._table_counts.get(path, 0) + 1
            count = self._table_counts.get(path, 0)
            self._lines.setdefault(path, line)
            if count:
                path = (*path, count - 1)
                self._lines.setdefault(path, line)
        # A table may be mentioned first by a table below it: its own header is the better place.
        self._lines[path] = line
        return path

    def _key_and_value(self, table: Path) -> None:
        """`a.b = value`, in a table or an inline table."""
        line = self._current_line()
        path = table
        for key in self._dotted_key():
            path = (*path, key)
            self._lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._value(path)

    def _dotted_key(self) -> list[str]:
        """Keys with dots between them, and the blanks around them."""
        keys = []
        while True:
            self._skip(_BLANKS)
            if self._text.startswith('"', self._at):
                keys.append(_ESCAPE.sub(_unescape, self._take(_BASIC)[1:-1]))
            elif self._text.startswith("'", self._at):
                keys.append(self._take(_LITERAL)[1:-1])
            else:
                keys.append(self._take(_BARE_KEY))
            self._skip(_BLANKS)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _value(self, path: Path) -> None:
        """A value, and the keys and elements in it."""
        self._skip(_BLANKS)
        text = self._text
        if text.startswith('"""', self._at):
            self._skip(_LONG_BASIC)
        elif text.startswith("'''", self._at):
            self._skip(_LONG_LITERAL)
        elif text.startswith('"', self._at):
            self._skip(_BASIC)
        elif text.startswith("'", self._at):
            self._skip(_LITERAL)
        elif text.startswith("[", self._at):
            self._list(path)
        elif text.startswith("{", self._at):
            self._inline_table(path)
        else:
            self._skip(_SCALAR)

    def _list(self, path: Path) -> None:
        self._at += 1
        number = 0
        while True:
            self._skip(_BETWEEN)
            if self._text.startswith("]", self._at):
                self._at += 1
                return
            if self._text.startswith(",", self._at):
                self._at += 1
                continue
            element: Path = (*path, number)
            self._lines[element] = self._current_line()
            self._value(element)
            number += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while True:
            self._skip(_BETWEEN)
            if self._text.startswith("}", self._at):
                self._at += 1
                return
            if self._text.startswith(",", self._at):
                self._at += 1
                continue
            self._key_and_value(path)

    def _take(self, pattern: re.Pattern[str]) -> str:
        start = self._at
        self._skip(pattern)
        return self._text[start : self._at]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not TOML at line {self._current_line()}")
        self._at = match.end()

    def _current_line(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _unescape(match: re.Match[str]) -> str:
    code: str | None = match[1] or match[2]
    if code is not None:
        return chr(int(code, 16))
    return _SHORT_ESCAPES.get(match[3], match[3])
