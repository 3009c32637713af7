"""A plugin's files, read as one."""

import pytest

from proxy.errors import PluginFailed
from proxy.plugins import loader
from proxy.plugins.loader import module_paths, read_source, stamps
from tests.support.wat import body_wat, manifest, put

LIMIT = 1 << 20


def test_a_source_has_everything(tmp_path):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"), manifest("plug", "1.2.3"))
    source = read_source(path, LIMIT, LIMIT)
    assert source.manifest.name == "plug"
    assert source.signature is None
    assert not source.is_component
    before = source.fingerprint
    path.with_suffix(".sig").write_bytes(b"sig")
    again = read_source(path, LIMIT, LIMIT)
    assert again.signature == b"sig"
    assert again.fingerprint != before


def test_a_missing_manifest_names_the_file_expected(tmp_path):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"))
    path.with_suffix(".toml").unlink()
    with pytest.raises(PluginFailed, match=r"expected p\.toml beside it"):
        read_source(path, LIMIT, LIMIT)


def test_a_missing_module(tmp_path):
    with pytest.raises(PluginFailed, match="No such file"):
        read_source(tmp_path / "p.wasm", LIMIT, LIMIT)


def test_a_legacy_manifest_may_name_the_modules_hash(tmp_path):
    path = put(
        tmp_path, "p", body_wat("(i64.const 0)"),
        '{"name":"p","hooks":["route"],"wasm_sha256":"00"}', suffix=".json",
    )  # fmt: skip
    with pytest.raises(PluginFailed, match="wasm_sha256 is not that of"):
        read_source(path, LIMIT, LIMIT)


def test_files_that_keep_changing_are_not_believed(tmp_path, monkeypatch):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"))
    numbers = iter(range(100))
    monkeypatch.setattr(loader, "stamps", lambda _path: next(numbers))
    with pytest.raises(PluginFailed, match="keeps changing"):
        read_source(path, LIMIT, LIMIT)


def test_modules_of_a_directory(tmp_path):
    put(tmp_path, "b", body_wat("(i64.const 0)"))
    put(tmp_path, "a", body_wat("(i64.const 0)"))
    (tmp_path / ".hidden.wasm").touch()
    (tmp_path / "dir.wasm").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [p.name for p in module_paths(tmp_path)] == ["a.wasm", "b.wasm"]
    with pytest.raises(PluginFailed, match="cannot read"):
        module_paths(tmp_path / "missing")


def test_stamps_change_with_any_of_the_files(tmp_path):
    path = put(tmp_path, "p", body_wat("(i64.const 0)"))
    seen = [stamps(path)]
    for suffix in (".sig", ".toml", ".wasm"):
        path.with_suffix(suffix).write_bytes(b"changed" * 9)
        seen.append(stamps(path))
    assert len(set(seen)) == 4
