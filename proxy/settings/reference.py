"""
Write what is generated from the model: `python -m proxy.settings.reference`.

docs/configuration.md, config/headgate.toml with every key commented out, and the JSON schema. A
test says when they are no longer what the model says.
"""

import re
import textwrap
from pathlib import Path
from typing import Final

from msgspec import Struct

from proxy.settings.fields import (
    BOOLEAN,
    DURATION,
    FREE,
    INTEGER,
    LIST,
    PATH,
    SECRET,
    SIZE,
    Shape,
    settings_of,
)
from proxy.settings.kinds import MAX_COUNT
from proxy.settings.schema import schema_text
from proxy.settings.texts import (
    has_default,
    section_text,
    sections,
    texts_of,
    toml_default,
)
from proxy.settings.values import format_duration, format_size

_WIDTH: Final = 98
_KINDS: Final = {
    DURATION: "duration",
    SIZE: "size",
    PATH: "path",
    SECRET: "secret",
    INTEGER: "integer",
    BOOLEAN: "boolean",
    FREE: "table",
}

_SAMPLE_HEAD: Final = """\
#:schema headgate.schema.json
#
# Every setting of Headgate, commented out, with its default. A file needs at least one [[node]].
#
# Durations: "5ms", "30s", "10m", "1h30m", "2d"; "0" is off where it is allowed.
# Sizes: "64kB", "16MiB", "1GB"; all units are powers of 1024.
# ${NAME} and ${NAME:-default} in a string take environment variables; $${ is ${ itself.
# Secrets: in place, from the environment, or { file = "…" }.
# Paths are relative to this file. "" is none.
#
# headgate check --config FILE   says what is wrong with a file, and where.
#
# Made by `python -m proxy.settings.reference`; the same for reading: docs/configuration.md.
"""

_DOCUMENT_HEAD: Final = """\
# Configuration

<!-- Made by `python -m proxy.settings.reference` from proxy/settings/model.py. -->

Headgate reads one TOML file: `headgate serve --config FILE`. `headgate check --config FILE` says
whether it is right; `config/headgate.toml` has every key with its default,
`config/minimal.toml` the few that are needed, and `config/headgate.schema.json` tells an editor what
may stand where.

## How values are written

- **duration**: `"5ms"`, `"30s"`, `"10m"`, `"1h30m"`, `"2d"`; the units are us, ms, s, m (or min), h
  and d; `"0"` or `0` is off where that is allowed.
- **size**: `"64kB"`, `"16MiB"`, `"1GB"`, or an integer of bytes. The units are powers of 1024, as in
  PostgreSQL: kB is KiB.
- **path**: relative to the file; `""` is none.
- **secret**: `"…"`, `"${NAME}"` or `{ file = "…" }`, from which the last line end is dropped. Secrets
  are never logged or shown.
- **list**: `["a", "b"]`; `"a"` stands for `["a"]`.

`${NAME}` and `${NAME:-default}` in a string take an environment variable; the default is used when
the variable is not set or is empty. A variable that is not set and has no default is an error. `$${`
stands for `${`. This happens in string values after the file was parsed: a variable cannot add a key,
and what it holds is not expanded again. Where an integer or a boolean is due, a string with a
variable in it may give it: `port = "${PORT:-6432}"`.

## What is wrong, and where

A file is checked as a whole: every problem has one line, with the file, the line, the key, the
reason, and what was expected. `serve` and `check` then end with exit code 2.

```
headgate.toml:4: listen.prot: unknown key; did you mean port?
headgate.toml:9: pool.size: out of range; expected an integer from 1 to 1000000; got 0
headgate.toml:21: database[0].nodes[1]: no [[node]] has this name; expected "pg1" | "pg2"; got "pg3"
```

Besides each value for itself, these must hold:

- there is at least one `[[node]]`; names of nodes and of databases are there once; the nodes that
  `[[database]]` and `[branches.NAME]` name exist; no database has the admin console's name;
- `admin.token` is set when `admin.host` is not loopback;
- `auth.method = "trust"` with a `listen.host` that is not loopback needs
  `auth.allow_remote_trust = true`: without a proof of identity, whoever reaches the port is in;
- the password methods need `auth.users_file` or `auth.query` (or `auth.hba_file`), `cert` needs
  `listen.tls.client_ca`, `auth.query` needs `$1` and `auth.query_user`;
- `listen.tls.mode = "require"` needs a certificate; certificates, keys and authorities can be used;
- files and directories that are named are there and can be read; the users file has no bad line.

## Reload

SIGHUP, the console's RELOAD and the admin API read the file again. A file with a problem changes
nothing. A setting that says *reload: no* keeps its value until the proxy is started again, and a
changed one is logged.
"""


def sample() -> str:
    """The content of config/headgate.toml."""
    parts = [_SAMPLE_HEAD]
    for header, section in sections().items():
        # Plain tables may stand there empty, so that taking the mark off a key is enough.
        mark = "#" if _is_of_many(header) else ""
        parts.append(f"\n{_comment(_about(section))}{mark}{header}\n")
        for name, setting in settings_of(section).items():
            if setting.shape.table is not None:
                continue
            text = texts_of(section)[name]
            note = f"{text.purpose} {_shown_range(setting.shape)}".strip()
            if setting.shape.is_optional:
                note += " Not set by default."
            # Not broken by the wrapping: these words are looked for.
            parts.append(_comment(f"{note} Reload:\N{NO-BREAK SPACE}{text.reload}."))
            parts.append(f"#{name} = {toml_default(section, setting)}\n")
    return "".join(parts)


def uncommented(text: str) -> str:
    """The sample with the marks before keys and headers taken off."""
    return re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE)


def document() -> str:
    """The content of docs/configuration.md."""
    parts = [_DOCUMENT_HEAD]
    for header, section in sections().items():
        parts.append(f"\n## `{header}`\n\n{_about(section)}\n")
        rows = []
        for name, setting in settings_of(section).items():
            if setting.shape.table is not None:
                continue
            text = texts_of(section)[name]
            default = f"`{toml_default(section, setting)}`" if has_default(setting) else "—"
            takes = _shown_kind(setting.shape)
            cells = (f"`{name}`", takes, default, text.reload, text.purpose)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
        if rows:
            head = (
                "| key | takes | default | reload | what it is |\n| --- | --- | --- | --- | --- |"
            )
            parts.append(f"\n{head}\n{''.join(rows)}")
    return "".join(parts)


def _is_of_many(header: str) -> bool:
    return header.startswith(("[[", "[node", "[branches", "[plugins.settings"))


def _about(section: type[Struct]) -> str:
    text = section_text(section).strip()
    return text[:1].upper() + text[1:]


def _comment(text: str) -> str:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += textwrap.wrap(" ".join(paragraph.split()), _WIDTH)
    return "".join(f"# {line}\n" for line in lines).replace("\N{NO-BREAK SPACE}", " ")


def _shown_kind(shape: Shape) -> str:
    if shape.kind == LIST and shape.item is not None:
        return f"list of {_shown_kind(shape.item)}" if not shape.item.choices else "list of names"
    if shape.choices:
        return " | ".join(f'`"{choice}"`' for choice in shape.choices)
    words = _KINDS.get(shape.kind, "string")
    bounds = _shown_range(shape)
    return f"{words}, {bounds[:1].lower()}{bounds[1:-1]}" if bounds else words


def _shown_range(shape: Shape) -> str:
    """The bounds of a value as a sentence, or ""."""
    if shape.choices:
        return "One of: " + ", ".join(f'"{choice}"' for choice in shape.choices) + "."
    if shape.kind == DURATION:
        return "" if shape.above is None else f"Above {format_duration(shape.above)}."
    low, high = shape.minimum, shape.maximum
    if high == MAX_COUNT:
        # Not a limit that anybody meets: it only keeps typing errors out.
        high = None
    if low is None or (high is None and low <= 0):
        return ""
    show = format_size if shape.kind == SIZE else str
    return f"{show(int(low))} to {show(int(high))}." if high else f"At least {show(int(low))}."


def generated() -> dict[str, str]:
    """Everything that is generated: path in the repository, content."""
    return {
        "config/headgate.toml": sample(),
        "config/headgate.schema.json": schema_text(),
        "docs/configuration.md": document(),
    }


def write(root: Path) -> None:
    """Write all generated files below a directory."""
    for name, content in generated().items():
        (root / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).resolve().parents[2])
