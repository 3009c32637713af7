"""
Stubs of WASI preview 1, for modules whose toolchain imports it whether they need it or not.

There are no files, no sockets, no arguments and no environment; standard output and error become
log lines where `log` is granted; clock and randomness follow `clock` and `random`. Nothing here
ever waits: wasmtime's own implementation sleeps in `poll_oneoff`, where neither fuel nor the epoch
reaches. Every other function of the module answers ENOSYS.
"""

from collections.abc import Callable
from typing import Final

from proxy.plugins.ffi import U32
from proxy.plugins.host.guest import Guest

MODULES: Final = ("wasi_snapshot_preview1", "wasi_unstable")

SUCCESS: Final = 0
EBADF: Final = 8
EINVAL: Final = 28
ENOSYS: Final = 52

_MAX_IOVECS: Final = 64
_MAX_WRITE: Final = 4096


def fd_write(guest: Guest, fd: int, iovecs: int, count: int, written: int) -> int:
    """Take everything; lines of fd 1 and 2 go to the plugin's log."""
    if fd not in (1, 2) or count > _MAX_IOVECS:
        return EBADF
    text = bytearray()
    total = 0
    for index in range(count):
        entry = guest.read(iovecs + 8 * index, 8)
        address = int.from_bytes(entry[:4], "little")
        length = int.from_bytes(entry[4:], "little")
        if len(text) < _MAX_WRITE:
            text += guest.read(address, min(length, _MAX_WRITE - len(text)))
        total += length
    if "log" in guest.permissions:
        log = guest.services.logs.of(guest.plugin)
        for line in text.decode("utf-8", "replace").splitlines():
            if line.strip():
                cut = line.encode()[: log.line_bytes].decode("utf-8", "ignore")
                log.write(3 if fd == 2 else 2, cut)
    guest.write(written, (total & U32).to_bytes(4, "little"))
    return SUCCESS


def clock_time_get(guest: Guest, clock: int, _precision: int, out: int) -> int:
    """The time in nanoseconds, or zero without `clock`."""
    if clock > 3:
        return EINVAL
    nanoseconds = guest.services.now_us() * 1000 if "clock" in guest.permissions else 0
    guest.write(out, nanoseconds.to_bytes(8, "little"))
    return SUCCESS


def clock_res_get(guest: Guest, _clock: int, out: int) -> int:
    """A microsecond."""
    guest.write(out, (1000).to_bytes(8, "little"))
    return SUCCESS


def random_get(guest: Guest, out: int, length: int) -> int:
    """Random bytes, or zeroes without `random`: runtimes seed their hash tables with it."""
    if length > 65_536:
        return EINVAL
    granted = "random" in guest.permissions
    guest.write(out, guest.services.random_bytes(length) if granted else bytes(length))
    return SUCCESS


def sizes_get(guest: Guest, count: int, size: int) -> int:
    """environ_sizes_get and args_sizes_get: none."""
    guest.write(count, bytes(4))
    guest.write(size, bytes(4))
    return SUCCESS


def nothing_get(_guest: Guest, _first: int, _second: int) -> int:
    """environ_get, args_get: nothing to write."""
    return SUCCESS


def fd_fdstat_get(guest: Guest, fd: int, out: int) -> int:
    """Standard streams are character devices; there is nothing else."""
    if fd > 2:
        return EBADF
    guest.write(out, b"\x02" + bytes(23))
    return SUCCESS


def bad_descriptor(_guest: Guest, *_arguments: int) -> int:
    """Every call on a descriptor that could only be a file's."""
    return EBADF


def unsupported(_guest: Guest, *_arguments: int) -> int:
    """Everything else."""
    return ENOSYS


def sched_yield(_guest: Guest) -> int:
    """Go on."""
    return SUCCESS


_STUBS: Final[dict[str, Callable[..., int]]] = {
    "fd_write": fd_write,
    "clock_time_get": clock_time_get,
    "clock_res_get": clock_res_get,
    "random_get": random_get,
    "environ_sizes_get": sizes_get,
    "args_sizes_get": sizes_get,
    "environ_get": nothing_get,
    "args_get": nothing_get,
    "fd_fdstat_get": fd_fdstat_get,
    "fd_prestat_get": bad_descriptor,
    "fd_prestat_dir_name": bad_descriptor,
    "fd_close": bad_descriptor,
    "fd_read": bad_descriptor,
    "fd_seek": bad_descriptor,
    "sched_yield": sched_yield,
}


def stub(name: str) -> Callable[..., int]:
    """What answers for a function of WASI."""
    return _STUBS.get(name, unsupported)
