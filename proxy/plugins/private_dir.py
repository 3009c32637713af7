"""
Directories that only the proxy may write: what is in them is believed, and some of it is run.
"""

import os
import stat
from pathlib import Path

from proxy.errors import PluginFailed


def open_private_dir(path: Path) -> None:
    """Make the directory if need be; raises PluginFailed if anybody else could write in it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise PluginFailed("cache", "cache", f"{path}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise PluginFailed("cache", "cache", f"{path}: not a directory")
    if status.st_uid != os.geteuid():
        raise PluginFailed(
            "cache", "cache", f"{path}: belongs to another user; expected the proxy's own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PluginFailed("cache", "cache", f"{path}: others may write in it; expected mode 0700")
