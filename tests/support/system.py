"""
Real servers and a real proxy process for system tests, and what to ask of them.

`RunningProxy` is one `headgate serve` in a process of its own with its own ports, file of
configuration and log. The fixtures that make it are in tests/conftest.py.
"""

import contextlib
import http.client
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import prometheus_client.parser
import psycopg

import proxy
from proxy.demo.cluster import EmbeddedPostgres, resident_bytes
from proxy.demo.workspace import Workspace
from tests.support.certificates import Certificates
from tests.support.ports import take_port

REPOSITORY = Path(proxy.__file__).resolve().parent.parent
EXAMPLES = REPOSITORY / "plugins_sdk" / "examples"
DEBIAN_BIN_DIR = max(
    (path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")),
    default=Path("/usr/lib/postgresql/15/bin"),
)
"""The newest of Debian's servers, which have TLS; may not exist."""
ALL_GRANTS = [
    *("query.block", "query.rewrite", "query.answer", "query.params", "auth.decide"),
    *("auth.credentials", "authz.decide", "route.decide", "conn.deny", "cache.read", "cache.write"),
    *("kv.read", "kv.write", "log", "metrics", "config", "clock", "random", "crypto"),
]
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0

live_logs: dict[str, Path] = {}
"""Logs of all that runs now, by name: shown when a test fails."""


def wait_until(predicate: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    """Wait until a condition holds; AssertionError naming it when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or predicate}")
        time.sleep(0.02)


def to_toml(document: Mapping[str, Any]) -> str:
    """Write a configuration as TOML: tables for sections, arrays of tables, inline below."""
    lines: list[str] = []
    for key, value in document.items():
        if not isinstance(value, dict) and not _is_table_array(value):
            lines.append(f"{_key(key)} = {_value(value)}")
    for key, value in document.items():
        if isinstance(value, dict):
            lines.append(f"\n[{_key(key)}]")
            lines.extend(f"{_key(name)} = {_value(item)}" for name, item in value.items())
        elif _is_table_array(value):
            for table in value:
                lines.append(f"\n[[{_key(key)}]]")
                lines.extend(f"{_key(name)} = {_value(item)}" for name, item in table.items())
    return "\n".join(lines) + "\n"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; None takes a key away."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Metrics:
    """One scrape of /metrics, parsed."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [
            sample
            for family in prometheus_client.parser.text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """Sum the samples of a name whose labels include the given ones; 0 when there is none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def has(self, name: str, **labels: str) -> bool:
        """Tell whether there is such a sample at all."""
        return any(
            sample.name == name and labels.items() <= sample.labels.items()
            for sample in self._samples
        )


class RunningProxy:
    """One `headgate serve` process."""

    def __init__(
        self,
        workspace: Workspace,
        name: str,
        config: Mapping[str, Any],
        *,
        examples: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        workers: int = 0,
    ) -> None:
        self.workspace = workspace
        self.name = name
        self.directory = workspace.path / name
        self.directory.mkdir()
        self.plugin_dir = self.directory / "plugins"
        self.plugin_dir.mkdir()
        self.config_path = self.directory / "headgate.toml"
        self.log_path = self.directory / "headgate.log"
        self.port = take_port()
        self.admin_port = take_port()
        self.workers = workers
        self.environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})}
        base: dict[str, Any] = {
            "listen": {"port": self.port},
            "admin": {"port": self.admin_port},
            "log": {"format": "json", "level": "debug"},
        }
        if examples or "plugins" in config:
            base["plugins"] = {"dir": str(self.plugin_dir), "grants": ALL_GRANTS}
        for example in examples:
            self.install_example(example)
        self.config = merged(base, config)
        self.process: subprocess.Popen[bytes] | None = None
        self.greeting = ""
        """The one line that the proxy prints when it accepts connections."""
        live_logs[name] = self.log_path

    def start(self) -> "RunningProxy":
        """Write the configuration, start the process and wait until it accepts connections."""
        self.write_config()
        command = [sys.executable, "-m", "proxy", "serve", "--config", str(self.config_path)]
        if self.workers:
            command += ["--workers", str(self.workers)]
        with self.log_path.open("ab") as log:
            self.process = self.workspace.spawn(
                command,
                log,
                self.environment,
                as_account=False,
                standard_output=subprocess.PIPE,
            )
        self.greeting = self._first_line()
        if not self.greeting:
            code = self.process.poll()
            raise AssertionError(
                f"proxy {self.name!r} did not come up within {START_TIMEOUT_S} s "
                f"(exit code {code}). Its log:\n{self.log_text()[-4000:]}"
            )
        return self

    def write_config(self, **sections: Any) -> None:
        """Write the configuration file, with sections laid over what it had."""
        self.config = merged(self.config, sections)
        self.config_path.write_text(to_toml(self.config))

    def reload(self, **sections: Any) -> None:
        """Change the configuration and send SIGHUP. The caller waits for the effect."""
        self.write_config(**sections)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def stop(self, expected_exit_code: int = 0) -> None:
        """Send SIGTERM, wait for the end, and check the exit code."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(
                f"proxy {self.name!r} did not end within {STOP_TIMEOUT_S} s of SIGTERM"
            ) from None
        finally:
            self._forget(process)
        assert code == expected_exit_code, (
            f"proxy {self.name!r} ended with exit code {code}. Its log:\n{self.log_text()[-4000:]}"
        )

    def kill(self) -> None:
        """End the process by SIGKILL."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
            self._forget(process)

    @property
    def pid(self) -> int:
        """The process id of the proxy."""
        assert self.process is not None, "the proxy is not running"
        return self.process.pid

    def dsn(self, dbname: str = "postgres", user: str = "postgres", **more: str | int) -> str:
        """Build a libpq connection string to the proxy."""
        words = {"host": "127.0.0.1", "port": self.port, "dbname": dbname, "user": user, **more}
        return psycopg.conninfo.make_conninfo(**{k: str(v) for k, v in words.items()})

    def url(self, dbname: str = "postgres", user: str = "postgres", password: str = "") -> str:
        """Build a URL to the proxy, for drivers that want one."""
        who = f"{user}:{password}" if password else user
        return f"postgresql://{who}@127.0.0.1:{self.port}/{dbname}"

    def connect(self, **more: Any) -> "psycopg.Connection[tuple[Any, ...]]":
        """Connect by psycopg, in autocommit unless asked otherwise."""
        autocommit = more.pop("autocommit", True)
        return psycopg.connect(self.dsn(**more), autocommit=autocommit)

    def api(
        self, method: str, path: str, body: object = None, token: str = "", timeout_s: float = 10.0
    ) -> tuple[int, Any]:
        """Call the admin HTTP server: the status, and the body as JSON where it is JSON."""
        status, content_type, data = self.http(method, path, body, token, timeout_s)
        if "json" in content_type:
            return status, json.loads(data) if data else None
        return status, data.decode()

    def http(
        self, method: str, path: str, body: object = None, token: str = "", timeout_s: float = 10.0
    ) -> tuple[int, str, bytes]:
        """Call the admin HTTP server: status, content type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=timeout_s)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            payload = None
            if body is not None:
                payload = json.dumps(body).encode()
                headers["Content-Type"] = "application/json"
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type") or "", response.read()
        finally:
            connection.close()

    def metrics(self, token: str = "") -> Metrics:
        """Scrape /metrics."""
        status, _, data = self.http("GET", "/metrics", token=token)
        assert status == 200, data
        return Metrics(data.decode())

    def log_text(self) -> str:
        """Read all that the proxy has logged."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_contains(self, text: str, timeout_s: float = 5.0) -> None:
        """Wait until the log contains a text."""
        wait_until(lambda: text in self.log_text(), timeout_s, f"{text!r} in the proxy's log")

    def install_example(self, name: str) -> None:
        """Copy an example plugin into this proxy's plugin directory, as an operator does."""
        self.install_plugin(EXAMPLES / name / f"{name}.wasm", EXAMPLES / name / f"{name}.toml")

    def install_plugin(self, module: Path, manifest: Path) -> None:
        """Copy a module and its manifest in; each appears whole, the module last."""
        for source in (manifest, module):
            target = self.plugin_dir / source.name
            partial = target.with_name(target.name + ".part")
            shutil.copyfile(source, partial)
            partial.replace(target)

    def resident_bytes(self) -> int:
        """Read the proxy's resident memory."""
        return resident_bytes(self.pid)

    def descriptor_count(self) -> int:
        """Count the proxy's open descriptors."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _forget(self, process: "subprocess.Popen[bytes]") -> None:
        if process.stdout is not None:
            process.stdout.close()
        self.workspace.forget(process)

    def _first_line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        pipe = self.process.stdout
        deadline = time.monotonic() + START_TIMEOUT_S
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return ""
                chunk = os.read(pipe.fileno(), 4096)
                if not chunk:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.process.wait(timeout=5)
                    return ""
                line += chunk
        return line.decode()


class ProxyFactory:
    """Starts proxies in front of the test's servers, and stops them when the test is over."""

    def __init__(self, workspace: Workspace, base: Mapping[str, Any], name: str) -> None:
        self._workspace = workspace
        self._base = base
        self._name = name
        self._running: list[RunningProxy] = []

    def __call__(
        self,
        *,
        examples: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
        workers: int = 0,
        start: bool = True,
        **sections: Any,
    ) -> RunningProxy:
        """Start a proxy; sections of the configuration are laid over the tests' defaults."""
        _counter[0] += 1
        running = RunningProxy(
            self._workspace,
            f"proxy-{_counter[0]}-{self._name}"[:60],
            merged(self._base, sections),
            examples=examples,
            environment=environment,
            workers=workers,
        )
        self._running.append(running)
        return running.start() if start else running

    def close(self) -> None:
        """Stop all of them; the first wrong exit code is the test's failure."""
        failures: list[AssertionError] = []
        for running in self._running:
            try:
                running.stop()
            except AssertionError as failure:
                failures.append(failure)
            live_logs.pop(running.name, None)
        if failures:
            raise failures[0]


_counter = [0]


class TlsPostgres(EmbeddedPostgres):
    """Debian's PostgreSQL with TLS and one role for each authentication method.

    Roles and passwords: `scram_user`/`scram-secret`, `md5_user`/`md5-secret`,
    `password_user`/`password-secret`, `cert_user` (client certificate), `tls_user`/`tls-secret`
    (SCRAM, and over TLS only). The superuser comes in over the Unix socket.
    """

    HBA = (
        "local all all trust",
        "hostssl all cert_user 127.0.0.1/32 cert",
        "hostssl all tls_user 127.0.0.1/32 scram-sha-256",
        "hostnossl all tls_user 127.0.0.1/32 reject",
        "host all md5_user 127.0.0.1/32 md5",
        "host all password_user 127.0.0.1/32 password",
        "host all all 127.0.0.1/32 scram-sha-256",
    )

    def __init__(self, workspace: Workspace, name: str, port: int, certificates: Certificates):
        super().__init__(
            workspace,
            name,
            port,
            bin_dir=DEBIAN_BIN_DIR,
            hba=self.HBA,
            tls=certificates.server,
            settings={"ssl_ca_file": "root.crt"},
        )
        self.certificates = certificates

    def create_roles(self) -> None:
        """Make the roles of this class's docstring."""
        self.execute(
            "CREATE ROLE scram_user LOGIN PASSWORD 'scram-secret';"
            "CREATE ROLE tls_user LOGIN PASSWORD 'tls-secret';"
            "CREATE ROLE cert_user LOGIN;"
            "CREATE ROLE password_user LOGIN PASSWORD 'password-secret';"
            "SET password_encryption = 'md5';"
            "CREATE ROLE md5_user LOGIN PASSWORD 'md5-secret';"
        )

    def _configure(self) -> None:
        super()._configure()
        target = self.data_dir / "root.crt"
        shutil.copyfile(self.certificates.ca, target)
        target.chmod(0o600)
        self.workspace.give(target)


def _is_table_array(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value))
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + " }"
    raise TypeError(f"no TOML for {type(value).__name__}")
