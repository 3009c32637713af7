"""
The host functions' view of their caller: its memory, and what of the host it may use.

One `Guest` belongs to one plugin generation on one thread. Host functions answer numbers: zero or
more is success (of functions that return bytes, the length needed), less is one of the codes below.

    MISSING       -1  no such key
    TOO_LARGE     -2  a key, value, name, line or count over its limit
    BAD_POINTER   -3  an address outside the memory
    BAD_ARGUMENT  -4  not UTF-8, not JSON, not a name, out of range
    UNAVAILABLE   -5  the service behind the function does not answer, or is not configured
    TIMED_OUT     -6  the function's own time limit
    DENIED        -7  the service refused this request
"""

import math
from typing import TYPE_CHECKING, Any, Final, final

from proxy.plugins.ffi import Imports

if TYPE_CHECKING:
    from proxy.plugins.host.services import Services

MISSING: Final = -1
TOO_LARGE: Final = -2
BAD_POINTER: Final = -3
BAD_ARGUMENT: Final = -4
UNAVAILABLE: Final = -5
TIMED_OUT: Final = -6
DENIED: Final = -7

MAX_WAITS: Final = 16
"""Waiting calls of one hook call: with their own time limits they bound the whole."""

MAX_TTL_MS: Final = 100 * 366 * 24 * 3600 * 1000
"""Longer ones are this long: a number that every store takes."""

INCR_FAILED: Final = -(1 << 63)
"""kv_incr answers the new value, so its failure is the one number that no counter reaches."""


@final
class HostFault(Exception):
    """A host function ends early with this error code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def whole(number: float) -> int:
    """A number of any type that a guest gave, without its fraction."""
    if not math.isfinite(number):
        raise HostFault(BAD_ARGUMENT)
    return int(number)


def time_to_live(number: float) -> int:
    """Milliseconds, 0 for no end."""
    ttl_ms = whole(number)
    if ttl_ms < 0:
        raise HostFault(BAD_ARGUMENT)
    return min(ttl_ms, MAX_TTL_MS)


@final
class Guest:
    """Memory and services of the plugin that called."""

    __slots__ = (
        "config",
        "deadline_ticks",
        "imports",
        "is_fast",
        "kept",
        "permissions",
        "plugin",
        "services",
        "waits_left",
    )

    def __init__(
        self,
        plugin: str,
        permissions: frozenset[str],
        config: dict[str, Any],
        services: "Services",
        imports: Imports,
        is_fast: bool,
    ) -> None:
        self.plugin = plugin
        self.permissions = permissions
        self.config = config
        self.services = services
        self.imports = imports
        self.is_fast = is_fast
        self.kept: tuple[bytes, bytes] = (b"", b"")
        """Request and answer of the last waiting call whose answer did not fit."""
        self.deadline_ticks = 1
        self.waits_left = 0

    def begin_call(self, deadline_ticks: int) -> None:
        """A hook starts to run, with this time limit."""
        self.deadline_ticks = deadline_ticks
        self.waits_left = MAX_WAITS
        self.kept = (b"", b"")

    def begin_wait(self) -> None:
        """A host function is going to wait; refused when this call of the hook did too often."""
        if self.waits_left <= 0:
            raise HostFault(TOO_LARGE)
        self.waits_left -= 1

    def end_wait(self) -> None:
        """Waiting has its own time limit, so the hook's starts again."""
        if self.imports.active is not None:
            self.imports.active.extend(self.deadline_ticks)

    def read(self, address: int, length: int) -> bytes:
        """Copy bytes out of the caller's memory."""
        sandbox = self.imports.active
        if sandbox is None or not sandbox.holds(address, length):
            raise HostFault(BAD_POINTER)
        return bytes(sandbox.memory[address : address + length])

    def read_text(self, address: int, length: int) -> str:
        """Copy UTF-8 text out of the caller's memory."""
        try:
            return self.read(address, length).decode("utf-8")
        except UnicodeDecodeError:
            raise HostFault(BAD_ARGUMENT) from None

    def write(self, address: int, data: bytes) -> None:
        """Copy bytes into the caller's memory."""
        sandbox = self.imports.active
        if sandbox is None or not sandbox.holds(address, len(data)):
            raise HostFault(BAD_POINTER)
        sandbox.memory[address : address + len(data)] = data

    def give(self, data: bytes, address: int, capacity: int) -> int:
        """Write `data` if it fits; the length needed either way."""
        if len(data) <= capacity:
            self.write(address, data)
        return len(data)

    def memory_bytes(self) -> int:
        """Size of the caller's memory now."""
        sandbox = self.imports.active
        if sandbox is None:
            return 0
        sandbox.grow_view()
        return sandbox.memory_bytes
