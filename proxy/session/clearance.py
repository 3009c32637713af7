"""
Clearances: texts on which no plugin has anything to say.

A statement that every filter keeps out, or that a `pure` plugin has let pass before, need not be
looked at again: the gate gives a clearance for it, and the session goes on as if there were no
plugin. Knows neither filters nor answers; `hooks.clearing` decides what is clear.
"""

from typing import Final, final

from proxy.observe.counters import HookStats


@final
class Clearance:
    """
    What holds for one statement's facts and one kind of client.

    text       the text it is for; b"" = any with these facts
    filtered   the plugins at hooks whose filters keep the statement out
    remembered those that have let this very text pass, with the word that they said
    is_never   somebody has to be asked each time
    """

    __slots__ = ("filtered", "is_never", "remembered", "text")

    def __init__(
        self, text: bytes, filtered: list[HookStats], remembered: list[tuple[HookStats, str]]
    ) -> None:
        self.text = text
        self.filtered = filtered
        self.remembered = remembered
        self.is_never = False

    def use(self) -> None:
        """Count the statement for everybody who was not asked."""
        for stats in self.filtered:
            stats.filtered += 1
        for stats, word in self.remembered:
            stats.memoized += 1
            stats.decided(word)


def _never() -> Clearance:
    clearance = Clearance(b"", [], [])
    clearance.is_never = True
    return clearance


NEVER: Final = _never()
