"""
The plugins of this process: found, loaded, replaced, drained and shown.

Theory of operation. A plugin is replaced by a second generation that goes all the way to
Initialized beside the first; then one assignment (`HookPipeline.install`) gives new statements
chains with the new one in place of the old. Statements that already run hold the old chains, and
the old generation is Removed when the last of those chains is left. If any step of the new one
fails, nothing has been touched. One change at a time: all of them go through `_lock`.

Runs in the event loop; what takes long runs in threads.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Protocol

from proxy.errors import PluginFailed
from proxy.hooks.points import EMPTY_CHAINS, HOOK_NAMES, Drained, HookChains, Subscriber
from proxy.observe.counters import Counters
from proxy.plugins import events as kinds
from proxy.plugins import registry
from proxy.plugins.builder import Builder
from proxy.plugins.check import CheckLine, check_plugins
from proxy.plugins.events import Event, Events
from proxy.plugins.generation import Generation
from proxy.plugins.host.log import PluginLog
from proxy.plugins.host.make import FindNode, connect_services
from proxy.plugins.host.services import Services
from proxy.plugins.lifecycle import DrainTimeout, State
from proxy.plugins.loader import Source, module_paths, stamps
from proxy.plugins.registry import PluginView, Record
from proxy.plugins.runtime import runtime
from proxy.plugins.selftest import self_test
from proxy.plugins.watch import look, watch
from proxy.settings.model import Settings
from proxy.settings.plugin_model import Plugins

__all__ = ["CheckLine", "Installer", "PluginManager", "check_plugins"]

logger = logging.getLogger("headgate.plugins")

_NO_PLACE: Final = ("name", "limit")
"""Causes of a failed load that end when another plugin goes."""

Stamps = tuple[tuple[str, int, int, int], ...]
"""What `loader.stamps` gives."""

# `list` names a method below.
EventList = list[Event]
Summaries = list[dict[str, Any]]
Views = list[PluginView]
Records = list[Record]


class Installer(Protocol):
    """Where chains are exchanged: the hook pipeline."""

    def install(self, chains: HookChains) -> HookChains:
        """Give new statements these chains; the old ones come back."""


class PluginManager(Drained):
    """
    All plugins of this process.

    Without `services` (`host.make.make_services`) plugins have a KV of this process and neither SQL
    nor HTTP; `find_node` is what SQL asks for the primary after a reload of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Installer,
        counters: Counters | None = None,
        services: Services | None = None,
        find_node: FindNode | None = None,
    ) -> None:
        self.settings: Plugins = settings.plugins
        self._find_node = find_node
        self.services = services or Services()
        self.events = Events()
        self.chains = EMPTY_CHAINS
        self._pipeline = pipeline
        self._counters = counters or Counters()
        self._records: dict[str, Record] = {}
        self._failed_paths: dict[Path, Record] = {}
        self._gone: set[Path] = set()
        """Files that have gone; a plugin that comes from another file now is replaced, not missing."""
        self._chain_number = 0
        self._members: dict[int, tuple[Generation, ...]] = {}
        self._chains: dict[int, HookChains] = {}
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._builder: Builder | None = None
        self._watcher: asyncio.Task[None] | None = None

    # Start and stop.

    @property
    def is_on(self) -> bool:
        """Whether there is a plugin directory at all."""
        return self.settings.dir is not None

    async def start(self) -> None:
        """
        Load every plugin of the directory. Raises PluginFailed when runaway plugins could not be
        stopped here, and when a plugin that the configuration names does not load; others that do
        not load are reported, and shown as failed.
        """
        if not self.is_on:
            return
        self._prepare()
        await self._start_watching()
        reports = await self.reload()
        for event in reports:
            override = self.settings.settings.get(event.plugin)
            if event.kind == kinds.FAILED and override is not None and override.enabled:
                raise PluginFailed(event.plugin, event.cause, event.message)
        for name, override in self.settings.settings.items():
            if override.enabled and name not in self._records:
                logger.warning(
                    "plugin %s: the configuration has settings for it, but no module in %s is "
                    "of that name", name, self.settings.dir,
                )  # fmt: skip

    async def _start_watching(self) -> None:
        """Before the directory is loaded: a file that comes while it is must be seen as new."""
        directory = self.settings.dir
        if directory is not None and self.settings.watch:
            known = await asyncio.to_thread(look, directory)
            loop = asyncio.get_running_loop()
            self._watcher = loop.create_task(watch(directory, known, self.reload))

    async def _stop_watching(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    def _prepare(self) -> Builder:
        if self._builder is None:
            engine = runtime()
            self_test(engine)
            self._builder = Builder(self.settings, engine, self.services)
        return self._builder

    async def stop(self) -> None:
        """Take all plugins out and free them. Statements must be done by now."""
        if self._builder is not None:
            self._builder.compiled.close()
        await self._stop_watching()
        async with self._lock:
            for record in self._records.values():
                if record.generation is not None:
                    self._retire(record, record.generation)
            if self.chains is not EMPTY_CHAINS:
                self._install()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._builder is not None:
            self._builder.close()
            self._builder.runtime.ticker.stop()
        self.services.kv.close()

    async def apply(self, settings: Settings) -> EventList:
        """Go by other settings (SIGHUP): everything that they change is loaded anew."""
        old, self.settings = self.settings, settings.plugins
        if not self.is_on and old.dir is None:
            return []
        self._prepare().update(self.settings)
        if (old.query, old.http) != (self.settings.query, self.settings.http):
            loop = asyncio.get_running_loop()
            connect_services(self.services, settings, loop, self._find_node)
        if (old.dir, old.watch) != (self.settings.dir, self.settings.watch):
            await self._stop_watching()
            await self._start_watching()
        found: EventList = []
        async with self._lock:
            for name, override in self.settings.settings.items():
                before = old.settings.get(name)
                record = self._records.get(name)
                if record is not None and (before is None or before.enabled != override.enabled):
                    record.is_disabled = not override.enabled
            if not self.is_on or old.dir != self.settings.dir:
                for record in tuple(self._records.values()):
                    found.append(self._take_out(record, kinds.UNLOADED))
                    self._forget(record)
        return found + await self._scan(is_forced=old != self.settings)

    # What operators ask for.

    async def reload(self, name: str | None = None) -> EventList:
        """
        Look at the directory again and load what was added, changed or removed; or, with a name,
        make a new generation of that plugin from its files. Failures are events, not exceptions.
        Raises LookupError for a name that nobody knows.
        """
        if name is None:
            return await self._scan(is_forced=False)
        async with self._lock:
            record = self._known(name)
            record.is_unloaded = False
            return [await self._load(record.path, record)]

    async def load(self, path: Path) -> Event:
        """Load a module from a file, in the plugin directory or not."""
        async with self._lock:
            return await self._load(path, self._record_of(path))

    async def unload(self, name: str) -> Event:
        """Drain a plugin; it comes back by `load` or `reload`, or when its files change."""
        async with self._lock:
            record = self._known(name)
            record.is_unloaded = True
            return self._take_out(record, kinds.UNLOADED)

    async def disable(self, name: str) -> Event:
        """Drain a plugin and keep it out until `enable`, whatever happens to its files."""
        async with self._lock:
            record = self._known(name)
            record.is_disabled = True
            return self._take_out(record, kinds.DISABLED)

    async def enable(self, name: str) -> Event:
        """Undo `disable`."""
        async with self._lock:
            record = self._known(name)
            record.is_disabled = False
            record.is_unloaded = False
            return await self._load(record.path, record)

    def list(self) -> Summaries:
        """All plugins, sorted by name."""
        return [registry.summary(record) for record in self._all()]

    def get(self, name: str) -> dict[str, Any]:
        """One plugin in full. Raises LookupError."""
        return registry.details(self._known(name))

    def logs(self, name: str) -> PluginLog:
        """A plugin's last log lines. Raises LookupError."""
        self._known(name)
        return self.services.logs.of(name)

    def has_hook(self, hook: int) -> bool:
        """Whether any active plugin subscribes to a hook."""
        return bool(self.chains.points[hook])

    def stats(self) -> Views:
        """What the metrics show."""
        views: Views = []
        for record in self._all():
            generation = record.generation
            state = registry.state_of(record)
            log = self.services.logs.of(record.name)
            views.append(
                PluginView(
                    plugin=record.name,
                    version=record.source.manifest.version if record.source else "",
                    status=record.status,
                    state=state.value if state is not None else "",
                    generation=generation.number if generation is not None else 0,
                    memory_bytes=generation.memory_bytes() if generation is not None else 0,
                    draining=len(record.draining),
                    in_flight=generation.in_flight if generation is not None else 0,
                    loads=record.loads,
                    load_failures=record.failures,
                    drain_timeouts=record.drain_timeouts,
                    log_lines=log.written,
                    log_dropped=log.dropped,
                    hooks=registry.hook_views(record),
                    custom=self.services.metrics.of(record.name),
                )
            )
        return views

    def _all(self) -> Records:
        records = [*self._records.values(), *self._failed_paths.values()]
        return sorted(records, key=lambda record: record.name)

    def _known(self, name: str) -> Record:
        for record in self._all():
            if record.name == name:
                return record
        raise LookupError(f"no plugin {name!r}; expected one of the list")

    def _record_of(self, path: Path) -> Record | None:
        for record in self._all():
            if record.path == path:
                return record
        return None

    # Loading.

    async def _scan(self, is_forced: bool) -> EventList:
        found: EventList = []
        async with self._lock:
            directory = self.settings.dir
            if directory is None:
                return found
            self._prepare()
            try:
                paths = await asyncio.to_thread(module_paths, directory)
            except PluginFailed as failed:
                self._counters.count("plugin_directory_unreadable")
                return [
                    self.events.add(
                        kinds.FAILED, failed.plugin, cause=failed.cause, message=failed.message
                    )
                ]
            self._gone = {
                r.path for r in self._all() if r.path.parent == directory and r.path not in paths
            }
            for path in paths:
                record_here = self._record_of(path)
                seen = await asyncio.to_thread(stamps, path)
                is_same = record_here is not None and record_here.stamps == seen
                if self._gone and record_here is not None and record_here.error_cause in _NO_PLACE:
                    is_same = False
                if is_same and not is_forced:
                    continue
                if record_here is not None:
                    if not is_same:
                        record_here.is_unloaded = False
                    elif record_here.is_unloaded:
                        continue
                found.append(await self._load(path, record_here))
            for record in [r for r in self._all() if r.path in self._gone]:
                found.append(self._take_out(record, kinds.UNLOADED))
                self._forget(record)
            self._gone = set()
        return found

    async def _load(self, path: Path, before: Record | None) -> Event:
        """
        Load or replace what is at a path. Never raises; holds `_lock`.

        `before` is the plugin that the file was, which it may be no more: its name stands in the
        manifest. Until the new one is Initialized nothing is taken out.
        """
        builder = self._prepare()
        seen = await asyncio.to_thread(stamps, path)
        record: Record | None = None
        try:
            source = await asyncio.to_thread(builder.read, path)
            record = self._claim(path, source)
            if not builder.override(record.name).enabled:
                record.is_disabled = True
            if record.is_disabled:
                if self._settle(path, seen, before, record):
                    self._install()
                record.source = source
                record.error = ""
                return self._take_out(record, kinds.DISABLED)
            generation = await builder.build(source, record.loads + 1, record.stats)
        except PluginFailed as failed:
            return self._load_failed(path, seen, before, record, failed)
        except Exception as defect:
            # A defect of ours must not end the watcher, nor what is running.
            logger.exception("loading %s", path)
            problem = PluginFailed(path.stem, "host", f"{path}: {defect!r}")
            return self._load_failed(path, seen, before, record, problem)
        try:
            await asyncio.to_thread(builder.trust.accepted, source)
        except (OSError, PluginFailed) as error:
            generation.remove()
            problem = PluginFailed(record.name, "trust", str(error))
            return self._load_failed(path, seen, before, record, problem)
        # From here on nothing can fail and nothing waits.
        self._settle(path, seen, before, record)
        return self._activate(record, source, generation)

    def _claim(self, path: Path, source: Source) -> Record:
        """The record for a source's name, maybe a new one; PluginFailed if another file has it."""
        name = source.manifest.name
        other = self._records.get(name)
        if other is None:
            limit = self.settings.limits.plugins
            leaving = {path, *self._gone}
            staying = [r for r in self._records.values() if r.path not in leaving]
            active = sum(1 for r in staying if r.generation is not None)
            if active >= limit:
                raise PluginFailed(
                    name, "limit", f"{path}: {active} plugins are loaded; the limit is {limit}"
                )
            return Record(name, path)
        is_elsewhere = other.path != path and other.path not in self._gone
        if is_elsewhere and other.generation is not None:
            raise PluginFailed(
                name, "name", f"{path}: {other.path} has the same name; expected another one"
            )
        return other

    def _settle(self, path: Path, seen: Stamps, before: Record | None, record: Record) -> bool:
        """The file is this plugin's now. True: what it was before goes, at the next exchange."""
        is_leaving = False
        if before is not None and before is not record:
            old = before.generation
            if old is not None:
                is_leaving = True
                self._retire(before, old)
                self._tell_out(before, kinds.UNLOADED, old)
            self._forget(before)
        self._failed_paths.pop(path, None)
        record.path = path
        record.stamps = seen
        self._records[record.name] = record
        return is_leaving

    def _load_failed(
        self,
        path: Path,
        seen: Stamps,
        before: Record | None,
        record: Record | None,
        failed: PluginFailed,
    ) -> Event:
        """Note it where people look: at the plugin that still runs from this file, else its own."""
        if record is not None and (before is None or before.generation is None):
            self._settle(path, seen, before, record)
            known = record
        elif before is not None:
            known = before
        else:
            known = Record(failed.plugin, path)
            self._failed_paths[path] = known
        known.stamps = seen
        known.failures += 1
        known.error = failed.message
        known.error_cause = failed.cause
        self._counters.count("plugin_load_failed")
        running = known.generation
        return self.events.add(
            kinds.FAILED,
            known.name,
            old_version=running.manifest.version if running is not None else "",
            old_hash=running.source.wasm_sha256[:12] if running is not None else "",
            generation=running.number if running is not None else 0,
            cause=failed.cause,
            message=failed.message,
        )

    def _activate(self, record: Record, source: Source, generation: Generation) -> Event:
        old = record.generation
        record.loads += 1
        record.source = source
        record.error = record.error_cause = ""
        generation.life.advance(State.ACTIVE)
        record.generation = generation
        if old is not None:
            self._retire(record, old, is_replaced=True)
        self._install()
        return self.events.add(
            kinds.REPLACED if old is not None else kinds.LOADED,
            record.name,
            old_version=old.manifest.version if old is not None else "",
            new_version=source.manifest.version,
            old_hash=old.source.wasm_sha256[:12] if old is not None else "",
            new_hash=source.wasm_sha256[:12],
            generation=generation.number,
        )

    def _take_out(self, record: Record, kind: str) -> Event:
        old = record.generation
        if old is not None:
            self._retire(record, old)
            self._install()
        return self._tell_out(record, kind, old)

    def _tell_out(self, record: Record, kind: str, old: Generation | None) -> Event:
        return self.events.add(
            kind,
            record.name,
            old_version=old.manifest.version if old is not None else "",
            old_hash=old.source.wasm_sha256[:12] if old is not None else "",
            generation=old.number if old is not None else 0,
        )

    def _forget(self, record: Record) -> None:
        self._failed_paths.pop(record.path, None)
        if self._records.get(record.name) is record:
            del self._records[record.name]

    # The exchange, and what follows it.

    def _install(self) -> None:
        """Make chains of all active generations, and exchange them in one assignment."""
        active = tuple(r.generation for r in self._records.values() if r.generation is not None)
        self._chain_number += 1
        chains = HookChains(self._chain_number, _points(active))
        self._members[chains.number] = active
        self._chains[chains.number] = chains
        for generation in active:
            generation.held_by.add(chains.number)
        old = self._pipeline.install(chains)
        self.chains = chains
        if old is not EMPTY_CHAINS:
            old.retire(self)

    def on_drained(self, chains: HookChains) -> None:
        """See Drained."""
        self._chains.pop(chains.number, None)
        for generation in self._members.pop(chains.number, ()):
            generation.held_by.discard(chains.number)
            generation.check_drained()

    def _retire(self, record: Record, generation: Generation, is_replaced: bool = False) -> None:
        if not is_replaced:
            record.generation = None
        record.draining.append(generation)
        generation.begin_drain()
        task = asyncio.get_running_loop().create_task(self._watch_drain(record, generation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch_drain(self, record: Record, generation: Generation) -> None:
        """Report a drain that takes too long, once, and see it to its end."""
        started = time.monotonic()
        is_reported = False
        while not generation.drained.is_set():
            try:
                await asyncio.wait_for(generation.drained.wait(), self.settings.drain_poll)
            except TimeoutError:
                generation.check_drained()
            waited_s = time.monotonic() - started
            if (
                not generation.drained.is_set()
                and not is_reported
                and waited_s >= self.settings.drain_timeout
            ):
                is_reported = True
                error = DrainTimeout(
                    record.name, generation.life.state, waited_s, self._users_of(generation)
                )
                record.drain_timeouts += 1
                self._counters.count("plugin_drain_timeout")
                self.events.add(
                    kinds.DRAIN_TIMEOUT,
                    record.name,
                    old_version=generation.manifest.version,
                    generation=generation.number,
                    cause="drain_timeout",
                    message=str(error),
                )
        if generation in record.draining:
            record.draining.remove(generation)

    def _users_of(self, generation: Generation) -> int:
        """Statements and calls that still hold a generation."""
        return generation.in_flight + sum(
            self._chains[number].in_flight for number in generation.held_by
        )


def _points(generations: Iterable[Generation]) -> tuple[tuple[Subscriber, ...], ...]:
    """Subscribers of every hook point in calling order: by priority, then by name."""
    chains: list[list[Subscriber]] = [[] for _ in HOOK_NAMES]
    for generation in generations:
        for hook in generation.hooks:
            chains[hook.hook].append(hook)
    return tuple(tuple(sorted(chain, key=lambda s: (s.priority, s.plugin))) for chain in chains)
