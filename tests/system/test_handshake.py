"""
The handshake against real drivers and real servers: clients log in to the entrance, the dialer to
PostgreSQL 15 with TLS and to PostgreSQL 18 with protocol 3.2. No session behind it yet.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import psycopg
import pytest
import uvloop

from proxy.auth.userstore import Credentials, UserStore
from proxy.demo.cluster import EmbeddedPostgres
from proxy.errors import BackendLost
from proxy.observe.counters import Counters
from proxy.protocol import tags
from proxy.server.auth_query import AuthQuery
from proxy.server.dial import ServerDialer
from proxy.server.tls import NO_TLS, ServerTls, make_server_tls
from proxy.session.link import BackendLink
from proxy.settings.kinds import Secret
from proxy.settings.model import Auth, ListenTls, Node, NodeTls, Pool, Settings
from tests.support.certificates import Certificates
from tests.support.system import TlsPostgres
from tests.unit.server.guests import Entrance
from tests.unit.server.peers import Connection, Door, message, open_door

USERS = {
    "scram_user": "scram-secret",
    "md5_user": "md5-secret",
    "password_user": "password-secret",
    "tls_user": "tls-secret",
}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def server_tls(certificates: Certificates) -> ServerTls:
    cert, key = certificates.server
    return make_server_tls(ListenTls(cert=cert, key=key, client_ca=certificates.ca))


@contextlib.asynccontextmanager
async def opened(entrance: Entrance, tls: ServerTls = NO_TLS) -> AsyncIterator[Door]:
    async with open_door(entrance, tls=tls) as door:
        entrance.door = door
        yield door


async def connect_psycopg(port: int, **options: Any) -> None:
    """Log in with libpq, and leave."""
    connection = await psycopg.AsyncConnection.connect(
        host="127.0.0.1", port=port, connect_timeout=10, **options
    )
    await connection.close()


# -- clients


@pytest.mark.parametrize("method", ["trust", "password", "md5", "scram-sha-256"])
@pytest.mark.parametrize("sslmode", ["disable", "prefer", "verify-full"])
async def test_libpq_logs_in(
    method: str, sslmode: str, server_tls: ServerTls, certificates: Certificates
) -> None:
    entrance = Entrance(method, users=USERS)
    host = "localhost" if sslmode == "verify-full" else "127.0.0.1"
    async with opened(entrance, server_tls) as door:
        connection = await psycopg.AsyncConnection.connect(
            host=host,
            hostaddr="127.0.0.1",
            port=door.port,
            user="scram_user",
            password="scram-secret",
            dbname="app",
            sslmode=sslmode,
            sslrootcert=str(certificates.ca),
            connect_timeout=10,
        )
        await connection.close()
        assert door.counters.by_cause == {}
    context = entrance.clients[0].context
    assert (context.user, context.database) == ("scram_user", "app")
    assert context.is_tls == (sslmode != "disable")


@pytest.mark.parametrize("method", ["password", "md5", "scram-sha-256"])
@pytest.mark.parametrize("user", ["scram_user", "nobody"])
async def test_rule_31_libpq_is_told_the_same_whatever_is_wrong(method: str, user: str) -> None:
    entrance = Entrance(method, users=USERS)
    async with opened(entrance) as door:
        with pytest.raises(psycopg.OperationalError) as caught:
            await connect_psycopg(door.port, user=user, password="wrong", dbname="nowhere")
    assert f'FATAL:  password authentication failed for user "{user}"' in str(caught.value)
    assert entrance.clients == []


async def test_libpq_binds_the_channel(server_tls: ServerTls) -> None:
    entrance = Entrance("scram-sha-256", users=USERS)
    async with opened(entrance, server_tls) as door:
        await connect_psycopg(
            door.port,
            user="scram_user",
            password="scram-secret",
            sslmode="require",
            channel_binding="require",
        )
    assert entrance.clients[0].context.is_tls


async def test_libpq_shows_its_certificate(
    server_tls: ServerTls, certificates: Certificates
) -> None:
    cert, key = certificates.client
    entrance = Entrance("cert")
    async with opened(entrance, server_tls) as door:
        shown = {"sslmode": "require", "sslcert": str(cert), "sslkey": str(key)}
        await connect_psycopg(door.port, user="cert_user", **shown)
        with pytest.raises(psycopg.OperationalError, match="certificate authentication failed"):
            await connect_psycopg(door.port, user="postgres", **shown)


async def test_asyncpg_logs_in_over_direct_tls_and_after_asking(
    server_tls: ServerTls, certificates: Certificates
) -> None:
    context = ssl.create_default_context(cafile=certificates.ca)
    context.set_alpn_protocols(["postgresql"])
    entrance = Entrance("scram-sha-256", users=USERS)
    async with opened(entrance, server_tls) as door:
        for direct in (False, True):
            connection = await asyncpg.connect(
                host="localhost",
                port=door.port,
                user="scram_user",
                password="scram-secret",
                database="app",
                ssl=context,
                direct_tls=direct,
                timeout=10,
            )
            connection.terminate()
    assert [client.context.is_tls for client in entrance.clients] == [True, True]


async def test_tls_required_is_told_to_libpq(server_tls: ServerTls) -> None:
    required = ServerTls(server_tls.context, True, server_tls.certificate_hash)
    async with opened(Entrance("trust"), required) as door:
        with pytest.raises(psycopg.OperationalError, match="no encryption"):
            await connect_psycopg(door.port, user="a", sslmode="disable")
        await connect_psycopg(door.port, user="a", sslmode="prefer")


# -- servers


class Dialled:
    """A dialer to one server."""

    def __init__(self, node: Node, users: UserStore) -> None:
        self.connections: list[Connection] = []
        self.counters = Counters()
        settings = Settings(node=(node,), pool=Pool(connect_timeout=10.0))
        self.dialer = ServerDialer(settings, users, self._make, self.counters, lambda: 0.0)

    def _make(self) -> Connection:
        self.connections.append(Connection())
        return self.connections[-1]

    async def open(self, database: str, user: str) -> tuple[BackendLink, Connection]:
        link = await self.dialer.open("pg", database, user)
        return link, self.connections[-1]

    async def close(self) -> None:
        for connection in self.connections:
            if connection._wire is not None:
                connection.wire.abort()
                await connection.lost.wait()


@contextlib.asynccontextmanager
async def dialled(
    server: EmbeddedPostgres, tls: NodeTls, users: UserStore | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Dialled]:
    node = Node(name="pg", host=host, port=server.port, tls=tls)
    dialling = Dialled(node, users or UserStore(USERS, None, 60.0))
    try:
        yield dialling
    finally:
        await dialling.close()


async def query(connection: Connection, sql: str) -> list[bytes]:
    """The first column of a simple query's rows."""
    inbox = connection.inbox
    assert inbox is not None
    connection.wire.write(message(b"Q", sql.encode() + b"\0"))
    rows = []
    async with asyncio.timeout(10):
        while True:
            tag, body = await inbox.read_message()
            assert tag != tags.ERROR_RESPONSE, body
            if tag == tags.DATA_ROW:
                rows.append(body[6 : 6 + int.from_bytes(body[2:6], "big")])
            if tag == tags.READY_FOR_QUERY:
                return rows


@pytest.mark.parametrize("user", ["scram_user", "md5_user"])
@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca", "verify-full"])
async def test_logins_to_a_server_with_tls(
    tls_postgres: TlsPostgres, certificates: Certificates, user: str, mode: str
) -> None:
    ca = certificates.ca if mode.startswith("verify") else None
    tls = NodeTls(mode=mode, ca=ca)  # type: ignore[arg-type]
    async with dialled(tls_postgres, tls, host="127.0.0.1") as dialling:
        link, connection = await dialling.open("postgres", user)
        assert link.process_id > 0
        assert len(link.secret_key) == 4
        assert link.reported[b"server_version"].startswith(b"15")
        sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await query(connection, sql) == [b"f" if mode == "disable" else b"t"]
        assert await query(connection, "SELECT current_user") == [user.encode()]


async def test_rule_32_a_server_that_asks_for_a_clear_password(tls_postgres: TlsPostgres) -> None:
    async with dialled(tls_postgres, NodeTls(mode="require")) as dialling:
        await dialling.open("postgres", "password_user")
    async with dialled(tls_postgres, NodeTls(mode="disable")) as dialling:
        with pytest.raises(BackendLost) as caught:
            await dialling.open("postgres", "password_user")
        assert caught.value.refusal.sqlstate == "28000"
        assert "without TLS" in caught.value.refusal.message


async def test_the_proxys_own_certificate(
    tls_postgres: TlsPostgres, certificates: Certificates
) -> None:
    cert, key = certificates.client
    shown = NodeTls(mode="verify-full", ca=certificates.ca, cert=cert, key=key)
    async with dialled(tls_postgres, shown) as dialling:
        await dialling.open("postgres", "cert_user")
    async with dialled(tls_postgres, NodeTls(mode="require")) as dialling:
        with pytest.raises(BackendLost) as caught:
            await dialling.open("postgres", "cert_user")
        assert caught.value.refusal.sqlstate == "28000"


async def test_rule_31_the_servers_own_answers_are_kept(tls_postgres: TlsPostgres) -> None:
    users = UserStore({"scram_user": "wrong", "tls_user": "tls-secret"}, None, 60.0)
    async with dialled(tls_postgres, NodeTls(mode="disable"), users) as dialling:
        for database, user, sqlstate in (
            ("postgres", "scram_user", "28P01"),
            ("postgres", "tls_user", "28000"),
            ("postgres", "stranger", "28P01"),
        ):
            with pytest.raises(BackendLost) as caught:
                await dialling.open(database, user)
            assert caught.value.refusal.sqlstate == sqlstate
    async with dialled(tls_postgres, NodeTls(mode="require")) as dialling:
        with pytest.raises(BackendLost) as caught:
            await dialling.open("nowhere", "tls_user")
        assert caught.value.refusal.sqlstate == "3D000"
        assert caught.value.refusal.message == 'database "nowhere" does not exist'


async def test_rule_30_protocol_3_2_and_its_long_keys(primary: EmbeddedPostgres) -> None:
    async with dialled(primary, NodeTls(mode="prefer")) as dialling:
        link, connection = await dialling.open("postgres", "postgres")
        assert len(link.secret_key) == 32
        assert link.reported[b"server_version"].startswith(b"18")
        assert await query(connection, "SELECT 1") == [b"1"]


@pytest.mark.parametrize("mode", ["disable", "require"])
async def test_rule_34_a_cancel_reaches_the_running_query(
    tls_postgres: TlsPostgres, mode: str
) -> None:
    async with dialled(tls_postgres, NodeTls(mode=mode)) as dialling:  # type: ignore[arg-type]
        link, connection = await dialling.open("postgres", "scram_user")
        inbox = connection.inbox
        assert inbox is not None
        connection.wire.write(message(b"Q", b"SELECT pg_sleep(60)\0"))
        seen = b""
        async with asyncio.timeout(20):
            # The row comes first in the statement; cancel until it is the query that is hit.
            while b"57014" not in seen:
                await dialling.dialer.cancel(link)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        while True:
                            tag, body = await inbox.read_message()
                            seen += body
                            if tag == tags.READY_FOR_QUERY:
                                break
        assert await query(connection, "SELECT 1") == [b"1"]


# -- both


async def test_scram_pass_through_stores_no_password(tls_postgres: TlsPostgres) -> None:
    """auth_query's secret, the client's proof, and with its keys into the server."""
    counters = Counters()
    settings = Settings(
        node=(Node(name="pg", host="127.0.0.1", port=tls_postgres.port),),
        auth=Auth(
            query="SELECT usename, passwd, valuntil FROM pg_shadow WHERE usename = $1",
            query_user="lookup_user",
            query_password=Secret("lookup-secret"),
            query_database="postgres",
        ),
    )
    tls_postgres.execute(
        "DROP ROLE IF EXISTS lookup_user, expired_user;"
        "CREATE ROLE lookup_user LOGIN SUPERUSER PASSWORD 'lookup-secret';"
        "CREATE ROLE expired_user LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01';"
    )
    users = UserStore({}, None, 60.0)
    lookup = AuthQuery(settings, users, lambda: settings.node, counters)
    users.lookup = lookup
    entrance = Entrance("scram-sha-256")
    entrance.users = users
    try:
        async with opened(entrance) as door:
            await connect_psycopg(door.port, user="scram_user", password="scram-secret")
            learned = users.credentials("scram_user")
            assert learned.password == ""
            assert len(learned.client_key) == 32
            for user, password in (("expired_user", "x"), ("no_such_user", "x")):
                with pytest.raises(psycopg.OperationalError, match="password authentication"):
                    await connect_psycopg(door.port, user=user, password=password)
        async with dialled(tls_postgres, NodeTls(mode="prefer"), users) as dialling:
            _, connection = await dialling.open("postgres", "scram_user")
            assert await query(connection, "SELECT current_user") == [b"scram_user"]
            # Rule 33: the role's password changes, the keys no longer fit and are forgotten.
            tls_postgres.execute("ALTER ROLE scram_user PASSWORD 'another-secret'")
            with pytest.raises(BackendLost) as caught:
                await dialling.open("postgres", "scram_user")
            assert caught.value.refusal.sqlstate == "28P01"
        assert users.credentials("scram_user").client_key == b""
    finally:
        await lookup.close()
        tls_postgres.execute("ALTER ROLE scram_user PASSWORD 'scram-secret'")
    assert counters.by_cause == {}


async def test_auth_query_survives_its_connections_death_and_unknown_databases(
    tls_postgres: TlsPostgres,
) -> None:
    counters = Counters()
    settings = Settings(
        node=(
            Node(name="down", host="127.0.0.1", port=1),
            Node(name="pg", host="127.0.0.1", port=tls_postgres.port),
        ),
        auth=Auth(
            query="SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
            query_user="asking_user",
        ),
    )
    tls_postgres.execute(
        "DROP ROLE IF EXISTS asking_user;"
        "CREATE ROLE asking_user LOGIN SUPERUSER PASSWORD 'asking-secret';"
    )
    users = UserStore({"asking_user": "asking-secret"}, None, 60.0)
    lookup = AuthQuery(settings, users, lambda: settings.node, counters)
    try:
        found = await lookup.look_up("scram_user", "postgres")
        assert found is not None
        assert found.text.startswith("SCRAM-SHA-256$4096:")
        assert await lookup.look_up("no_such_user", "no_such_database") is None
        tls_postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'asking_user'"
        )
        again = await lookup.look_up("scram_user", "postgres")
        assert again is not None
        assert again.text == found.text
    finally:
        await lookup.close()
    assert counters.by_cause == {}


def test_credentials_show_nothing() -> None:
    shown = repr(Credentials(password="secret", client_key=b"key", md5_secret="md5x"))
    assert shown == "Credentials(password, scram keys, md5)"
