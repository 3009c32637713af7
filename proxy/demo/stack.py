"""
The whole demo on one machine: primary, standby, sample data, example plugins, the proxy.

`DemoStack` starts them in order in one workspace and stops them in reverse. It does not know
what is done with them: that is `tour` and `steps`.
"""

import contextlib
import getpass
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import final

import proxy
from proxy.demo import sample
from proxy.demo.cluster import EmbeddedPostgres, EmbeddedStandby
from proxy.demo.workspace import Workspace

EXAMPLES = ("no-drop", "tag-tenant", "pin-reports", "audit")
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
LOOK_AROUND_S = 0.2

_PACKAGE = Path(proxy.__file__).resolve().parent
# From a clone, and from an installed package.
_EXAMPLE_DIRECTORIES = (
    _PACKAGE.parent / "plugins_sdk" / "examples",
    _PACKAGE / "demo" / "examples",
)
# Where psql looks when it is given a port and no host: Debian's, then everybody else's.
_SOCKET_DIRECTORIES = ("/run/postgresql", "/var/run/postgresql", "/tmp")

_CONFIG = """\
[listen]
host = "127.0.0.1"
port = {port}
unix_socket_dir = {socket_dir}

[admin]
port = {admin_port}
console_users = ["demo", {os_user}]

[auth]
method = "trust"

[routing]
reads = "standby"
check_interval = "500ms"

[monitor]
user = "postgres"
database = "postgres"

[[node]]
name = "pg1"
host = "127.0.0.1"
port = {primary_port}

[[node]]
name = "pg2"
host = "127.0.0.1"
port = {standby_port}

[[database]]
name = "*"

[plugins]
dir = "plugins"
watch = true
grants = ["query.block", "query.rewrite", "route.decide", "log", "metrics", "config", "clock"]

# Plain reads go to the standby; a report has to show the latest orders, so it goes to the primary.
[plugins.settings.pin-reports]
config = {{ node = "pg1" }}

[log]
level = "info"

[server]
drain_timeout = "1s"
"""
# psql without a database asks for one named like the user.
_OWN_DATABASE = """
[[database]]
name = {os_user}
dbname = {database}
"""


class DemoFailed(Exception):
    """The demo could not be started; the message says what to do about it."""


@final
class DemoStack:
    """Everything that the demo runs."""

    def __init__(self, port: int, admin_port: int, say: Callable[[str], None]) -> None:
        self.port = port
        self.admin_port = admin_port
        self._say = say
        # Asked at the start: it may be closed at any moment from now on.
        self._on_terminal = sys.stdout.isatty()
        self._check_ports()
        self._examples = _find_examples()
        self.workspace = Workspace("headgate-demo-")
        self.directory = self.workspace.path / "proxy"
        self.plugin_dir = self.directory / "plugins"
        self.config_path = self.directory / "headgate.toml"
        self.log_path = self.directory / "headgate.log"
        self.socket_dir = _socket_directory()
        self.os_user = getpass.getuser()
        self.primary: EmbeddedPostgres | None = None
        self.standby: EmbeddedStandby | None = None
        self._proxy: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "DemoStack":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all of it; DemoFailed when something does not come up."""
        started = time.monotonic()
        primary = self.primary = EmbeddedPostgres(self.workspace, "pg1", _free_port())
        primary.start()
        self._say(f"PostgreSQL {primary.version} primary  pg1 on port {primary.port}")
        sample.load(primary, () if self.os_user in ("demo", "postgres") else (self.os_user,))
        standby = self.standby = EmbeddedStandby(primary, "pg2", _free_port())
        standby.start()
        standby.wait_until_caught_up()
        self._say(f"PostgreSQL {standby.version} standby  pg2 on port {standby.port}")
        self._write_files(primary.port, standby.port)
        line = self._start_proxy()
        self._say(f"{line.strip()}  [{time.monotonic() - started:.1f} s for everything]")

    def wait(self) -> None:
        """Wait as long as the proxy and the terminal are there; DemoFailed when the proxy ends.

        A terminal that is closed signals the first process of its session alone. That may be make,
        which waits for this one and says nothing.
        """
        assert self._proxy is not None
        while (code := self._proxy.poll()) is None:
            if self._on_terminal and not sys.stdout.isatty():
                return
            time.sleep(LOOK_AROUND_S)
        raise DemoFailed(f"the proxy ended with exit code {code}:\n{self.log_tail()}")

    def close(self) -> None:
        """Stop all of it and remove every file."""
        running, self._proxy = self._proxy, None
        if running is not None:
            running.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=STOP_TIMEOUT_S)
            if running.stdout is not None:
                running.stdout.close()
        for server in (self.standby, self.primary):
            if server is not None:
                server.stop(immediate=True)
        self.workspace.close()
        if self.socket_dir:
            # The proxy removes its own; this is for one that was killed.
            for suffix in ("", ".lock"):
                name = f".s.PGSQL.{self.port}{suffix}"
                (Path(self.socket_dir) / name).unlink(missing_ok=True)

    def log_tail(self) -> str:
        """Read the end of the proxy's log."""
        return self.log_path.read_text(errors="replace")[-3000:] if self.log_path.exists() else ""

    def replace_example(self, name: str, version: str) -> None:
        """Put a changed build of an example in place of the running one, as an operator would.

        It differs by a custom section in the module and by the version in the manifest. Both files
        appear whole; the watcher sees them at most an instant apart.
        """
        manifest = self.plugin_dir / f"{name}.toml"
        module = self.plugin_dir / f"{name}.wasm"
        lines = [
            f'version = "{version}"' if line.startswith("version") else line
            for line in manifest.read_text().splitlines()
        ]
        _write_whole(manifest, ("\n".join(lines) + "\n").encode())
        _write_whole(module, module.read_bytes() + _custom_section("build", version))

    def _write_files(self, primary_port: int, standby_port: int) -> None:
        self.plugin_dir.mkdir(parents=True)
        for example in self._examples:
            for source in (example.with_suffix(".wasm"), example.with_suffix(".toml")):
                shutil.copyfile(source, self.plugin_dir / source.name)
        text = _CONFIG.format(
            port=self.port,
            admin_port=self.admin_port,
            socket_dir=json.dumps(self.socket_dir),
            os_user=json.dumps(self.os_user),
            primary_port=primary_port,
            standby_port=standby_port,
        )
        if self.os_user not in (sample.USER, sample.DATABASE, "postgres"):
            text += _OWN_DATABASE.format(
                os_user=json.dumps(self.os_user), database=json.dumps(sample.DATABASE)
            )
        self.config_path.write_text(text)

    def _start_proxy(self) -> str:
        path = [str(_PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        with self.log_path.open("ab") as log:
            process = self._proxy = self.workspace.spawn(
                [sys.executable, "-m", "proxy", "serve", "--config", str(self.config_path)],
                log,
                {**os.environ, "PYTHONPATH": os.pathsep.join(path)},
                as_account=False,
                standard_output=subprocess.PIPE,
            )
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(START_TIMEOUT_S) else b""
        if not line:
            raise DemoFailed(
                f"the proxy did not accept connections within {START_TIMEOUT_S:.0f} s:\n"
                f"{self.log_tail()}"
            )
        return line.decode()

    def _check_ports(self) -> None:
        for option, port in (("--port", self.port), ("--admin-port", self.admin_port)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError as error:
                    raise DemoFailed(
                        f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; "
                        f"name another with {option}"
                    ) from error


def _find_examples() -> list[Path]:
    """Find the example plugins; each as a path without its suffix."""
    for directory in _EXAMPLE_DIRECTORIES:
        found = [directory / name / name for name in EXAMPLES]
        if all(path.with_suffix(".wasm").is_file() for path in found):
            return found
    raise DemoFailed(
        f"the example plugins {', '.join(EXAMPLES)} are in none of "
        f"{', '.join(str(path) for path in _EXAMPLE_DIRECTORIES)}: "
        "run `make -C plugins_sdk`, or install the package again"
    )


def _socket_directory() -> str:
    for directory in _SOCKET_DIRECTORIES:
        if os.path.isdir(directory) and os.access(directory, os.W_OK | os.X_OK):
            return directory
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _write_whole(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(data)
    partial.replace(path)


def _custom_section(name: str, text: str) -> bytes:
    """Build a WebAssembly custom section, which changes a module's hash and nothing else."""
    encoded = name.encode()
    content = bytes([len(encoded)]) + encoded + text.encode()
    assert len(content) < 128  # one byte of LEB128
    return b"\x00" + bytes([len(content)]) + content
