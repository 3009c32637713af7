"""
A statement's text with $n for its constants, from the tokens of PostgreSQL's scanner.

Also says what decides whether texts that differ in constants only may share one analysis: see
`shapes`.
"""

import re
from typing import Final, final

from pglast.parser import scan

_CONSTANTS: Final = frozenset(("BCONST", "FCONST", "ICONST", "SCONST", "USCONST", "XCONST"))
_DIGIT: Final = re.compile(r"[0-9]")
_PLAIN_NUMBER: Final = re.compile(r"[0-9.]+")


@final
class Normalized:
    """
    text                         the statement with its constants replaced
    has_digits_in_constants_only each digit of it is in a decimal number without exponent, or in a
                                 string of the plain form '...' without a backslash
    has_unicode_escapes          it has U& literals
    """

    __slots__ = ("has_digits_in_constants_only", "has_unicode_escapes", "text")

    def __init__(
        self, text: str, has_digits_in_constants_only: bool, has_unicode_escapes: bool
    ) -> None:
        self.text = text
        self.has_digits_in_constants_only = has_digits_in_constants_only
        self.has_unicode_escapes = has_unicode_escapes


def normalize(text: str) -> Normalized:
    """Replace the constants of one statement; raises what the scanner raises."""
    tokens = scan(text)
    number = 0
    if "$" in text:
        for token in tokens:
            if token.name == "PARAM":
                number = max(number, int(text[token.start + 1 : token.end + 1]))
    pieces: list[str] = []
    kept: list[str] = []
    plain = True
    unicode_escapes = False
    position = 0
    for token in tokens:
        name = token.name
        if name not in _CONSTANTS:
            if name == "UIDENT":
                unicode_escapes = True
            continue
        if name == "USCONST":
            unicode_escapes = True
        start = token.start
        constant = text[start : token.end + 1]
        plain = plain and _is_plain(name, constant)
        number += 1
        kept.append(text[position:start])
        pieces.append(kept[-1])
        pieces.append(f"${number}")
        position = token.end + 1
    kept.append(text[position:])
    pieces.append(kept[-1])
    # What was kept are names, parameters, operators and comments.
    plain = plain and _DIGIT.search(" ".join(kept)) is None
    return Normalized("".join(pieces), plain, unicode_escapes)


def is_filling(text: str) -> bool:
    """Whether a text between two statements holds nothing but space, comments and semicolons."""
    if not text.strip(" \t\r\n\f\v;"):
        return True
    return all(token.name in ("ASCII_59", "C_COMMENT", "SQL_COMMENT") for token in scan(text))


def _is_plain(name: str, constant: str) -> bool:
    """Whether other digits in this constant make a constant of the same sort."""
    if _DIGIT.search(constant) is None:
        return True
    if name in ("ICONST", "FCONST"):
        return _PLAIN_NUMBER.fullmatch(constant) is not None
    return name == "SCONST" and constant[0] == "'" and "\\" not in constant
