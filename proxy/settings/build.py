"""
Turn a parsed TOML document into the model's Structs, noting everything that does not fit.

A value that is wrong is noted and replaced by the field's default, so that one pass finds all
problems. Values that come from the environment or are secrets are never shown. Knows the model only
through `fields`; what holds between several settings is `checks`'s business.
"""

import math
import re
from collections.abc import Mapping
from os.path import abspath
from pathlib import Path as FilePath
from typing import Any, Final, TypeVar, cast

from msgspec import Struct

from proxy.settings.fields import (
    BOOLEAN,
    DURATION,
    FREE,
    INTEGER,
    LIST,
    NAMED_TABLES,
    PATH,
    SECRET,
    SIZE,
    STRING,
    TABLE,
    TABLES,
    Setting,
    Shape,
    settings_of,
)
from proxy.settings.kinds import Secret
from proxy.settings.positions import Path
from proxy.settings.problems import Problems, describe, kind_of, suggest
from proxy.settings.values import (
    EXPECTED_DURATION,
    EXPECTED_SIZE,
    expand_environment,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)

MAX_SECRET_BYTES: Final = 64 * 1024
# Names in the file that become labels and paths elsewhere: of branches, of plugins.
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")

S = TypeVar("S", bound=Struct)


class _Wrong(Exception):
    """A value does not fit: `reason`, `expected`, `got` as in Problems.add."""

    def __init__(self, reason: str, expected: str = "", got: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.expected = expected
        self.got = got


class Builder:
    """Builds sections from the tables of one file."""

    def __init__(self, base: FilePath, environ: Mapping[str, str], problems: Problems) -> None:
        self._base = base
        self._environ = environ
        self._problems = problems

    def build(self, section: type[S], table: dict[str, Any], path: Path = ()) -> S:
        """Make a section of a table. Where problems were noted, the result is of no use."""
        known = settings_of(section)
        values: dict[str, Any] = {}
        for key, raw in table.items():
            setting = known.get(key)
            if setting is None:
                self._unknown_key(key, known, path)
                continue
            values[key] = self._field(setting, raw, (*path, key))
        for setting in known.values():
            if setting.is_required and setting.name not in table:
                expected = _expected(setting.shape)
                self._problems.add((*path, setting.name), "required and not there", expected)
                values[setting.name] = ""
        return section(**values)

    def _unknown_key(self, key: str, known: Mapping[str, Setting], path: Path) -> None:
        hint = suggest(key, known)
        reason = f"unknown key; {hint}" if hint else "unknown key"
        expected = "" if hint else "one of " + ", ".join(known)
        self._problems.add((*path, key), reason, expected)

    def _field(self, setting: Setting, raw: Any, path: Path) -> Any:
        shape = setting.shape
        try:
            if shape.kind == TABLE:
                return self.build(_table_type(shape), _table(raw), path)
            if shape.kind == TABLES:
                return self._tables(shape, raw, path)
            if shape.kind == NAMED_TABLES:
                return self._named_tables(shape, raw, path)
            if shape.kind == FREE:
                return self._free(_table(raw), path)
            if shape.kind == LIST:
                return self._list(cast(Shape, shape.item), raw, path)
            return self._scalar(shape, raw)
        except _Wrong as wrong:
            self._problems.add(path, wrong.reason, wrong.expected, wrong.got)
            return setting.default

    def _tables(self, shape: Shape, raw: Any, path: Path) -> tuple[Struct, ...]:
        if not isinstance(raw, list):
            raise _Wrong("wrong type", f"[[{path[-1]}]] (two brackets)", kind_of(raw))
        tables = []
        for number, table in enumerate(raw):
            try:
                tables.append(self.build(_table_type(shape), _table(table), (*path, number)))
            except _Wrong as wrong:
                self._problems.add((*path, number), wrong.reason, wrong.expected, wrong.got)
        return tuple(tables)

    def _named_tables(self, shape: Shape, raw: Any, path: Path) -> dict[str, Struct]:
        tables = {}
        for name, table in _table(raw).items():
            place = (*path, name)
            if not _NAME.fullmatch(name):
                self._problems.add(place, "not a name", "1 to 128 letters, digits, _ . -")
                continue
            try:
                tables[name] = self.build(_table_type(shape), _table(table), place)
            except _Wrong as wrong:
                self._problems.add(place, wrong.reason, wrong.expected, wrong.got)
        return tables

    def _list(self, item: Shape, raw: Any, path: Path) -> tuple[Any, ...]:
        if isinstance(raw, str):
            return (self._scalar(item, raw),)
        if not isinstance(raw, list):
            raise _Wrong("wrong type", f"a list, each {_expected(item)}", kind_of(raw))
        values = []
        for number, element in enumerate(raw):
            try:
                values.append(self._scalar(item, element))
            except _Wrong as wrong:
                self._problems.add((*path, number), wrong.reason, wrong.expected, wrong.got)
        return tuple(values)

    def _free(self, table: dict[str, Any], path: Path) -> dict[str, Any]:
        """A plugin's own configuration: anything that JSON can say, with the environment in it."""
        result = {}
        for key, value in table.items():
            try:
                result[key] = self._free_value(value, (*path, key))
            except _Wrong as wrong:
                self._problems.add((*path, key), wrong.reason, wrong.expected, wrong.got)
        return result

    def _free_value(self, value: Any, path: Path) -> Any:
        if isinstance(value, str):
            return self._expanded(value)
        if isinstance(value, dict):
            return self._free(value, path)
        if isinstance(value, list):
            return [self._free_value(element, path) for element in value]
        if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        raise _Wrong("cannot be given to a plugin as JSON", "a string, number or boolean")

    def _scalar(self, shape: Shape, raw: Any) -> Any:
        if shape.kind == SECRET:
            return self._secret(raw)
        value = raw
        shown = describe(raw)
        if isinstance(raw, str):
            value = self._expanded(raw)
            if value != raw:
                shown += " with the environment's values"
                value = _from_environment(shape, value)
        try:
            return self._typed(shape, value)
        except _Wrong as wrong:
            raise _Wrong(wrong.reason, wrong.expected or _expected(shape), shown) from None

    def _typed(self, shape: Shape, value: Any) -> Any:
        if shape.kind == DURATION:
            # A bare number would leave the unit to be guessed; 0 means the same in every unit.
            text = "0" if value == 0 and isinstance(value, int) else value
            return _in_range(shape, _parsed(parse_duration, text))
        if shape.kind == SIZE:
            if isinstance(value, int) and not isinstance(value, bool):
                return _in_range(shape, value)
            return _in_range(shape, _parsed(parse_size, value))
        if shape.kind == BOOLEAN:
            if not isinstance(value, bool):
                raise _Wrong("wrong type")
            return value
        if shape.kind == INTEGER:
            if isinstance(value, bool) or not isinstance(value, int):
                raise _Wrong("wrong type")
            return _in_range(shape, value)
        if not isinstance(value, str):
            raise _Wrong("wrong type")
        if "\0" in value:
            raise _Wrong("holds a NUL character")
        if shape.kind == PATH:
            return FilePath(abspath(self._base / value)) if value else None
        if shape.choices and value not in shape.choices:
            hint = suggest(value, shape.choices)
            raise _Wrong(f"unknown value; {hint}" if hint else "unknown value")
        if shape.pattern and not re.search(shape.pattern, value):
            raise _Wrong("wrong form")
        return value

    def _secret(self, raw: Any) -> Secret:
        if isinstance(raw, str):
            secret = self._expanded(raw)
        elif isinstance(raw, dict) and list(raw) == ["file"] and isinstance(raw["file"], str):
            secret = self._secret_file(self._expanded(raw["file"]))
        else:
            raise _Wrong("wrong type", 'a string, or { file = "…" }', kind_of(raw))
        if "\0" in secret:
            raise _Wrong("holds a NUL character")
        return Secret(secret)

    def _secret_file(self, name: str) -> str:
        path = FilePath(abspath(self._base / name))
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SECRET_BYTES + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a file name"
            raise _Wrong(f"cannot read the secret from {path}: {reason}") from None
        if len(content) > MAX_SECRET_BYTES:
            raise _Wrong(f"the secret in {path} is too long", format_size(MAX_SECRET_BYTES))
        try:
            secret = content.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise _Wrong(f"the secret in {path} is not UTF-8") from None
        if not secret:
            raise _Wrong(f"the secret file {path} is empty")
        return secret

    def _expanded(self, text: str) -> str:
        try:
            return expand_environment(text, self._environ)
        except ValueError as error:
            raise _Wrong(str(error)) from None


def _table(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _Wrong("wrong type", "a table", kind_of(raw))
    return raw


def _table_type(shape: Shape) -> type[Struct]:
    return cast(type[Struct], shape.table)


def _from_environment(shape: Shape, text: str) -> Any:
    """The environment has only strings: take one for a number or a boolean where that is due."""
    if shape.kind == INTEGER and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if shape.kind == BOOLEAN and text in ("true", "false"):
        return text == "true"
    return text


def _parsed(parse: Any, value: Any) -> Any:
    if not isinstance(value, str):
        raise _Wrong("wrong type")
    try:
        return parse(value)
    except ValueError as error:
        raise _Wrong("wrong form", str(error)) from None


def _in_range(shape: Shape, number: float) -> float:
    if (
        (shape.minimum is not None and number < shape.minimum)
        or (shape.above is not None and number <= shape.above)
        or (shape.maximum is not None and number > shape.maximum)
    ):
        raise _Wrong("out of range")
    return number


def _expected(shape: Shape) -> str:
    """What a field takes, in words."""
    if shape.choices:
        return " | ".join(describe(choice) for choice in shape.choices)
    if shape.kind == SECRET:
        return 'a string, or { file = "…" }'
    words = {
        DURATION: EXPECTED_DURATION,
        SIZE: EXPECTED_SIZE,
        PATH: "a path",
        INTEGER: "an integer",
        BOOLEAN: "true or false",
        STRING: "a string",
    }[shape.kind]
    if shape.pattern:
        words += f" like {shape.pattern}"
    if shape.minimum is not None and shape.maximum is not None:
        return f"{words} from {_show(shape, shape.minimum)} to {_show(shape, shape.maximum)}"
    if shape.minimum is not None and shape.minimum > 0:
        return f"{words}, at least {_show(shape, shape.minimum)}"
    if shape.above is not None:
        return f"{words}, above {_show(shape, shape.above)}"
    return words


def _show(shape: Shape, bound: float) -> str:
    if shape.kind == DURATION:
        return format_duration(bound)
    return format_size(int(bound)) if shape.kind == SIZE else str(int(bound))
