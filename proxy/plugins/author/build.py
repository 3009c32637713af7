"""
From a plugin's source directory to its module, with the tools of its language.

Which language it is shows in its files: Cargo.toml is Rust, `app.py` a Python component, `app.js` a
JavaScript one, `*.c` C, `*.wat` WAT, which needs no tool at all.
"""

import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import wasmtime

_TIMEOUT_S = 600


class BuildFailed(Exception):
    """A build did not succeed; the text says which tool said what, or which is missing."""


def build(directory: Path) -> Path:
    """Build the module `<name>.wasm` of a directory, and give its path."""
    directory = directory.resolve()
    name = _name_of(directory)
    target = directory / f"{name}.wasm"
    if (directory / "Cargo.toml").is_file():
        return _rust(directory, target)
    if (directory / "app.py").is_file():
        return _python(directory, target)
    if (directory / "app.js").is_file():
        return _javascript(directory, target)
    sources = sorted(directory.glob("*.c"))
    if sources:
        return _c(directory, sources, target)
    texts = sorted(directory.glob("*.wat"))
    if len(texts) == 1:
        try:
            target.write_bytes(bytes(wasmtime.wat2wasm(texts[0].read_text("utf-8"))))
        except wasmtime.WasmtimeError as error:
            raise BuildFailed(f"{texts[0].name}: {error}") from error
        return target
    raise BuildFailed(f"{directory}: expected Cargo.toml, app.py, app.js, *.c or one *.wat")


def _name_of(directory: Path) -> str:
    manifests = [p for p in sorted(directory.glob("*.toml")) if p.name != "Cargo.toml"]
    if len(manifests) != 1:
        raise BuildFailed(f"{directory}: expected one manifest NAME.toml, found {len(manifests)}")
    return manifests[0].stem


def _run(tool: str, arguments: Sequence[str], directory: Path, hint: str) -> None:
    found = shutil.which(tool) or shutil.which(tool, path=str(directory / "node_modules" / ".bin"))
    if found is None:
        raise BuildFailed(f"{tool} is not installed; {hint}")
    try:
        done = subprocess.run(
            [found, *arguments], cwd=directory, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise BuildFailed(f"{tool} did not end within {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise BuildFailed(f"{tool} failed:\n{done.stderr.strip() or done.stdout.strip()}")


def _c(directory: Path, sources: Sequence[Path], target: Path) -> Path:
    flags = [
        "--target=wasm32", "-nostdlib", "-ffreestanding", "-O2", "-Wall", "-Wextra",
        "-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,--strip-all",
    ]  # fmt: skip
    _run(
        "clang",
        [*flags, "-o", str(target), *[str(path) for path in sources]],
        directory,
        "install clang and lld (Debian: apt-get install clang lld)",
    )
    return target


def _rust(directory: Path, target: Path) -> Path:
    triple = "wasm32-unknown-unknown"
    _run(
        "cargo",
        ["build", "--release", "--target", triple],
        directory,
        f"install Rust and `rustup target add {triple}`",
    )
    package = tomllib.loads((directory / "Cargo.toml").read_text("utf-8"))["package"]["name"]
    built = directory / "target" / triple / "release" / f"{package.replace('-', '_')}.wasm"
    if not built.is_file():
        raise BuildFailed(f'{built} was not made; expected crate-type = ["cdylib"]')
    shutil.copyfile(built, target)
    return target


def _python(directory: Path, target: Path) -> Path:
    _run(
        "componentize-py",
        [
            "-d", "world.wit", "-w", "plugin", "componentize", "--stub-wasi", "app",
            "-o", str(target),
        ],
        directory,
        "install it with `pip install componentize-py`",
    )  # fmt: skip
    return target


def _javascript(directory: Path, target: Path) -> Path:
    _run(
        "componentize-qjs",
        ["--wit", "world.wit", "--world", "plugin", "--js", "app.js", "--sync", "-o", str(target)],
        directory,
        "install it with `npm install componentize-qjs` here, or with -g",
    )
    return target
