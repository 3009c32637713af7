"""Loading: whole files to Settings, and each kind of mistake to its exact line."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.settings.load import MAX_FILE_BYTES, load
from proxy.settings.model import Database, Settings

Write = Callable[..., Path]

NODE = '[[node]]\nname = "pg1"\n'
TRUST = '[auth]\nmethod = "trust"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "headgate.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path: Path, environ: dict[str, str] | None = None) -> list[str]:
    """The problems, without the file's name where it is this file's."""
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return [text.replace(f"{path}:", "", 1) for text in caught.value.problems]


def test_the_file_of_the_specification_loads(write: Write, tmp_path: Path) -> None:
    write('"admin" "secret"\n', "users.txt")
    (tmp_path / "plugins").mkdir()
    path = write("""
[listen]
host = "127.0.0.1"
port = 6432
unix_socket_dir = ""
[listen.tls]
mode = "allow"
client_ca = ""
[admin]
host = "127.0.0.1"
port = 9632
token = ""
console_users = ["admin"]
[auth]
method = "scram-sha-256"
users_file = "users.txt"
query = ""
query_user = ""
[pool]
mode = "transaction"
size = 20
min_size = 0
max_client_connections = 10000
wait_timeout = "30s"
idle_timeout = "10m"
lifetime = "1h"
connect_timeout = "5s"
query_timeout = "0"
idle_transaction_timeout = "0"
client_idle_timeout = "0"
max_prepared_statements = 200
[routing]
reads = "standby"
max_lag = "16MiB"
balance = "least_connections"
fallback_to_primary = true
check_interval = "2s"
[[node]]
name = "pg1"
host = "10.0.0.1"
port = 5432
role = "auto"
weight = 1
[node.tls]
mode = "prefer"
ca = ""
cert = ""
key = ""
[[node]]
name = "pg2"
[[database]]
name = "*"
dbname = ""
nodes = ["pg1", "pg2"]
user = ""
password = ""
[branches.dev]
database = "app_dev"
nodes = ["pg1"]
[plugins]
dir = "plugins"
watch = true
trust_root = ""
allow_legacy_signatures = false
grants = ["query.block", "query.rewrite", "route.decide", "log", "metrics", "kv.read", "kv.write"]
[plugins.limits]
memory = "64MiB"
fuel = 10_000_000
timeout_ms = 50
[plugins.settings.no-drop]
enabled = true
config = { tables = ["orders"] }
[kv]
url = "redis://:secret@cache:6379/0"
[log]
level = "info"
format = "auto"
""")
    settings = load(path, {})
    assert settings.listen.host == ("127.0.0.1",)
    assert settings.auth.users_file == tmp_path / "users.txt"
    assert settings.pool.wait_timeout == 30.0
    assert settings.pool.idle_timeout == 600.0
    assert settings.pool.query_timeout == 0.0
    assert settings.routing.max_lag == 16 << 20
    assert [node.name for node in settings.node] == ["pg1", "pg2"]
    assert settings.node[0].host == "10.0.0.1"
    assert settings.node[0].tls.mode == "prefer"
    assert settings.database[0].nodes == ("pg1", "pg2")
    assert settings.branches["dev"].database == "app_dev"
    assert settings.plugins.dir == tmp_path / "plugins"
    assert settings.plugins.limits.memory == 64 << 20
    assert settings.plugins.settings["no-drop"].config == {"tables": ["orders"]}
    assert "secret" not in repr(settings)


def test_a_file_with_one_node_has_defaults_and_any_database(write: Write) -> None:
    settings = load(write(TRUST + NODE), {})
    assert settings.database == (Database(name="*"),)
    assert settings.pool == Settings().pool


def test_all_problems_come_at_once_each_with_its_line(write: Write) -> None:
    path = write("""\
[listen]
prot = 1
port = 77777
[pool]
size = -1
wait_timeout = 30
idle_timeout = "5 parsecs"
[auth]
allow_remote_trust = "yes"
method = "trsut"
[[node]]
host = "x"
[node.tls]
mode = "verify"
[log]
level = []
[plugins]
grants = ["log", "query.blck"]
[kv]
max_key = "1MiB"
[server]
drain_timeout = "5000d"
""")
    duration = 'a duration such as "5ms", "30s", "10m" or "1h30m", or "0"'
    found = problems_of(path)
    assert [text for text in found if "grants" not in text] == [
        "2: listen.prot: unknown key; did you mean port?",
        "3: listen.port: out of range; expected an integer from 1 to 65535; got 77777",
        "5: pool.size: out of range; expected an integer from 1 to 1000000; got -1",
        f"6: pool.wait_timeout: wrong type; expected {duration}; got 30",
        f'7: pool.idle_timeout: wrong form; expected {duration}; got "5 parsecs"',
        '9: auth.allow_remote_trust: wrong type; expected true or false; got "yes"',
        "10: auth.method: unknown value; did you mean trust?; expected "
        '"trust" | "password" | "md5" | "scram-sha-256" | "cert"; got "trsut"',
        "11: node[0].name: required and not there; expected a string like ^[A-Za-z0-9_.-]{1,63}$",
        "14: node[0].tls.mode: unknown value; did you mean verify-ca?; expected "
        '"disable" | "prefer" | "require" | "verify-ca" | "verify-full"; got "verify"',
        '16: log.level: wrong type; expected "debug" | "info" | "warning" | "error"; got a list',
        "20: kv.max_key: out of range; expected a size such as "
        '"64kB", "16MiB" or "1GB" from 1B to 64KiB; got "1MiB"',
        '22: server.drain_timeout: wrong form; expected at most 3650d; got "5000d"',
    ]
    grants = next(text for text in found if "grants" in text)
    assert grants.startswith("18: plugins.grants[1]: unknown value; did you mean query.block?")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen = 5", "1: listen: wrong type; expected a table; got an integer"),
        (
            '[node]\nname = "a"',
            "1: node: wrong type; expected [[node]] (two brackets); got a table",
        ),
        ("node = [5]", "1: node[0]: wrong type; expected a table; got an integer"),
        (
            NODE + 'branches = "x"',
            "3: node[0].branches: unknown key; expected one of name, host, port, role, weight, tls",
        ),
        (
            NODE + "[branches]\ndev = 1",
            "4: branches.dev: wrong type; expected a table; got an integer",
        ),
        (
            NODE + '[branches."a b"]\ndatabase = "x"',
            '3: branches."a b": not a name; expected 1 to 128 letters, digits, _ . -',
        ),
        (
            NODE + "[plugins.settings.x]\nconfig = 1",
            "4: plugins.settings.x.config: wrong type; expected a table; got an integer",
        ),
        (
            NODE + "[plugins.settings.x.config]\na = { b = [1, 2020-01-01] }",
            "4: plugins.settings.x.config.a.b: cannot be given to a plugin as JSON; "
            "expected a string, number or boolean",
        ),
        (
            NODE + "[plugins.settings.x.config]\na = nan",
            "4: plugins.settings.x.config.a: cannot be given to a plugin as JSON; "
            "expected a string, number or boolean",
        ),
        (
            NODE + "[pool]\nsize = true",
            "4: pool.size: wrong type; expected an integer from 1 to 1000000; got true",
        ),
        (
            NODE + "[pool]\nsize = 1.0",
            "4: pool.size: wrong type; expected an integer from 1 to 1000000; got 1.0",
        ),
        (
            NODE + "[auth]\nquery_user = 1",
            "4: auth.query_user: wrong type; expected a string; got 1",
        ),
        (
            NODE + '[auth]\nquery_user = "a\\u0000"',
            '4: auth.query_user: holds a NUL character; expected a string; got "a\\u0000"',
        ),
        (NODE + "[auth]\nusers_file = 1", "4: auth.users_file: wrong type; expected a path; got 1"),
        (
            NODE + "[listen]\nhost = 1",
            "4: listen.host: wrong type; expected a list, each a string; got an integer",
        ),
        (
            NODE + "[pool]\nconnect_timeout = 0",
            '4: pool.connect_timeout: out of range; expected a duration such as "5ms", "30s", '
            '"10m" or "1h30m", or "0", above 0; got 0',
        ),
        (
            NODE + '[listen]\nunix_socket_mode = "999"',
            '4: listen.unix_socket_mode: wrong form; expected a string like ^0?[0-7]{3}$; got "999"',
        ),
        (
            NODE + "[routing]\nmax_lag = 1.5",
            '4: routing.max_lag: wrong type; expected a size such as "64kB", "16MiB" or "1GB"; got 1.5',
        ),
    ],
)
def test_single_problems(write: Write, text: str, problem: str) -> None:
    assert problem in problems_of(write(text))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a = [\n1,", "2: not TOML"),
        (b"a = 1\na = 2\n", r"2: not TOML: Cannot overwrite a value \(column 6\)"),
        (b"ok = 1\nx =\n", "2: not TOML: Invalid value"),
        (b"ok = 1\n# \xff\n", "2: not UTF-8; expected TOML"),
        (b"a = " + b"[" * 5000, "nested too deeply|not TOML"),
        (b"#" * (MAX_FILE_BYTES + 1), "longer than 4MiB"),
    ],
)
def test_what_is_not_toml(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "headgate.toml"
    path.write_bytes(content)
    (found,) = problems_of(path)
    assert re.search(problem, found)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (found,) = problems_of(tmp_path / "nope.toml")
    assert found.endswith("cannot be read: No such file or directory")
    (found,) = problems_of(tmp_path)
    assert found.endswith("cannot be read: Is a directory")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "headgate.toml"
    path.write_bytes(b"\xef\xbb\xbf" + f"{TRUST}{NODE}".encode())
    assert load(path, {}).node[0].name == "pg1"


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("1" + "0" * 5000, "2: not TOML: a number of too many digits"),
        (
            "0x1" + "0" * 5000,
            "2: pool.size: out of range; expected an integer from 1 to 1000000; "
            "got an integer beyond 64 bits",
        ),
    ],
)
def test_numbers_that_python_refuses_to_read_or_to_print(
    write: Write, number: str, problem: str
) -> None:
    assert problems_of(write(f"[pool]\nsize = {number}\n{TRUST}{NODE}")) == [problem]


def test_lines_are_right_with_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "headgate.toml"
    path.write_bytes(b'[pool]\r\nsize = 1\r\nmode = "x"\r\n')
    assert any(text.startswith("3: pool.mode: unknown value") for text in problems_of(path))


def test_the_environment_gives_strings_numbers_and_booleans(write: Write) -> None:
    path = write(
        TRUST
        + """
[listen]
port = "${PORT}"
[pool]
size = "${SIZE:-7}"
wait_timeout = "${WAIT}"
[routing]
fallback_to_primary = "${FALLBACK}"
[[node]]
name = "${NAME:-pg1}"
host = "db-${ZONE}.example"
[plugins.settings.p.config]
key = ["${KEY}", { deep = "${KEY}" }]
[plugins]
dir = "."
"""
    )
    environ = {"PORT": "7000", "WAIT": "5ms", "FALLBACK": "false", "ZONE": "eu", "KEY": "k"}
    settings = load(path, environ)
    assert settings.listen.port == 7000
    assert settings.pool.size == 7
    assert settings.pool.wait_timeout == 0.005
    assert settings.routing.fallback_to_primary is False
    assert settings.node[0].name == "pg1"
    assert settings.node[0].host == "db-eu.example"
    assert settings.plugins.settings["p"].config == {"key": ["k", {"deep": "k"}]}


def test_the_environment_adds_no_keys(write: Write) -> None:
    path = write(TRUST + '[[node]]\nname = "a"\nhost = "${HOST}"\n')
    settings = load(path, {"HOST": 'x"#=${HOME}'})
    assert settings.node[0].host == 'x"#=${HOME}'


def test_what_the_environment_holds_is_not_shown(write: Write) -> None:
    path = write(TRUST + NODE + '[listen]\nport = "${PORT}"\n[pool]\nmode = "${PORT}"\n')
    found = problems_of(path, {"PORT": "hush"})
    assert "6: listen.port: wrong type; expected an integer from 1 to 65535; got " in found[0]
    assert '"${PORT}" with the environment\'s values' in found[0]
    assert not any("hush" in text for text in found)


def test_a_missing_variable_is_a_problem_of_its_key(write: Write) -> None:
    found = problems_of(write(TRUST + '[[node]]\nname = "a"\nhost = "${NOPE}"\n'))
    assert found[0] == (
        "5: node[0].host: environment variable NOPE is not set; expected it set, or ${NOPE:-default}"
    )


def test_secrets_from_text_environment_and_file(write: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\r\n")
    path = write(
        TRUST
        + NODE
        + """
[admin]
token = { file = "${WHICH}" }
[monitor]
user = "m"
password = "pre-${PASSWORD}"
[[database]]
name = "a"
user = "u"
password = "plain"
"""
    )
    settings = load(path, {"WHICH": "token", "PASSWORD": "hush"})
    assert settings.admin.token == "from-file"
    assert settings.monitor.password == "pre-hush"
    assert settings.database[0].password == "plain"
    assert not re.search("hush|from-file|plain", repr(settings))


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("5", 'wrong type; expected a string, or { file = "…" }; got an integer'),
        ('["hush"]', 'wrong type; expected a string, or { file = "…" }; got a list'),
        (
            '{ file = "a", x = "hush" }',
            'wrong type; expected a string, or { file = "…" }; got a table',
        ),
        ('{ file = "nope" }', "cannot read the secret from .*/nope: No such file or directory"),
        ('{ file = "empty" }', "the secret file .*/empty is empty"),
        ('{ file = "binary" }', "the secret in .*/binary is not UTF-8"),
        ('{ file = "long" }', "the secret in .*/long is too long; expected 64KiB"),
        ('{ file = "\\u0000" }', "not a file name"),
        ('"hush\\u0000"', "holds a NUL character"),
    ],
)
def test_bad_secrets_are_never_shown(
    write: Write, tmp_path: Path, value: str, problem: str
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hush\xff")
    (tmp_path / "long").write_text("hush" * 20_000)
    found = problems_of(write(TRUST + NODE + f"[admin]\ntoken = {value}\n"))
    assert len(found) == 1
    assert re.search(f"^6: admin.token: .*{problem}", found[0])
    assert "hush" not in found[0]


def test_one_word_stands_for_a_list_of_one(write: Write) -> None:
    text = (
        TRUST + NODE + '[[database]]\nname = "a"\nnodes = "pg1"\n[admin]\nconsole_users = "root"\n'
    )
    settings = load(write(text), {})
    assert settings.database[0].nodes == ("pg1",)
    assert settings.admin.console_users == ("root",)


def test_paths_are_absolute_and_relative_to_the_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write('"a" "b"', "users.txt")
    write(NODE + '[auth]\nusers_file = "./x/../users.txt"\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    settings = load(Path("../headgate.toml"), {})
    assert settings.auth.users_file == tmp_path / "users.txt"


def test_the_samples_are_toml() -> None:
    config = Path(__file__).parents[3] / "config"
    for file in sorted(config.glob("*.toml")):
        tomllib.loads(file.read_text(encoding="utf-8"))


def test_the_minimal_sample_loads() -> None:
    config = Path(__file__).parents[3] / "config"
    settings = load(config / "minimal.toml", {})
    assert [node.name for node in settings.node] == ["pg1"]
    assert settings.auth.method == "scram-sha-256"


def test_the_container_sample_loads(tmp_path: Path) -> None:
    config = Path(__file__).parents[3] / "config"
    (tmp_path / "docker.toml").write_bytes((config / "docker.toml").read_bytes())
    (tmp_path / "users.txt").write_text('"app" "a"\n')
    (tmp_path / "plugins").mkdir()
    environ = {
        "HEADGATE_ADMIN_TOKEN": "t",
        "MONITOR_PASSWORD": "m",
        "APP_PASSWORD": "a",
        "HEADGATE_STATE_DIR": str(tmp_path),
    }
    settings = load(tmp_path / "docker.toml", environ)
    assert [node.name for node in settings.node] == ["primary", "standby"]
    assert settings.plugins.cache_dir == tmp_path / "plugins"
    # Without the secrets it does not start at all, rather than with empty ones.
    missing = problems_of(tmp_path / "docker.toml", {"HEADGATE_STATE_DIR": str(tmp_path)})
    assert len(missing) == 3
