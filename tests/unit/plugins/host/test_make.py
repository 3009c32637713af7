"""Which services the settings make."""

import asyncio

from proxy.plugins.host.http import AllowedHttp
from proxy.plugins.host.kv import LocalKv
from proxy.plugins.host.kv_redis import RedisKv
from proxy.plugins.host.kv_shared import SharedKv
from proxy.plugins.host.make import make_kv, make_services
from proxy.plugins.host.query import PgQueryRunner
from proxy.settings.kinds import Secret
from proxy.settings.model import Node, Settings
from proxy.settings.plugin_model import Kv, PluginHttp, PluginQuery, Plugins


async def test_by_default_there_is_kv_and_nothing_that_waits():
    services = make_services(Settings(), asyncio.get_running_loop())
    assert isinstance(services.kv, LocalKv)
    assert services.queries is None
    assert services.http is None


async def test_everything(tmp_path):
    settings = Settings(
        node=(Node(name="n", host="h", port=1),),
        plugins=Plugins(query=PluginQuery(user="u"), http=PluginHttp(allow_hosts=("example.com",))),
    )
    loop = asyncio.get_running_loop()
    services = make_services(settings, loop, kv_path=tmp_path / "kv")
    assert isinstance(services.kv, SharedKv)
    assert isinstance(services.queries, PgQueryRunner)
    assert services.queries._find_node() == settings.node[0]
    assert isinstance(services.http, AllowedHttp)
    services.kv.close()


def test_bounds_and_a_fleets_store():
    kv = make_kv(Kv(max_key=5, max_value=6, max_keys=7, max_total=8), None)
    bounds = kv.bounds
    assert (bounds.key_bytes, bounds.value_bytes, bounds.plugin_keys, bounds.total_bytes) == (
        5,
        6,
        7,
        8,
    )
    assert isinstance(make_kv(Kv(url=Secret("redis://127.0.0.1:1/0")), None), RedisKv)
