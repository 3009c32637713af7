"""
Shapes of texts: keys under which texts that differ in their constants share one analysis.

zeroed          the text with 0 in the place of each digit; keeps all lengths
literal_shape   besides, every '...' literal is emptied; only of valid UTF-8

Both are pure functions of the text, cheap next to the parser. When an analysis may be stored under
a shape is decided by `analyse`; why that is sound:

A text is stored under its zeroed form only if each digit of it is in a decimal number without
exponent or in a plain '...' string without backslash. Take another text of the same form.
PostgreSQL's scanner is a machine over characters, and inside those two kinds of token it goes the
same way for any digit; all other characters are the same; so the tokens are the same ones at the
same places.

A text is stored under its literal shape only if it is one SELECT, INSERT, UPDATE, DELETE or MERGE,
its shape has no comment and no dollar, it has no backslash, and no U& literal, whose UESCAPE
string could change an identifier. Then outside of "..." a quote can only begin or end a literal,
and a text of the same shape without backslash has the same tokens but for the literals' contents.
Such a text may go under its own zeroed form too, if the stored one may: the digits that it has and
the stored one has not are in literals without backslash.

No fact is taken from a constant's value, but for the name that set_config, currval or setval is
called with: such a text is in neither group (in the first only if it has no digit). EXPLAIN's
ANALYZE option looks at words only, and is not in the second group. A text whose fingerprint changes
with its digits (FETCH 5, int[3]) is not shared. What can still differ is whether the grammar takes
the constant where it is (an integer that is too long, a bit string that has none): then the server
refuses the other text with a syntax error, and what is said of it here does not matter.
"""

import re
from typing import Final

_ZEROES: Final = bytes.maketrans(b"123456789", b"000000000")

_QUOTED: Final = re.compile(rb"""'[^']*'|"[^"]*\"""")
_SINGLE: Final = re.compile(rb"'[^']*'")


def zeroed(text: bytes) -> bytes:
    """The text with 0 for each digit."""
    return text.translate(_ZEROES)


def literal_shape(text: bytes) -> bytes | None:
    """The text with its string literals emptied; None if it has none or they are not plain."""
    if b"'" not in text or b"\\" in text:
        return None
    if not text.isascii():
        # What is no UTF-8 has no facts: the server refuses it, and no plugin can be told of it.
        try:
            text.decode()
        except UnicodeDecodeError:
            return None
    if b'"' in text:
        shape = _QUOTED.sub(_emptied, text)
    else:
        shape = _SINGLE.sub(b"''", text)
    if b"--" in shape or b"/*" in shape or b"$" in shape:
        return None
    return shape


def _emptied(match: re.Match[bytes]) -> bytes:
    quoted = match.group()
    return b"''" if quoted[0] == 39 else quoted
