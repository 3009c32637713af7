"""
What a request to the admin HTTP side says about who sent it.
"""

from typing import TYPE_CHECKING, Any

from litestar import Request

if TYPE_CHECKING:
    from proxy.server.worker import Worker

AnyRequest = Request[Any, Any, Any]


def who_asks(request: AnyRequest, worker: "Worker") -> tuple[str, str]:
    """Who it is for the audit, and from where."""
    client = request.client
    source = f"{client.host}:{client.port}" if client is not None else ""
    return ("token" if worker.settings.admin.token else "local"), source
