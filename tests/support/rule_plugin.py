"""
Plugins that do what a test says: the first rule whose text is in a hook's input gives the answer.

Each call is counted (`fired_<hook>`), and its input kept (KV key `last_<hook>`), so that a test can
tell from outside, by /metrics and the API, that a hook fired in a running proxy and what it saw.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wasmtime

from tests.support.system import RunningProxy
from tests.support.wat import escaped

Answer = bytes | str | dict[str, Any] | list[Any] | int
Rules = Sequence[tuple[str, Answer]]
"""Pairs of a text and an answer; the text "" is in every input."""

OBSERVERS = ("post_query", "on_disconnect")
_STRINGS_AT = 64
_INPUT_AT = 3 * 65536
_PAGES = 5

_HAS = """
  (func $has (param $at i32) (param $size i32) (param $text i32) (param $length i32) (result i32)
    (local $i i32) (local $j i32)
    (loop $next
      (if (i32.gt_u (i32.add (local.get $i) (local.get $length)) (local.get $size))
        (then (return (i32.const 0))))
      (local.set $j (i32.const 0))
      (block $differs
        (loop $same
          (if (i32.eq (local.get $j) (local.get $length)) (then (return (i32.const 1))))
          (br_if $differs (i32.ne
            (i32.load8_u (i32.add (local.get $at) (i32.add (local.get $i) (local.get $j))))
            (i32.load8_u (i32.add (local.get $text) (local.get $j)))))
          (local.set $j (i32.add (local.get $j) (i32.const 1)))
          (br $same)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))
    unreachable)
"""


class _Strings:
    """Constants of a module, one after the other."""

    def __init__(self) -> None:
        self._data = b""
        self._known: dict[bytes, int] = {}

    def place(self, text: bytes) -> str:
        """Address and length, as two operands."""
        if text not in self._known:
            self._known[text] = _STRINGS_AT + len(self._data)
            self._data += text
        return f"(i32.const {self._known[text]}) (i32.const {len(text)})"

    def packed(self, text: bytes) -> str:
        self.place(text)
        return f"(i64.const {self._known[text] << 32 | len(text)})"

    def segment(self) -> str:
        assert _STRINGS_AT + len(self._data) < _INPUT_AT
        return f'(data (i32.const {_STRINGS_AT}) "{escaped(self._data)}")'


def rule_wat(hooks: Mapping[str, Rules], *, spies: bool = True) -> str:
    """A module with these hooks; one that does not spy imports nothing."""
    strings = _Strings()
    functions = []
    for hook, rules in hooks.items():
        body = []
        if spies:
            body.append(
                f"(drop (call $metric_add {strings.place(f'fired_{hook}'.encode())} (f64.const 1)))"
            )
            body.append(
                f"(drop (call $kv_set {strings.place(f'last_{hook}'.encode())}"
                " (local.get $at) (local.get $size)))"
            )
        if hook in OBSERVERS:
            functions.append(
                f'(func (export "{hook}") (param $at i32) (param $size i32) {" ".join(body)})'
            )
            continue
        for text, answer in rules:
            body.append(
                f"(if (call $has (local.get $at) (local.get $size) {strings.place(text.encode())})"
                f" (then {_answering(answer, strings)}))"
            )
        functions.append(
            f'(func (export "{hook}") (param $at i32) (param $size i32) (result i64) '
            f"{' '.join(body)} (i64.const 0))"
        )
    imports = ""
    if spies:
        imports = """
  (import "headgate" "metric_add" (func $metric_add (param i32 i32 f64) (result i32)))
  (import "headgate" "kv_set" (func $kv_set (param i32 i32 i32 i32) (result i32)))"""
    return f"""(module {imports}
  (memory (export "memory") {_PAGES})
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const {_INPUT_AT}))
  {_HAS}
  {"".join(functions)}
  {strings.segment()})"""


def _answering(answer: Answer, strings: _Strings) -> str:
    """An int is the i64 itself, a text that begins with ( is code, the rest is an answer."""
    if isinstance(answer, int):
        return f"(return (i64.const {answer}))"
    if isinstance(answer, str) and answer.startswith("("):
        return answer
    if isinstance(answer, dict | list):
        answer = json.dumps(answer)
    if isinstance(answer, str):
        answer = answer.encode()
    return f"(return {strings.packed(answer)})"


def manifest_text(
    name: str,
    hooks: Sequence[str],
    permissions: Sequence[str],
    *,
    version: str = "1.0.0",
    more: str = "",
) -> str:
    """A native manifest. `more` begins with keys of the top level."""
    return (
        f'name = "{name}"\nversion = "{version}"\nhooks = {json.dumps(list(hooks))}\n'
        f"permissions = {json.dumps(list(permissions))}\n{more}\n"
    )


def write_plugin(
    directory: Path, name: str, wat: str | bytes, manifest: str, suffix: str = ".toml"
) -> None:
    """Write a plugin's files as a careful operator does: each appears whole, the module last."""
    wasm = wat if isinstance(wat, bytes) else bytes(wasmtime.wat2wasm(wat))
    for path, data in (
        (directory / f"{name}{suffix}", manifest.encode()),
        (directory / f"{name}.wasm", wasm),
    ):
        partial = path.with_name(path.name + ".part")
        partial.write_bytes(data)
        partial.replace(path)


def put_rules(
    running: RunningProxy,
    name: str,
    hooks: Mapping[str, Rules],
    permissions: Sequence[str] = (),
    *,
    version: str = "1.0.0",
    more: str = "",
    spies: bool = True,
) -> None:
    """Write a rule plugin into a proxy's plugin directory."""
    asked = [*permissions, *(("metrics", "kv.write") if spies else ())]
    write_plugin(
        running.plugin_dir,
        name,
        rule_wat(hooks, spies=spies),
        manifest_text(name, list(hooks), asked, version=version, more=more),
    )


class Spy:
    """What a rule plugin of a running proxy saw."""

    def __init__(self, running: RunningProxy, name: str) -> None:
        self.running = running
        self.name = name

    def fired(self, hook: str) -> int:
        """How often a hook was called."""
        return int(
            self.running.metrics().value(f"headgate_plugin_fired_{hook}_total", plugin=self.name)
        )

    def last(self, hook: str) -> Any:
        """The last input of a hook."""
        status, body = self.running.api("GET", f"/api/plugins/{self.name}/kv/last_{hook}")
        assert status == 200, body
        return json.loads(body["value"])

    def errors(self, hook: str) -> dict[str, int]:
        """Failed calls of a hook by cause."""
        status, body = self.running.api("GET", f"/api/plugins/{self.name}")
        assert status == 200, body
        found: dict[str, int] = body["hook_stats"][hook]["errors"]
        return found
