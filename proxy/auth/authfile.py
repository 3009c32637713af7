"""
Cut a file in the form of pg_hba.conf or pg_ident.conf into lines of fields.

A field is a list of tokens that commas join. A token in double quotes is a plain name: keywords,
`/`, `+` and `@` mean nothing in it. `#` begins a comment, a backslash at the end of a line joins the
next one. Knows nothing of what the fields mean, and opens no file.
"""

from typing import Final, final

MAX_TOKEN_CHARACTERS: Final = 10_240
"""PostgreSQL's MAX_TOKEN; longer ones are a mistake."""


class AuthFileError(Exception):
    """A line is wrong: its number, what, and what was expected."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@final
class Token:
    """A word of the file; `is_quoted` is set when any part of it stood in quotes."""

    __slots__ = ("is_quoted", "text")

    def __init__(self, text: str, is_quoted: bool) -> None:
        self.text = text
        self.is_quoted = is_quoted

    def is_keyword(self, word: str) -> bool:
        """Tell whether it is this keyword, and not a name in quotes."""
        return not self.is_quoted and self.text == word

    def is_pattern(self) -> bool:
        """Tell whether it is a regular expression."""
        return not self.is_quoted and self.text.startswith("/")


@final
class Line:
    """The fields of one line, and its number."""

    __slots__ = ("fields", "number")

    def __init__(self, number: int, fields: list[list[Token]]) -> None:
        self.number = number
        self.fields = fields

    def word(self, index: int) -> str:
        """The text of a field that must be a single token."""
        field = self.fields[index]
        if len(field) != 1:
            raise AuthFileError(self.number, "a list stands where one value is expected")
        return field[0].text


def cut_lines(text: str) -> list[Line]:
    """All lines that hold anything. Raises AuthFileError."""
    lines: list[Line] = []
    joined = ""
    first = 0
    number = 0
    for raw in text.split("\n"):
        number += 1
        raw = raw.rstrip("\r")
        if joined == "":
            first = number
        if raw.endswith("\\"):
            joined += raw[:-1]
            continue
        fields = _cut(joined + raw, first)
        joined = ""
        if fields:
            lines.append(Line(first, fields))
    if joined != "":
        fields = _cut(joined, first)
        if fields:
            lines.append(Line(first, fields))
    return lines


def _cut(line: str, number: int) -> list[list[Token]]:
    fields: list[list[Token]] = []
    field: list[Token] = []
    pos = 0
    end = len(line)
    continues = False
    while pos < end:
        character = line[pos]
        if character in " \t\f\v":
            pos += 1
            continue
        if character == "#":
            break
        if character == ",":
            if not field:
                raise AuthFileError(number, "a comma stands without a value before it")
            continues = True
            pos += 1
            continue
        if field and not continues:
            fields.append(field)
            field = []
        start = pos
        token, pos = _token(line, pos, number)
        if pos - start > MAX_TOKEN_CHARACTERS:
            raise AuthFileError(number, "a value is too long")
        field.append(token)
        continues = False
    if continues:
        raise AuthFileError(number, "a comma stands without a value behind it")
    if field:
        fields.append(field)
    return fields


def _token(line: str, pos: int, number: int) -> tuple[Token, int]:
    text: list[str] = []
    is_quoted = False
    inside = False
    end = len(line)
    while pos < end:
        character = line[pos]
        if character == '"':
            # Two quotes within quotes are one.
            if inside and pos + 1 < end and line[pos + 1] == '"':
                text.append('"')
                pos += 2
                continue
            inside = not inside
            is_quoted = True
            pos += 1
            continue
        if not inside and character in " \t\f\v,#":
            break
        text.append(character)
        pos += 1
    if inside:
        raise AuthFileError(number, "a quote is not closed")
    return Token("".join(text), is_quoted), pos
