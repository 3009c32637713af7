"""`headgate check`: a line for each thing looked at, and the exit code."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
from msgspec import Struct

from proxy.cli.check import FAILED, OK, Line, run, show
from proxy.settings.model import Settings

CONFIG = '[auth]\nusers_file = "users.txt"\n[[node]]\nname = "pg1"\n'


class PluginLine(Struct):
    subject: str
    ok: bool
    text: str


@pytest.fixture
def config(tmp_path: Path) -> Path:
    users = tmp_path / "users.txt"
    users.write_text('"a" "hush"\n"b" "hush"\n')
    users.chmod(0o600)
    path = tmp_path / "headgate.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def plugin_lines(monkeypatch: pytest.MonkeyPatch) -> list[PluginLine]:
    """What the plugin host says, in place of loading any."""
    lines: list[PluginLine] = []
    module = ModuleType("proxy.plugins.check")
    module.check_plugins = lambda _: lines  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "proxy.plugins.check", module)
    return lines


def test_a_good_file(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, False) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [line.split() for line in printed.out.splitlines()[1:]]
    assert [line[1] for line in lines] == ["ok", "ok", "ok"]
    assert "127.0.0.1:6432; 1 node; databases *; transaction pooling" in printed.out
    assert "authentication scram-sha-256" in printed.out
    assert "2 users" in printed.out
    assert "off: plugins.dir is not set" in printed.out
    assert "hush" not in printed.out


def test_a_bad_file_is_told_on_standard_error(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text("[node]\n")
    assert run(config, False) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"{config}:1: node: wrong type; expected [[node]] (two brackets)" in printed.err


@pytest.mark.parametrize(
    ("key", "line", "reason"),
    [
        ("hba_file", "local all all peer", 'method "peer" is not supported'),
        ("user_map_file", "only two", "expected three values"),
    ],
)
def test_files_of_rules_are_read_as_serve_reads_them(
    config: Path, capsys: pytest.CaptureFixture[str], key: str, line: str, reason: str
) -> None:
    rules = config.parent / "rules"
    rules.write_text(f"# nobody else\n{line}\n")
    config.write_text(CONFIG.replace("[auth]", f'[auth]\n{key} = "rules"'))
    assert run(config, False) == 2
    assert f"{rules}:2: auth.{key}: {reason}" in capsys.readouterr().err


def test_advice_does_not_fail_a_check(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (config.parent / "users.txt").write_text("; nobody yet\n")
    config.write_text(CONFIG + f'[listen]\nunix_socket_dir = "{config.parent}"\n')
    assert run(config, False) == 0
    printed = capsys.readouterr().out
    assert "advice" in printed
    assert "no users: nobody can log in" in printed
    assert f", {config.parent};" in printed


def test_plugins_that_load_and_that_do_not(
    config: Path, plugin_lines: list[PluginLine], capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG + '[plugins]\ndir = "."\n')
    assert run(config, False) == 0
    assert "no plugins in" in capsys.readouterr().out
    plugin_lines.append(PluginLine("no-drop", True, "1.0.0, asks for log, does not get [kv.read]"))
    assert run(config, False) == 0
    assert "does not get [kv.read]" in capsys.readouterr().out
    plugin_lines.append(PluginLine("broken", False, "manifest: expected broken.toml"))
    assert run(config, False) == 2
    printed = capsys.readouterr()
    assert "failed" in printed.out
    assert printed.err == "plugin broken: manifest: expected broken.toml\n"


def test_connect_asks_the_servers(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def ask(settings: Settings) -> list[Line]:
        return [Line(f"node {node.name}", FAILED, "no answer") for node in settings.node]

    monkeypatch.setattr("proxy.cli.servers.ask_servers", ask)
    assert run(config, False) == 0
    assert "node pg1" not in capsys.readouterr().out
    assert run(config, True) == 2
    assert capsys.readouterr().err == "node pg1: no answer\n"


def test_texts_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    show([Line("[bold]", OK, "[red]x[/] " + "y" * 120)])
    printed = capsys.readouterr().out
    assert "[bold]" in printed
    assert "[red]x[/] " + "y" * 120 in printed
