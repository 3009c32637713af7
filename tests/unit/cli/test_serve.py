"""`headgate serve` up to the server: settings, workers, and problems on standard error."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from proxy.cli.serve import run
from proxy.errors import SettingsError
from proxy.settings.model import Settings

CONFIG = '[auth]\nmethod = "trust"\n[[node]]\nname = "pg1"\n[server]\nworkers = 3\n'


class Server(ModuleType):
    """In place of the real server: notes what it was asked to serve."""

    def __init__(self) -> None:
        super().__init__("proxy.server.lifecycle")
        self.calls: list[tuple[Settings, Path, int]] = []
        self.error: SettingsError | None = None

    def serve(self, settings: Settings, config_path: Path, workers: int) -> int:
        self.calls.append((settings, config_path, workers))
        if self.error is not None:
            raise self.error
        return 5


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    fake = Server()
    monkeypatch.setitem(sys.modules, "proxy.server.lifecycle", fake)
    return fake


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "headgate.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "headgate.toml"


def test_the_server_gets_settings_an_absolute_path_and_the_workers(
    server: Server, config: Path
) -> None:
    assert run(Path("headgate.toml"), None) == 5
    assert run(config, 2) == 5
    assert [(path, workers) for _, path, workers in server.calls] == [(config, 3), (config, 2)]
    assert server.calls[0][0].node[0].name == "pg1"


def test_a_bad_file_is_exit_code_2_with_every_problem(
    server: Server, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(CONFIG + "x = 1\n[pool]\nsize = 0\n")
    assert run(config, None) == 2
    assert server.calls == []
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(": ")[1] for line in printed.err.splitlines()] == ["server.x", "pool.size"]


def test_what_shows_only_in_use_is_told_alike(
    server: Server, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.error = SettingsError(["headgate.toml: listen.port: in use"])
    assert run(config, None) == 2
    assert capsys.readouterr().err == "headgate.toml: listen.port: in use\n"
