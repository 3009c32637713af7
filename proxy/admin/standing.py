"""
What operators ordered and what stays so: pauses, databases and plugins that are switched off.

A worker process that takes a dead one's place asks another one for these orders and carries them
out before it serves anybody; otherwise a plugin that was switched off would come back with it. A
restart of the whole proxy forgets them. Knows nothing of how an order is carried out.
"""

from typing import Any, final

Request = dict[str, Any]


@final
class StandingOrders:
    """The orders that hold now, in the order in which they were given."""

    __slots__ = ("_disabled", "_pauses", "_plugins")

    def __init__(self) -> None:
        self._disabled: dict[str, Request] = {}
        self._pauses: dict[str, Request] = {}
        self._plugins: dict[str, Request] = {}

    def note(self, request: Request) -> None:
        """Take note of an order that was carried out."""
        word = request["do"]
        if word in ("pause", "kill"):
            database = str(request.get("database", ""))
            self._pauses[database] = {"do": "pause", "database": database}
        elif word == "resume":
            database = str(request.get("database", ""))
            self._pauses.pop(database, None)
            if not database:
                self._pauses.clear()
        elif word in ("disable", "enable"):
            database = str(request["database"])
            self._disabled.pop(database, None)
            if word == "disable":
                self._disabled[database] = {"do": word, "database": database}
        elif word in ("plugin_disable", "plugin_unload"):
            name = str(request["name"])
            self._plugins[name] = {"do": word, "name": name}
        elif word in ("plugin_enable", "plugin_reload"):
            name = str(request["name"])
            known = self._plugins.get(name)
            # A reload loads what was unloaded, but not what is disabled.
            if word == "plugin_enable" or (known is not None and known["do"] == "plugin_unload"):
                self._plugins.pop(name, None)

    def all(self) -> list[Request]:
        """As requests that bring another worker to the same state."""
        return [*self._disabled.values(), *self._pauses.values(), *self._plugins.values()]
