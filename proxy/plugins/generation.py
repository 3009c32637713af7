"""
One generation of a plugin: its instances, its hooks, its life from Loaded to Removed.

A replacement makes a new Generation beside the old one; they share nothing but the counters. Knows
no files and no other plugins: that is `loader` and `manager`.
"""

import asyncio
import logging
import threading
from concurrent.futures import Executor
from time import perf_counter, perf_counter_ns
from typing import Final, final

from proxy.errors import PluginFailed
from proxy.hooks.points import (
    AUTHENTICATE,
    AUTHORIZE,
    CUSTOM_HOOK,
    HOOK_NAMES,
    ON_CONNECT,
    PRE_QUERY,
    Completion,
)
from proxy.observe.counters import HookStats
from proxy.plugins.component import ComponentBlueprint, ComponentInstance, ComponentLinked
from proxy.plugins.ffi import CAUSE_HOST, GuestStopped
from proxy.plugins.host.table import KV_FUNCTIONS, WAITING_PERMISSIONS
from proxy.plugins.instance import Blueprint, InitRefused, Instance, Linked
from proxy.plugins.lifecycle import Lifecycle, State
from proxy.plugins.loader import Source
from proxy.plugins.match import Matcher
from proxy.plugins.pulse import PULSE
from proxy.plugins.subscriber import ComponentHook, FreshHook, PluginHook, ResidentHook

logger = logging.getLogger("headgate.plugins")

AnyBlueprint = Blueprint | ComponentBlueprint
AnyInstance = Instance | ComponentInstance
AnyLinked = Linked | ComponentLinked

CAUSE_OVERLOAD: Final = "overload"
MAX_WAITING_CALLS: Final = 256
"""Calls of one plugin that wait for a worker thread; more are failed calls."""
_REPORTS_IN_FULL: Final = 5


def make_instance(blueprint: AnyBlueprint, linked: AnyLinked) -> AnyInstance:
    """An instance of either loader. Raises GuestStopped, InitRefused."""
    if isinstance(blueprint, ComponentBlueprint):
        assert isinstance(linked, ComponentLinked)
        return blueprint.instance(linked)
    assert isinstance(linked, Linked)
    return blueprint.instance(linked)


@final
class Generation:
    """
    A plugin as one version of its files has it.

    number       counts up with each replacement of the plugin
    in_flight    calls and other work on worker threads
    held_by      numbers of the hook chains that statements may still reach it through
    """

    def __init__(
        self,
        source: Source,
        number: int,
        blueprint: AnyBlueprint,
        priority: int,
        on_error: str,
        stats: dict[int, HookStats],
        loop: asyncio.AbstractEventLoop,
        threads: Executor,
    ) -> None:
        self.source = source
        self.manifest = source.manifest
        self.number = number
        self.blueprint = blueprint
        self.shape = blueprint.shape
        self.limits = blueprint.limits
        self.permissions = blueprint.permissions
        self.priority = priority
        self.life = Lifecycle(self.manifest.name)
        self.held_by: set[int] = set()
        self.in_flight = 0
        self.failures = 0
        self.drained = asyncio.Event()
        self._loop = loop
        self._threads = threads
        self._is_fresh = self.shape.abi == 0
        self._linked: AnyLinked | None = None
        self._resident: AnyInstance | None = None
        self._spare: AnyInstance | None = None
        self._is_making_spare = False
        self._idle: list[AnyInstance] = []
        self._all_linked: list[AnyLinked] = []
        self._lock = threading.Lock()
        self.hooks = tuple(self._make_hook(hook, on_error, stats) for hook in self.shape.exports)

    @property
    def name(self) -> str:
        """The plugin's name."""
        return self.manifest.name

    def _make_hook(self, hook: int, on_error: str, stats: dict[int, HookStats]) -> PluginHook:
        fails_closed = on_error == "closed"
        if not on_error:
            # plugins.md 1.1, column "fails".
            if hook in (AUTHENTICATE, AUTHORIZE):
                fails_closed = True
            elif hook == PRE_QUERY:
                fails_closed = "query.block" in self.permissions
            elif hook == ON_CONNECT:
                fails_closed = "conn.deny" in self.permissions
        rules = self.manifest.match
        matcher = None if rules.is_empty() else Matcher(rules)
        kind: type[PluginHook] = FreshHook if self._is_fresh else ResidentHook
        if self.blueprint.is_component:
            kind = ComponentHook
        return kind(self, hook, stats[hook], fails_closed, self._is_slow(hook), matcher)

    def _is_slow(self, hook: int) -> bool:
        if hook in (AUTHENTICATE, CUSTOM_HOOK):
            return True
        shape = self.shape
        if shape.permissions_of_imports & WAITING_PERMISSIONS:
            return True
        return self.blueprint.services.kv.waits and any(
            item.name in KV_FUNCTIONS for item in shape.imports
        )

    # Making instances.

    def prepare(self) -> None:
        """Loaded -> Linked -> Initialized. For a thread; raises PluginFailed, GuestStopped."""
        self.link()
        self.initialize()

    def link(self) -> None:
        """Loaded -> Linked."""
        self._linked = self._new_linked(is_fast=False)
        self.life.advance(State.LINKED)

    def initialize(self) -> None:
        """Linked -> Initialized: make an instance, run plugin_init. For a thread; PluginFailed."""
        if self._linked is None:
            raise PluginFailed(self.name, "init", "not linked yet")
        try:
            instance = make_instance(self.blueprint, self._linked)
        except InitRefused as refused:
            raise PluginFailed(self.name, "init", str(refused)) from None
        except GuestStopped as stopped:
            raise PluginFailed(
                self.name, "init", f"cannot be started: {stopped.cause}: {stopped.message}"
            ) from None
        if self._is_fresh:
            instance.close()
            self._linked.close()
            self._all_linked.remove(self._linked)
            self._linked = self._new_linked(is_fast=True)
        else:
            instance.rebind(is_fast=True)
            self._resident = instance
        self.life.advance(State.INITIALIZED)

    def _new_linked(self, is_fast: bool) -> AnyLinked:
        linked = self.blueprint.link(is_fast)
        self._all_linked.append(linked)
        return linked

    def _make(self, linked: AnyLinked) -> AnyInstance:
        try:
            return make_instance(self.blueprint, linked)
        except InitRefused as refused:
            raise GuestStopped(CAUSE_HOST, str(refused)) from None

    def resident(self) -> AnyInstance:
        """The instance that serves the event loop; a new one after a trap. GuestStopped."""
        if self._resident is None:
            if self.life.state is State.REMOVED or self._linked is None:
                raise GuestStopped(CAUSE_HOST, "the plugin was removed")
            spare, self._spare = self._spare, None
            if spare is None:
                spare = self._make(self._linked)
                spare.rebind(is_fast=True)
            self._resident = spare
            if spare.linked is not self._linked:
                with self._lock:
                    self._all_linked.remove(self._linked)
                self._linked.close()
                self._linked = spare.linked
            spare.activate()
        return self._resident

    def fresh(self) -> AnyInstance:
        """An instance for one call in the event loop. Raises GuestStopped."""
        if self.life.state is State.REMOVED or self._linked is None:
            raise GuestStopped(CAUSE_HOST, "the plugin was removed")
        return self._make(self._linked)

    def discard(self, instance: AnyInstance) -> None:
        """Never use the resident instance again: it has trapped."""
        instance.close()
        if instance is not self._resident:
            return
        self._resident = None
        for hook in self.hooks:
            hook.forget_instance()
        # plugin_init may take long; the next one is made ready off the clients' path.
        if self.shape.has_init and not self._is_making_spare and self._spare is None:
            self._is_making_spare = True
            self.in_flight += 1  # the module must outlive the thread's work
            self._threads.submit(self._make_spare)

    def _make_spare(self) -> None:
        spare: AnyInstance | None = None
        linked: AnyLinked | None = None
        try:
            linked = self.blueprint.link(is_fast=False)
            spare = self._make(linked)
        except Exception as error:
            logger.warning("plugin %s: no spare instance: %s", self.name, error)
            if linked is not None:
                linked.close()
        self._loop.call_soon_threadsafe(self._take_spare, spare)

    def _take_spare(self, spare: AnyInstance | None) -> None:
        self._is_making_spare = False
        self.in_flight -= 1
        if spare is not None:
            spare.rebind(is_fast=True)
            with self._lock:
                self._all_linked.append(spare.linked)
            self._spare = spare
        self.check_drained()

    # Calls on worker threads.

    def run_on_thread(self, hook: PluginHook, payload: bytes, completion: Completion) -> None:
        """Call a hook on a worker thread, with an instance of that thread's own."""
        if self.in_flight >= MAX_WAITING_CALLS:
            hook.stats.failed(CAUSE_OVERLOAD)
            self._loop.call_soon(completion.on_answer, None, CAUSE_OVERLOAD)
            return
        try:
            hook.admit()
        except PluginFailed as failed:
            self._loop.call_soon(completion.on_answer, None, failed.cause)
            return
        self.in_flight += 1
        self._threads.submit(self._work, hook, payload, completion)

    def _work(self, hook: PluginHook, payload: bytes, completion: Completion) -> None:
        started_s = perf_counter()
        answer: bytes | None = None
        stopped: GuestStopped | None = None
        fuel = 0
        instance: AnyInstance | None = None
        try:
            with self._lock:
                instance = self._idle.pop() if self._idle else None
            if instance is None:
                with self._lock:
                    linked = self._new_linked(is_fast=False)
                instance = self._make(linked)
            answer = instance.run(hook.hook, payload)
            fuel = self.limits.fuel_of(hook.hook) - instance.fuel_left()
        except GuestStopped as error:
            stopped = error
        except Exception as error:
            logger.exception("plugin %s: %s failed in the host", self.name, HOOK_NAMES[hook.hook])
            stopped = GuestStopped(CAUSE_HOST, type(error).__name__)
        if instance is not None:
            if stopped is not None or self._is_fresh or self.life.state is State.REMOVED:
                self._drop(instance)
            else:
                with self._lock:
                    self._idle.append(instance)
        self._loop.call_soon_threadsafe(
            self._finished, hook, completion, answer, stopped, started_s, fuel
        )

    def _drop(self, instance: AnyInstance) -> None:
        instance.close()
        with self._lock:
            if instance.linked in self._all_linked:
                self._all_linked.remove(instance.linked)
        instance.linked.close()

    def _finished(
        self,
        hook: PluginHook,
        completion: Completion,
        answer: bytes | None,
        stopped: GuestStopped | None,
        started_s: float,
        fuel: int,
    ) -> None:
        self.in_flight -= 1
        hook.observe(started_s)
        hook.stats.used(fuel)
        cause = ""
        if stopped is not None:
            cause = hook.failed(stopped).cause
        else:
            hook.came_back()
        completion.on_answer(answer, cause)
        self.check_drained()
        # Who calls on threads only, as at each login, wants no ticks in between.
        PULSE.look(perf_counter_ns())

    def report_failure(self, hook: PluginHook, stopped: GuestStopped) -> None:
        """Tell the log of a failed call: the first few in full, then every hundredth."""
        self.failures += 1
        if self.failures <= _REPORTS_IN_FULL or self.failures % 100 == 0:
            logger.warning(
                "plugin %s %s: %s failed (%d in all): %s: %s",
                self.name, self.manifest.version, HOOK_NAMES[hook.hook], self.failures,
                stopped.cause, stopped.message,
            )  # fmt: skip

    # The end.

    def begin_drain(self) -> None:
        """Active -> Draining."""
        self.life.begin_drain()
        self.check_drained()

    def check_drained(self) -> None:
        """Draining -> Removed, once nothing uses it any more."""
        if self.life.state is State.DRAINING and not self.held_by and self.in_flight == 0:
            self.remove()

    def remove(self) -> None:
        """Free everything; final."""
        self.life.advance(State.REMOVED)
        for hook in self.hooks:
            hook.forget_instance()
        with self._lock:
            instances = [i for i in (self._resident, self._spare, *self._idle) if i is not None]
            self._idle.clear()
            linked, self._all_linked = self._all_linked, []
        self._resident = self._spare = self._linked = None
        for instance in instances:
            instance.close()
        for item in linked:
            item.close()
        self.blueprint.module.close()
        self.drained.set()

    def memory_bytes(self) -> int:
        """Linear memory of the resident instance now."""
        if self._resident is None or self._resident.is_closed:
            return 0
        return self._resident.memory_bytes()
