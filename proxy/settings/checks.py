"""
What must hold between settings, and between them and the machine: the second half of loading.

`check` notes what makes the proxy refuse to start; `advise` gives what is allowed and probably not
meant. Reads the files that the settings name, opens no connection.
"""

import ipaddress
import os
import ssl
from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Final
from urllib.parse import urlsplit

from proxy.errors import SettingsError
from proxy.settings.model import Auth, Listen, Node, NodeTls, Plugins, Settings
from proxy.settings.positions import Path
from proxy.settings.problems import Problems, describe, describe_path, suggest
from proxy.settings.users import read_users

# sun_path has room for 108 bytes with the NUL, on the smaller systems 104.
MAX_SOCKET_PATH_BYTES: Final = 103
CONSOLE_DATABASES: Final = ("headgate", "pgbouncer")
_PASSWORD_METHODS: Final = ("password", "md5", "scram-sha-256")


def check(settings: Settings, problems: Problems) -> None:
    """
    Note everything that keeps the proxy from starting with these settings.

    A section in which a setting was wrong for itself is left alone: it holds defaults where the
    operator wrote something, and what would be said of those only confuses.
    """
    problems.begin_checks()
    _check_listen(settings.listen, problems)
    _check_admin(settings, problems)
    _check_auth(settings.auth, settings.listen, problems)
    _check_pool(settings, problems)
    _check_nodes(settings.node, problems)
    _check_databases(settings, problems)
    _check_plugins(settings.plugins, problems)
    _check_kv(settings, problems)
    if settings.monitor.password and not settings.monitor.user:
        problems.add(("monitor", "password"), "given without monitor.user")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_listen(listen: Listen, problems: Problems) -> None:
    for host in listen.host:
        _check_host(host, ("listen", "host"), problems)
    if not listen.host and listen.unix_socket_dir is None:
        problems.add(
            ("listen", "host"), "nobody could connect", "a host, or listen.unix_socket_dir"
        )
    if listen.unix_socket_dir is not None:
        path: Path = ("listen", "unix_socket_dir")
        if _is_directory(listen.unix_socket_dir, path, problems, os.W_OK | os.X_OK):
            socket = listen.unix_socket_dir / f".s.PGSQL.{listen.port}"
            if len(os.fsencode(socket)) > MAX_SOCKET_PATH_BYTES:
                problems.add(path, f"the socket's path {socket} is too long for the system")
    tls = listen.tls
    if tls.mode == "require" and (tls.cert is None or tls.key is None):
        problems.add(
            ("listen", "tls", "mode"), '"require" needs listen.tls.cert and listen.tls.key'
        )
    if tls.client_ca is not None and tls.cert is None:
        problems.add(("listen", "tls", "client_ca"), "needs listen.tls.cert and listen.tls.key")
    _check_certificate(tls.cert, tls.key, ("listen", "tls"), problems)
    _check_authorities(tls.client_ca, ("listen", "tls", "client_ca"), problems)


def _check_host(host: str, path: Path, problems: Problems) -> None:
    if host in ("", "*") or host.startswith("/") or any(c.isspace() for c in host):
        expected = 'an address or a name; "0.0.0.0" and "::" are all addresses'
        problems.add(path, "not an address to listen on", expected, describe(host))


def _check_admin(settings: Settings, problems: Problems) -> None:
    admin = settings.admin
    if admin.port == 0:
        return
    _check_host(admin.host, ("admin", "host"), problems)
    if not is_loopback(admin.host) and not admin.token:
        problems.add(
            ("admin", "token"),
            f"required, because admin.host {describe(admin.host)} is not loopback",
            'a long random string, or { file = "…" }',
        )
    if admin.token and not all("!" <= c <= "~" for c in admin.token):
        problems.add(
            ("admin", "token"), "cannot be sent in a header", "printable ASCII without spaces"
        )
    if admin.port == settings.listen.port and settings.listen.host:
        problems.add(("admin", "port"), "the same as listen.port", "another port")


def _check_auth(auth: Auth, listen: Listen, problems: Problems) -> None:
    remote = [host for host in listen.host if not is_loopback(host)]
    if auth.method == "trust" and remote and not auth.allow_remote_trust and not auth.hba_file:
        problems.add(
            ("auth", "method"),
            f'"trust" lets anybody in who can reach {describe(remote[0])}',
            "another method, a loopback listen.host, or auth.allow_remote_trust = true",
        )
    if auth.method == "cert" and not auth.hba_file:
        if listen.tls.client_ca is None:
            problems.add(("auth", "method"), '"cert" needs listen.tls.client_ca')
        if listen.tls.mode == "disable":
            problems.add(("auth", "method"), '"cert" needs TLS', 'listen.tls.mode "require"')
    has_secrets = auth.users_file is not None or auth.query or auth.hba_file is not None
    if auth.method in _PASSWORD_METHODS and not has_secrets:
        problems.add(
            ("auth", "users_file"),
            f"required, because auth.method {describe(auth.method)} needs the users' secrets",
            "auth.users_file or auth.query",
        )
    if auth.query:
        if "$1" not in auth.query:
            problems.add(("auth", "query"), "does not use $1", "SQL with $1 for the user's name")
        if not auth.query_user:
            problems.add(("auth", "query_user"), "required, because auth.query is set", "a user")
    if auth.query_password and not auth.query_user:
        problems.add(("auth", "query_password"), "given without auth.query_user")
    for name in ("hba_file", "user_map_file"):
        _is_readable(getattr(auth, name), ("auth", name), problems)
    if auth.users_file is not None and _is_readable(
        auth.users_file, ("auth", "users_file"), problems
    ):
        try:
            read_users(auth.users_file)
        except SettingsError as error:
            for text in error.problems:
                problems.add_elsewhere(text)


def _check_pool(settings: Settings, problems: Problems) -> None:
    pool = settings.pool
    if pool.min_size > pool.size:
        problems.add(
            ("pool", "min_size"), "above pool.size", f"at most {pool.size}", str(pool.min_size)
        )
    for number, database in enumerate(settings.database):
        if 0 < database.pool_size < pool.min_size:
            problems.add(
                ("database", number, "pool_size"),
                "below pool.min_size",
                f"at least {pool.min_size}",
                str(database.pool_size),
            )


def _check_nodes(nodes: tuple[Node, ...], problems: Problems) -> None:
    if not nodes:
        problems.add(("node",), "no server is named", "at least one [[node]]")
    seen: set[str] = set()
    for number, node in enumerate(nodes):
        if node.name in seen:
            problems.add(
                ("node", number, "name"), "two nodes have this name", got=describe(node.name)
            )
        seen.add(node.name)
        if not node.host or any(c.isspace() for c in node.host):
            problems.add(
                ("node", number, "host"),
                "not a host",
                "a name, an address, or the directory of a Unix socket",
                describe(node.host),
            )
        _check_node_tls(node.tls, ("node", number, "tls"), problems)


def _check_node_tls(tls: NodeTls, path: Path, problems: Problems) -> None:
    _check_certificate(tls.cert, tls.key, path, problems)
    _check_authorities(tls.ca, (*path, "ca"), problems)
    if tls.negotiation == "direct" and tls.mode in ("disable", "prefer"):
        # As libpq: without TLS there would be nothing to fall back to.
        problems.add(
            (*path, "negotiation"),
            "direct TLS cannot be optional",
            'node.tls.mode "require", "verify-ca" or "verify-full"',
            describe(tls.mode),
        )


def _check_databases(settings: Settings, problems: Problems) -> None:
    nodes = [] if problems.is_broken("node") else [node.name for node in settings.node]
    seen: set[str] = set()
    for number, database in enumerate(settings.database):
        path: Path = ("database", number)
        if database.name in seen:
            got = describe(database.name)
            problems.add((*path, "name"), "two databases have this name", got=got)
        seen.add(database.name)
        if not database.name or database.name in CONSOLE_DATABASES:
            reason = "the admin console's name" if database.name else "empty"
            problems.add((*path, "name"), reason, "another name", describe(database.name))
        if database.password and not database.user:
            problems.add((*path, "password"), "given without database.user")
        _check_node_names(database.nodes, nodes, (*path, "nodes"), problems)
    for name, branch in settings.branches.items():
        if not branch.database:
            problems.add(("branches", name, "database"), "empty", "a database's name")
        _check_node_names(branch.nodes, nodes, ("branches", name, "nodes"), problems)


def _check_node_names(
    named: tuple[str, ...], nodes: list[str], path: Path, problems: Problems
) -> None:
    for number, name in enumerate(named):
        if nodes and name not in nodes:
            hint = suggest(name, nodes)
            reason = f"no [[node]] has this name; {hint}" if hint else "no [[node]] has this name"
            expected = " | ".join(describe(node) for node in dict.fromkeys(nodes))
            problems.add((*path, number), reason, expected, describe(name))
        elif name in named[:number]:
            problems.add((*path, number), "named twice", got=describe(name))


def _check_plugins(plugins: Plugins, problems: Problems) -> None:
    for name in ("dir", "trust_root"):
        _is_directory(getattr(plugins, name), ("plugins", name), problems, os.R_OK | os.X_OK)
    _is_readable(plugins.revocation_file, ("plugins", "revocation_file"), problems)
    if plugins.cache_dir is not None:
        # It is made when it is not there.
        parent = plugins.cache_dir if plugins.cache_dir.exists() else plugins.cache_dir.parent
        _is_directory(parent, ("plugins", "cache_dir"), problems, os.W_OK | os.X_OK)
    if plugins.dir is None and plugins.settings:
        problems.add(
            ("plugins", "dir"),
            "not there, so that no plugin runs, but plugins.settings names some",
            "the directory of the plugins",
        )
    for name in ("allow_legacy_signatures", "revocation_file"):
        if getattr(plugins, name) and plugins.trust_root is None:
            problems.add(("plugins", name), "has no meaning without plugins.trust_root")
    if not plugins.query.user and (plugins.query.password or plugins.query.role):
        problems.add(("plugins", "query", "user"), "required by what else is set there", "a user")
    for number, host in enumerate(plugins.http.allow_hosts):
        if not _is_host_and_port(host):
            problems.add(
                ("plugins", "http", "allow_hosts", number),
                "not a host",
                '"name" or "name:port"',
                describe(host),
            )


def _is_host_and_port(text: str) -> bool:
    try:
        parts = urlsplit(f"//{text}")
        return parts.netloc == text and bool(parts.hostname) and parts.port != 0 and "@" not in text
    except ValueError:
        return False


def _check_kv(settings: Settings, problems: Problems) -> None:
    kv = settings.kv
    if kv.url:
        # The address may hold a password: what was got is not shown.
        try:
            parts = urlsplit(kv.url)
            is_known = parts.scheme in ("redis", "rediss") and bool(parts.hostname)
            is_known = is_known or (parts.scheme == "unix" and bool(parts.path))
        except ValueError:
            is_known = False
        if not is_known:
            problems.add(("kv", "url"), "not an address", "redis://… | rediss://… | unix://…")
    if kv.max_key + kv.max_value > kv.max_total:
        problems.add(("kv", "max_total"), "below kv.max_key and kv.max_value together")


def _check_certificate(
    cert: FilePath | None, key: FilePath | None, path: Path, problems: Problems
) -> None:
    if (cert is None) != (key is None):
        missing, there = ("key", "cert") if key is None else ("cert", "key")
        problems.add((*path, missing), f"required, because {there} is set", "a path")
        return
    if cert is None or key is None:
        return
    readable = [
        _is_readable(file, (*path, name), problems) for name, file in (("cert", cert), ("key", key))
    ]
    if not all(readable):
        return
    try:
        # An empty pass phrase, so that an encrypted key is an error and never a prompt.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError, OSError) as error:
        reason = getattr(error, "reason", None) or "not PEM, or the key is encrypted"
        problems.add(
            (*path, "cert"),
            f"this certificate and key cannot be used ({reason})",
            "a PEM certificate chain and the private key that belongs to it",
        )


def _check_authorities(file: FilePath | None, path: Path, problems: Problems) -> None:
    if file is None or not _is_readable(file, path, problems):
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        problems.add(path, "holds no certificate", "PEM certificates", describe_path(file))


def _is_readable(file: FilePath | None, path: Path, problems: Problems) -> bool:
    """Whether a file is set and can be read; notes why not."""
    if file is None:
        return False
    reason = ""
    try:
        if file.is_dir():
            reason = "is a directory"
        else:
            with file.open("rb"):
                pass
    except OSError as error:
        reason = error.strerror or "cannot be read"
    if reason:
        problems.add(path, f"cannot be read: {reason}", "a file", describe_path(file))
    return not reason


def _is_directory(directory: FilePath | None, path: Path, problems: Problems, access: int) -> bool:
    """Whether a directory is set, there and accessible; notes why not."""
    if directory is None:
        return False
    reason = ""
    if not directory.exists():
        reason = "there is no such directory"
    elif not directory.is_dir():
        reason = "is not a directory"
    elif not os.access(directory, access):
        reason = "permission denied"
    if reason:
        problems.add(path, reason, "a directory", describe_path(directory))
    return not reason


def advise(settings: Settings) -> list[str]:
    """What is allowed and probably not meant, one line each: key, what, what to do."""
    advice = []
    auth = settings.auth
    if auth.method == "trust" and not auth.hba_file:
        advice.append('auth.method: "trust" asks nobody for a proof; use it for tests only')
    tls = settings.listen.tls
    if tls.cert is None and not all(is_loopback(host) for host in settings.listen.host):
        advice.append("listen.tls.cert: clients reach the proxy over the network without TLS")
    advice += [
        f"{file}: holds secrets and can be read by every user; chmod 600 it"
        for file in _secret_files(settings)
        if _is_open_to_others(file)
    ]
    plugins = settings.plugins
    granted = set(plugins.grants)
    for override in plugins.settings.values():
        granted.update(override.grants or ())
    if "db.query" in granted and not plugins.query.user:
        advice.append("plugins.query.user: db.query is granted, but without a user it is refused")
    if "http.fetch" in granted and not plugins.http.allow_hosts:
        advice.append("plugins.http.allow_hosts: http.fetch is granted, but no host is allowed")
    if plugins.dir is not None and plugins.trust_root is None:
        advice.append("plugins.trust_root: plugins run without a signature")
    roles = [node.role for node in settings.node]
    if roles and all(role == "standby" for role in roles):
        advice.append("node.role: every node is a standby; writes have nowhere to go")
    return advice


def _secret_files(settings: Settings) -> Iterable[FilePath]:
    files = [settings.auth.users_file, settings.listen.tls.key]
    files += [node.tls.key for node in settings.node]
    return dict.fromkeys(file for file in files if file is not None)


def _is_open_to_others(file: FilePath) -> bool:
    try:
        return bool(file.stat().st_mode & 0o007)
    except OSError:
        return False
