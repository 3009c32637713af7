"""
What `headgate check` says of the plugins: each is read, verified, compiled, linked and initialised
as a start would do it, without serving anything.
"""

from dataclasses import dataclass

from proxy.errors import PluginFailed
from proxy.hooks.points import HOOK_NAMES
from proxy.plugins.builder import Builder
from proxy.plugins.ffi import GuestStopped
from proxy.plugins.generation import make_instance
from proxy.plugins.host.services import Services
from proxy.plugins.instance import InitRefused
from proxy.plugins.loader import Source, module_paths
from proxy.plugins.module import MARKER, wishes_of
from proxy.plugins.runtime import runtime
from proxy.plugins.selftest import self_test
from proxy.settings.model import Settings


@dataclass(frozen=True, slots=True)
class CheckLine:
    """One plugin (or the platform itself): whether it would load, and what to know about it."""

    subject: str
    ok: bool
    text: str


def check_plugins(settings: Settings) -> list[CheckLine]:
    """Look at every plugin of the directory."""
    directory = settings.plugins.dir
    if directory is None:
        return []
    engine = runtime()
    lines: list[CheckLine] = []
    try:
        self_test(engine)
        paths = module_paths(directory)
    except (PluginFailed, OSError) as failed:
        message = failed.message if isinstance(failed, PluginFailed) else str(failed)
        return [CheckLine("platform", False, message)]
    seen: dict[str, str] = {}
    builder = Builder(settings.plugins, engine, Services())
    for path in paths:
        try:
            source = builder.read(path)
            name = source.manifest.name
            if name in seen:
                raise PluginFailed(name, "name", f"{path}: {seen[name]} has the same name")
            seen[name] = str(path)
            if not builder.override(name).enabled:
                lines.append(CheckLine(name, True, f"{path.name}: disabled by the operator"))
                continue
            lines.append(_try(builder, source))
        except PluginFailed as failed:
            lines.append(CheckLine(failed.plugin, False, f"{failed.cause}: {failed.message}"))
    lines += [
        CheckLine(name, True, f"has settings, but no module in {directory} is of that name")
        for name in settings.plugins.settings
        if name not in seen
    ]
    return lines


def _try(builder: Builder, source: Source) -> CheckLine:
    """Go all the way to Initialized and back."""
    manifest = source.manifest
    blueprint = builder.blueprint(source)
    linked = None
    try:
        linked = blueprint.link(is_fast=True)
        make_instance(blueprint, linked).close()
    except InitRefused as refused:
        raise PluginFailed(manifest.name, "init", str(refused)) from None
    except GuestStopped as stopped:
        raise PluginFailed(
            manifest.name, "init", f"cannot be started: {stopped.cause}: {stopped.message}"
        ) from None
    finally:
        if linked is not None:
            linked.close()
        blueprint.module.close()
    hooks = ", ".join(HOOK_NAMES[hook] for hook in blueprint.shape.exports)
    text = f"{manifest.version}, ABI {blueprint.shape.abi}, hooks {hooks}"
    if blueprint.permissions:
        text += f"; gets {', '.join(sorted(blueprint.permissions))}"
    missing = wishes_of(blueprint.shape, manifest) - blueprint.permissions
    if missing:
        text += f"; asks for and does not get {', '.join(sorted(missing))}"
    if manifest.refused:
        text += f"; asks for what no plugin gets: {', '.join(manifest.refused)}"
    return CheckLine(manifest.name, True, text)


def abi_of(source: Source) -> int:
    """The ABI that a source's module has, whatever its manifest says. Raises PluginFailed."""
    if source.is_component:
        return 1
    module = runtime().compile(source.manifest.name, source.wasm)
    names = {item.name for item in module.exports}
    module.close()
    return 1 if MARKER in names else 0
