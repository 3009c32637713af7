"""
HTTP for plugins: permission `http.fetch`, to hosts that the operator lists and nowhere else.

A request is JSON {"method"?, "url", "headers"?, "body"?}, the response JSON {"status", "headers",
"body"} (`body_base64` where the body is no UTF-8). Runs on the plugin's worker thread. Redirects are
not followed: they would leave the list.
"""

import base64
import http.client
import json
import logging
import socket
import ssl
from time import monotonic
from typing import Any, Final, final
from urllib.parse import urlsplit

from proxy.plugins.host.guest import (
    BAD_ARGUMENT,
    DENIED,
    TIMED_OUT,
    TOO_LARGE,
    UNAVAILABLE,
    HostFault,
)
from proxy.plugins.host.services import HttpFetcher
from proxy.settings.plugin_model import PluginHttp

logger = logging.getLogger("headgate.plugins")

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_REQUEST_BYTES: Final = 256 * 1024
_MAX_HEADERS: Final = 50
_FORBIDDEN_HEADERS: Final = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "upgrade", "expect", "te")
)


@final
class AllowedHttp(HttpFetcher):
    """Fetches from the hosts of `[plugins.http] allow_hosts`."""

    def __init__(self, settings: PluginHttp) -> None:
        self._settings = settings
        self._allowed = frozenset(host.lower() for host in settings.allow_hosts)
        self._tls = ssl.create_default_context()

    def fetch(self, plugin: str, request: bytes) -> bytes:
        """See HttpFetcher."""
        if len(request) > MAX_REQUEST_BYTES:
            raise HostFault(TOO_LARGE)
        method, url, headers, body = _parse(request)
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise HostFault(BAD_ARGUMENT) from None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise HostFault(BAD_ARGUMENT)
        port = port or (443 if parts.scheme == "https" else 80)
        if not self._is_allowed(host, port, parts.scheme):
            logger.warning(
                "plugin %s: %s:%d is not in plugins.http.allow_hosts", plugin, host, port
            )
            raise HostFault(DENIED)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            return self._exchange(parts.scheme, host, port, method, path, headers, body)
        except TimeoutError:
            raise HostFault(TIMED_OUT) from None
        except (OSError, http.client.HTTPException) as error:
            logger.warning("plugin %s: %s %s: %s", plugin, method, host, error)
            raise HostFault(UNAVAILABLE) from None
        except ValueError:
            # http.client refuses control characters in the method, path and headers.
            raise HostFault(BAD_ARGUMENT) from None

    def _is_allowed(self, host: str, port: int, scheme: str) -> bool:
        if f"{host}:{port}" in self._allowed:
            return True
        return host in self._allowed and port == (443 if scheme == "https" else 80)

    def _exchange(
        self,
        scheme: str,
        host: str,
        port: int,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes | None,
    ) -> bytes:
        deadline = monotonic() + self._settings.timeout
        timeout = self._settings.timeout
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.connect()
            _limit(connection.sock, deadline)
            connection.request(method, path, body=body, headers=headers)
            _limit(connection.sock, deadline)
            with connection.getresponse() as response:
                content = self._content(connection.sock, response, deadline)
                return _response(response, content)
        finally:
            connection.close()

    def _content(
        self, sock: socket.socket | None, response: http.client.HTTPResponse, deadline: float
    ) -> bytes:
        content = bytearray()
        while True:
            if sock is not None and sock.fileno() >= 0:
                _limit(sock, deadline)
            elif monotonic() >= deadline:
                raise TimeoutError
            part = response.read1(65_536)
            if not part:
                return bytes(content)
            content += part
            if len(content) > self._settings.max_response:
                raise HostFault(TOO_LARGE)


def _limit(sock: socket.socket | None, deadline: float) -> None:
    left = deadline - monotonic()
    if left <= 0:
        raise TimeoutError
    if sock is not None:
        sock.settimeout(left)


def _parse(request: bytes) -> tuple[str, str, dict[str, str], bytes | None]:
    try:
        data: Any = json.loads(request.decode("utf-8"))
        method = data.get("method", "GET").upper()
        url = data["url"]
        headers = data.get("headers") or {}
        body = data.get("body")
    except (ValueError, KeyError, AttributeError):
        raise HostFault(BAD_ARGUMENT) from None
    if method not in METHODS or not isinstance(url, str) or not isinstance(headers, dict):
        raise HostFault(BAD_ARGUMENT)
    if len(headers) > _MAX_HEADERS:
        raise HostFault(TOO_LARGE)
    for name, value in headers.items():
        if not isinstance(value, str) or name.lower() in _FORBIDDEN_HEADERS:
            raise HostFault(BAD_ARGUMENT)
    if body is not None and not isinstance(body, str):
        body = json.dumps(body)
    return method, url, headers, body.encode() if body is not None else None


def _response(response: http.client.HTTPResponse, content: bytes) -> bytes:
    answer: dict[str, object] = {
        "status": response.status,
        "headers": {name.lower(): value for name, value in response.getheaders()},
    }
    try:
        answer["body"] = content.decode("utf-8")
    except UnicodeDecodeError:
        answer["body_base64"] = base64.b64encode(content).decode()
    return json.dumps(answer, ensure_ascii=False).encode()
