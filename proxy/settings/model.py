"""
The configuration file as values: one frozen Struct for each section, field names = TOML keys.

These are the values after loading: durations are float seconds, sizes int bytes, files absolute
paths (None where the file says ""), secrets `Secret` strings. The string under a field says what it
is for and whether a reload changes it; together with the field's type and default it makes the
sample file, the JSON schema and docs/configuration.md (`python -m proxy.settings.reference`).
Nothing changes a Settings: a reload builds a new one. Knows nothing of TOML.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from proxy.settings.kinds import (
    GIB,
    HOUR,
    KIB,
    MIB,
    MINUTE,
    NO_SECRET,
    Bytes,
    Count,
    OptionalPath,
    OptionalPort,
    Port,
    PositiveCount,
    PositiveSeconds,
    Seconds,
    Secret,
    SecretStr,
)
from proxy.settings.plugin_model import (
    PERMISSIONS,
    Kv,
    PluginHttp,
    PluginLimits,
    PluginOverride,
    PluginOverrideLimits,
    PluginQuery,
    Plugins,
)

__all__ = [
    "PERMISSIONS",
    "Admin",
    "Auth",
    "Branch",
    "Database",
    "Kv",
    "Listen",
    "ListenTls",
    "Log",
    "Monitor",
    "Node",
    "NodeTls",
    "PluginHttp",
    "PluginLimits",
    "PluginOverride",
    "PluginOverrideLimits",
    "PluginQuery",
    "Plugins",
    "Pool",
    "Routing",
    "Secret",
    "Server",
    "Settings",
]


class ListenTls(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[listen.tls]`: encryption between clients and the proxy."""

    mode: Literal["disable", "allow", "require"] = "allow"
    """disable: never; allow: if the client asks, once there is a certificate; require: clients
    without TLS are refused (Unix sockets excepted). Direct TLS is accepted whenever TLS is.
    Reload: yes."""
    cert: OptionalPath = None
    """Certificate chain, PEM. Reload: yes."""
    key: OptionalPath = None
    """Private key of the certificate, PEM, without a pass phrase. Reload: yes."""
    client_ca: OptionalPath = None
    """Certificates of the authorities that sign client certificates; set, a client certificate is
    asked for and verified. Reload: yes."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    """Lowest TLS version. Reload: yes."""


class Listen(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[listen]`: where clients connect."""

    host: tuple[str, ...] = ("127.0.0.1",)
    """Address to listen on, or a list of them; "0.0.0.0" and "::" are all, [] is none.
    Reload: no."""
    port: Port = 6432
    """TCP port, also the number in the Unix socket's name. Reload: no."""
    unix_socket_dir: OptionalPath = None
    """Directory for the Unix socket .s.PGSQL.<port>; "" is none. Reload: no."""
    unix_socket_mode: Annotated[str, Meta(pattern=r"^0?[0-7]{3}$")] = "0777"
    """Permissions of the Unix socket, octal. Reload: no."""
    backlog: Annotated[int, Meta(ge=1, le=65535)] = 1024
    """Connections that the kernel keeps waiting to be accepted. Reload: no."""
    max_message: Annotated[Bytes, Meta(ge=64 * KIB, le=GIB)] = GIB
    """Longest message accepted from a client; a longer one is 08P01. Reload: yes."""
    tls: ListenTls = field(default_factory=ListenTls)
    """Encryption. Reload: yes."""


class Admin(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[admin]`: the HTTP side (/metrics, /health, /api, the page) and the console."""

    host: str = "127.0.0.1"
    """Address to listen on. Reload: no."""
    port: OptionalPort = 9632
    """TCP port; 0 is no HTTP at all. Reload: no."""
    token: SecretStr = NO_SECRET
    """Bearer token of the API. Required when host is not loopback. Reload: yes."""
    console_users: tuple[str, ...] = ("admin",)
    """Users who may do everything in the admin console (database headgate). Reload: yes."""
    stats_users: tuple[str, ...] = ()
    """Users who may only SHOW in the admin console. Reload: yes."""


class Auth(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[auth]`: how clients prove who they are."""

    method: Literal["trust", "password", "md5", "scram-sha-256", "cert"] = "scram-sha-256"
    """trust: no proof; cert: a client certificate (needs listen.tls.client_ca). Reload: yes."""
    users_file: OptionalPath = None
    """PgBouncer's format, "name" "secret" a line; a secret is a clear password, md5… or
    SCRAM-SHA-256$…. Reload: yes."""
    query: str = ""
    """SQL that gives user and secret for $1, for users that are not in users_file, e.g.
    SELECT usename, passwd FROM pg_shadow WHERE usename = $1. A third column, if there is one, is
    the time until which the secret is valid. Reload: yes."""
    query_user: str = ""
    """User that runs `query`. Reload: yes."""
    query_password: SecretStr = NO_SECRET
    """Password of query_user; "" takes it from users_file. Reload: yes."""
    query_database: str = ""
    """Database that `query` runs in; "" is the one that the client asked for. Reload: yes."""
    query_cache: Seconds = MINUTE
    """How long an answer of `query` is remembered; a failed login asks once again at once.
    "0" asks each time. Reload: yes."""
    hba_file: OptionalPath = None
    """File in pg_hba.conf's format; set, its first matching line decides in place of `method`.
    Reload: yes."""
    user_map_file: OptionalPath = None
    """File in pg_ident.conf's format, for method cert. Reload: yes."""
    max_failures_per_minute: Count = 30
    """Failed logins from one address before more are refused unasked; 0 is no limit.
    Reload: yes."""
    allow_cleartext_without_tls: bool = False
    """Ask for clear passwords on connections without TLS too: for method password, and for plugins
    that are granted auth.credentials. Reload: yes."""
    allow_remote_trust: bool = False
    """Allow method trust while listen.host is not loopback. Reload: yes."""
    login_timeout: PositiveSeconds = MINUTE
    """Time from accepting a connection to the end of its login. Reload: yes."""


class Pool(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[pool]`: server connections, and who waits for them how long."""

    mode: Literal["session", "transaction", "statement"] = "transaction"
    """When a server connection is given back. Reload: yes, for new clients."""
    size: PositiveCount = 20
    """Server connections per (database, user, node). Reload: yes."""
    min_size: Count = 0
    """Server connections kept open per (database, user, node) once it was used. Reload: yes."""
    reserve_size: Count = 0
    """Further server connections once a client waited reserve_timeout. Reload: yes."""
    reserve_timeout: Seconds = 5.0
    """Wait after which the reserve is used; "0" never uses it. Reload: yes."""
    max_client_connections: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    """Clients in all; the next one gets 53300. Worker processes share this and all other limits
    evenly. Reload: yes."""
    max_db_connections: Count = 0
    """Server connections per database in all; 0 is no limit. Reload: yes."""
    max_user_connections: Count = 0
    """Server connections per user in all; 0 is no limit. Reload: yes."""
    max_user_client_connections: Count = 0
    """Clients per user; 0 is no limit. Reload: yes."""
    max_db_client_connections: Count = 0
    """Clients per database; 0 is no limit. Reload: yes."""
    wait_timeout: Seconds = 30.0
    """Longest wait of a client for a server connection; "0" waits for ever. Reload: yes."""
    query_wait_notify: Seconds = 5.0
    """Wait after which the client is sent a NOTICE that it waits; "0" never. Reload: yes."""
    idle_timeout: Seconds = 10 * MINUTE
    """Idle time after which a server connection is closed; "0" never. Reload: yes."""
    lifetime: Seconds = HOUR
    """Age after which an idle server connection is closed; "0" never. Reload: yes."""
    connect_timeout: PositiveSeconds = 5.0
    """Time to connect and log in to a server. Reload: yes."""
    query_timeout: Seconds = 0.0
    """Longest time of a statement, then it is cancelled (57014); "0" is no limit. Reload: yes."""
    idle_transaction_timeout: Seconds = 0.0
    """Longest idle time in a transaction, then the client is closed (25P03); "0" is no limit.
    Reload: yes."""
    client_idle_timeout: Seconds = 0.0
    """Longest idle time of a client, then it is closed (57P05); "0" is no limit. Reload: yes."""
    max_prepared_statements: Count = 200
    """Prepared statements kept on one server connection. Reload: yes."""


class Routing(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[routing]`: which node a statement goes to when no plugin says so."""

    reads: Literal["primary", "standby", "any"] = "standby"
    """Where a plain read outside a transaction goes. Reload: yes."""
    max_lag: Bytes = 16 * MIB
    """A standby that is further behind is not used; "0" is no limit. Reload: yes."""
    balance: Literal["least_connections", "round_robin", "random"] = "least_connections"
    """Which one of several usable nodes. Reload: yes."""
    fallback_to_primary: bool = True
    """Reads go to the primary when no standby is usable. Reload: yes."""
    check_interval: PositiveSeconds = 2.0
    """How often each node is asked for its role and lag. Reload: yes."""


class Monitor(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[monitor]`: how the health monitor logs in to the nodes; it reads, and needs no rights."""

    user: str = ""
    """User; "" is, whichever is there first: the first [[database]] with a user, auth.query_user, a
    user with a clear password in auth.users_file (the console's users first), a login of a client
    that worked, "postgres" without a password. Reload: yes."""
    password: SecretStr = NO_SECRET
    """Its password; "" takes it from auth.users_file. Reload: yes."""
    database: str = "postgres"
    """Database to connect to. Reload: yes."""


class NodeTls(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[node.tls]`: encryption between the proxy and one server, libpq's words."""

    mode: Literal["disable", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    """As libpq's sslmode. Reload: yes, for new connections."""
    negotiation: Literal["postgres", "direct"] = "postgres"
    """As libpq's sslnegotiation: direct begins with TLS at once, which PostgreSQL 17 and newer take, and
    needs a mode of at least require. Reload: yes, for new connections."""
    ca: OptionalPath = None
    """Certificates of the authorities that sign the server's; for verify-ca and verify-full "" is
    the system's. Reload: yes, for new connections."""
    cert: OptionalPath = None
    """Certificate that the proxy shows to the server. Reload: yes, for new connections."""
    key: OptionalPath = None
    """Private key of that certificate. Reload: yes, for new connections."""


class Node(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[node]]`: one PostgreSQL server."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,63}$")]
    """Name, as plugins, metrics and the console know it. Required. Reload: yes."""
    host: str = "127.0.0.1"
    """Name or address, or the directory of a Unix socket (starts with /). Reload: yes."""
    port: Port = 5432
    """TCP port, or the number in the Unix socket's name. Reload: yes."""
    role: Literal["auto", "primary", "standby"] = "auto"
    """auto asks pg_is_in_recovery(). Reload: yes."""
    weight: Annotated[int, Meta(ge=0, le=1000)] = 1
    """Share of the reads against other nodes; 0 takes none while another can. Reload: yes."""
    tls: NodeTls = field(default_factory=NodeTls)
    """Encryption. Reload: yes, for new connections."""


class Database(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[database]]`: what clients may ask for. Without any: every name, on all nodes."""

    name: str
    """What clients ask for; "*" is any other name, with the same name behind. Required.
    Reload: yes."""
    dbname: str = ""
    """Name on the server; "" is the same. Reload: yes."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that have it; [] is all. Reload: yes."""
    user: str = ""
    """Log in to the server as this user; "" is the client's. Reload: yes."""
    password: SecretStr = NO_SECRET
    """Password of `user`. Reload: yes."""
    pool_mode: Literal["", "session", "transaction", "statement"] = ""
    """In place of pool.mode; "" is that. Reload: yes, for new clients."""
    pool_size: Count = 0
    """In place of pool.size; 0 is that. Reload: yes."""
    max_connections: Count = 0
    """In place of pool.max_db_connections; 0 is that. Reload: yes."""
    max_client_connections: Count = 0
    """In place of pool.max_db_client_connections; 0 is that. Reload: yes."""


class Branch(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[branches.NAME]`: what route(branch) and the startup parameter headgate.branch mean."""

    database: str
    """Name of the database on the server. Required. Reload: yes."""
    nodes: tuple[str, ...] = ()
    """Names of the nodes that have it; [] is all. Reload: yes."""


class Server(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[server]`: the proxy's own processes."""

    workers: Annotated[int, Meta(ge=1, le=256)] = 1
    """Worker processes behind one port; `headgate serve --workers` goes before. Reload: no."""
    drain_timeout: Seconds = 30.0
    """Longest wait for clients to finish after SIGTERM; "0" does not wait. Reload: yes."""


class Log(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[log]`: the proxy's own log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level written. Reload: yes."""
    format: Literal["auto", "json", "console"] = "auto"
    """auto is console on a terminal, else json. Reload: yes."""


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    listen: Listen = field(default_factory=Listen)
    """Where clients connect."""
    admin: Admin = field(default_factory=Admin)
    """The HTTP side and the console."""
    auth: Auth = field(default_factory=Auth)
    """How clients prove who they are."""
    pool: Pool = field(default_factory=Pool)
    """Server connections."""
    routing: Routing = field(default_factory=Routing)
    """Which node a statement goes to."""
    monitor: Monitor = field(default_factory=Monitor)
    """How the health monitor logs in."""
    node: tuple[Node, ...] = ()
    """The servers; at least one is required."""
    database: tuple[Database, ...] = ()
    """What clients may ask for; loading a file without any gives one named "*"."""
    branches: dict[str, Branch] = field(default_factory=dict)
    """Database branches by name."""
    plugins: Plugins = field(default_factory=Plugins)
    """Which plugins run, and what they may do."""
    kv: Kv = field(default_factory=Kv)
    """The plugins' key-value store."""
    server: Server = field(default_factory=Server)
    """The proxy's own processes."""
    log: Log = field(default_factory=Log)
    """The proxy's own log."""
