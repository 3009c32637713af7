"""
What the broker has others do, because it takes time or the event loop. `pool.service` does it.
"""

from abc import ABC, abstractmethod

from mypy_extensions import mypyc_attr

from proxy.pool.assignment import Slot


@mypyc_attr(allow_interpreted_subclasses=True)
class Errands(ABC):
    """What the broker has others do. None of these calls back before it has returned."""

    @abstractmethod
    def open(self, slot: Slot) -> None:
        """Open a connection; then `PoolBroker.on_opened` or `on_open_failed`, exactly once."""

    @abstractmethod
    def cancel(self, slot: Slot) -> None:
        """Send a CancelRequest for slot.link; then `PoolBroker.on_cancel_done`, exactly once."""

    @abstractmethod
    def flush_soon(self) -> None:
        """Call `PoolBroker.flush` from the event loop."""

    @abstractmethod
    def look_again(self, node: str) -> None:
        """Have the monitor look at a node now (idempotent while it is at it)."""
