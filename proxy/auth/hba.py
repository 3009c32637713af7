"""
Rules in pg_hba.conf's format: who may come from where, and how they must prove who they are.

The first line that matches decides; without one the client is refused. What this file cannot
honour is an error, never skipped: a rule that is left out would let in whoever it keeps away. That
concerns methods that need the system (peer, gss, ldap ...), role membership (+role, samerole), host
names, samenet, @file and include.
"""

import ipaddress
import re
from typing import Final, final

from proxy.auth.authfile import AuthFileError, Line, Token, cut_lines

LOCAL: Final = "local"
_TYPES: Final = ("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc")
_METHODS: Final = ("trust", "reject", "scram-sha-256", "md5", "password", "cert")
_OTHER_METHODS: Final = (
    "gss", "sspi", "ident", "peer", "ldap", "radius", "pam", "bsd", "oauth", "krb5", "crypt",
)  # fmt: skip

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@final
class HbaRule:
    """
    One line.

    networks      addresses that it is about; empty: all of them
    user_map      name of the user map for certificates, "" for none
    needs_certificate, checks_name
                  clientcert=verify-ca, and verify-full: a client certificate besides the method
    """

    __slots__ = (
        "_databases",
        "_kind",
        "_users",
        "checks_name",
        "line",
        "method",
        "needs_certificate",
        "networks",
        "user_map",
    )

    def __init__(
        self, line: int, kind: str, databases: list[Token], users: list[Token], method: str
    ) -> None:
        self.line = line
        self._kind = kind
        self._databases = databases
        self._users = users
        self.method = method
        self.networks: list[Network] = []
        self.user_map = ""
        self.needs_certificate = False
        self.checks_name = False

    def matches(self, address: str, is_tls: bool, user: str, database: str) -> bool:
        """Tell whether it is about this client; an empty address is a Unix socket's."""
        return (
            self._matches_transport(address, is_tls)
            and _in_databases(self._databases, database, user)
            and _in_users(self._users, user)
        )

    def _matches_transport(self, address: str, is_tls: bool) -> bool:
        kind = self._kind
        if (kind == LOCAL) != (address == ""):
            return False
        if kind == LOCAL:
            return True
        if kind == "hostgssenc" or (kind == "hostssl" and not is_tls):
            return False
        if kind == "hostnossl" and is_tls:
            return False
        if not self.networks:
            return True
        host = ipaddress.ip_address(address.split("%", 1)[0])
        if isinstance(host, ipaddress.IPv6Address) and host.ipv4_mapped is not None:
            host = host.ipv4_mapped
        return any(host.version == network.version and host in network for network in self.networks)


def parse_hba(text: str) -> list[HbaRule]:
    """All rules in their order. Raises AuthFileError at the first line that is wrong."""
    return [_rule(line) for line in cut_lines(text)]


def first_match(
    rules: list[HbaRule], address: str, is_tls: bool, user: str, database: str
) -> HbaRule | None:
    """The rule that decides; None: nobody may come so."""
    for rule in rules:
        if rule.matches(address, is_tls, user, database):
            return rule
    return None


def _rule(line: Line) -> HbaRule:
    number = line.number
    kind = line.word(0)
    if kind.startswith("include"):
        raise AuthFileError(number, f"{kind} is not supported; write the rules into this file")
    if kind not in _TYPES:
        raise AuthFileError(
            number, f'invalid connection type "{kind}"; expected one of {", ".join(_TYPES)}'
        )
    has_address = kind != LOCAL
    if len(line.fields) < (5 if has_address else 4):
        what = (
            "type, database, user, address, method"
            if has_address
            else ("type, database, user, method")
        )
        raise AuthFileError(number, f"the line ends too early; expected {what}")
    databases = line.fields[1]
    users = line.fields[2]
    _check_databases(number, databases)
    _check_users(number, users)
    networks: list[Network] = []
    at = 3
    if has_address:
        networks, at = _address(line)
    method = line.word(at)
    if method in _OTHER_METHODS:
        raise AuthFileError(
            number, f'method "{method}" is not supported; expected one of {", ".join(_METHODS)}'
        )
    if method not in _METHODS:
        raise AuthFileError(
            number, f'invalid method "{method}"; expected one of {", ".join(_METHODS)}'
        )
    if method == "cert" and kind != "hostssl":
        raise AuthFileError(number, "method cert is only possible on hostssl lines")
    rule = HbaRule(number, kind, databases, users, method)
    rule.networks = networks
    for field in line.fields[at + 1 :]:
        for token in field:
            _option(rule, number, kind, token.text)
    return rule


def _option(rule: HbaRule, number: int, kind: str, option: str) -> None:
    name, equals, value = option.partition("=")
    if equals == "" or value == "":
        raise AuthFileError(number, f'option "{option}" is not in the form name=value')
    if name == "map":
        if rule.method != "cert":
            raise AuthFileError(number, "option map is only possible with method cert")
        rule.user_map = value
    elif name == "clientcert":
        if kind != "hostssl":
            raise AuthFileError(number, "option clientcert is only possible on hostssl lines")
        if value not in ("verify-ca", "verify-full"):
            raise AuthFileError(
                number, f'invalid clientcert "{value}"; expected verify-ca or verify-full'
            )
        rule.needs_certificate = True
        rule.checks_name = value == "verify-full"
    elif name == "clientname":
        if value != "CN":
            raise AuthFileError(number, f'clientname "{value}" is not supported; expected CN')
    else:
        raise AuthFileError(
            number, f'unknown option "{name}"; expected map, clientcert or clientname'
        )


def _address(line: Line) -> tuple[list[Network], int]:
    """The networks of a line, and where its method stands."""
    number = line.number
    field = line.fields[3]
    text = line.word(3)
    if field[0].is_keyword("all"):
        return [], 4
    if text in ("samehost", "samenet"):
        raise AuthFileError(number, f"{text} is not supported; write the addresses")
    base, slash, length = text.partition("/")
    try:
        host = ipaddress.ip_address(base)
    except ValueError:
        raise AuthFileError(
            number,
            f'"{text}" is not an address; expected all or an address with its length, such as '
            "10.0.0.0/8 (host names are not supported)",
        ) from None
    at = 4
    if slash == "":
        # The older form: address and mask in two fields.
        if len(line.fields) < 6:
            raise AuthFileError(number, "a mask is missing behind the address")
        bits = _bits_of_mask(line.word(4), host.version)
        text = f"{base} {line.word(4)}"
        at = 5
    else:
        bits = int(length) if length.isdecimal() and len(length) <= 3 else -1
    if bits < 0 or bits > host.max_prefixlen:
        raise AuthFileError(number, f'invalid mask in "{text}"')
    # Not strict, as PostgreSQL: bits behind the mask are of no account.
    return [ipaddress.ip_network(f"{base}/{bits}", False)], at


def _bits_of_mask(mask: str, version: int) -> int:
    """How many bits a mask has set, all of them in front; -1 for what is no such mask."""
    try:
        parsed = ipaddress.ip_address(mask)
    except ValueError:
        return -1
    rest = int(parsed) ^ ((1 << parsed.max_prefixlen) - 1)
    if parsed.version != version or rest & (rest + 1) != 0:
        return -1
    return parsed.max_prefixlen - rest.bit_length()


def _check_databases(number: int, tokens: list[Token]) -> None:
    for token in tokens:
        _check_name(number, token)
        if token.is_keyword("samerole") or token.is_keyword("samegroup"):
            raise AuthFileError(
                number, f"{token.text} is not supported: memberships are not known here"
            )


def _check_users(number: int, tokens: list[Token]) -> None:
    for token in tokens:
        _check_name(number, token)
        if not token.is_quoted and token.text.startswith("+"):
            raise AuthFileError(
                number, f"{token.text} is not supported: memberships are not known here"
            )


def _check_name(number: int, token: Token) -> None:
    if not token.is_quoted and token.text.startswith("@"):
        raise AuthFileError(number, f"{token.text} is not supported; write the names here")
    if token.is_pattern():
        try:
            re.compile(token.text[1:])
        except re.error as error:
            raise AuthFileError(
                number, f"invalid regular expression {token.text}: {error}"
            ) from None


def _in_databases(tokens: list[Token], database: str, user: str) -> bool:
    for token in tokens:
        if token.is_keyword("all"):
            return True
        if token.is_keyword("sameuser"):
            if database == user:
                return True
        elif token.is_keyword("replication"):
            # Only physical replication connections, which are refused before.
            continue
        elif _is_name(token, database):
            return True
    return False


def _in_users(tokens: list[Token], user: str) -> bool:
    return any(token.is_keyword("all") or _is_name(token, user) for token in tokens)


def _is_name(token: Token, name: str) -> bool:
    if token.is_pattern():
        return re.search(token.text[1:], name) is not None
    return token.text == name
