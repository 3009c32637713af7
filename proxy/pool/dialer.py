"""
How a server connection is made, as the pools see it. `server.dial` implements it.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxy.session.link import BackendLink


class Dialer(ABC):
    """Make server connections, and send cancel requests for them."""

    @abstractmethod
    async def open(self, node: str, database: str, user: str) -> "BackendLink":
        """
        Connect to a node by its name and log in, within `pool.connect_timeout`.

        Raises only BackendLost: 08xxx when the server could not be reached or spoken to, else the
        server's own SQLSTATE.
        """

    @abstractmethod
    async def cancel(self, link: "BackendLink") -> None:
        """
        Send a CancelRequest for this connection; return when the server has closed the connection
        that carried it (rule 34). Raises BackendLost when it is not certain that it has been dealt
        with.
        """
