"""
The smallest plugins that cost something: what a call itself costs, and nothing else.

Written as WAT, so that the benchmark needs no compiler for other languages.
"""

from pathlib import Path
from typing import Final

_MODULE: Final = """
(module
  (memory (export "memory") 2)
  (data (i32.const 16) "{\\"action\\":\\"continue\\"}")
  (func (export "headgate_abi_1"))
  (func (export "input_buffer") (param $capacity i32) (result i32) (i32.const 1024))
  (func (export "{hook}") (param i32 i32) (result i64) (i64.const {answer})))
"""
_IMMEDIATE: Final = 0
_JSON: Final = (16 << 32) | len('{"action":"continue"}')
_PERMISSION = {"pre_query": "query.block", "on_connect": "conn.deny"}

# Name of the variant -> hook, answer, further lines of the manifest.
VARIANTS: Final[dict[str, tuple[str, int, str]]] = {
    "continue": ("pre_query", _IMMEDIATE, ""),
    "continue-json": ("pre_query", _JSON, ""),
    "pure": ("pre_query", _IMMEDIATE, "pure = true\n"),
    "filtered": ("pre_query", _IMMEDIATE, '[match]\nkinds = ["ddl"]\n'),
    "off-path": ("on_connect", _IMMEDIATE, ""),
}


def write(directory: Path, variant: str) -> None:
    """Write the module and the manifest of a variant into a plugin directory."""
    import wasmtime

    hook, answer, more = VARIANTS[variant]
    text = _MODULE.replace("{hook}", hook).replace("{answer}", str(answer))
    (directory / f"{variant}.wasm").write_bytes(bytes(wasmtime.wat2wasm(text)))
    (directory / f"{variant}.toml").write_text(
        f'name = "{variant}"\nversion = "1.0.0"\nabi = 1\nhooks = ["{hook}"]\n'
        f'permissions = ["{_PERMISSION[hook]}"]\n{more}'
    )
