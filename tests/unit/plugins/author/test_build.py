"""Building: what is missing or wrong is told."""

import shutil

import pytest

from proxy.plugins.author.build import BuildFailed, build
from tests.support.wat import manifest


def test_an_empty_directory(tmp_path):
    with pytest.raises(BuildFailed, match=r"expected one manifest NAME\.toml, found 0"):
        build(tmp_path)
    (tmp_path / "p.toml").write_text(manifest("p"))
    with pytest.raises(BuildFailed, match=r"expected Cargo\.toml, app\.py"):
        build(tmp_path)


def test_wat(tmp_path):
    (tmp_path / "p.toml").write_text(manifest("p"))
    (tmp_path / "anything.wat").write_text("(module)")
    assert build(tmp_path) == tmp_path / "p.wasm"
    assert (tmp_path / "p.wasm").read_bytes()[:4] == b"\0asm"
    (tmp_path / "anything.wat").write_text("(module")
    with pytest.raises(BuildFailed, match=r"anything\.wat"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "tool"),
    [
        ("p.c", "int x;", "clang"),
        ("Cargo.toml", "[package]\nname='p'", "cargo"),
        ("app.py", "", "componentize-py"),
        ("app.js", "", "componentize-qjs"),
    ],
)
def test_a_missing_tool_is_named_with_how_to_get_it(tmp_path, monkeypatch, name, text, tool):
    (tmp_path / "p.toml").write_text(manifest("p"))
    (tmp_path / name).write_text(text)
    monkeypatch.setattr(shutil, "which", lambda _tool, path=None: None)
    with pytest.raises(BuildFailed, match=f"{tool} is not installed; install"):
        build(tmp_path)


def test_a_tool_that_fails_is_quoted(tmp_path, monkeypatch):
    (tmp_path / "p.toml").write_text(manifest("p"))
    (tmp_path / "p.c").write_text("")
    tool = tmp_path / "clang"
    tool.write_text("#!/bin/sh\necho broken input >&2\nexit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(BuildFailed, match="clang failed:\nbroken input"):
        build(tmp_path)
