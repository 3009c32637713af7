"""Keys and values as operators write them."""

import pytest

from proxy.admin import kv
from proxy.admin.problems import AdminProblem
from proxy.plugins.host.guest import TIMED_OUT, UNAVAILABLE, HostFault
from proxy.plugins.host.kv import LocalKv
from proxy.server.worker import Worker


def test_keys_of_any_bytes() -> None:
    assert kv.key_bytes("ä") == "ä".encode()
    assert kv.key_bytes("base64:/w==") == b"\xff"
    assert kv.key_bytes(b"\xff".decode("utf-8", "surrogateescape")) == b"\xff"
    with pytest.raises(AdminProblem):
        kv.key_bytes("base64:no base64")


def test_values_of_both_kinds() -> None:
    assert kv.value_bytes({"value": "a", "ttl_ms": 5}) == (b"a", 5)
    assert kv.value_bytes({"value_base64": "AP8="}) == (b"\0\xff", 0)
    for bad in ({"value": "a", "value_base64": "YQ=="}, {"value_base64": "?"}, {"ttl_ms": True}):
        with pytest.raises(AdminProblem):
            kv.value_bytes(bad)


class Broken(LocalKv.__base__):  # type: ignore[name-defined,misc]
    waits = True

    def __init__(self, code: int) -> None:
        self._code = code

    def get(self, plugin: str, key: bytes) -> bytes | None:
        raise HostFault(self._code)

    set = delete = incr = keys = get


@pytest.mark.parametrize(("code", "status"), [(TIMED_OUT, 504), (UNAVAILABLE, 503)])
async def test_a_store_that_does_not_answer(
    worker: Worker, probe: str, code: int, status: int
) -> None:
    worker.plugins.services.kv = Broken(code)
    with pytest.raises(AdminProblem) as raised:
        await kv.KvAccess(worker).get(probe, "k")
    assert raised.value.status == status
    worker.plugins.services.kv = LocalKv()
