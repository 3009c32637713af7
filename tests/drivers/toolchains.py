"""
Make the programs of each language runnable, in a directory that is kept between runs.

Nothing is written to the repository, and nothing but pinned versions is fetched, by each language's
own client. What a machine does not have is a reason to skip, said in one sentence.
"""

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
PGJDBC = "org.postgresql:postgresql:42.7.7"
BUILD_TIMEOUT_S = 900.0


class Unavailable(Exception):
    """The toolchain is not here, or cannot fetch what it needs: the reason."""


class Runnable:
    """A command, and the environment that it needs besides the one of the connection."""

    def __init__(self, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.command = command
        self.environment = dict(environment or {})


@functools.cache
def cache_directory() -> Path:
    """The directory for what is fetched and built; this user's own, and nobody else's."""
    named = os.environ.get("HEADGATE_DRIVERS_CACHE")
    default = Path(tempfile.gettempdir()) / f"headgate-drivers-{os.geteuid()}"
    path = Path(named) if named else default
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.lstat()
    # SAFETY: programs are run from here; in a shared directory somebody else may have made it.
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unavailable(f"{path} can be written by others; set HEADGATE_DRIVERS_CACHE")
    return path


def python(module: str, interpreter: str | None = None) -> Runnable:
    """A program of `python/`, in an environment of the pinned drivers."""
    executable = interpreter or str(python_environment())
    environment = {"PYTHONPATH": str(SOURCES.parent.parent), "PYTHONWARNINGS": "ignore"}
    return Runnable([executable, "-m", f"tests.drivers.python.{module}"], environment)


@functools.cache
def python_environment() -> Path:
    """An interpreter with the drivers of `python/requirements.txt`."""
    requirements = SOURCES / "python" / "requirements.txt"
    target = _directory("python", [requirements])
    executable = target / "bin" / "python"
    if not (target / "made").exists():
        _run([sys.executable, "-m", "venv", "--clear", str(target)], target)
        _run([str(executable), "-m", "pip", "install", "-q", "-r", str(requirements)], target)
        (target / "made").touch()
    return executable


@functools.cache
def _node_modules() -> Path:
    npm = _tool("npm")
    manifest = SOURCES / "node" / "package.json"
    target = _directory("node", [manifest])
    if not (target / "made").exists():
        shutil.copyfile(manifest, target / "package.json")
        options = ["--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
        _run([npm, "install", "--silent", *options], target)
        (target / "made").touch()
    return target / "node_modules"


def node(script: str) -> Runnable:
    """A program of `node/`."""
    return Runnable(
        [_tool("node"), str(SOURCES / "node" / script)], {"NODE_PATH": str(_node_modules())}
    )


@functools.cache
def go(package: str) -> Runnable:
    """A program of `go/`."""
    sources = SOURCES / "go"
    target = _directory("go", [*sorted(sources.rglob("*.go")), sources / "go.mod"])
    binary = target / package
    if not binary.exists():
        environment = {"GOCACHE": str(cache_directory() / "go-build"), "GOFLAGS": "-mod=readonly"}
        _run([_tool("go"), "build", "-o", str(binary), f"./{package}"], sources, environment)
    return Runnable([str(binary)])


@functools.cache
def java(name: str) -> Runnable:
    """A program of `java/`."""
    compiler, runner = _tool("javac"), _tool("java")
    source = SOURCES / "java" / f"{name}.java"
    target = _directory("java", [source])
    jar = target / f"postgresql-{PGJDBC.rsplit(':', 1)[1]}.jar"
    if not jar.exists():
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
        options = [f"-Dartifact={PGJDBC}", f"-DoutputDirectory={target}"]
        _run([_tool("mvn"), "-q", "-B", plugin, *options], target)
    if not (target / f"{name}.class").exists():
        _run([compiler, "-cp", str(jar), "-d", str(target), str(source)], target)
    return Runnable([runner, "-Xmx256m", "-cp", f"{jar}{os.pathsep}{target}", name])


@functools.cache
def rust(binary: str) -> Runnable:
    """A program of `rust/`."""
    sources = SOURCES / "rust"
    files = [sources / "Cargo.toml", *sorted((sources / "src").rglob("*.rs"))]
    target = _directory("rust", files)
    built = target / binary
    if not built.exists():
        # Built from a copy: cargo writes its lock file beside the sources.
        work = target / "work"
        shutil.copytree(sources, work, dirs_exist_ok=True)
        objects = cache_directory() / "rust-target"
        _run([_tool("cargo"), "build", "--quiet"], work, {"CARGO_TARGET_DIR": str(objects)})
        shutil.copyfile(objects / "debug" / binary, built)
        built.chmod(0o755)
    return Runnable([str(built)])


def _tool(name: str) -> str:
    """Find a program, also where language installers put it."""
    homes = [Path.home() / ".cargo/bin", Path("/usr/local/go/bin")]
    path = os.pathsep.join([os.environ.get("PATH", ""), *map(str, homes)])
    found = shutil.which(name, path=path)
    if found is None:
        raise Unavailable(f"there is no {name!r} on this machine")
    return found


def _directory(language: str, inputs: list[Path]) -> Path:
    """A directory for one language that another version of the inputs does not share."""
    digest = hashlib.sha256()
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    target = cache_directory() / f"{language}-{digest.hexdigest()[:16]}"
    target.mkdir(exist_ok=True)
    return target


def _run(command: list[str], directory: Path, environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        text = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise Unavailable(f"{Path(command[0]).name} failed: {text[-600:]}")
