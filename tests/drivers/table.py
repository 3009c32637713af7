"""The table of drivers in docs/drivers.md, made of what the checklist asserts and of the pinned versions."""

import json
import re
from pathlib import Path
from typing import Final

from tests.drivers.test_checklist import NO_INTERFACE, PROGRAMS
from tests.drivers.toolchains import PGJDBC, SOURCES

DOCUMENT: Final = SOURCES.parent.parent / "docs" / "drivers.md"
BEGIN: Final = "<!-- generated: tests/drivers/table.py -->\n"
END: Final = "<!-- end -->\n"

# Program of the checklist: language, and the packages whose versions count.
PACKAGES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "psycopg": ("Python", ("psycopg",)),
    "psycopg-async": ("Python", ("psycopg",)),
    "psycopg2": ("Python", ("psycopg2-binary",)),
    "asyncpg": ("Python", ("asyncpg",)),
    "pg8000": ("Python", ("pg8000",)),
    "sqlalchemy-psycopg": ("Python", ("sqlalchemy", "psycopg")),
    "sqlalchemy-asyncpg": ("Python", ("sqlalchemy", "asyncpg")),
    "django": ("Python", ("django", "psycopg")),
    "node-postgres": ("Node.js", ("pg",)),
    "postgres.js": ("Node.js", ("postgres",)),
    "pgx": ("Go", ("github.com/jackc/pgx/v5",)),
    "lib-pq": ("Go", ("github.com/lib/pq",)),
    "pgjdbc": ("Java", ("org.postgresql:postgresql",)),
    "tokio-postgres": ("Rust", ("tokio-postgres",)),
}


def versions() -> dict[str, str]:
    """Every pinned package and its version."""
    found: dict[str, str] = {}
    for line in _text("python/requirements.txt").splitlines():
        name, pinned, version = line.partition("==")
        if pinned:
            found[name.split("[")[0]] = version
    found.update(json.loads(_text("node/package.json"))["dependencies"])
    found.update(re.findall(r"^\s*(?:require )?(\S+/\S+) v(\S+)", _text("go/go.mod"), re.M))
    found.update(re.findall(r'^(\S+) = "=([^"]+)"', _text("rust/Cargo.toml"), re.M))
    name, _, version = PGJDBC.rpartition(":")
    found[name] = version
    return found


def render() -> str:
    """The table, between its marks."""
    pinned = versions()
    lines = ["| driver | language | versions | has no interface for |", "| --- | --- | --- | --- |"]
    for program in PROGRAMS:
        language, packages = PACKAGES[program]
        shown = ", ".join(f"{name.rsplit('/', 1)[-1]} {pinned[name]}" for name in packages)
        shown = shown.replace("v5 ", "pgx ").replace("org.postgresql:postgresql", "pgjdbc")
        missing = ", ".join(sorted(NO_INTERFACE.get(program, ()))) or "nothing"
        lines.append(f"| {program} | {language} | {shown} | {missing} |")
    return BEGIN + "\n".join(lines) + "\n" + END


def replaced(document: str) -> str:
    """The document with the table of now."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + render() + after


def _text(path: str) -> str:
    return Path(SOURCES / path).read_text()


if __name__ == "__main__":
    DOCUMENT.write_text(replaced(DOCUMENT.read_text()))
