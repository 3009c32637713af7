"""
Watches the plugin directory, and has the manager look at it when files have come to rest.

Events of the file system are a hint only: what decides is size, time and inode of the files. So a
directory whose events do not arrive (a network file system) is looked at now and then anyway, and a
writer that takes its time is waited for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from watchfiles import awatch

from proxy.errors import PluginFailed
from proxy.plugins.loader import module_paths, stamps

logger = logging.getLogger("headgate.plugins")

DEBOUNCE_MS: Final = 200
STEP_MS: Final = 50
LOOK_ANYWAY_MS: Final = 5_000
REST_S: Final = 0.1
LONGEST_REST_S: Final = 5.0
RETRY_S: Final = 2.0

Stamps = tuple[tuple[Path, tuple[tuple[str, int, int, int], ...]], ...]


def look(directory: Path) -> Stamps:
    """The state of all plugin files of a directory; empty if it cannot be read."""
    try:
        return tuple((path, stamps(path)) for path in module_paths(directory))
    except PluginFailed:
        return ()


async def wait_for_rest(directory: Path, rest_s: float = REST_S) -> Stamps:
    """Wait until no file has changed for a moment, but not for ever."""
    seen = await asyncio.to_thread(look, directory)
    deadline = asyncio.get_running_loop().time() + LONGEST_REST_S
    while asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(rest_s)
        again = await asyncio.to_thread(look, directory)
        if again == seen:
            break
        seen = again
    return seen


async def watch(directory: Path, known: Stamps, changed: Callable[[], Awaitable[object]]) -> None:
    """
    Call `changed` whenever the plugin files changed and came to rest. Until cancelled.

    `known` is what `look` saw before the files were last loaded: what came since is a change.
    """
    while True:
        try:
            async for _ in awatch(
                directory,
                debounce=DEBOUNCE_MS,
                step=STEP_MS,
                rust_timeout=LOOK_ANYWAY_MS,
                yield_on_timeout=True,
                recursive=False,
            ):
                if await asyncio.to_thread(look, directory) == known:
                    continue
                known = await wait_for_rest(directory)
                await changed()
        except (OSError, RuntimeError) as error:
            # The directory has gone, or the system is out of watches.
            logger.warning("cannot watch %s: %s; looking again in %s s", directory, error, RETRY_S)
            await asyncio.sleep(RETRY_S)
            if await asyncio.to_thread(look, directory) != known:
                known = await wait_for_rest(directory)
                await changed()
