"""
What the kernel knows about this process: memory, processor time, descriptors.

From /proc where there is one; elsewhere what `resource` says.
"""

import os
import resource
import sys
import time
from pathlib import Path
from typing import Final, final

_PROC: Final = Path("/proc/self")


@final
class ProcessUse:
    """This process now; what cannot be told is -1."""

    __slots__ = ("cpu_s", "max_fds", "open_fds", "resident_bytes")

    def __init__(self) -> None:
        self.cpu_s = time.process_time()
        self.max_fds = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            self.open_fds = len(os.listdir(_PROC / "fd"))
        except OSError:
            self.open_fds = -1
        self.resident_bytes = _resident_bytes()


def _resident_bytes() -> int:
    try:
        pages = int((_PROC / "statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        # The most it ever was, which is the next best; in bytes on macOS, else in KiB.
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")
