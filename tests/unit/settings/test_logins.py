"""Whose login the monitor uses, in order."""

from pathlib import Path

import pytest

from proxy.settings.kinds import Secret
from proxy.settings.logins import clear_passwords, monitor_login
from proxy.settings.model import Admin, Auth, Database, Monitor, Settings

USERS = (
    '"alice" "clear-a"\n"bob" "md5aabb"\n"carol" "SCRAM-SHA-256$4096:x$y:z"\n'
    '"dave" ""\n"admin" "clear-admin"\n"mon" "clear-mon"\n'
)


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    path = tmp_path / "users.txt"
    path.write_text(USERS)
    return path


def test_only_clear_passwords_log_in(users_file: Path) -> None:
    settings = Settings(auth=Auth(users_file=users_file))
    assert clear_passwords(settings) == {
        "alice": "clear-a",
        "admin": "clear-admin",
        "mon": "clear-mon",
    }


def test_the_monitors_own_login_goes_first(users_file: Path) -> None:
    auth = Auth(users_file=users_file, query_user="q", query_password=Secret("p"))
    database = (Database(name="a"), Database(name="b", user="u", password=Secret("pu")))
    own = Settings(auth=auth, database=database, monitor=Monitor(user="m", password=Secret("pm")))
    assert monitor_login(own) == ("m", "pm")
    from_file = Settings(auth=auth, database=database, monitor=Monitor(user="mon"))
    assert monitor_login(from_file) == ("mon", "clear-mon")
    assert monitor_login(Settings(auth=auth, database=database)) == ("u", "pu")
    assert monitor_login(Settings(auth=auth)) == ("q", "p")


def test_then_a_user_of_the_file(users_file: Path) -> None:
    auth = Auth(users_file=users_file)
    assert monitor_login(Settings(auth=auth)) == ("admin", "clear-admin")
    nobody = Admin(console_users=("bob", "nobody"))
    assert monitor_login(Settings(auth=auth, admin=nobody)) == ("alice", "clear-a")


def test_without_any_word_it_is_postgres(tmp_path: Path) -> None:
    assert monitor_login(Settings()) == ("postgres", "")
    gone = Settings(auth=Auth(users_file=tmp_path / "gone"))
    assert monitor_login(gone) == ("postgres", "")
