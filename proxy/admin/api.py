"""
The application behind the admin port: health, metrics, the state of the proxy, and its pools.

What concerns plugins is `plugin_api`. Every error is JSON: {"error": {"what", "why", "hint"}}.
"""

from typing import Any, Final

import msgspec
import structlog
from litestar import Litestar, MediaType, Response, get, post
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromQuery
from litestar.types import ControllerRouterHandler

from proxy import __version__
from proxy.admin.desk import Desk
from proxy.admin.health import readiness
from proxy.admin.page import PAGE, PAGE_POLICY
from proxy.admin.plugin_api import plugin_routes
from proxy.admin.problems import AdminProblem
from proxy.admin.requests import AnyRequest, who_asks
from proxy.observe.exposition import expose

MAX_BODY_BYTES: Final = 2 * 1024 * 1024
MAX_ROWS: Final = 10_000
MAX_WAIT_S: Final = 60.0

_log = structlog.get_logger("headgate.admin")


def make_app(desk: Desk) -> Litestar:
    """Make the application of one worker."""
    return Litestar(
        route_handlers=[*_open_routes(desk), *_state_routes(desk), *_change_routes(desk),
                        *plugin_routes(desk)],
        openapi_config=OpenAPIConfig(
            title="Headgate admin API",
            version=__version__,
            description="Where admin.token is set, all but /, /health, /metrics and /schema ask for it.",
            components=Components(
                security_schemes={"token": SecurityScheme(type="http", scheme="bearer")}
            ),
            security=[{"token": []}, {}],
            path="/schema",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        exception_handlers={
            AdminProblem: _on_problem,
            HTTPException: _on_http_exception,
            Exception: _on_defect,
        },
        request_max_body_size=MAX_BODY_BYTES,
        logging_config=None,
        debug=False,
    )  # fmt: skip


def _open_routes(desk: Desk) -> list[ControllerRouterHandler]:
    """What needs no token."""

    @get("/", summary="The page", media_type=MediaType.HTML, sync_to_thread=False)
    def page() -> Response[str]:
        return Response(PAGE, headers={"content-security-policy": PAGE_POLICY})

    @get("/health/live", summary="The process runs", sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "alive"}

    @get("/health/ready", summary="Clients are served", sync_to_thread=False)
    def ready() -> Response[dict[str, Any]]:
        is_ready, body = readiness(desk.worker)
        return Response(body, status_code=200 if is_ready else 503)

    @get("/metrics", summary="Prometheus text, or OpenMetrics if asked for")
    async def metrics(request: AnyRequest) -> Response[bytes]:
        text, content_type = expose(await desk.fleet.metrics(), request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return [page, live, ready, metrics]


def _state_routes(desk: Desk) -> list[ControllerRouterHandler]:
    """What is going on."""

    @get("/api/status", summary="The proxy as a whole, and each worker process")
    async def status() -> dict[str, Any]:
        is_ready, body = readiness(desk.worker)
        return {**await desk.status(), "is_ready": is_ready, "readiness": body}

    @get("/api/pools", summary="Pools: database, user and node")
    async def pools() -> dict[str, Any]:
        return {"pools": await desk.pools()}

    @get("/api/clients", summary="Clients, with what they do and what they are pinned for")
    async def clients(limit: FromQuery[int] = 1000) -> dict[str, Any]:
        return _limited("clients", await desk.rows("clients"), limit)

    @get("/api/servers", summary="Server connections")
    async def servers(limit: FromQuery[int] = 1000) -> dict[str, Any]:
        return _limited("servers", await desk.rows("servers"), limit)

    @get("/api/nodes", summary="Nodes: up or down, role, lag")
    async def nodes() -> dict[str, Any]:
        return {"nodes": await desk.nodes()}

    @get("/api/config", summary="The settings in use, without secrets")
    async def config() -> dict[str, Any]:
        found: dict[str, Any] = (await desk.here("config"))["config"]
        return found

    @get("/api/events", summary="What happened to plugins, and what operators changed")
    async def events() -> dict[str, Any]:
        found = await desk.here("events")
        return {"plugins": found["rows"], "changes": list(desk.audit.last)}

    @get("/api/refused", summary="The statements that plugins refused last: who, what, and why")
    async def refused(limit: FromQuery[int] = 1000) -> dict[str, Any]:
        return _limited("refused", await desk.refused(), limit)

    return [status, pools, clients, servers, nodes, config, events, refused]


def _change_routes(desk: Desk) -> list[ControllerRouterHandler]:
    """What changes the proxy."""

    async def change(request: AnyRequest, target: str, command: dict[str, Any]) -> dict[str, Any]:
        who, source = who_asks(request, desk.worker)
        return await desk.change(who, source, target, command)

    @post("/api/reload", summary="Read the configuration file again", status_code=200)
    async def reload(request: AnyRequest) -> dict[str, Any]:
        return await change(request, str(desk.worker.config_path), {"do": "reload"})

    @post(
        "/api/pools/pause",
        status_code=200,
        summary="Hand out no connection of a database (all without one)",
        description="Waits up to wait_s seconds until none is in use; in_use says what still is.",
    )
    async def pause(
        request: AnyRequest, database: FromQuery[str] = "", wait_s: FromQuery[float] = 0.0
    ) -> dict[str, Any]:
        wait_s = min(max(wait_s, 0.0), MAX_WAIT_S)
        command = {"do": "pause", "database": database, "wait_s": wait_s}
        return await change(request, database, command)

    @post("/api/pools/resume", summary="End a pause", status_code=200)
    async def resume(request: AnyRequest, database: FromQuery[str] = "") -> dict[str, Any]:
        return await change(request, database, {"do": "resume", "database": database})

    @post(
        "/api/pools/reconnect",
        status_code=200,
        summary="Make server connections anew, each as soon as it is free",
    )
    async def reconnect(request: AnyRequest, database: FromQuery[str] = "") -> dict[str, Any]:
        return await change(request, database, {"do": "reconnect", "database": database})

    @post(
        "/api/pools/kill",
        status_code=200,
        summary="End a database's server connections now, and pause it",
    )
    async def kill(request: AnyRequest, database: FromQuery[str]) -> dict[str, Any]:
        return await change(request, database, {"do": "kill", "database": database})

    return [reload, pause, resume, reconnect, kill]


def _limited(name: str, rows: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    return {name: rows[: max(0, min(limit, MAX_ROWS))], "total": len(rows)}


def _on_problem(request: AnyRequest, problem: AdminProblem) -> Response[bytes]:
    del request
    return _response(problem)


def _on_http_exception(request: AnyRequest, error: HTTPException) -> Response[bytes]:
    """Say in our own words what Litestar refuses: an unknown path, method, argument or body."""
    hint = ""
    why = error.detail
    if error.status_code == 404:
        why = f"there is nothing at {request.url.path}"
        hint = "GET /schema describes what there is."
    elif error.status_code == 405:
        why = f"{request.method} is not possible at {request.url.path}"
        hint = "GET /schema describes what is."
    elif error.status_code == 413:
        hint = f"The limit is {MAX_BODY_BYTES} bytes."
    elif error.status_code >= 500:
        _log.error("admin request failed", path=request.url.path, exc_info=error)
        why = "a defect of the proxy"
        hint = "Its log says more."
    elif isinstance(error.extra, list):
        texts = [f"{e.get('key')}: {e.get('message')}" for e in error.extra if isinstance(e, dict)]
        why = "; ".join(texts) or why
    return _response(AdminProblem(error.status_code, why, hint))


def _on_defect(request: AnyRequest, error: Exception) -> Response[bytes]:
    _log.error("admin request failed", path=request.url.path, exc_info=error)
    return _response(AdminProblem(500, "a defect of the proxy", "Its log says more."))


def _response(problem: AdminProblem) -> Response[bytes]:
    return Response(
        msgspec.json.encode(problem.as_dict()),
        status_code=problem.status,
        headers={"content-type": "application/json"},
    )
