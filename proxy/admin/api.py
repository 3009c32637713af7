"""
The application behind the admin port: routes, and how errors become answers.
"""

from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from litestar import Litestar, Request, Response, get
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from proxy import __version__
from proxy.admin.audit import Audit
from proxy.admin.fleet import Fleet
from proxy.admin.health import readiness
from proxy.admin.problems import AdminProblem
from proxy.observe.exposition import expose

if TYPE_CHECKING:
    from proxy.server.worker import Worker

MAX_BODY_BYTES: Final = 2 * 1024 * 1024

_log = structlog.get_logger("headgate.admin")
AnyRequest = Request[Any, Any, Any]


def make_app(worker: "Worker", fleet: Fleet, audit: Audit) -> Litestar:
    """Make the application of one worker."""

    @get("/health/live", summary="The process runs", sync_to_thread=False)
    def live() -> dict[str, str]:
        return {"status": "alive"}

    @get("/health/ready", summary="Clients are served", sync_to_thread=False)
    def ready() -> Response[dict[str, Any]]:
        is_ready, body = readiness(worker)
        return Response(body, status_code=200 if is_ready else 503)

    @get("/metrics", summary="Prometheus text, or OpenMetrics if asked for")
    async def metrics(request: AnyRequest) -> Response[bytes]:
        text, content_type = expose(await fleet.metrics(), request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    return Litestar(
        route_handlers=[live, ready, metrics],
        openapi_config=OpenAPIConfig(
            title="Headgate admin API",
            version=__version__,
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
    )


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
