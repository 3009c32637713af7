"""The handshake runs on uvloop in production, so its tests do; and certificates for its TLS."""

import asyncio
import ssl
from collections.abc import Callable, Mapping

import pytest
import uvloop

from proxy.server.tls import ServerTls, make_server_tls
from proxy.settings.model import ListenTls
from tests.support.certificates import Certificates


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def server_tls(certificates: Certificates) -> ServerTls:
    cert, key = certificates.server
    return make_server_tls(ListenTls(cert=cert, key=key, client_ca=certificates.ca))


@pytest.fixture
def client_context(certificates: Certificates) -> Callable[..., ssl.SSLContext]:
    def make(alpn: str = "", with_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=certificates.ca)
        if alpn:
            context.set_alpn_protocols([alpn])
        if with_certificate:
            context.load_cert_chain(*certificates.client)
        return context

    return make
