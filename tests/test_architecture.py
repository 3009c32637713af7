"""
The shape of the tree, as `proxy/__init__.py` draws it: who may import whom, how long a file may be.

An `ast` walk over the sources; nothing is imported. An import that is only for types counts too:
a layer must be readable without the layers above it, except where a class names its partner.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROXY = ROOT / "proxy"
MAX_LINES = 600

# From low to high: a module imports from its own layer and from lower ones.
LAYERS = (
    ("errors",),
    ("observe.counters",),
    ("settings.kinds", "settings.model", "settings.plugin_model"),
    ("protocol",),
    ("auth",),
    ("sql.statement",),
    ("routing.route", "routing.node"),
    ("session",),
    ("sql", "routing", "settings", "observe.log"),
    ("hooks", "pool"),
    ("plugins",),
    ("observe", "server", "admin"),
    ("demo",),
    ("cli", "__main__"),
)
PURE = (
    "protocol",
    "auth",
    "session",
    "routing",
    "pool.assignment",
    "hooks.decisions",
    "hooks.pipeline",
    "hooks.plan",
)
BANNED_IN_PURE = {"asyncio", "socket", "ssl", "logging", "time", "random", "os", "structlog"}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PROXY.rglob("*.py")):
        name = ".".join(path.relative_to(PROXY).with_suffix("").parts)
        yield name.removesuffix(".__init__"), path


def layer_of(name: str) -> int:
    """The layer whose longest prefix fits; -1 for the package itself."""
    best, length = -1, -1
    for number, prefixes in enumerate(LAYERS):
        for prefix in prefixes:
            if (name == prefix or name.startswith(prefix + ".")) and len(prefix) > length:
                best, length = number, len(prefix)
    return best


def imports_at_the_top(path: Path) -> Iterator[tuple[str, int]]:
    """Imports that run at import time: not those inside functions, not those for types only."""
    tree = ast.parse(path.read_text())
    skipped: set[int] = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if is_function or is_for_types:
            skipped.update(id(child) for child in ast.walk(node))
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module, node.lineno
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


ALL = dict(modules())


@pytest.mark.parametrize("name", [name for name in ALL if name])
def test_every_module_has_a_layer(name: str) -> None:
    assert layer_of(name) >= 0 or "." not in name, f"proxy.{name} is on no layer of the map"


@pytest.mark.parametrize("name", list(ALL))
def test_imports_go_down(name: str) -> None:
    own = layer_of(name)
    wrong = []
    for imported, line in imports_at_the_top(ALL[name]):
        target = imported.removeprefix("proxy.")
        if not imported.startswith("proxy.") or target not in ALL or own < 0:
            continue
        if layer_of(target) > own:
            wrong.append(f"{ALL[name].relative_to(ROOT)}:{line} imports {imported}")
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in ALL if name.startswith(PURE)])
def test_the_pure_core_does_no_input_or_output(name: str) -> None:
    found = {imported.split(".")[0] for imported, _ in imports_at_the_top(ALL[name])}
    assert found & BANNED_IN_PURE == set()


def test_files_are_short() -> None:
    sources = [
        *ROOT.glob("proxy/**/*.py"),
        *ROOT.glob("tests/**/*.py"),
        *ROOT.glob("benchmarks/*.py"),
    ]
    lengths = {path.relative_to(ROOT).as_posix(): path.read_text().count("\n") for path in sources}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_the_map_names_every_package() -> None:
    text = (PROXY / "__init__.py").read_text()
    packages = {path.parent.name for path in PROXY.glob("*/__init__.py")}
    missing = {name for name in packages if not re.search(rf"^    {name}/", text, re.MULTILINE)}
    assert missing == set()


def test_only_one_place_makes_tasks() -> None:
    makers = [
        path.relative_to(ROOT).as_posix()
        for path in sorted(ROOT.glob("proxy/**/*.py"))
        if re.search(r"asyncio\.(create_task|ensure_future)\(", path.read_text())
    ]
    assert makers == ["proxy/server/tasks.py"]


def test_no_path_and_no_package_index_of_any_machine() -> None:
    pattern = re.compile(r"--(extra-)?index-url|pythonhosted\.org|registry\.npmjs|/home/\w+/")
    for path in ROOT.rglob("*"):
        if path.suffix in {".py", ".toml", ".txt", ".md", ".yml", ".json", ".cfg"} and not any(
            part in {".git", ".venv", "build", "node_modules"} for part in path.parts
        ):
            if path.name != Path(__file__).name:
                assert not pattern.search(path.read_text(errors="replace")), path
