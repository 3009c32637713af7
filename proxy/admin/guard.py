"""
Who may call the admin HTTP side: the gate in front of the application.

- On a loopback address the Host header must name this machine: a page from elsewhere whose name
  was made to resolve to 127.0.0.1 (DNS rebinding) does not.
- A changing request that a browser sends from another origin is refused (CSRF), and a body must be
  JSON, which no form of a foreign page can send.
- With a token set, everything but /health, /metrics, /schema and the empty page needs it.

Every answer gets headers that keep browsers from doing more with it than show it.
"""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, final

import msgspec
import structlog

from proxy.admin.problems import AdminProblem

if TYPE_CHECKING:
    from proxy.observe.counters import Counters
    from proxy.settings.model import Admin

# ASGI, as far as it matters here.
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

OPEN_PATHS: Final = ("/", "/metrics", "/health/live", "/health/ready", "/schema")
"""No token is asked for: probes and scrapers often cannot send one, and the page holds no data."""

SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")

DEFAULT_POLICY: Final = b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'"

_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_log = structlog.get_logger("headgate.admin")


@final
class Guard:
    """An ASGI application around another one."""

    def __init__(self, app: App, admin: "Callable[[], Admin]", counters: "Counters") -> None:
        self._app = app
        self._admin = admin
        self._counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it."""
        if scope["type"] != "http":
            # No lifespan, no web sockets.
            return
        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                names = {name.lower() for name, _ in message["headers"]}
                added = [*_HEADERS]
                if b"content-security-policy" not in names:
                    added.append((b"content-security-policy", DEFAULT_POLICY))
                if b"cache-control" not in names:
                    added.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_guarded)
        except AdminProblem as problem:
            self._counters.count("admin_refused")
            await answer(problem, send_guarded)
        except Exception:
            _log.exception("admin request failed", path=scope["path"])
            if has_begun:
                # Half an answer is out: cutting it off is the only way left to say so.
                raise
            await answer(
                AdminProblem(500, "a defect of the proxy", "Its log says more."), send_guarded
            )

    def _check(self, scope: Scope) -> None:
        admin = self._admin()
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        check_host(host, admin.host)
        method = str(scope["method"])
        if method not in SAFE_METHODS:
            _check_origin(headers, host)
            _check_body(headers, method)
        if scope["path"] not in OPEN_PATHS and not scope["path"].startswith("/schema/"):
            _check_token(headers.get(b"authorization", ""), str(admin.token))


def check_host(header: str, bound: str) -> None:
    """Refuse a Host header that does not name this machine, where only this machine listens."""
    if not is_loopback(bound):
        # It is a token that protects an address others can reach.
        return
    name = host_name(header)
    if name != bound.lower() and not is_loopback(name):
        raise AdminProblem(
            421,
            f"the Host header names {name!r}, and this address serves this machine only",
            "Use http://127.0.0.1 or http://localhost, or set admin.host and admin.token.",
        )


def host_name(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0]


def is_loopback(name: str) -> bool:
    """Whether a name or address means this machine and no other."""
    if name.lower() in ("localhost", "localhost."):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_origin(headers: dict[bytes, str], host: str) -> None:
    origin = headers.get(b"origin")
    if origin is not None and origin.lower() not in (
        f"http://{host.lower()}",
        f"https://{host.lower()}",
    ):
        raise AdminProblem(403, f"a page of {origin!r} may change nothing here")
    if headers.get(b"sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise AdminProblem(403, "a page of another site may change nothing here")


def _check_body(headers: dict[bytes, str], method: str) -> None:
    # A PUT cannot come from a foreign page unasked, and the values of keys are any bytes.
    has_body = headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in headers
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if has_body and method == "POST" and kind != "application/json":
        raise AdminProblem(
            415,
            f"the body is {kind or 'of no declared type'}",
            "Send Content-Type: application/json.",
        )


def _check_token(header: str, token: str) -> None:
    if not token:
        # Settings without a token are accepted for loopback addresses only.
        return
    scheme, _, given = header.partition(" ")
    is_right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
    if scheme.lower() != "bearer" or not is_right:
        raise AdminProblem(
            401,
            "the token is wrong" if header else "no token was sent",
            "Send the header Authorization: Bearer TOKEN, with admin.token of the configuration.",
        )


async def answer(problem: AdminProblem, send: Send) -> None:
    """Send a problem as a whole answer."""
    body = msgspec.json.encode(problem.as_dict())
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    if problem.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="headgate"'))
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
