"""
The little of WASI preview 2 that a language runtime calls to start: no arguments, no environment,
no preopened directories, no terminal, and a clock and randomness as granted.

What is not here traps when it is called, above all everything that waits.
"""

from collections.abc import Callable
from typing import Any, Final

from wasmtime import WasmtimeError
from wasmtime.component import Linker, Record

from proxy.plugins.host.guest import Guest

_MAX_RANDOM_BYTES: Final = 65_536


def define_wasi(linker: Linker, imports: list[str], guest: Guest) -> None:
    """Define what is known of the imported WASI instances, whatever their 0.2.x version is."""
    with linker.root() as root:
        for full_name in imports:
            name = full_name.partition("@")[0]
            functions = _functions(name, guest)
            if functions is None:
                continue
            with root.add_instance(full_name) as instance:
                for function, body in functions.items():
                    instance.add_func(function, body)


def _functions(name: str, guest: Guest) -> dict[str, Callable[..., Any]] | None:
    if name == "wasi:cli/environment":
        return {
            "get-environment": _nothing,
            "get-arguments": _nothing,
            "initial-cwd": _none,
        }
    if name == "wasi:cli/exit":
        return {"exit": _exit}
    if name == "wasi:filesystem/preopens":
        return {"get-directories": _nothing}
    if name == "wasi:cli/terminal-stdin":
        return {"get-terminal-stdin": _none}
    if name == "wasi:cli/terminal-stdout":
        return {"get-terminal-stdout": _none}
    if name == "wasi:cli/terminal-stderr":
        return {"get-terminal-stderr": _none}
    if name == "wasi:clocks/wall-clock":
        return _wall_clock(guest)
    if name == "wasi:clocks/monotonic-clock":
        return _monotonic_clock(guest)
    if name == "wasi:random/random":
        return _random(guest)
    if name == "wasi:random/insecure-seed":
        return {"insecure-seed": lambda _store: (0, 0)}
    return None


def _nothing(_store: object) -> list[object]:
    return []


def _none(_store: object) -> None:
    return None


def _exit(_store: object, _status: object) -> None:
    raise WasmtimeError("the plugin asked to exit")


def _wall_clock(guest: Guest) -> dict[str, Callable[..., Any]]:
    def moment(microseconds: int) -> Any:
        record = Record()
        vars(record).update(
            seconds=microseconds // 1_000_000, nanoseconds=microseconds % 1_000_000 * 1000
        )
        return record

    def now(_store: object) -> Any:
        return moment(guest.services.now_us() if "clock" in guest.permissions else 0)

    def resolution(_store: object) -> Any:
        return moment(1)

    return {"now": now, "resolution": resolution}


def _monotonic_clock(guest: Guest) -> dict[str, Callable[..., Any]]:
    """To read only: what subscribes to it would wait."""

    def now(_store: object) -> int:
        return guest.services.now_us() * 1000 if "clock" in guest.permissions else 0

    def resolution(_store: object) -> int:
        return 1000

    return {"now": now, "resolution": resolution}


def _random(guest: Guest) -> dict[str, Callable[..., Any]]:
    def take(count: int) -> bytes:
        if count > _MAX_RANDOM_BYTES:
            raise WasmtimeError("too many random bytes")
        # Runtimes seed their hash tables with it, granted or not.
        return guest.services.random_bytes(count) if "random" in guest.permissions else bytes(count)

    def get_random_bytes(_store: object, count: int) -> bytes:
        return take(count)

    def get_random_u64(_store: object) -> int:
        return int.from_bytes(take(8), "little")

    return {"get-random-bytes": get_random_bytes, "get-random-u64": get_random_u64}
