"""
The sections of the file that are about plugins: `[plugins]`, all below it, and `[kv]`.

Same conventions as `model`, which gathers these. Knows nothing of how they are read or used.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, field

from proxy.settings.kinds import (
    KIB,
    MAX_COUNT,
    MIB,
    NO_SECRET,
    Bytes,
    OptionalPath,
    PositiveCount,
    PositiveSeconds,
    Seconds,
    SecretStr,
)

# What a plugin may be granted: plugins.md section 4, in its order.
PERMISSIONS: Final = (
    "query.block",
    "query.rewrite",
    "query.answer",
    "query.params",
    "auth.decide",
    "auth.credentials",
    "authz.decide",
    "route.decide",
    "conn.deny",
    "cache.read",
    "cache.write",
    "kv.read",
    "kv.write",
    "log",
    "metrics",
    "config",
    "clock",
    "random",
    "crypto",
    "db.query",
    "http.fetch",
)

Grant = Annotated[str, Meta(extra={"choices": PERMISSIONS})]
Memory = Annotated[Bytes, Meta(ge=64 * KIB, le=256 * MIB)]
Fuel = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Milliseconds = Annotated[int, Meta(ge=1, le=10_000)]
Transfer = Annotated[Bytes, Meta(ge=1 * KIB, le=1 * MIB)]
ModuleSize = Annotated[Bytes, Meta(ge=1 * KIB, le=64 * MIB)]


class PluginLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    `[plugins.limits]`: the operator's ceilings.

    A plugin gets what its manifest asks for, or the default of the contract, and never more than
    this. Nothing here can be set above the hard caps.
    """

    memory: Memory = 64 * MIB
    """Linear memory of one instance. Reload: yes."""
    fuel: Fuel = 10_000_000
    """Fuel of one call of a statement hook. Reload: yes."""
    auth_fuel: Fuel = 50_000_000
    """Fuel of one call of authenticate or custom_hook. Reload: yes."""
    init_fuel: Fuel = 500_000_000
    """Fuel of plugin_init. Reload: yes."""
    timeout_ms: Milliseconds = 50
    """Wall time of one call of a statement hook, in milliseconds. Reload: yes."""
    auth_timeout_ms: Milliseconds = 500
    """Wall time of one call of authenticate or custom_hook, in milliseconds. Reload: yes."""
    statement_ms: Milliseconds = 20
    """Time of all plugins together on one statement, in milliseconds. Reload: yes."""
    input: Transfer = 64 * KIB
    """Longest input of a call; a longer SQL text is cut for observers and refused for a plugin that
    may block. Reload: yes."""
    output: Transfer = 64 * KIB
    """Longest answer of a call. Reload: yes."""
    log_line: Bytes = 2 * KIB
    """Longest log line of a plugin; the rest is cut. Reload: yes."""
    log_lines_per_second: PositiveCount = 200
    """Log lines a second from one plugin; more are dropped and counted. Reload: yes."""
    plugins: Annotated[int, Meta(ge=0, le=1024)] = 32
    """Number of plugins loaded at once. Reload: yes."""
    module: ModuleSize = 8 * MIB
    """Size of a module's file. Reload: yes."""
    component: ModuleSize = 24 * MIB
    """Size of a component's file. Reload: yes."""


class PluginOverrideLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    `[plugins.settings.NAME.limits]`: ceilings for this plugin, in place of `[plugins.limits]`.

    What is not written stays None, and the ceiling of `[plugins.limits]` stands.
    """

    memory: Memory | None = None
    """Linear memory of one instance. Reload: yes."""
    fuel: Fuel | None = None
    """Fuel of one call of a statement hook. Reload: yes."""
    auth_fuel: Fuel | None = None
    """Fuel of one call of authenticate or custom_hook. Reload: yes."""
    init_fuel: Fuel | None = None
    """Fuel of plugin_init. Reload: yes."""
    timeout_ms: Milliseconds | None = None
    """Wall time of one call of a statement hook, in milliseconds. Reload: yes."""
    auth_timeout_ms: Milliseconds | None = None
    """Wall time of one call of authenticate or custom_hook, in milliseconds. Reload: yes."""
    input: Transfer | None = None
    """Longest input of a call. Reload: yes."""
    output: Transfer | None = None
    """Longest answer of a call. Reload: yes."""


class PluginOverride(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """
    `[plugins.settings.NAME]`: the operator's word on one plugin, by its manifest's name.

    What is not written stays None, and the manifest's word stands.
    """

    enabled: bool = True
    """False: the plugin is known and not loaded. Reload: yes."""
    priority: Annotated[int, Meta(ge=-MAX_COUNT, le=MAX_COUNT)] | None = None
    """Place in a chain, lower first, in place of the manifest's. Reload: yes."""
    on_error: Literal["closed", "open"] | None = None
    """What a failed call means, in place of the manifest's. Reload: yes."""
    grants: tuple[Grant, ...] | None = None
    """Permissions granted to this plugin, in place of plugins.grants. Reload: yes."""
    limits: PluginOverrideLimits = field(default_factory=PluginOverrideLimits)
    """Ceilings of this plugin. Reload: yes."""
    config: dict[str, Any] = field(default_factory=dict)
    """Given to plugin_init over the manifest's [config], key by key. Reload: yes."""


class PluginQuery(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[plugins.query]`: how plugins that are granted db.query run SQL. Off without a user."""

    user: str = ""
    """Log in to the server as this user; "" refuses every db.query. Reload: yes."""
    password: SecretStr = NO_SECRET
    """Its password. Reload: yes."""
    role: str = ""
    """SET ROLE to this after the login; "" stays the user. Reload: yes."""
    database: str = "postgres"
    """Database on the server. Reload: yes."""
    timeout: PositiveSeconds = 1.0
    """Time limit of one query. Reload: yes."""
    pool_size: PositiveCount = 2
    """Server connections for all plugins of one worker process. Reload: yes."""
    read_only: bool = True
    """Queries run in READ ONLY transactions. Reload: yes."""


class PluginHttp(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[plugins.http]`: what plugins that are granted http.fetch may reach."""

    allow_hosts: tuple[str, ...] = ()
    """Hosts, as "name" or "name:port"; nothing else is fetched, none by default. Reload: yes."""
    timeout: PositiveSeconds = 2.0
    """Time limit of one request, the connection included. Reload: yes."""
    max_response: Bytes = 256 * KIB
    """Longest response body; a longer one is an error. Reload: yes."""


class Plugins(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[plugins]`: which plugins run, and what they may do. Off without a directory."""

    dir: OptionalPath = None
    """Directory of modules and manifests; "" is no plugins at all. Reload: yes."""
    watch: bool = True
    """Load, replace and unload plugins when files in the directory change. Reload: yes."""
    trust_root: OptionalPath = None
    """Directory of *.pub files; set, every plugin must be signed by one of them. Reload: yes."""
    allow_legacy_signatures: bool = False
    """Accept ABI 0 signatures, which cover the module alone. Reload: yes."""
    revocation_file: OptionalPath = None
    """File that names revoked key ids and module hashes. Reload: yes."""
    allow_downgrade: bool = False
    """Accept a lower version of a plugin than one accepted before. Reload: yes."""
    cache_dir: OptionalPath = None
    """Directory that only the proxy can write, for compiled modules and for the versions accepted
    before; "" keeps both in memory. Reload: no."""
    grants: tuple[Grant, ...] = ("log", "metrics", "config", "clock")
    """Permissions granted to every plugin that asks for them. Reload: yes."""
    unknown_sql: Literal["hooks", "refuse"] = "hooks"
    """Text that the parser does not know: hand it to the hooks as it is, or refuse it.
    Reload: yes."""
    drain_timeout: PositiveSeconds = 30.0
    """Longest wait for statements on a replaced plugin before that is reported. Reload: yes."""
    drain_poll: PositiveSeconds = 0.05
    """How often a drain looks whether it is done. Reload: yes."""
    result_cache: Bytes = 64 * MIB
    """Memory of the result cache that cache_get and cache_set steer; "0" is none. Reload: yes."""
    outcome_queue: PositiveCount = 10_000
    """Outcomes waiting for post_query and cache_set; more are dropped and counted. Reload: no."""
    limits: PluginLimits = field(default_factory=PluginLimits)
    """Ceilings of every plugin. Reload: yes."""
    query: PluginQuery = field(default_factory=PluginQuery)
    """SQL for plugins. Reload: yes."""
    http: PluginHttp = field(default_factory=PluginHttp)
    """HTTP for plugins. Reload: yes."""
    settings: dict[str, PluginOverride] = field(default_factory=dict)
    """The operator's word on single plugins, by name. Reload: yes."""


class Kv(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[kv]`: the plugins' key-value store, shared by the worker processes of one proxy."""

    url: SecretStr = NO_SECRET
    """redis:// or rediss:// address of a Valkey or Redis that a fleet shares; "" keeps the store in
    this proxy. Reload: no."""
    max_key: Annotated[Bytes, Meta(ge=1, le=64 * KIB)] = 256
    """Longest key. Reload: no."""
    max_value: Annotated[Bytes, Meta(ge=1, le=16 * MIB)] = 64 * KIB
    """Longest value. Reload: no."""
    max_keys: PositiveCount = 1024
    """Keys of one plugin. Reload: no."""
    max_total: Bytes = 64 * MIB
    """Keys and values of all plugins together. Reload: no."""
    timeout: Seconds = 0.1
    """Time limit of one call to the store at `url`; "0" is none. Reload: no."""
