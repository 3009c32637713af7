"""
A new plugin to start from: source, manifest, test cases, in the author's language.

Every scaffold blocks DROP, so that it can be seen to work at once, and passes its own tests.
"""

from pathlib import Path
from typing import Final

from proxy.errors import PluginFailed
from proxy.plugins.manifest import parse_manifest

LANGUAGES: Final = ("wat", "c", "rust", "python", "javascript")

_MANIFEST: Final = """\
name = "{name}"
version = "0.1.0"
description = "Blocks DROP"
license = "Apache-2.0"
abi = 1
hooks = ["pre_query"]
permissions = ["query.block"]
{more}
"""

_CASES: Final = """\
[
  {"name": "a drop is blocked", "hook": "pre_query", "sql": "DROP TABLE t",
   "expect": {"action": "block"}},
  {"name": "a read passes", "hook": "pre_query", "sql": "SELECT 1",
   "expect": {"action": "continue"}}
]
"""

# Looks for "DROP" in upper or lower case anywhere in the input. Enough to see it work; a real
# plugin reads `kind` and `tables` from the envelope.
_WAT: Final = """\
(module
  (memory (export "memory") 2)
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param i32) (result i32) (i32.const 65536))
  (func (export "pre_query") (param $ptr i32) (param $len i32) (result i64)
    (local $at i32)
    (block $done
      (loop $next
        (br_if $done (i32.gt_u (i32.add (local.get $at) (i32.const 4)) (local.get $len)))
        (if (i32.eq
              (i32.or (i32.load (i32.add (local.get $ptr) (local.get $at)))
                      (i32.const 0x20202020))
              (i32.const 0x706f7264)) ;; "drop"
          (then (return (i64.or (i64.shl (i64.const 1024) (i64.const 32)) (i64.const 53)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (i64.const 0))
  (data (i32.const 1024)
    "{\\22action\\22:\\22block\\22,\\22value\\22:\\22dropping is not allowed\\22} "))
"""

_C: Final = """\
#define EXPORT(name) __attribute__((export_name(name)))

static char input[65536];
static const char block[] = "{\\"action\\":\\"block\\",\\"value\\":\\"dropping is not allowed\\"}";

EXPORT("headgate_abi_1") void headgate_abi_1(void) {}

EXPORT("input_buffer") char *input_buffer(int capacity) {
  return capacity <= (int)sizeof input ? input : 0;
}

static int is_drop(const char *p) {
  return (p[0] | 32) == 'd' && (p[1] | 32) == 'r' && (p[2] | 32) == 'o' && (p[3] | 32) == 'p';
}

/* A plugin that is more than a start reads "kind" and "tables" from the envelope. */
EXPORT("pre_query") unsigned long long pre_query(const char *p, int length) {
  for (int at = 0; at + 4 <= length; at++)
    if (is_drop(p + at))
      return (unsigned long long)(unsigned long)block << 32 | (sizeof block - 1);
  return 0;
}
"""

_RUST: Final = """\
#![no_std]

static mut INPUT: [u8; 65536] = [0; 65536];
static BLOCK: &[u8] = b"{\\"action\\":\\"block\\",\\"value\\":\\"dropping is not allowed\\"}";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}

#[no_mangle]
pub extern "C" fn headgate_abi_1() {}

#[no_mangle]
pub extern "C" fn input_buffer(capacity: usize) -> *mut u8 {
    if capacity <= 65536 { core::ptr::addr_of_mut!(INPUT) as *mut u8 } else { core::ptr::null_mut() }
}

/// A plugin that is more than a start reads "kind" and "tables" from the envelope.
#[no_mangle]
pub unsafe extern "C" fn pre_query(ptr: *const u8, len: usize) -> u64 {
    let input = core::slice::from_raw_parts(ptr, len);
    if input.windows(4).any(|w| w.eq_ignore_ascii_case(b"drop")) {
        return (BLOCK.as_ptr() as u64) << 32 | BLOCK.len() as u64;
    }
    0
}
"""

_CARGO: Final = """\
[package]
name = "{name}"
version = "0.1.0"
edition = "2021"

[lib]
crate-type = ["cdylib"]

[profile.release]
opt-level = "s"
lto = true
panic = "abort"
"""

_PYTHON: Final = '''\
"""A plugin in Python; componentize-py makes a component of it."""

import json

import wit_world


class WitWorld(wit_world.WitWorld):
    """One function for all hooks: an empty answer is the default."""

    def call(self, hook: str, input: str) -> str:
        """Answer a hook."""
        context = json.loads(input)
        if hook == "pre_query" and "drop" in context["query"].lower():
            return json.dumps({"action": "block", "value": "dropping is not allowed"})
        return ""
'''

_JAVASCRIPT: Final = """\
// A plugin in JavaScript; componentize-qjs makes a component of it.

/** One function for all hooks: an empty answer is the default. */
export function call(hook, input) {
  const context = JSON.parse(input);
  if (hook === "pre_query" && context.query.toLowerCase().includes("drop")) {
    return JSON.stringify({ action: "block", value: "dropping is not allowed" });
  }
  return "";
}
"""

_WIT: Final = """\
package headgate:plugin;

world plugin {
  export call: func(hook: string, input: string) -> string;
}
"""

_FILES: Final[dict[str, dict[str, str]]] = {
    "wat": {"{name}.wat": _WAT},
    "c": {"{name}.c": _C},
    "rust": {"src/lib.rs": _RUST, "Cargo.toml": _CARGO},
    "python": {"app.py": _PYTHON, "world.wit": _WIT},
    "javascript": {"app.js": _JAVASCRIPT, "world.wit": _WIT},
}
_MORE: Final = {"python": '[limits]\nmemory = "64MiB"'}


def scaffold(directory: Path, name: str, language: str) -> list[Path]:
    """Write a new plugin; raises ValueError for a bad name, FileExistsError if it is there."""
    manifest = _MANIFEST.replace("{name}", name).replace("{more}", _MORE.get(language, ""))
    try:
        parse_manifest(Path(f"{name}.toml"), manifest.encode())
    except PluginFailed as failed:
        raise ValueError(failed.message) from None
    directory.mkdir(parents=True, exist_ok=False)
    files = {f"{name}.toml": manifest, f"{name}.cases.json": _CASES}
    for path, text in _FILES[language].items():
        files[path.replace("{name}", name)] = text.replace("{name}", name)
    written: list[Path] = []
    for path, text in files.items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, "utf-8")
        written.append(target)
    return written
