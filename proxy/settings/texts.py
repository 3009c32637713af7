"""
What is written under the model's fields, and values as an operator writes them.

The strings under the fields are not kept at run time, so they are read from the model's source.
Used by what is generated from the model, never by the running proxy.
"""

import ast
import inspect
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from proxy.settings.fields import (
    DURATION,
    FREE,
    LIST,
    NAMED_TABLES,
    PATH,
    SIZE,
    TABLE,
    TABLES,
    Setting,
    Shape,
    settings_of,
)
from proxy.settings.problems import describe
from proxy.settings.values import format_duration, format_size

NESTED: Final = (TABLE, TABLES, NAMED_TABLES)
_RELOAD: Final = re.compile(r"\s*Reload: (yes|no)(?:, ([^.]+))?\.$")

# What stands in generated files where there is no default: for what must be given, and for what
# has no value until it is.
_EXAMPLES: Final = {
    "Node.name": '"pg1"',
    "Database.name": '"*"',
    "Branch.database": '"app_dev"',
    "PluginOverride.priority": "100",
    "PluginOverride.on_error": '"closed"',
    "PluginOverride.grants": '["query.block", "log"]',
    "PluginOverrideLimits.memory": '"16MiB"',
    "PluginOverrideLimits.fuel": "5000000",
    "PluginOverrideLimits.auth_fuel": "50000000",
    "PluginOverrideLimits.init_fuel": "500000000",
    "PluginOverrideLimits.timeout_ms": "10",
    "PluginOverrideLimits.auth_timeout_ms": "100",
    "PluginOverrideLimits.input": '"64KiB"',
    "PluginOverrideLimits.output": '"64KiB"',
}
EXAMPLE_NAMES: Final = {"branches": "dev", "settings": "no-drop"}


class Text(Struct, frozen=True):
    """The string under a field: what it is for, and what a reload does to it."""

    purpose: str
    reload: str


@cache
def texts_of(section: type[Struct]) -> dict[str, Text]:
    """The strings under the fields of a section, by name."""
    source = inspect.getsource(sys.modules[section.__module__])
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == section.__name__:
            return _field_texts(node)
    raise LookupError(section.__name__)


def _field_texts(node: ast.ClassDef) -> dict[str, Text]:
    texts = {}
    for field, after in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
            reload = _RELOAD.search(text)
            answer = ""
            if reload is not None:
                text = text[: reload.start()]
                answer = ", ".join(part for part in reload.groups() if part)
            texts[field.target.id] = Text(text, answer)
    return texts


def section_text(section: type[Struct]) -> str:
    """The docstring of a section, without its first words, which name it."""
    text = inspect.getdoc(section) or ""
    return text.split(": ", 1)[1] if text.startswith("`[") else text


def has_default(setting: Setting) -> bool:
    """Whether the field has a value that a file can say."""
    return not setting.is_required and not setting.shape.is_optional


def toml_default(section: type[Struct], setting: Setting) -> str:
    """The default as TOML; where there is none, an example."""
    if has_default(setting):
        return to_toml(setting.shape, setting.default)
    return _EXAMPLES[f"{section.__name__}.{setting.name}"]


def plain_default(section: type[Struct], setting: Setting) -> Any:
    """What toml_default says, as a parser gives it."""
    return tomllib.loads(f"value = {toml_default(section, setting)}")["value"]


def to_toml(shape: Shape, value: Any) -> str:
    """A value of the model as an operator would write it."""
    if shape.kind == LIST and shape.item is not None:
        item = shape.item
        return "[" + ", ".join(to_toml(item, element) for element in value) + "]"
    if shape.kind == FREE:
        return "{}"
    if shape.kind == DURATION:
        return describe(format_duration(value))
    if shape.kind == SIZE:
        return describe(format_size(value))
    if shape.kind == PATH:
        return describe("" if value is None else str(Path(value)))
    return describe(str(value) if isinstance(value, str) else value)


def sections() -> dict[str, type[Struct]]:
    """All sections by how their headers are written, in the order of the file."""
    from proxy.settings.model import Settings

    found: dict[str, type[Struct]] = {}
    _collect("", Settings, found)
    return found


def _collect(prefix: str, section: type[Struct], found: dict[str, type[Struct]]) -> None:
    for setting in settings_of(section).values():
        table = setting.shape.table
        if table is None:
            continue
        name = prefix + setting.name
        if setting.shape.kind == NAMED_TABLES:
            name += f".{EXAMPLE_NAMES[setting.name]}"
        found[f"[[{name}]]" if setting.shape.kind == TABLES else f"[{name}]"] = table
        _collect(name + ".", table, found)
