"""
The other worker processes, for the admin side: its questions go over their control sockets.
"""

from typing import final

from proxy.admin.fleet import Peers
from proxy.server.control import Siblings


@final
class ControlPeers(Peers):
    """Asks through `server.control`."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings

    async def ask_all(self, request: bytes) -> list[bytes]:
        """See Peers."""
        return await self._siblings.ask_all(request)
