"""What must hold between settings: each rule with a file that breaks it, and one that does not."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.settings.checks import advise, is_loopback
from proxy.settings.load import load
from proxy.settings.model import Settings
from tests.support.certificates import Certificates

# What is wrong with it, given the section and the rest of a file that is right.
Check = Callable[[str], list[str]]
Load = Callable[[str], Settings]

TRUST = '[auth]\nmethod = "trust"\n'
NODE = '[[node]]\nname = "pg1"\n'


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    (tmp_path / "users.txt").write_text('"admin" "hush"\n')
    (tmp_path / "users.txt").chmod(0o600)
    (tmp_path / "bad.txt").write_text("hush")
    (tmp_path / "empty").write_text("")
    (tmp_path / "directory").mkdir(exist_ok=True)

    def load_text(text: str) -> Settings:
        path = tmp_path / "headgate.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, {})

    return load_text


@pytest.fixture
def check(load_text: Load, tmp_path: Path) -> Check:
    def check(text: str) -> list[str]:
        if "[auth]" not in text:
            text += TRUST
        if "[[node]]" not in text:
            text += NODE
        try:
            load_text(text)
        except SettingsError as error:
            return [
                problem.replace(f"{tmp_path}/headgate.toml:", "").replace(str(tmp_path), "DIR")
                for problem in error.problems
            ]
        return []

    return check


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def test_addresses() -> None:
    assert all(map(is_loopback, ["127.0.0.1", "127.8.8.8", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "db", "", "localhost.evil"]))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '[admin]\nhost = "0.0.0.0"\n',
            '1: admin.token: required, because admin.host "0.0.0.0" is not loopback; '
            'expected a long random string, or { file = "…" }',
        ),
        (
            '[admin]\ntoken = "with space"\n',
            "2: admin.token: cannot be sent in a header; expected printable ASCII without spaces",
        ),
        ("[admin]\nport = 6432\n", "2: admin.port: the same as listen.port; expected another port"),
        (
            '[listen]\nhost = ["127.0.0.1", "*"]\n',
            "2: listen.host: not an address to listen on; expected an address or a name; "
            '"0.0.0.0" and "::" are all addresses; got "*"',
        ),
        (
            "[listen]\nhost = []\n",
            "2: listen.host: nobody could connect; expected a host, or listen.unix_socket_dir",
        ),
        (
            '[listen]\nunix_socket_dir = "nope"\n',
            "2: listen.unix_socket_dir: there is no such directory; expected a directory; "
            'got "DIR/nope"',
        ),
        (
            '[listen]\nunix_socket_dir = "empty"\n',
            '2: listen.unix_socket_dir: is not a directory; expected a directory; got "DIR/empty"',
        ),
        (
            '[listen.tls]\nmode = "require"\n',
            '2: listen.tls.mode: "require" needs listen.tls.cert and listen.tls.key',
        ),
        (
            '[listen.tls]\nclient_ca = "empty"\n',
            '2: listen.tls.client_ca: holds no certificate; expected PEM certificates; got "DIR/empty"',
        ),
        (
            '[listen.tls]\ncert = "empty"\n',
            "1: listen.tls.key: required, because cert is set; expected a path",
        ),
        (
            '[listen.tls]\ncert = "nope"\nkey = "directory"\n',
            "2: listen.tls.cert: cannot be read: No such file or directory; expected a file; "
            'got "DIR/nope"',
        ),
        (
            '[listen.tls]\ncert = "nope"\nkey = "directory"\n',
            '3: listen.tls.key: cannot be read: is a directory; expected a file; got "DIR/directory"',
        ),
        (
            '[listen]\nhost = "10.0.0.1"\n',
            '4: auth.method: "trust" lets anybody in who can reach "10.0.0.1"; expected another '
            "method, a loopback listen.host, or auth.allow_remote_trust = true",
        ),
        (
            '[auth]\nmethod = "cert"\n[listen.tls]\nmode = "disable"\n',
            '2: auth.method: "cert" needs listen.tls.client_ca',
        ),
        (
            '[auth]\nmethod = "cert"\n[listen.tls]\nmode = "disable"\n',
            '2: auth.method: "cert" needs TLS; expected listen.tls.mode "require"',
        ),
        (
            '[auth]\nmethod = "md5"\n',
            '1: auth.users_file: required, because auth.method "md5" needs the users\' secrets; '
            "expected auth.users_file or auth.query",
        ),
        (
            '[auth]\nquery = "SELECT 1"\n',
            "2: auth.query: does not use $1; expected SQL with $1 for the user's name",
        ),
        (
            '[auth]\nquery = "SELECT $1"\n',
            "1: auth.query_user: required, because auth.query is set; expected a user",
        ),
        (
            TRUST + 'query_password = "hush"\n',
            "3: auth.query_password: given without auth.query_user",
        ),
        (
            '[auth]\nhba_file = "nope"\n',
            "2: auth.hba_file: cannot be read: No such file or directory; expected a file; "
            'got "DIR/nope"',
        ),
        (
            '[auth]\nusers_file = "bad.txt"\n',
            'DIR/bad.txt:1: not an entry; expected "name" "secret"',
        ),
        (
            "[pool]\nsize = 1\nmin_size = 2\n",
            "3: pool.min_size: above pool.size; expected at most 1; got 2",
        ),
        (
            '[pool]\nmin_size = 2\n[[database]]\nname = "a"\npool_size = 1\n',
            "5: database[0].pool_size: below pool.min_size; expected at least 2; got 1",
        ),
        (NODE + NODE, '4: node[1].name: two nodes have this name; got "pg1"'),
        (
            NODE + 'host = ""\n',
            "3: node[0].host: not a host; expected a name, an address, or the directory of a Unix "
            'socket; got ""',
        ),
        (
            NODE + 'tls = { ca = "empty" }\n',
            '3: node[0].tls.ca: holds no certificate; expected PEM certificates; got "DIR/empty"',
        ),
        (
            NODE + 'tls.key = "empty"\n',
            "3: node[0].tls.cert: required, because key is set; expected a path",
        ),
        (
            '[[database]]\nname = "a"\n[[database]]\nname = "a"\n',
            '4: database[1].name: two databases have this name; got "a"',
        ),
        (
            '[[database]]\nname = "pgbouncer"\n',
            '2: database[0].name: the admin console\'s name; expected another name; got "pgbouncer"',
        ),
        (
            '[[database]]\nname = ""\n',
            '2: database[0].name: empty; expected another name; got ""',
        ),
        (
            '[[database]]\nname = "a"\npassword = "hush"\n',
            "3: database[0].password: given without database.user",
        ),
        (
            NODE + '[[database]]\nname = "a"\nnodes = [\n"pg1",\n"pg2"]\n',
            '7: database[0].nodes[1]: no [[node]] has this name; did you mean pg1?; expected "pg1"; '
            'got "pg2"',
        ),
        (
            NODE + '[branches.dev]\ndatabase = ""\nnodes = ["zz"]\n',
            '5: branches.dev.nodes[0]: no [[node]] has this name; expected "pg1"; got "zz"',
        ),
        (
            NODE + '[branches.dev]\ndatabase = ""\nnodes = ["pg1", "pg1"]\n',
            '5: branches.dev.nodes[1]: named twice; got "pg1"',
        ),
        (
            '[branches.dev]\ndatabase = ""\n',
            "2: branches.dev.database: empty; expected a database's name",
        ),
        ('[monitor]\npassword = "hush"\n', "2: monitor.password: given without monitor.user"),
        (
            '[plugins]\ndir = "nope"\n',
            '2: plugins.dir: there is no such directory; expected a directory; got "DIR/nope"',
        ),
        (
            '[plugins]\ncache_dir = "nope/cache"\n',
            "2: plugins.cache_dir: there is no such directory; expected a directory; "
            'got "DIR/nope"',
        ),
        (
            "[plugins.settings.x]\n",
            "1: plugins.dir: not there, so that no plugin runs, but plugins.settings names some; "
            "expected the directory of the plugins",
        ),
        (
            "[plugins]\nallow_legacy_signatures = true\n",
            "2: plugins.allow_legacy_signatures: has no meaning without plugins.trust_root",
        ),
        (
            '[plugins.query]\nrole = "r"\n',
            "1: plugins.query.user: required by what else is set there; expected a user",
        ),
        (
            '[plugins.http]\nallow_hosts = ["ok.example:443", "https://x"]\n',
            '2: plugins.http.allow_hosts[1]: not a host; expected "name" or "name:port"; '
            'got "https://x"',
        ),
        (
            '[kv]\nurl = "http://:hush@x"\n',
            "2: kv.url: not an address; expected redis://… | rediss://… | unix://…",
        ),
        (
            '[kv]\nurl = "redis://[hush"\n',
            "2: kv.url: not an address; expected redis://… | rediss://… | unix://…",
        ),
        (
            '[kv]\nmax_total = "1kB"\n',
            "2: kv.max_total: below kv.max_key and kv.max_value together",
        ),
    ],
)
def test_broken_rules(check: Check, text: str, problem: str) -> None:
    found = check(text)
    assert problem in found
    assert not any("hush" in text for text in found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[admin]\nhost = "0.0.0.0"\ntoken = "t"\n',
        '[admin]\nhost = "0.0.0.0"\nport = 0\n',
        '[listen]\nhost = []\nunix_socket_dir = "directory"\n[admin]\nport = 6432\n',
        '[listen]\nhost = "0.0.0.0"\n' + TRUST + "allow_remote_trust = true\n",
        '[listen]\nhost = ["::1", "localhost"]\n',
        '[auth]\nusers_file = "users.txt"\n',
        '[auth]\nquery = "SELECT $1"\nquery_user = "q"\n',
        '[auth]\nhba_file = "empty"\nuser_map_file = "empty"\n',
        '[kv]\nurl = "rediss://:pw@host:1/0"\n',
        '[kv]\nurl = "unix:///run/valkey.sock"\n',
        '[plugins]\ndir = "directory"\ncache_dir = "not-there-yet"\n[plugins.settings.x]\n',
        '[plugins.http]\nallow_hosts = ["a.example", "[::1]:80"]\n',
        '[pool]\nmin_size = 5\n[[database]]\nname = "a"\npool_size = 5\n',
    ],
)
def test_rules_that_hold(check: Check, text: str) -> None:
    assert check(text) == []


def test_no_node_at_all(load_text: Load) -> None:
    with pytest.raises(SettingsError, match=r"node: no server is named; expected at least one"):
        load_text(TRUST)


def test_a_section_with_a_mistake_is_not_judged_further(load_text: Load) -> None:
    text = (
        '[auth]\nmethod = "scrum"\n[[node]]\nnam = "a"\n[[database]]\nname = "x"\nnodes = ["a"]\n'
    )
    with pytest.raises(SettingsError) as caught:
        load_text(text)
    places = [problem.split(".toml:")[1].split(":")[1].strip() for problem in caught.value.problems]
    assert places == ["auth.method", "node[0].name", "node[0].nam"]


def test_certificates_that_can_and_cannot_be_used(
    check: Check, certificates: Certificates, tmp_path: Path
) -> None:
    cert, key = certificates.issue("proxy.example")
    _, other_key = certificates.issue("other.example")
    good = f'[listen.tls]\nmode = "require"\ncert = "{cert}"\nkey = "{key}"\nclient_ca = "{cert}"\n'
    assert check(good + '[auth]\nmethod = "cert"\n') == []
    (found,) = check(f'[listen.tls]\ncert = "{cert}"\nkey = "{other_key}"\n')
    assert "2: listen.tls.cert: this certificate and key cannot be used" in found
    (found,) = check(f'[listen.tls]\ncert = "{key}"\nkey = "{cert}"\n')
    assert "this certificate and key cannot be used" in found


def test_a_socket_path_that_is_too_long(check: Check, tmp_path: Path) -> None:
    long = tmp_path / ("d" * 60) / ("e" * 60)
    long.mkdir(parents=True)
    (found,) = check(f'[listen]\nunix_socket_dir = "{long}"\n')
    assert "is too long for the system" in found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission(check: Check, tmp_path: Path) -> None:
    (tmp_path / "directory").chmod(0o500)
    (found,) = check('[listen]\nunix_socket_dir = "directory"\n')
    assert "permission denied" in found


def test_advice(load_text: Load, tmp_path: Path, certificates: Certificates) -> None:
    (tmp_path / "users.txt").chmod(0o644)
    settings = load_text(
        TRUST
        + 'users_file = "users.txt"\nallow_remote_trust = true\n'
        + NODE
        + 'role = "standby"\n[listen]\nhost = "0.0.0.0"\n'
        + '[plugins]\ndir = "directory"\ngrants = ["db.query"]\n'
        + '[plugins.settings.x]\ngrants = ["http.fetch"]\n'
    )
    places = [text.split(": ")[0] for text in advise(settings)]
    assert places == [
        "auth.method",
        "listen.tls.cert",
        str(tmp_path / "users.txt"),
        "plugins.query.user",
        "plugins.http.allow_hosts",
        "plugins.trust_root",
        "node.role",
    ]


def test_nothing_to_advise(load_text: Load) -> None:
    assert advise(load_text('[auth]\nusers_file = "users.txt"\n' + NODE)) == []
