"""
The life of one generation of a plugin: forward only, every transition here.

    Loaded -> Linked -> Initialized -> Active -> Draining -> Removed

A generation that fails on its way up, or is not wanted after all, goes to Removed from where it is.
"""

from enum import Enum
from typing import Final, final

from proxy.errors import HeadgateError


class State(Enum):
    """States in their order; the value is what people are shown."""

    LOADED = "Loaded"
    LINKED = "Linked"
    INITIALIZED = "Initialized"
    ACTIVE = "Active"
    DRAINING = "Draining"
    REMOVED = "Removed"


TRANSITIONS: Final = {
    State.LOADED: (State.LINKED, State.REMOVED),
    State.LINKED: (State.INITIALIZED, State.REMOVED),
    State.INITIALIZED: (State.ACTIVE, State.REMOVED),
    State.ACTIVE: (State.DRAINING,),
    State.DRAINING: (State.REMOVED,),
    State.REMOVED: (),
}


class LifecycleError(HeadgateError):
    """Something was asked of a generation that its state does not allow."""

    def __init__(self, plugin: str, state: State, message: str) -> None:
        super().__init__(f"plugin {plugin!r}: {message}")
        self.plugin = plugin
        self.state = state


@final
class NotActive(LifecycleError):
    """A drain was begun on a generation that is not Active."""

    def __init__(self, plugin: str, state: State) -> None:
        super().__init__(plugin, state, f"cannot drain in state {state.value}; expected Active")


@final
class UnexpectedTransition(LifecycleError):
    """A transition that does not exist."""

    def __init__(self, plugin: str, state: State, target: State) -> None:
        expected = " or ".join(s.value for s in TRANSITIONS[state]) or "none, it is final"
        super().__init__(
            plugin,
            state,
            f"no transition from {state.value} to {target.value}; expected {expected}",
        )
        self.target = target


@final
class DrainTimeout(LifecycleError):
    """Statements still use a draining generation after the longest wait; the drain goes on."""

    def __init__(self, plugin: str, state: State, waited_s: float, in_flight: int) -> None:
        super().__init__(
            plugin,
            state,
            f"still {state.value} after {waited_s:.1f} s with {in_flight} in flight; "
            "the drain goes on",
        )
        self.waited_s = waited_s
        self.in_flight = in_flight


@final
class Lifecycle:
    """The state of one generation, and the only way to change it."""

    __slots__ = ("plugin", "state")

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.state = State.LOADED

    def advance(self, target: State) -> None:
        """Go to the next state; raises UnexpectedTransition."""
        if target not in TRANSITIONS[self.state]:
            raise UnexpectedTransition(self.plugin, self.state, target)
        self.state = target

    def begin_drain(self) -> None:
        """Active -> Draining; raises NotActive from any other state."""
        if self.state is not State.ACTIVE:
            raise NotActive(self.plugin, self.state)
        self.state = State.DRAINING
