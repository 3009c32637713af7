"""The plugins' sections: permissions are known, and no ceiling is above the hard caps."""

from pathlib import Path

import pytest

from proxy.settings.load import read
from proxy.settings.plugin_model import PERMISSIONS, PluginOverride, Plugins

HARD_CAPS = [
    ("memory", '"256MiB"', '"257MiB"'),
    ("fuel", "1_000_000_000", "1_000_000_001"),
    ("auth_fuel", "1_000_000_000", "1_000_000_001"),
    ("init_fuel", "1_000_000_000", "1_000_000_001"),
    ("timeout_ms", "10_000", "10_001"),
    ("auth_timeout_ms", "10_000", "10_001"),
    ("input", '"1MiB"', "1_048_577"),
    ("output", '"1MiB"', "1_048_577"),
]


@pytest.mark.parametrize("section", ["plugins.limits", "plugins.settings.x.limits"])
@pytest.mark.parametrize(("key", "highest", "too_high"), HARD_CAPS)
def test_hard_caps(tmp_path: Path, section: str, key: str, highest: str, too_high: str) -> None:
    path = tmp_path / "headgate.toml"
    path.write_text(f"[{section}]\n{key} = {highest}\n")
    assert not read(path, {})[1]
    path.write_text(f"[{section}]\n{key} = {too_high}\n")
    (problem,) = read(path, {})[1].texts()
    assert f"2: {section}.{key}: out of range" in problem


@pytest.mark.parametrize("key", ["module", "component"])
def test_hard_caps_of_files(tmp_path: Path, key: str) -> None:
    path = tmp_path / "headgate.toml"
    path.write_text(f'[plugins.limits]\n{key} = "65MiB"\n')
    (problem,) = read(path, {})[1].texts()
    assert "1KiB to 64MiB" in problem.replace("from ", "")


def test_permissions_are_all_known_and_none_of_power_is_granted_unasked() -> None:
    assert len(set(PERMISSIONS)) == len(PERMISSIONS) == 21
    assert set(Plugins().grants) <= set(PERMISSIONS)
    assert set(Plugins().grants) == {"log", "metrics", "config", "clock"}


def test_an_override_without_a_word_leaves_the_manifest_alone() -> None:
    override = PluginOverride()
    assert override.enabled
    assert (override.priority, override.on_error, override.grants) == (None, None, None)
    assert all(getattr(override.limits, name) is None for name in override.limits.__struct_fields__)
