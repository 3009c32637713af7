"""
Who a client is, when plugins have a say in it: the port that the login calls and the hooks fill.

`plugins.md` 1.1: on_connect is asked after the startup packet and before authentication,
authenticate in place of, or before, the configured method. The default says nothing at either.
"""

from abc import ABC, abstractmethod
from typing import final

from proxy.errors import Refusal
from proxy.session.context import ClientContext


@final
class Identity:
    """What an `authenticate` hook said that a client is."""

    __slots__ = ("claims", "roles", "tenant_id", "user_id", "username")

    def __init__(
        self,
        user_id: str,
        username: str,
        roles: list[str],
        tenant_id: str,
        claims: dict[str, str],
    ) -> None:
        self.user_id = user_id
        self.username = username
        self.roles = roles
        self.tenant_id = tenant_id
        self.claims = claims


class PasswordPrompt(ABC):
    """The client's clear password, asked for when a plugin that may see it wants it."""

    @abstractmethod
    async def ask(self) -> str | None:
        """
        Ask the client for its password, once; later calls answer the same. None: it must not be
        asked for, because the connection has no TLS and the operator did not allow that.
        """


class LoginHooks(ABC):
    """The hooks on_connect and authenticate, as the login sees them."""

    @abstractmethod
    async def on_connect(self, context: ClientContext) -> Refusal | None:
        """The startup packet has been read. A refusal ends the connection."""

    @abstractmethod
    async def authenticate(
        self, context: ClientContext, prompt: PasswordPrompt
    ) -> Identity | Refusal | None:
        """An identity: authenticated. A refusal: denied. None: the configured method decides."""


@final
class NoLoginHooks(LoginHooks):
    """No plugin is subscribed."""

    async def on_connect(self, context: ClientContext) -> Refusal | None:
        """Let it go on."""
        return None

    async def authenticate(
        self,
        context: ClientContext,
        prompt: PasswordPrompt,
    ) -> Identity | Refusal | None:
        """Leave it to the configured method."""
        return None


def adopt_identity(context: ClientContext, identity: Identity) -> None:
    """Put an identity into the context that every later hook sees (changes `context`)."""
    context.identity = identity.username or identity.user_id or context.user
    context.roles = list(identity.roles)
    context.user_id = identity.user_id
    context.tenant_id = identity.tenant_id
    context.claims = dict(identity.claims)
    context.fragment = b""
