"""Directories that only we may write."""

import pytest

from proxy.errors import PluginFailed
from proxy.plugins.private_dir import open_private_dir


def test_it_is_made_private(tmp_path):
    path = tmp_path / "a" / "b"
    open_private_dir(path)
    assert path.stat().st_mode & 0o777 == 0o700
    open_private_dir(path)


def test_others_may_not_write(tmp_path):
    tmp_path.chmod(0o770)
    with pytest.raises(PluginFailed, match="others may write"):
        open_private_dir(tmp_path)
    tmp_path.chmod(0o700)


def test_it_is_a_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PluginFailed):
        open_private_dir(tmp_path / "file")
