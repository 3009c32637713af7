"""
The part of YAML that plugin manifests use, and nothing more.

Mappings and sequences in block form, one-line flow lists and mappings, plain and quoted scalars,
block scalars (`|` and `>`) as values of a mapping, comments. Anchors, tags, several documents and
other multi-line strings are refused, with the line: a manifest decides what a plugin may do, so
what is not understood is never guessed.
"""

import json
import re
from typing import Any, Final

_INT: Final = re.compile(r"[+-]?\d+\Z")
_FLOAT: Final = re.compile(r"[+-]?\d+\.\d+\Z")
_KEY: Final = re.compile(
    r"""("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s:#'"\[\]{},&*!|>%@`-][^:#]*?)\s*:(?:\s+|\Z)"""
)
_BLOCK: Final = re.compile(r"([^#'\"]*\S\s*:\s+)([|>])([+-]?)\Z")
_MAX_DEPTH: Final = 16


class YamlError(ValueError):
    """The text is not of the part of YAML that is understood here."""


def parse_yaml(text: str) -> Any:
    """Read a document into dictionaries, lists and scalars."""
    lines: list[tuple[int, int, str]] = []
    rows = text.splitlines()
    following = 0
    for number, raw in enumerate(rows, 1):
        if number <= following:
            continue  # part of a block scalar
        body = _strip_comment(raw)
        if not body.strip() or (number == 1 and body.strip() == "---"):
            continue
        if "\t" in body[: len(body) - len(body.lstrip())]:
            raise YamlError(f"line {number}: tab in the indentation; expected spaces")
        stripped = body.strip()
        if stripped in ("---", "...") or stripped.startswith("%"):
            raise YamlError(f"line {number}: only one document is expected")
        indent = len(body) - len(body.lstrip(" "))
        block = _BLOCK.match(stripped)
        if block is not None:
            content, following = _block_scalar(rows, number, indent, block.group(2), block.group(3))
            stripped = block.group(1) + json.dumps(content)
        lines.append((number, indent, stripped))
    if not lines:
        return None
    value, after = _block(lines, 0, lines[0][1], 0)
    if after != len(lines):
        raise YamlError(f"line {lines[after][0]}: unexpected indentation")
    return value


def _strip_comment(line: str) -> str:
    quote = ""
    position = 0
    while position < len(line):
        char = line[position]
        if quote:
            if quote == '"' and char == "\\":
                position += 1
            elif char == quote:
                if quote == "'" and line[position + 1 : position + 2] == "'":
                    position += 1
                else:
                    quote = ""
        elif char in "'\"" and (position == 0 or line[position - 1] in " :[{,-"):
            quote = char
        elif char == "#" and (position == 0 or line[position - 1] in " \t"):
            return line[:position].rstrip()
        position += 1
    return line.rstrip()


def _block_scalar(
    rows: list[str], start: int, parent_indent: int, style: str, chomping: str
) -> tuple[str, int]:
    """The text below a `|` or `>`, and how many rows there are up to its end."""
    end = start
    while end < len(rows) and (
        not rows[end].strip() or len(rows[end]) - len(rows[end].lstrip(" ")) > parent_indent
    ):
        end += 1
    block = rows[start:end]
    first = next((row for row in block if row.strip()), "")
    indent = len(first) - len(first.lstrip(" "))
    for number, row in enumerate(block, start + 1):
        if row.strip() and row[:indent].strip():
            raise YamlError(f"line {number}: unexpected indentation in a block scalar")
    texts = [row[indent:] for row in block]
    content = "\n".join(texts)
    if style == ">":
        # Lines are one; an empty one is a line break.
        paragraphs = content.strip("\n").split("\n\n")
        content = "\n".join(part.replace("\n", " ") for part in paragraphs)
    if chomping != "+":
        content = content.rstrip("\n")
    return content + ("" if chomping == "-" or not content else "\n"), end


def _block(
    lines: list[tuple[int, int, str]], start: int, indent: int, depth: int
) -> tuple[Any, int]:
    if depth > _MAX_DEPTH:
        raise YamlError(f"line {lines[start][0]}: nested too deeply")
    first = lines[start][2]
    if first == "-" or first.startswith("- "):
        return _sequence(lines, start, indent, depth)
    if _KEY.match(first):
        return _mapping(lines, start, indent, depth)
    if start + 1 < len(lines) and lines[start + 1][1] >= indent:
        raise YamlError(f"line {lines[start][0]}: expected `key: value` or `- item`")
    return _scalar(first, lines[start][0]), start + 1


def _sequence(
    lines: list[tuple[int, int, str]], at: int, indent: int, depth: int
) -> tuple[list[Any], int]:
    items: list[Any] = []
    while at < len(lines) and lines[at][1] == indent:
        number, _, body = lines[at]
        if body != "-" and not body.startswith("- "):
            break
        rest = body[1:].strip()
        if not rest:
            if at + 1 < len(lines) and lines[at + 1][1] > indent:
                value, at = _block(lines, at + 1, lines[at + 1][1], depth + 1)
            else:
                value, at = None, at + 1
        elif _KEY.match(rest):
            inner = indent + (len(body) - len(body[1:].lstrip()))
            lines[at] = (number, inner, rest)
            value, at = _mapping(lines, at, inner, depth + 1)
        else:
            value, at = _scalar(rest, number), at + 1
        items.append(value)
    return items, at


def _mapping(
    lines: list[tuple[int, int, str]], at: int, indent: int, depth: int
) -> tuple[dict[str, Any], int]:
    result: dict[str, Any] = {}
    while at < len(lines) and lines[at][1] == indent:
        number, _, body = lines[at]
        match = _KEY.match(body)
        if match is None:
            raise YamlError(f"line {number}: expected `key: value`")
        key = _scalar(match.group(1), number)
        if not isinstance(key, str):
            key = match.group(1)
        if key in result:
            raise YamlError(f"line {number}: {key!r} is given twice")
        rest = body[match.end() :].strip()
        if rest:
            result[key], at = _scalar(rest, number), at + 1
            continue
        following = at + 1
        is_deeper = following < len(lines) and (
            lines[following][1] > indent
            or (lines[following][1] == indent and lines[following][2].startswith("-"))
        )
        if is_deeper:
            result[key], at = _block(lines, following, lines[following][1], depth + 1)
        else:
            result[key], at = None, following
    if at < len(lines) and lines[at][1] > indent:
        raise YamlError(f"line {lines[at][0]}: unexpected indentation")
    return result, at


def _scalar(text: str, number: int) -> Any:
    if text[0] in "[{":
        return _flow(text, number)
    if text[0] == '"':
        try:
            return json.loads(text)
        except ValueError as error:
            raise YamlError(f"line {number}: bad quoted string: {error}") from error
    if text[0] == "'":
        if len(text) < 2 or text[-1] != "'" or "'" in text[1:-1].replace("''", ""):
            raise YamlError(f"line {number}: bad quoted string")
        return text[1:-1].replace("''", "'")
    if text[0] in "&*!|>%@`":
        raise YamlError(f"line {number}: {text[0]!r} is not understood in a manifest")
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    if lowered in ("null", "~"):
        return None
    if _INT.match(text):
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    return text


def _flow(text: str, number: int) -> Any:
    """A one-line `[a, b]` or `{a: b}`, without another inside."""
    closing = "]" if text[0] == "[" else "}"
    inner = text[1:-1].strip()
    if text[-1] != closing or any(char in inner for char in "[]{}"):
        raise YamlError(f"line {number}: expected a one-line list or mapping without nesting")
    parts = [part.strip() for part in inner.split(",")] if inner else []
    if parts and not parts[-1]:
        parts.pop()
    if any(not part for part in parts):
        raise YamlError(f"line {number}: empty item")
    if closing == "]":
        return [_scalar(part, number) for part in parts]
    result: dict[str, Any] = {}
    for part in parts:
        key, colon, value = part.partition(":")
        if not colon or not value.strip():
            raise YamlError(f"line {number}: expected `key: value` in the mapping")
        result[str(_scalar(key.strip(), number))] = _scalar(value.strip(), number)
    return result
