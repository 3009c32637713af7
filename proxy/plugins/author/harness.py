"""
One plugin, loaded as the proxy loads it and called with the envelopes that the proxy makes.

What the author's commands stand on. The operator's part is played generously: everything that the
manifest asks for is granted, unless told otherwise.
"""

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from proxy.errors import PluginFailed
from proxy.hooks import answers, codec
from proxy.hooks.points import (
    AUTHENTICATE,
    AUTHORIZE,
    BLOCKED,
    CACHE_GET,
    CACHE_SET,
    CUSTOM_HOOK,
    EMPTY_CHAINS,
    HOOK_NAMES,
    METRICS,
    ON_CONNECT,
    ON_DISCONNECT,
    POST_QUERY,
    PRE_QUERY,
    REWRITE,
    ROUTE,
    Completion,
    HookChains,
    Subscriber,
)
from proxy.plugins.events import FAILED
from proxy.plugins.manager import PluginManager
from proxy.session.context import ClientContext
from proxy.session.inspection import PHASE_STATEMENT, Inspection, Outcome
from proxy.settings.model import Settings
from proxy.settings.plugin_model import PERMISSIONS, PluginOverride, Plugins
from proxy.sql.classify import PgClassifier

_NEEDS: Final = {
    (ON_CONNECT, answers.BLOCK): ("conn.deny",),
    (AUTHORIZE, answers.BLOCK): ("authz.decide",),
    (PRE_QUERY, answers.BLOCK): ("query.block",),
    (PRE_QUERY, answers.NEW_TEXT): ("query.rewrite",),
    (PRE_QUERY, answers.ROWS): ("query.answer",),
    (REWRITE, answers.NEW_TEXT): ("query.rewrite",),
    (CACHE_GET, answers.ROWS): ("cache.read", "query.answer"),
    (CACHE_GET, answers.KEY): ("cache.read",),
    (CACHE_SET, answers.STORE): ("cache.write",),
}
"""What an answer needs; everything that `route` says needs route.decide, a block query.block or that."""

STATEMENT_HOOKS = (PRE_QUERY, REWRITE, AUTHORIZE, ROUTE, CACHE_GET, POST_QUERY, CACHE_SET)


@dataclass(slots=True)
class Called:
    """
    What one call did.

    action   the answer's action, "failed" for a failed call, "filtered" where [match] let it pass
    answer   the JSON as the plugin gave it; None for the immediate default
    """

    hook: str
    action: str
    answer: Any = None
    cause: str = ""
    message: str = ""
    duration_us: int = 0
    fuel: int = 0
    logs: list[str] = field(default_factory=list)


@final
class _Holder:
    def __init__(self) -> None:
        self.chains = EMPTY_CHAINS

    def install(self, chains: HookChains) -> HookChains:
        """Exchange the chains."""
        old, self.chains = self.chains, chains
        return old


@final
class _Future(Completion):
    def __init__(self) -> None:
        self.future: asyncio.Future[tuple[bytes | None, str]] = (
            asyncio.get_running_loop().create_future()
        )

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """Wake up the caller."""
        if not self.future.done():
            self.future.set_result((answer, failed_cause))


@final
class Harness:
    """A plugin under a test's hands. Use as an asynchronous context manager."""

    def __init__(
        self,
        module: Path,
        grants: tuple[str, ...] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._module = module
        self._holder = _Holder()
        self._classifier = PgClassifier()
        overrides: dict[str, PluginOverride] = {}
        self._config = config
        self.settings = Settings(
            plugins=Plugins(
                dir=module.parent,
                watch=False,
                grants=grants if grants is not None else PERMISSIONS,
                settings=overrides,
            )
        )
        if config is not None:
            overrides[self._name()] = PluginOverride(config=config)
        self.manager = PluginManager(self.settings, self._holder)
        self.name = ""

    def _name(self) -> str:
        from proxy.plugins.manifest import find_manifest, parse_manifest

        path = find_manifest(self._module)
        if path is None:
            return self._module.stem
        return parse_manifest(path, path.read_bytes()).name

    async def __aenter__(self) -> "Harness":
        event = await self.manager.load(self._module)
        if event.kind == FAILED:
            await self.manager.stop()
            raise PluginFailed(event.plugin, event.cause, event.message)
        self.name = event.plugin
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.manager.stop()

    def subscriber(self, hook: int) -> Subscriber:
        """The plugin at a hook. Raises LookupError."""
        for subscriber in self._holder.chains.points[hook]:
            return subscriber
        raise LookupError(f"plugin {self.name!r} has no hook {HOOK_NAMES[hook]}")

    def hooks(self) -> list[int]:
        """The hooks that the plugin has."""
        return [hook for hook, chain in enumerate(self._holder.chains.points) if chain]

    def inspection(self, sql: str, client: ClientContext | None = None) -> Inspection:
        """A statement as the session would bring it; the first one of the text."""
        facts = self._classifier.exact(sql.encode())
        statement = (
            facts.statements[0] if facts.statements else self._classifier.unknown(b"").statements[0]
        )
        return Inspection(
            statement, client or default_client(), False, PHASE_STATEMENT, False, None
        )

    def envelope(self, hook: int, sql: str, client: ClientContext | None = None) -> bytes:
        """The input of a hook for a statement, or for the client where it is not about one."""
        who = client or default_client()
        inspection = self.inspection(sql, who)
        subscriber = self.subscriber(hook)
        with_parameters = "query.params" in subscriber.permissions
        if hook == POST_QUERY:
            outcome = Outcome()
            outcome.target_node, outcome.elapsed_us, outcome.rows = "pg1", 120, 1
            inspection.outcome = outcome
            return codec.post_query_envelope(
                inspection, b"t-", with_parameters, subscriber.input_limit_bytes
            )
        if hook == CACHE_SET:
            return codec.cache_set_envelope(inspection, b"t-", with_parameters, 1, 64)
        if hook in STATEMENT_HOOKS:
            return codec.statement_envelope(inspection, b"t-", with_parameters, hook == AUTHORIZE)
        if hook == AUTHENTICATE:
            has_password = "auth.credentials" in subscriber.permissions
            return codec.authenticate_envelope(who, "secret" if has_password else None)
        if hook in (ON_CONNECT, ON_DISCONNECT):
            return codec.context_envelope(who, "t-1", {})
        return b"{}" if hook == METRICS else sql.encode()

    async def call(self, hook: int, sql: str, client: ClientContext | None = None) -> Called:
        """Call a hook with a statement, as the pipeline does."""
        subscriber = self.subscriber(hook)
        who = client or default_client()
        if hook in STATEMENT_HOOKS and not subscriber.matches(self.inspection(sql, who).facts, who):
            return Called(HOOK_NAMES[hook], "filtered")
        return await self.call_raw(hook, self.envelope(hook, sql, who))

    async def call_raw(self, hook: int, payload: bytes) -> Called:
        """Call a hook with a ready input."""
        subscriber = self.subscriber(hook)
        log = self.manager.logs(self.name)
        lines, fuel = log.written, subscriber.stats.fuel
        called = Called(HOOK_NAMES[hook], "failed")
        given: bytes | None = None
        try:
            if subscriber.is_slow:
                waiting = _Future()
                subscriber.call_slow(payload, waiting)
                given, called.cause = await waiting.future
                called.message = called.cause
            else:
                given = subscriber.call(payload)
        except PluginFailed as failed:
            called.cause, called.message = failed.cause, failed.message
        called.duration_us = subscriber.last_us
        called.fuel = subscriber.stats.fuel - fuel
        called.logs = [f"{x.level}: {x.text}" for x in log.last(log.written - lines)]
        if not called.cause:
            _understand(called, hook, given, subscriber.permissions)
        return called


def _understand(called: Called, hook: int, given: bytes | None, granted: frozenset[str]) -> None:
    if given is not None and given != BLOCKED:
        try:
            called.answer = json.loads(given)
        except ValueError:
            called.cause, called.message = "bad_answer", f"not JSON: {given[:200]!r}"
            return
    if hook in (CUSTOM_HOOK, POST_QUERY, ON_DISCONNECT):
        called.action = "answered" if given is not None else "default"
        return
    word, lacking = _meaning(hook, given, granted)
    if not word:
        called.cause, called.message = "bad_answer", f"not an answer of {called.hook}: {given!r}"
    elif lacking:
        called.cause, called.message = "permission", f"{word} needs {lacking}, which is not granted"
    else:
        called.action = word


def _meaning(hook: int, given: bytes | None, granted: frozenset[str]) -> tuple[str, str]:
    """What an answer says, "" for one that the contract does not know; and what it lacks."""
    if hook == AUTHENTICATE:
        login = answers.decode_login(given)
        if login is None:
            return "", ""
        if login.denied is None and not login.username:
            return "defer", ""
        word = "denied" if login.denied is not None else "success"
        return word, "" if "auth.decide" in granted else "auth.decide"
    if hook == METRICS:
        samples = answers.decode_samples(given)
        if samples is None:
            return "", ""
        return "answered" if samples else "default", (
            "metrics" if samples and "metrics" not in granted else ""
        )
    answer = answers.decode(hook, given)
    if answer is None:
        return "", ""
    needs = _NEEDS.get((hook, answer.action), ())
    if hook == ROUTE and answer.action != answers.PASS:
        may_block = answer.action == answers.BLOCK and "query.block" in granted
        needs = () if may_block else ("route.decide",)
    return answer.word, next((name for name in needs if name not in granted), "")


def default_client(
    user: str = "alice", database: str = "app", roles: tuple[str, ...] = ()
) -> ClientContext:
    """A client for envelopes."""
    client = ClientContext("t-1", "127.0.0.1", True, 0.0)
    client.user = client.identity = user
    client.database = database
    client.application_name = "psql"
    client.roles = list(roles)
    client.startup = {"user": user, "database": database, "application_name": "psql"}
    return client
