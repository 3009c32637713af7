"""
Plugins for tests, written in WAT: sources beside this file, and what turns them into plugin files.

`body_plugin` makes an ABI 1 module around one function body; the `.wat` files are whole modules.
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import wasmtime

from proxy.hooks.points import EMPTY_CHAINS, Completion, HookChains
from proxy.plugins.ffi import Imports
from proxy.plugins.host.guest import Guest
from proxy.plugins.host.services import Services
from proxy.plugins.manager import PluginManager
from proxy.settings.model import Settings
from proxy.settings.plugin_model import Plugins

HERE = Path(__file__).parent
ALL_GRANTS = (
    "query.block", "query.rewrite", "query.answer", "route.decide", "kv.read", "kv.write", "log",
    "metrics", "config", "clock", "random", "crypto", "cache.read", "cache.write", "auth.decide",
    "authz.decide", "conn.deny",
)  # fmt: skip


def wasm_of(name: str) -> bytes:
    """A module of this directory, built."""
    return bytes(wasmtime.wat2wasm((HERE / f"{name}.wat").read_text()))


def escaped(data: bytes) -> str:
    """Bytes as a WAT string."""
    return "".join(f"\\{byte:02x}" for byte in data)


def body_wat(
    body: str, answer: bytes = b"", hook: str = "pre_query", extra: str = "", pages: int = 2
) -> str:
    """An ABI 1 module whose hook has this body; `answer` lies at 16, `$answer` packs it."""
    body = body.replace("$answer", f"(i64.const {(16 << 32) | len(answer)})")
    return f"""(module {extra}
      (memory (export "memory") {pages} 1000)
      (func (export "headgate_abi_1"))
      (func (export "input_buffer") (param i32) (result i32) i32.const 65536)
      (func (export "{hook}") (param i32 i32) (result i64) {body})
      (data (i32.const 16) "{escaped(answer)}"))"""


def manifest(
    name: str,
    version: str = "1.0.0",
    hooks: str = '"pre_query"',
    permissions: str = '"query.block"',
    more: str = "",
) -> str:
    """A native manifest."""
    return (
        f'name = "{name}"\nversion = "{version}"\nhooks = [{hooks}]\n'
        f"permissions = [{permissions}]\n{more}\n"
    )


def put(
    directory: Path, name: str, wat: str | bytes, text: str | None = None, suffix: str = ".toml"
) -> Path:
    """Write a plugin's files, the manifest first, so that a complete pair appears at once."""
    wasm = wat if isinstance(wat, bytes) else bytes(wasmtime.wat2wasm(wat))
    (directory / f"{name}{suffix}").write_text(text if text is not None else manifest(name))
    path = directory / f"{name}.wasm"
    path.write_bytes(wasm)
    return path


class FakePipeline:
    """Holds the chains that a manager installs."""

    def __init__(self) -> None:
        self.chains = EMPTY_CHAINS
        self.installs = 0

    def install(self, chains: HookChains) -> HookChains:
        """Exchange them, as the real one does."""
        self.installs += 1
        old, self.chains = self.chains, chains
        return old


def make_manager(directory: Path, pipeline: FakePipeline, **options: object) -> PluginManager:
    """A manager over a directory that grants everything unless told otherwise."""
    options.setdefault("grants", ALL_GRANTS)
    options.setdefault("watch", False)
    plugins = Plugins(dir=directory, **options)  # type: ignore[arg-type]
    return PluginManager(Settings(plugins=plugins), pipeline)


async def until(predicate: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Wait for what tells nobody when it has come."""
    async with asyncio.timeout(timeout_s):
        while not predicate():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


class Waiting(Completion):
    """A call on a worker thread: `await waiting.future` gives (answer, failed cause)."""

    def __init__(self) -> None:
        self.future: asyncio.Future[tuple[bytes | None, str]] = (
            asyncio.get_running_loop().create_future()
        )

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """Wake up the test."""
        self.future.set_result((answer, failed_cause))


def exported(store: wasmtime.Store, module: wasmtime.Module, name: str) -> wasmtime.Func:
    """A function of a new instance, called through the public API."""
    function = wasmtime.Instance(store, module, []).exports(store)[name]
    assert isinstance(function, wasmtime.Func)
    return function


class FakeSandbox:
    """Memory without a module, for host functions."""

    def __init__(self, size: int) -> None:
        self.memory = memoryview(bytearray(size))
        self.memory_bytes = size
        self.deadlines: list[int] = []

    def holds(self, address: int, length: int) -> bool:
        """As Sandbox."""
        return address + length <= self.memory_bytes

    def grow_view(self) -> bool:
        """As Sandbox."""
        return False

    def extend(self, ticks: int) -> None:
        """As Sandbox."""
        self.deadlines.append(ticks)


class FakeImports:
    """Imports with a fake sandbox."""

    def __init__(self, sandbox: FakeSandbox) -> None:
        self.active: FakeSandbox | None = sandbox


def fake_guest(
    permissions: Iterable[str] = (),
    config: dict[str, Any] | None = None,
    services: Services | None = None,
    memory_bytes: int = 200,
    is_fast: bool = True,
) -> Guest:
    """A guest whose memory is a buffer and whose sandbox only notes deadlines."""
    # Imports and Sandbox are final, as they are bound to the C library; a guest uses three of
    # their methods, which the fakes have.
    imports = cast(Imports, FakeImports(FakeSandbox(memory_bytes)))
    return Guest(
        "p", frozenset(permissions), config or {}, services or Services(), imports, is_fast
    )
