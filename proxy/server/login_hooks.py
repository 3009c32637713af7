"""
The hooks of a login, as the login asks for them: `hooks.login` behind the port `LoginHooks`.
"""

from typing import final

from proxy.errors import Refusal
from proxy.hooks.answers import Login
from proxy.hooks.login import ConnectionHooks
from proxy.server.identity import Identity, LoginHooks, PasswordPrompt
from proxy.session.context import ClientContext


@final
class PluginLoginHooks(LoginHooks):
    """on_connect and authenticate of whatever plugins are active."""

    def __init__(self, hooks: ConnectionHooks) -> None:
        self._hooks = hooks

    async def on_connect(self, context: ClientContext) -> Refusal | None:
        """Ask `on_connect`."""
        return await self._hooks.on_connect(context)

    async def authenticate(
        self, context: ClientContext, prompt: PasswordPrompt
    ) -> Identity | Refusal | None:
        """Ask `authenticate`."""
        answer = await self._hooks.authenticate(context, prompt.ask)
        if isinstance(answer, Login):
            return Identity(
                answer.user_id, answer.username, answer.roles, answer.tenant_id, answer.claims
            )
        return answer
