"""The users file: PgBouncer's format, strictly, and without a secret in any message."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import SettingsError
from proxy.settings.users import parse_users, read_users


def test_entries_comments_quotes_and_further_fields(tmp_path: Path) -> None:
    file = tmp_path / "users.txt"
    file.write_text(
        '; comment\n# comment\n\n"alice" "secret"\r\n'
        '  "b""ob"\t"pa""ss word"  \n"carol" "md5abc" "more" 1\n"dave" ""\n'
        '"eve" "SCRAM-SHA-256$4096:c2FsdA==$a:b"'
    )
    assert read_users(file) == {
        "alice": "secret",
        'b"ob': 'pa"ss word',
        "carol": "md5abc",
        "dave": "",
        "eve": "SCRAM-SHA-256$4096:c2FsdA==$a:b",
    }


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("alice hush", "not an entry"),
        ('"alice" hush', "not an entry"),
        ('"alice"', "not an entry"),
        ('"alice" "hush', "not an entry"),
        ('"alice""hush"', "not an entry"),
        ('"" "hush"', "the name is empty"),
        ('"a\0" "hush"', "a NUL character"),
        ('"a" "hush\0"', "a NUL character"),
        (f'"{"a" * 64}" "hush"', "the name is longer than 63 bytes"),
        (f'"a" "hush{"x" * 5000}"', "the secret is longer than 4096 bytes"),
        ('"first" "hush"', "this user is already there"),
    ],
)
def test_bad_lines_have_their_number_and_never_what_is_in_them(line: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_users(f'"first" "x"\n\n{line}\n"last" "x"\n', "users.txt")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(f"users.txt:3: {reason}")
    assert "hush" not in str(caught.value)
    assert "alice" not in str(caught.value)


def test_all_bad_lines_are_named() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_users("a\nb\nc")
    assert [text.split(":")[1] for text in caught.value.problems] == ["1", "2", "3"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nope: cannot read the users file: No such file"):
        read_users(tmp_path / "nope")
    file = tmp_path / "users.txt"
    file.write_bytes(b'"a" "b"\n"\xff" "c"\n')
    with pytest.raises(SettingsError, match=r"users\.txt:2: not UTF-8"):
        read_users(file)


def test_secrets_are_not_in_a_repr() -> None:
    assert "hush" not in repr(parse_users('"a" "hush"'))


@given(st.text())
def test_any_text_gives_users_or_problems(text: str) -> None:
    try:
        users = parse_users(text)
    except SettingsError:
        return
    assert all(users)


names = st.text(
    st.characters(exclude_characters="\0\n\r", exclude_categories=["Cs"]), min_size=1, max_size=15
)


@given(st.dictionaries(names, names))
def test_what_is_written_is_read(users: dict[str, str]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace('"', '""') + '"'

    text = "\n".join(f"{quoted(name)} {quoted(secret)}" for name, secret in users.items())
    assert parse_users(text) == users
