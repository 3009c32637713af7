"""HBA rules: what matches, in which order, and that nothing is skipped unseen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.auth.authfile import AuthFileError
from proxy.auth.hba import first_match, parse_hba


def method(
    text: str,
    address: str = "10.1.2.3",
    user: str = "alice",
    database: str = "app",
    is_tls: bool = False,
) -> str:
    rule = first_match(parse_hba(text), address, is_tls, user, database)
    return "" if rule is None else rule.method


def test_the_first_match_decides() -> None:
    text = """
    # TYPE  DATABASE  USER   ADDRESS       METHOD
    local   all       all                  trust
    host    app       mallory all          reject
    hostssl app       all    10.0.0.0/8    scram-sha-256
    host    all       all    10.1.0.0/16   md5
    """
    assert method(text, address="") == "trust"
    assert method(text, user="mallory") == "reject"
    assert method(text, is_tls=True) == "scram-sha-256"
    assert method(text) == "md5"
    assert method(text, address="10.2.0.1") == ""
    assert method(text, address="192.0.2.1", is_tls=True) == ""


@pytest.mark.parametrize(
    ("line", "address", "is_tls", "matches"),
    [
        ("host all all all trust", "192.0.2.1", False, True),
        ("host all all all trust", "2001:db8::1", True, True),
        ("host all all all trust", "", False, False),
        ("local all all trust", "127.0.0.1", False, False),
        ("hostssl all all all trust", "192.0.2.1", False, False),
        ("hostnossl all all all trust", "192.0.2.1", True, False),
        ("hostnossl all all all trust", "192.0.2.1", False, True),
        ("hostgssenc all all all trust", "192.0.2.1", True, False),
        ("hostnogssenc all all all trust", "192.0.2.1", True, True),
        ("host all all 0.0.0.0/0 trust", "2001:db8::1", False, False),
        ("host all all ::/0 trust", "192.0.2.1", False, False),
        ("host all all 192.0.2.1 255.255.255.255 trust", "192.0.2.1", False, True),
        ("host all all 192.0.2.0 255.255.255.0 trust", "192.0.3.1", False, False),
        ("host all all 192.0.2.77/24 trust", "192.0.2.1", False, True),
        ("host all all 192.0.2.0/24 trust", "::ffff:192.0.2.9", False, True),
        ("host all all 192.0.2.1 0.0.0.0 trust", "10.0.0.1", False, True),
        ("host all all fe80::1 ffff:: trust", "fe80::2", False, True),
        ("host all all fe80::1 ffff:: trust", "fe81::2", False, False),
        ("host all all fe80::/10 trust", "fe80::1%eth0", False, True),
        ('host all all "10.0.0.0/8" trust', "10.1.1.1", False, True),
    ],
)
def test_connections_and_addresses(line: str, address: str, is_tls: bool, matches: bool) -> None:
    assert (method(line, address=address, is_tls=is_tls) == "trust") == matches


@pytest.mark.parametrize(
    ("databases", "users", "database", "user", "matches"),
    [
        ("app,other", "alice", "other", "alice", True),
        ("app", "alice,bob", "app", "bob", True),
        ("app", "alice", "app", "Alice", False),
        ("sameuser", "all", "alice", "alice", True),
        ("sameuser", "all", "app", "alice", False),
        ('"all"', "all", "app", "alice", False),
        ('"all"', "all", "all", "alice", True),
        ('"sameuser"', "all", "alice", "alice", False),
        ("replication", "all", "app", "alice", False),
        ("replication", "all", "replication", "alice", False),
        ('"replication"', "all", "replication", "alice", True),
        ("/^app_[0-9]+$", "all", "app_12", "alice", True),
        ("/^app_[0-9]+$", "all", "app_x", "alice", False),
        ("all", "/^svc_", "app", "svc_mail", True),
        ("all", '"/^svc_"', "app", "svc_mail", False),
        ("all", '"+staff"', "app", "+staff", True),
    ],
)
def test_databases_and_users(
    databases: str, users: str, database: str, user: str, matches: bool
) -> None:
    text = f"host {databases} {users} all trust"
    assert (method(text, user=user, database=database) == "trust") == matches


def test_certificate_options() -> None:
    text = """
    hostssl all all all cert map=people
    hostssl all all all trust clientcert=verify-ca
    hostssl all all all scram-sha-256 clientcert=verify-full clientname=CN
    """
    plain, with_ca, with_name = parse_hba(text)
    assert (plain.method, plain.user_map) == ("cert", "people")
    assert (with_ca.needs_certificate, with_ca.checks_name) == (True, False)
    assert (with_name.needs_certificate, with_name.checks_name) == (True, True)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hosts all all all trust", "invalid connection type"),
        ("include other.conf", "include is not supported"),
        ("include_dir d", "include_dir is not supported"),
        ("host all all all", "ends too early"),
        ("local all all", "ends too early"),
        ("host all all 10.0.0.1 255.0.0.0", "mask is missing"),
        ("host all all 10.0.0.1 trust", "mask is missing"),
        ("host all all 10.0.0.1/33 trust", "invalid mask"),
        ("host all all 10.0.0.1 255.0.255.0 trust", "invalid mask"),
        ("host all all 10.0.0.1 0.0.0.255 trust", "invalid mask"),
        ("host all all 10.0.0.1 ffff:: trust", "invalid mask"),
        ("host all all 10.0.0.1 many trust", "invalid mask"),
        ("host all all 10.0.0.1/255.0.0.0 trust", "invalid mask"),
        ("host all all fe80::1/129 trust", "invalid mask"),
        ("host all all db.example.com trust", "host names are not supported"),
        ("host all all samenet trust", "samenet is not supported"),
        ("host all +staff all trust", r"\+staff is not supported"),
        ("host samerole all all trust", "samerole is not supported"),
        ("host @file all all trust", "@file is not supported"),
        ("host /[ all all trust", "invalid regular expression"),
        ("local all all peer", 'method "peer" is not supported'),
        ("host all all all magic", 'invalid method "magic"'),
        ("host all all all cert", "only possible on hostssl"),
        ("host all all all trust clientcert=verify-ca", "only possible on hostssl"),
        ("hostssl all all all trust clientcert=1", "invalid clientcert"),
        ("hostssl all all all trust map=x", "only possible with method cert"),
        ("hostssl all all all cert clientname=DN", "clientname"),
        ("host all all all trust radius=x", "unknown option"),
        ("host all all all trust loose", "name=value"),
        ("host all all a,b trust", "a list stands"),
    ],
)
def test_what_cannot_be_honoured_is_an_error(line: str, words: str) -> None:
    with pytest.raises(AuthFileError, match=words) as caught:
        parse_hba("\n" + line)
    assert caught.value.line == 2


@given(
    st.lists(
        st.sampled_from(
            [
                "host",
                "local",
                "hostssl",
                "all",
                "alice",
                "10.0.0.0/8",
                "trust",
                "reject",
                "cert",
                '"',
                ",",
                "#",
                "\n",
                "+x",
                "/(",
                "map=x",
                "255.0.0.0",
            ]
        ),
        max_size=14,
    )
)
def test_any_file_is_read_or_refused(words: list[str]) -> None:
    try:
        rules = parse_hba(" ".join(words))
    except AuthFileError:
        return
    for address in ("", "10.0.0.1", "::1"):
        first_match(rules, address, True, "alice", "all")
