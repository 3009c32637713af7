"""User maps: names, patterns, what stands for the group."""

import pytest

from proxy.auth.authfile import AuthFileError
from proxy.auth.usermap import is_mapped, parse_user_maps

MAPS = parse_user_maps(
    r"""
    # MAPNAME  SYSTEM-USERNAME            PG-USERNAME
    people     "Alice Example"            alice
    people     bob                        bob
    people     bob                        robert
    mail       /^(.*)@example\.com$       \1
    mail       /^admin@                   all
    mail       /^.*@guests\.example$      guest
    mail       /nogroup                   \1
    any        root                       /^app_
    quoted     x                          "all"
    """
)


@pytest.mark.parametrize(
    ("map_name", "system", "user", "allowed"),
    [
        ("people", "Alice Example", "alice", True),
        ("people", "alice", "alice", False),
        ("people", "bob", "robert", True),
        ("people", "bob", "alice", False),
        ("mail", "bob", "bob", False),
        ("mail", "carol@example.com", "carol", True),
        ("mail", "carol@example.com", "bob", False),
        ("mail", "carol@example.org", "carol", False),
        ("mail", "all@example.com", "anybody", False),
        ("mail", "admin@anywhere", "anybody", True),
        ("mail", "x@guests.example", "guest", True),
        ("mail", "nogroup", "nogroup", False),
        ("any", "root", "app_1", True),
        ("any", "root", "postgres", False),
        ("quoted", "x", "anybody", False),
        ("quoted", "x", "all", True),
        ("none", "bob", "bob", False),
        ("", "bob", "bob", True),
    ],
)
def test_who_may_be_whom(map_name: str, system: str, user: str, allowed: bool) -> None:
    assert is_mapped(MAPS, map_name, system, user) == allowed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("m a", "expected three values"),
        ("m a b c", "expected three values"),
        ("m /( b", "invalid regular expression"),
        ("m a /(", "invalid regular expression"),
        ("m a +staff", "memberships"),
        ("include x", "include is not supported"),
        ("m a,b c", "a list stands"),
    ],
)
def test_wrong_lines(line: str, words: str) -> None:
    with pytest.raises(AuthFileError, match=words):
        parse_user_maps(line)
