"""
The JSON schema of the configuration file, made of the model, for editors.

It says what the loader's first half checks. What holds between several settings it cannot say.
"""

import json
from typing import Any, Final

from msgspec import Struct

from proxy.settings.fields import (
    BOOLEAN,
    DURATION,
    FREE,
    INTEGER,
    LIST,
    NAMED_TABLES,
    SECRET,
    SIZE,
    TABLE,
    TABLES,
    Shape,
    settings_of,
)
from proxy.settings.model import Settings
from proxy.settings.texts import has_default, plain_default, section_text, texts_of

_REFERENCE: Final = {"type": "string", "pattern": r"\$\{"}
_DURATION: Final = r"^(0|([0-9]+(\.[0-9]+)? ?(us|ms|s|min|m|h|d))+)$"
_SIZE: Final = r"^[0-9]+ ?([kKmMgGtT][iI]?)?[bB]?$"
_NAME: Final = r"^[A-Za-z0-9_.-]{1,128}$"


def schema() -> dict[str, Any]:
    """The schema as a document."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Headgate's configuration file",
        **_section(Settings),
    }


def schema_text() -> str:
    """The schema as it is committed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _section(section: type[Struct]) -> dict[str, Any]:
    texts = texts_of(section)
    properties = {}
    required = []
    for name, setting in settings_of(section).items():
        entry = _shape(setting.shape)
        text = texts[name]
        entry["description"] = text.purpose
        if text.reload:
            entry["description"] += f" Reload: {text.reload}."
        if setting.shape.table is None and has_default(setting):
            entry["default"] = plain_default(section, setting)
        if setting.is_required or (setting.name == "node" and section is Settings):
            required.append(name)
        properties[name] = entry
    document: dict[str, Any] = {
        "type": "object",
        "description": section_text(section),
        "properties": properties,
        "additionalProperties": False,
    }
    if required:
        document["required"] = required
    return document


def _shape(shape: Shape) -> dict[str, Any]:
    if shape.table is not None:
        table = _section(shape.table)
        if shape.kind == TABLES:
            return {"type": "array", "items": table, "minItems": 1}
        if shape.kind == NAMED_TABLES:
            names = {"pattern": _NAME}
            return {"type": "object", "propertyNames": names, "additionalProperties": table}
        assert shape.kind == TABLE
        return table
    if shape.kind == FREE:
        return {"type": "object"}
    if shape.kind == LIST and shape.item is not None:
        item = _shape(shape.item)
        return {"anyOf": [{"type": "array", "items": item}, item]}
    return _scalar(shape)


def _scalar(shape: Shape) -> dict[str, Any]:
    if shape.kind == SECRET:
        file = {"type": "object", "properties": {"file": {"type": "string"}}}
        return {
            "anyOf": [
                {"type": "string"},
                {**file, "required": ["file"], "additionalProperties": False},
            ]
        }
    if shape.kind == DURATION:
        return _or_reference({"type": "string", "pattern": _DURATION}, {"const": 0})
    if shape.kind == SIZE:
        return _or_reference(
            {"type": "string", "pattern": _SIZE}, {"type": "integer", **_bounds(shape)}
        )
    if shape.kind == INTEGER:
        return _or_reference({"type": "integer", **_bounds(shape)})
    if shape.kind == BOOLEAN:
        return _or_reference({"type": "boolean"})
    if shape.choices:
        return _or_reference({"enum": list(shape.choices)})
    if shape.pattern:
        return _or_reference({"type": "string", "pattern": shape.pattern})
    return {"type": "string"}


def _bounds(shape: Shape) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    if shape.minimum is not None:
        bounds["minimum"] = shape.minimum
    if shape.maximum is not None:
        bounds["maximum"] = shape.maximum
    return bounds


def _or_reference(*schemas: dict[str, Any]) -> dict[str, Any]:
    """A value, or a string with a variable of the environment in it."""
    return {"anyOf": [*schemas, _REFERENCE]}
