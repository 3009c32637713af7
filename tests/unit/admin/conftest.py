"""A worker that listens nowhere, its admin side, and a way to send it HTTP requests."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from proxy.admin.api import make_app
from proxy.admin.guard import Guard
from proxy.admin.side import AdminSide
from proxy.server.worker import Worker
from proxy.settings.model import Admin, Node, Plugins, Settings

PROBE = r"""
(module
 (import "headgate" "log" (func $log (param i32 i32 i32) (result i32)))
 (memory (export "memory") 1)
 (data (i32.const 16) "called")
 (data (i32.const 128) "{\"pong\":true}")
 (data (i32.const 256) "[{\"name\":\"depth\",\"type\":\"gauge\",\"value\":3,\"labels\":{}}]")
 (func (export "headgate_abi_1"))
 (func (export "alloc") (param i32) (result i32) (i32.const 4096))
 (func (export "dealloc") (param i32 i32))
 (func (export "metrics") (param i32 i32) (result i64)
   (i64.or (i64.shl (i64.const 256) (i64.const 32)) (i64.const 55)))
 (func (export "custom_hook") (param i32 i32) (result i64)
   (drop (call $log (i32.const 2) (i32.const 16) (i32.const 6)))
   (i64.or (i64.shl (i64.const 128) (i64.const 32)) (i64.const 13))))
"""
PROBE_MANIFEST = """
name = "probe"
version = "1.0.0"
abi = 1
hooks = ["metrics", "custom_hook"]
permissions = ["log", "metrics"]
"""


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Call = Callable[..., Awaitable[Reply]]


def settings_for(tmp_path: Path, **admin: Any) -> Settings:
    return Settings(
        admin=Admin(**{"console_users": ("admin",), "stats_users": ("looker",), **admin}),
        node=(Node(name="pg1"), Node(name="pg2", port=5433)),
        plugins=Plugins(dir=tmp_path, watch=False),
    )


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    """A worker with a plugin directory, whose plugins are not loaded yet."""
    made = Worker(settings_for(tmp_path), tmp_path / "headgate.toml", 0, 1)
    yield made
    await made.plugins.stop()
    await made.tasks.cancel_all()


@pytest.fixture
async def side(worker: Worker) -> AdminSide:
    made = AdminSide(worker)
    worker.admin = made
    return made


@pytest.fixture
async def probe(worker: Worker, tmp_path: Path) -> str:
    """Load the plugin `probe` into the worker."""
    (tmp_path / "probe.wasm").write_bytes(wasmtime.wat2wasm(PROBE))
    (tmp_path / "probe.toml").write_text(PROBE_MANIFEST)
    await worker.plugins.start()
    return "probe"


@pytest.fixture
def call(worker: Worker, side: AdminSide) -> Call:
    """Send one request through guard and application."""
    app = Guard(make_app(side.desk), lambda: worker.settings.admin, worker.counters)

    async def request(
        method: str, target: str, body: bytes | None = None, /, **headers: str
    ) -> Reply:
        path, _, query = target.partition("?")
        given = {"host": "127.0.0.1:9632", **headers}
        if body is not None:
            given.setdefault("content_type", "application/json")
            given["content_length"] = str(len(body))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "client": ("127.0.0.1", 4711),
            "server": ("127.0.0.1", 9632),
            "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in given.items()],
        }  # fmt: skip
        sent: list[Any] = []
        incoming = [{"type": "http.request", "body": body or b"", "more_body": False}]

        async def receive() -> Any:
            return incoming.pop(0) if incoming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        head = sent[0]
        names = {name.decode().lower(): value.decode() for name, value in head["headers"]}
        data = b"".join(message.get("body", b"") for message in sent[1:])
        return Reply(head["status"], names, data)

    return request
