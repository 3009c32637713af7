"""
The hooks that are not about a statement: connect, authenticate, disconnect, metrics, custom.

Asynchronous, because nobody's query waits in them and most run on worker threads. `[match]` is
about statements and is not asked here. The server's login and the admin API call this; it knows
neither of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, final

from proxy.errors import PluginFailed, Refusal
from proxy.hooks import answers, codec, points
from proxy.hooks.answers import Login, Sample
from proxy.hooks.pipeline import HookPipeline
from proxy.hooks.points import Completion, HookChains, Subscriber
from proxy.session.context import ClientContext

METRICS_INTERVAL_S: Final = 1.0


@final
class _FutureAnswer(Completion):
    """A call on a worker thread, as a future; the chains are held until the thread is done."""

    def __init__(self, chains: HookChains, subscriber: Subscriber) -> None:
        self._chains = chains
        self._plugin = subscriber.plugin
        self.future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """Wake up whoever waits, unless it has gone."""
        self._chains.leave()
        if self.future.done():
            return
        if failed_cause:
            self.future.set_exception(PluginFailed(self._plugin, failed_cause, failed_cause))
        else:
            self.future.set_result(answer)


@final
class _Told(Completion):
    """A call whose answer says nothing; the chains are held until it is done."""

    def __init__(self, chains: HookChains) -> None:
        self._chains = chains

    def on_answer(self, answer: bytes | None, failed_cause: str) -> None:
        """Let the chains go."""
        del answer, failed_cause
        self._chains.leave()


async def _call(chains: HookChains, subscriber: Subscriber, payload: bytes) -> bytes | None:
    """Run a hook where it belongs; raises PluginFailed and nothing else."""
    if len(payload) > subscriber.input_limit_bytes:
        subscriber.stats.failed("input")
        raise PluginFailed(subscriber.plugin, "input", f"an input of {len(payload)} bytes")
    try:
        if not subscriber.is_slow:
            return subscriber.call(payload)
        waiting = _FutureAnswer(chains, subscriber)
        chains.enter()
        try:
            subscriber.call_slow(payload, waiting)
        except Exception:
            chains.leave()
            raise
        return await waiting.future
    except PluginFailed:
        raise
    except Exception as defect:
        subscriber.answer_failed("host")
        raise PluginFailed(subscriber.plugin, "host", repr(defect)) from defect


def _bad_answer(subscriber: Subscriber, cause: str = "bad_answer") -> PluginFailed:
    subscriber.answer_failed(cause)
    return PluginFailed(subscriber.plugin, cause, "an answer that the contract does not know")


@final
class ConnectionHooks:
    """Everything that plugins are asked and told about a connection."""

    def __init__(self, pipeline: HookPipeline, request_prefix: str = "") -> None:
        self._pipeline = pipeline
        self._prefix = request_prefix

    def _envelope(self, context: ClientContext, added: dict[str, object]) -> bytes:
        request_id = f"{self._prefix}{self._pipeline.next_request()}"
        return codec.context_envelope(context, request_id, added)

    async def on_connect(self, context: ClientContext) -> Refusal | None:
        """Ask `on_connect`; a refusal ends the connection."""
        chains = self._pipeline.chains
        subscribers = chains.points[points.ON_CONNECT]
        if not subscribers:
            return None
        payload = self._envelope(context, {})
        chains.enter()
        try:
            for subscriber in subscribers:
                try:
                    refusal = await self._asked_to_connect(chains, subscriber, payload)
                except PluginFailed:
                    refusal = _failed_login(subscriber) if subscriber.fails_closed else None
                if refusal is not None:
                    return refusal
        finally:
            chains.leave()
        return None

    async def _asked_to_connect(
        self, chains: HookChains, subscriber: Subscriber, payload: bytes
    ) -> Refusal | None:
        answer = answers.decode(points.ON_CONNECT, await _call(chains, subscriber, payload))
        if answer is None:
            raise _bad_answer(subscriber)
        if answer.action == answers.BLOCK and "conn.deny" not in subscriber.permissions:
            raise _bad_answer(subscriber, "permission")
        subscriber.stats.decided(answer.word)
        if answer.action == answers.PASS:
            return None
        return Refusal(
            answer.sqlstate or "28000",
            f"Connection refused by plugin: {answer.text}",
            answer.detail,
            answer.hint,
            "FATAL",
        )

    async def authenticate(
        self, context: ClientContext, ask_password: Callable[[], Awaitable[str | None]]
    ) -> Login | Refusal | None:
        """
        Ask `authenticate`: the first answer that is not defer. None: the configured method decides.

        The password is asked for when the first plugin that is granted auth.credentials comes up;
        `ask_password` answers None where the client must not send it, and the same each time.
        """
        chains = self._pipeline.chains
        subscribers = chains.points[points.AUTHENTICATE]
        if not subscribers:
            return None
        chains.enter()
        try:
            for subscriber in subscribers:
                password: str | None = None
                if "auth.credentials" in subscriber.permissions:
                    password = await ask_password()
                try:
                    login = await self._asked_who(chains, subscriber, context, password)
                except PluginFailed:
                    if subscriber.fails_closed:
                        return _failed_login(subscriber)
                    continue
                if login.denied is not None:
                    return Refusal("28000", login.denied, severity="FATAL")
                if login.username:
                    return login
        finally:
            chains.leave()
        return None

    async def _asked_who(
        self,
        chains: HookChains,
        subscriber: Subscriber,
        context: ClientContext,
        password: str | None,
    ) -> Login:
        given = await _call(chains, subscriber, codec.authenticate_envelope(context, password))
        login = answers.decode_login(given)
        if login is None:
            raise _bad_answer(subscriber)
        word = "defer"
        if login.denied is not None or login.username:
            if "auth.decide" not in subscriber.permissions:
                raise _bad_answer(subscriber, "permission")
            word = "success" if login.denied is None else "denied"
        subscriber.stats.decided(word)
        return login

    def on_disconnect(
        self,
        context: ClientContext,
        duration_us: int,
        queries: int,
        bytes_received: int,
        bytes_sent: int,
    ) -> None:
        """Tell `on_disconnect`; nobody waits for it."""
        chains = self._pipeline.chains
        subscribers = chains.points[points.ON_DISCONNECT]
        if not subscribers:
            return
        payload = self._envelope(
            context,
            {
                "duration_us": duration_us,
                "queries": queries,
                "bytes_received": bytes_received,
                "bytes_sent": bytes_sent,
            },
        )
        for subscriber in subscribers:
            if len(payload) > subscriber.input_limit_bytes:
                subscriber.stats.failed("input")
                continue
            chains.enter()
            told = _Told(chains)
            try:
                if subscriber.is_slow:
                    subscriber.call_slow(payload, told)
                else:
                    subscriber.call(payload)
                    chains.leave()
            except PluginFailed:
                chains.leave()
            except Exception:
                subscriber.answer_failed("host")
                chains.leave()


def _failed_login(subscriber: Subscriber) -> Refusal:
    return Refusal("58000", f'plugin "{subscriber.plugin}" failed', severity="FATAL")


@final
class PluginCalls:
    """The two hooks that an operator calls: `metrics` by a scrape, `custom_hook` by the API."""

    def __init__(self, pipeline: HookPipeline, now_s: Callable[[], float]) -> None:
        self._pipeline = pipeline
        self._now_s = now_s
        self._samples: dict[str, list[Sample]] = {}
        self._asked_at_s: float | None = None
        self._lock = asyncio.Lock()

    async def metrics(self) -> dict[str, list[Sample]]:
        """Samples by plugin, asked for at most once a second; who fails has none."""
        async with self._lock:
            now_s = self._now_s()
            if self._asked_at_s is None or now_s - self._asked_at_s >= METRICS_INTERVAL_S:
                self._asked_at_s = now_s
                self._samples = await self._ask_metrics()
            return self._samples

    async def _ask_metrics(self) -> dict[str, list[Sample]]:
        chains = self._pipeline.chains
        found: dict[str, list[Sample]] = {}
        chains.enter()
        try:
            for subscriber in chains.points[points.METRICS]:
                try:
                    samples = answers.decode_samples(await _call(chains, subscriber, b"{}"))
                except PluginFailed:
                    continue
                if samples is None:
                    subscriber.answer_failed("bad_answer")
                elif samples and "metrics" not in subscriber.permissions:
                    subscriber.answer_failed("permission")
                else:
                    found[subscriber.plugin] = samples
        finally:
            chains.leave()
        return found

    async def custom(self, plugin: str, payload: bytes) -> bytes:
        """
        Call a plugin's `custom_hook` with JSON; its JSON comes back, `null` for the default.

        Raises LookupError when no such plugin has the hook, PluginFailed when the call failed.
        """
        chains = self._pipeline.chains
        for subscriber in chains.points[points.CUSTOM_HOOK]:
            if subscriber.plugin == plugin:
                chains.enter()
                try:
                    answer = await _call(chains, subscriber, payload)
                finally:
                    chains.leave()
                if answer is None:
                    return b"null"
                if not answers.is_json(answer):
                    raise _bad_answer(subscriber)
                return answer
        raise LookupError(f"no active plugin {plugin!r} has the hook custom_hook")
