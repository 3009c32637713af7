"""What the pages tell a reader to type is there: commands, options, targets, files, settings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from proxy.cli.main import whole
from proxy.settings import load
from tests.support.system import REPOSITORY

PAGES = sorted(
    [
        *(REPOSITORY / name for name in ("README.md", "plugins_sdk/README.md")),
        REPOSITORY / "benchmarks" / "README.md",
        *(REPOSITORY / "docs").glob("*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def blocks(page: Path, language: str) -> Iterator[str]:
    for found in FENCE.finditer(page.read_text()):
        if found[1] == language:
            yield found[2]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every line of every page that is a command, without comment."""
    for page in PAGES:
        for found in FENCE.finditer(page.read_text()):
            for line in found[2].splitlines():
                text = line.removeprefix("$ ").partition("#")[0].strip()
                if text.startswith(("headgate ", "make ")) and "…" not in text:
                    if not text.startswith("headgate is "):
                        yield page.name, shlex.split(text)


COMMANDS = list(commands())
COMMAND: Any = typer.main.get_command(whole())


def parsed(arguments: list[str]) -> None:
    """Follow a command line to its subcommand; its options must be known there."""
    command = COMMAND
    names = list(arguments)
    while hasattr(command, "commands"):
        name = names.pop(0)
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    known = {option for p in command.params for option in [*p.opts, *p.secondary_opts]}
    for name in names:
        if name.startswith("-"):
            assert name.partition("=")[0] in known, f"{command.name} has no {name}"


def test_pages_have_commands_at_all() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize(
    ("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS]
)
def test_command_is_there(page: str, words: list[str]) -> None:
    if words[0] == "make":
        assert words[1] in TARGETS
    else:
        parsed(words[1:])


def test_a_command_that_is_not_there_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no command sreve"):
        parsed(["sreve"])
    with pytest.raises(AssertionError, match="serve has no --wokers"):
        parsed(["serve", "--wokers", "2"])


TOML = [
    (page.name, number, text)
    for page in PAGES
    for number, text in enumerate(blocks(page, "toml"))
    if "hooks = " not in text  # a manifest: tests of the SDK's examples read those
]


@pytest.mark.parametrize(("page", "number", "text"), TOML)
def test_settings_of_an_example_are_known(
    page: str, number: int, text: str, tmp_path: Path
) -> None:
    path = tmp_path / "headgate.toml"
    path.write_text(text)
    _, problems = load.read(path, {"PASSWORD": "x"})
    assert problems.texts() == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
