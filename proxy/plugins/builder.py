"""
From a plugin's files to a generation that is Initialized: every step that can refuse a load.

    read -> trust -> compile -> inspect -> negotiate permissions -> link -> instantiate, plugin_init

The slow steps run in threads; nothing that serves statements is touched.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from proxy.errors import PluginFailed
from proxy.observe.counters import HookStats
from proxy.plugins import limits as limits_of
from proxy.plugins import permissions
from proxy.plugins.compiled import CompiledCache
from proxy.plugins.component import ComponentBlueprint, component_blueprint
from proxy.plugins.ffi import GuestStopped
from proxy.plugins.generation import AnyBlueprint, Generation
from proxy.plugins.host.services import Services
from proxy.plugins.instance import Blueprint
from proxy.plugins.limits import Limits
from proxy.plugins.loader import Source, read_source
from proxy.plugins.module import check_grants, inspect, wishes_of
from proxy.plugins.runtime import Runtime
from proxy.plugins.trust import Trust
from proxy.settings.plugin_model import PluginOverride, Plugins

WORKER_THREADS: Final = 8
"""Of each plugin, made when it needs them: one that waits for its server takes none of another's."""

_NO_OVERRIDE = PluginOverride()


class Builder:
    """Builds generations by the operator's settings."""

    def __init__(self, settings: Plugins, runtime: Runtime, services: Services) -> None:
        self.settings = settings
        self.runtime = runtime
        self.services = services
        self.trust = Trust(settings)
        self.compiled = CompiledCache(runtime, settings.cache_dir)
        self._threads: dict[str, ThreadPoolExecutor] = {}

    def threads_of(self, plugin: str) -> ThreadPoolExecutor:
        """Where calls of a plugin wait; all its generations have the same."""
        threads = self._threads.get(plugin)
        if threads is None:
            threads = ThreadPoolExecutor(WORKER_THREADS, thread_name_prefix=f"plugin {plugin}")
            self._threads[plugin] = threads
        return threads

    def close(self) -> None:
        """Build nothing any more, and start no call that waits for a thread."""
        self.compiled.close()
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    def update(self, settings: Plugins) -> None:
        """Go by other settings from now on."""
        self.settings = settings
        self.trust.update(settings)

    def override(self, name: str) -> PluginOverride:
        """The operator's word on a plugin."""
        return self.settings.settings.get(name, _NO_OVERRIDE)

    def read(self, path: Path) -> Source:
        """Read a plugin's files and check its signature. For a thread; raises PluginFailed."""
        limits = self.settings.limits
        source = read_source(path, limits.module, limits.component)
        self.trust.check(source)
        return source

    def blueprint(self, source: Source) -> AnyBlueprint:
        """Compile, inspect, negotiate. For a thread; raises PluginFailed."""
        manifest = source.manifest
        override = self.override(manifest.name)
        limits = limits_of.effective(manifest.limits, self.settings.limits, override.limits)
        if source.is_component:
            return self._component(source, limits, override)
        module = self.compiled.module(manifest.name, source.wasm, source.wasm_sha256)
        try:
            shape = inspect(module, manifest, limits.memory_bytes)
            signed = self.trust.check(source)
            if signed is not None and signed.abi is not None and signed.abi != shape.abi:
                raise PluginFailed(
                    manifest.name,
                    "signature",
                    f"{source.path}: signed for ABI {signed.abi}, the module is ABI {shape.abi}",
                )
            effective = self._effective(wishes_of(shape, manifest), override)
            check_grants(shape, manifest, effective)
        except PluginFailed:
            module.close()
            raise
        return Blueprint(
            plugin=manifest.name,
            runtime=self.runtime,
            module=module,
            shape=shape,
            limits=limits,
            permissions=effective,
            services=self.services,
            config=self._config(source),
        )

    def _component(
        self, source: Source, limits: Limits, override: PluginOverride
    ) -> ComponentBlueprint:
        manifest = source.manifest
        component = self.compiled.component(manifest.name, source.wasm, source.wasm_sha256)
        try:
            return component_blueprint(
                manifest.name,
                self.runtime,
                component,
                manifest,
                limits,
                self._effective(manifest.wishes, override),
                self.services,
                self._config(source),
            )
        except PluginFailed:
            component.close()
            raise

    def _effective(self, wishes: frozenset[str], override: PluginOverride) -> frozenset[str]:
        grants = override.grants if override.grants is not None else self.settings.grants
        return permissions.negotiate(wishes, grants)[0]

    def _config(self, source: Source) -> dict[str, object]:
        config = dict(source.manifest.config)
        config.update(self.override(source.manifest.name).config)
        return config

    async def build(self, source: Source, number: int, stats: dict[int, HookStats]) -> Generation:
        """A generation in state Initialized. Raises PluginFailed, and leaves nothing behind."""
        blueprint = await asyncio.to_thread(self.blueprint, source)
        manifest = source.manifest
        override = self.override(manifest.name)
        for hook in blueprint.shape.exports:
            stats.setdefault(hook, HookStats())
        generation = Generation(
            source,
            number,
            blueprint,
            override.priority if override.priority is not None else manifest.priority,
            override.on_error or manifest.on_error,
            stats,
            asyncio.get_running_loop(),
            self.threads_of(manifest.name),
        )
        log = self.services.logs.of(manifest.name)
        log.line_bytes = blueprint.limits.log_line_bytes
        log.lines_per_second = blueprint.limits.log_lines_per_second
        try:
            await asyncio.to_thread(generation.prepare)
        except BaseException as error:
            generation.remove()
            if isinstance(error, GuestStopped):
                raise PluginFailed(manifest.name, "link", error.message) from None
            raise
        return generation
