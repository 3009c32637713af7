"""The little of WASI that components get: what each function answers."""

import pytest
from wasmtime import WasmtimeError

from proxy.plugins.component_wasi import _functions
from proxy.plugins.host.services import Services
from tests.support.wat import fake_guest


def functions(name, *permissions):
    services = Services(now_us=lambda: 3_000_007, random_bytes=lambda count: b"\x01" * count)
    guest = fake_guest(permissions, services=services)
    return _functions(name, guest)


def test_nothing_of_the_outside():
    environment = functions("wasi:cli/environment")
    assert environment["get-environment"](None) == []
    assert environment["get-arguments"](None) == []
    assert environment["initial-cwd"](None) is None
    assert functions("wasi:filesystem/preopens")["get-directories"](None) == []
    for name in ("stdin", "stdout", "stderr"):
        assert functions(f"wasi:cli/terminal-{name}")[f"get-terminal-{name}"](None) is None
    for name in ("wasi:sockets/tcp", "wasi:io/poll"):
        assert functions(name) is None


def test_exit_stops_the_guest():
    with pytest.raises(WasmtimeError, match="asked to exit"):
        functions("wasi:cli/exit")["exit"](None, None)


def test_clock_and_randomness_follow_the_permissions():
    granted = functions("wasi:clocks/wall-clock", "clock")["now"](None)
    assert (granted.seconds, granted.nanoseconds) == (3, 7000)
    assert functions("wasi:clocks/wall-clock")["now"](None).seconds == 0
    assert functions("wasi:clocks/wall-clock")["resolution"](None).nanoseconds == 1000
    monotonic = "wasi:clocks/monotonic-clock"
    assert functions(monotonic, "clock")["now"](None) == 3_000_007_000
    assert functions(monotonic)["now"](None) == 0
    assert set(functions(monotonic)) == {"now", "resolution"}
    assert functions(monotonic)["resolution"](None) == 1000
    assert functions("wasi:random/random", "random")["get-random-bytes"](None, 2) == b"\x01\x01"
    assert functions("wasi:random/random")["get-random-u64"](None) == 0
    assert functions("wasi:random/insecure-seed")["insecure-seed"](None) == (0, 0)
    with pytest.raises(WasmtimeError):
        functions("wasi:random/random")["get-random-bytes"](None, 1 << 20)
