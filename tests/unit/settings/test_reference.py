"""The generated files: current, complete, and the sample says the defaults, both ways."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from proxy.settings.fields import NAMED_TABLES, TABLES, settings_of
from proxy.settings.load import read
from proxy.settings.model import Settings
from proxy.settings.reference import document, generated, sample, uncommented, write
from proxy.settings.texts import EXAMPLE_NAMES, has_default, plain_default, sections

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", sorted(generated()))
def test_the_committed_files_are_current(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == generated()[name], (
        "run: python -m proxy.settings.reference"
    )


def test_everything_is_written_below_a_directory(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "docs").mkdir()
    write(tmp_path)
    assert {name: (tmp_path / name).read_text(encoding="utf-8") for name in generated()} == (
        generated()
    )


def test_as_it_is_the_sample_sets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "headgate.toml"
    path.write_text(sample(), encoding="utf-8")
    settings, problems = read(path, {})
    assert not problems
    assert settings == Settings()


def test_uncommented_the_sample_gives_every_default(tmp_path: Path) -> None:
    path = tmp_path / "headgate.toml"
    path.write_text(uncommented(sample()), encoding="utf-8")
    settings, problems = read(path, {})
    assert problems.texts() == []
    compare(settings, tomllib.loads(path.read_text(encoding="utf-8")))


def compare(section: Struct, table: dict[str, Any]) -> None:
    """The loaded section has the model's defaults, and the table names all of its keys."""
    known = settings_of(type(section))
    assert set(table) == set(known)
    for name, setting in known.items():
        value = getattr(section, name)
        if setting.shape.kind == TABLES:
            (only,) = value
            compare(only, table[name][0])
        elif setting.shape.kind == NAMED_TABLES:
            key = EXAMPLE_NAMES[name]
            compare(value[key], table[name][key])
        elif setting.shape.table is not None:
            compare(value, table[name])
        elif has_default(setting):
            assert value == setting.default, name
        else:
            assert table[name] == plain_default(type(section), setting)


def test_the_document_has_every_section_and_key() -> None:
    text = document()
    for header, section in sections().items():
        part = text.split(f"## `{header}`\n")[1].split("\n## ")[0]
        keys = re.findall(r"^\| `([a-z_]+)` \|", part, flags=re.MULTILINE)
        assert keys == [n for n, s in settings_of(section).items() if s.shape.table is None]
        for line in part.splitlines():
            if line.startswith("| `"):
                # Five cells, with bars inside of them escaped.
                assert len(re.findall(r"(?<!\\)\|", line)) == 6, line
