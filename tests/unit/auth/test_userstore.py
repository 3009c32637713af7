"""Secrets of users: where they come from, how long they are kept, what they are good for."""

import pytest

from proxy.auth import md5, userstore
from proxy.auth.userstore import (
    MAX_REMEMBERED,
    Credentials,
    FoundSecret,
    SecretLookup,
    UserStore,
    credentials_of,
    secret_kind,
)
from proxy.errors import Refusal, Refused

MD5 = md5.build_secret("a", "x")
SCRAM = "SCRAM-SHA-256$4096:c2FsdA==$" + "A" * 43 + "=:" + "B" * 43 + "="


class Lookup(SecretLookup):
    def __init__(self, secrets: dict[str, str]) -> None:
        self.secrets = secrets
        self.asked = 0

    async def look_up(self, user: str, database: str) -> FoundSecret | None:
        self.asked += 1
        if database == "broken":
            raise Refused(Refusal("57P03", "cannot be asked"))
        text = self.secrets.get(user)
        return None if text is None else FoundSecret(text, 0.0, True)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("secret", "clear"),
        ("", "clear"),
        (MD5, "md5"),
        (MD5.upper(), "clear"),
        (MD5[:-1], "clear"),
        (MD5[:-1] + "g", "clear"),
        (SCRAM, "scram"),
        ("SCRAM-SHA-256$broken", "scram"),
    ],
)
def test_kinds_of_secrets(text: str, kind: str) -> None:
    assert secret_kind(text) == kind


def test_what_a_secret_is_good_for_towards_a_server() -> None:
    assert credentials_of("x").password == "x"
    assert credentials_of(MD5).md5_secret == MD5
    assert credentials_of(SCRAM).is_empty()


async def test_the_file_goes_before_the_lookup() -> None:
    lookup = Lookup({"a": "server's", "b": "server's"})
    store = UserStore({"a": "file's"}, lookup, 60.0)
    found = await store.find("a", "app", 0.0)
    assert found is not None
    assert (found.text, found.is_looked_up) == ("file's", False)
    assert await store.find_again("a", "app", 0.0) is None
    assert lookup.asked == 0
    found = await store.find("b", "app", 0.0)
    assert found is not None
    assert (found.text, found.is_looked_up) == ("server's", True)


async def test_answers_are_kept_for_a_while() -> None:
    lookup = Lookup({"b": "one"})
    store = UserStore({}, lookup, 60.0)
    await store.find("b", "app", 100.0)
    lookup.secrets["b"] = "two"
    kept = await store.find("b", "app", 159.0)
    assert kept is not None
    assert kept.text == "one"
    assert lookup.asked == 1
    newer = await store.find("b", "app", 160.0)
    assert newer is not None
    assert newer.text == "two"


async def test_a_cache_of_no_time_asks_each_time() -> None:
    lookup = Lookup({"b": "one"})
    store = UserStore({}, lookup, 0.0)
    await store.find("b", "app", 0.0)
    await store.find("b", "app", 0.0)
    assert lookup.asked == 2
    assert store.credentials("b").password == "one"


async def test_unknown_users_are_asked_for_each_time_and_not_kept() -> None:
    lookup = Lookup({})
    store = UserStore({}, lookup, 60.0)
    assert await store.find("nobody", "app", 0.0) is None
    lookup.secrets["nobody"] = "now there"
    assert await store.find("nobody", "app", 0.0) is not None
    assert await UserStore({}, None, 60.0).find("nobody", "app", 0.0) is None


async def test_a_lookup_that_fails_is_not_an_unknown_user() -> None:
    store = UserStore({}, Lookup({"b": "x"}), 60.0)
    with pytest.raises(Refused):
        await store.find("b", "broken", 0.0)
    assert store.cached("b", 0.0) is None


async def test_rule_33_forgetting() -> None:
    lookup = Lookup({"b": SCRAM})
    store = UserStore({}, lookup, 60.0)
    await store.find("b", "app", 0.0)
    store.prove("b", Credentials(client_key=b"k", server_key=b"s"))
    # A client that fails takes nothing away that another one has proven.
    store.forget_answer("b")
    assert store.cached("b", 0.0) is None
    assert store.credentials("b").client_key == b"k"
    store.forget("b")
    assert store.credentials("b").is_empty()


def test_credentials_are_put_together_from_all_there_is() -> None:
    store = UserStore({"a": "clear", "m": MD5, "s": SCRAM}, None, 60.0)
    keys = Credentials(client_key=b"k", server_key=b"s")
    for user in ("a", "m", "s"):
        store.prove(user, keys)
        store.prove(user, Credentials())
    assert store.credentials("a").equals(Credentials("clear", b"k"))
    assert store.credentials("m").equals(Credentials("", b"k", md5_secret=MD5))
    assert store.credentials("s").server_key == b"s"
    assert store.credentials("nobody").is_empty()


async def test_a_reload_forgets_what_may_have_changed() -> None:
    store = UserStore({"a": "one", "b": "same"}, Lookup({"c": "x"}), 60.0)
    await store.find("c", "app", 0.0)
    for user in ("a", "b"):
        store.prove(user, Credentials(client_key=b"k"))
    store.replace({"a": "two", "b": "same"}, None, 30.0)
    assert store.credentials("a").equals(Credentials("two"))
    assert store.credentials("b").client_key == b"k"
    assert store.cached("c", 0.0) is None
    assert store.cache_s == 30.0
    assert store.file_users() == ["a", "b"]
    assert store.file_secret("a") == "two"


async def test_everything_is_bounded() -> None:
    lookup = Lookup({f"u{number}": "x" for number in range(MAX_REMEMBERED + 5)})
    store = UserStore({}, lookup, 60.0)
    for number in range(MAX_REMEMBERED + 5):
        await store.find(f"u{number}", "app", 0.0)
        store.prove(f"u{number}", Credentials("x"))
    assert store.cached("u0", 0.0) is None
    assert store.cached(f"u{MAX_REMEMBERED}", 0.0) is not None
    assert store.credentials("u4").is_empty()
    assert not store.credentials("u5").is_empty()


async def test_the_typical_kind_is_that_of_the_secret_found_last() -> None:
    assert UserStore({}, None, 0.0).typical_kind == "scram"
    store = UserStore({"m": MD5}, Lookup({"s": SCRAM}), 60.0)
    assert store.typical_kind == "md5"
    await store.find("s", "app", 0.0)
    assert store.typical_kind == "scram"
    await store.find("m", "app", 0.0)
    assert store.typical_kind == "md5"


def test_expiry() -> None:
    assert not FoundSecret("x", 0.0, True).is_expired(1e12)
    assert FoundSecret("x", 100.0, True).is_expired(100.0)
    assert not FoundSecret("x", 100.0, True).is_expired(99.0)


def test_nothing_shows_a_secret() -> None:
    store = UserStore({"a": "hidden"}, None, 60.0)
    shown = [
        repr(store),
        repr(FoundSecret("hidden", 0.0, False)),
        repr(Credentials("hidden", b"hidden", b"hidden", "hidden")),
    ]
    assert not any("hidden" in text for text in shown)
    assert userstore.MAX_REMEMBERED == 10_000


@pytest.mark.parametrize(
    ("credentials", "kinds"),
    [
        (Credentials(), ""),
        (Credentials("hidden"), "password"),
        (Credentials(client_key=b"hidden", server_key=b"hidden"), "scram keys"),
        (Credentials(md5_secret="hidden"), "md5"),
        (Credentials("hidden", md5_secret="hidden"), "password, md5"),
    ],
)
def test_credentials_show_their_kinds_only(credentials: Credentials, kinds: str) -> None:
    assert repr(credentials) == f"Credentials({kinds})"
