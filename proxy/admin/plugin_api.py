"""
The plugins' part of the admin API: list, state, logs, reload, enable, disable, call, keys.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, final
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Response, delete, get, post, put
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from proxy.admin import kv
from proxy.admin.desk import Desk
from proxy.admin.problems import AdminProblem
from proxy.admin.requests import AnyRequest, who_asks

LOOK_S: Final = 0.5
"""How often a follower looks for new lines: workers are asked for theirs, not listened to."""
KEEP_ALIVE_LOOKS: Final = 30
MAX_FOLLOWERS: Final = 16


def plugin_routes(desk: Desk) -> list[ControllerRouterHandler]:
    """All routes under /api/plugins."""
    return [*_look_routes(desk), *_change_routes(desk), *_kv_routes(desk)]


def _look_routes(desk: Desk) -> list[ControllerRouterHandler]:
    followers = Followers(desk)

    @get("/api/plugins", summary="All plugins, with their counters at each hook")
    async def plugins() -> dict[str, Any]:
        return {"plugins": await desk.plugins()}

    @get("/api/plugins/{name:str}", summary="One plugin in full")
    async def plugin(name: FromPath[str]) -> dict[str, Any]:
        return await desk.plugin(name)

    @get(
        "/api/plugins/{name:str}/logs",
        summary="The last log lines of a plugin",
        description="With follow=true new ones are sent as they come: Server-Sent Events if the "
        "Accept header asks for text/event-stream, else one JSON object a line.",
    )
    async def logs(
        request: AnyRequest,
        name: FromPath[str],
        limit: FromQuery[int] = 100,
        follow: FromQuery[bool] = False,
    ) -> Response[Any] | Stream:
        answers = await desk.ask("plugin_logs", name=name, limit=limit)
        if not follow:
            rows = sorted(
                (row for answer in answers for row in answer["rows"]), key=lambda row: row["time_s"]
            )
            return Response(
                {
                    "plugin": name,
                    "lines": rows[-limit:] if limit > 0 else [],
                    "written": sum(answer["written"] for answer in answers),
                    "dropped": sum(answer["dropped"] for answer in answers),
                }
            )
        is_sse = "text/event-stream" in request.headers.get("accept", "")
        return Stream(
            followers.follow(name, answers, is_sse=is_sse),
            media_type="text/event-stream" if is_sse else "application/x-ndjson",
        )

    return [plugins, plugin, logs]


@final
class Followers:
    """Those who follow logs: few, and none after the server was told to stop."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._count = 0

    def follow(
        self, name: str, answers: list[dict[str, Any]], *, is_sse: bool
    ) -> AsyncIterator[bytes]:
        """The lines there are, and then new ones for ever. Raises AdminProblem."""
        if self._count >= MAX_FOLLOWERS:
            raise AdminProblem(503, f"{MAX_FOLLOWERS} others follow logs now", "Try again later.")
        return self._lines(name, answers, is_sse=is_sse)

    async def _lines(
        self, name: str, answers: list[dict[str, Any]], *, is_sse: bool
    ) -> AsyncIterator[bytes]:
        self._count += 1
        try:
            seen: dict[str, int] = {}
            idle_looks = 0
            # Headers are sent with the first bytes: whoever follows shall see at once that it works.
            yield b": following\n\n" if is_sse else b""
            while not self._desk.worker.is_draining:
                rows = []
                for answer in answers:
                    seen.setdefault(str(answer["worker"]), 0)
                    rows += answer["rows"]
                for row in sorted(rows, key=lambda row: float(row["time_s"])):
                    seen[str(row["worker"])] = max(seen[str(row["worker"])], row["number"])
                    text = msgspec.json.encode(row)
                    yield b"data: " + text + b"\n\n" if is_sse else text + b"\n"
                idle_looks = 0 if rows else idle_looks + 1
                if idle_looks >= KEEP_ALIVE_LOOKS:
                    idle_looks = 0
                    yield b": still here\n\n" if is_sse else b"\n"
                await asyncio.sleep(LOOK_S)
                answers = await self._desk.ask("plugin_logs", name=name, limit=500, after=seen)
        except AdminProblem:
            # The plugin is known no more.
            return
        finally:
            self._count -= 1


def _change_routes(desk: Desk) -> list[ControllerRouterHandler]:
    async def change(request: AnyRequest, name: str, do: str) -> dict[str, Any]:
        who, source = who_asks(request, desk.worker)
        return await desk.change(who, source, name, {"do": do, "name": name})

    @post("/api/plugins/reload", summary="Look at the plugin directory again", status_code=200)
    async def reload_all(request: AnyRequest) -> dict[str, Any]:
        return await change(request, "", "plugins_reload")

    @post(
        ["/api/plugins/{name:str}/reload", "/api/plugins/reload/{name:str}"],
        summary="Make a new generation of a plugin from its files",
        description="422 if it does not load; the generation that runs goes on.",
        status_code=200,
    )
    async def reload(request: AnyRequest, name: FromPath[str]) -> dict[str, Any]:
        return await change(request, name, "plugin_reload")

    @post("/api/plugins/{name:str}/enable", summary="Undo disable", status_code=200)
    async def enable(request: AnyRequest, name: FromPath[str]) -> dict[str, Any]:
        return await change(request, name, "plugin_enable")

    @post(
        "/api/plugins/{name:str}/disable",
        summary="Drain a plugin and keep it out until enable",
        status_code=200,
    )
    async def disable(request: AnyRequest, name: FromPath[str]) -> dict[str, Any]:
        return await change(request, name, "plugin_disable")

    @post(
        "/api/plugins/{name:str}/unload",
        summary="Drain a plugin; it comes back by reload, or when its files change",
        status_code=200,
    )
    async def unload(request: AnyRequest, name: FromPath[str]) -> dict[str, Any]:
        return await change(request, name, "plugin_unload")

    @post(
        "/api/plugins/{name:str}/call",
        summary="Call a plugin's custom_hook with JSON; its JSON comes back",
        status_code=200,
    )
    async def call(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
        payload = await request.body() or b"{}"
        try:
            msgspec.json.decode(payload)
            text = payload.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise AdminProblem(400, "the body is not JSON", "Send one JSON value.") from None
        who, source = who_asks(request, desk.worker)
        command = {"do": "plugin_call", "name": name, "payload": text}
        answer = await desk.change(who, source, name, command, is_local=True)
        return Response(answer["answer"].encode(), headers={"content-type": "application/json"})

    return [reload_all, reload, enable, disable, unload, call]


def _kv_routes(desk: Desk) -> list[ControllerRouterHandler]:
    """Keys may be any bytes, slashes included: all after /kv/ is the key, percent-decoded."""

    @get("/api/plugins/{name:str}/kv", summary="A plugin's keys that begin with a prefix")
    async def keys(name: FromPath[str], prefix: FromQuery[str] = "") -> dict[str, Any]:
        return {"plugin": name, "keys": await desk.kv.keys(name, prefix)}

    @get("/api/plugins/{name:str}/kv/{key:path}", summary="A plugin's value under a key")
    async def read(request: AnyRequest, name: FromPath[str]) -> dict[str, Any]:
        return await desk.kv.get(name, _key(request))

    @put(
        "/api/plugins/{name:str}/kv/{key:path}",
        summary="Write a value",
        description='JSON: {"value": "text"} or {"value_base64": "…"}, and "ttl_ms". A body of any '
        "other content type is the value itself, its time to live the parameter ttl_ms.",
    )
    async def write(
        request: AnyRequest, name: FromPath[str], ttl_ms: FromQuery[int] = 0
    ) -> dict[str, Any]:
        key = _key(request)
        body = await request.body()
        value = body
        if request.headers.get("content-type", "").startswith("application/json"):
            try:
                value, ttl_ms = kv.value_bytes(msgspec.json.decode(body))
            except msgspec.DecodeError:
                raise AdminProblem(400, "the body is not JSON") from None
        await _noted(request, "kv_set", name, key, desk.kv.put(name, key, value, max(0, ttl_ms)))
        return {"ok": True}

    @delete("/api/plugins/{name:str}/kv/{key:path}", summary="Delete a key", status_code=200)
    async def remove(request: AnyRequest, name: FromPath[str]) -> dict[str, Any]:
        key = _key(request)
        await _noted(request, "kv_delete", name, key, desk.kv.delete(name, key))
        return {"ok": True}

    async def _noted(request: AnyRequest, action: str, name: str, key: str, change: Any) -> None:
        who, source = who_asks(request, desk.worker)
        try:
            await change
        except AdminProblem as problem:
            desk.audit.note(who, source, action, f"{name}/{key}", problem.why)
            raise
        desk.audit.note(who, source, action, f"{name}/{key}", "ok")

    return [keys, read, write, remove]


def _key(request: AnyRequest) -> str:
    # The raw path: what is decoded already has lost the difference between / and %2F in no key,
    # but the framework's own path parameter also tidies up slashes.
    raw = bytes(request.scope["raw_path"]).partition(b"/kv/")[2]
    return unquote_to_bytes(raw).decode("utf-8", "surrogateescape")
