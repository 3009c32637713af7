"""
What the model says about itself: for each field its kind, bounds, choices and default.

The loader, the JSON schema and the reference all go by this, so that the model is the only place
where a setting is declared. Knows nothing of TOML or of what any setting means.
"""

import types
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields as struct_fields

# Kinds of values, by how the operator writes them.
DURATION: Final = "duration"
SIZE: Final = "size"
PATH: Final = "path"
SECRET: Final = "secret"
STRING: Final = "string"
INTEGER: Final = "integer"
BOOLEAN: Final = "boolean"
LIST: Final = "list"  # of `item`; a single one may be written without brackets
TABLE: Final = "table"  # of `table`
TABLES: Final = "tables"  # [[name]], an array of `table`
NAMED_TABLES: Final = "named tables"  # [name.NAME], by a name of the operator's choice
FREE: Final = "free"  # any table; not the proxy's business


class Shape(Struct, frozen=True, kw_only=True):
    """What values a field takes."""

    kind: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    pattern: str = ""
    is_optional: bool = False
    item: "Shape | None" = None
    table: type[Struct] | None = None


class Setting(Struct, frozen=True, kw_only=True):
    """One field of a section."""

    name: str
    shape: Shape
    default: Any = None
    is_required: bool = False


@cache
def settings_of(section: type[Struct]) -> dict[str, Setting]:
    """The fields of a section by name, in the model's order."""
    hints = get_type_hints(section, include_extras=True)
    found = {}
    for declared in struct_fields(section):
        default: Any = declared.default
        if declared.default_factory is not NODEFAULT:
            default = declared.default_factory()
        found[declared.name] = Setting(
            name=declared.name,
            shape=_shape_of(hints[declared.name]),
            default=None if default is NODEFAULT else default,
            is_required=default is NODEFAULT,
        )
    return found


def _shape_of(annotation: Any, metas: tuple[Meta, ...] = ()) -> Shape:
    """Read an annotation; `metas` are those around it."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if origin is Annotated:
        return _shape_of(arguments[0], tuple(m for m in arguments[1:] if isinstance(m, Meta)))
    if origin in (types.UnionType, Union) and not _kind_said(metas):
        inner = next(argument for argument in arguments if argument is not types.NoneType)
        return _with(_shape_of(inner), is_optional=True)
    if origin is tuple:
        item = _shape_of(arguments[0])
        if item.table is not None:
            return Shape(kind=TABLES, table=item.table)
        return Shape(kind=LIST, item=item)
    if origin is dict:
        if arguments[1] is Any:
            return Shape(kind=FREE)
        return Shape(kind=NAMED_TABLES, table=arguments[1])
    if origin is Literal:
        return Shape(kind=STRING, choices=arguments)
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return Shape(kind=TABLE, table=annotation)
    return _scalar(annotation, metas)


def _scalar(annotation: Any, metas: tuple[Meta, ...]) -> Shape:
    kind = _kind_said(metas)
    if not kind:
        kind = {str: STRING, int: INTEGER, bool: BOOLEAN, Path: PATH}[annotation]
    shape = Shape(kind=kind)
    for meta in metas:
        shape = _with(
            shape,
            choices=(meta.extra or {}).get("choices", shape.choices),
            minimum=shape.minimum if meta.ge is None else meta.ge,
            above=shape.above if meta.gt is None else meta.gt,
            maximum=shape.maximum if meta.le is None else meta.le,
            pattern=meta.pattern or shape.pattern,
        )
    return shape


def _kind_said(metas: tuple[Meta, ...]) -> str:
    for meta in metas:
        if meta.extra and "kind" in meta.extra:
            return str(meta.extra["kind"])
    return ""


def _with(shape: Shape, **changes: Any) -> Shape:
    return Shape(**{name: getattr(shape, name) for name in shape.__struct_fields__} | changes)
