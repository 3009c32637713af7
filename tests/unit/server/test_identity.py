"""An identity in the context, and the hooks that say nothing."""

from proxy.hooks.codec import attributes_of
from proxy.server.identity import Identity, NoLoginHooks, PasswordPrompt, adopt_identity
from proxy.session.context import ClientContext


class Prompt(PasswordPrompt):
    async def ask(self) -> str | None:
        raise AssertionError("nobody should ask")


def context() -> ClientContext:
    made = ClientContext("w0-1", "192.0.2.1", False, 0.0)
    made.user = "alice"
    made.identity = "alice"
    made.fragment = b"made before"
    return made


async def test_no_hooks_say_nothing() -> None:
    hooks = NoLoginHooks()
    assert await hooks.on_connect(context()) is None
    assert await hooks.authenticate(context(), Prompt()) is None


def test_an_identity_is_what_later_hooks_see() -> None:
    who = context()
    roles = ["reader"]
    adopt_identity(who, Identity("7", "al", roles, "t", {"client_addr": "forged", "x": "y"}))
    roles.append("changed afterwards")
    assert (who.identity, who.roles, who.tenant_id) == ("al", ["reader"], "t")
    assert who.claims == {"client_addr": "forged", "x": "y"}
    assert attributes_of(who) == {
        "client_addr": "192.0.2.1",
        "roles": "reader",
        "x": "y",
        "user_id": "7",
        "tenant_id": "t",
        "user": "alice",
        "tls": "false",
        "application_name": "",
    }
    assert who.fragment == b""


def test_an_identity_without_a_name_is_its_id_or_the_user() -> None:
    who = context()
    adopt_identity(who, Identity("7", "", [], "", {}))
    assert who.identity == "7"
    adopt_identity(who, Identity("", "", [], "", {}))
    assert who.identity == "alice"
