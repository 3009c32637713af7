"""
Compile the hot modules by mypyc, when the package is built and where a C compiler is there.

The same files run uncompiled everywhere else, so a failure to compile is no failure of the
build. The environment variable HEADGATE_COMPILE decides: `0` never compile, `1` compile or fail,
unset: compile if it works. An editable install is never compiled: its sources change under it.

As a script, `python hatch_build.py build/compiled` makes a copy of the working tree whose hot
modules are compiled beside their sources; the tests and the benchmark run in it.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# One group: calls within it are direct, calls across groups go through Python objects.
HOT_PATTERNS = (
    "proxy/errors.py",
    "proxy/protocol/*.py",
    "proxy/auth/*.py",
    "proxy/sql/statement.py",
    "proxy/sql/shapes.py",
    "proxy/sql/classify.py",
    "proxy/sql/analyse.py",
    "proxy/sql/json_text.py",
    "proxy/routing/*.py",
    "proxy/session/*.py",
    "proxy/hooks/points.py",
    "proxy/hooks/pipeline.py",
    "proxy/hooks/decisions.py",
    "proxy/hooks/plan.py",
    "proxy/hooks/clearing.py",
    "proxy/hooks/codec.py",
    "proxy/hooks/answers.py",
    "proxy/hooks/memo.py",
    "proxy/plugins/allowance.py",
    "proxy/plugins/breaker.py",
    "proxy/plugins/match.py",
    "proxy/plugins/subscriber.py",
    "proxy/pool/assignment.py",
    "proxy/pool/broker.py",
    "proxy/pool/directory.py",
    "proxy/pool/errands.py",
    "proxy/pool/nodes.py",
    "proxy/pool/plan.py",
    "proxy/pool/registry.py",
    "proxy/observe/counters.py",
    "proxy/server/frontend.py",
    "proxy/server/backend.py",
    "proxy/server/clock.py",
    "proxy/server/wire.py",
)
# Input and output, once a connection: nothing to gain, and asyncio's types in the way.
NOT_HOT = ("proxy/auth/userstore.py", "proxy/auth/failures.py")
# What mypyc has no words for: calls of C functions by their address. Each has a twin in Python.
C_FILES = ("proxy/plugins/_guestcall.c",)

COMPILER_REQUIREMENTS = ["mypy[mypyc]==2.4.1", "setuptools>=65"]
COPIED = ("proxy", "tests", "plugins_sdk", "config", "benchmarks", "docs", "tools", "README.md")
COPIED_FILES = (
    *("pyproject.toml", "constraints.txt", "hatch_build.py", "Makefile"),
    *("Dockerfile", "docker-compose.yml"),
)

# Types are checked strictly by `make lint`, with all dependencies there; a build environment has
# none of them. mypyc's own demands are always checked.
_SETUP = """
import sys
from setuptools import Extension, setup
from mypyc.build import mypycify
flags = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
c_files = [path for path in sys.argv[1:] if path.endswith(".c")]
modules = [path for path in sys.argv[1:] if path.endswith(".py")]
compiled = mypycify(flags + modules, opt_level="3", debug_level="0")
for extension in compiled:
    extension.extra_compile_args += ["-fvisibility=hidden", "-fno-plt", "-include", sys.argv[-1]]
setup(
    name="headgate-compiled",
    packages=[],
    py_modules=[],
    ext_modules=[
        *compiled,
        *(
            Extension(path[:-2].replace("/", "."), [path], extra_compile_args=["-fno-plt"])
            for path in c_files
        ),
    ],
    script_args=["--quiet", "build_ext", "--inplace"],
)
"""

# PERF: every step of compiled Python may raise, and the code for that stands in the middle of the
# rest. Told that these are not called as a rule, the C compiler puts it elsewhere, and what runs
# lies on half as many pages of memory; hidden, functions call each other directly. Together 0.5 to
# 1.3 of 6 to 10 us of user time a statement.
_RARELY_CALLED = """
#include <Python.h>
#define RARE __attribute__((cold))
void CPy_AddTraceback(const char *, const char *, int, PyObject *) RARE;
void CPy_TypeError(const char *, PyObject *) RARE;
void CPy_TypeErrorTraceback(const char *, const char *, int, PyObject *, const char *, PyObject *) RARE;
void CPy_AttributeError(const char *, const char *, const char *, const char *, int, PyObject *) RARE;
void CPyError_OutOfMemory(void) RARE;
PyAPI_FUNC(void) PyErr_SetString(PyObject *, const char *) RARE;
"""


def has_compiler() -> bool:
    """Tell whether the C compiler that this Python wants, or `cc`, is there."""
    configured = (sysconfig.get_config_var("CC") or "cc").split()[0]
    return any(shutil.which(name) for name in (os.environ.get("CC") or configured, configured))


def hot_modules(root: Path) -> list[str]:
    """List the modules to compile, relative to the tree."""
    found = {
        path.relative_to(root).as_posix()
        for pattern in HOT_PATTERNS
        for path in root.glob(pattern)
        if path.name != "__init__.py"
    }
    return sorted(found.difference(NOT_HOT))


def compile_tree(root: Path) -> list[str]:
    """Compile the hot modules of a tree in place; the libraries made, relative to it."""
    for stale in [*root.glob("*.so"), *root.glob("proxy/**/*.so")]:
        stale.unlink()
    header = root / "build" / "rarely_called.h"
    header.parent.mkdir(exist_ok=True)
    header.write_text(_RARELY_CALLED)
    done = subprocess.run(
        [sys.executable, "-c", _SETUP, *hot_modules(root), *C_FILES, str(header.resolve())],
        cwd=root,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the hot modules were not compiled:\n{done.stdout[-4000:]}")
    shutil.rmtree(root / "build", ignore_errors=True)
    libraries = [*root.glob("*.so"), *root.glob("proxy/**/*.so")]
    return sorted(path.relative_to(root).as_posix() for path in libraries)


def copy_tree(source: Path, target: Path, keep_libraries: bool = False) -> None:
    """Copy what tests and benchmarks need to another place."""
    if not keep_libraries:
        shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    ignore = shutil.ignore_patterns("__pycache__", "*.so", ".*_cache")
    for name in COPIED:
        if keep_libraries and name != "proxy":
            shutil.rmtree(target / name, ignore_errors=True)
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, ignore=ignore, dirs_exist_ok=True)
    for name in (*COPIED_FILES, *(entry for entry in COPIED if "." in entry)):
        if (source / name).is_file():
            shutil.copy2(source / name, target / name)


class CustomBuildHook(BuildHookInterface[BuilderConfig]):
    """Put the compiled modules into the wheel, beside their sources."""

    def dependencies(self) -> list[str]:
        """Ask for the compiler of Python only where it will be used."""
        return COMPILER_REQUIREMENTS if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the libraries to the wheel builder."""
        if version == "editable" or not _wanted():
            return
        self._scratch = tempfile.TemporaryDirectory(prefix="headgate-build-")
        tree = Path(self._scratch.name) / "tree"
        copy_tree(Path(self.root), tree)
        try:
            libraries = compile_tree(tree)
        except RuntimeError as failure:
            if os.environ.get("HEADGATE_COMPILE") == "1":
                raise
            self.app.display_warning(f"building pure Python: {failure}")
            return
        for library in libraries:
            build_data["force_include"][str(tree / library)] = library
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(
        self,
        version: str,
        build_data: dict[str, Any],
        artifact_path: str,
    ) -> None:
        """Remove the scratch tree."""
        if hasattr(self, "_scratch"):
            self._scratch.cleanup()


def _wanted() -> bool:
    choice = os.environ.get("HEADGATE_COMPILE", "")
    return choice == "1" or (choice != "0" and has_compiler())


def main() -> int:
    """Make the compiled copy of this tree that is named on the command line, or refresh it.

    `--refresh` copies all again and keeps the libraries: right when no source has changed.
    """
    source = Path(__file__).resolve().parent
    target = Path(sys.argv[-1]).resolve()
    if "--refresh" in sys.argv[1:-1]:
        copy_tree(source, target, keep_libraries=True)
        return 0
    copy_tree(source, target)
    libraries = compile_tree(target)
    sys.stdout.write(f"compiled {len(libraries) - 1} modules in {target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
