"""The author's page says what the host has: every function with its permission, every error code."""

import re

import pytest

from proxy.plugins.author.scaffold import LANGUAGES
from proxy.plugins.host import guest
from proxy.plugins.host.table import _ABORTS, _HEADGATE
from tests.support.system import REPOSITORY

TEXT = (REPOSITORY / "plugins_sdk" / "README.md").read_text()
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]]
    for line in TEXT.splitlines()
    if line[:1] == "|"
]
FUNCTIONS = [row for row in ROWS if len(row) == 4]
CODES = {int(row[0]): row[1] for row in ROWS if re.fullmatch(r"-\d+", row[0])}


@pytest.mark.parametrize("name", sorted(_HEADGATE) + [n for m, n in _ABORTS if m == "headgate"])
def test_every_host_function_is_there_with_its_permission(name):
    (row,) = [row for row in FUNCTIONS if f"`{name}`" in row[0]]
    function = _HEADGATE.get(name)
    if function is not None and function.permission:
        assert f"`{function.permission}`" in row[3]
    else:
        assert row[3] == "—"


def test_every_error_code_is_there():
    codes = {
        name: value
        for name, value in vars(guest).items()
        if name.isupper() and isinstance(value, int) and -100 < value < 0
    }
    assert {
        value: text.partition(":")[0].replace(" ", "_").upper() for value, text in CODES.items()
    } == {value: name for name, value in codes.items()}


def test_every_language_of_new_is_there():
    assert " | ".join(LANGUAGES) in TEXT
