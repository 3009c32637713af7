"""
The plugins' key-value store for operators: read, write, delete, list by prefix.

Values are bytes. In JSON a value that is UTF-8 is shown as text, and always as base64; a key that
is not UTF-8 is written `base64:…`, in answers and in requests.
"""

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

from proxy.admin.problems import AdminProblem
from proxy.plugins.host.guest import BAD_ARGUMENT, TIMED_OUT, TOO_LARGE, HostFault

if TYPE_CHECKING:
    from proxy.plugins.host.kv import KvStore
    from proxy.server.worker import Worker

KEY_PREFIX: Final = "base64:"
MAX_LISTED: Final = 10_000

_Result = TypeVar("_Result")


@final
class KvAccess:
    """One worker's way to the store; all workers have the same store."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker

    async def get(self, plugin: str, key: str) -> dict[str, Any]:
        """A key and its value. Raises AdminProblem."""
        store = self._store_for(plugin)
        raw = key_bytes(key)
        value = await self._run(store, lambda: store.get(plugin, raw))
        if value is None:
            raise AdminProblem(404, f"plugin {plugin!r} has no key {key!r}")
        return {
            "key": key,
            "value": _text(value),
            "value_base64": base64.b64encode(value).decode(),
        }

    async def put(self, plugin: str, key: str, value: bytes, ttl_ms: int) -> None:
        """Write a value. Raises AdminProblem."""
        store = self._store_for(plugin)
        raw = key_bytes(key)
        await self._run(store, lambda: store.set(plugin, raw, value, ttl_ms))

    async def delete(self, plugin: str, key: str) -> None:
        """Delete a key. Raises AdminProblem."""
        store = self._store_for(plugin)
        raw = key_bytes(key)
        if not await self._run(store, lambda: store.delete(plugin, raw)):
            raise AdminProblem(404, f"plugin {plugin!r} has no key {key!r}")

    async def keys(self, plugin: str, prefix: str) -> list[str]:
        """The keys that begin with a prefix. Raises AdminProblem."""
        store = self._store_for(plugin)
        raw = key_bytes(prefix)
        found = await self._run(store, lambda: store.keys(plugin, raw))
        return [_key_text(key) for key in found[:MAX_LISTED]]

    def _store_for(self, plugin: str) -> "KvStore":
        try:
            self._worker.plugins.get(plugin)
        except LookupError:
            raise AdminProblem(
                404, f"no plugin {plugin!r}", "GET /api/plugins lists what there is."
            ) from None
        return self._worker.plugins.services.kv

    async def _run(self, store: "KvStore", call: Callable[[], _Result]) -> _Result:
        try:
            if store.waits:
                return await asyncio.to_thread(call)
            return call()
        except HostFault as fault:
            raise _problem(fault, store) from None


def key_bytes(key: str) -> bytes:
    """The bytes of a key as it is written here. Raises AdminProblem."""
    if not key.startswith(KEY_PREFIX):
        return key.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode(key[len(KEY_PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        raise AdminProblem(400, f"{key!r} is not base64") from None


def value_bytes(body: Any) -> tuple[bytes, int]:
    """Value and time to live of a JSON body. Raises AdminProblem."""
    hint = 'Send {"value": "text"} or {"value_base64": "…"}, and "ttl_ms" if it is to end.'
    if not isinstance(body, dict) or set(body) - {"value", "value_base64", "ttl_ms"}:
        raise AdminProblem(400, "the body has other keys than these", hint)
    ttl_ms = body.get("ttl_ms", 0)
    if not isinstance(ttl_ms, int) or isinstance(ttl_ms, bool) or ttl_ms < 0:
        raise AdminProblem(400, "ttl_ms is not a number of milliseconds", hint)
    text = body.get("value")
    encoded = body.get("value_base64")
    if isinstance(text, str) and encoded is None:
        return text.encode(), ttl_ms
    if isinstance(encoded, str) and text is None:
        try:
            return base64.b64decode(encoded, validate=True), ttl_ms
        except (binascii.Error, ValueError):
            raise AdminProblem(400, "value_base64 is not base64", hint) from None
    raise AdminProblem(400, "there is not exactly one value", hint)


def _text(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _key_text(key: bytes) -> str:
    text = _text(key)
    if text is None or text.startswith(KEY_PREFIX):
        return KEY_PREFIX + base64.b64encode(key).decode()
    return text


def _problem(fault: HostFault, store: "KvStore") -> AdminProblem:
    bounds = store.bounds
    if fault.code == TOO_LARGE:
        return AdminProblem(
            413,
            "over a bound of the store",
            f"A key may have {bounds.key_bytes} bytes, a value {bounds.value_bytes}, a plugin "
            f"{bounds.plugin_keys} keys, all together {bounds.total_bytes} bytes: see [kv].",
        )
    if fault.code == BAD_ARGUMENT:
        return AdminProblem(400, "the store takes no such key")
    if fault.code == TIMED_OUT:
        return AdminProblem(504, "the store did not answer in time")
    return AdminProblem(503, "the store is not available")
