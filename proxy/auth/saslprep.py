"""
Prepare a password for SCRAM: SASLprep (RFC 4013), with PostgreSQL's fall-back.

Where RFC 4013 would refuse a password, PostgreSQL uses its bytes as they are, because it cannot
know their encoding; and a password in ASCII, control characters included, stays as it is. A proxy
that differed in any of this would lock out people who can log in to the server.
"""

import stringprep
import unicodedata


def prepare(password: str) -> bytes:
    """The bytes to derive keys from. Bytes that were no UTF-8 come as lone surrogates."""
    raw = password.encode("utf-8", "surrogateescape")
    if password.isascii():
        return raw
    mapped = _mapped(password)
    if mapped == "" or _is_prohibited(mapped) or _breaks_bidi(mapped):
        return raw
    # As PostgreSQL: today's normalization, although the tables of RFC 3454 are Unicode 3.2's, and
    # what is prohibited is asked of the characters before it.
    return unicodedata.normalize("NFKC", mapped).encode("utf-8")


def _mapped(password: str) -> str:
    kept: list[str] = []
    for character in password:
        if stringprep.in_table_c12(character):
            kept.append(" ")
        elif not stringprep.in_table_b1(character):
            kept.append(character)
    return "".join(kept)


def _is_prohibited(text: str) -> bool:
    for character in text:
        if (
            stringprep.in_table_a1(character)
            or stringprep.in_table_c21_c22(character)
            or stringprep.in_table_c3(character)
            or stringprep.in_table_c4(character)
            or stringprep.in_table_c5(character)
            or stringprep.in_table_c6(character)
            or stringprep.in_table_c7(character)
            or stringprep.in_table_c8(character)
            or stringprep.in_table_c9(character)
        ):
            return True
    return False


def _breaks_bidi(text: str) -> bool:
    """RFC 3454, section 6: right-to-left text is that throughout, from its first character on."""
    has_right_to_left = False
    has_left_to_right = False
    for character in text:
        if stringprep.in_table_d1(character):
            has_right_to_left = True
        elif stringprep.in_table_d2(character):
            has_left_to_right = True
    if not has_right_to_left:
        return False
    return (
        has_left_to_right
        or not stringprep.in_table_d1(text[0])
        or not stringprep.in_table_d1(text[-1])
    )
