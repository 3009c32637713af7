"""
Secrets of users: to check clients with, and to log in to servers with.

A secret comes from the users file, or else from `auth_query` (`SecretLookup`, which others
implement), whose answers are remembered for a while and forgotten on a failure (rule 33). What a
client proved itself with is remembered too: with SCRAM that is the ClientKey, enough to log in to
a server that has the same secret, so that no clear password is stored. Everything is bounded.
Knows no clock, no sockets and no files: those are arguments.
"""

from abc import ABC, abstractmethod
from typing import Final, final

from mypy_extensions import mypyc_attr

from proxy.auth.md5 import is_secret
from proxy.auth.scram import SECRET_PREFIX

MAX_REMEMBERED: Final = 10_000
"""Users whose looked-up secrets and proven credentials are kept; the oldest goes first."""


@final
class FoundSecret:
    """
    A user's secret: a clear password, md5… or SCRAM-SHA-256$….

    valid_until_s  Unix time after which it is no longer accepted; 0.0: for ever
    is_looked_up   it came from auth_query, and may be newer there
    asked_at_s     when it was looked up, by the clock of `UserStore.find`
    """

    __slots__ = ("asked_at_s", "is_looked_up", "text", "valid_until_s")

    def __init__(self, text: str, valid_until_s: float, is_looked_up: bool) -> None:
        self.text = text
        self.valid_until_s = valid_until_s
        self.is_looked_up = is_looked_up
        self.asked_at_s = 0.0

    def is_expired(self, now_s: float) -> bool:
        """Tell whether `VALID UNTIL` has passed."""
        return self.valid_until_s > 0.0 and now_s >= self.valid_until_s

    def __repr__(self) -> str:
        return f"FoundSecret({secret_kind(self.text)})"


@final
class Credentials:
    """
    What can be shown to a server as a user; any of them may be missing.

    password                clear
    client_key, server_key  SCRAM-SHA-256 keys, good for a server with the same salt and iterations
    md5_secret              "md5" and 32 hexadecimal digits
    """

    __slots__ = ("client_key", "md5_secret", "password", "server_key")

    def __init__(
        self,
        password: str = "",
        client_key: bytes = b"",
        server_key: bytes = b"",
        md5_secret: str = "",
    ) -> None:
        self.password = password
        self.client_key = client_key
        self.server_key = server_key
        self.md5_secret = md5_secret

    def is_empty(self) -> bool:
        """Tell whether there is nothing at all."""
        return self.password == "" and self.client_key == b"" and self.md5_secret == ""

    def equals(self, other: "Credentials") -> bool:
        """Tell whether a login with the other ones would be the same login."""
        return (
            self.password == other.password
            and self.client_key == other.client_key
            and self.md5_secret == other.md5_secret
        )

    def __repr__(self) -> str:
        kinds: list[str] = []
        if self.password != "":
            kinds.append("password")
        if self.client_key != b"":
            kinds.append("scram keys")
        if self.md5_secret != "":
            kinds.append("md5")
        return f"Credentials({', '.join(kinds)})"


@mypyc_attr(allow_interpreted_subclasses=True)
class SecretLookup(ABC):
    """auth_query: ask a server for a user's secret."""

    @abstractmethod
    async def look_up(self, user: str, database: str) -> FoundSecret | None:
        """Ask now. None: there is no such user. Raises Refused when it could not be asked."""


def secret_kind(text: str) -> str:
    """Tell what a secret is by its form: "scram", "md5" or "clear"."""
    if text.startswith(SECRET_PREFIX):
        return "scram"
    if is_secret(text):
        return "md5"
    return "clear"


def credentials_of(text: str) -> Credentials:
    """What a secret alone is good for towards a server: nothing, if it is a SCRAM secret."""
    kind = secret_kind(text)
    if kind == "clear":
        return Credentials(password=text)
    if kind == "md5":
        return Credentials(md5_secret=text)
    return Credentials()


@final
class UserStore:
    """
    All secrets of one proxy process.

    lookup        auth_query; None: only the users file
    cache_s       how long its answers are remembered
    typical_kind  `secret_kind` of the secret found last: what an unknown user is taken to have
    """

    __slots__ = ("_answers", "_entries", "_proven", "cache_s", "lookup", "typical_kind")

    def __init__(
        self, entries: dict[str, str], lookup: SecretLookup | None, cache_s: float
    ) -> None:
        self._entries = entries
        self.lookup = lookup
        self.cache_s = cache_s
        self._answers: dict[str, FoundSecret] = {}
        self._proven: dict[str, Credentials] = {}
        self.typical_kind = "scram"
        for user in entries:
            self.typical_kind = secret_kind(entries[user])
            break

    def replace(self, entries: dict[str, str], lookup: SecretLookup | None, cache_s: float) -> None:
        """Take another users file and auth_query (a reload); nothing looked up is kept."""
        for user in self._entries:
            if entries.get(user) != self._entries[user]:
                self._proven.pop(user, None)
        self._entries = entries
        self.lookup = lookup
        self.cache_s = cache_s
        self._answers.clear()

    def file_secret(self, user: str) -> str | None:
        """The users file's secret of a user."""
        return self._entries.get(user)

    def file_users(self) -> list[str]:
        """All users of the users file."""
        return list(self._entries)

    def cached(self, user: str, now_s: float) -> FoundSecret | None:
        """What is known without asking anybody."""
        entry = self._entries.get(user)
        if entry is not None:
            return FoundSecret(entry, 0.0, False)
        answer = self._answers.get(user)
        if answer is None or now_s - answer.asked_at_s >= self.cache_s:
            return None
        return answer

    async def find(self, user: str, database: str, now_s: float) -> FoundSecret | None:
        """A user's secret; asks auth_query when it must. Raises Refused when that fails."""
        known = self.cached(user, now_s)
        if known is not None:
            self.typical_kind = secret_kind(known.text)
            return known
        return await self.find_again(user, database, now_s)

    async def find_again(self, user: str, database: str, now_s: float) -> FoundSecret | None:
        """Ask auth_query whatever is remembered; None for users of the file, and unknown ones."""
        self._answers.pop(user, None)
        if self.lookup is None or user in self._entries:
            return None
        answer = await self.lookup.look_up(user, database)
        if answer is not None:
            answer.asked_at_s = now_s
            self.typical_kind = secret_kind(answer.text)
            self._answers.pop(user, None)
            if len(self._answers) >= MAX_REMEMBERED:
                del self._answers[next(iter(self._answers))]
            self._answers[user] = answer
        return answer

    def forget_answer(self, user: str) -> None:
        """
        A client failed to log in: ask auth_query at the next attempt. What other clients have
        proven stays, or anybody could take it away by failing on purpose.
        """
        self._answers.pop(user, None)

    def forget(self, user: str) -> None:
        """A server refused a login (28P01): forget what was looked up and proven (rule 33)."""
        self._answers.pop(user, None)
        self._proven.pop(user, None)

    def prove(self, user: str, credentials: Credentials) -> None:
        """A client has logged in as this user: keep what it showed, for logins to servers."""
        if credentials.is_empty():
            return
        self._proven.pop(user, None)
        if len(self._proven) >= MAX_REMEMBERED:
            del self._proven[next(iter(self._proven))]
        self._proven[user] = credentials

    def credentials(self, user: str) -> Credentials:
        """The best there is to log in to a server as this user; maybe nothing."""
        proven = self._proven.get(user)
        entry = self._entries.get(user)
        known = Credentials()
        if entry is not None:
            known = credentials_of(entry)
        else:
            answer = self._answers.get(user)
            if answer is not None:
                known = credentials_of(answer.text)
        if proven is None:
            return known
        return Credentials(
            known.password if known.password != "" else proven.password,
            proven.client_key,
            proven.server_key,
            known.md5_secret if known.md5_secret != "" else proven.md5_secret,
        )

    def __repr__(self) -> str:
        return f"UserStore({len(self._entries)} in the file, {len(self._answers)} looked up)"
